"""`Inquiry`: a standpoint that answers what there is and how it came about; each method is one call to a verb."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from icemagic import diff, history
from icemagic.differences import Diff
from icemagic.errors import UnknownVersionError
from icemagic.records import Exhibit, Log, Version, short
from icemagic.show import show
from icemagic.standpoint import Standpoint

if TYPE_CHECKING:  # what not every session asks is loaded when it is asked
    from icemagic.sources import CellCode
    from icemagic.tree import Tree


class Inquiry(Standpoint):
    """A store that can be asked about its versions."""

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

    def diff(self, a: str | Version = "HEAD", b: str | Version | None = None) -> Diff:
        """Compare two versions in structure and chunks, in any order and on any branches.

        A version alone is compared with the one before it.
        """
        left = self.resolve(a)
        if b is None:
            return self._diff_of(left)
        return diff.between(self.repo, left, self.resolve(b), names=(_words(a), _words(b)))

    def _diff_of(self, snapshot_id: str) -> Diff:
        version = history.version(self.repo, snapshot_id)
        changed = diff.of_version(self.repo, version) if version else None
        if changed is None:
            text = f"The version before {history.title(self.repo, snapshot_id)} expired."
            raise UnknownVersionError(text, "Name two versions to compare: A..B.")
        return changed

    def tree(self) -> Tree:
        """Return the groups and arrays of the version, and what lies in storage under the repository."""
        from icemagic import tree

        return tree.tree(self.repo, self.with_read_only(read_only=True), title=str(self))


def _words(ref: str | Version) -> str:
    return short(ref.id) if isinstance(ref, Version) else ref
