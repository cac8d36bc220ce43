"""What the tests share: real servers, real observations, a clean environment, and no silent skips in CI."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from shells import Typed

# icechunk reads this once, when it is imported; every local repository warns otherwise.
os.environ.setdefault("ICECHUNK_LOG", "error")

import servers
from processes import Start, starter

_DATA = Path(__file__).parents[2] / "shared" / "data"
SHARED_DATA: Path | None = _DATA if _DATA.parent.is_dir() else None
"""The folder of real observations beside the project; None where there is no such folder."""

_NO_SHARED = "no folder ../shared with real observations beside the project"
_FOREIGN = ("AWS_", "AZURE_", "GOOGLE_", "ICEMAGIC_")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed of all random examples here, so that it is known."""
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(secrets.randbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    """Print it."""
    seed = config.getoption("hypothesis_seed")
    return f"random examples: --hypothesis-seed={seed} repeats them"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip is a failure, unless it is for want of the real observations."""
    report = yield
    return _refuse_skip(report) if item else report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """As for one test, for a whole file."""
    report = yield
    return _refuse_skip(report)


def _refuse_skip[R: (pytest.TestReport, pytest.CollectReport)](report: R) -> R:
    reason = str(report.longrepr)
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail") and _NO_SHARED not in reason:
        report.outcome = "failed"
        report.longrepr = f"in CI nothing may be skipped: {reason}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the browser's tests last: once Playwright runs, asyncio.run is refused in this process."""
    for item in items:
        if {"page", "browser", "context"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("browser")
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """Keep a developer's own cloud accounts and settings out of the tests, and the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
            patch.delenv(name)
        # Without it a test that has no key asks the address at which cloud machines find theirs.
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real observations."""
    if SHARED_DATA is None:
        pytest.skip(_NO_SHARED)
    assert list(SHARED_DATA.glob("*.nc")), f"{SHARED_DATA} holds no observations"
    return SHARED_DATA


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Typed]:
    """Return IPython in this process, in an empty folder, with icemagic loaded."""
    from shells import fresh_shell

    monkeypatch.chdir(tmp_path)
    with fresh_shell() as typed:
        typed.get("%load_ext icemagic")
        yield typed


@pytest.fixture
def start() -> Iterator[Start]:
    """Return what starts a script in a process of its own; none outlives the test."""
    with starter() as start:
        yield start


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ObjectStore]:
    """Run SeaweedFS; ``new_url()`` and ``storage_config`` are what a store is opened with."""
    program = servers.find_weed()
    if program is None:
        pytest.skip("no SeaweedFS (weed) on this machine")
    with servers.seaweedfs(program, tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ObjectStore]:
    """Run Azurite; ``new_url()`` and ``storage_config`` are what a store is opened with."""
    program = servers.find_azurite()
    if program is None:
        pytest.skip("no Azurite: make installs it where there is npm")
    with servers.azurite(program, tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.JupyterLab]:
    with servers.jupyter_lab(tmp_path_factory.mktemp("jupyterlab")) as lab:
        yield lab


@pytest.fixture
def jupyter_lab(_lab: servers.JupyterLab) -> Iterator[servers.JupyterLab]:
    """Return a running JupyterLab; put notebooks into ``root``. Kernels are ended after each test."""
    yield _lab
    _lab.stop_kernels()


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Let pytest-playwright drive the machine's Chromium, quietly: it asks nobody for updates."""
    chromium = servers.find_chromium()
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
    return {**browser_type_launch_args, "executable_path": str(chromium), "args": quiet}
