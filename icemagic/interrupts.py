"""Lets an interrupt be answered at once while something that must not be torn apart runs to its end.

icechunk's calls deliver Ctrl-C, the stop button of a notebook, only after they have finished.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

_logger = logging.getLogger("icemagic")


def started[T](call: Callable[[], T]) -> Future[T]:
    """Run a call in a thread of its own."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001  the one who waits for it gets it
            outcome.set_exception(error)

    threading.Thread(target=run, name="icemagic-commit", daemon=True).start()
    return outcome


def finished[T](outcome: Future[T], words: str) -> T:
    """Wait for the outcome of a call.

    The first interrupt is answered with `words`, in the log of ``icemagic``, and raised when the call has ended; the
    second one is raised at once, and the call goes on.
    """
    try:
        return outcome.result()
    except KeyboardInterrupt:
        if not outcome.done():
            _logger.warning(words)
            outcome.exception()
        raise
