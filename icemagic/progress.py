"""A line that shows that a long write or comparison goes on; short ones show nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from IPython.display import DisplayHandle, display

from icemagic.display import Lines, Report, Shown

WRITING, COMPARING = ("writing:", "wrote"), ("comparing:", "compared")
"""What is being done, and what was done at the end."""


class _Line(Shown):
    def __init__(self, text: str) -> None:
        self.text = text

    def _report(self) -> Report:
        return Report(self.text, (Lines(()),))


@contextmanager
def progress(done: Callable[[], str], *, words: tuple[str, str], after: float, every: float = 0.5) -> Iterator[None]:
    """Show what was done so far and the time taken while the context is open.

    Parameters
    ----------
    done : callable
        Says how much was done so far.
    words : tuple of str
        What is being done, and what was done at the end.
    after : float
        Seconds that must pass before the line appears.
    every : float
        Seconds between two updates of it.
    """
    ended = threading.Event()
    started = time.perf_counter()

    def line_of(state: str) -> _Line:
        return _Line(f"{state} {done()} in {time.perf_counter() - started:.0f} s")

    def tick() -> None:
        if ended.wait(after):
            return
        line: DisplayHandle = display(line_of(words[0]), display_id=True)
        while not ended.wait(every):
            line.update(line_of(words[0]))
        line.update(line_of(words[1]))

    # icechunk releases the interpreter while it writes, so a thread keeps ticking even during the commit itself.
    ticker = threading.Thread(target=tick, name="icemagic-progress", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        ended.set()
        ticker.join()
