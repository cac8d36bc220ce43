"""What a plan of expiry says is what goes, and nothing else goes."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic.errors import RefNameError, TransactionError, UnknownVersionError
from icemagic.expiry import expire, plan_expire
from icemagic.usage import reachable
from upkeep import ACTIONS, history, ids, moment, new_repo, snapshots, soon, stash, values, write


def going(plan):
    return ids(plan.versions) | ids(plan.unreachable)


def chunk_bytes(repo):
    return sum(item.size_bytes for item in repo.storage.list_objects_metadata(prefix="chunks"))


@settings(deadline=None, max_examples=50)
@given(ACTIONS, st.integers(0, 20), st.integers(0, 10), st.booleans())
def test_an_expiry_takes_what_its_plan_says_and_leaves_all_else_as_it_was(actions, cut, name, drop):
    repo, times = history(actions)
    before = times[cut % len(times)]
    tags = sorted(tag for tag in repo.list_tags() if moment(repo, repo.lookup_tag(tag)) < before)
    named = {"tags": [tags[name % len(tags)]] if tags and drop else []}
    refs = {tag: repo.lookup_tag(tag) for tag in repo.list_tags() if tag not in named["tags"]}
    branches = {branch: repo.lookup_branch(branch) for branch in repo.list_branches()}
    there, tree = snapshots(repo), reachable(repo).keys()
    data = {snapshot_id: values(repo, snapshot_id) for snapshot_id in there}
    plan = plan_expire(repo, before=before, **named)
    expire(repo, plan)
    assert there - snapshots(repo) == going(plan)
    assert going(plan) & tree == ids(plan.versions)
    assert {tag: repo.lookup_tag(tag) for tag in repo.list_tags()} == refs
    assert {branch: repo.lookup_branch(branch) for branch in repo.list_branches()} == branches
    for snapshot_id in snapshots(repo):
        np.testing.assert_array_equal(values(repo, snapshot_id), data[snapshot_id])


@settings(deadline=None, max_examples=30)
@given(ACTIONS, st.integers(0, 20))
def test_the_bytes_that_a_plan_names_are_those_of_the_chunks_that_are_then_free(actions, cut):
    # A stash from after the cut-off would be collected too, though it did not expire.
    repo, times = history([one for one in actions if one[0] != "stash"] if cut else actions)
    plan = plan_expire(repo, before=times[-cut % len(times) - 1])
    there = chunk_bytes(repo)
    expire(repo, plan)
    repo.garbage_collect(soon())
    assert there - chunk_bytes(repo) == plan.bytes


@settings(deadline=None, max_examples=40)
@given(ACTIONS, st.integers(1, 6))
def test_keeping_n_leaves_every_branch_its_newest_n_versions(actions, keep):
    repo, _ = history(actions)
    lines = {name: [info.id for info in repo.ancestry(branch=name)][:-1] for name in repo.list_branches()}
    expire(repo, plan_expire(repo, keep=keep))
    for name, line in lines.items():
        left = [info.id for info in repo.ancestry(branch=name)][:-1]
        assert left[: min(keep, len(line))] == line[:keep]


def test_on_one_branch_keeping_n_leaves_n_versions():
    repo = new_repo()
    made = [write(repo, "main", value) for value in range(8)]
    plan = plan_expire(repo, keep=3)
    assert going(plan) == set(made[:5])
    expire(repo, plan)
    assert list(reachable(repo)) == made[:4:-1]


def test_a_repository_without_a_version_has_nothing_to_expire():
    repo = new_repo()
    assert going(plan_expire(repo, keep=1)) == going(plan_expire(repo, before=soon())) == set()


def test_a_named_branch_goes_with_its_versions_and_all_others_stay():
    repo = new_repo()
    first = write(repo, "main", 0)
    for name in ("old", "also-old"):
        repo.create_branch(name, first)
        write(repo, name, 1)
    gone, kept = repo.lookup_branch("old"), repo.lookup_branch("also-old")
    write(repo, "main", 2)
    plan = plan_expire(repo, before=soon(), branches=["old"])
    assert plan.branches == ("old",)
    assert going(plan) == {first, gone}
    expire(repo, plan)
    assert repo.list_branches() == {"main", "also-old"}
    assert repo.lookup_branch("also-old") == kept


def test_names_that_cannot_go_are_refused_and_nothing_is_done():
    repo = new_repo()
    first = write(repo, "main", 0)
    repo.create_tag("release", write(repo, "main", 1))
    with pytest.raises(UnknownVersionError, match=r"no tag 'relaese'.\nDid you mean release"):
        plan_expire(repo, before=soon(), tags=["relaese"])
    with pytest.raises(RefNameError, match="'main' cannot go"):
        plan_expire(repo, before=soon(), branches=["main"])
    with pytest.raises(RefNameError, match="'release' stands on a version that does not expire"):
        plan_expire(repo, before=moment(repo, first), tags=["release"])
    assert repo.list_tags() == {"release"}


@pytest.mark.parametrize("arguments", [{}, {"before": datetime.now(UTC), "keep": 1}, {"keep": 0}])
def test_exactly_one_sensible_rule_is_wanted(arguments):
    with pytest.raises(ValueError, match="keep"):
        plan_expire(new_repo(), **arguments)


def test_the_sources_of_cells_that_only_go_are_named_and_those_that_stay_elsewhere_are_not():
    repo = new_repo()
    lost = {"source": "x = 1\ny = 2", "source_hash": "aaaa", "hash": "1"}
    kept = {"source": "z = 3", "source_hash": "bbbb", "hash": "2"}
    first = write(repo, "main", 0, {"icemagic": lost})
    write(repo, "main", 1, {"icemagic": kept})
    write(repo, "main", 2, {"icemagic": "0123456789abcdef 3 me"})
    write(repo, "main", 3, {"icemagic": kept})
    plan = plan_expire(repo, keep=1)
    (cell,) = plan.cells
    assert (cell.version, cell.source_hash, cell.first_line) == (first, "aaaa", "x = 1 …")
    assert "x = 1" in repr(plan)


def test_a_plan_that_is_no_longer_true_is_refused():
    repo = new_repo()
    for value in range(4):
        write(repo, "main", value)
    plan = plan_expire(repo, keep=2)
    write(repo, "main", 9)
    there = snapshots(repo)
    with pytest.raises(TransactionError, match="changed since the plan was made"):
        expire(repo, plan)
    stale = plan_expire(repo, before=soon())
    repo.create_tag("keep-me", reachable(repo).popitem()[0])
    with pytest.raises(TransactionError, match="changed since the plan was made"):
        expire(repo, stale)
    assert snapshots(repo) == there


def test_a_new_version_after_the_plan_does_not_make_it_stale():
    repo = new_repo()
    made = [write(repo, "main", value) for value in range(4)]
    plan = plan_expire(repo, before=moment(repo, made[2]))
    newest = write(repo, "main", 9)
    expire(repo, plan)
    assert list(reachable(repo)) == [newest, made[3], made[2]]


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="no zone"):
        plan_expire(new_repo(), before=datetime(2024, 5, 1))  # noqa: DTZ001  that is the point


def test_format_1_is_refused_with_the_way_to_format_2():
    with pytest.raises(TransactionError, match="%ice upgrade"):
        plan_expire(new_repo(spec_version=1), keep=1)


def test_a_plan_says_what_goes_and_what_stays_and_its_outcome_what_went():
    repo = new_repo()
    stash(repo, 9)
    for value in range(4):
        write(repo, "main", value)
    plan = plan_expire(repo, keep=2)
    assert "to expire, for good: 3 versions" in repr(plan)
    assert "the newest 2 of every branch stay" in repr(plan)
    assert "stash 9" in repr(plan)
    assert "write 3" not in repr(plan)
    assert repr(expire(repo, plan)).startswith("expired: 3 versions")
