"""A tree shows every group and array of a version, and what lies in storage in words."""

from __future__ import annotations

import icechunk
import numpy as np
import pytest
import zarr

from icemagic.history import title
from icemagic.tree import kept, tree


@pytest.fixture(params=["memory", "local"])
def storage(request, tmp_path):
    if request.param == "memory":
        return icechunk.in_memory_storage()
    return icechunk.local_filesystem_storage(str(tmp_path))


@pytest.fixture(params=[1, 2], ids=["format 1", "format 2"])
def repo(request, storage):
    return icechunk.Repository.create(storage, spec_version=request.param)


def fill(repo):
    session = repo.writable_session("main")
    root = zarr.create_group(session.store)
    deep = root.create_group("rosalia").create_group("canopy")
    snr = deep.create_array("snr", shape=(100, 7), chunks=(30, 7), dtype="f4", dimension_names=("epoch", "sid"))
    snr[:60] = np.arange(420, dtype="f4").reshape(60, 7)
    root.create_array("scalar", shape=(), dtype="i8")[...] = 5
    root.create_array("text", shape=(2,), dtype="str")[:] = np.array(["a", "日本"], dtype=object)
    sharded = root.create_array("sharded", shape=(64,), shards=(32,), chunks=(8,), dtype="i2")
    sharded[:40] = 1
    root.create_array("empty", shape=(0, 3), chunks=(1, 3), dtype="f8")
    root.create_group("größe ☃")
    root.create_array("never written", shape=(10,), chunks=(4,), dtype="u1", compressors=None)
    return session.commit("fill")


def look(repo, snapshot_id):
    return tree(repo, repo.readonly_session(snapshot_id=snapshot_id).store, title=title(repo, snapshot_id))


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_every_group_and_array_is_listed_once_in_order_with_its_facts(repo):
    nodes = look(repo, fill(repo)).nodes
    paths = [node.path for node in nodes]
    assert paths[0] == "/"
    assert paths[1:] == sorted(paths[1:])
    by_path = {node.path: node for node in nodes}
    groups = {path for path, node in by_path.items() if node.kind == "group"}
    assert groups == {"/", "rosalia", "rosalia/canopy", "größe ☃"}
    snr = by_path["rosalia/canopy/snr"]
    assert (snr.shape, snr.dtype, snr.chunks, snr.dims) == ((100, 7), "float32", (30, 7), ("epoch", "sid"))
    assert (snr.stored_chunks, snr.total_chunks) == (2, 4)
    assert snr.bytes > 0
    assert "zstd" in snr.codecs
    assert (by_path["scalar"].shape, by_path["scalar"].stored_chunks, by_path["scalar"].total_chunks) == ((), 1, 1)
    assert by_path["text"].dtype == "string"
    sharded = by_path["sharded"]
    assert (sharded.chunks, sharded.stored_chunks, sharded.total_chunks) == ((32,), 2, 2)
    assert (by_path["empty"].stored_chunks, by_path["empty"].total_chunks) == (0, 0)
    never = by_path["never written"]
    assert (never.stored_chunks, never.total_chunks, never.bytes, never.codecs) == (0, 3, 0, "none")


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_it_shows_names_indented_shapes_with_dimensions_and_storage_in_words(repo):
    text = repr(look(repo, fill(repo)))
    assert "    canopy/" in text
    assert "epoch 100 × sid 7" in text
    assert "2 of 4" in text
    assert "scalar" in text
    assert "version snapshots" in text
    assert "not icechunk's" not in text


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_it_becomes_a_dataframe_of_one_row_a_node(repo):
    found = look(repo, fill(repo))
    frame = found.to_dataframe()
    assert list(frame["path"]) == [node.path for node in found.nodes]
    assert frame.set_index("path").loc["rosalia/canopy/snr", "stored_chunks"] == 2


def test_an_empty_repository_is_an_empty_tree_with_its_columns(repo):
    found = look(repo, repo.lookup_branch("main"))
    assert found.nodes == ()
    frame = found.to_dataframe()
    assert len(frame) == 0
    assert {"path", "kind", "shape", "bytes"} <= set(frame.columns)
    assert repr(found).startswith("the empty start")


def test_a_root_that_is_an_array_is_listed(repo):
    session = repo.writable_session("main")
    zarr.create_array(session.store, shape=(3,), chunks=(2,), dtype="i4")[:] = 1
    (node,) = look(repo, session.commit("root")).nodes
    assert (node.kind, node.path, node.stored_chunks) == ("array", "/", 2)


def test_a_session_shows_what_is_not_committed_yet(repo):
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="x", shape=(3,), chunks=(3,), dtype="i4")[:] = 1
    assert [node.path for node in tree(repo, session.store, title="t").nodes] == ["/", "x"]


def test_what_lies_in_storage_adds_up_to_the_files_there(tmp_path):
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))
    session = repo.writable_session("main")
    array = zarr.create_array(session.store, name="x", shape=(5_000,), chunks=(5_000,), dtype="f8")
    array[:] = np.random.default_rng(1).random(5_000)
    session.commit("x")
    (tmp_path / "notes.txt").write_text("mine")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    kinds, remark = kept(repo)
    assert remark == ""
    assert sum(kind.files for kind in kinds) == len(files)
    assert sum(kind.bytes for kind in kinds) == sum(file.stat().st_size for file in files)
    by_name = {kind.name: kind for kind in kinds}
    assert by_name["chunks"].files == 1
    assert by_name["snapshots"].files == 2
    assert by_name["notes.txt"].meaning == "not icechunk's"
    assert kinds[-1].name == "notes.txt"


def test_every_file_of_a_format_1_repository_has_a_meaning(tmp_path):
    config = icechunk.RepositoryConfig.default()
    storage = icechunk.local_filesystem_storage(str(tmp_path))
    repo = icechunk.Repository.create(storage, config=config, spec_version=1)
    repo.save_config()
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="x", shape=(5_000,), chunks=(5_000,), dtype="f8")[:] = 1
    repo.create_tag("v1", session.commit("x"))
    kinds, _ = kept(repo)
    assert {"refs", "snapshots", "config.yaml"} <= {kind.name for kind in kinds}
    assert all(kind.meaning != "not icechunk's" for kind in kinds)
