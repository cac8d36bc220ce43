"""What a store demands of itself holds for everybody who opens it, and is asked of what a commit touches."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

from icemagic import IcechunkStore
from icemagic.errors import GuardError, NotWritableError, UnknownVersionError
from icemagic.standing import KEY, Demand


@pytest.fixture
def store() -> IcechunkStore:
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    times = np.datetime64("2025-01-01T00", "h") + np.arange(8)
    ds = xr.Dataset(
        {"snr": ("epoch", np.full(8, 40.0, "f4"), {"units": "dB-Hz"})}, {"epoch": times, "sid": ["a", "b", "c"]}
    )
    ds["snr"].encoding = {"chunks": (4,), "dtype": "i2", "scale_factor": 0.1, "_FillValue": -999}
    with store.transaction("first"):
        ds.to_zarr(store)
    return store


def again(store: IcechunkStore) -> IcechunkStore:
    """Open the same store as another user does."""
    return IcechunkStore.open(icechunk.Repository.open(store.repo.storage))


def wrong_range(store: IcechunkStore) -> None:
    zarr.open_array(store, path="snr", mode="r+")[5] = 990  # 99 dB-Hz, decoded


def wrong_units(store: IcechunkStore) -> None:
    zarr.open_array(store, path="snr", mode="r+").attrs["units"] = "dB"


def wrong_dtype(store: IcechunkStore) -> None:
    xr.Dataset({"snr": ("epoch", np.zeros(8))}).to_zarr(store, mode="a")
    zarr.create_array(store, name="snr", data=np.zeros(8, "f8"), dimension_names=["epoch"], overwrite=True)


def not_increasing(store: IcechunkStore) -> None:
    epoch = zarr.open_array(store, path="epoch", mode="r+")
    epoch[3] = epoch[1]


def twice(store: IcechunkStore) -> None:
    zarr.open_array(store, path="sid", mode="r+")[2] = "a"


DEMANDS: list[tuple[str, Demand, Callable[[IcechunkStore], None], str]] = [
    ("snr", Demand(range=(0, 70)), wrong_range, r"1 value.* outside, the first is 99 at epoch 2025-01-01T05:00"),
    ("snr", Demand(units="dB-Hz"), wrong_units, "its units are 'dB'"),
    ("snr", Demand(dtype="int16"), wrong_dtype, "its dtype is float64"),
    ("epoch", Demand(increasing=True), not_increasing, "2025-01-01T01:00 follows 2025-01-01T02:00, in 1 place"),
    ("epoch", Demand(unique=True), not_increasing, "2025-01-01T01:00 occurs 2 times"),
    ("sid", Demand(unique=True), twice, "a occurs 2 times"),
]


@pytest.mark.parametrize(("array", "demand", "mistake", "said"), DEMANDS, ids=[said for *_, said in DEMANDS])
def test_a_demand_refuses_what_breaks_it_for_every_user_until_it_is_forgotten(store, array, demand, mistake, said):
    store.demand(array, demand)
    other = again(store)
    assert other.guards().arrays == {array: demand}
    for one in (store, other):
        with pytest.raises(GuardError, match=f"{array} must be {demand.words()}, but {said}"), one.transaction("wrong"):
            mistake(one)
    assert [version.message for version in other.list_versions()] == ["first"]
    other.demand(array, Demand())
    with store.transaction("allowed now"):
        mistake(store)
    assert store.guards().arrays == {}


def test_a_range_lets_missing_values_pass_and_reads_only_the_chunks_that_were_written(store):
    with store.transaction("wrong before the demand"):
        wrong_range(store)
    store.demand("snr", Demand(range=(0, 70)))
    with store.transaction("another chunk"):
        zarr.open_array(store, path="snr", mode="r+")[:3] = [-999, 300, 500]
    assert store.version.message == "another chunk"


def test_what_a_commit_does_not_touch_is_not_asked(store):
    store.demand("snr", Demand(units="furlong"))
    with store.transaction("elsewhere"):
        zarr.open_array(store, path="sid", mode="r+")[0] = "z"
    assert store.version.message == "elsewhere"


def test_a_protected_branch_takes_no_commit_reset_undo_amend_or_deletion_and_others_do(store):
    store.branch("dev")
    with store.transaction("second"):
        zarr.open_group(store).attrs["n"] = 1
    store.protect("main")
    store.protect("dev")
    other = again(store)
    moves = [
        other.begin,
        lambda: other.reset("main~1"),
        other.undo,
        lambda: other.amend("better"),
        lambda: other.restore("main~1"),
        lambda: other.revert("main"),
        lambda: other.delete_branch("dev"),
    ]
    for move in moves:
        with pytest.raises(GuardError, match="is protected against a") as refused:
            move()
        assert "--unprotect" in refused.value.hint
    other.unprotect("dev")
    assert other.guards().protected == ("main",)
    other.switch("dev")
    with other.transaction("on dev"):
        zarr.open_group(other).attrs["n"] = 2
    other.switch("main")
    other.delete_branch("dev")
    assert other.version.message == "second"


def test_a_branch_that_was_protected_while_a_transaction_was_open_takes_no_commit(store):
    store.begin()
    zarr.open_group(store).attrs["n"] = 1
    again(store).protect("main")
    with pytest.raises(GuardError, match="protected against a commit"):
        store.commit("late")
    assert store.in_transaction
    store.discard()


def test_guards_leave_other_metadata_of_the_repository_alone_and_read_what_a_later_version_may_add(store):
    store.repo.update_metadata({"title": "Rosalia"})
    store.demand("snr", Demand(range=(0, 70)))
    held = store.repo.metadata[KEY]
    held["arrays"]["snr"]["later"] = 1
    store.repo.update_metadata({KEY: held})
    assert store.guards().arrays == {"snr": Demand(range=(0, 70))}
    assert store.repo.metadata["title"] == "Rosalia"


def test_a_branch_that_is_not_there_is_not_protected_and_the_nearest_is_named(store):
    with pytest.raises(UnknownVersionError, match="There is no branch 'mian'") as refused:
        store.protect("mian")
    assert "main" in refused.value.hint


def test_format_1_carries_no_guards_and_a_read_only_store_changes_none():
    old = IcechunkStore.open(icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=1))
    with pytest.raises(GuardError, match="format 1"):
        old.protect("main")
    with old.transaction("works all the same"):
        zarr.open_group(old).attrs["n"] = 1
    reader = IcechunkStore.open(old.repo, read_only=True)
    for change in (lambda: reader.protect("main"), lambda: reader.demand("x", Demand(unique=True))):
        with pytest.raises(NotWritableError):
            change()
