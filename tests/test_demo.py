"""`make demo` does on anybody's files what the tutorial does on a generated day."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from icemagic import IcechunkStore
from icemagic.layout import sites

PROJECT = Path(__file__).parents[1]


def demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROJECT / "notebooks" / "demo.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.kernel
def test_real_observations_are_in_the_store_value_for_value(shared_data, tmp_path):
    # A copy under a name with a space, because people have those.
    canopy = shutil.copy(shared_data / "rosalia_canopy_2025-001_00-06h.nc", tmp_path / "rosalia canopy.nc")
    reference = shared_data / "rosalia_reference_2025-001_00-06h.nc"
    done = demo("--into", tmp_path / "demo", canopy, reference)
    assert done.returncode == 0, done.stderr
    (page,) = (tmp_path / "demo").glob("*.html")
    assert str(page) in done.stdout
    stored = [group for group in groups(tmp_path / "demo" / "stores") if "SNR" in group]
    for file in (canopy, reference):
        source = xr.open_dataset(file)
        assert any(same_values(source, group) for group in stored), f"{file} is in no group"


def groups(root: Path) -> list[xr.Dataset]:
    """Return every group of every store."""
    stores = [root / site.name / kind for site in sites(root).sites for kind in site.kinds]
    trees = [xr.open_datatree(IcechunkStore.open(store), engine="zarr") for store in stores]
    return [node.to_dataset() for tree in trees for node in tree.subtree]


def same_values(source: xr.Dataset, stored: xr.Dataset) -> bool:
    """Say whether every variable of the source is there, at every epoch and sid, and nothing else is observed."""
    if not set(source.sid.values) <= set(stored.sid.values) or not np.isin(source.epoch, stored.epoch).all():
        return False
    there = stored.reindex(epoch=source.epoch)
    return all(
        there[name].sel(sid=source.sid).equals(source[name].reset_coords(drop=True))
        and int(there[name].notnull().sum()) == int(source[name].notnull().sum())
        for name in source.data_vars
    )


def test_a_missing_file_is_named_and_nothing_is_run(tmp_path):
    done = demo("--into", tmp_path / "demo", "no such file.nc")
    assert done.returncode == 2
    assert "no such file.nc" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_make_hands_quoted_names_on_whole():
    data = "'my file.nc' \"other's.nc\""
    command = ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/.ready", "demo", f"DATA={data}"]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert shlex.split(shown)[-2:] == ["my file.nc", "other's.nc"]
