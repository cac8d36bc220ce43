"""What the verbs that change, guard and keep up a store answer when they are typed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import icechunk
import pytest
import zarr

from icemagic import IcechunkStore
from icemagic.records import Committed, Rehearsal
from shells import Typed

MAKE = 'zarr.open_group(store).create_array("x", shape=400, chunks=100, dtype="f8", compressors=None)[:] = 0'
SET = 'zarr.open_group(store)["x"][{}:{}] = {}'
THEIRS = """
other = IcechunkStore.open(store.repo)
with other.transaction("theirs"):
    zarr.open_group(other)["x"][50:60] = 9
"""


@pytest.fixture
def shell(shell: Typed) -> Typed:
    shell.open_memory()
    shell.get('%%commit "first"', MAKE)
    shell.get('%%commit "second"', SET.format(0, 100, 1))
    shell.get('%%commit "third"', SET.format(100, 200, 2))
    return shell


def values(shell: Typed) -> list[float]:
    """Return the first value of each chunk of the newest version of the branch."""
    return zarr.open_group(shell["store"], mode="r")["x"][::100].tolist()


def messages(shell: Typed) -> list[str]:
    return [version.message for version in shell["store"].list_versions()]


# -- who wrote what ----------------------------------------------------------------------------------------------------


def test_each_part_of_an_array_is_traced_to_the_version_and_the_cell_that_wrote_it(shell: Typed):
    assert shell.get("%ice blame x").to_dataframe()["message"].tolist() == ["second", "third", "first", "first"]
    assert shell.get("%ice blame x HEAD~1").to_dataframe()["message"].tolist() == ["second", "first", "first", "first"]
    said = str(shell.get("%ice why x"))
    assert SET.format(100, 200, 2) in said
    assert said.index(SET.format(100, 200, 2)) < said.index(SET.format(0, 100, 1)) < said.index(MAKE)


def test_the_values_of_a_point_are_listed_newest_first(shell: Typed):
    shell.get('%%commit "named"', 'xr.Dataset({"y": ("t", [1.0, 2.0])}, {"t": [5, 6]}).to_zarr(store, mode="a")')
    shell.get('%%commit "changed"', 'zarr.open_group(store)["y"][1] = 3')
    assert shell.get("%ice history y t=6").to_dataframe()["value"].tolist() == [3, 2]
    assert shell.get("%ice history y t=6 --version HEAD~1").to_dataframe()["value"].tolist() == [2]
    assert "The dimensions of x have no names" in shell.refusal("%ice history x")


# -- back and forth ----------------------------------------------------------------------------------------------------


def test_undo_and_redo_move_the_store_along(shell: Typed):
    shell.get("%ice undo")
    assert values(shell) == [1, 0, 0, 0]
    shell.get("%ice undo")
    assert messages(shell) == ["first"]
    shell.get("%ice redo")
    assert values(shell) == [1, 0, 0, 0]
    shell.get('%%commit "other"', SET.format(300, 400, 4))
    assert "redo" in shell.run("%ice redo").error_in_exec.args[0]


def test_undo_refuses_when_somebody_committed_since(shell: Typed):
    shell.get(THEIRS)
    said = shell.refusal("%ice undo")
    assert "theirs" in said
    assert "%ice refresh" in said
    assert shell["other"].list_versions()[-1].message == "theirs"


def test_reset_can_be_undone(shell: Typed):
    shell.get("%ice reset HEAD~2")
    assert messages(shell) == ["first"]
    shell.get("%ice undo")
    assert messages(shell) == ["first", "second", "third"]


def test_revert_takes_back_one_commit_and_keeps_later_ones(shell: Typed):
    assert isinstance(shell.get("%ice revert HEAD~1"), Committed)
    assert values(shell) == [0, 2, 0, 0]


def test_restore_brings_back_everything_or_one_array(shell: Typed):
    shell.get("%ice restore HEAD~2 x")
    assert values(shell) == [0, 0, 0, 0]
    shell.get("%ice restore HEAD~1")
    assert values(shell) == [1, 2, 0, 0]
    assert messages(shell)[:3] == ["first", "second", "third"]


@pytest.mark.parametrize("selection", ["t", "t=", "=1/2", "t=1/"])
def test_a_selection_that_is_none_is_refused_with_an_example(shell: Typed, selection: str):
    assert "epoch=2025" in shell.refusal(f"%ice restore HEAD x --sel {selection}")


def test_amend_changes_the_message_of_the_own_newest_commit_alone(shell: Typed):
    shell.get('%ice amend "third, better"')
    assert messages(shell) == ["first", "second", "third, better"]
    shell.get(THEIRS)
    assert "theirs" in shell.refusal('%ice amend "mine"')


def test_a_deleted_branch_comes_back_and_a_deleted_tag_says_how_its_version_stays(shell: Typed):
    shell.get("%ice branch dev")
    shell.get("%ice tag v1")
    shell.get("%ice branch dev --delete")
    assert "dev" not in shell["store"].branches()
    shell.get("%ice undo")
    assert "dev" in shell["store"].branches()
    assert "cannot be given again" in str(shell.get("%ice tag v1 --delete"))
    assert "%ice tag" in shell.refusal("%ice undo")
    assert "Switch to another branch" in shell.refusal("%ice branch main --delete")


def test_a_version_that_was_reset_away_is_rescued_as_a_branch(shell: Typed):
    shell.get("%ice reset HEAD~2")
    listed = shell.get("%ice rescue")
    assert [version.message for version in listed] == ["third", "second"]
    assert "needs the name of a branch" in shell.refusal(f"%ice rescue {listed[0].id[:8]}")
    shell.get(f"%ice rescue {listed[0].id[:8]} saved")
    shell.get("%ice switch saved")
    assert values(shell) == [1, 2, 0, 0]


# -- the cell that made a version --------------------------------------------------------------------------------------


def next_cell(shell: Typed) -> str:
    """Return what was put into the next cell, and forget it."""
    text, shell.ip.rl_next_input = shell.ip.rl_next_input, None
    return str(text)


@pytest.mark.parametrize("message", ["first again", "it's", 'say "hi"', "a -- b", """x" --y and 'z"""])
def test_replay_puts_a_commit_cell_with_its_message_into_the_next_cell_and_runs_nothing(shell: Typed, message: str):
    quoted = f"'{message}'" if '" --' in message else f'"{message}"'
    shell.get(f"%%commit {quoted}", SET.format(300, 400, 4))
    shell.get("%ice undo")
    before = messages(shell)
    said = str(shell.get("%ice replay @{now}"))
    assert "third" in said
    assert "nothing was run" in said
    shell.get("%ice redo")
    shell.get("%ice replay")
    typed = next_cell(shell)
    assert typed.splitlines() == [f"%%commit {quoted}", SET.format(300, 400, 4)]
    shell.get("%ice undo")
    assert messages(shell) == before
    shell.get(typed)
    assert messages(shell) == [*before, message]
    assert values(shell) == [1, 2, 0, 4]


def test_replay_of_a_cell_with_a_transaction_of_its_own_is_the_whole_cell(shell: Typed):
    cell = f'with store.transaction("by hand"):\n    {SET.format(300, 400, 4)}'
    shell.get(cell)
    shell.get("%ice replay")
    assert next_cell(shell) == cell


def test_replay_names_the_store_that_was_asked_for(shell: Typed):
    shell.open_memory("second")
    shell.get("%ice replay --store store")
    assert next_cell(shell).startswith('%%commit "third" --store store\n')


def test_replay_says_which_checks_and_secrets_are_not_repeated(shell: Typed):
    shell.get('%%commit "it" --only x', SET.format(300, 400, 4), 'password = "hunter2222"')
    said = str(shell.get("%ice replay"))
    assert "options are not repeated: only x" in said
    assert "fill in what [redacted] stands for" in said
    assert 'password = "[redacted]"' in next_cell(shell)
    assert "redacted" not in str(shell.get("%ice replay HEAD~1"))


def test_what_was_not_recorded_or_cut_is_not_replayed(shell: Typed):
    shell.get('%%commit "long"', SET.format(300, 400, 4), "#" + "x" * 30_000)
    assert "only the beginning" in shell.refusal("%ice replay")
    shell.get("from dataclasses import replace", "store.config = replace(store.config, provenance='hash')")
    shell.get('%%commit "hashed"', SET.format(300, 400, 5))
    assert "only the hash" in shell.refusal("%ice replay")
    shell.get(
        "s = store.repo.writable_session('main')", SET.format(0, 1, 5).replace("store", "s.store"), "s.commit('plain')"
    )
    shell.get("%ice refresh")
    assert "no cell is recorded" in shell.refusal("%ice replay")
    assert not hasattr(shell.ip, "rl_next_input")


# -- checks of one commit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--only y,z", "only y, z may change, but x changed, too"),
        ("--max-chunks 1", "at most 1 chunk may change, but 2 chunks changed"),
        ("--no-delete", "nothing may be deleted, but x was removed or cut"),
        ('--expect "ds.x.max() > 5"', "ds.x.max() > 5 must hold, but it is False"),
    ],
)
def test_a_check_refuses_and_leaves_nothing_behind(shell: Typed, options: str, said: str):
    body = 'zarr.open_group(store)["x"].resize(100)' if "delete" in options else SET.format(200, 400, 3)
    dims = 'zarr.open_group(store).create_array("y", shape=1, dtype="i4", dimension_names=["t"])'
    shell.get('%%commit "y"', dims)
    before = messages(shell)
    if "expect" in options:
        options = options.replace("ds.x.max() > 5", "ds.y.max() > 5")
        said = said.replace("ds.x.max() > 5", "ds.y.max() > 5")
        shell.get('%%commit "no x"', 'del zarr.open_group(store)["x"]')
        before, body = messages(shell), 'zarr.open_group(store)["y"][:] = 3'
    assert said in shell.refusal(f'%%commit "it" {options}', body)
    assert messages(shell) == before
    assert not shell["store"].in_transaction


def test_checks_that_passed_stand_in_the_log(shell: Typed):
    shell.get('%%commit "it" --only x --max-chunks 2 --no-delete', SET.format(200, 300, 3))
    assert "only x; at most 2 chunks; nothing deleted" in str(shell.get("%ice log"))


@pytest.mark.parametrize("expression", ["ds.x.max( <", "", "import os"])
def test_an_expectation_that_cannot_be_read_is_refused_before_the_cell_runs(shell: Typed, expression: str):
    assert "cannot be read" in shell.refusal(f'%%commit "it" --expect "{expression}"', "ran = True")
    assert "ran" not in shell.ip.user_ns


def test_a_dry_run_commits_nothing_and_shows_every_verdict(shell: Typed):
    before = messages(shell)
    shown = shell.get('%%commit "it" --dry-run --max-chunks 1', SET.format(200, 400, 3))
    assert isinstance(shown, Rehearsal)
    assert not shown.passed
    assert [verdict.passed for verdict in shown.verdicts] == [True, False]
    assert "2 chunks" in str(shown)
    assert messages(shell) == before
    assert values(shell) == [1, 2, 0, 0]


def test_chunks_written_with_the_bytes_they_had_are_reported_and_pruned(shell: Typed):
    same = 'zarr.open_group(store)["x"][0:100] = 1'
    plain = shell.get('%%commit "it"', same, SET.format(200, 300, 3))
    assert "1 chunk rewritten with the same bytes" in str(plain)
    pruned = shell.get('%%commit "again" --prune', same, SET.format(200, 300, 4))
    assert values(shell) == [1, 2, 4, 0]
    assert shell["store"].diff(pruned.version).arrays[0].changed_chunks == 1


# -- branches ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def apart(shell: Typed) -> Typed:
    """Return a shell on main, from which dev went its own way with one commit."""
    shell.get("%ice branch dev")
    shell.get("%ice switch dev")
    shell.get('%%commit "dev"', SET.format(0, 100, 5), SET.format(300, 400, 5))
    shell.get("%ice switch main")
    shell.get('%%commit "main"', SET.format(50, 150, 6))
    return shell


def test_a_merge_in_conflict_names_the_values_and_each_way_out_works(apart: Typed):
    said = apart.refusal("%ice merge dev")
    assert "x at [50:100]: 50 values" in said
    assert "--ours" in said
    assert "--array x=theirs" in said
    assert "would be refused" in str(apart.get("%ice merge dev --dry-run"))
    assert "would be committed" in str(apart.get("%ice merge dev --dry-run --ours"))
    assert messages(apart)[-1] == "main"
    for option, expected in (("--ours", 6), ("--theirs", 5), ("--array x=theirs", 5), ("--theirs --array x=ours", 6)):
        apart.get(f'%ice merge dev {option} -m "together"')
        assert zarr.open_group(apart["store"], mode="r")["x"][[0, 60, 120, 350]].tolist() == [5, expected, 6, 5]
        assert messages(apart)[-1] == "together"
        apart.get("%ice undo")
    assert messages(apart)[-1] == "main"


def test_a_pick_and_a_promotion_are_typed_the_same_way(apart: Typed):
    apart.get("%ice cherry-pick dev --theirs")
    assert zarr.open_group(apart["store"], mode="r")["x"][60] == 5
    assert "was not made on top of" in apart.refusal("%ice promote dev")
    apart.get("%ice branch ahead")
    apart.get("%ice switch ahead")
    apart.get('%%commit "ahead"', SET.format(0, 1, 7))
    apart.get("%ice switch main")
    assert "would move forward" in str(apart.get("%ice promote ahead --dry-run"))
    assert "promotion: 1 version of ahead" in str(apart.get("%ice promote ahead"))
    assert messages(apart)[-1] == "ahead"


# -- conflicts ---------------------------------------------------------------------------------------------------------


def test_a_conflict_offers_the_choices_and_retry(shell: Typed):
    said = shell.refusal('%%commit "mine"', THEIRS, SET.format(0, 100, 5))
    assert "x at [0:100]" in said
    assert "--retry" in said
    assert "--ours x or --theirs x" in said
    assert shell["other"].list_versions()[-1].message == "theirs"


def test_retry_runs_the_cell_again_on_the_newest_version(shell: Typed):
    shell.get("runs = []")
    race = "runs.append(1)\nif len(runs) == 1:" + THEIRS.replace("\n", "\n    ")
    add = 'x = zarr.open_group(store)["x"]\nx[0:100] = x[0:100] + 1'
    shell.get('%%commit "mine" --retry', race, add)
    assert len(shell["runs"]) == 2
    assert zarr.open_group(shell["store"], mode="r")["x"][40:60:10].tolist() == [2, 10]
    assert messages(shell)[-2:] == ["theirs", "mine"]


def test_when_both_appended_retry_is_the_offer(shell: Typed):
    grow = 'zarr.open_group({})["x"].append(np.ones({}))'
    theirs = f'other = IcechunkStore.open(store.repo)\nwith other.transaction("t"):\n    {grow.format("other", 100)}'
    said = shell.refusal('%%commit "mine"', theirs, grow.format("store", 50))
    assert "x in shape" in said
    assert "--retry" in said
    assert "--ours" not in said


@pytest.mark.parametrize(("side", "expected"), [("--ours x", [5, 5]), ("--theirs x", [1, 9])])
def test_a_side_is_chosen_for_an_array(shell: Typed, side: str, expected: list[float]):
    shell.get(f'%%commit "mine" {side}', THEIRS, SET.format(0, 100, 5), SET.format(300, 400, 5))
    found = zarr.open_group(shell["store"], mode="r")["x"]
    assert found[40:60:10].tolist() == expected
    assert found[350] == 5


# -- standing guards ---------------------------------------------------------------------------------------------------


def test_a_protected_branch_takes_no_commit_until_that_is_ended(shell: Typed):
    shell.get("%ice guard --protect main")
    assert "protected" in shell.refusal('%%commit "it"', SET.format(0, 100, 5))
    assert "protected" in shell.refusal("%ice reset HEAD~1")
    assert "protected" in shell.refusal("%ice undo")
    shell.get("%ice guard --unprotect main")
    shell.get('%%commit "it"', SET.format(0, 100, 5))


def test_a_demand_is_checked_in_every_commit_until_it_is_forgotten(shell: Typed):
    shell.get("%ice guard x --range 0/3 --dtype float64")
    assert "x must be dtype float64, between 0 and 3" in shell.refusal('%%commit "it"', SET.format(0, 100, 5))
    assert "between 0 and 3" in str(shell.get("%ice guard"))
    shell.get("%ice guard x --forget")
    shell.get('%%commit "it"', SET.format(0, 100, 5))


@pytest.mark.parametrize("line", ["guard --unique", "guard x", "guard x --range 3", "guard x --range a/b"])
def test_a_guard_that_demands_nothing_of_anything_is_refused_with_an_example(shell: Typed, line: str):
    assert "For example" in shell.refusal(f"%ice {line}")


# -- upkeep ------------------------------------------------------------------------------------------------------------


def test_expiry_is_planned_shown_and_then_done_exactly_so(shell: Typed):
    plan = shell.get("%ice expire --keep 2")
    assert [version.message for version in plan.versions] == ["first"]
    assert messages(shell) == ["first", "second", "third"]
    shell.get("%ice expire --yes")
    assert messages(shell) == ["second", "third"]
    assert values(shell) == [1, 2, 0, 0]


@pytest.mark.parametrize("verb", ["expire", "gc"])
def test_nothing_is_done_without_a_plan_that_was_shown(shell: Typed, verb: str):
    assert "No such plan was shown yet" in shell.refusal(f"%ice {verb} --yes")
    shell.get({"expire": "%ice expire --keep 2", "gc": "%ice gc"}[verb])
    assert "No such plan was shown yet" in shell.refusal(f"%ice {verb} --before 2024-01-01 --yes")
    assert messages(shell) == ["first", "second", "third"]


def test_a_plan_is_not_applied_to_a_repository_that_changed(shell: Typed):
    shell.get("%ice expire --keep 1")
    shell.get('%%commit "fourth"', SET.format(0, 100, 5))
    shell.refusal("%ice expire --yes")
    assert messages(shell) == ["first", "second", "third", "fourth"]


@pytest.mark.parametrize("options", ["", "--keep 1 --before 2024-01-01"])
def test_expiry_needs_a_date_or_a_number(shell: Typed, options: str):
    assert "For example" in shell.refusal(f"%ice expire {options}")


def test_garbage_is_kept_while_a_transaction_is_open_or_it_is_younger_than_a_day(shell: Typed):
    assert "less than a day ago" in shell.refusal("%ice gc --before now")
    shell.get("%ice gc --before now --recent")
    shell.get("%ice begin")
    assert "session is open" in shell.refusal("%ice gc --before now --recent")
    shell.get(SET.format(0, 100, 5))
    shell.get('%ice commit "it"')
    assert values(shell) == [5, 2, 0, 0]


def test_garbage_that_a_reset_left_is_deleted_and_everything_reachable_stays(shell: Typed):
    shell.get("%ice reset HEAD~1")
    shell.get("%ice gc --before now --recent")
    shell.get("%ice gc --yes")
    assert len(shell["store"].unreachable()) <= 1  # what is as young as this very second may stay
    assert values(shell) == [1, 0, 0, 0]


def test_usage_counts_every_version(shell: Typed):
    used = shell.get("%ice du")
    assert [row.added for row in used.versions] == [800, 800, 0]


def test_a_repository_of_format_1_is_upgraded_after_the_plan_was_seen(shell: Typed, tmp_path: Path):
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)), spec_version=1)
    shell.ip.user_ns["store"] = store = IcechunkStore.open(repo)
    with store.transaction("old"):
        zarr.open_group(store).attrs["n"] = 1
    assert "%ice upgrade" in str(shell.get("%ice doctor"))
    assert "%ice upgrade" in shell.refusal("%ice undo")
    shell.get("%ice upgrade")
    assert store.repo.spec_version == 1
    shell.get("%ice upgrade --yes")
    assert store.repo.spec_version > 1
    assert messages(shell) == ["old"]
    shell.get("%ice undo")
    assert messages(shell) == []


def test_every_plan_says_from_when(shell: Typed):
    assert f"{datetime.now(UTC):%Y-%m-}" in str(shell.get("%ice expire --keep 1"))
