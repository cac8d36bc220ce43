"""The history of a value against reading it in every version with xarray, and what it reads for that."""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icemagic import IcechunkStore, following, selecting
from icemagic.errors import SelectionError
from icemagic.following import follow
from icemagic.timeline import Timeline
from shells import Typed
from upkeep import new_repo

# -- the oracle --------------------------------------------------------------------------------------------------------

CHUNKS = {"v": (3, 2), "t": (2,), "s": (2,)}
STEPS = [
    *["set"] * 4, "missing", "again", *["append"] * 3, "front", "cut", "columns", "reverse", "relabel",
    "anew", "scale", "remove", "move", "plain", "branch",
]  # fmt: skip
steps = st.lists(
    st.tuples(st.sampled_from(STEPS), st.integers(0, 7), st.integers(0, 7)),
    min_size=1,
    max_size=12,
)


@dataclass(frozen=True)
class Version:
    id: str
    group: str
    """Name of the group in it."""


@dataclass
class Built:
    repo: icechunk.Repository
    made: list[Version] = field(default_factory=list)
    parents: dict[str, Version | None] = field(default_factory=dict)

    def line(self) -> list[Version]:
        """Return the versions up to the last one, oldest first."""
        at: Version | None = self.made[-1]
        line = []
        while at is not None:
            line.append(at)
            at = self.parents[at.id]
        return line[::-1]


def table(rows: int, value: int) -> xr.Dataset:
    t = np.arange(rows) * 10
    values = (np.arange(rows * 2).reshape(rows, 2) + 100 * value).astype("f8")
    return xr.Dataset({"v": (("t", "s"), values)}, {"t": t, "s": ["b", "a"]})


def build(actions: list[tuple[str, int, int]], *, disorder: bool) -> Built:
    built = Built(new_repo())
    branch, at = "main", None
    for number, (kind, one, two) in enumerate([("anew", 3, 0), *actions], start=1):
        if kind == "branch":
            at = built.made[one % len(built.made)]
            branch = f"branch{number}"
            built.repo.create_branch(branch, at.id)
            continue
        name = at.group if at else "g"
        if kind == "move":
            session = built.repo.rearrange_session(branch)
            name = {"g": "h", "h": "g"}[name]
            session.move(f"/{at.group}", f"/{name}")
        else:
            session = built.repo.writable_session(branch)
            perform(session.store, name, kind if disorder or kind != "reverse" else "plain", (one, two), number)
        parent, at = at, Version(session.commit(f"{number} {kind}", allow_empty=True), name)
        built.made.append(at)
        built.parents[at.id] = parent
    return built


def perform(store: icechunk.IcechunkStore, name: str, kind: str, arguments: tuple[int, int], value: int) -> None:
    """Do one step in a group; what needs the array is left out where there is none."""
    one, two = arguments
    if kind == "anew":
        encoding: Any = {array: {"chunks": chunks} for array, chunks in CHUNKS.items()}
        encoding["v"] |= {"dtype": "i4", "scale_factor": 0.5, "_FillValue": -1} if two % 2 else {}
        ds = table(one % 4 + 2, value)
        ds.to_zarr(store, group=name, mode="w", encoding=encoding, consolidated=False)
        return
    group = zarr.open_group(store, path=name, mode="r+")
    if kind == "plain" or "v" not in group:
        return
    if kind == "remove":
        del group["v"]
    elif kind == "scale":
        group["v"].attrs["scale_factor"] = two % 2 + 0.5
    else:
        work = in_place if kind in ("set", "missing", "again") else reshape
        work(group, kind, arguments, value)


def in_place(group: zarr.Group, kind: str, arguments: tuple[int, int], value: int) -> None:
    v = group["v"]
    at = tuple(one % length for one, length in zip(arguments, v.shape, strict=True))
    v[at] = {"set": value, "missing": -1 if v.dtype.kind == "i" else math.nan, "again": v[at]}[kind]


def reshape(group: zarr.Group, kind: str, arguments: tuple[int, int], value: int) -> None:
    """Let rows and columns come, go and move, with their labels."""
    one, two = arguments
    v, t, s = group["v"], group["t"], group["s"]
    values, times, names = v[:], t[:], s[:]
    if kind == "append":
        more = one % 3 + 1
        times = np.append(times, times.max() + 10 * (1 + np.arange(more)))
        values = np.concatenate([values, np.full((more, values.shape[1]), value)])
    elif kind in ("front", "cut") and len(times) > 1:
        keep = slice(1, None) if kind == "front" else slice(None, -1)
        times, values = times[keep], values[keep]
    elif kind == "columns":
        names = np.append(names, np.array([f"z{value}" if one % 2 else f"c{len(names)}"], dtype=names.dtype))
        values = np.concatenate([values, np.full((len(times), 1), value)], axis=1)
    elif kind == "reverse":
        times, values = (times[::-1], values[::-1]) if two % 2 else (times, values[:, ::-1])
        names = names if two % 2 else names[::-1]
    elif kind == "relabel":
        times[-1] = times.max() + 5
    for array, found in ((v, values), (t, times), (s, names)):
        if array.shape != found.shape:
            array.resize(found.shape)
        write_changed(array, found)


def write_changed(array: zarr.Array, values: np.ndarray[Any, Any]) -> None:
    """Write only the chunks in which a value differs, as an append does."""
    for start in range(0, len(values), array.chunks[0]):
        part = slice(start, start + array.chunks[0])
        if array[part].tolist() != values[part].tolist():
            array[part] = values[part]


def read(repo: icechunk.Repository, version: Version, labels: dict[str, Any]) -> tuple[float, int, int] | None:
    """Return mean, count and total of a region in one version, read with xarray."""
    store = repo.readonly_session(snapshot_id=version.id).store
    with xr.open_zarr(store, group=version.group, consolidated=False, chunks=None) as ds:
        if "v" not in ds:
            return None
        part = ds["v"]
        for dim, (first, last) in labels.items():
            inside = [first <= one <= last for one in ds[dim].values.tolist()]
            if not any(inside):
                return None
            part = part.isel({dim: inside})
        values = part.values.ravel()
    known = values[~np.isnan(values)]
    return (float(known.mean()) if known.size else math.nan), known.size, values.size


def expected(built: Built, labels: dict[str, Any]) -> list[tuple[str, tuple[float, int, int] | None]]:
    found: list[tuple[str, Any]] = []
    for version in built.line():
        value = read(built.repo, version, labels)
        if repr(value) != repr(found[-1][1] if found else None):
            found.append((version.id, value))
    return found[::-1]


def said(found: Timeline) -> list[tuple[str, tuple[float, int, int] | None]]:
    return [
        (
            reading.version.id,
            reading.value and (float(reading.value.value), reading.value.count, reading.value.total),
        )
        for reading in found.readings
    ]


def check(built: Built, labels: dict[str, Any]) -> None:
    wanted = expected(built, labels)
    selection = {dim: tuple(map(str, ends)) for dim, ends in labels.items()}
    newest = built.made[-1]
    store = built.repo.readonly_session(snapshot_id=newest.id).store
    if "v" not in zarr.open_group(store, path=newest.group, mode="r"):
        with pytest.raises(SelectionError, match="no array or group"):
            follow(built.repo, newest.id, f"{newest.group}/v", selection)
    elif not wanted:
        with pytest.raises(SelectionError, match=r"has no label|has nothing between"):
            follow(built.repo, newest.id, f"{newest.group}/v", selection)
    else:
        found = follow(built.repo, newest.id, f"{newest.group}/v", selection)
        assert repr(said(found)) == repr(wanted)
        assert found.versions == len(built.line())
        assert repr(found)
        assert len(found.to_dataframe()) == len(wanted)


@given(actions=steps, t=st.integers(0, 8), s=st.sampled_from(["a", "b", "c2", "z4", "nope"]))
@settings(deadline=None, max_examples=40)
@example(actions=[("append", 1, 0), ("reverse", 0, 0), ("append", 0, 0), ("reverse", 0, 1)], t=2, s="a")
@example(actions=[("remove", 0, 0), ("anew", 1, 1), ("move", 0, 0), ("scale", 0, 0), ("front", 0, 0)], t=1, s="b")
def test_the_history_of_a_point_is_what_xarray_reads_in_every_version(actions, t, s):
    check(build(actions, disorder=True), {"t": (t * 10, t * 10), "s": (s, s)})


@given(actions=steps, ends=st.tuples(st.integers(0, 90), st.integers(0, 90)), whole=st.booleans())
@settings(deadline=None, max_examples=40)
@example(actions=[("anew", 3, 0)], ends=(0, 90), whole=False)
@example(actions=[("append", 0, 0), ("append", 3, 0), ("relabel", 0, 0), ("cut", 0, 0)], ends=(20, 60), whole=False)
def test_the_history_of_a_mean_is_what_xarray_reads_in_every_version(actions, ends, whole):
    check(build(actions, disorder=False), {} if whole else {"t": (min(ends), max(ends))})


@given(actions=steps, cut=st.integers(0, 12))
@settings(deadline=None, max_examples=20)
def test_after_expiry_the_oldest_version_left_says_that_it_may_have_been_one_before_it(actions, cut):
    built = build([one for one in actions if one[0] not in ("branch", "remove")], disorder=True)
    kept = min(cut, len(built.made) - 1)
    built.repo.expire_snapshots(built.repo.lookup_snapshot(built.made[kept].id).written_at)
    built.parents[built.made[kept].id] = None
    newest = built.made[-1]
    found = follow(built.repo, newest.id, f"{newest.group}/v", {})
    assert repr(said(found)) == repr(expected(built, {}))
    assert [reading.or_expired for reading in found.readings] == [False] * (len(found.readings) - 1) + [kept > 0]


labels = st.lists(st.integers(0, 12), min_size=1, max_size=9, unique=True)


@given(
    versions=st.lists(st.tuples(st.booleans(), labels), min_size=1, max_size=5),
    ends=st.tuples(*[st.integers(0, 12)] * 2),
)
@settings(deadline=None, max_examples=40)
@example(versions=[(False, [10, 11, 12]), (True, [5])], ends=(5, 10))
@example(versions=[(False, [10, 11]), (True, [5])], ends=(4, 10))
@example(versions=[(False, [3, 1, 2]), (True, [5, 6, 7]), (True, [8])], ends=(1, 8))
@example(versions=[(False, [1, 2, 3, 4]), (False, [1, 2, 4, 3])], ends=(2, 3))
def test_labels_in_any_order_are_found_where_they_are_when_all_of_them_are_read(versions, ends):
    repo = new_repo()
    held: list[int] = []
    selection = {"t": tuple(map(str, ends))}
    wanted: list[Any] = []
    for number, (grows, new) in enumerate(versions):
        held = held + [one for one in new if one not in held] if grows else new
        session = repo.writable_session("main")
        root = zarr.open_group(session.store, mode="a")
        for name, values_now in (("t", held), ("v", [one**2 for one in held])):
            if name not in root:
                root.create_array(name, shape=0, chunks=2, dtype="i8", dimension_names=["t"])
            array = root[name]
            array.resize((len(held),))
            write_changed(array, np.array(values_now))
        at = session.commit(f"{number}", allow_empty=True)
        store = repo.readonly_session(snapshot_id=at).store
        try:
            (side,) = selecting.region_of(store, "v", selection)
        except SelectionError:
            value = None
        else:
            value = float(np.mean([held[position] ** 2 for position in side])), len(side), len(side)
        if value != (wanted[-1][1] if wanted else None):
            wanted.append((at, value))
    if wanted:
        assert said(follow(repo, at, "v", selection)) == wanted[::-1]


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the keys of the chunks that are read, as they come."""
    keys: list[str] = []
    plain = icechunk.IcechunkStore.get

    async def get(self, key, *rest, **options):
        if "/c/" in key:
            keys.append(key)
        return await plain(self, key, *rest, **options)

    monkeypatch.setattr(icechunk.IcechunkStore, "get", get)
    return keys


def store_of(ds: xr.Dataset, **chunks: int) -> IcechunkStore:
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("first"):
        ds.chunk(chunks).to_zarr(store)
    return store


def write(store: IcechunkStore, message: str, place: tuple[Any, ...], value: Any, path: str = "v") -> None:
    with store.transaction(message):
        zarr.open_array(store, path=path, mode="r+")[place] = value


def values(found: Timeline) -> list[Any]:
    """Return the values, oldest first; None where it was absent."""
    return [reading.value and reading.value.value for reading in reversed(found.readings)]


def test_data_are_read_of_the_versions_alone_that_touched_a_chunk_of_the_region(reads):
    ds = xr.Dataset({"v": (("t", "s"), np.zeros((12, 4)))}, {"t": np.arange(12), "s": list("abcd")})
    store = store_of(ds, t=3, s=2)
    for number in range(1, 20):
        write(store, f"elsewhere {number}", (number % 9, 3), number)
    write(store, "here", (10, 1), 5)
    write(store, "beside", (11, 0), 6)
    write(store, "across", (slice(None), 1), 7)
    reads.clear()
    found = store.history("v", {"t": "10", "s": "b"})
    assert values(found) == [0, 5, 7]
    assert found.rewrites == 1
    # Four versions touched the one chunk; the coordinates were written once.
    assert [key for key in reads if key.startswith("v")] == ["v/c/3/0"] * 4
    assert len([key for key in reads if not key.startswith("v")]) == len(set(reads)) - 1
    reads.clear()
    assert values(store.history("v", {"t": "8/10", "s": "a/b"})) == [0, 5 / 6, 21 / 6]
    assert sorted(key for key in reads if key.startswith("v")) == ["v/c/2/0"] * 4 + ["v/c/3/0"] * 4


def test_an_append_reads_no_data_and_of_a_long_coordinate_only_what_it_wrote(reads):
    t = np.datetime64("2025-01-01", "ns") + np.arange(40) * np.timedelta64(1, "h")
    ds = xr.Dataset({"v": ("t", np.arange(40.0))}, {"t": t})
    encodings = {"chunks": (4,), "units": "hours since 2025-01-01", "dtype": "i8"}
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("first"):
        ds.isel(t=slice(0, 30)).to_zarr(store, encoding={"t": encodings, "v": {"chunks": (4,)}})
    for number in range(30, 40):
        with store.transaction(f"append {number}"):
            ds.isel(t=slice(number, number + 1)).to_zarr(store, append_dim="t")
    reads.clear()
    found = store.history("v", {"t": "2025-01-01T05:00:00"})
    assert values(found) == [5]
    assert [key for key in reads if key.startswith("v")] == ["v/c/1"]
    first = 8
    assert len([key for key in reads if key.startswith("t")]) <= first + 10 * 3
    assert not {f"t/c/{number}" for number in range(6)} & set(reads[first + 3 :])


def test_a_label_that_moved_is_read_where_it_lies_in_each_version():
    ds = xr.Dataset({"v": (("t", "s"), np.array([[1.0, 2.0], [3.0, 4.0]]))}, {"t": [0, 1], "s": ["b", "c"]})
    store = store_of(ds)
    with store.transaction("one more before the others"):
        grown = xr.Dataset({"v": (("t", "s"), [[9.0, 1, 2], [9, 3, 4]])}, {"t": [0, 1], "s": ["a", "b", "c"]})
        grown.to_zarr(store, mode="w")
    write(store, "other column", (0, 0), 8)
    write(store, "this column", (0, 1), 7)
    assert values(store.history("v", {"t": "0", "s": "b"})) == [1, 7]
    assert values(store.history("v", {"t": "0", "s": "a"})) == [9, 8]


# -- what a value is ---------------------------------------------------------------------------------------------------


def test_values_are_decoded_and_missing_ones_are_said_to_be_missing():
    ds = xr.Dataset({"v": ("t", [1.5, 2.5, np.nan])}, {"t": [0, 1, 2]})
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("first"):
        ds.to_zarr(store, encoding={"v": {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -9}})
    write(store, "raw", (2,), 7)
    with store.transaction("scale"):
        zarr.open_array(store, path="v", mode="r+").attrs["scale_factor"] = 2.0
    found = store.history("v", {"t": "2"})
    assert math.isnan(values(found)[0])
    assert values(found)[1:] == [3.5, 14]
    text = repr(found)
    assert re.search(r"14.0 +\+10.5 ", text)
    assert "missing" in text
    whole = store.history("v")
    assert [(reading.value.count, reading.value.total) for reading in whole.readings] == [(3, 3), (3, 3), (2, 3)]
    assert "2 of 3" in repr(whole)
    assert "mean of v" in repr(whole)
    assert values(whole) == [2, 2.5, 10]


def test_times_and_texts_are_followed_and_a_text_has_no_mean():
    days = np.array(["2025-01-01", "2025-01-03"], "M8[ns]")
    ds = xr.Dataset({"when": ("t", days), "who": ("t", ["ann", "bob"]), "yes": ("t", [True, False])}, {"t": [0, 1]})
    store = store_of(ds)
    write(store, "other", (0,), "eve", path="who")
    assert values(store.history("who", {"t": "0"})) == ["ann", "eve"]
    assert values(store.history("when", {"t": "1"})) == [days[1]]
    assert "2025-01-02T00:00" in repr(store.history("when"))
    assert values(store.history("yes")) == [0.5]
    with pytest.raises(SelectionError, match="who holds no numbers, so its 2 values"):
        store.history("who")
    assert "<svg" not in store.history("who", {"t": "0"})._repr_html_()


def test_an_array_without_dimensions_is_one_value():
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("first"):
        xr.Dataset({"v": ((), 3)}).to_zarr(store)
    write(store, "second", (), 4)
    assert values(store.history("v")) == [3, 4]


def test_all_missing_is_a_missing_mean():
    ds = xr.Dataset({"v": ("t", [np.nan, np.nan]), "when": ("t", np.array(["NaT", "NaT"], "M8[ns]"))}, {"t": [0, 1]})
    store = store_of(ds)
    for name in ("v", "when"):
        found = store.history(name)
        assert found.readings[0].value.count == 0
        assert "missing" in repr(found)


def test_where_it_was_not_there_it_is_absent_and_data_frames_tell_that_from_missing():
    store = store_of(xr.Dataset({"v": ("t", [np.nan, 2.0])}, {"t": [0, 1]}))
    with store.transaction("without"):
        del zarr.open_group(store)["v"]
    with store.transaction("again"):
        xr.Dataset({"v": ("t", [3.0, 4.0])}, {"t": [0, 1]}).to_zarr(store, mode="a")
    found = store.history("v", {"t": "0"})
    frame = found.to_dataframe()
    assert frame["present"].tolist() == [True, False, True]
    assert frame["message"].tolist() == ["again", "without", "first"]
    assert frame["count"].tolist() == [1, 0, 0]
    assert re.findall("absent|missing|3.0", repr(found).split("message", 1)[1]) == ["3.0", "absent", "missing"]
    assert values(store.history("v", {"t": "0"}, ref="HEAD~2"))[0] is not None
    with pytest.raises(SelectionError, match="no array or group 'v'"):
        store.history("v", {"t": "0"}, ref="HEAD~1")


def test_the_history_of_a_coordinate_is_followed_by_its_own_labels():
    store = store_of(xr.Dataset({"v": ("t", [1.0, 2.0])}, {"t": [10, 20]}))
    write(store, "relabelled", (1,), 30, path="t")
    assert values(store.history("t", {"t": "20"})) == [20, None]
    assert values(store.history("t", {"t": "10"})) == [10]


def test_positions_are_labels_where_there_is_no_coordinate():
    store = store_of(xr.Dataset({"v": ("t", [1.0, 2.0, 3.0])}))
    write(store, "second", (1,), 5)
    assert values(store.history("v", {"t": "1"})) == [2, 5]
    assert values(store.history("v", {"t": "1/2"})) == [2.5, 4]


def test_repeated_labels_are_named_and_never_read_as_absent():
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    session = store.repo.writable_session("main")
    xr.Dataset({"v": ("t", [1.0, 2.0, 3.0])}, {"t": [1, 0, 1]}).to_zarr(session.store, consolidated=False)
    session.commit("twice")
    store.refresh()
    with pytest.raises(SelectionError, match=r"In \w{8} twice: The labels of t repeat"):
        store.history("v", {"t": "1"})
    write(store, "once", (2,), 2, path="t")
    with pytest.raises(SelectionError, match=r"In \w{8} twice: The labels of t repeat"):
        store.history("v", {"t": "1/2"})
    assert values(store.history("v", {"t": "2"})) == [3]
    assert values(store.history("v", {"t": "0"})) == [2]


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"s": "1"}, "v has no dimension s"),
        ({"t": "99"}, "t has no label 99"),
        ({"t": "x"}, "t has no label x"),
        ({"t": ""}, "no selection"),
    ],
)
def test_a_region_that_was_never_there_is_refused(selection, said):
    store = store_of(xr.Dataset({"v": ("t", [1.0, 2.0])}, {"t": [10, 20]}))
    write(store, "second", (1,), 5)
    with pytest.raises(SelectionError, match=said):
        store.history("v", selection)


def test_a_region_too_large_for_a_mean_is_refused_before_anything_is_read(reads, monkeypatch):
    store = store_of(xr.Dataset({"v": ("t", np.arange(100.0))}), t=10)
    monkeypatch.setattr(following, "MOST", 99)
    reads.clear()
    with pytest.raises(SelectionError, match="holds 100 values of v; a mean is taken of at most 99"):
        store.history("v")
    assert reads == []
    assert values(store.history("v", {"t": "1/99"})) == [50]


def test_an_array_whose_dimensions_have_no_names_is_refused_with_a_sentence():
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("first"):
        zarr.create_array(store, name="v", shape=3, dtype="f4")
    for selection in ({}, {"t": "1"}):
        with pytest.raises(SelectionError, match="The dimensions of v have no names"):
            store.history("v", selection)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_many_changes_are_shown_in_little_room_with_a_picture():
    store = store_of(xr.Dataset({"v": ("t", [0.0])}, {"t": [0]}))
    for number in range(1, 120):
        write(store, f"set to {number} <i>", (0,), number)
    found = store.history("v", {"t": "0"})
    html = found._repr_html_()
    assert len(html.encode()) < 50_000
    assert html.count("<svg") == 1
    assert "<i>" not in html
    assert "the newest" in html
    assert "set or changed by 120 of 120 versions" in html
    assert "▁" in repr(found)
    assert "█" in repr(found)


def test_the_magic_answers_what_the_method_does(shell: Typed):
    store = shell.open_memory()
    shell.get('%%commit "made"', 'xr.Dataset({"v": ("t", np.arange(6.0))}, {"t": np.arange(6)}).to_zarr(store)')
    shell.get('%%commit "changed"', 'zarr.open_array(store, path="v", mode="r+")[0] = 9')
    for line, expected_answer in [
        ("history v", store.history("v")),
        ("history v t=0", store.history("v", {"t": "0"})),
        ("history v t=0/3 --version HEAD~1", store.history("v", {"t": ("0", "3")}, "HEAD~1")),
        ("history v --version HEAD~1 t=0", store.history("v", {"t": "0"}, "HEAD~1")),
    ]:
        assert str(shell.get(f"%ice {line}")) == str(expected_answer), line
    assert "no selection" in shell.refusal("%ice history v t")
    assert "Did you mean v" in shell.refusal("%ice history V t=0")
