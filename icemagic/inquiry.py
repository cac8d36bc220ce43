"""`Inquiry`: a standpoint that answers what there is and how it came about; each method is one call to a verb."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from icemagic import history, selecting
from icemagic.diff import Question
from icemagic.records import Exhibit, Log, Version
from icemagic.show import show
from icemagic.standpoint import Standpoint
from icemagic.values import Tolerance

if TYPE_CHECKING:  # what not every session asks is loaded when it is asked
    from collections.abc import Mapping

    from icemagic.attribution import Blame, Why
    from icemagic.comparison import Operand
    from icemagic.differences import Diff
    from icemagic.selecting import Selection
    from icemagic.sources import CellCode
    from icemagic.timeline import Timeline
    from icemagic.tree import Tree

    Labels = Mapping[str, str | tuple[str, str]]


class Inquiry(Standpoint):
    """A store that can be asked about its versions."""

    compared: tuple[int, int] = (0, 0)
    """How many values the last comparison has read of each side, and how many it reads in all."""

    def list_versions(self) -> list[Version]:
        """Return the versions up to the one it stands on, oldest first, without icechunk's empty root snapshot."""
        return history.list_versions(self.repo, self._head)

    def log(
        self,
        limit: int = 20,
        ref: str | Version = "HEAD",
        *,
        author: str = "",
        grep: str = "",
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        path: str | Iterable[str] = (),
        all: bool = False,  # noqa: A002  as it is typed in a notebook
        graph: bool = False,
    ) -> Log:
        """Return the newest versions up to `ref`, newest first.

        Parameters
        ----------
        limit : int
            Most versions that are listed, after filtering.
        ref : str or Version
        author, grep : str
            Regular expressions that the author and the message must hold somewhere, in capitals or not.
        since, until : str or datetime, optional
            First and last moment, such as ``2 days ago``; without a zone it is UTC.
        path : str or iterable of str
            Arrays or groups of which a version must have touched one, or something in it; where it was moved from and
            what was deleted count, too.
        all : bool
            List what all branches and tags hold, too.
        graph : bool
            Draw the lines between the versions, and list what was merged in.

        Raises
        ------
        SelectionError
            When an expression cannot be read, or no version ever held such an array or group.
        UnknownVersionError
            When a date cannot be read, or nothing answers to `ref`.
        """
        from icemagic import logs

        of = self._branch if ref == "HEAD" and self._branch else str(ref)
        at = self._head if ref == "HEAD" else self.resolve(ref)
        filters = logs.read_filters(author, grep, since, until, path)
        return logs.log(self.repo, at, of=of, limit=limit, filters=filters, everything=all, drawn=graph)

    def show(self, ref: str | Version = "HEAD") -> Exhibit:
        """Return one version in full: its message, what it changed and how it came about."""
        return show(self.repo, self.resolve(ref))

    def code(self, ref: str | Version = "HEAD") -> CellCode:
        """Return the source of the cell that made a version."""
        from icemagic.sources import code

        return code(self.repo, self.resolve(ref))

    def diff(
        self,
        a: Operand | None = None,
        b: Operand | None = None,
        array: str | None = None,
        *,
        values: bool = False,
        atol: float = 0.0,
        rtol: float = 0.0,
        selection: Selection | None = None,
        memory: int = 256_000_000,
    ) -> Diff:
        """Compare two states in structure and chunks and, on demand, in values.

        Parameters
        ----------
        a, b : str, Version, store, path or xarray.Dataset, optional
            A version, ``WORKING`` for the uncommitted changes, another open store, a dataset, or the path of a netCDF
            file. A version alone is compared with the one before it, another thing with what the store holds now. The
            default is what the open transaction changed or, outside of one, what the newest commit changed.
        array : str, optional
            Path of the one array, or of the group with all in it, that is compared.
        values : bool
            Whether to compare values, too. Only chunks that differ are read; of datasets, everything.
        atol, rtol : float
            Numbers count as changed where ``abs(b - a) > atol + rtol * abs(a)``; one that is not zero asks for values.
        selection : mapping, optional
            Dimension to first and last label, both included: ``{"epoch": ("2025-01-01T10", "2025-01-01T11")}``.
        memory : int
            Bytes that a comparison of values may take, unless two chunks take more.

        Raises
        ------
        UnknownVersionError, SelectionError
            When a side, the array or the region is not there.
        """
        from icemagic import comparison

        tolerance = Tolerance(atol, rtol, memory) if values or atol or rtol else None
        return comparison.compare(self, a, b, Question(array, selection or {}, tolerance, self._tick))

    def _tick(self, done: int, total: int) -> None:
        self.compared = done, total

    def tree(self) -> Tree:
        """Return the groups and arrays of the version, and what lies in storage under the repository."""
        from icemagic import tree

        return tree.tree(self.repo, self.with_read_only(read_only=True), title=str(self))

    def blame(self, array: str, ref: str | Version = "HEAD", selection: Labels | None = None) -> Blame:
        """Return which version last wrote each chunk of an array, as a table, as numbers and as pictures.

        Parameters
        ----------
        array : str
            Path of the array.
        ref : str or Version
            The version whose chunks are asked about; what is not committed is not looked at.
        selection : mapping, optional
            Dimension to its label, or its first and last: ``{"epoch": "2025-01-01T10/2025-01-01T11"}`` or
            ``{"epoch": ("2025-01-01T10", "2025-01-01T11")}``. Only the chunks that this region cuts are looked at.

        Raises
        ------
        SelectionError
            When the array or the region is not there.
        """
        from icemagic import blame

        return blame.blame(self.repo, self.resolve(ref), array, selecting.typed(selection or {}))

    def why(self, array: str, ref: str | Version = "HEAD", selection: Labels | None = None) -> Why:
        """Return what :meth:`blame` does, with the cells that wrote the newest of it."""
        from icemagic import blame

        return blame.why(self.repo, self.resolve(ref), array, selecting.typed(selection or {}))

    def history(self, array: str, selection: Labels | None = None, ref: str | Version = "HEAD") -> Timeline:
        """Return the value of a point, or the mean of a box, at every version up to `ref` that changed it.

        Parameters
        ----------
        array : str
            Path of the array.
        selection : mapping, optional
            Labels as in :meth:`blame`; of a dimension that it does not name, everything.
        ref : str or Version
            The newest version that is looked at; what is not committed is not looked at.

        Raises
        ------
        SelectionError
            When the array is not there, or the region in no version, or when it is too large for a mean.
        """
        from icemagic import following

        return following.follow(self.repo, self.resolve(ref), array, selecting.typed(selection or {}))
