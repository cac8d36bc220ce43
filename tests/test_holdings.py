"""The steps from version to version add up to the chunk tables of all of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.sync import sync

from icemagic.holdings import steps, total
from icemagic.nodes import read_chunks
from icemagic.usage import reachable
from upkeep import ACTIONS, history, new_repo


def stored(repo, snapshot_id):
    store = repo.readonly_session(snapshot_id=snapshot_id).store
    return dict(sync(read_chunks(store, "/x")).values())


@settings(deadline=None, max_examples=40)
@given(ACTIONS, st.randoms(), st.integers(0, 15))
def test_of_any_versions_in_any_order_the_steps_add_up_to_what_they_hold(actions, rng, some):
    repo, _ = history(actions)
    parents = [(snapshot_id, info.parent_id) for snapshot_id, info in reachable(repo).items()]
    rng.shuffle(parents)
    chosen = dict(parents[:some])
    expected = {}
    for snapshot_id in chosen:
        expected |= stored(repo, snapshot_id)
    assert total(steps(repo, chosen)) == expected


@settings(deadline=None, max_examples=40)
@given(ACTIONS)
def test_a_step_says_what_came_and_what_went_since_the_parent(actions):
    repo, _ = history(actions)
    parents = {snapshot_id: info.parent_id for snapshot_id, info in reachable(repo).items()}
    seen = []
    for step in steps(repo, parents):
        before = stored(repo, parents[step.id]) if parents[step.id] in parents else {}
        after = stored(repo, step.id)
        assert step.introduced == {chunk: after[chunk] for chunk in after.keys() - before.keys()}
        assert step.dropped == before.keys() - after.keys()
        assert parents[step.id] in seen or parents[step.id] not in parents
        seen.append(step.id)
    assert sorted(seen) == sorted(parents)


def test_a_history_longer_than_one_batch_is_read_whole():
    repo = new_repo()
    for _ in range(150):
        repo.writable_session("main").commit("empty", allow_empty=True)
    parents = {snapshot_id: info.parent_id for snapshot_id, info in reachable(repo).items()}
    assert len([step.id for step in steps(repo, parents)]) == 150
