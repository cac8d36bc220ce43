"""What two sides changed is put together or refused, as a model in plain Python says."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icemagic import IcechunkStore
from icemagic.errors import ConflictError, NothingToCommitError
from icemagic.transaction import Terms

CHUNK = 100  # 800 bytes: beyond what icechunk keeps inside a manifest
START = 3


@dataclass
class Model:
    """Arrays as chunk values, attributes of arrays and of the root."""

    chunks: dict[str, list[float]] = field(default_factory=dict)
    attributes: dict[str, dict[str, int]] = field(default_factory=lambda: {"": {}})

    def do(self, step: tuple[str, str, int, int]) -> None:
        kind, name, number, value = step
        if kind == "group":
            self.attributes[""][f"key{number}"] = value
        elif kind == "new" and name not in self.chunks:
            self.chunks[name], self.attributes[name] = [float(value)] * START, {}
        elif name not in self.chunks:
            return
        elif kind == "write":
            self.chunks[name][number % len(self.chunks[name])] = float(value)
        elif kind == "attribute":
            self.attributes[name][f"key{number}"] = value
        elif kind == "grow":
            self.chunks[name] += [0.0] * (number + 1)
        elif kind == "cut":
            self.chunks[name] = self.chunks[name][: max(1, len(self.chunks[name]) - number - 1)]
        elif kind == "delete":
            del self.chunks[name], self.attributes[name]


def perform(store: IcechunkStore, step: tuple[str, str, int, int]) -> None:
    kind, name, number, value = step
    root = zarr.open_group(store)
    if kind == "group":
        root.attrs[f"key{number}"] = value
    elif kind == "new" and name not in root:
        root.create_array(name, shape=START * CHUNK, chunks=CHUNK, dtype="f8", compressors=None)[:] = value
    elif name not in root:
        return
    elif kind == "write":
        at = number % (root[name].shape[0] // CHUNK)
        root[name][at * CHUNK : (at + 1) * CHUNK] = value
    elif kind == "attribute":
        root[name].attrs[f"key{number}"] = value
    elif kind == "grow":
        root[name].resize(root[name].shape[0] + (number + 1) * CHUNK)
    elif kind == "cut":
        root[name].resize(max(CHUNK, root[name].shape[0] - (number + 1) * CHUNK))
    elif kind == "delete":
        del root[name]


def held(store: IcechunkStore) -> Model:
    root = zarr.open_group(store, mode="r")
    found = Model(attributes={"": dict(root.attrs)})
    for name, array in root.arrays():
        values = array[:].reshape(-1, CHUNK)
        assert (values == values[:, :1]).all()
        found.chunks[name], found.attributes[name] = values[:, 0].tolist(), dict(array.attrs)
    return found


def clashes(base: Model, ours: Model, theirs: Model) -> bool:
    """Whether both sides changed one thing differently."""
    for name in base.chunks.keys() | ours.chunks.keys() | theirs.chunks.keys():
        states = [(side.chunks.get(name), side.attributes.get(name)) for side in (base, ours, theirs)]
        a, b, c = states
        both_resized = all(state[0] is not None for state in states) and len(a[0]) not in (len(b[0]), len(c[0]))
        if a in (b, c) or (b == c and not both_resized):
            continue
        if any(state[0] is None for state in states) or _parts_clash(*states):
            return True
    return _keys_clash(base.attributes[""], ours.attributes[""], theirs.attributes[""])


def _parts_clash(a: Any, b: Any, c: Any) -> bool:
    lengths = [len(state[0]) for state in (a, b, c)]
    if lengths[0] not in lengths[1:]:
        return True
    length = lengths[1] if lengths[2] == lengths[0] else lengths[2]
    for at in range(max(lengths)):
        values = [state[0][at] if at < len(state[0]) else None for state in (a, b, c)]
        # A new chunk that nobody wrote reads as the fill value.
        x, y, z = (0.0 if value is None and at >= lengths[0] else value for value in values)
        if y not in (x, z) and z != x and at < length:
            return True
        written = {y, z} - {x, None}
        if at >= length and written:
            return True
    return _keys_clash(a[1], b[1], c[1])


def _keys_clash(a: dict[str, int], b: dict[str, int], c: dict[str, int]) -> bool:
    return any(b.get(key) not in (a.get(key), c.get(key)) and c.get(key) != a.get(key) for key in {**a, **b, **c})


def steps(low: int) -> st.SearchStrategy[list[tuple[str, str, int, int]]]:
    """Return edits whose values do not occur on the other side, but for those of attributes."""
    kinds = st.sampled_from(["write"] * 5 + ["attribute", "group", "grow", "cut", "new", "delete"])
    step = st.tuples(kinds, st.sampled_from("abc"), st.integers(0, 2), st.integers(low, low + 5))
    return st.lists(step, min_size=1, max_size=5)


def merged(base: Model, ours: Model, theirs: Model) -> Model:
    """Put together what does not clash."""
    found = copy.deepcopy(theirs)
    for name in base.chunks.keys() | ours.chunks.keys():
        if (ours.chunks.get(name), ours.attributes.get(name)) == (base.chunks.get(name), base.attributes.get(name)):
            continue
        if name not in ours.chunks:
            found.chunks.pop(name, None), found.attributes.pop(name, None)
        elif name not in base.chunks or name not in theirs.chunks:
            found.chunks[name], found.attributes[name] = ours.chunks[name], ours.attributes[name]
        else:
            a, b, c = (side.chunks[name] for side in (base, ours, theirs))
            length = len(b) if len(c) == len(a) else len(c)
            sides = [[*side, *[0.0] * length][:length] for side in (a, b, c)]
            found.chunks[name] = [y if y != x else z for x, y, z in zip(*sides, strict=True)]
            found.attributes[name] |= {
                key: value for key, value in ours.attributes[name].items() if base.attributes[name].get(key) != value
            }
    found.attributes[""] |= {
        key: value for key, value in ours.attributes[""].items() if base.attributes[""].get(key) != value
    }
    return found


@pytest.fixture
def pair() -> tuple[IcechunkStore, IcechunkStore]:
    return started()


def started() -> tuple[IcechunkStore, IcechunkStore]:
    store = IcechunkStore.create(f"memory:{uuid4()}")
    with store.transaction("start"):
        for name in "ab":
            perform(store, ("new", name, 0, 1))
    return store, IcechunkStore.open(store.repo)


@given(mine=steps(10), others=steps(20))
@example(mine=[("cut", "a", 0, 0), ("grow", "a", 0, 0)], others=[("cut", "a", 0, 0)])  # rows made anew, rows cut off
@example(mine=[("cut", "a", 0, 0)], others=[("cut", "a", 0, 0), ("grow", "a", 0, 0)])
@example(mine=[("grow", "a", 0, 0), ("cut", "a", 0, 0)], others=[("attribute", "a", 0, 20)])  # ours comes to nothing
@settings(max_examples=150, deadline=None)
def test_what_two_writers_changed_is_merged_or_refused_as_the_model_says(
    mine: list[tuple[str, str, int, int]], others: list[tuple[str, str, int, int]]
):
    store, other = started()
    base = held(store)
    ours, theirs = copy.deepcopy(base), copy.deepcopy(base)
    with store.transaction() as txn:
        for step in mine:
            perform(store, step)
            ours.do(step)
        with other.transaction() as second:
            for step in others:
                perform(other, step)
                theirs.do(step)
            if second.session.has_uncommitted_changes:
                second.commit("theirs")
        before = held(other)
        assert before == theirs
        if not txn.session.has_uncommitted_changes:
            return
        foreseen = txn.forecast()
        refused = False
        try:
            txn.commit("ours")
        except ConflictError:
            refused = True
            txn.discard()
        except NothingToCommitError:
            assert merged(base, ours, theirs) == theirs  # they did the same
            txn.discard()
    assert refused == clashes(base, ours, theirs)
    if foreseen:
        assert refused == ("would conflict" in foreseen[0])
    other.refresh()
    assert held(other) == (theirs if refused else merged(base, ours, theirs))


CONFLICTS = {
    "one chunk": ([("write", "a", 0, 10)], [("write", "a", 0, 20)]),
    "an attribute": ([("attribute", "a", 0, 10)], [("attribute", "a", 0, 20)]),
    "an attribute of the group": ([("group", "", 0, 10)], [("group", "", 0, 20)]),
    "the shape": ([("grow", "a", 0, 0)], [("grow", "a", 1, 0)]),
    "a removed array": ([("delete", "a", 0, 0)], [("write", "a", 0, 20)]),
    "an array removed by the other": ([("write", "a", 0, 10)], [("delete", "a", 0, 0)]),
    "a new array": ([("new", "c", 0, 10)], [("new", "c", 0, 20)]),
    "a chunk that was cut off": ([("cut", "a", 0, 0)], [("write", "a", 2, 20)]),
    "a chunk that the other cut off": ([("write", "a", 2, 10)], [("cut", "a", 0, 0)]),
    "one of two chunks that were cut off": ([("cut", "a", 1, 0)], [("write", "a", 2, 20)]),
    "one of two chunks that the other cut off": ([("write", "a", 2, 10)], [("cut", "a", 1, 0)]),
    "new rows, beside others of fill values": ([("grow", "a", 0, 0), ("write", "a", 3, 10)], [("grow", "a", 0, 0)]),
    "new rows of fill values, beside others": ([("grow", "a", 0, 0)], [("grow", "a", 0, 0), ("write", "a", 3, 20)]),
}


@pytest.mark.parametrize("name", CONFLICTS)
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_choice_settles_a_conflict_for_its_array(pair, name: str, side: str):
    store, other = pair
    mine, others = CONFLICTS[name]
    path = f"/{mine[0][1]}"
    base, ours, theirs = held(store), held(store), held(store)
    with store.transaction() as txn:
        for step in mine:
            perform(store, step)
            ours.do(step)
        perform(store, ("write", "b", 1, 15))  # something that does not clash comes along either way
        with other.transaction("theirs"):
            for step in others:
                perform(other, step)
                theirs.do(step)
        with pytest.raises(ConflictError):
            txn.commit("ours")
        txn.commit("ours", terms=Terms(choices={path: side}))
    expected = ours if side == "ours" else theirs
    expected.chunks["b"][1] = 15.0
    assert held(store) == expected
    assert base != expected


def test_what_was_cut_off_does_not_come_back_when_the_array_grows_again(pair):
    store, other = pair
    with store.transaction() as txn:
        perform(store, ("cut", "a", 0, 0))
        with other.transaction("theirs"):
            perform(other, ("write", "a", 2, 20))
        txn.commit("cut", terms=Terms(choices={"/a": "ours"}))
    with store.transaction("grow"):
        perform(store, ("grow", "a", 0, 0))
    assert held(store).chunks["a"] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("rows", [(0, 5), (5, 0), (0, 0), (5, 5), (5, 6)])
def test_two_appends_never_take_each_others_place_even_where_rows_of_fill_values_leave_no_chunk(pair, rows):
    ours, theirs = pair
    with ours.transaction("rows"):
        zarr.create_array(ours, name="rows", shape=(0,), chunks=(CHUNK,), dtype="f8", fill_value=0)
    with pytest.raises(ConflictError, match="rows in shape") as refused, ours.transaction("ours"):
        zarr.open_array(ours, path="rows", mode="r+").append(np.full(3, rows[0], dtype="f8"))
        with theirs.transaction("theirs"):
            zarr.open_array(theirs, path="rows", mode="r+").append(np.full(3, rows[1], dtype="f8"))
    assert "--retry" in refused.value.hint
    assert zarr.open_array(IcechunkStore.open(ours.repo), path="rows", mode="r")[:].tolist() == [rows[1]] * 3


def test_an_encoding_changed_on_one_side_does_not_meet_chunks_of_the_other(pair):
    store, other = pair
    with store.transaction() as txn:
        zarr.open_group(store)["a"].attrs["scale_factor"] = 0.5
        with other.transaction("theirs"):
            perform(other, ("write", "a", 0, 20))
        with pytest.raises(ConflictError, match=r"a in attribute scale_factor, without which"):
            txn.commit("scale")
        txn.discard()


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_choice_takes_numbers_together_with_their_encoding(pair, side: str):
    store, other = pair
    with store.transaction() as txn:
        zarr.open_group(store)["a"].attrs["scale_factor"] = 0.5
        perform(store, ("write", "b", 1, 15))
        with other.transaction("theirs"):
            perform(other, ("write", "a", 0, 20))
        txn.commit("scale", terms=Terms(choices={"/a": side}))
    found = held(store)
    assert (found.chunks["a"][0], found.attributes["a"]) == ((1, {"scale_factor": 0.5}) if side == "ours" else (20, {}))


@pytest.mark.parametrize("remover", ["ours", "theirs"])
def test_nothing_new_lands_in_a_group_that_the_other_side_removed(remover: str):
    store = IcechunkStore.create(f"memory:{uuid4()}")
    with store.transaction("start"):
        zarr.open_group(store).create_group("g").create_array("x", shape=2, dtype="i4")[:] = 1
    other = IcechunkStore.open(store.repo)

    def remove(at: IcechunkStore) -> None:
        del zarr.open_group(at)["g"]

    def add(at: IcechunkStore) -> None:
        zarr.open_group(at)["g"].create_array("y", shape=2, dtype="i4")[:] = 2

    first, second = (remove, add) if remover == "ours" else (add, remove)
    with store.transaction() as txn:
        first(store)
        with other.transaction("theirs"):
            second(other)
        with pytest.raises(ConflictError, match="g/y in its group, which one side removed"):
            txn.commit("ours")
        txn.discard()
    assert "g/x" in zarr.open_group(other) or "g" not in zarr.open_group(other)


def test_the_branch_may_be_reset_under_a_transaction_without_loss(pair):
    store, other = pair
    with other.transaction("second"):
        perform(other, ("write", "b", 0, 20))
    store.refresh()
    with store.transaction() as txn:
        perform(store, ("write", "a", 0, 10))
        other.reset("HEAD~1")
        txn.commit("ours")
    assert held(store).chunks == {"a": [10.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0]}
    assert [version.message for version in store.list_versions()] == ["start", "ours"]


def test_chunks_are_carried_bit_by_bit(pair):
    store, other = pair
    values = np.random.default_rng(1).random(CHUNK)
    with store.transaction() as txn:
        zarr.open_group(store)["a"][:CHUNK] = values
        with other.transaction("theirs"):
            perform(other, ("write", "a", 1, 20))
            zarr.open_group(other)["a"].attrs["note"] = "so that icechunk itself does not rebase"
        txn.commit("ours")
    assert (zarr.open_group(store, mode="r")["a"][:CHUNK] == values).all()
    assert zarr.open_group(store, mode="r")["a"].attrs["note"].startswith("so that")
