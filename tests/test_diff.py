"""The diff against an oracle that reads every byte of both sides, on any two versions in any order."""

from __future__ import annotations

import json
import math
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import icechunk
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icemagic import IcechunkStore, diff
from icemagic.differences import Diff

# -- the oracle --------------------------------------------------------------------------------------------------------


class Side(NamedTuple):
    """All nodes and chunks of one version, as raw bytes; and the ids that nodes keep when they are moved."""

    nodes: dict[str, dict[str, Any]]
    chunks: dict[str, dict[str, bytes]]
    ids: dict[str, str]


def side(store: icechunk.IcechunkStore) -> Side:
    async def everything() -> dict[str, bytes]:
        found = {}
        async for key in store.list():
            value = await store.get(key, default_buffer_prototype())
            assert value is not None
            found[key] = value.to_bytes()
        return found

    raw = sync(everything())
    nodes = {
        key.removesuffix("zarr.json").rstrip("/") or "/": json.loads(value)
        for key, value in raw.items()
        if key.endswith("zarr.json")
    }
    chunks: dict[str, dict[str, bytes]] = {path: {} for path in nodes}
    for key, value in raw.items():
        if not key.endswith("zarr.json"):
            path, _, at = key.partition("/c/") if "/c/" in key else (key.removesuffix("/c"), "", "")
            chunks[path][at] = value
    return Side(nodes, chunks, {path: store.session.get_node_id(f"/{path.strip('/')}") for path in nodes})


def moves(a: Side, b: Side) -> dict[str, str]:
    """Return new to old path of what is on both sides, at a path that the other side does not have."""
    gone = {a.ids[path]: path for path in a.nodes.keys() - b.nodes.keys()}
    return {path: gone[b.ids[path]] for path in b.nodes.keys() - a.nodes.keys() if b.ids[path] in gone}


def moved(a: Side, b: Side) -> Side:
    """Return the first side with everything where it is on the second one."""
    new = {old: new for new, old in moves(a, b).items()}
    return Side(*({new.get(path, path): held for path, held in some.items()} for some in a))


def grid(node: dict[str, Any]) -> list[int]:
    return node["chunk_grid"]["configuration"]["chunk_shape"]


def total(node: dict[str, Any]) -> int:
    return math.prod(-(-length // chunk) for length, chunk in zip(node["shape"], grid(node), strict=True))


def same(one: object, other: object) -> bool:
    """Compare values of JSON: NaN equals NaN, True is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def arrays(a: Side, b: Side) -> dict[str, tuple[str, int, int, int]]:
    """Return status, changed chunks, chunks and bytes of every array that differs."""
    found = {}
    elsewhere, a = moves(a, b), moved(a, b)
    for path in a.nodes.keys() | b.nodes.keys():
        kinds = [other.nodes.get(path, {}).get("node_type") for other in (a, b)]
        if kinds[1] == "array" and kinds[0] != "array":
            held = b.chunks[path]
            found[path] = ("added", len(held), total(b.nodes[path]), sum(map(len, held.values())))
        elif kinds[0] == "array" and kinds[1] != "array":
            found[path] = ("removed", len(a.chunks[path]), total(a.nodes[path]), 0)
        elif kinds == ["array", "array"]:
            old, new = a.nodes[path], b.nodes[path]
            before, after = a.chunks[path], b.chunks[path]
            changed = {at for at in before.keys() | after.keys() if before.get(at) != after.get(at)}
            if grid(old) != grid(new):
                changed = set(after)
            defined = {key: value for key, value in old.items() if key != "attributes"}
            redefined = not same(defined, {key: value for key, value in new.items() if key != "attributes"})
            if changed or redefined or path in elsewhere:
                status = "resized" if old["shape"] != new["shape"] else "moved" if path in elsewhere else "changed"
                found[path] = (status, len(changed), total(new), sum(len(after[at]) for at in changed if at in after))
    return found


def groups(a: Side, b: Side) -> dict[str, str]:
    held = [{path for path, node in other.nodes.items() if node["node_type"] == "group"} for other in (moved(a, b), b)]
    elsewhere = {new: f"moved from {old}" for new, old in moves(a, b).items() if new in held[1]}
    return dict.fromkeys(held[0] - held[1], "removed") | dict.fromkeys(held[1] - held[0], "added") | elsewhere


def attributes(a: Side, b: Side) -> dict[tuple[str, str], str]:
    found = {}
    a = moved(a, b)
    for path in a.nodes.keys() & b.nodes.keys():
        if a.nodes[path]["node_type"] == b.nodes[path]["node_type"]:
            old, new = (other.nodes[path]["attributes"] for other in (a, b))
            for key in old.keys() | new.keys():
                if (key in old) != (key in new) or not same(old.get(key), new.get(key)):
                    found[path, key] = json.dumps([old.get(key), new.get(key)])
    return found


def check(found: Diff, a: Side, b: Side) -> None:
    assert {x.path: (x.status, x.changed_chunks, x.total_chunks, x.bytes) for x in found.arrays} == arrays(a, b)
    assert len(found.arrays) == len(arrays(a, b))
    assert found.groups == groups(a, b)
    edits = {(x.path, x.what): json.dumps([x.before, x.after]) for x in found.attributes}
    assert edits == attributes(a, b)
    assert found.is_empty == (not (arrays(a, b) or groups(a, b) or edits))
    a = moved(a, b)
    for array in found.arrays:
        if array.status in ("resized", "changed", "moved"):
            old, new = a.nodes[array.path], b.nodes[array.path]
            words = {change.what: (change.before, change.after) for change in array.changes}
            assert ("shape" in words) == (old["shape"] != new["shape"])
            assert ("dtype" in words) == (old["data_type"] != new["data_type"])
            assert ("chunks" in words) == (grid(old) != grid(new))
            if "shape" in words:
                assert words["shape"] == (tuple(old["shape"]), tuple(new["shape"]))


# -- random histories --------------------------------------------------------------------------------------------------

PATHS = ("a", "b", "g/a", "g/h/b", "g", "g/h")
# Not NaN itself, which icechunk refuses in attributes: Zarr and xarray write it as text.
VALUES = st.sampled_from([1, 1.0, True, "1", "NaN", None, [1, None], {"k": None}, {}])
DTYPES = st.sampled_from(["i4", "f8"])
EDITS = st.one_of(
    st.tuples(st.just("create"), st.sampled_from(PATHS), st.integers(0, 7), st.integers(1, 3), DTYPES),
    st.tuples(st.just("shard"), st.sampled_from(PATHS)),
    st.tuples(st.just("scalar"), st.sampled_from(PATHS)),
    st.tuples(st.just("group"), st.sampled_from(PATHS)),
    st.tuples(st.just("delete"), st.sampled_from(PATHS)),
    st.tuples(st.just("write"), st.sampled_from(PATHS), st.integers(0, 7), st.integers(0, 7)),
    st.tuples(st.just("resize"), st.sampled_from(PATHS), st.integers(0, 9)),
    st.tuples(st.just("append"), st.sampled_from(PATHS), st.integers(1, 3)),
    st.tuples(st.just("attribute"), st.sampled_from((*PATHS, "")), st.sampled_from("xy"), VALUES),
    st.tuples(st.just("no attribute"), st.sampled_from((*PATHS, "")), st.sampled_from("xy")),
)
STEP = st.tuples(st.sampled_from(["main", "dev", "new"]), st.lists(EDITS, min_size=1, max_size=4))
STEPS = st.lists(STEP, min_size=1, max_size=6)


class Editor:
    """Applies edits to a store; no value is written twice, so that equal bytes mean an untouched chunk."""

    def __init__(self, store: IcechunkStore) -> None:
        self.store = store
        self.count = 0

    def fresh(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        size = math.prod(shape)
        self.count += size
        return np.arange(self.count - size + 1, self.count + 1).reshape(shape)

    def apply(self, verb: str, path: str, *rest: Any) -> None:  # noqa: C901  one case an edit
        root = zarr.open_group(self.store, mode="a")
        node = root.get(path) if path else root
        parents = [root.get(path[:at]) for at in range(len(path)) if path[at] == "/"]
        if any(isinstance(parent, zarr.Array) for parent in parents):
            return
        match verb, node:
            case "create", _:
                length, chunk, dtype = rest
                array = root.create_array(path, shape=(length, 3), chunks=(chunk, 2), dtype=dtype, overwrite=True)
                array[...] = self.fresh(array.shape)
            case "shard", _:
                array = root.create_array(path, shape=(8,), chunks=(2,), shards=(4,), dtype="i4", overwrite=True)
                array[...] = self.fresh(array.shape)
            case "scalar", _:
                root.create_array(path, shape=(), dtype="i8", overwrite=True)[...] = self.fresh(())
            case "group", None:
                root.create_group(path)
            case "delete", zarr.Array() | zarr.Group():
                del root[path]
            case "write", zarr.Array() if node.shape:
                part = node[rest[0] : rest[0] + rest[1]]
                node[rest[0] : rest[0] + rest[1]] = self.fresh(part.shape)
            case "resize", zarr.Array() if node.shape:
                node.resize((rest[0], *node.shape[1:]))
            case "append", zarr.Array() if node.shape:
                node.append(self.fresh((rest[0], *node.shape[1:])))
            case "attribute", zarr.Array() | zarr.Group():
                node.attrs[rest[0]] = rest[1]
            case "no attribute", zarr.Array() | zarr.Group() if rest[0] in node.attrs:
                del node.attrs[rest[0]]


def history(store: IcechunkStore, steps: list[tuple[str, list[tuple[Any, ...]]]]) -> list[str]:
    """Make versions on branches; returns all snapshots, the empty root among them."""
    editor = Editor(store)
    made = [store.repo.lookup_branch("main")]
    for branch, edits in steps:
        name = f"branch-{len(store.branches())}" if branch == "new" else branch
        if name not in store.repo.list_branches():
            store.repo.create_branch(name, made[len(made) // 2])
        store.switch(name)
        with store.transaction("step") as txn:
            for edit in edits:
                editor.apply(*edit)
            working = txn.changes()
            before = side(store.repo.readonly_session(snapshot_id=txn.base).store)
            check(working, before, side(store.with_read_only(read_only=True)))
        if txn.version:
            made.append(txn.version.id)
    return made


def check_all(repo: icechunk.Repository, snapshots: list[str]) -> None:
    sides = {at: side(repo.readonly_session(snapshot_id=at).store) for at in snapshots}
    for a in snapshots:
        for b in snapshots:
            check(diff.between(repo, a, b, names=(a, b)), sides[a], sides[b])


def new_store() -> IcechunkStore:
    return IcechunkStore.create(f"memory:{uuid.uuid4()}")


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_the_diff_of_any_two_versions_equals_a_comparison_of_all_their_bytes(
    steps: list[tuple[str, list[tuple[Any, ...]]]],
) -> None:
    store = new_store()
    check_all(store.repo, history(store, steps))


@settings(max_examples=5, deadline=None)
@given(STEPS)
def test_it_holds_in_repositories_of_format_version_1(steps: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=1)
    check_all(repo, history(IcechunkStore.open(repo), steps))


@settings(max_examples=5, deadline=None)
@given(STEPS, STEPS)
def test_it_holds_after_older_versions_expired(
    before: list[tuple[str, list[tuple[Any, ...]]]], after: list[tuple[str, list[tuple[Any, ...]]]]
) -> None:
    store = new_store()
    history(store, before)
    limit = datetime.now(UTC)
    history_store = IcechunkStore.open(store.repo)
    made = history(history_store, after)[1:]
    gone = store.repo.expire_snapshots(limit)
    left = {info.id for branch in store.repo.list_branches() for info in store.repo.ancestry(branch=branch)}
    assert not gone & left
    check_all(store.repo, [at for at in [*made, *(left - set(made))] if at not in gone])


def test_it_holds_after_moves_of_groups_with_edits_before_and_after() -> None:
    store = new_store()
    editor = Editor(store)
    made = [store.repo.lookup_branch("main")]

    def step(*edits: tuple[Any, ...]) -> None:
        store.refresh()
        with store.transaction("step") as txn:
            for edit in edits:
                editor.apply(*edit)
        made.append(txn.version.id)

    def move(old: str, new: str) -> None:
        session = store.repo.rearrange_session("main")
        session.move(old, new)
        made.append(session.commit("move"))

    step(("create", "g/h/b", 5, 2, "i4"), ("create", "g/a", 4, 1, "f8"), ("create", "a", 3, 1, "i4"))
    step(("write", "g/a", 0, 2), ("attribute", "g/h", "x", None))
    move("/g", "/k")
    step(("write", "k/a", 2, 2), ("delete", "k/h/b"), ("create", "g/a", 2, 1, "i4"))
    move("/k/h", "/h")
    step(("write", "a", 0, 1), ("delete", "h"))
    check_all(store.repo, made)


# -- one by one --------------------------------------------------------------------------------------------------------


def test_a_version_differs_in_nothing_from_itself_nor_an_array_from_one_that_was_changed_and_is_the_same() -> None:
    store = new_store()
    with store.transaction("one"):
        zarr.create_array(store, name="a", shape=6, chunks=2, dtype="i4")[...] = 1
    with store.transaction("two"):
        zarr.open_array(store, path="a", mode="r+").attrs["x"] = 1
    with store.transaction("three"):
        del zarr.open_array(store, path="a", mode="r+").attrs["x"]
    for version in ("main", "main~1"):
        assert store.diff(version, version).is_empty
    assert store.diff("main~2", "main").is_empty
    assert store.diff("main~2", "main").summary() == "nothing differs"


@pytest.mark.parametrize("before", [None, 0, False, "", "NaN"])
@pytest.mark.parametrize("after", [None, 0, False, "", "NaN"])
def test_attributes_tell_null_zero_false_and_empty_apart(before: object, after: object) -> None:
    store = new_store()
    with store.transaction("one"):
        zarr.create_group(store, attributes={"x": before, "same": None})
    with store.transaction("two"):
        zarr.open_group(store, mode="r+").attrs["x"] = after
    found = store.diff("main~1", "main").attributes if len(store.list_versions()) == 2 else ()
    assert [change.what for change in found] == ([] if json.dumps(before) == json.dumps(after) else ["x"])


def test_strings_and_their_chunks_are_compared() -> None:
    store = new_store()
    with store.transaction("one"):
        array = zarr.create_array(store, name="s", shape=6, chunks=2, dtype=str)
        array[:] = np.array(["a", "bb", "", "ü", "e", "f"], dtype=object)
    with store.transaction("two"):
        zarr.open_array(store, path="s", mode="r+")[3:4] = np.array(["changed"], dtype=object)
    (found,) = store.diff("main~1", "main").arrays
    assert (found.path, found.status, found.changed_chunks, found.total_chunks) == ("s", "changed", 1, 3)
    check_all(store.repo, [version.id for version in store.list_versions()])


def test_every_property_of_an_array_that_changed_is_said_before_and_after() -> None:
    store = new_store()
    old = {"shape": (4,), "chunks": (2,), "dtype": "i4", "fill_value": 0, "dimension_names": ["x"]}
    new = {"shape": (5, 2), "chunks": (3, 1), "dtype": "f8", "fill_value": math.nan, "compressors": None}
    for properties in (old, new):
        with store.transaction("step"):
            zarr.create_array(store, name="a", overwrite=True, **properties)
    (found,) = store.diff("main~1", "main").arrays
    words = {change.what: (change.before, change.after) for change in found.changes}
    assert found.status == "resized"
    assert words == {
        "shape": ((4,), (5, 2)),
        "dtype": ("int32", "float64"),
        "chunks": ((2,), (3, 1)),
        "codecs": ("zstd level 5", "none"),
        "fill value": (0, "NaN"),
        "dimensions": (("x",), ()),
    }


def test_ten_thousand_changed_chunks_are_counted_in_a_second() -> None:
    store = new_store()
    with store.transaction("one"):
        zarr.create_array(store, name="a", shape=10_000, chunks=1, shards=None, dtype="i1")
    session = store.repo.writable_session("main")
    values = [default_buffer_prototype().buffer.from_bytes(bytes([i % 200 + 1] * 9)) for i in range(10_000)]

    async def fill() -> None:
        for i, value in enumerate(values):
            await session.store.set(f"a/c/{i}", value)

    sync(fill())
    session.commit("filled")
    store.refresh()
    before = time.perf_counter()
    (found,) = store.diff("main~1", "main").arrays
    assert time.perf_counter() - before < 2
    assert (found.changed_chunks, found.total_chunks, found.bytes) == (10_000, 10_000, 90_000)


def test_the_diff_of_a_transaction_shows_what_is_not_committed_yet(tmp_path: Path) -> None:
    store = IcechunkStore.create(tmp_path / "store")
    with store.transaction("one"):
        zarr.create_array(store, name="a", shape=6, chunks=2, dtype="i4")[...] = 1
    with store.transaction() as txn:
        assert store.status().uncommitted.is_empty
        zarr.open_array(store, path="a", mode="r+")[0] = 2
        zarr.create_group(store, path="g")
        found = store.status().uncommitted
        assert [(x.path, x.status, x.changed_chunks) for x in found.arrays] == [("a", "changed", 1)]
        assert found.groups == {"g": "added"}
        txn.discard()
        assert store.status().uncommitted.is_empty
    assert store.status().uncommitted is None
