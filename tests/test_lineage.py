"""The version from which two branches are told apart, against the whole graph of parents and merges."""

from __future__ import annotations

from datetime import UTC, datetime

import icechunk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic import lineage
from icemagic.merging import way
from icemagic.records import MERGED

BRANCHES = ("main", "a", "b")
ROOT = "1CECHNKREP0F1RSTCMT0"


def commit(repo: icechunk.Repository, branch: str, merged: str | None = None) -> str:
    metadata = {MERGED: {"with": merged}} if merged else None
    return repo.writable_session(branch).commit(branch, metadata, allow_empty=True)


def before(parents: dict[str, set[str]], one: str) -> set[str]:
    """Return a version and all that came before it."""
    return {one}.union(*(before(parents, parent) for parent in parents[one]))


@given(st.lists(st.tuples(st.sampled_from(BRANCHES), st.none() | st.sampled_from(BRANCHES)), max_size=9))
@settings(max_examples=150, deadline=None)
def test_the_base_is_the_newest_of_the_nearest_common_versions(steps):
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    start = commit(repo, "main")
    parents: dict[str, set[str]] = {ROOT: set(), start: {ROOT}}
    for branch in BRANCHES[1:]:
        repo.create_branch(branch, start)
    for branch, other in steps:
        tip = repo.lookup_branch(branch)
        merged = repo.lookup_branch(other) if other else None
        made = commit(repo, branch, merged)
        parents[made] = {tip, merged} - {None}
    tips = [repo.lookup_branch(branch) for branch in BRANCHES]
    for ours in tips:
        for theirs in tips:
            common = before(parents, ours) & before(parents, theirs)
            nearest = {one for one in common if not any(one in before(parents, x) for x in common - {one})}
            newest = max(nearest, key=lambda one: repo.lookup_snapshot(one).written_at)
            found = lineage.base(repo, ours, theirs)
            assert (found.id, set(found.others)) == (newest, nearest - {newest})
            assert (way(repo, ours, theirs) == "there") == (theirs in before(parents, ours))


def test_versions_without_anything_in_common_meet_in_the_empty_root():
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    repo.create_branch("dev", repo.lookup_branch("main"))
    assert lineage.base(repo, commit(repo, "main"), commit(repo, "dev")).id == ROOT


@pytest.mark.parametrize("recorded", ["text", {"with": "nonsense"}, {"with": "0" * 20}, {"with": 5}, {}, None])
def test_a_merge_whose_record_leads_nowhere_is_passed_over(recorded):
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    start = commit(repo, "main")
    repo.create_branch("dev", start)
    dev = commit(repo, "dev")
    ours = repo.writable_session("main").commit("merge", {MERGED: recorded}, allow_empty=True)
    found = lineage.base(repo, ours, dev)
    assert found.id == start
    assert bool(found.expired) == (isinstance(recorded, dict) and "with" in recorded)


@pytest.mark.parametrize("spec_version", [1, 2])
def test_a_version_merged_in_that_is_gone_is_said_to_be_and_an_older_base_is_taken(spec_version):
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=spec_version)
    start = commit(repo, "main")
    repo.create_branch("dev", start)
    merged = commit(repo, "dev")
    ours = commit(repo, "main", merged)
    theirs = commit(repo, "dev")
    assert lineage.base(repo, ours, theirs).id == merged
    repo.reset_branch("dev", start)
    theirs = commit(repo, "dev")
    repo.garbage_collect(datetime.now(UTC))
    found = lineage.base(repo, ours, theirs)
    assert (found.id, found.expired) == (start, (merged,))
