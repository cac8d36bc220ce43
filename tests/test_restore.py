"""What is restored is as it was, and everything else stays bit by bit."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icemagic import IcechunkStore
from icemagic.errors import ConflictError, NothingToCommitError, SelectionError, UnknownVersionError
from icemagic.nodes import chunk_key, read_chunks

ROWS, COLUMNS = 23, 7
START = np.datetime64("2025-01-01T00:00")
EPOCHS = START + np.arange(ROWS) * np.timedelta64(5, "m")
SIDS = [f"G{number:02}|L1|C" for number in range(COLUMNS)]


def observations(seed: int, *, chunks: tuple[int, int] = (5, 3), codec: str = "zstd", rows: int = ROWS) -> xr.Dataset:
    """Return noise with NaN, negative zero and infinity in it."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, COLUMNS)).astype("f4")
    values[random.random(values.shape) < 0.3] = np.nan
    values[0, 0], values[-1, -1] = -0.0, np.inf
    epochs = START + np.arange(rows) * np.timedelta64(5, "m")
    ds = xr.Dataset({"snr": (("epoch", "sid"), values)}, {"epoch": epochs, "sid": SIDS})
    ds["snr"].encoding = {"chunks": chunks, "compressors": zarr.codecs.ZstdCodec() if codec == "zstd" else None}
    if codec == "sharded":
        ds["snr"].encoding = {"chunks": chunks, "shards": (chunks[0] * 2, chunks[1] * 2)}
    return ds


def two_versions(**form: Any) -> tuple[IcechunkStore, xr.Dataset, xr.Dataset]:
    """Return a store with two versions that differ in all values, and what they hold."""
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    old, new = observations(1, **form), observations(2, **form)
    with store.transaction("old"):
        old.to_zarr(store)
    with store.transaction("new"):
        new.drop_vars(["epoch", "sid"]).to_zarr(store, mode="r+")
    return store, old, new


def bits(store: IcechunkStore) -> np.ndarray:
    return zarr.open_array(store, path="snr", mode="r")[:].view("u4")


def raw(store: IcechunkStore) -> dict[tuple[int, ...], bytes]:
    """Return the stored bytes of every chunk."""
    read = store.with_read_only(read_only=True)
    return {
        at: sync(read.get(chunk_key("snr", at), default_buffer_prototype())).to_bytes()
        for at in sync(read_chunks(read, "/snr"))
    }


@settings(deadline=None, max_examples=40)
@given(
    rows=st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1)).map(sorted),
    columns=st.none() | st.tuples(st.integers(0, COLUMNS - 1), st.integers(0, COLUMNS - 1)).map(sorted),
    chunks=st.tuples(st.integers(3, ROWS + 3), st.integers(2, COLUMNS + 2)),
    codec=st.sampled_from(["zstd", "none", "sharded"]),
)
def test_a_region_given_in_labels_is_as_it_was_and_all_else_stays_bit_by_bit(rows, columns, chunks, codec):
    store, old, new = two_versions(chunks=chunks, codec=codec)
    selection = {"epoch": tuple(str(EPOCHS[at]) for at in rows)}
    if columns:
        selection["sid"] = tuple(SIDS[at] for at in columns)
    before = raw(store)
    with suppress(NothingToCommitError):  # a region may be alike in both
        store.restore("main~1", "snr", selection)
    inside = np.zeros((ROWS, COLUMNS), dtype=bool)
    inside[rows[0] : rows[1] + 1, slice(columns[0], columns[1] + 1) if columns else slice(None)] = True
    expected = np.where(inside, old["snr"].values, new["snr"].values)
    np.testing.assert_array_equal(bits(store), expected.view("u4"))
    # Chunks that the region does not touch are the very same bytes.
    stored = zarr.open_array(store, path="snr", mode="r")
    side = stored.shards or stored.chunks
    for at, value in raw(store).items():
        part = tuple(slice(n * size, (n + 1) * size) for n, size in zip(at, side, strict=True))
        if not inside[part].any():
            assert value == before[at]


def test_whole_chunks_are_moved_as_raw_bytes_and_not_encoded_anew(monkeypatch):
    store, old, _ = two_versions(chunks=(5, COLUMNS))
    there = raw(IcechunkStore.open(store.repo, version="main~1"))
    encoded = []
    plain = zarr.codecs.ZstdCodec._encode_single
    monkeypatch.setattr(
        zarr.codecs.ZstdCodec, "_encode_single", lambda self, *given: encoded.append(1) or plain(self, *given)
    )
    store.restore("main~1", "snr", {"epoch": (str(EPOCHS[5]), str(EPOCHS[14]))})
    assert not encoded
    assert {at: raw(store)[at] for at in ((1, 0), (2, 0))} == {at: there[at] for at in ((1, 0), (2, 0))}
    store.restore("main~2", "snr")
    assert not encoded
    np.testing.assert_array_equal(bits(store), old["snr"].values.view("u4"))


@pytest.mark.parametrize(
    ("selection", "said", "hint"),
    [
        (
            {"epoch": ("2026-01-01", "2026-01-02")},
            "epoch has nothing between 2026-01-01 and 2026-01-02",
            "It runs from",
        ),
        ({"sid": ("G99|L1|C", "G99|L1|C")}, r"sid has no label G99\|L1\|C", "Did you mean"),
        ({"epok": ("2025", "2025")}, "snr has no dimension epok", "Did you mean epoch"),
        ({"epoch": ("yesterday", "tomorrow")}, "epoch has no label yesterday or tomorrow", "It runs from 2025-01-01"),
    ],
)
def test_a_region_that_is_not_there_is_refused_and_the_hint_names_what_is(selection, said, hint):
    store, _, _ = two_versions()
    with pytest.raises(SelectionError, match=said) as refused:
        store.restore("main~1", "snr", selection)
    assert hint in refused.value.hint
    assert [version.message for version in store.list_versions()] == ["old", "new"]


def test_a_region_under_other_labels_form_or_encoding_is_refused():
    store, _, new = two_versions()
    hour = {"epoch": (str(EPOCHS[0]), str(EPOCHS[3]))}
    with store.transaction("other labels"):
        zarr.open_array(store, path="sid", mode="r+")[0] = "S01|L1|C"
    with pytest.raises(SelectionError, match="sid had other labels"):
        store.restore("main~1", "snr", hour)
    with store.transaction("shorter"):
        observations(3, rows=2).to_zarr(store, mode="w")
    with pytest.raises(SelectionError, match=r"has nothing between|the region is not in both|had other labels"):
        store.restore("main~2", "snr", {"epoch": (str(EPOCHS[10]), str(EPOCHS[12]))})
    with store.transaction("other chunks"):
        observations(4, chunks=(2, 2)).to_zarr(store, mode="w")
    with pytest.raises(SelectionError, match="another data type, chunks or encoding"):
        store.restore("main~3", "snr", hour)
    store.restore("main~3", "snr")
    np.testing.assert_array_equal(bits(store), new["snr"].values.view("u4"))


@pytest.mark.parametrize("array", [None, "snr"])
def test_what_is_like_that_already_is_no_commit(array):
    store, _, _ = two_versions()
    with pytest.raises(NothingToCommitError, match="like that already"):
        store.restore("main", array)
    with store.transaction("the same bytes, stored anew"):
        snr = zarr.open_array(store, path="snr", mode="r+")
        snr[:] = snr[:]
    with pytest.raises(NothingToCommitError, match="like that already"):
        store.restore("main~1", "snr", {"epoch": (str(EPOCHS[1]), str(EPOCHS[3]))})


def test_a_removed_array_and_group_come_back_with_their_attributes_and_nothing_else_does():
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("first"):
        root = zarr.open_group(store)
        deep = root.create_group("a/b", attributes={"note": 1})
        deep.create_array("x", data=np.arange(4), attributes={"units": "m"})
        root.create_array("y", data=np.arange(3))
    with store.transaction("removed"):
        root = zarr.open_group(store)
        del root["a"]
        del root["y"]
    with pytest.raises(SelectionError, match="no array or group 'a/c'"):
        store.restore("main~1", "a/c")
    store.restore("main~1", "a/b")
    root = zarr.open_group(store, mode="r")
    assert dict(root["a/b"].attrs) == {"note": 1}
    assert dict(root["a/b/x"].attrs) == {"units": "m"}
    assert root["a/b/x"][:].tolist() == [0, 1, 2, 3]
    assert "y" not in root


def test_revert_takes_back_one_commit_and_keeps_what_came_later_elsewhere():
    store, old, new = two_versions()
    with store.transaction("later"):
        zarr.create_array(store, name="other", data=np.arange(4))
    store.revert("main~1")
    np.testing.assert_array_equal(bits(store), old["snr"].values.view("u4"))
    assert zarr.open_array(store, path="other", mode="r")[:].tolist() == [0, 1, 2, 3]
    store.revert("main")
    np.testing.assert_array_equal(bits(store), new["snr"].values.view("u4"))
    assert store.version.message.startswith("Revert")


def test_revert_of_what_later_commits_changed_is_refused_with_the_place_and_its_author():
    store, _, _ = two_versions()
    with store.transaction("later"):
        zarr.open_array(store, path="snr", mode="r+")[:5] = 1
    with pytest.raises(
        ConflictError, match=r"snr within epoch 2025-01-01T00:00 … 00:20, all sid: 32 values .* later"
    ) as refused:
        store.revert("main~1")
    assert "%ice restore" in refused.value.hint
    assert store.version.message == "later"


def test_revert_passes_by_other_values_that_later_commits_changed_in_the_same_chunks():
    store, _, new = two_versions()
    for place, value in (((2, 1), 7), ((3, 1), 8)):
        with store.transaction(f"value {value}"):
            zarr.open_array(store, path="snr", mode="r+")[place] = value
    store.revert("main~1")
    expected = new["snr"].values.copy()
    expected[3, 1] = 8
    np.testing.assert_array_equal(bits(store), expected.view("u4"))


def test_a_version_whose_parent_expired_is_not_reverted():
    store, _, new = two_versions()
    store.expire(store.plan_expire(keep=1))
    with pytest.raises(UnknownVersionError, match="is not there any more"):
        store.revert("main")
    np.testing.assert_array_equal(bits(store), new["snr"].values.view("u4"))
