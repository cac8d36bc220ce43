"""Binder can build its image: the recipe renders, its Python suits the package, its requirements resolve."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).parents[1]
BINDER = PROJECT / "binder"


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def python() -> str:
    """Return the Python of the image, x.y."""
    return re.fullmatch(r"python-(\d+\.\d+)\n", (BINDER / "runtime.txt").read_text())[1]


def test_the_python_of_the_image_is_the_projects(project, python):
    assert python in SpecifierSet(project["requires-python"])
    assert python == (PROJECT / ".python-version").read_text().strip()


def test_the_recipe_renders_from_binder_files(python):
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", PROJECT]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"python={python}" in run.stderr
    assert '-r "binder/requirements.txt"' in run.stdout
    assert "./binder/postBuild" in run.stdout
    assert os.access(BINDER / "postBuild", os.X_OK)


def test_the_requirements_resolve_with_everything_that_the_extra_names(project, python):
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--python-version", python]
    run = subprocess.run(
        [*command, BINDER / "requirements.txt"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    wanted = project["dependencies"] + project["optional-dependencies"]["lab"]
    found = {line.partition("==")[0] for line in run.stdout.splitlines()}
    assert {Requirement(one).name for one in wanted} <= found


def test_the_link_opens_a_notebook_that_is_there():
    (path,) = set(re.findall(r"urlpath=lab/tree/(\S+?\.ipynb)", (PROJECT / "README.md").read_text(encoding="utf-8")))
    assert (PROJECT / path).is_file()


def test_the_lock_names_no_address():
    assert "://" not in (PROJECT / "requirements.lock").read_text()
