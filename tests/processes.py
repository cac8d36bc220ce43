"""Scripts that run in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from subprocess import PIPE

Start = Callable[..., "subprocess.Popen[str]"]


@contextmanager
def starter() -> Iterator[Start]:
    """Give what starts a script with arguments; what still runs in the end is killed."""
    with ExitStack() as stack:

        def start(script: str, *arguments: object) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
            process = stack.enter_context(subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True))
            stack.callback(process.kill)
            return process

        yield start


def let_go(process: subprocess.Popen[str]) -> None:
    """Let a process that waits for a line go on."""
    process.stdin.write("go\n")
    process.stdin.flush()
