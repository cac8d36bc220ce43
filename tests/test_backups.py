"""Pruning backups leaves the operations log and the data as they are, and keeps all that happened since the cut-off."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic.backups import FOLDER, prunable, prune


def new_repo(folder, window=1000):
    config = icechunk.RepositoryConfig(num_updates_per_repo_info_file=window)
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)), config=config)


def reopen(folder):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))


def operate(repo, times):
    for number in range(times):
        repo.update_metadata({"number": number})


def operations(folder):
    return [(str(update.kind), update.updated_at) for update in reopen(folder).ops_log()]


def files(folder):
    return sorted(file for file in Path(folder, FOLDER).iterdir())


def moment_of(file):
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)


SOON = datetime.now(UTC) + timedelta(days=1)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 7), st.integers(1, 30), st.integers(0, 29), st.integers(0, 20), st.integers(2, 9))
def test_the_log_is_the_same_after_pruning_and_later_lacks_nothing_since_the_cut_off(window, n, cut, more, later):
    with tempfile.TemporaryDirectory() as folder:
        operate(new_repo(folder, window), n)
        # Another limit makes another chain: a log may hold copies of different lengths.
        repo = reopen(folder).reopen(config=icechunk.RepositoryConfig(num_updates_per_repo_info_file=later))
        operate(repo, n)
        before = moment_of(files(folder)[cut % n])
        log = operations(folder)
        planned = prunable(repo, before)
        times = {file: moment_of(file) for file in files(folder)}
        done = prune(repo, before)
        assert (planned.prunable_files, planned.prunable_bytes) == (done.files, done.bytes)
        assert operations(folder) == log
        assert all(time < before for file, time in times.items() if not file.exists())
        operate(repo, more)
        since = [operation for operation in log if operation[1] >= before]
        assert operations(folder)[more : more + len(since)] == since


def test_a_log_of_more_than_a_thousand_operations_and_the_data_stay_as_they_are(tmp_path):
    repo = new_repo(tmp_path)
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="x", shape=(5,), chunks=(5,), dtype="f8")[:] = 3
    session.commit("x")
    operate(repo, 1_100)
    log = operations(tmp_path)
    assert len(log) > 1_000
    done = prune(repo, SOON)
    assert done.files > 1_000
    assert operations(tmp_path) == log
    array = zarr.open_array(reopen(tmp_path).readonly_session("main").store, path="x")
    np.testing.assert_array_equal(array[:], 3)
    reopen(tmp_path).create_tag("v1", reopen(tmp_path).lookup_branch("main"))
    assert reopen(tmp_path).list_tags() == {"v1"}


def test_what_may_go_is_counted_in_files_and_bytes_and_then_gone(tmp_path):
    repo = new_repo(tmp_path, window=3)
    operate(repo, 20)
    found = prunable(repo, SOON)
    assert (found.files, found.bytes) == (20, sum(file.stat().st_size for file in files(tmp_path)))
    assert 0 < found.prunable_files < found.files
    prune(repo, SOON)
    left = prunable(repo, SOON)
    assert left.files == found.files - found.prunable_files
    assert left.bytes == found.bytes - found.prunable_bytes
    assert (left.prunable_files, left.prunable_bytes) == (0, 0)


def test_the_newest_backup_stays_and_opens_as_the_repository_did(tmp_path):
    repo = new_repo(tmp_path / "store")
    operate(repo, 5)
    prune(repo, SOON)
    (newest,) = files(tmp_path / "store")
    (tmp_path / "store" / "repo").write_bytes(newest.read_bytes())
    assert reopen(tmp_path / "store").metadata == {"number": 3}


def test_files_that_are_not_icechunks_stay(tmp_path):
    repo = new_repo(tmp_path)
    operate(repo, 3)
    mine = tmp_path / FOLDER / "notes.txt"
    mine.write_text("mine")
    prune(repo, SOON)
    assert mine.exists()


def test_a_young_cut_off_prunes_nothing(tmp_path):
    repo = new_repo(tmp_path)
    operate(repo, 3)
    assert prune(repo, moment_of(files(tmp_path)[-1]) - timedelta(days=1)).files == 0


@pytest.mark.parametrize("spec_version", [1, 2])
def test_storage_that_is_no_folder_and_format_1_have_none(tmp_path, spec_version):
    for storage in (icechunk.in_memory_storage(), icechunk.local_filesystem_storage(str(tmp_path))):
        repo = icechunk.Repository.create(storage, spec_version=spec_version)
        assert prunable(repo, SOON).files == 0
        assert prune(repo, SOON).files == 0


def test_a_time_without_a_zone_is_refused(tmp_path):
    repo = new_repo(tmp_path)
    for verb in (prunable, prune):
        with pytest.raises(ValueError, match="no zone"):
            verb(repo, datetime(2024, 5, 1))  # noqa: DTZ001  that is the point


def test_it_says_how_many_and_how_large(tmp_path):
    repo = new_repo(tmp_path)
    operate(repo, 3)
    assert "3 files" in repr(prunable(repo, SOON))
    assert "not needed: 2 files" in repr(prunable(repo, SOON))
    assert "deleted 2 backups" in repr(prune(repo, SOON))
