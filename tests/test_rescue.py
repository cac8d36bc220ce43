"""What no branch or tag holds is listed, found and made a branch again; kept changes outlive their branch."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime

import icechunk
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic import history, operations, provenance, refs, rescue
from icemagic.errors import (
    AmbiguousVersionError,
    IcemagicError,
    NothingToCommitError,
    RefNameError,
    UnknownVersionError,
)


def new_repo(spec_version: int = 2) -> icechunk.Repository:
    return icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=spec_version)


def change(repo, number, branch="main"):
    """Return a session with uncommitted changes."""
    session = repo.writable_session(branch)
    data = np.full(500, number)  # more bytes than icechunk keeps inside its own files
    zarr.create_array(session.store, name="x", data=data, chunks=(100,), overwrite=True)
    return session


def commit(repo, number, branch="main"):
    return change(repo, number, branch).commit(f"commit {number}", {"icemagic": {"author": "Ada"}})


def keep(repo, session, kind="stash", message="half done", branch="main"):
    return rescue.keep(repo, session, kind=kind, message=message, branch=branch, author="Grace")


def value(repo, snapshot_id):
    values = zarr.open_array(repo.readonly_session(snapshot_id=snapshot_id).store, path="x", mode="r")[:]
    assert (values == values[0]).all()
    return values[0]


def ids(versions):
    return [version.id for version in versions]


def collect_garbage(repo):
    time.sleep(0.002)
    repo.garbage_collect(datetime.now(UTC))


@pytest.fixture
def repo():
    return new_repo()


# -- what is unreachable -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["commit", "branch", "tag", "reset", "delete", "stash"]), st.integers(0, 99)),
        max_size=20,
    )
)
def test_a_version_is_listed_exactly_when_no_branch_or_tag_reaches_it(steps):
    repo = new_repo()
    made, parents = [commit(repo, 0)], {}
    for number, (step, pick) in enumerate(steps):
        branches = sorted(repo.list_branches())
        branch, at = branches[pick % len(branches)], made[pick % len(made)]
        if step == "commit":
            made.append(commit(repo, number, branch))
        elif step == "branch":
            refs.create_branch(repo, f"b{number}", at)
        elif step == "tag":
            refs.create_tag(repo, f"t{number}", at)
        elif step == "reset" and repo.lookup_branch(branch) != at:
            operations.reset(repo, branch, at, expected=repo.lookup_branch(branch))
        elif step == "delete" and branch != "main":
            refs.delete_branch(repo, branch)
        elif step == "stash":
            made.append(keep(repo, change(repo, number, branch), branch=branch))
    parents = {snapshot_id: repo.lookup_snapshot(snapshot_id).parent_id for snapshot_id in made}
    reached = set()
    for tip in history.ref_names(repo):
        at = tip
        while at in parents:
            reached.add(at)
            at = parents[at]
    found = rescue.unreachable(repo)
    assert ids(found) == [snapshot_id for snapshot_id in reversed(made) if snapshot_id not in reached]
    assert set(ids(rescue.stashes(repo))) == {v.id for v in found if v.message == "half done"}


def test_a_fresh_repository_has_nothing_unreachable(repo):
    assert len(rescue.unreachable(repo)) == 0
    assert repr(rescue.unreachable(repo)) == "no unreachable version"
    assert repr(rescue.stashes(repo)) == "no stashed version"
    commit(repo, 1)
    assert len(rescue.unreachable(repo)) == 0


def test_the_list_says_of_what_kind_each_is_where_it_was_made_when_and_by_whom(repo):
    commit(repo, 1)
    refs.create_branch(repo, "dev", repo.lookup_branch("main"))
    lost = commit(repo, 2, "dev")
    refs.delete_branch(repo, "dev")
    unsaved = keep(repo, change(repo, 3), kind="unsaved")
    stashed = keep(repo, change(repo, 4), message="later\nmore")
    foreign = change(repo, 5).flush("plain icechunk")
    found = rescue.unreachable(repo)
    assert ids(found) == [foreign, stashed, unsaved, lost]
    assert found.branches.keys() == set(ids(found))
    frame = found.to_dataframe()
    assert list(frame.columns) == ["id", "kind", "branch", "time", "author", "message"]
    assert list(frame["kind"]) == ["commit", "stash", "unsaved", "commit"]
    assert list(frame["branch"]) == ["", "main", "main", "dev"]
    assert list(frame["author"]) == ["", "Grace", "Grace", "Ada"]
    title, head, *rows, hint = repr(found).splitlines()
    assert title == "4 unreachable versions, newest first"
    assert head.split() == ["version", "kind", "made", "on", "time", "author", "message"]
    assert rows[1].startswith(f"{stashed[:8]}  stash    main")
    assert rows[1].endswith("Grace   later …")
    assert hint.startswith("%ice rescue VERSION NAME")
    assert found[0].id == foreign
    title, head, *rows, _ = repr(rescue.stashes(repo)).splitlines()
    assert title == "2 stashed versions, newest first"
    assert [row.split()[:2] for row in rows] == [["0", stashed[:8]], ["1", unsaved[:8]]]


@pytest.mark.parametrize("recorded", ["x", 1, None, ["kept"], {"kept": 3}, {"kept": "x"}, {"kept": None, "branch": 3}])
def test_metadata_of_others_are_no_stash(repo, recorded):
    change(repo, 1).flush("m", metadata={"icemagic": recorded})
    assert len(rescue.stashes(repo)) == 0
    assert len(rescue.unreachable(repo)) == 1
    assert repr(rescue.unreachable(repo))


def test_what_undo_amend_and_reset_leave_behind_is_listed(repo):
    first, second = commit(repo, 1), commit(repo, 2)
    amended = operations.amend(repo, "main", "better", expected=second, author="Ada").id
    assert ids(rescue.unreachable(repo)) == [second]
    operations.undo(repo, "main", expected=amended)
    assert ids(rescue.unreachable(repo)) == [amended]
    operations.reset(repo, "main", first, expected=second)
    assert ids(rescue.unreachable(repo)) == [amended, second]


def test_garbage_collection_takes_them_and_the_list_says_so(repo):
    commit(repo, 1)
    keep(repo, change(repo, 2))
    collect_garbage(repo)
    assert len(rescue.unreachable(repo)) == 0


def test_format_1_keeps_no_such_list_and_says_what_to_do():
    old = new_repo(1)
    at = commit(old, 1)
    kept = keep(old, change(old, 2))
    for call in (rescue.unreachable, rescue.stashes, lambda repo: rescue.find(repo, kept)):
        with pytest.raises(IcemagicError, match="format 1") as caught:
            call(old)
        assert "%ice branch NAME ID" in caught.value.hint
    refs.create_branch(old, "saved", history.resolve(old, kept, head=at, branch="main"))
    assert value(old, old.lookup_branch("saved")) == 2


# -- find and rescue ---------------------------------------------------------------------------------------------------


def test_an_unreachable_version_is_found_by_its_id_or_any_unique_start_in_any_case(repo):
    reachable, lost = commit(repo, 1), commit(repo, 2)
    operations.undo(repo, "main", expected=lost)
    for text in (lost, lost[:4], lost[:9].lower(), lost.lower()):
        assert rescue.find(repo, text).id == lost
    with pytest.raises(UnknownVersionError, match="There is 1 unreachable version"):
        rescue.find(repo, reachable)
    with pytest.raises(UnknownVersionError, match="too short"):
        rescue.find(repo, lost[:3])
    with pytest.raises(UnknownVersionError, match="too short"):
        rescue.find(repo, "")


def test_an_ambiguous_start_lists_the_candidates(repo, monkeypatch):
    kept = [keep(repo, change(repo, number), message=f"work {number}") for number in range(7)]
    monkeypatch.setattr(history, "MIN_PREFIX", 0)  # so that seven random ids have a start in common
    with pytest.raises(AmbiguousVersionError, match="start of 7 versions") as caught:
        rescue.find(repo, "")
    assert f"{kept[-1][:8]} (work 6)" in caught.value.hint
    assert caught.value.hint.endswith("and 2 more.")


def test_a_rescued_version_is_a_branch_and_no_longer_unreachable(repo):
    at = commit(repo, 1)
    lost = commit(repo, 2)
    operations.undo(repo, "main", expected=lost)
    note = rescue.rescue(repo, lost[:6], "saved")
    assert repr(note) == f"branch saved stands on {lost[:8]} commit 2\n%ice switch saved goes there"
    assert repo.lookup_branch("saved") == lost
    assert repo.lookup_branch("main") == at
    assert value(repo, lost) == 2
    assert len(rescue.unreachable(repo)) == 0
    with pytest.raises(UnknownVersionError, match="There is none"):
        rescue.rescue(repo, lost, "again")


def test_a_taken_name_is_refused_and_the_version_stays_unreachable(repo):
    commit(repo, 1)
    lost = keep(repo, change(repo, 2))
    with pytest.raises(RefNameError):
        rescue.rescue(repo, lost, "main")
    assert ids(rescue.unreachable(repo)) == [lost]


# -- keep and stash ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec_version", [1, 2])
@pytest.mark.parametrize("meanwhile", ["nothing", "commit", "reset", "delete", "recreate"])
def test_kept_changes_survive_whatever_happened_to_the_branch(spec_version, meanwhile):
    repo = new_repo(spec_version)
    first, second = commit(repo, 1), commit(repo, 2)
    refs.create_branch(repo, "dev", second)
    session = change(repo, 3, "dev")
    if meanwhile == "commit":
        commit(repo, 4, "dev")
    elif meanwhile == "reset":
        operations.reset(repo, "dev", first, expected=second)
    elif meanwhile != "nothing":
        refs.delete_branch(repo, "dev")
    if meanwhile == "recreate":
        refs.create_branch(repo, "dev", first)
    before = {name: repo.lookup_branch(name) for name in repo.list_branches()}
    kept = keep(repo, session, branch="dev")
    assert value(repo, kept) == 3
    assert repo.lookup_snapshot(kept).parent_id == second
    assert {name: repo.lookup_branch(name) for name in repo.list_branches()} == before
    assert session.read_only
    assert not session.has_uncommitted_changes
    assert zarr.open_array(session.store, path="x", mode="r")[0] == 3


def test_a_kept_version_tells_who_kept_it_and_disturbs_no_record_of_cells(repo):
    base = commit(repo, 1)
    kept = history.version(repo, keep(repo, change(repo, 2), kind="unsaved"))
    assert (kept.author, kept.message, rescue.kind(kept)) == ("Grace", "half done", "unsaved")
    assert provenance.Recorded().upto(repo, kept.id) == provenance.Recorded().upto(repo, base)
    assert provenance.origin(repo, kept.id).facts == {"author": "Grace"}


def test_a_session_without_changes_keeps_nothing(repo):
    commit(repo, 1)
    for session in (repo.writable_session("main"), repo.readonly_session("main")):
        with pytest.raises(NothingToCommitError):
            keep(repo, session)
    assert len(rescue.unreachable(repo)) == 0


def test_changes_on_a_version_that_is_gone_stay_in_the_session(repo):
    first, second = commit(repo, 1), commit(repo, 2)
    session = change(repo, 3)
    operations.reset(repo, "main", first, expected=second)
    collect_garbage(repo)
    with pytest.raises(UnknownVersionError, match="that the changes stand on expired"):
        keep(repo, session)
    assert session.has_uncommitted_changes
    assert not session.read_only


def test_stashes_are_numbered_from_the_newest(repo):
    commit(repo, 1)
    kept = [keep(repo, change(repo, number)) for number in range(3)]
    assert ids(rescue.stashes(repo)) == kept[::-1]
    for ref, wanted in ((0, kept[2]), ("0", kept[2]), (2, kept[0]), ("1", kept[1]), (kept[0][:7], kept[0])):
        assert rescue.stash(repo, ref).id == wanted
    for ref in (3, "3", "-1", -1, "x", "", kept[0][:3]):
        with pytest.raises(UnknownVersionError, match="here are 3 stashed versions"):
            rescue.stash(repo, ref)


def test_a_lost_commit_is_no_stash(repo):
    commit(repo, 1)
    lost = commit(repo, 2)
    operations.undo(repo, "main", expected=lost)
    with pytest.raises(UnknownVersionError):
        rescue.stash(repo, lost)
    with pytest.raises(UnknownVersionError, match="There is none"):
        rescue.stash(repo, 0)


def test_keep_waits_for_the_lock_of_a_local_repository(tmp_path):
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "r")))
    commit(repo, 1)
    session = change(repo, 2)
    hold = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(0.5)"
    )
    lock = str(tmp_path / "r" / "icemagic.lock")
    with subprocess.Popen([sys.executable, "-c", hold, lock], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline().strip() == b"held"
        start = time.monotonic()
        kept = keep(repo, session)
        assert time.monotonic() - start > 0.3
    assert ids(rescue.stashes(repo)) == [kept]
