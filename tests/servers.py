"""Starts real servers on the loopback interface for the tests: SeaweedFS (S3), Azurite (Azure Blob) and JupyterLab."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import icechunk

PROJECT = Path(__file__).parents[1]
HOST = "127.0.0.1"
START_SECONDS = 60

S3_BUCKET = "test-bucket"
S3_KEYS = {"access_key_id": "testkey", "secret_access_key": "testsecret"}
S3_READER_KEYS = {"access_key_id": "readkey", "secret_access_key": "readsecret"}
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_CONTAINER = "test-container"
# The key that every copy of the emulator has; it opens nothing else.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class ObjectStore:
    """A running server with a bucket or container, and the ``storage_config`` that opens it."""

    scheme: str
    bucket: str
    endpoint: str
    storage_config: dict[str, Any]

    def new_url(self) -> str:
        """Return the URL of a place that nobody has used yet."""
        return f"{self.scheme}://{self.bucket}/{uuid.uuid4().hex}"


@dataclass(frozen=True)
class JupyterLab:
    """A running JupyterLab and the folder that it serves."""

    url: str
    token: str
    root: Path

    def notebook_url(self, path: str) -> str:
        """Return the address of a notebook below `root`, in a workspace of its own."""
        return f"{self.url}/lab/workspaces/{uuid.uuid4().hex}/tree/{path}?reset&token={self.token}"

    def request(self, method: str, path: str) -> Any:
        """Call the server's REST interface, for example ``request("GET", "api/sessions")``."""
        call = Request(f"{self.url}/{path}", method=method, headers={"Authorization": f"token {self.token}"})  # noqa: S310
        with urlopen(call, timeout=10) as answer:  # noqa: S310
            return json.loads(answer.read() or "null")

    def stop_kernels(self) -> None:
        """End what the last test left running: kernels outlive the pages that started them."""
        for session in self.request("GET", "api/sessions"):
            self.request("DELETE", f"api/sessions/{session['id']}")


def find_weed() -> Path | None:
    """Return SeaweedFS's program, which a package puts beside Python's."""
    return _program(Path(sys.executable).with_name("weed"), "weed")


def find_azurite() -> Path | None:
    """Return Azurite's program, which make installs."""
    return _program(PROJECT / ".cache/azurite/node_modules/.bin/azurite-blob", "azurite-blob")


def find_chromium() -> Path | None:
    """Return a Chromium or Chrome; the variable CHROMIUM comes first."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = (shutil.which(name) for name in names if name)
    return next((Path(path) for path in found if path), None)


@contextmanager
def seaweedfs(program: Path, folder: Path) -> Iterator[ObjectStore]:
    """Run SeaweedFS with one bucket, a key that may do everything and one that may only read."""
    identities = [
        _identity("admin", S3_KEYS, ["Admin", "Read", "Write", "List", "Tagging"]),
        _identity("reader", S3_READER_KEYS, [f"Read:{S3_BUCKET}", f"List:{S3_BUCKET}"]),
    ]
    keys = folder / "s3.json"
    keys.write_text(json.dumps({"identities": identities}))
    # SeaweedFS takes each port plus 10000 as well.
    master, volume, filer, s3 = free_ports(4, also=10_000)
    endpoint = f"http://{HOST}:{s3}"
    config = {"region": "us-east-1", "endpoint_url": endpoint, "allow_http": True, "force_path_style": True, **S3_KEYS}
    command = [
        program, f"-logdir={_made(folder / 'log')}", "mini", f"-dir={_made(folder / 'data')}",
        f"-ip={HOST}", f"-ip.bind={HOST}",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}",
        f"-bucket={S3_BUCKET}", f"-s3.config={keys}", "-master.telemetry=false",
        "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
    ]  # fmt: skip
    with _running(command, folder) as process:
        _wait(process, folder, lambda: _s3_answers(config))
        yield ObjectStore("s3", S3_BUCKET, endpoint, config)


@contextmanager
def azurite(program: Path, folder: Path) -> Iterator[ObjectStore]:
    """Run Azurite with one container."""
    (port,) = free_ports(1)
    endpoint = f"http://{HOST}:{port}/{AZURE_ACCOUNT}"
    command = [
        program, "--blobHost", HOST, "--blobPort", str(port), "--location", _made(folder / "data"),
        "--disableTelemetry", "--silent", "--skipApiVersionCheck",
    ]  # fmt: skip
    config = {
        "account_name": AZURE_ACCOUNT,
        "account_key": AZURE_KEY,
        "endpoint_url": endpoint,
        "allow_http": True,
    }
    with _running(command, folder) as process:
        _wait(process, folder, lambda: _made_container(endpoint))
        yield ObjectStore("az", AZURE_CONTAINER, endpoint, config)


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[JupyterLab]:
    """Run JupyterLab on an empty folder, with settings of its own and no pop-ups."""
    (port,) = free_ports(1)
    config = _made(folder / "config")
    overrides = _made(config / "labconfig") / "default_setting_overrides.json"
    notification = {"checkForUpdates": False, "fetchNews": "false", "doNotDisturbMode": True}
    overrides.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": notification}))
    lab = JupyterLab(f"http://{HOST}:{port}", "test", _made(folder / "root"))
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--ip={HOST}", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={lab.root}",
        f"--LabApp.workspaces_dir={_made(folder / 'workspaces')}", "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(_made(folder / "data")),
        "JUPYTER_RUNTIME_DIR": str(_made(folder / "runtime")),
        "IPYTHONDIR": str(_made(folder / "ipython")),
    }
    with _running(command, folder, env) as process:
        _wait(process, folder, lambda: _lab_answers(lab))
        yield lab
        lab.stop_kernels()


def free_ports(number: int, also: int = 0) -> list[int]:
    """Return ports that nobody listens on, nor on the port `also` above each.

    They lie below the range that the system hands out by itself, so that no outgoing connection takes one meanwhile.
    """
    first = 20_000 + os.getpid() % 2_000
    free = (port for port in range(first, 32_000) if _is_free(port) and (not also or _is_free(port + also)))
    return [next(free) for _ in range(number)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def _running(
    command: list[str | Path], folder: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], folder: Path, is_ready: Callable[[], bool]) -> None:
    end = time.monotonic() + START_SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > end:
            output = (folder / "output").read_text(errors="replace")[-2_000:]
            message = f"{process.args[0]} did not come up:\n{output}"
            raise RuntimeError(message)
        time.sleep(0.1)


def _s3_answers(config: dict[str, Any]) -> bool:
    """Say whether a write succeeds: the port is open long before that."""
    storage = icechunk.s3_storage(bucket=S3_BUCKET, prefix=f"ready-{uuid.uuid4().hex}", **config)
    once = icechunk.StorageSettings(retries=icechunk.StorageRetriesSettings(max_tries=1))
    try:
        icechunk.Repository.create(storage, config=icechunk.RepositoryConfig(storage=once))
    except icechunk.StorageError:
        return False
    return True


def _made_container(endpoint: str) -> bool:
    from azure.core.exceptions import ServiceRequestError
    from azure.storage.blob import BlobServiceClient

    with BlobServiceClient(endpoint, credential=AZURE_KEY, retry_total=0) as client:
        try:
            client.create_container(AZURE_CONTAINER)
        except ServiceRequestError:
            return False
    return True


def _lab_answers(lab: JupyterLab) -> bool:
    try:
        lab.request("GET", "api/status")
    except URLError:
        return False
    return True


def _identity(name: str, keys: dict[str, str], actions: list[str]) -> dict[str, Any]:
    credentials = {"accessKey": keys["access_key_id"], "secretKey": keys["secret_access_key"]}
    return {"name": name, "credentials": [credentials], "actions": actions}


def _program(expected: Path, name: str) -> Path | None:
    found = str(expected) if expected.exists() else shutil.which(name)
    return Path(found) if found else None


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
