"""The line that shows that a long write goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from icemagic.display import size
from icemagic.progress import WRITING, progress
from shells import Typed, fresh_shell


@pytest.fixture
def shell() -> Iterator[Typed]:
    with fresh_shell() as typed:
        yield typed


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "icemagic-progress"]


def wait_for(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was shown until a text appears in it."""
    seen, deadline = "", time.monotonic() + 20
    while text not in seen and time.monotonic() < deadline:
        seen += capsys.readouterr().out
        time.sleep(0.005)
    assert text in seen
    return seen


def test_a_short_context_shows_nothing_and_leaves_no_thread(shell: Typed, capsys: pytest.CaptureFixture[str]):
    with progress(lambda: "1 B", words=WRITING, after=60):
        assert threads()
    assert capsys.readouterr().out == ""
    assert not threads()


def test_a_long_context_shows_bytes_that_grow_and_a_last_word(shell: Typed, capsys: pytest.CaptureFixture[str]):
    written = 1000
    with progress(lambda: size(written), words=WRITING, after=0.01, every=0.01):
        wait_for("writing: 1 kB", capsys)
        written = 2_000_000
        wait_for("writing: 2 MB", capsys)
        written = 3_000_000
    assert capsys.readouterr().out.splitlines()[-1].startswith("wrote 3 MB in ")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_inside_ends_the_thread_and_passes(
    shell: Typed, capsys: pytest.CaptureFixture[str], error: type[BaseException]
):
    with pytest.raises(error), progress(lambda: "0 B", words=WRITING, after=0.01, every=0.01):
        wait_for("writing", capsys)
        raise error
    assert not threads()
