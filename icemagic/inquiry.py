"""`Inquiry`: a standpoint that answers what there is and how it came about; each method is one call to a verb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icemagic import coordinates, diff, history
from icemagic.differences import Diff
from icemagic.errors import UnknownVersionError
from icemagic.records import Exhibit, Log, Version, short
from icemagic.show import show
from icemagic.standpoint import Standpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icemagic.attribution import Blame, Why
    from icemagic.timeline import Timeline
    from icemagic.tree import Tree

    Labels = Mapping[str, str | tuple[str, str]]


class Inquiry(Standpoint):
    """A store that can be asked about its versions."""

    def list_versions(self) -> list[Version]:
        """Return the versions up to the one it stands on, oldest first, without icechunk's empty root snapshot."""
        return history.list_versions(self.repo, self._head)

    def log(self, limit: int = 20, ref: str | Version = "HEAD") -> Log:
        """Return the newest `limit` versions up to `ref`, newest first."""
        of = self._branch if ref == "HEAD" and self._branch else str(ref)
        at = self._head if ref == "HEAD" else self.resolve(ref)
        return history.log(self.repo, at, of=of, limit=limit)

    def show(self, ref: str | Version = "HEAD") -> Exhibit:
        """Return one version in full: its message, what it changed and how it came about."""
        return show(self.repo, self.resolve(ref))

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

        return blame.blame(self.repo, self.resolve(ref), array, coordinates.typed(selection or {}))

    def why(self, array: str, ref: str | Version = "HEAD", selection: Labels | None = None) -> Why:
        """Return what :meth:`blame` does, with the cells that wrote the newest of it."""
        from icemagic import blame

        return blame.why(self.repo, self.resolve(ref), array, coordinates.typed(selection or {}))

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

        return following.follow(self.repo, self.resolve(ref), array, coordinates.typed(selection or {}))


def _words(ref: str | Version) -> str:
    return short(ref.id) if isinstance(ref, Version) else ref
