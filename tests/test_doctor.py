"""Every fault is found and named with what mends it, mending it removes the finding, and a sound store has none."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import icechunk
import numpy as np
import pytest
import zarr

from icemagic import backups, doctor
from icemagic.config import Config, load_config
from icemagic.doctor import diagnose, plan_upgrade, upgrade
from icemagic.errors import IcemagicError
from icemagic.locking import LOCK_NAME


def local(folder):
    return icechunk.local_filesystem_storage(str(folder))


def new_repo(storage=None, spec_version=2, config=None):
    repo = icechunk.Repository.create(storage or icechunk.in_memory_storage(), config=config, spec_version=spec_version)
    session = repo.writable_session("main")
    array = zarr.create_array(session.store, name="x", shape=(5_000,), chunks=(500,), dtype="f8")
    array[:] = np.random.default_rng(1).random(5_000)
    session.commit("x")
    return repo


def look(repo, config=None, now=None):
    return diagnose(repo, config=config or Config(), now=now)


def said(repo, **arguments):
    return [(finding.what, finding.mend) for finding in look(repo, **arguments)]


@pytest.mark.parametrize("place", ["memory", "local"])
def test_a_sound_store_has_nothing_to_mend(tmp_path, place):
    repo = new_repo(local(tmp_path) if place == "local" else None)
    assert said(repo) == []
    assert repr(look(repo)) == "nothing to mend"


def test_a_store_without_a_version_has_nothing_to_mend():
    assert said(icechunk.Repository.create(icechunk.in_memory_storage())) == []


def test_format_1_is_found_and_upgraded(tmp_path):
    repo = new_repo(local(tmp_path), spec_version=1)
    tip = repo.lookup_branch("main")
    repo.create_tag("v1", tip)
    ((what, mend),) = said(repo)
    assert "format 1" in what
    assert mend == "%ice upgrade"
    plan = plan_upgrade(repo)
    assert (plan.versions, plan.branches, plan.tags) == (1, 1, 1)
    assert icechunk.Repository.open(local(tmp_path)).spec_version == 1
    new = upgrade(repo)
    assert new.spec_version == 2
    assert (new.lookup_branch("main"), new.lookup_tag("v1")) == (tip, tip)
    assert said(icechunk.Repository.open(local(tmp_path))) == []
    assert "1 version, 1 branch, 1 tag" in repr(plan)


@pytest.mark.parametrize("verb", [plan_upgrade, upgrade])
def test_format_2_is_not_upgraded(verb):
    with pytest.raises(IcemagicError, match="format 2 already"):
        verb(new_repo())


@pytest.mark.parametrize("limit", ["MOST_REFS", "MOST_BYTES"])
def test_a_manifest_above_either_limit_is_found(monkeypatch, limit):
    repo = new_repo()
    monkeypatch.setattr(doctor, limit, 9)
    ((what, mend),) = said(repo)
    assert "10 chunks" in what
    assert "splitting" in mend


def test_versions_that_nothing_reaches_are_counted_until_a_branch_does():
    repo = new_repo()
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="x")[:5] = 0
    shelved = session.flush("shelved")
    ((what, mend),) = said(repo)
    assert "1 version" in what
    assert "%ice rescue" in mend
    repo.create_branch("found", shelved)
    assert said(repo) == []


def test_backups_larger_than_all_else_are_found_until_they_are_pruned(tmp_path):
    repo = icechunk.Repository.create(local(tmp_path))
    for number in range(20):
        repo.update_metadata({"number": number})
    ((what, mend),) = said(repo)
    assert "backups" in what
    assert "%ice gc" in mend
    backups.prune(repo, datetime.now(UTC) + timedelta(days=1))
    assert said(repo) == []


def test_a_lock_that_lies_there_is_nothing_and_one_that_a_process_holds_is_found(tmp_path):
    repo = new_repo(local(tmp_path))
    (tmp_path / LOCK_NAME).touch()
    assert said(repo) == []
    code = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / LOCK_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        ((what, mend),) = said(repo)
        holder.communicate("\n")
    assert "the lock is held" in what
    assert "stop it" in mend
    assert said(repo) == []


def test_a_version_from_the_future_is_found_beyond_a_minute(tmp_path):
    for spec_version in (1, 2):
        repo = new_repo(spec_version=spec_version)
        at = repo.lookup_snapshot(repo.lookup_branch("main")).written_at
        early = [what for what, _ in said(repo, now=at - timedelta(minutes=2)) if "future" in what]
        assert early
        assert not [what for what, _ in said(repo, now=at - timedelta(seconds=30)) if "future" in what]


@pytest.mark.parametrize("days", [-1, 1])
def test_a_storage_whose_clock_is_wrong_is_found(tmp_path, days):
    repo = new_repo(local(tmp_path))
    moment = (datetime.now(UTC) + timedelta(days=days)).timestamp()
    os.utime(tmp_path / "snapshots" / repo.lookup_branch("main"), (moment, moment))
    ((what, _),) = said(repo)
    assert "The storage says" in what


def test_settings_that_a_file_sets_and_the_repository_has_not_are_found_until_saved(tmp_path):
    file = tmp_path / "processing.yaml"
    file.write_text("icechunk:\n  inline_threshold: 100\n  compression_level: 7\n")
    config = load_config(file)
    storage = local(tmp_path / "store")
    new_repo(storage)
    repo = icechunk.Repository.open(storage, config=config.repository_config())
    found = [what for what, _ in said(repo, config=config)]
    assert len(found) == 2
    assert "inline_threshold is 100" in found[1]
    assert "compression_level is 7" in found[0]
    repo.save_config()
    assert said(repo, config=config) == []


def test_what_cannot_be_looked_at_is_a_finding(tmp_path):
    new_repo(local(tmp_path))
    for file in (tmp_path / "snapshots").iterdir():
        file.unlink()
    found = said(icechunk.Repository.open(local(tmp_path)))
    assert any(what.startswith("Could not look at the manifests") for what, _ in found)
