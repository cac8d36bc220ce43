"""Runs a ``%%bisect`` cell on one version after the other, and reads its verdict."""

from __future__ import annotations

import ast
import time
import traceback
from typing import TYPE_CHECKING, Any

from IPython.display import DisplayHandle, display
from IPython.utils.capture import capture_output

from icemagic import bisection
from icemagic.bisection import Bisected, Run
from icemagic.cells import Body, HiddenFailureError
from icemagic.commands import CommandError
from icemagic.records import Note, Version, first_line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from icemagic.store import IcechunkStore

_EXAMPLE = "For example, as its last line: assert float(ds.SNR.max()) < 60"


class Trial:
    """A cell that is run on versions; while it runs, the name of the store stands for a store on that version.

    Parameters
    ----------
    shell : InteractiveShell
        The cell runs in its namespace; what it assigns stays there.
    store : IcechunkStore
    name : str
        The variable that holds the store.
    body : Body
        The compiled cell.
    source : str
        The cell as Python, to see whether it asserts anything.
    after : float
        Seconds after which a line shows what is being run.
    """

    def __init__(
        self, shell: InteractiveShell, store: IcechunkStore, name: str, body: Body, source: str, *, after: float
    ) -> None:
        self._shell, self._store, self._name, self._body = shell, store, name, body
        self._tree = ast.parse(source)
        self._after, self._started, self._runs = after, time.perf_counter(), 0
        self._line: DisplayHandle | None = None

    async def bisect(self, good: str, bad: str) -> Bisected:
        """Find the first version at which the cell fails; the store is put back whatever happens."""
        __tracebackhide__ = True
        try:
            return await bisection.bisect(
                self._store.repo, self._store.resolve(good), self._store.resolve(bad), self._run
            )
        finally:
            self._shell.user_ns[self._name] = self._store

    async def _run(self, version: Version) -> Run:
        __tracebackhide__ = True
        self._tell(version)
        self._shell.user_ns[self._name] = self._store.at(version)
        try:
            with capture_output():  # what tests print, many times over, would hide the answer
                value = await self._body.run(self._shell)
                holds = self._holds(value)
        except AssertionError as error:
            return Run(version, "bad", _reason(error))
        except HiddenFailureError:
            return Run(version, "skipped", "something in the cell showed an error and went on")
        except NoVerdictError:
            raise
        except Exception as error:  # noqa: BLE001  the cell is the user's: whatever it raises, it cannot run there
            return Run(version, "skipped", _reason(error))
        return Run(version, "good") if holds else Run(version, "bad", f"not true: {ast.unparse(self._tree.body[-1])}")

    def _holds(self, value: Any) -> bool:  # noqa: ANN401  whatever the cell ends with
        """Whether the value of the last expression says good; may compute it."""
        if value is None:
            if any(map(_asserts, ast.walk(self._tree))):
                return True
            raise NoVerdictError("The cell says neither good nor bad: it asserts nothing and ends with None.", _EXAMPLE)
        size = getattr(value, "size", 1)
        if isinstance(size, int) and size != 1:
            text = f"The cell says neither good nor bad: it ends with {size:,} values."
            raise NoVerdictError(text, "Make it one, such as with .all() or .any().")
        return bool(value)

    def _tell(self, version: Version) -> None:
        """Say what is being run, once it takes long."""
        self._runs += 1
        if time.perf_counter() - self._started < self._after:
            return
        words = Note(f"run {self._runs}: {version.summary()}")
        if self._line is None:
            self._line = display(words, display_id=True)
        else:
            self._line.update(words)


class NoVerdictError(CommandError):
    """The cell ran, but says nothing of the version."""


def _asserts(node: ast.AST) -> bool:
    """Whether a part of a cell asserts something, itself or by a function such as ``np.testing.assert_allclose``."""
    name = getattr(node, "attr", getattr(node, "id", None))
    return isinstance(node, ast.Assert) or (isinstance(name, str) and name.startswith("assert"))


def _reason(error: Exception) -> str:
    """Say an error in one line; of an ``assert`` without a message, what was asserted."""
    said = first_line(str(error))
    if said:
        return f"{type(error).__name__}: {said}"
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].line if frames else "") or type(error).__name__
