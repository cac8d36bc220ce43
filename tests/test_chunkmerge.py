"""Where values differ, and the boxes around them, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icemagic.chunkmerge import Spots, _spots, differing

DTYPES = ["f2", "f4", "f8", ">f4", "c8", "c16", "i1", "i8", "u2", "?", "M8[ns]", "m8[s]", "U3", "S5", "V3"]


@given(st.data(), st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
@settings(max_examples=200, deadline=None)
def test_numbers_differ_where_their_bytes_do(data, dtype: str, shape: tuple[int, ...]):
    raw = st.binary(min_size=np.dtype(dtype).itemsize, max_size=np.dtype(dtype).itemsize)
    few = data.draw(st.lists(raw, min_size=1, max_size=3))
    size = int(np.prod(shape))
    drawn = [[data.draw(st.sampled_from(few)) for _ in range(size)] for _ in range(2)]
    one, other = (np.frombuffer(b"".join(values), dtype).reshape(shape) for values in drawn)
    expected = [a != b for a, b in zip(*drawn, strict=True)]
    assert differing(one, other).shape == shape
    assert differing(one, other).reshape(-1).tolist() == expected
    assert differing(one[..., ::-1] if shape else one, other[..., ::-1] if shape else other).sum() == sum(expected)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (np.array(["a", "", "é"], "T"), np.array(["a", "b", "e"], "T"), [False, True, True]),
        (np.array([b"a", b"", b"c"], "O"), np.array([b"a", b"b", b"c"], "O"), [False, True, False]),
        (np.array([np.nan, 0.0, 1.0]), np.array([np.nan, -0.0, 1.0]), [False, True, False]),
    ],
    ids=["strings", "bytes", "NaN and the sign of zero"],
)
def test_strings_and_objects_differ_by_what_they_hold(one, other, apart):
    assert differing(one, other).tolist() == apart


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=0, max_dims=3, max_side=30)), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_boxes_hold_exactly_the_values_in_conflict_or_say_that_they_do_not(mask: np.ndarray, offset: int):
    region = tuple(range(offset, offset + length) for length in mask.shape)
    if not mask.any():
        return
    half = tuple(slice(0, -(-length // 2)) for length in mask.shape)
    other = mask.copy()
    other[half] = False
    first = mask & ~other
    found = Spots()
    for part in (first, other):
        if part.any():
            found += _spots(part, region)
    held = np.zeros_like(mask)
    for box in found.boxes:
        held[tuple(slice(side.start - offset, side.stop - offset) for side in box)] = True
    assert found.count == mask.sum()
    assert (held == mask).all() if found.exact else (held | mask == held).all()
    assert found.exact or mask.sum() > 500
