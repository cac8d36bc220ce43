"""Finds the first version that fails a test, by halving, as ``git bisect`` does.

The newest version is run first: where it passes, or cannot be run, one run tells that there is nothing to look for. The
oldest is believed to be good until every version that was run after it is bad; then it is run, too. So the answer is
always a bad version right after a good one, both seen, unless versions between them could not be run. Of `n` versions,
both ends counted, at most ``ceil(log2(n)) + 1`` are run when all of them can be.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from icemagic import history
from icemagic.display import Lines, Report, Shown, Table, count
from icemagic.errors import BisectError
from icemagic.records import Exhibit, Version, first_line, short, utc
from icemagic.show import show

if TYPE_CHECKING:
    import icechunk

Verdict = Literal["good", "bad", "skipped"]


@dataclass(frozen=True)
class Run:
    """What a test said of one version."""

    version: Version
    verdict: Verdict
    why: str = ""


Test = Callable[[Version], Awaitable[Run]]


@dataclass(frozen=True, repr=False)
class Bisected(Shown):
    """The first bad version in full, or those of which it is one, and every run."""

    runs: tuple[Run, ...]
    """Newest version first."""
    among: int
    """Versions from the good one to the bad one, both counted."""
    candidates: tuple[Version, ...]
    """The first bad version, oldest first; several where versions before it could not be run."""
    exhibit: Exhibit | None
    """What it changed and how it came about; None where there are several."""

    def _report(self) -> Report:
        skipped = sum(run.verdict == "skipped" for run in self.runs)
        without = f", {skipped} without a verdict" if skipped else ""
        said = [f"{count(len(self.runs), 'run')} among {count(self.among, 'version')}{without}"]
        oldest = self.runs[-1]
        if oldest.verdict == "skipped" and oldest.version.id == self.candidates[0].parent:
            said.append(f"{oldest.version.summary()} could not be run, and was taken for good as you said")
        rows = [(short(run.version.id), first_line(run.version.message), self._word(run), run.why) for run in self.runs]
        runs = Table(("version", "message", "verdict", "why"), tuple(rows))
        if self.exhibit is None:
            title = (
                f"the first bad version is one of {len(self.candidates)}, of which all but the last could not be run"
            )
            listed = [(short(v.id), utc(v.time), v.author, first_line(v.message)) for v in self.candidates[::-1]]
            candidates = Table(("candidate", "time", "author", "message"), tuple(listed))
            return Report(title, (candidates, Lines(tuple(said)), runs))
        said.append(f"%ice revert {short(self.candidates[0].id)} commits the opposite of it")
        shown = self.exhibit._report()  # noqa: SLF001  a record within a record
        return Report(f"the first bad version is {shown.title}", (Lines(tuple(said)), runs, *shown.parts))

    def _word(self, run: Run) -> str:
        return "first bad" if self.exhibit and run.version.id == self.candidates[0].id else run.verdict


async def bisect(repo: icechunk.Repository, good: str, bad: str, test: Test) -> Bisected:
    """Find the first version after `good`, up to `bad`, that fails a test.

    Parameters
    ----------
    repo : icechunk.Repository
    good, bad : str
        Snapshot ids; `good` has to be an ancestor of `bad`.
    test : callable
        Called with a version, and awaited.

    Raises
    ------
    BisectError
        When `good` is no ancestor of `bad`, or a test of them shows that they are not what they were said to be.
    """
    versions = line(repo, good, bad)
    runs, candidates = await search(versions, test)
    exhibit = show(repo, candidates[0].id) if len(candidates) == 1 else None
    newest_first = tuple(runs[at] for at in sorted(runs, reverse=True))
    return Bisected(newest_first, len(versions), tuple(candidates), exhibit)


def line(repo: icechunk.Repository, good: str, bad: str) -> list[Version]:
    """Return the versions from `good` to `bad`, both included, oldest first.

    Raises
    ------
    BisectError
        When there is no way from one to the other.
    """
    names = history.title(repo, good), history.title(repo, bad)
    if good == bad:
        raise BisectError(f"{names[0]} cannot be good and bad.", "Give two versions: --good REF --bad REF.")
    found = []
    for version in history.versions(repo, bad):
        found.append(version)
        if version.id == good:
            return found[::-1]
    text = f"{names[0]}, given as good, is no ancestor of {names[1]}, given as bad."
    other_way = any(version.id == bad for version in history.versions(repo, good))
    hint = "It is its descendant: change --good and --bad." if other_way else "%ice log --all --graph shows both."
    raise BisectError(text, hint)


async def search(versions: Sequence[Version], test: Test) -> tuple[dict[int, Run], list[Version]]:
    """Run a test on versions, the first of them good and the last one bad, until the first bad one is found.

    Returns
    -------
    runs : dict of int to Run
        By the places of the versions, in the order in which they ran.
    candidates : list of Version
        The first bad version alone, or after those before it that could not be run.

    Raises
    ------
    BisectError
        When the last version is not bad, or the first one turns out to be.
    """
    runs: dict[int, Run] = {}

    async def verdict(at: int) -> Verdict:
        runs[at] = await test(versions[at])
        return runs[at].verdict

    good, bad = 0, len(versions) - 1
    _check_bad_end(versions[bad], await verdict(bad), runs[bad].why)
    while (at := _next(good, bad, runs)) is not None:
        match await verdict(at):
            case "good":
                good = at
            case "bad":
                bad = at
    if good == 0 and await verdict(0) == "bad":
        message = f"{versions[0].summary()}, given as good, fails, too: {runs[0].why}."
        raise BisectError(message, "Give an older version as --good, or mend the cell.")
    return runs, list(versions[good + 1 : bad + 1])


def _check_bad_end(version: Version, verdict: Verdict, why: str) -> None:
    if verdict == "good":
        raise BisectError(
            f"{version.summary()}, given as bad, passes.", "Give another version as --bad, or mend the cell."
        )
    if verdict == "skipped":
        message = f"The cell cannot be run on {version.summary()}, given as bad: {why}."
        raise BisectError(message, "Mend the cell, or give another version as --bad.")


def _next(good: int, bad: int, tried: Iterable[int]) -> int | None:
    """Return the middle of the longest stretch between good and bad of which nothing was run; None where there is none.

    What cannot be run mostly lies side by side, so the neighbours of such a version are the last to be tried.
    """
    known = [good, *sorted(at for at in tried if good < at < bad), bad]
    start, end = max(pairwise(known), key=lambda stretch: (stretch[1] - stretch[0], stretch))
    return (start + end) // 2 if end - start > 1 else None
