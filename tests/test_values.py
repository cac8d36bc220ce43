"""The numbers of a comparison against NumPy over whole arrays, and what is read for them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icemagic.coordinates import Box
from icemagic.values import Tally, Tolerance, blocks, shared_pieces

Array = np.ndarray[Any, Any]

# -- the oracle --------------------------------------------------------------------------------------------------------


def missing(values: Array) -> Array:
    return np.array([bool(values[at] != values[at]) for at in np.ndindex(values.shape)]).reshape(values.shape)


def expected(a: Array, b: Array, tolerance: Tolerance) -> dict[str, Any]:
    """Compare value by value, in Python's own arithmetic where that is exact."""
    found: dict[str, Any] = {"changed": [], "apart": [], "relative": [], "appeared": 0, "vanished": 0, "at": []}
    absent = missing(a), missing(b)
    for at in np.ndindex(a.shape):
        old, new = a[at], b[at]
        if absent[0][at] or absent[1][at]:
            found["appeared"] += not absent[0][at]
            found["vanished"] += not absent[1][at]
            if absent[0][at] != absent[1][at]:
                found["changed"].append(at)
        elif old == new:
            continue
        elif a.dtype.kind in "iufc" and b.dtype.kind in "iufc":
            wide = complex if "c" in (a.dtype.kind, b.dtype.kind) else float
            apart = wide(new) - wide(old)
            if tolerance.atol or tolerance.rtol:
                with np.errstate(all="ignore"):
                    limit = tolerance.atol + tolerance.rtol * abs(np.asarray(old, "f8") if wide is float else old)
                if np.isfinite(apart) and not abs(apart) > limit:
                    continue
            found["changed"].append(at)
            exact = a.dtype.kind in "iu" and b.dtype.kind in "iu"
            found["at"].append(at)
            found["apart"].append((apart, abs(int(new) - int(old)) if exact else abs(apart)))
            if old != 0 and np.isfinite(old):
                found["relative"].append(abs(apart) / abs(wide(old)))
        else:
            found["changed"].append(at)
            if a.dtype.kind in "mM":
                found["at"].append(at)
                found["apart"].append((new - old, abs(new - old)))
    return found


ORDINARY = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf])
KINDS: dict[str, tuple[Any, Any]] = {
    "f4": ("f4", ORDINARY),
    "f8": ("f8", ORDINARY),
    "i1": ("i1", st.integers(-128, 127)),
    "u1": ("u1", st.integers(0, 255)),
    "i8": ("i8", st.integers(-(2**62), 2**62)),
    "bool": ("?", st.booleans()),
    "complex": ("c16", st.complex_numbers(max_magnitude=1e3)),
    "text": (object, st.sampled_from(["", "a", "b", "ü"])),
    "times": ("M8[ns]", st.sampled_from(["2025-01-01", "2025-01-02T00:00:05", "NaT"])),
    "durations": ("m8[s]", st.integers(-1000, 1000)),
}
PAIRS = st.sampled_from([*((kind, kind) for kind in KINDS), ("f4", "f8"), ("i1", "f8"), ("u1", "i8"), ("text", "f8")])


@st.composite
def two_arrays(draw: st.DrawFn) -> tuple[Array, Array]:
    """Return two arrays of one shape, of which many values are the same."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5))
    sides = []
    for kind in draw(PAIRS):
        dtype, values = KINDS[kind]
        pool = draw(st.lists(values, min_size=1, max_size=4))
        picked = draw(hnp.arrays("i8", shape, elements=st.integers(0, len(pool) - 1)))
        sides.append(np.array([pool[at] for at in picked.ravel()], dtype).reshape(shape))
    if sides[0].dtype == sides[1].dtype:
        keep = draw(hnp.arrays("?", shape))
        sides[1][keep] = sides[0][keep]
    return sides[0], sides[1]


TOLERANCES = st.builds(
    Tolerance, st.sampled_from([0.0, 0.0, 0.5, 100.0]), st.sampled_from([0.0, 0.0, 1e-3, 2.0]), st.just(48 * 7)
)


@settings(max_examples=400, deadline=None)
@given(two_arrays(), TOLERANCES, st.data())
def test_all_numbers_equal_those_of_a_comparison_value_by_value(
    arrays: tuple[Array, Array], tolerance: Tolerance, data: st.DataObject
):
    a, b = arrays
    piece = [data.draw(st.integers(1, length)) for length in a.shape]
    whole = tuple(range(-(-length // size)) for length, size in zip(a.shape, piece, strict=True))
    tally = Tally(tolerance)
    for block in blocks([whole], piece, tuple(map(range, a.shape)), tolerance.elements):
        region = tuple(slice(side.start, side.stop) for side in block)
        tally.add(a[region], b[region], [side.start for side in block])
    numbers, right = tally.numbers(), expected(a, b, tolerance)
    assert numbers["changed_values"] == len(right["changed"])
    text = a.dtype.kind in "O?" or b.dtype.kind in "O?"
    if (a.dtype.kind == "O") == (b.dtype.kind == "O"):
        assert (numbers["nan_appeared"], numbers["nan_vanished"]) == (right["appeared"], right["vanished"])
    check_sizes(numbers, right, tally, times=a.dtype.kind in "mM", text=text)
    inside = {at for box in tally.places() for at in np.ndindex(*map(len, box)) for at in [shifted(at, box)]}
    assert set(right["changed"]) <= inside
    assert len({at for box in tally.places() for at in positions(box)}) == sum(
        math.prod(map(len, box)) for box in tally.places()
    )


def shifted(at: tuple[int, ...], box: Box) -> tuple[int, ...]:
    return tuple(one + side.start for one, side in zip(at, box, strict=True))


def positions(box: Box) -> list[tuple[int, ...]]:
    return [shifted(at, box) for at in np.ndindex(*map(len, box))]


def check_sizes(numbers: dict[str, Any], right: dict[str, Any], tally: Tally, *, times: bool, text: bool) -> None:
    apart = [step for step, _ in right["apart"]]
    if not apart or text:
        assert numbers["max_abs"] is None
        assert numbers["mean"] is None
        assert numbers["rmse"] is None
        return
    sizes = [size for _, size in right["apart"]]
    assert numbers["max_abs"] == (max(sizes) if times else pytest.approx(max(sizes), rel=1e-15))
    assert tally.max_at in [
        at for at, size in zip(right["at"], sizes, strict=True) if times or size == pytest.approx(max(sizes))
    ]
    if times:
        assert numbers["mean"].astype("i8") == round(np.mean([step.astype("i8") for step in apart]))
        assert numbers["rmse"] is None
        return
    with np.errstate(all="ignore"):
        assert numbers["mean"] == pytest.approx(np.mean(apart), nan_ok=True)
        assert numbers["rmse"] == pytest.approx(math.sqrt(np.mean([abs(step) ** 2 for step in apart])), nan_ok=True)
    if right["relative"]:
        assert numbers["max_rel"] == pytest.approx(max(right["relative"]), nan_ok=True)
    else:
        assert numbers["max_rel"] is None


# -- what is read ------------------------------------------------------------------------------------------------------


@given(st.data())
def test_blocks_hold_every_wanted_position_once_and_are_no_larger_than_allowed(data: st.DataObject):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=9))
    piece = [data.draw(st.integers(1, 4)) for _ in shape]
    within = tuple(
        data.draw(st.tuples(st.integers(0, n), st.integers(0, n)).map(lambda ends: range(*ends))) for n in shape
    )
    most = data.draw(st.integers(1, 60))
    whole = tuple(range(-(-length // size)) for length, size in zip(shape, piece, strict=True))
    found = list(blocks([whole], piece, within, most))
    held = [at for block in found for at in positions(block)]
    assert sorted(held) == sorted(
        at for at in np.ndindex(*shape) if all(map(lambda one, side: one in side, at, within))
    )
    for block in found:
        assert math.prod(map(len, block)) <= max(most, math.prod(piece))


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=3), st.integers(1, 500))
def test_pieces_of_two_grids_cut_no_chunk_unless_that_takes_too_much(sizes: list[tuple[int, int]], most: int):
    one, other = zip(*sizes, strict=True)
    piece = shared_pieces(one, other, most)
    if math.prod(math.lcm(a, b) for a, b in sizes) <= most:
        assert all(size % a == size % b == 0 for size, (a, b) in zip(piece, sizes, strict=True))
    else:
        assert piece == tuple(max(a, b) for a, b in sizes)


# -- places ------------------------------------------------------------------------------------------------------------


def places(changed: list[tuple[slice, ...]], shape: tuple[int, ...]) -> tuple[list[Box], int]:
    a = np.zeros(shape)
    b = a.copy()
    for region in changed:
        b[region] = 1
    tally = Tally(Tolerance())
    tally.add(a, b, [10] * len(shape))
    return tally.places(), tally.more_places


def test_separate_regions_are_separate_places_and_neighbours_are_one():
    found, more = places([np.s_[0:2, 1:3], np.s_[5:6, 1:3], np.s_[2:3, 1:3]], (9, 4))
    assert found == [(range(10, 13), range(11, 13)), (range(15, 16), range(11, 13))]
    assert more == 0


def test_many_gaps_along_one_dimension_make_one_place_and_leave_the_other_dimension_exact():
    found, _ = places([np.s_[at : at + 1, 2:3] for at in range(0, 40, 2)], (40, 9))
    assert found == [(range(10, 49), range(12, 13))]


def test_values_that_are_alike_to_the_bit_are_passed_over_and_zero_equals_minus_zero():
    a = np.array([0.0, math.nan, 1.0])
    tally = Tally(Tolerance())
    tally.add(a, np.array([-0.0, math.nan, 1.0]), [0])
    tally.add(a, -np.array([-0.0, -math.nan, -1.0]), [0])
    assert tally.numbers()["changed_values"] == 0
    assert tally.places() == []
