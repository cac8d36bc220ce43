"""A line that shows that a long write goes on; short ones show nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from IPython.display import DisplayHandle, display

from icemagic.display import Lines, Report, Shown, size


class _Line(Shown):
    def __init__(self, text: str) -> None:
        self.text = text

    def _report(self) -> Report:
        return Report(self.text, (Lines(()),))


@contextmanager
def progress(written: Callable[[], int], *, after: float, every: float = 0.5) -> Iterator[None]:
    """Show the bytes written so far and the time taken while the context is open.

    Parameters
    ----------
    written : callable
        Returns the number of bytes written so far.
    after : float
        Seconds that must pass before the line appears.
    every : float
        Seconds between two updates of it.
    """
    ended = threading.Event()
    started = time.perf_counter()

    def words(state: str) -> _Line:
        return _Line(f"{state} {size(written())} in {time.perf_counter() - started:.0f} s")

    def tick() -> None:
        if ended.wait(after):
            return
        line: DisplayHandle = display(words("writing:"), display_id=True)
        while not ended.wait(every):
            line.update(words("writing:"))
        line.update(words("wrote"))

    # icechunk releases the interpreter while it writes, so a thread keeps ticking even during the commit itself.
    ticker = threading.Thread(target=tick, name="icemagic-progress", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        ended.set()
        ticker.join()
