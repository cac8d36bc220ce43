"""The ground that the other tests stand on: real servers, a browser, and no silent skips in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr
from playwright.sync_api import Page, expect

import servers


def storage_of(server: servers.ObjectStore, **other: str) -> icechunk.Storage:
    config = server.storage_config | other
    prefix = server.new_url().rpartition("/")[2]
    if server.scheme == "s3":
        return icechunk.s3_storage(bucket=server.bucket, prefix=prefix, **config)
    return icechunk.azure_storage(
        account=config["account_name"],
        container=server.bucket,
        prefix=prefix,
        access_key=config["account_key"],
        config={"endpoint": config["endpoint_url"], "allow_http": "true"},
    )


@pytest.fixture(params=["s3_server", "azure_server"])
def server(request: pytest.FixtureRequest) -> servers.ObjectStore:
    return request.getfixturevalue(request.param)


@pytest.mark.servers
def test_a_commit_is_there_for_the_next_reader(server):
    storage = storage_of(server)
    session = icechunk.Repository.create(storage).writable_session("main")
    zarr.create_array(session.store, name="a", data=np.array([1, 2, 3]))
    session.commit("three numbers")
    again = icechunk.Repository.open(storage).readonly_session(branch="main")
    assert list(zarr.open_array(again.store, path="a", mode="r")[:]) == [1, 2, 3]


@pytest.mark.servers
def test_a_key_that_may_only_read_cannot_create(s3_server):
    with pytest.raises(icechunk.StorageError, match="AccessDenied"):
        icechunk.Repository.create(storage_of(s3_server, **servers.S3_READER_KEYS))


def test_ports_are_free_in_pairs():
    ports = servers.free_ports(4, also=10_000)
    assert len(set(ports)) == 4
    assert all(servers._is_free(port) and servers._is_free(port + 10_000) for port in ports)


def test_jupyterlab_opens_in_the_browser(jupyter_lab, page: Page):
    page.goto(f"{jupyter_lab.url}/lab?reset&token={jupyter_lab.token}")
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=60_000)


@pytest.mark.parametrize(("ci", "passes"), [pytest.param("", True, id="here"), pytest.param("true", False, id="CI")])
def test_a_skip_fails_in_ci_only(tmp_path, ci, passes):
    for name in ("conftest.py", "processes.py", "servers.py"):
        shutil.copy(Path(__file__).with_name(name), tmp_path)
    (tmp_path / "test_one.py").write_text("import pytest\ndef test_one(): pytest.skip('no browser')")
    (tmp_path / "test_file.py").write_text("import pytest\npytest.importorskip('no_such_package')")
    (tmp_path / "test_good.py").write_text("def test_good(): pass")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    command += ["--continue-on-collection-errors", tmp_path]
    env = os.environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    last = run.stdout.splitlines()[-1]
    assert last.startswith("1 passed, 2 skipped" if passes else "1 failed, 1 passed, 1 error"), run.stdout
    assert ("in CI nothing may be skipped" in run.stdout) is not passes, run.stdout
