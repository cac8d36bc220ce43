"""What a plan of garbage collection says is what goes, and work that is still open never does."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import icechunk
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic.census import TOLERANCE
from icemagic.collection import DAY, collect, plan_collect
from icemagic.errors import TransactionError
from icemagic.expiry import expire, plan_expire
from upkeep import ACTIONS, fill, history, ids, new_repo, snapshots, soon, stash, values, write


def test_a_collection_takes_what_its_plan_says_and_nothing_that_a_branch_reaches(tmp_path):
    repo = new_repo(icechunk.local_filesystem_storage(str(tmp_path)))
    kept = write(repo, "main", 0)
    shelved = stash(repo, 1, {"icemagic": {"kept": "stash"}})
    lost = stash(repo, 2)
    repo.create_branch("gone", kept)
    tip = write(repo, "gone", 3)
    repo.delete_branch("gone")
    before = soon()
    plan = plan_collect(repo, before=before, now=before, recent=True)
    assert ids(plan.versions) == {lost, tip}
    assert ids(plan.stashes) == {shelved}
    assert plan.garbage.chunks == 3
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    done = collect(repo, plan)
    assert done.garbage == plan.garbage
    assert snapshots(repo) & {lost, tip, shelved} == set()
    np.testing.assert_array_equal(values(repo, kept)[:10], 0)
    assert repo.lookup_branch("main") == kept
    assert size - done.bytes < size
    assert "stash 1" in repr(plan)


@settings(deadline=None, max_examples=30)
@given(ACTIONS, st.integers(0, 20))
def test_a_plan_of_collection_names_the_versions_that_go_whatever_the_cut_off(actions, cut):
    repo, _ = history(actions)
    times = sorted(item.created_at for item in repo.storage.list_objects_metadata(prefix="snapshots"))
    before = [*times, soon()][cut % (len(times) + 1)]
    there = snapshots(repo)
    plan = plan_collect(repo, before=before, now=soon(), recent=True)
    done = collect(repo, plan)
    assert there - snapshots(repo) == ids(plan.versions) | ids(plan.stashes)
    assert done.garbage == plan.garbage


@pytest.mark.parametrize(("seconds", "goes"), [(0, False), (0.5, False), (1, True)])
def test_a_file_whose_time_the_storage_tells_in_whole_seconds_goes_only_when_that_second_is_over(
    tmp_path, seconds, goes
):
    repo = new_repo(icechunk.local_filesystem_storage(str(tmp_path)))
    write(repo, "main", 0)
    shelved = stash(repo, 1)
    second = datetime(2024, 5, 1, tzinfo=UTC)
    os.utime(tmp_path / "snapshots" / shelved, (second.timestamp(), second.timestamp()))
    plan = plan_collect(repo, before=second + timedelta(seconds=seconds), now=soon())
    assert ids(plan.versions) == ({shelved} if goes else set())
    collect(repo, plan)
    assert (shelved not in snapshots(repo)) == goes


def test_without_a_cut_off_only_what_is_older_than_a_day_and_than_any_open_session_goes():
    repo = new_repo()
    write(repo, "main", 0)
    stash(repo, 1)
    now = datetime.now(UTC)
    assert plan_collect(repo, now=now).cutoff == now - DAY
    assert plan_collect(repo, now=now, open_since=now - 3 * DAY).cutoff == now - 3 * DAY - TOLERANCE
    assert plan_collect(repo, now=now, open_since=now).cutoff == now - DAY
    assert ids(plan_collect(repo, now=now).versions) == set()
    assert len(plan_collect(repo, now=now + 2 * DAY).versions) == 1


def test_a_cut_off_younger_than_an_open_session_is_always_refused_and_a_recent_one_unless_asked_for():
    repo = new_repo()
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    for recent in (True, False):
        with pytest.raises(TransactionError, match="A session is open since"):
            plan_collect(repo, before=now - hour, now=now, open_since=now - 2 * hour, recent=recent)
    with pytest.raises(TransactionError, match="less than a day ago"):
        plan_collect(repo, before=now - hour, now=now)
    assert plan_collect(repo, before=now - 2 * hour, now=now, open_since=now - hour, recent=True).cutoff < now


def test_work_of_a_session_that_is_open_survives_a_collection():
    repo = new_repo()
    write(repo, "main", 0)
    opened = datetime.now(UTC)
    session = repo.writable_session("main")
    fill(session, 5)
    collect(repo, plan_collect(repo, before=opened - TOLERANCE, now=soon(), open_since=opened, recent=True))
    np.testing.assert_array_equal(values(repo, session.commit("late"))[10:20], 5)


def test_a_branch_that_was_deleted_after_the_plan_makes_it_stale():
    repo = new_repo()
    repo.create_branch("dev", write(repo, "main", 0))
    tip = write(repo, "dev", 1)
    plan = plan_collect(repo, before=soon(), now=soon(), recent=True)
    repo.delete_branch("dev")
    with pytest.raises(TransactionError, match="changed since the plan was made"):
        collect(repo, plan)
    assert tip in snapshots(repo)


def test_old_backups_are_counted_in_the_plan_and_pruned(tmp_path):
    repo = new_repo(icechunk.local_filesystem_storage(str(tmp_path)))
    for value in range(5):
        write(repo, "main", value)
    plan = plan_collect(repo, before=soon(), now=soon(), recent=True)
    assert plan.backups.prunable_files > 0
    log = [str(update.kind) for update in repo.ops_log()]
    done = collect(repo, plan)
    assert done.backups >= plan.backups.prunable_files
    assert [str(update.kind) for update in repo.ops_log()][1:] == log


def test_files_of_expired_versions_are_garbage(tmp_path):
    repo = new_repo(icechunk.local_filesystem_storage(str(tmp_path)))
    made = [write(repo, "main", value) for value in (1, 5, 9)]
    expire(repo, plan_expire(repo, keep=1))
    done = collect(repo, plan_collect(repo, before=soon(), now=soon(), recent=True))
    assert (done.garbage.snapshots, done.garbage.chunks) == (2, 2)
    np.testing.assert_array_equal(values(repo, made[-1])[10:20], 9)


def test_times_without_a_zone_are_refused():
    repo = new_repo()
    naive = datetime(2024, 5, 1)  # noqa: DTZ001  that is the point
    for times in ({"now": naive}, {"now": soon(), "before": naive}, {"now": soon(), "open_since": naive}):
        with pytest.raises(ValueError, match="no zone"):
            plan_collect(repo, **times)


def test_format_1_is_refused_with_the_way_to_format_2():
    with pytest.raises(TransactionError, match="%ice upgrade"):
        plan_collect(new_repo(spec_version=1), now=soon())


def test_a_plan_says_what_goes_and_its_outcome_what_went():
    repo = new_repo()
    write(repo, "main", 0)
    stash(repo, 9)
    plan = plan_collect(repo, before=soon(), now=soon(), recent=True)
    assert "stash 9" in repr(plan)
    assert "write 0" not in repr(plan)
    assert repr(collect(repo, plan)).startswith("deleted: ")
