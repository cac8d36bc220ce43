"""Undo and redo go back and forth through what was done, never over the work of others, and say what they cannot do."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime

import icechunk
import pytest
import zarr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from icemagic import history, operations, oplog, refs
from icemagic.errors import ConflictError, IcemagicError, RefNameError, UnknownVersionError
from icemagic.redaction import REDACTED

ROOT = "1CECHNKREP0F1RSTCMT0"
ME = {"icemagic": {"author": "Ada", "hash": "0" * 16}}


def new_repo(spec_version: int = 2) -> icechunk.Repository:
    return icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=spec_version)


def commit(repo, message="m", branch="main", metadata=ME):
    session = repo.writable_session(branch)
    zarr.open_group(session.store, mode="a").attrs["value"] = message
    return session.commit(message, metadata, allow_empty=True)


def value(repo, snapshot_id):
    return zarr.open_group(repo.readonly_session(snapshot_id=snapshot_id).store, mode="r").attrs["value"]


def tip(repo, branch="main"):
    return repo.lookup_branch(branch)


def reset(repo, to, branch="main"):
    return operations.reset(repo, branch, to, expected=tip(repo, branch))


def undo(repo, branch="main"):
    return operations.undo(repo, branch, expected=tip(repo, branch))


def redo(repo, branch="main"):
    return operations.redo(repo, branch, expected=tip(repo, branch))


def amend(repo, message, author="Ada", **more):
    return operations.amend(repo, "main", message, expected=tip(repo), author=author, **more)


def collect_garbage(repo):
    time.sleep(0.002)
    repo.garbage_collect(datetime.now(UTC))


def refusal(call, *arguments, kind=IcemagicError, **more):
    with pytest.raises(kind) as caught:
        call(*arguments, **more)
    assert caught.value.message.count("\n") == 0
    assert caught.value.message.endswith(".")
    return caught.value


@pytest.fixture
def repo():
    return new_repo()


@pytest.fixture(params=[1, 2], ids=["format 1", "format 2"])
def either(request):
    return new_repo(request.param)


# -- against a model ---------------------------------------------------------------------------------------------------


class BackAndForth(RuleBasedStateMachine):
    """What was done on main, as a list with a cursor; what others do elsewhere does not count."""

    @initialize()
    def start(self):
        self.repo = new_repo()
        self.tip = ROOT
        self.values = {}
        self.done = []
        self.cursor = 0
        self.branches = {"main"}
        self.number = 0
        self.repo.create_branch("elsewhere", commit(self.repo, "start"))
        self.did(tip(self.repo))
        self.values[self.tip] = "start"
        self.branches.add("elsewhere")

    def did(self, new_tip=None, deleted=None):
        self.done[self.cursor :] = [(self.tip, new_tip, deleted)]
        self.cursor += 1
        self.tip = new_tip or self.tip

    @rule()
    def commit(self):
        self.number += 1
        at = commit(self.repo, f"{self.number}")
        self.values[at] = f"{self.number}"
        self.did(at)

    @precondition(lambda self: self.tip != ROOT)
    @rule()
    def amend(self):
        at = amend(self.repo, "better").id
        self.values[at] = self.values[self.tip]
        self.did(at)

    @rule(data=st.data())
    def reset(self, data):
        target = data.draw(st.sampled_from([ROOT, *self.values]), label="target")
        if target != self.tip:
            reset(self.repo, target)
            self.did(target)

    @rule()
    def make_branch(self):
        self.number += 1
        refs.create_branch(self.repo, f"side{self.number}", self.tip)
        self.branches.add(f"side{self.number}")

    @precondition(lambda self: len(self.branches) > 2)
    @rule(data=st.data())
    def delete_branch(self, data):
        name = data.draw(st.sampled_from(sorted(self.branches - {"main", "elsewhere"})))
        at = refs.delete_branch(self.repo, name)
        self.branches.remove(name)
        self.did(deleted=(name, at))

    @rule(what=st.sampled_from(["tag", "commit", "undo", "reset", "keep", "metadata", "settings"]))
    def something_else(self, what):
        self.number += 1
        repo, branch = self.repo, "elsewhere"
        if what == "tag":
            refs.create_tag(repo, f"tag{self.number}", self.tip)
        elif what == "commit":
            commit(repo, "other", branch)
        elif what == "undo":
            commit(repo, "other", branch)
            undo(repo, branch)
        elif what == "reset":
            repo.reset_branch(branch, self.tip)
        elif what == "keep":
            repo.writable_session(branch).flush("kept")
        elif what == "metadata":
            repo.update_metadata({"theirs": self.number})
        else:
            repo.save_config()

    @rule()
    def undo(self):
        if not self.cursor:
            assert "nothing to undo on main" in refusal(undo, self.repo).message
            return
        self.cursor -= 1
        before, _, deleted = self.done[self.cursor]
        moved = undo(self.repo)
        if deleted:
            assert (moved.branch, moved.before, moved.after) == (deleted[0], None, deleted[1])
            self.branches.add(deleted[0])
        else:
            assert (moved.before, moved.after) == (self.tip, before)
        self.tip = before

    @rule()
    def redo(self):
        if self.cursor == len(self.done):
            assert "nothing to redo on main" in refusal(redo, self.repo).message
            return
        _, after, deleted = self.done[self.cursor]
        self.cursor += 1
        moved = redo(self.repo)
        if deleted:
            assert (moved.branch, moved.before, moved.after) == (*deleted, None)
            self.branches.remove(deleted[0])
        else:
            assert (moved.before, moved.after) == (self.tip, after)
        self.tip = after or self.tip

    @invariant()
    def the_repository_is_as_the_model(self):
        assert tip(self.repo) == self.tip
        assert self.repo.list_branches() == self.branches
        if self.tip != ROOT:
            assert value(self.repo, self.tip) == self.values[self.tip]


TestUndoAndRedoGoBackAndForthAsAListWithACursor = BackAndForth.TestCase
TestUndoAndRedoGoBackAndForthAsAListWithACursor.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=30
)


# -- reset -------------------------------------------------------------------------------------------------------------


def test_reset_moves_the_branch_and_says_what_it_left_and_how_to_come_back(repo):
    first, second, third = commit(repo, "one"), commit(repo, "two"), commit(repo, "three")
    moved = reset(repo, first)
    assert (moved.before, moved.after, moved.left) == (third, first, 2)
    assert repr(moved).splitlines() == [
        "reset main",
        f"main stands on {first[:8]} one",
        "2 versions no longer on main",
        "%ice undo takes it back",
    ]
    undo(repo)
    assert tip(repo) == third
    assert [version.id for version in history.list_versions(repo, third)] == [first, second, third]


def test_reset_on_format_1_names_the_id_that_leads_back():
    old = new_repo(1)
    first, second = commit(old), commit(old)
    assert reset(old, first).hint == f"%ice reset {second} takes it back"
    assert tip(old) == first


def test_reset_forward_or_to_a_side_branch_counts_what_left_the_branch_only(repo):
    first = commit(repo, "one")
    refs.create_branch(repo, "side", first)
    side = commit(repo, "side", "side")
    commit(repo, "two")
    commit(repo, "three")
    assert reset(repo, side).left == 2
    assert reset(repo, first).left == 1
    moved = reset(repo, side)
    assert moved.left == 0
    assert "no longer" not in repr(moved)


def test_a_reset_to_where_the_branch_stands_is_refused(repo):
    at = commit(repo)
    assert "stands on" in refusal(operations.reset, repo, "main", at, expected=at).message


def test_an_unknown_branch_gets_the_nearest_names(repo):
    at = commit(repo)
    refs.create_branch(repo, "develop", at)
    assert "develop" in refusal(operations.undo, repo, "devlop", expected=at, kind=UnknownVersionError).hint


# -- somebody else -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["reset", "undo", "redo", "amend"])
def test_nothing_moves_when_somebody_committed_meanwhile_and_the_refusal_says_who_and_what(repo, verb):
    first, seen = commit(repo, "one"), commit(repo, "two")
    theirs = commit(repo, "Fix the gap\n\nlong story", metadata={"author": "Grace"})
    calls = {
        "reset": lambda: operations.reset(repo, "main", first, expected=seen),
        "undo": lambda: operations.undo(repo, "main", expected=seen),
        "redo": lambda: operations.redo(repo, "main", expected=seen),
        "amend": lambda: operations.amend(repo, "main", "better", expected=seen, author="Ada"),
    }
    error = refusal(calls[verb], kind=ConflictError)
    assert f"1 version came to main: {theirs[:8]} Fix the gap … (by Grace)" in error.message
    assert "%ice refresh" in error.hint
    assert tip(repo) == theirs


def test_of_many_commits_meanwhile_the_newest_are_named_and_the_others_counted(repo):
    seen = commit(repo)
    for number in range(5):
        commit(repo, f"theirs {number}")
    error = refusal(operations.undo, repo, "main", expected=seen, kind=ConflictError)
    assert "5 versions" in error.message
    assert "theirs 4" in error.message
    assert "and 2 more" in error.message
    assert "theirs 1" not in error.message


def test_a_branch_that_somebody_moved_back_or_aside_is_not_moved_and_the_refusal_says_where_it_is(repo):
    first, seen = commit(repo, "one"), commit(repo, "two")
    repo.reset_branch("main", first)
    assert (
        f"main was moved to {first[:8]} one (by Ada)"
        in refusal(operations.undo, repo, "main", expected=seen, kind=ConflictError).message
    )
    repo.reset_branch("main", ROOT)
    assert "the empty start" in refusal(operations.undo, repo, "main", expected=seen, kind=ConflictError).message
    repo.reset_branch("main", seen)
    amended = amend(repo, "two, better")
    error = refusal(operations.undo, repo, "main", expected=seen, kind=ConflictError)
    assert f"moved to {amended.id[:8]} two, better" in error.message


def test_a_commit_between_the_look_and_the_move_wins(repo):
    """The move itself compares: what the look found may be old by then."""
    first, seen = commit(repo, "one"), commit(repo, "two")
    theirs = commit(repo, "theirs")
    error = refusal(operations._move, repo, "main", seen, first, kind=ConflictError)
    assert "theirs" in error.message
    assert tip(repo) == theirs
    version = history.version(repo, seen)
    assert "theirs" in refusal(operations._amend, repo, "main", "better", version, kind=ConflictError).message
    assert tip(repo) == theirs


def test_what_others_do_elsewhere_is_passed_over_and_stays(repo):
    first, second = commit(repo, "one"), commit(repo, "two")
    refs.create_branch(repo, "dev", first)
    theirs = commit(repo, "theirs", "dev")
    refs.create_tag(repo, "v1", theirs)
    repo.update_metadata({"theirs": {"a": [1]}})
    undo(repo)
    assert (tip(repo), tip(repo, "dev"), repo.lookup_tag("v1")) == (first, theirs, theirs)
    redo(repo)
    assert tip(repo) == second
    assert repo.get_metadata()["theirs"] == {"a": [1]}


# -- undo and redo -----------------------------------------------------------------------------------------------------


def test_undo_says_what_it_took_back_and_redo_brings_it_again(repo):
    first, second = commit(repo, "one"), commit(repo, "two")
    assert repr(undo(repo)).splitlines() == [
        f"took back the commit {second[:8]} two",
        f"main stands on {first[:8]} one",
        "1 version no longer on main",
        "%ice redo does it again",
    ]
    assert repr(redo(repo)).splitlines() == [
        "took back the undo",
        f"main stands on {second[:8]} two",
        "%ice undo takes it back again",
    ]
    better = amend(repo, "better")
    assert undo(repo).what == f"took back the amend {better.id[:8]} better"
    assert tip(repo) == second
    reset(repo, first)
    assert undo(repo).what == f"took back the reset to {first[:8]} one"
    assert tip(repo) == second


def test_undo_of_the_first_commit_leads_to_the_empty_start(repo):
    first = commit(repo)
    assert undo(repo).place == "main stands on the empty start"
    assert tip(repo) == ROOT
    assert history.list_versions(repo, ROOT) == []
    redo(repo)
    assert tip(repo) == first


def test_undo_holds_across_handles_and_opens(tmp_path):
    storage = icechunk.local_filesystem_storage(str(tmp_path / "r"))
    first_handle = icechunk.Repository.create(storage)
    first, second = commit(first_handle, "one"), commit(first_handle, "two")
    undo(first_handle)
    again = icechunk.Repository.open(storage)
    undo(again)
    assert tip(again) == ROOT
    redo(first_handle)
    assert tip(again) == first
    redo(again)
    assert tip(first_handle) == second


def test_a_deleted_branch_comes_back_where_it_stood_and_redo_deletes_it_again(repo):
    commit(repo)
    refs.create_branch(repo, "dev", tip(repo))
    at = commit(repo, "on dev", "dev")
    refs.delete_branch(repo, "dev")
    assert undo(repo).what == "made the deleted branch dev again"
    assert tip(repo, "dev") == at
    redo(repo)
    assert repo.list_branches() == {"main"}
    undo(repo)
    assert undo(repo, "dev").what.startswith("took back the commit")
    assert tip(repo, "dev") == tip(repo)


def test_redo_does_not_delete_a_branch_that_moved_or_that_one_stands_on(repo):
    commit(repo)
    refs.create_branch(repo, "dev", tip(repo))
    refs.delete_branch(repo, "dev")
    undo(repo)
    assert "the one you stand on" in refusal(redo, repo, "dev").message
    at = commit(repo, "new work", "dev")
    assert "new work" in refusal(redo, repo, kind=ConflictError).message
    assert tip(repo, "dev") == at


def test_a_deleted_branch_whose_name_is_taken_again_stays_deleted(repo):
    first, second = commit(repo), commit(repo)
    refs.create_branch(repo, "dev", second)
    refs.delete_branch(repo, "dev")
    refs.create_branch(repo, "dev", first)
    error = refusal(undo, repo, kind=RefNameError)
    assert error.hint == f"%ice branch OTHER_NAME {second} makes the deleted one again."
    assert tip(repo, "dev") == first
    assert tip(repo) == second


def test_a_deleted_tag_cannot_come_back_and_the_hint_is_what_to_type(repo):
    at = commit(repo)
    later = commit(repo)
    refs.create_tag(repo, "v1", at)
    refs.delete_tag(repo, "v1")
    error = refusal(undo, repo)
    assert "does not give the name of a deleted tag again" in error.message
    _, _, name, given, *_ = error.hint.split()
    refs.create_tag(repo, name, history.resolve(repo, given, head=later, branch="main"))
    assert repo.lookup_tag(name) == at
    assert tip(repo) == later


def test_a_deletion_is_undone_from_any_branch_even_a_younger_one(repo):
    at = commit(repo)
    refs.create_branch(repo, "old", at)
    refs.delete_branch(repo, "old")
    refs.create_branch(repo, "young", at)
    undo(repo, "young")
    assert repo.list_branches() == {"main", "old", "young"}
    redo(repo)
    assert repo.list_branches() == {"main", "young"}


def test_each_branch_has_its_own_way_back(repo):
    first, second = commit(repo, "one"), commit(repo, "two")
    refs.create_branch(repo, "dev", second)
    third = commit(repo, "three", "dev")
    undo(repo)
    undo(repo, "dev")
    redo(repo)
    assert (tip(repo), tip(repo, "dev")) == (second, second)
    refusal(redo, repo)
    undo(repo)
    redo(repo, "dev")
    assert (tip(repo), tip(repo, "dev")) == (first, third)


@pytest.mark.parametrize("last", ["commit", "reset"])
def test_a_branch_made_anew_does_not_inherit_what_was_done_under_its_name(repo, last):
    commit(repo, "one")
    refs.create_branch(repo, "dev", tip(repo))
    commit(repo, "on dev", "dev")
    if last == "reset":
        reset(repo, tip(repo), "dev")
    time.sleep(0.002)
    then = datetime.now(UTC)
    time.sleep(0.002)
    commit(repo, "two")
    # The log does not say that expiry deletes branches.
    repo.expire_snapshots(then, delete_expired_branches=True)
    refs.create_branch(repo, "dev", tip(repo))
    at = tip(repo, "dev")
    assert "nothing more to undo on dev" in refusal(undo, repo, "dev").message
    assert tip(repo, "dev") == at


def test_the_snapshot_to_go_to_may_be_gone_and_nothing_moves(repo):
    first, second = commit(repo, "one"), commit(repo, "two")
    undo(repo)
    collect_garbage(repo)
    error = refusal(redo, repo, kind=UnknownVersionError)
    assert f"{second[:8]} to go to is gone" in error.message
    assert tip(repo) == first
    undo(repo)  # what lies before is still there
    assert tip(repo) == ROOT


def test_a_deleted_branch_whose_version_is_gone_stays_deleted(repo):
    commit(repo)
    refs.create_branch(repo, "dev", tip(repo))
    at = commit(repo, "on dev", "dev")
    refs.delete_branch(repo, "dev")
    collect_garbage(repo)
    assert at[:8] in refusal(undo, repo, kind=UnknownVersionError).message
    assert repo.list_branches() == {"main"}


def test_undo_never_leads_past_expired_versions_to_the_empty_start(repo):
    for message in ("one", "two", "three"):
        at = commit(repo, message)
    time.sleep(0.002)
    assert repo.expire_snapshots(history.version(repo, at).time)
    assert repo.lookup_snapshot(at).parent_id == ROOT
    assert "The version before" in refusal(undo, repo, kind=UnknownVersionError).message
    assert tip(repo) == at


def test_more_undos_than_marks_end_in_a_refusal_and_never_in_a_jump(repo):
    tips = [commit(repo, f"{number}") for number in range(oplog.MARKS + 10)]
    for _ in range(oplog.MARKS + 1):
        undo(repo)
    at = tips[-oplog.MARKS - 2]
    assert tip(repo) == at
    assert "does not tell how it came here" in refusal(undo, repo).message
    assert tip(repo) == at
    assert len(repo.get_metadata()[oplog.KEY]) == oplog.MARKS


@pytest.mark.parametrize("marks", [None, "text", 3, {"a": 1}, [1, None], [["a"]], [["a", "b", "c"]], [[1, "undo", 2]]])
def test_foreign_or_lost_marks_make_an_undo_look_like_a_reset_and_nothing_else(repo, marks):
    first, second = commit(repo, "one"), commit(repo, "two")
    undo(repo)
    repo.update_metadata({oplog.KEY: marks})
    refusal(redo, repo)
    assert tip(repo) == first
    undo(repo)
    assert tip(repo) == second


def test_a_log_whose_older_part_was_pruned_ends_in_nothing_to_undo(tmp_path):
    config = icechunk.RepositoryConfig()
    config.num_updates_per_repo_info_file = 3
    storage = icechunk.local_filesystem_storage(str(tmp_path / "r"))
    repo = icechunk.Repository.create(storage, config=config)
    for number in range(8):
        commit(repo, f"{number}")
    for backup in (tmp_path / "r" / "overwritten").iterdir():
        backup.unlink()
    undone = 0
    with pytest.raises(IcemagicError, match="nothing to undo on main"):
        for _ in range(9):
            undo(repo)
            undone += 1
    assert undone
    assert tip(repo) != ROOT


def test_the_lock_is_held_and_let_go(tmp_path):
    """Another process that holds the lock makes undo wait; two operations in a row do not wait for each other."""
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "r")))
    first = commit(repo, "one")
    commit(repo, "two")
    refs.create_branch(repo, "dev", first)
    hold = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(0.5)"
    )
    lock = str(tmp_path / "r" / "icemagic.lock")
    with subprocess.Popen([sys.executable, "-c", hold, lock], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline().strip() == b"held"
        start = time.monotonic()
        undo(repo)
        assert time.monotonic() - start > 0.3
    redo(repo)
    refs.delete_branch(repo, "dev")
    undo(repo)
    redo(repo)
    amend(repo, "better")
    reset(repo, first)
    assert tip(repo) == first


def test_format_1_has_no_undo_redo_or_amend_and_says_so():
    old = new_repo(1)
    at = commit(old)
    for call in (lambda: undo(old), lambda: redo(old), lambda: amend(old, "better")):
        error = refusal(call)
        assert "format 1" in error.message
        assert "%ice upgrade" in error.hint
    assert tip(old) == at


def test_a_repository_upgraded_from_format_1_is_undone_as_far_as_its_log_is_true():
    old = new_repo(1)
    first, gone = commit(old, "one"), commit(old, "gone")
    old.reset_branch("main", first)
    last = commit(old, "last")
    repo = icechunk.upgrade_icechunk_repository(old, dry_run=False)
    undo(repo)
    assert tip(repo) == first
    undo(repo)
    assert tip(repo) == ROOT
    redo(repo)
    redo(repo)
    assert tip(repo) == last
    assert gone not in {version.id for version in history.list_versions(repo, last)}


# -- amend -------------------------------------------------------------------------------------------------------------


def test_amend_changes_the_message_and_nothing_else(repo):
    parent = commit(repo, "one")
    before = history.version(repo, commit(repo, "two"))
    amended = amend(repo, "better")
    assert amended.message == "better"
    assert (amended.parent, amended.metadata, amended.author) == (parent, before.metadata, "Ada")
    assert amended.refs == ("main",)
    assert value(repo, amended.id) == "two"
    assert repo.diff(from_snapshot_id=parent, to_snapshot_id=amended.id) == repo.diff(
        from_snapshot_id=parent, to_snapshot_id=before.id
    )
    assert tip(repo) == amended.id


def test_the_first_commit_can_be_amended(repo):
    commit(repo, "one")
    amended = amend(repo, "better")
    assert [version.message for version in history.list_versions(repo, amended.id)] == ["better"]
    assert value(repo, amended.id) == "one"


@pytest.mark.parametrize("metadata", [{"author": "Grace"}, {}, {"icemagic": {"author": "Grace"}}])
def test_the_commit_of_somebody_else_is_not_amended(repo, metadata):
    at = commit(repo, "theirs", metadata=metadata)
    for author in ("Ada", ""):
        assert "was committed by" in refusal(amend, repo, "better", author).message
    assert tip(repo) == at


@pytest.mark.parametrize("message", ["", " \n\t"])
def test_an_empty_message_is_refused(repo, message):
    at = commit(repo)
    assert "needs a message" in refusal(amend, repo, message).message
    assert tip(repo) == at


def test_amend_on_a_branch_without_a_version_is_refused(repo):
    assert "holds no version yet" in refusal(amend, repo, "better", kind=UnknownVersionError).message


def test_secrets_are_taken_out_of_the_new_message(repo):
    commit(repo)
    assert amend(repo, "with s3cr3t inside", secrets=["s3cr3t"]).message == f"with {REDACTED} inside"
