"""Shells to type cells into: IPython in this process, and a real kernel."""

from __future__ import annotations

import atexit
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr
import zarr
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from jupyter_client import BlockingKernelClient, KernelManager
from traitlets.config import Config

from icemagic import IcechunkStore
from icemagic.magics import IceError

WRITE = 'zarr.open_group(store).attrs["n"] = 1'
"""A line that changes something."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PATIENCE = 60


@dataclass
class Typed:
    """IPython in this process, with icemagic loaded."""

    ip: InteractiveShell

    def run(self, *lines: str) -> ExecutionResult:
        """Run a cell, as a front end does."""
        return self.ip.run_cell("\n".join(lines), store_history=True)

    def get(self, *lines: str) -> Any:
        """Run a cell that must succeed, and return its result."""
        result = self.run(*lines)
        result.raise_error()
        return result.result

    def refusal(self, *lines: str) -> str:
        """Run a cell that must be refused in one or two lines that say more than nothing, and return them."""
        result = self.run(*lines)
        assert isinstance(result.error_in_exec, IceError), result
        text = str(result.error_in_exec)
        assert 1 <= len(text.splitlines()) <= 2, text
        assert all(line.strip() for line in text.splitlines()), text
        return text

    def open_memory(self, name: str = "store") -> IcechunkStore:
        """Open a new store in memory and return it."""
        self.get(f"%ice open memory:{uuid.uuid4()} --create --as {name}")
        store = self[name]
        assert isinstance(store, IcechunkStore)
        return store

    def complete(self, text: str) -> list[str]:
        """Return what TAB offers at the end of a text."""
        with provisionalcompleter():
            return [found.text for found in self.ip.Completer.completions(text, len(text))]

    def __getitem__(self, name: str) -> Any:
        return self.ip.user_ns[name]


@contextmanager
def fresh_shell() -> Iterator[Typed]:
    """Give a new shell without history, and take it away with everything that it left in `sys`."""
    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    ip = InteractiveShell.instance(config=config)
    ip.user_ns |= {"zarr": zarr, "np": np, "xr": xr}
    try:
        yield Typed(ip)
    finally:
        if "icemagic" in ip.extension_manager.loaded:
            ip.run_line_magic("unload_ext", "icemagic")
        ip.restore_sys_module_state()
        atexit.unregister(ip.atexit_operations)  # each collects garbage, half a second for each shell
        InteractiveShell.clear_instance()


def tip(store: IcechunkStore, branch: str = "main") -> str:
    """Return the snapshot that a branch stands on."""
    return store.repo.lookup_branch(branch)


@dataclass
class Outcome:
    """What a kernel sent for one cell."""

    status: str = ""
    shown: list[str] = field(default_factory=list)
    """Texts of results and displays, in order, updates too."""
    kinds: list[str] = field(default_factory=list)
    """Their kinds of message."""
    result: str = ""
    stdout: str = ""
    stderr: str = ""
    error: str = ""
    """The error as ``Name: text``; from the stream that nbclient and nbval read."""
    traceback: str = ""

    def add(self, message: dict[str, Any]) -> None:
        """Take in one message."""
        kind, content = message["msg_type"], message["content"]
        match kind:
            case "execute_result" | "display_data" | "update_display_data":
                self.kinds.append(kind)
                self.shown.append(content["data"].get("text/plain", ""))
                if kind == "execute_result":
                    self.result = self.shown[-1]
            case "stream":
                setattr(self, content["name"], getattr(self, content["name"]) + content["text"])
            case "error":
                self.error = f"{content['ename']}: {content['evalue']}"
                self.traceback += _COLOUR.sub("", "\n".join(content["traceback"]))


@dataclass
class Kernel:
    """A running kernel."""

    manager: KernelManager
    client: BlockingKernelClient

    def run(self, *lines: str, on_output: Callable[[Outcome], None] = lambda _: None) -> Outcome:
        """Run a cell; `on_output` is called after each message."""
        outcome = Outcome()

        def hook(message: dict[str, Any]) -> None:
            outcome.add(message)
            on_output(outcome)

        reply = self.client.execute_interactive(
            "\n".join(lines), output_hook=hook, allow_stdin=False, stop_on_error=False, timeout=_PATIENCE
        )
        outcome.status = reply["content"]["status"]
        return outcome

    def ok(self, *lines: str) -> Outcome:
        """Run a cell that must succeed."""
        outcome = self.run(*lines)
        assert outcome.status == "ok", outcome.traceback
        return outcome

    def interrupted(self, *lines: str) -> Outcome:
        """Run a cell, and interrupt it once it has printed something."""
        pending = [self.manager.interrupt_kernel]

        def interrupt(outcome: Outcome) -> None:
            if outcome.stdout and pending:
                pending.pop()()

        return self.run(*lines, on_output=interrupt)

    def complete(self, code: str) -> tuple[list[str], float]:
        """Return what TAB offers at the end of some code, and the seconds that it took."""
        started = perf_counter()
        request = self.client.complete(code, len(code))
        while True:
            reply = self.client.get_shell_msg(timeout=_PATIENCE)
            if reply["parent_header"]["msg_id"] == request:
                return reply["content"]["matches"], perf_counter() - started


@contextmanager
def running_kernel(folder: Path, **environment: str) -> Iterator[Kernel]:
    """Start a kernel in a folder that holds its settings, too."""
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    env = os.environ | {"IPYTHONDIR": str(folder / "ipython"), **environment}
    manager.start_kernel(cwd=str(folder), env=env)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=_PATIENCE)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
