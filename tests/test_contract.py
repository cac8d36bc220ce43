"""One contract on every kind of storage: memory, local disk, S3 (SeaweedFS) and Azure (Azurite), real servers all."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

import servers
from icemagic import IcechunkStore, preprocess_dataset
from icemagic.errors import ConflictError, NotWritableError, StoreExistsError, StoreNotFoundError, TransactionError
from icemagic.provenance import Cell
from icemagic.sample import gnss_day


@dataclass(frozen=True)
class Place:
    """Where the contract is tried: makes URLs that nobody has used, and says how they are opened."""

    new_url: Callable[[], str]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def storage_config(self) -> dict[str, Any] | None:
        return self.config or None


@pytest.fixture(
    params=[
        "memory",
        "file",
        pytest.param("s3_server", marks=pytest.mark.servers),
        pytest.param("azure_server", marks=pytest.mark.servers),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    names = iter(f"{request.node.name}-{number}" for number in range(100))
    match request.param:
        case "memory":
            return Place(lambda: f"memory:{tmp_path.name}-{next(names)}")
        case "file":
            return Place(lambda: f"file://{tmp_path}/{next(names)}")
    server: servers.ObjectStore = request.getfixturevalue(request.param)
    return Place(server.new_url, dict(server.storage_config))


def observations(hour: int, *, value: float | None = None) -> xr.Dataset:
    raw = gnss_day("2024-01-15", hours=2, interval="60s", systems="G").isel(epoch=slice(60 * hour, 60 * hour + 60))
    return raw if value is None else raw.assign(SNR=raw["SNR"].fillna(0) * 0 + value)


def test_the_snippets_of_the_documentation_run(place):
    storage, storage_config = place.new_url(), place.storage_config
    raw_data = observations(0)

    store = IcechunkStore.open_or_create(storage=storage, storage_config=storage_config, read_only=False)
    with store.transaction() as txn:
        ds = preprocess_dataset(raw_data)
        ds.to_zarr(store, mode="a")
        txn.commit(message="Added 2024-01-15 data")
    with store.transaction("Added the hour after"):
        preprocess_dataset(observations(1)).to_zarr(store, append_dim="epoch")

    versions = store.list_versions()
    store_v1 = IcechunkStore.open(storage=storage, storage_config=storage_config, version=versions[0])
    first = xr.open_zarr(store_v1)
    both = xr.open_zarr(store)
    subset = both.sel(epoch=slice("2024-01-15T01:00", "2024-01-31"))

    assert [version.message for version in versions] == ["Added 2024-01-15 data", "Added the hour after"]
    xr.testing.assert_equal(first.load(), raw_data)
    xr.testing.assert_equal(subset.load(), observations(1))
    xr.testing.assert_equal(both.load(), xr.concat([raw_data, observations(1)], "epoch", join="exact"))


def test_versions_tags_and_branches_go_back_and_forth(place):
    store = IcechunkStore.create(place.new_url(), storage_config=place.storage_config)
    for value in (1.0, 2.0):
        with store.transaction(f"value {value}"):
            preprocess_dataset(observations(0, value=value)).to_zarr(store, mode="w")
    store.tag("v1", "main~1")
    store.branch("dev", "v1")
    read = {}
    for ref in ("v1", "main", "dev", "HEAD~0"):
        store.checkout(ref)
        read[ref] = float(xr.open_zarr(store)["SNR"].max())
    assert read == {"v1": 1.0, "main": 2.0, "dev": 1.0, "HEAD~0": 1.0}
    assert {array.path for array in store.diff("v1", "main").arrays} >= {"SNR"}


def test_a_failed_transaction_leaves_nothing(place):
    store = IcechunkStore.create(place.new_url(), storage_config=place.storage_config)
    with store.transaction("start"):
        zarr.create_array(store, name="x", data=np.arange(10))
    with pytest.raises(ZeroDivisionError), store.transaction("never"):
        zarr.open_array(store, path="x", mode="r+")[:] = 0
        1 / 0  # noqa: B018
    with pytest.raises(TransactionError, match="nobody committed"), store.transaction():
        zarr.open_array(store, path="x", mode="r+")[:] = 0
    again = IcechunkStore.open(store.repo)
    assert [version.message for version in again.list_versions()] == ["start"]
    assert list(zarr.open_array(again, path="x", mode="r")[:]) == list(range(10))


def test_two_writers_both_land_or_one_is_told(place):
    first = IcechunkStore.create(place.new_url(), storage_config=place.storage_config)
    with first.transaction("start"):
        zarr.create_array(first, name="x", data=np.zeros(10), chunks=(5,))
    second = IcechunkStore.open(first.repo)
    with first.transaction("left") as left, second.transaction("right") as right:
        zarr.open_array(first, path="x", mode="r+")[:5] = 1
        zarr.open_array(second, path="x", mode="r+")[5:] = 2
        left.commit("left")
        right.commit("right")
    assert list(zarr.open_array(second, path="x", mode="r")[:]) == [1] * 5 + [2] * 5
    with first.transaction(), second.transaction() as late:
        zarr.open_array(first, path="x", mode="r+")[:5] = 3
        zarr.open_array(second, path="x", mode="r+")[:5] = 4
        first._transaction.commit("in time")
        with pytest.raises(ConflictError, match="changed the same: x"):
            late.commit("too late")
        late.discard()
    first.refresh()
    assert [version.message for version in first.list_versions()] == ["start", "left", "right", "in time"]


def test_open_never_creates_and_create_never_overwrites(place):
    url = place.new_url()
    with pytest.raises(StoreNotFoundError, match="no icechunk repository"):
        IcechunkStore.open(url, storage_config=place.storage_config)
    with pytest.raises(StoreNotFoundError, match="no icechunk repository"):
        IcechunkStore.open_or_create(url, storage_config=place.storage_config, read_only=True)
    IcechunkStore.create(url, storage_config=place.storage_config)
    with pytest.raises(StoreExistsError, match="already"):
        IcechunkStore.create(url, storage_config=place.storage_config)
    assert IcechunkStore.open_or_create(url, storage_config=place.storage_config).version is None


def test_read_only_is_enforced(place):
    url = place.new_url()
    writer = IcechunkStore.create(url, storage_config=place.storage_config)
    with writer.transaction("start"):
        zarr.create_array(writer, name="x", data=np.zeros(3))
    reader = IcechunkStore.open(url, storage_config=place.storage_config, read_only=True)
    for attempt in (
        lambda: reader.transaction("no").__enter__(),
        lambda: reader.tag("no"),
        lambda: reader.branch("no"),
        lambda: reader.with_read_only(read_only=False),
    ):
        with pytest.raises(NotWritableError, match="read-only"):
            attempt()
    with pytest.raises(NotWritableError, match="read-only"):
        zarr.open_array(reader, path="x", mode="r+")[:] = 1
    assert list(zarr.open_array(reader, path="x", mode="r")[:]) == [0, 0, 0]


def test_the_tree_lists_what_lies_in_storage(place):
    store = IcechunkStore.create(place.new_url(), storage_config=place.storage_config)
    with store.transaction("start"):
        zarr.create_array(store, name="x", data=np.random.default_rng(0).random(1000))
    kept = {kind.name: kind for kind in store.tree().kept}
    assert {"chunks", "snapshots", "repo"} <= kept.keys()
    assert kept["chunks"].bytes == store.tree().nodes[1].bytes


@pytest.mark.servers
def test_no_secret_is_shown_or_recorded(s3_server, azure_server, caplog):
    caplog.set_level(logging.DEBUG)
    for server, key in ((s3_server, "secret_access_key"), (azure_server, "account_key")):
        secret = server.storage_config[key]
        url = server.new_url()
        store = IcechunkStore.create(url, storage_config=server.storage_config)
        with store.transaction(
            f"with the key {secret} in the message", cell=Cell(f'connect("{secret}")\nkey = "{secret}"')
        ):
            zarr.create_group(store)
        wrong = dict(server.storage_config) | {key: "d3Jvbmc=" + secret[:4]}
        with pytest.raises(icechunk.IcechunkError) as refused:
            IcechunkStore.open(url, storage_config=wrong)
        shown = io.StringIO()
        for record in (store, store.status(), store.log(), store.show(), store.tree(), store.config, store.branches()):
            print(repr(record), record._repr_html_(), str(record), file=shown)
        print(refused.value, refused.value.__notes__ if hasattr(refused.value, "__notes__") else "", file=shown)
        print(store.repo.inspect_repo_info(), caplog.text, file=shown)
        assert secret not in shown.getvalue()
        assert "[redacted]" in store.show().origin.source
        assert store.version.message == "with the key [redacted] in the message"


@pytest.mark.servers
def test_credentials_auto_takes_what_the_environment_holds(s3_server, monkeypatch):
    keys = dict(s3_server.storage_config)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.pop("access_key_id"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.pop("secret_access_key"))
    store = IcechunkStore.open_or_create(s3_server.new_url(), storage_config={**keys, "credentials": "auto"})
    with store.transaction("start"):
        zarr.create_group(store)
    assert len(store.log()) == 1


@pytest.mark.servers
def test_credentials_anonymous_sends_none(s3_server):
    keys = {key: value for key, value in s3_server.storage_config.items() if "key" not in key}
    with pytest.raises(icechunk.StorageError, match="AccessDenied"):
        IcechunkStore.open_or_create(s3_server.new_url(), storage_config={**keys, "credentials": "anonymous"})
