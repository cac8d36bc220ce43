"""`Inquiry`: a standpoint that answers what there is and how it came about; each method is one call to a verb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icemagic import diff, history
from icemagic.differences import Diff
from icemagic.errors import UnknownVersionError
from icemagic.records import Exhibit, Log, Version, short
from icemagic.show import show
from icemagic.standpoint import Standpoint

if TYPE_CHECKING:
    from icemagic.tree import Tree


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


def _words(ref: str | Version) -> str:
    return short(ref.id) if isinstance(ref, Version) else ref
