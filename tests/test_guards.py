"""What is always checked before a commit, against plain arithmetic."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic import IcechunkStore
from icemagic.errors import GuardError
from icemagic.guards import Checks
from icemagic.transaction import Terms


def new_store() -> IcechunkStore:
    return IcechunkStore.create(f"memory:{uuid.uuid4()}")


def put(store: IcechunkStore, name: str, values: np.ndarray, dims: tuple[str, ...], chunk: int) -> None:
    chunks = (chunk,) + (2,) * (values.ndim - 1)
    zarr.create_array(store, name=name, data=values, chunks=chunks, dimension_names=dims, overwrite=True)


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    relabelled=st.sets(st.integers(0, 11)),
    rewritten=st.booleans(),
    anew=st.booleans(),
    chunks=st.tuples(st.integers(1, 13), st.integers(1, 13)),
)
def test_a_row_that_stays_keeps_its_label(lengths, relabelled, rewritten, anew, chunks):
    before, after = lengths
    both = min(lengths)
    store = new_store()
    old_labels, old = np.arange(before), np.random.default_rng(1).normal(size=(before, 2))
    with store.transaction("first"):
        put(store, "t", old_labels, ("t",), chunks[0])
        put(store, "x", old, ("t", "s"), chunks[1])
    labels = np.where(np.isin(np.arange(after), list(relabelled)), 100 + np.arange(after), np.arange(after))
    new = np.random.default_rng(2).normal(size=(after, 2))
    if not rewritten:
        new[:both] = old[:both]
    changed = {at for at in relabelled if at < both}
    refused = bool(changed) and not rewritten and not anew and before != after
    refusal = ""
    try:
        with store.transaction("second"):
            if anew:
                put(store, "t", labels, ("t",), chunks[0])
                put(store, "x", new, ("t", "s"), chunks[1])
            else:
                for name, values in (("t", labels), ("x", new)):
                    array = zarr.open_array(store, path=name, mode="r+")
                    array.resize(values.shape)
                    start = 0 if rewritten or name == "t" else both
                    array[start:] = values[start:]
    except GuardError as error:
        refusal = str(error)
    assert ("t got other labels, while x keeps" in refusal) == bool(refusal) == refused
    kept = old_labels if refused else labels
    assert zarr.open_array(store, path="t", mode="r")[:].tolist() == kept.tolist()


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(["a", "b", "g/a", "g/b"]), st.tuples(st.integers(1, 4), st.integers(1, 4))))
def test_arrays_of_a_group_agree_in_the_length_of_each_dimension_or_nothing_is_committed(shapes):
    store = new_store()
    lengths: dict[tuple[str, str], set[int]] = {}
    for name, shape in shapes.items():
        for dim, length in zip("tu", shape, strict=True):
            lengths.setdefault((name.rpartition("/")[0], dim), set()).add(length)
    agree = all(len(found) == 1 for found in lengths.values())
    refusal = ""
    try:
        with store.transaction("arrays"):
            zarr.open_group(store).attrs["n"] = 1
            for name, shape in shapes.items():
                put(store, name, np.zeros(shape), ("t", "u"), 2)
    except GuardError as error:
        refusal = str(error)
    assert bool(refusal) != agree
    for (group, dim), found in lengths.items():
        assert (f"{dim}{f' in {group}' if group else ''} is" in refusal) == (len(found) > 1)


def test_dimensions_without_names_may_differ():
    store = new_store()
    with store.transaction("arrays"):
        for name, length in (("a", 3), ("b", 4)):
            zarr.create_array(store, name=name, data=np.zeros(length))
    assert store.version.message == "arrays"


CHECKS = [
    (Checks(only=("a",)), "b, c, d changed, too"),
    (Checks(max_chunks=2), "3 chunks changed"),
    (Checks(no_delete=True), "c, d were removed or cut"),
    (Checks(expect={"few": lambda ds: ds["a"].max() < 5}), "few must hold, but it is False"),
    (Checks(expect={"all": lambda ds: ds["a"] < 50}), r"gives 4 values instead of true or false; add \.all"),
]


@pytest.mark.parametrize(("checks", "said"), CHECKS, ids=[said for _, said in CHECKS])
def test_each_limit_refuses_what_exceeds_it_and_its_opposite_passes(checks, said):
    store = new_store()
    with store.transaction("first"):
        for number, name in enumerate("abcd"):
            put(store, name, np.zeros(4), (f"dim{number}",), 2)
    with (
        pytest.raises(GuardError, match=f"Nothing was committed: .*{said}"),
        store.transaction(terms=Terms(checks)) as t,
    ):
        zarr.open_array(store, path="a", mode="r+")[:] = 9
        zarr.open_array(store, path="b", mode="r+")[0] = 9
        zarr.open_array(store, path="c", mode="r+").resize((2,))
        del zarr.open_group(store)["d"]
        t.commit("too much")
    assert store.version.message == "first"
    with store.transaction("little", terms=Terms(Checks(only=("a",), max_chunks=1, no_delete=True))):
        zarr.open_array(store, path="a", mode="r+")[0] = 1
    assert store.version.checks == "only a; at most 1 chunk; nothing deleted"
