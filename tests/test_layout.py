"""Where stores lie, which kind they are, and how their arrays are cut into chunks."""

from __future__ import annotations

import os
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from icemagic.config import Config
from icemagic.errors import ConfigError, StorageURLError, StoreNotFoundError
from icemagic.layout import Site, chunks_for, kind_of, sites
from icemagic.storage import locate

NAME = st.text(st.characters(exclude_characters="/\0\n\r\\?#", exclude_categories=["Cs"]), min_size=1)


def make(path: Path) -> None:
    icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))


class TestKind:
    @pytest.mark.parametrize(
        "place",
        [
            "stores/rosalia/rinex",
            "stores/rosalia/rinex/",
            "./stores//rosalia/./rinex",
            "/data/stores/rosalia/rinex",
            "file:///data/stores/rosalia/rinex/",
            "s3://bucket/stores/rosalia/rinex",
            "s3://bucket/deep/stores/rosalia/rinex/",
            "memory:stores/rosalia/rinex",
            Path("stores/rosalia/rinex"),
        ],
    )
    def test_it_is_the_last_part_of_the_layout(self, place: str | Path) -> None:
        assert kind_of(place) == "rinex"

    @pytest.mark.parametrize(
        "place",
        [
            "",
            "rinex",
            "stores/rinex",
            "stores/a/b/rinex",
            "store/a/rinex",
            "stores/a/..",
            "stores/../rinex",
            "s3://b/a/vod",
        ],
    )
    def test_another_place_has_none(self, place: str) -> None:
        assert kind_of(place) is None

    @pytest.mark.skipif(os.name == "nt", reason="these are names of folders on POSIX only")
    @given(NAME, NAME)
    def test_a_path_and_its_url_have_the_same_kind(self, site: str, kind: str) -> None:
        path = Path("/data/stores", site, kind)
        assert kind_of(locate(path).url) == kind_of(path)
        assert kind_of(path) in (kind, None)


class TestSites:
    def test_only_repositories_of_the_layout_are_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for place in ("rosalia/vod", "rosalia/rinex", "Aspen 2/rinex", "too/deep/rinex"):
            make(tmp_path / "stores" / place)
        (tmp_path / "stores" / "rosalia" / "notes").mkdir()
        (tmp_path / "stores" / "empty").mkdir()
        (tmp_path / "stores" / "README").write_text("")
        (tmp_path / "stores" / "rosalia" / "README").write_text("")
        found = sites()
        assert found.sites == (Site("Aspen 2", ("rinex",)), Site("rosalia", ("rinex", "vod")))
        assert sites(tmp_path / "stores") == sites((tmp_path / "stores").as_uri()) == found
        assert "rosalia  rinex, vod" in repr(found)
        assert str(tmp_path / "stores" / "Aspen 2") in found._repr_html_()

    def test_a_folder_without_any_says_so(self, tmp_path: Path) -> None:
        assert sites(tmp_path).sites == ()
        assert "No repository" in repr(sites(tmp_path))

    def test_a_missing_folder_is_not_an_empty_one(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFoundError, match="no folder"):
            sites(tmp_path / "stroes")

    def test_remote_storage_cannot_be_listed(self) -> None:
        with pytest.raises(StorageURLError, match="local folder"):
            sites("memory:stores")


class TestChunks:
    def test_a_length_stands_and_minus_one_is_the_whole_dimension(self) -> None:
        config = Config(chunk_strategies={"rinex": {"epoch": 34_560, "sid": -1}})
        assert chunks_for("rinex", {"epoch": 100, "sid": 300, "band": 4}, config) == {
            "epoch": 34_560,
            "sid": 300,
            "band": 4,
        }
        assert chunks_for("rinex", {"sid": 0}, config) == {"sid": 1}

    def test_an_unknown_kind_gets_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="rinx") as caught:
            chunks_for("rinx", {"epoch": 1}, Config())
        assert "Did you mean rinex" in caught.value.hint

    @given(st.dictionaries(st.sampled_from(["epoch", "sid", "x"]), st.integers(0, 10**9)))
    def test_every_dimension_gets_a_length_that_zarr_takes(self, sizes: dict[str, int]) -> None:
        chunks = chunks_for("vod", sizes, Config())
        assert chunks.keys() == sizes.keys()
        assert all(length >= 1 for length in chunks.values())

    def test_a_short_first_write_and_later_appends_fill_one_chunk(self) -> None:
        """What the rule relies on: xarray and zarr keep a chunk that is longer than its array."""
        config = Config(chunk_strategies={"rinex": {"epoch": 50, "sid": -1}})
        store = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main").store

        def piece(start: int) -> xr.Dataset:
            values = np.arange(start * 2, start * 2 + 40, dtype="f4").reshape(20, 2)
            coords = {"epoch": np.arange(start, start + 20), "sid": [1, 2]}
            return xr.Dataset({"snr": (("epoch", "sid"), values)}, coords)

        first = piece(0)
        lengths = chunks_for("rinex", dict(first.sizes), config)
        for variable in first.variables.values():
            variable.encoding["chunks"] = tuple(lengths[dim] for dim in variable.dims)
        first.to_zarr(store)
        for start in (20, 40):
            piece(start).to_zarr(store, append_dim="epoch")
        stored = xr.open_zarr(store)
        assert stored["snr"].encoding["chunks"] == (50, 2)
        assert stored["snr"].chunks == ((50, 10), (2,))
        xr.testing.assert_identical(stored.load(), xr.concat([piece(0), piece(20), piece(40)], "epoch"))
