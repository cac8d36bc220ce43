"""Blame against the chunk tables of every version, read one after another, and what it shows of it."""

from __future__ import annotations

import gc
import json
import re
import uuid
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.sync import sync

from icemagic import IcechunkStore, touches
from icemagic.attribution import Blame
from icemagic.blame import blame, why
from icemagic.errors import SelectionError
from icemagic.nodes import read_chunks
from shells import Typed
from upkeep import new_repo

CHUNK = (3, 2)
COLUMNS = 2

# -- the model and the oracle ------------------------------------------------------------------------------------------

Cell = tuple[int, int]


@dataclass(frozen=True)
class Made:
    """One version as the model knows it."""

    id: str
    name: str
    """Name of the array in it; empty where there is none."""
    rows: int
    """Rows of chunks that the array has."""
    birth: int
    """Number of the version that made the array."""
    touched: frozenset[Cell] = frozenset()
    """Chunks that it wrote, emptied or cut off."""


@dataclass
class Built:
    repo: icechunk.Repository
    made: list[Made] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def line(self, number: int) -> list[int]:
        """Return the numbers of the versions up to one, oldest first, from the one that made its array."""
        line = [number]
        while line[-1] > self.made[number].birth:
            line.append(self.parents[line[-1]])
        return line[::-1]


steps = st.lists(
    st.tuples(
        st.sampled_from(["write"] * 6 + ["again", "empty", "grow", "cut", "anew", "attributes", "move", "branch"]),
        st.integers(0, 7),
        st.integers(0, 7),
    ),
    min_size=1,
    max_size=14,
)


def build(actions: list[tuple[str, int, int]], spec_version: int = 2) -> Built:
    built = Built(new_repo(spec_version=spec_version))
    repo = built.repo
    now, branch = Made("", "", 0, 0), "main"
    at = -1
    for number, (kind, one, two) in enumerate([("anew", 2, 0), *actions], start=1):
        if kind == "branch":
            at = one % len(built.made)
            now, branch = built.made[at], f"branch{number}"
            repo.create_branch(branch, now.id)
            continue
        if kind == "move" and spec_version == 1:
            continue
        session = repo.rearrange_session(branch) if kind == "move" else repo.writable_session(branch)
        name, rows, birth, touched = _perform(session, now, (kind, one, two), number, len(built.made))
        now = Made(session.commit(f"{number} {kind}", allow_empty=True), name, rows, birth, frozenset(touched))
        built.made.append(now)
        built.parents.append(at)
        at = len(built.made) - 1
    return built


def _perform(
    session: icechunk.Session, now: Made, step: tuple[str, int, int], value: int, own: int
) -> tuple[str, int, int, set[Cell]]:
    kind, one, two = step
    if kind == "move":
        other = {"x": "y", "y": "x"}[now.name]
        session.move(f"/{now.name}", f"/{other}")
        return other, now.rows, now.birth, set()
    if kind == "anew":
        name, rows = now.name or "x", one % 3 + 1
        zarr.create_array(
            session.store,
            name=name,
            shape=(rows * CHUNK[0] - 1, COLUMNS * CHUNK[1]),
            chunks=CHUNK,
            dtype="i4",
            overwrite=True,
        )
        return name, rows, own, set()
    array = zarr.open_array(session.store, path=now.name, mode="r+")
    if kind == "attributes":
        array.attrs["number"] = value
    if kind in ("grow", "cut"):
        rows = now.rows + one % 2 + 1 if kind == "grow" else max(1, now.rows - one % 2 - 1)
        array.resize((rows * CHUNK[0] - 1, array.shape[1]))
        return now.name, rows, now.birth, set(product(range(rows, now.rows), range(COLUMNS)))
    if kind in ("write", "again", "empty"):
        at = (one % now.rows, two % COLUMNS)
        part = tuple(slice(number * size, (number + 1) * size) for number, size in zip(at, CHUNK, strict=True))
        array[part] = {"write": value, "again": array[part], "empty": 0}[kind]
        return now.name, now.rows, now.birth, {at}
    return now.name, now.rows, now.birth, set()


def tables(built: Built, line: list[int]) -> list[dict[Cell, Any]]:
    found = []
    for number in line:
        store = built.repo.readonly_session(snapshot_id=built.made[number].id).store
        found.append(sync(read_chunks(store, f"/{built.made[number].name}")))
    return found


def check(found: Blame, built: Built, number: int) -> None:
    line = built.line(number)
    held = tables(built, line)
    rows = built.made[number].rows
    assert found.writers.shape == (rows, COLUMNS)
    assert [v.id for v in found.versions] == [
        built.made[one].id for one in line if any(row < rows for row, _ in built.made[one].touched)
    ]
    for cell in product(range(rows), range(COLUMNS)):
        touching = [built.made[one].id for one in line if cell in built.made[one].touched]
        writer = found.versions[found.writers[cell]].id if found.writers[cell] >= 0 else None
        assert writer == (touching[-1] if touching else None)
        assert found.writes[cell] == len(touching)
        entry = held[-1].get(cell)
        assert found.stored[cell] == (-1 if entry is None else entry[1])
        changed = [
            built.made[one].id
            for one, before, after in zip(line, [{}, *held], held, strict=False)
            if before.get(cell) != after.get(cell)
        ]
        if entry is not None:
            assert writer == changed[-1]
        assert set(changed) <= set(touching)


@pytest.mark.parametrize("spec_version", [2, 1])
@given(actions=steps)
@settings(deadline=None, max_examples=80)
def test_the_writer_of_each_chunk_is_the_last_version_that_changed_its_entry_in_the_table(actions, spec_version):
    built = build(actions, spec_version)
    for number in range(0, len(built.made), 3):
        check(blame(built.repo, built.made[number].id, built.made[number].name), built, number)
    check(blame(built.repo, built.made[-1].id, built.made[-1].name), built, len(built.made) - 1)


@given(actions=steps, cut=st.integers(0, 14))
@settings(deadline=None, max_examples=60)
@pytest.mark.parametrize("spec_version", [2, 1])
def test_after_expiry_the_oldest_version_left_stands_for_those_before_it(actions, cut, spec_version):
    built = build([one for one in actions if one[0] != "branch"], spec_version)
    last = built.made[-1]
    before = blame(built.repo, last.id, last.name)
    line = [made.id for made in built.made]
    kept = min(cut, len(line) - 1)
    built.repo.expire_snapshots(built.repo.lookup_snapshot(line[kept]).written_at)
    after = blame(built.repo, last.id, last.name)
    left = line[kept:]
    assert not {v.id for v in after.versions} - set(left)
    assert (after.stored == before.stored).all()
    for cell in np.ndindex(before.writers.shape):
        was = before.versions[before.writers[cell]].id if before.writers[cell] >= 0 else None
        now = after.versions[after.writers[cell]] if after.writers[cell] >= 0 else None
        if was in left[1:]:
            assert now is not None
            assert now.id == was
        elif after.stored[cell] >= 0 or (spec_version == 2 and was):
            assert now is not None
            assert now.id == left[0]
            if was != left[0]:
                assert after.stands_for_expired(now)
                assert "an expired one before it" in repr(after)
        elif was is None:
            assert now is None


def test_in_format_1_what_expired_versions_wrote_is_named_and_what_later_ones_wrote_stays_theirs():
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=1)

    def make(store):
        zarr.create_array(store, name="x", shape=4, chunks=2, dtype="i4")[:] = 1
        zarr.create_array(store, name="y", shape=4, chunks=2, dtype="i4")[:] = 1

    commit(repo, "first", make)
    kept = commit(repo, "of y alone", edit(slice(0, 2), 5, path="y"))
    commit(repo, "second", edit(slice(0, 2), 2))
    repo.expire_snapshots(repo.lookup_snapshot(kept).written_at)
    found = newest(repo)
    assert writers(found) == ["second", "of y alone"]
    assert [found.stands_for_expired(version) for version in found.versions] == [True, False]
    assert found.writes.tolist() == [1, 1]


@given(actions=steps, low=st.integers(0, 5), high=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_a_region_is_blamed_like_the_same_chunks_of_the_whole(actions, low, high):
    built = build([one for one in actions if one[0] != "branch"])
    last = built.made[-1]
    session = built.repo.writable_session("main")
    length = last.rows * CHUNK[0] - 1
    array = zarr.open_array(session.store, path=last.name, mode="r+")
    metadata = json.loads(json.dumps(array.metadata.to_dict(), default=str))
    named = {**metadata, "dimension_names": ["t", "s"], "attributes": {}}
    document = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(json.dumps(named).encode())
    sync(session.store.set(f"{last.name}/zarr.json", document))
    at = session.commit("names")
    ends = sorted((low % length, high % length))
    part = blame(built.repo, at, last.name, {"t": (str(ends[0]), str(ends[1]))})
    whole = blame(built.repo, at, last.name)
    rows = slice(ends[0] // CHUNK[0], ends[1] // CHUNK[0] + 1)
    ids = np.array([*(v.id for v in whole.versions), ""])
    cut = np.array([*(v.id for v in part.versions), ""])
    np.testing.assert_array_equal(cut[part.writers], ids[whole.writers[rows]])
    np.testing.assert_array_equal(part.writes, whole.writes[rows])
    np.testing.assert_array_equal(part.stored, whole.stored[rows])
    assert (part.total, whole.total) == (whole.writers.size, whole.writers.size)


# -- what counts as writing --------------------------------------------------------------------------------------------


def commit(repo: icechunk.Repository, message: str, work, branch: str = "main") -> str:
    session = repo.writable_session(branch)
    work(session.store)
    return session.commit(message)


def edit(*place, path="x"):
    """Return what puts a value into a part of an array."""
    *part, value = place

    def work(store):
        zarr.open_array(store, path=path, mode="r+")[tuple(part)] = value

    return work


@pytest.fixture
def repo() -> icechunk.Repository:
    """Return a repository with an array of four chunks along t, of which the first two are written, and its labels."""
    repo = icechunk.Repository.create(icechunk.in_memory_storage())

    def make(store):
        x = zarr.create_array(store, name="x", shape=8, chunks=2, dtype="i4", dimension_names=["t"])
        x[:4] = 1
        t = zarr.create_array(store, name="t", shape=8, chunks=8, dtype="i4", dimension_names=["t"])
        t[:] = range(10, 90, 10)

    commit(repo, "first", make)
    return repo


def writers(found: Blame) -> list[str]:
    messages = [*(v.message for v in found.versions), ""]
    return [messages[number] for number in found.writers.ravel()]


def newest(repo: icechunk.Repository, **given: Any) -> Blame:
    return blame(repo, repo.lookup_branch("main"), "x", **given)


def test_identical_bytes_count_as_written(repo):
    commit(repo, "again", edit(slice(0, 2), 1))
    assert writers(newest(repo)) == ["again", "first", "", ""]


def test_a_deleted_chunk_is_told_apart_from_one_never_written_and_from_written_ones(repo):
    commit(repo, "gone", edit(slice(2, 4), 0))
    found = newest(repo)
    assert writers(found) == ["first", "gone", "", ""]
    assert [held >= 0 for held in found.stored] == [True, False, False, False]
    text = repr(found)
    assert "█-··" in text
    assert "never written: 2 chunks" in text
    assert "nothing stored, so only fill values: 1 chunk" in text
    assert re.search(r"t 30 … 40 +1 +nothing .*gone", text)
    frame = found.to_dataframe()
    assert frame["message"].isna().tolist() == [False, False, True, True]
    assert frame["bytes"].isna().tolist() == [False, True, True, True]


def test_a_merge_counts_as_writing_what_it_merged_in():
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("start"):
        zarr.create_array(store, name="x", shape=4, chunks=2, dtype="i4")[:] = 1
    other = IcechunkStore.open(store.repo)
    with store.transaction("late"):
        with other.transaction("early"):
            zarr.open_array(other, path="x", mode="r+")[:2] = 2
        zarr.open_array(store, path="x", mode="r+")[2:] = 3
    found = store.blame("x")
    assert writers(found) == ["early", "late"]


def test_an_array_made_anew_starts_anew_and_a_moved_one_keeps_its_history(repo):
    commit(repo, "second", edit(slice(4, 6), 2))
    session = repo.rearrange_session("main")
    session.move("/x", "/y")
    moved = session.commit("moved")
    assert writers(blame(repo, moved, "y")) == ["first", "first", "second", ""]
    commit(repo, "anew", lambda store: zarr.create_array(store, name="x", shape=4, chunks=2, dtype="i4"))
    assert writers(newest(repo)) == ["", ""]
    assert "last written by 0 versions" in repr(newest(repo))
    assert newest(repo).versions == ()


def test_versions_of_another_branch_are_not_blamed(repo):
    repo.create_branch("other", repo.lookup_branch("main"))
    commit(repo, "elsewhere", edit(slice(0, 2), 9), branch="other")
    commit(repo, "here", edit(slice(2, 4), 9))
    assert writers(newest(repo)) == ["first", "here", "", ""]


def test_what_is_not_committed_is_not_looked_at():
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("start"):
        zarr.create_array(store, name="x", shape=4, chunks=2, dtype="i4", dimension_names=["t"])[:] = 1
    with store.transaction("more"):
        zarr.open_array(store, path="x", mode="r+")[:] = 2
        assert writers(store.blame("x")) == ["start", "start"]
        assert [reading.value.value for reading in store.history("x").readings] == [1]
    assert writers(store.blame("x")) == ["more", "more"]
    assert [reading.value.value for reading in store.history("x").readings] == [2, 1]


# -- shapes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (5,), (0, 3), (4, 1), (2, 3, 4), (1, 1, 1, 5)])
def test_arrays_of_any_number_of_dimensions_are_blamed_and_shown(shape):
    repo = icechunk.Repository.create(icechunk.in_memory_storage())

    def make(store):
        array = zarr.create_array(store, name="g/x", shape=shape, chunks=(2,) * len(shape), dtype="i4")
        array[...] = 1

    at = commit(repo, "it", make)
    found = blame(repo, at, "/g/x")
    grid = tuple(-(-length // 2) for length in shape)
    assert found.writers.shape == grid
    assert (found.writers == 0).all()
    assert (found.writes == 1).all()
    assert found.to_dataarray().shape == grid
    assert len(found.to_dataframe()) == found.writers.size
    assert repr(found)
    assert found._repr_html_()
    if found.writers.size:
        assert "1 version" in repr(found)


def test_shards_count_as_what_is_stored():
    repo = icechunk.Repository.create(icechunk.in_memory_storage())

    def make(store):
        zarr.create_array(store, name="x", shape=8, chunks=2, shards=4, dtype="i4")[:] = 1

    commit(repo, "first", make)
    commit(repo, "second", edit(slice(0, 1), 2))
    assert writers(newest(repo)) == ["second", "first"]


def test_numbers_come_with_names_and_labels(repo):
    found = newest(repo).to_dataarray()
    assert found.dims == ("t",)
    assert found.coords["t"].values.tolist() == [10, 30, 50, 70]
    assert found.values.tolist() == [0, 0, -1, -1]
    frame = newest(repo).to_dataframe()
    assert frame.loc[10, "message"] == "first"
    assert isinstance(frame["time"].dtype, pd.DatetimeTZDtype)


def test_a_dimension_without_a_coordinate_has_chunk_numbers_and_one_without_a_name_a_made_up_one():
    repo = icechunk.Repository.create(icechunk.in_memory_storage())

    def make(store):
        names = ["s", None, "r", "r"]
        zarr.create_array(store, name="x", shape=(4, 4, 2, 2), chunks=(2, 2, 2, 2), dtype="i4", dimension_names=names)

    commit(repo, "it", make)
    found = newest(repo).to_dataarray()
    assert found.dims == ("s", "dim_1", "dim_2", "dim_3")
    assert found.coords["s"].values.tolist() == [0, 1]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "selection", "said"),
    [
        ("xx", {}, "no array or group 'xx'.*Did you mean x"),
        ("g", {}, "'g' is a group, not an array.*g/y"),
        ("/", {}, "'/' is a group"),
        ("x", {"s": ("1", "1")}, "x has no dimension s.*Known: t"),
        ("x", {"t": ("15", "15")}, "t has no label 15.*from 10 to 80"),
        ("x", {"t": ("a", "b")}, "t has no label a or b"),
        ("g/y", {"t": ("1", "1")}, "dimensions of g/y have no names"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(repo, path, selection, said):
    commit(repo, "group", lambda store: zarr.create_array(store, name="g/y", shape=4, chunks=2, dtype="i4"))
    for verb in (blame, why):
        with pytest.raises(SelectionError, match=f"(?s){said}"):
            verb(repo, repo.lookup_branch("main"), path, selection)


def test_no_sibling_that_is_broken_stands_in_the_way_of_a_region(repo):
    def breaks(store):
        zarr.create_array(store, name="nameless", shape=3, dtype="i4")
        zarr.create_array(store, name="other", shape=5, dtype="i4", dimension_names=["t"])

    commit(repo, "broken", breaks)
    with pytest.raises((ValueError, KeyError)):
        xr.open_zarr(repo.readonly_session("main").store, consolidated=False)
    assert writers(newest(repo, selection={"t": ("30", "60")})) == ["first", ""]


# -- what is shown -----------------------------------------------------------------------------------------------------


def scattered(side: int, commits: int) -> icechunk.Repository:
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    buffer = zarr.core.buffer.default_buffer_prototype().buffer

    def make(store):
        zarr.create_array(store, name="x", shape=(side, side), chunks=(1, 1), dtype="i1", compressors=None)

    commit(repo, "start", make)
    share = side * side // commits
    for number in range(commits):

        async def some(store, first=number * share):
            for place in range(first, first + share):
                at = place * 7_919 % (side * side)
                await store.set(f"x/c/{at // side}/{at % side}", buffer.from_bytes(b"\x01"))

        commit(repo, f"commit {number} of many <b>", lambda store, some=some: sync(some(store)))
    return repo


@pytest.fixture(scope="module")
def many() -> icechunk.Repository:
    return scattered(100, 200)


def test_ten_thousand_chunks_are_shown_in_little_room_and_what_is_left_out_is_said(many):
    found = blame(many, many.lookup_branch("main"), "x")
    assert found.writers.size == 10_000
    assert (found.writes == 1).all()
    html = found._repr_html_()
    assert len(html.encode()) < 50_000
    assert "chunks to a cell: " in html
    assert "<b>" not in html
    text = repr(found)
    assert "the newest 20 of 200 versions are named; to_dataframe() has them all" in text
    assert re.search(r"… and \d+ more places", text)
    assert max(map(len, text.splitlines())) < 400


def test_logs_are_read_once_and_never_taken_for_those_of_another_history(repo):
    commit(repo, "second", edit(slice(0, 2), 2))
    third = commit(repo, "third", edit(slice(4, 6), 3))
    assert writers(newest(repo)) == ["second", "first", "third", ""]
    memory = touches._memories[repo]
    assert len(memory._known) == 3
    repo.expire_snapshots(repo.lookup_snapshot(third).written_at)
    assert writers(newest(repo)) == ["third", "third", "third", ""]
    assert newest(repo).follows_expired
    commit(repo, "fourth", edit(slice(0, 2), 4))
    assert writers(newest(repo)) == ["fourth", "third", "third", ""]


def test_what_is_remembered_is_bounded_and_goes_with_its_repository(many, monkeypatch):
    monkeypatch.setattr(touches, "_ROOM", 50 * touches._EACH)
    fresh = icechunk.Repository.open(many.storage)
    gc.collect()
    before = len(touches._memories)
    assert len(blame(fresh, fresh.lookup_branch("main"), "x").versions) == 200
    memory = touches._memories[fresh]
    assert 0 < len(memory._known) <= 50
    assert memory.taken == sum(touch.size for touch in memory._known.values()) <= touches._ROOM
    assert len(blame(fresh, fresh.lookup_branch("main"), "x").versions) == 200
    del fresh, memory
    gc.collect()
    assert len(touches._memories) == before


def test_logs_of_versions_before_the_array_was_made_are_not_read(repo, monkeypatch):
    for number in range(100):
        commit(repo, f"{number}", edit(slice(0, 2), number + 2))
    commit(repo, "made", lambda store: zarr.create_array(store, name="y", shape=4, chunks=2, dtype="i4"))
    monkeypatch.setattr(touches, "_BATCH", 8)
    fresh = icechunk.Repository.open(repo.storage)
    blame(fresh, repo.lookup_branch("main"), "y")
    assert len(touches._memories[fresh]._known) <= 8


# -- why ---------------------------------------------------------------------------------------------------------------


def test_why_shows_the_cells_of_the_newest_writers_and_counts_the_rest(shell: Typed):
    shell.open_memory()
    shell.get('%%commit "made"', 'zarr.create_array(store, name="x", shape=12, chunks=2, dtype="i4")[:] = 1')
    for number in range(5):
        shell.get(f'%%commit "write {number}"', f'zarr.open_array(store, path="x")[{number} * 2] = 5  # cell {number}')
    text = str(shell.get("%ice why x"))
    shown = re.findall(r"# cell (\d)", text)
    assert shown == ["4", "3", "2"]
    assert "… and 3 older versions" in text
    assert "the newest 3 of 6 versions are named" in text
    shell.get('%%commit "all of it"', 'zarr.open_array(store, path="x")[:] = 7')
    assert "6 versions wrote chunks of it before" in str(shell.get("%ice why x"))
    shell.get("%ice undo")
    text = str(shell.get("%ice why x HEAD~2"))
    assert re.findall(r"# cell (\d)", text) == ["2", "1", "0"]
    assert [v.message for v, _ in shell["store"].why("x", "HEAD~5").origins] == ["made"]


def test_why_says_when_nothing_was_recorded_and_when_the_writer_expired(repo):
    second = commit(repo, "second", edit(slice(0, 2), 2))
    assert "nothing was recorded" in repr(why(repo, second, "x"))
    repo.expire_snapshots(repo.lookup_snapshot(second).written_at)
    assert "It stands for versions before it, too" in repr(why(repo, second, "x"))


def test_long_cells_and_many_places_leave_room_for_each_other(many):
    session = many.writable_session("main")
    edit(slice(0, 50), slice(0, 50), 2)(session.store)
    long = {"icemagic": {"author": "Ada", "source": "y = 1\n" * 2_000, "source_hash": "abc"}}
    at = session.commit("long", long)
    found = why(many, at, "x")
    assert len(found._repr_html_().encode()) < 50_000
    assert "y = 1" in repr(found)
    assert repr(found).count("nothing was recorded") == 2


# -- typed -------------------------------------------------------------------------------------------------------------


def test_the_magic_answers_what_the_method_does(shell: Typed):
    store = shell.open_memory()
    shell.get(
        '%%commit "made"',
        'xr.Dataset({"v": ("t", np.arange(6.0))}, {"t": np.arange(6)}).chunk(t=2).to_zarr(store)',
    )
    shell.get('%%commit "changed"', 'zarr.open_array(store, path="v", mode="r+")[0] = 9')
    for line, expected in [
        ("blame v", store.blame("v")),
        ("blame v HEAD~1", store.blame("v", "HEAD~1")),
        ("blame v --sel t=0/1 main", store.blame("v", selection={"t": ("0", "1")})),
        ("blame v --sel t=0/1", store.blame("v", selection={"t": "0/1"})),
        ("why v --sel t=5", store.why("v", selection={"t": "5"})),
    ]:
        assert str(shell.get(f"%ice {line}")) == str(expected), line
    assert "2 of its 3 chunks" in str(shell.get("%ice blame v --sel t=1/2"))
    assert "Did you mean v" in shell.refusal("%ice blame V")


# -- real observations -------------------------------------------------------------------------------------------------


def test_a_shift_of_one_satellite_for_one_hour_is_found_in_the_real_observations(shell: Typed, shared_data: Path):
    shell.open_memory()
    file = shared_data / "rosalia_reference_2025-001_00-06h.nc"
    shell.get('%%commit "observations"', f'raw = xr.open_dataset("{file}").load()', "ready = preprocess_dataset(raw)",
              "ready.chunk(epoch=360).to_zarr(store, encoding={name: {} for name in ready.variables})")  # fmt: skip
    sid = shell.get("hour = slice('2025-01-01T02:00', '2025-01-01T02:59:55')",
                    "str(raw.SNR.sel(epoch=hour).count('epoch').idxmax('sid').item())")  # fmt: skip
    shell.get(
        '%%commit "2 dB more"',
        "ds = xr.open_zarr(store, chunks=None)",
        "rows = ds.indexes['epoch'].slice_indexer(hour.start, hour.stop)",
        f"column = list(ds.sid.values).index({sid!r})",
        "snr = zarr.open_array(store, path='SNR', mode='r+')",
        "snr[rows, column] = snr[rows, column] + 2",
    )
    store = shell["store"]
    found = store.blame("SNR")
    assert found.writers.ravel().tolist() == [0] * 4 + [1] * 2 + [0] * 6
    assert "epoch 2025-01-01T02:00 … 02:59:55, all sid" in repr(found)
    inside = f'epoch=2025-01-01T02:30:00 "sid={sid}"'
    text = str(shell.get(f"%ice history SNR {inside}"))
    assert "2 dB more" in text
    assert "+2" in text
    readings = store.history("SNR", {"epoch": "2025-01-01T02:30:00", "sid": sid}).readings
    assert readings[0].value.value == pytest.approx(readings[1].value.value + 2)
    outside = store.history("SNR", {"epoch": "2025-01-01T03:30:00", "sid": sid})
    assert [reading.version.message for reading in outside.readings] == ["observations"]
    hour = store.history("SNR", {"epoch": "2025-01-01T02", "sid": sid})
    assert hour.readings[0].value.total == 720
    source = xr.open_dataset(file)["SNR"].sel(sid=sid, epoch=slice("2025-01-01T02:00", "2025-01-01T02:59:55"))
    assert hour.readings[1].value.value == pytest.approx(float(source.mean()), rel=1e-6)
    assert hour.readings[0].value.value == pytest.approx(float(source.mean()) + 2, rel=1e-6)
    assert "snr[rows, column] + 2" in str(shell.get("%ice why SNR --sel epoch=2025-01-01T02:30"))
    assert "snr[rows, column] + 2" not in str(shell.get("%ice why SNR --sel epoch=2025-01-01T03:30"))
