"""Lets a cell that fails leave nothing in a transaction that lasts over several cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from IPython.display import display

from icemagic.records import Note

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult

    from icemagic.provenance import Cell
    from icemagic.store import IcechunkStore
    from icemagic.transaction import Savepoint, Transaction


class Savepoints:
    """Remembers the state of each begun transaction before a cell, and the cells that took part in it."""

    def __init__(self, stores: Callable[[], Mapping[str, IcechunkStore]]) -> None:
        self._stores = stores
        self._points: dict[str, tuple[Transaction, Savepoint]] = {}
        self._sources: WeakKeyDictionary[Transaction, list[str]] = WeakKeyDictionary()

    def before_cell(self, info: ExecutionInfo) -> None:  # noqa: ARG002  IPython hands it over
        """Remember where each begun transaction stands."""
        begun = {name: store.begun for name, store in self._stores().items()}
        self._points = {name: (txn, txn.savepoint()) for name, txn in begun.items() if txn is not None}

    def after_cell(self, result: ExecutionResult) -> None:
        """Take back what a failed cell changed; of another cell keep the source for the commit."""
        for name, store in self._stores().items():
            txn = store.begun
            if txn is None:
                continue
            if result.success and result.info is not None:
                self._sources.setdefault(txn, []).append(result.info.raw_cell)
                continue
            before, point = self._points.get(name, (None, None))
            if txn is before and point is not None and txn.roll_back(point):
                said = f"what this cell changed in {name} is taken back; what earlier cells changed stays uncommitted"
                display(Note(said))  # type: ignore[no-untyped-call]  # IPython's

    def cells(self, txn: Transaction | None, running: Cell | None) -> Cell | None:
        """Return the cells of a transaction as one, to be recorded: those before and the one that runs."""
        if txn is None or running is None:
            return running
        return replace(running, source="\n\n".join([*self._sources.get(txn, []), running.source]))
