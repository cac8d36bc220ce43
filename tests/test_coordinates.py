"""Regions are said in labels as a person would, and labels lead back to the region."""

from __future__ import annotations

import uuid
from itertools import product

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from icemagic import IcechunkStore
from icemagic.coordinates import boxes, positions, words
from icemagic.display import label
from icemagic.errors import SelectionError
from icemagic.selecting import parse_selection, region

GRIDS = st.integers(1, 3).flatmap(
    lambda ndim: st.sets(st.tuples(*[st.integers(0, 5)] * ndim), max_size=40).map(lambda chunks: (ndim, chunks))
)


@given(GRIDS)
def test_boxes_hold_exactly_the_chunks_each_once(grid):
    _, chunks = grid
    found = [at for box in boxes(chunks) for at in product(*box)]
    assert len(found) == len(set(found))
    assert set(found) == chunks


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=3))
def test_one_box_of_chunks_is_one_box_whatever_the_order(sides):
    ranges = [range(start, start + length) for start, length in sides]
    assert boxes(list(product(*ranges))[::-1]) == [tuple(ranges)]


def test_no_chunks_are_no_boxes_and_a_chunk_without_dimensions_is_one():
    assert boxes([]) == []
    assert boxes([()]) == [()]


@given(st.integers(1, 50), st.integers(1, 9), st.data())
def test_positions_are_those_of_the_elements(length, chunk, data):
    last = -(-length // chunk) - 1
    first = data.draw(st.integers(0, last))
    stop = data.draw(st.integers(first, last)) + 1
    (found,) = positions((range(first, stop),), (chunk,), (length,))
    assert list(found) == [at for at in range(length) if first <= at // chunk < stop]


def store_of(ds: xr.Dataset) -> IcechunkStore:
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("first"):
        ds.to_zarr(store)
    return store


HOURS = np.datetime64("2025-01-01T00", "h") + np.arange(48)
SECONDS = np.datetime64("2025-01-01T10:00:00", "s") + 5 * np.arange(12)
LABELLED = {
    "hours": (HOURS, range(10, 12), "t 2025-01-01T10:00 … 11:00"),
    "days apart": (HOURS, range(20, 30), "t 2025-01-01T20:00 … 2025-01-02T05:00"),
    "seconds": (SECONDS, range(12), "all t"),
    "some seconds": (SECONDS, range(1, 12), "t 2025-01-01T10:00:05 … 10:00:55"),
    "one time": (HOURS, range(5, 6), "t 2025-01-01T05:00"),
    "ascending": (np.linspace(0, 10, 11), range(2, 4), "t 2.0 … 3.0"),
    "descending": (np.arange(10)[::-1], range(3), "t 9 … 7"),
    "strings": (np.array(["G01", "G02", "R01"]), range(1, 3), "t G02 … R01"),
    "none": (None, range(2, 4), "t[2:4]"),
    "beyond": (HOURS, range(40, 60), "t[40:60]"),
}


@pytest.mark.parametrize(("labels", "side", "said"), LABELLED.values(), ids=LABELLED)
def test_a_region_is_said_in_labels_where_there_are_any(labels, side, said):
    length = 10 if labels is None else len(labels)
    ds = xr.Dataset({"x": ("t", np.arange(float(length)))}, {} if labels is None else {"t": labels})
    store = store_of(ds)
    assert words(store, "/x", (side,)) == said


def test_each_dimension_is_said_and_two_dimensional_coordinates_are_said_as_positions():
    lat = (("j", "i"), np.zeros((3, 4)))
    ds = xr.Dataset({"x": (("t", "j", "i"), np.zeros((2, 3, 4)))}, {"t": [10, 20], "j": lat, "i": [1, 2, 3, 4]})
    store = store_of(ds.rename_vars(j="latitude").assign_coords(latitude=lat))
    assert words(store, "x", (range(1, 2), range(1), range(4))) == "t 20, j[0:1], all i"
    with store.transaction("scalar"):
        zarr.create_array(store, name="one", data=np.float64(3))
    assert words(store, "one", ()) == "its one value"


def test_a_coordinate_in_the_same_group_counts_and_one_elsewhere_does_not():
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("first"):
        xr.Dataset({"x": ("t", [1.0, 2.0])}, {"t": [5, 6]}).to_zarr(store, group="deep/er")
        zarr.create_array(store, name="x", data=np.zeros(2), dimension_names=["t"])
    assert words(store, "deep/er/x", (range(1),)) == "t 5"
    assert words(store, "x", (range(1),)) == "t[0:1]"


def test_labels_are_short():
    assert label(np.datetime64("2025-01-01T10:00:00.000000000")) == "2025-01-01T10:00"
    assert label(np.datetime64("2025-01-01T10:00:05.500000000")) == "2025-01-01T10:00:05.5"
    assert label(np.float64(0.5)) == "0.5"
    assert label("G01|L1|C") == "G01|L1|C"


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("epoch=2025-01-01T10:00/2025-01-01T11:00", ("epoch", ("2025-01-01T10:00", "2025-01-01T11:00"))),
        ("sid=G01|L1|C", ("sid", ("G01|L1|C", "G01|L1|C"))),
        ("lat=-10/10", ("lat", ("-10", "10"))),
    ],
)
def test_a_selection_is_read_as_typed(typed, read):
    assert parse_selection(typed) == read


@pytest.mark.parametrize("typed", ["", "epoch", "epoch=", "=1", "epoch=/2", "epoch=1/"])
def test_what_is_no_selection_is_refused_with_an_example(typed):
    with pytest.raises(SelectionError, match="is no selection") as refused:
        parse_selection(typed)
    assert "epoch=2025" in refused.value.hint


INDEXES = st.sampled_from(["ascending", "descending", "floats", "times", "strings"])


@given(INDEXES, st.tuples(st.integers(0, 9), st.integers(0, 9)), st.booleans())
def test_labels_mean_the_same_region_as_in_xarray_in_either_order(kind, ends, swapped):
    index = {
        "ascending": np.arange(0, 20, 2),
        "descending": np.arange(20, 0, -2),
        "floats": np.linspace(-1, 1, 10),
        "times": HOURS[:10],
        "strings": np.array([f"s{number}" for number in range(10)]),
    }[kind]
    first, last = sorted(ends)
    ds = xr.Dataset({"x": ("t", np.arange(10))}, {"t": index})
    typed = (str(index[first]), str(index[last]))
    (found,) = region(ds, "x", {"t": typed[::-1] if swapped else typed})
    assert (
        list(found) == ds["x"].sel(t=slice(index[first], index[last])).values.tolist() == list(range(first, last + 1))
    )


def test_a_day_means_all_of_it_and_a_dimension_without_labels_takes_positions():
    ds = xr.Dataset({"x": (("t", "s"), np.zeros((48, 3)))}, {"t": HOURS})
    assert region(ds, "x", {"t": ("2025-01-02", "2025-01-02")}) == (range(24, 48), range(3))
    assert region(ds, "x", {"s": ("1", "2")}) == (range(48), range(1, 3))
