"""The cell that made a version: given back as it was recorded, or a true word about why not."""

from __future__ import annotations

import icechunk
import pytest
import zarr

from icemagic import IcechunkStore
from icemagic.config import load_config
from icemagic.errors import IcemagicError, UnknownVersionError
from icemagic.provenance import SOURCE_LIMIT, Cell
from icemagic.records import ROOT
from icemagic.sources import code


@pytest.fixture
def store():
    return IcechunkStore.open(icechunk.Repository.create(icechunk.in_memory_storage()))


def make(store, cell, message="m"):
    with store.transaction(message, cell=cell):
        zarr.open_group(store).attrs["n"] = len(store.list_versions())
    return store.code()


def test_a_source_is_given_back_with_its_place_in_one_line(store):
    source = 'ds.to_zarr(\n    store, append_dim="epoch")'
    made = make(store, Cell(source, 7, "canopy.ipynb"), "Add a day")
    title, facts, *lines = repr(made).splitlines()
    assert title == store.version.summary()
    assert facts == f"{store.version.byline()} · cell 7 of canopy.ipynb"
    assert lines == [f"    {line}" for line in source.splitlines()]
    assert made.runnable() == source
    assert "append_dim=&quot;epoch&quot;" in made._repr_html_()


def test_a_repeated_cell_is_found_where_it_was_first_recorded(store):
    for number in range(3):
        made = make(store, Cell("x = 1", number, magic="%%commit"))
        assert (made.runnable(), made.origin.magic) == ("x = 1", "%%commit")
    assert store.code("HEAD~2").runnable() == "x = 1"


def test_the_same_source_with_and_without_the_magic_are_told_apart(store):
    found = [make(store, Cell("x = 1", magic=magic)).origin.magic for magic in ("%%commit", None, "%%commit", None)]
    assert found == ["%%commit", "", "%%commit", ""]


@pytest.mark.parametrize("length", [SOURCE_LIMIT, SOURCE_LIMIT + 1])
def test_a_cut_source_is_shown_but_cannot_be_run(store, length):
    made = make(store, Cell("#" * length))
    assert made.is_cut == (length > SOURCE_LIMIT)
    assert ("only its beginning is recorded" in repr(made)) == made.is_cut
    if made.is_cut:
        with pytest.raises(IcemagicError, match="only the beginning of its cell is recorded"):
            made.runnable()
    else:
        assert made.runnable() == "#" * length


@pytest.mark.parametrize("provenance", ["hash", "off"])
def test_what_is_recorded_instead_is_said(provenance):
    from dataclasses import replace

    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    store = IcechunkStore.open(repo, config=replace(load_config(), provenance=provenance))
    made = make(store, Cell("x = 1"))
    word = "only the hash" if provenance == "hash" else "no cell is recorded"
    assert word in repr(made)
    with pytest.raises(IcemagicError, match=word):
        made.runnable()


def test_a_script_is_named(store):
    made = make(store, None)
    assert "it was made by a script, whose source is not recorded" in repr(made)
    assert "script " in repr(made).splitlines()[1]


def test_secrets_that_were_replaced_are_announced(store):
    made = make(store, Cell('password = "hunter2222"'))
    assert made.is_redacted
    assert "secrets in it were replaced by [redacted]" in repr(made)


def test_a_source_whose_first_version_expired_is_not_made_up(store):
    for _ in range(3):
        make(store, Cell("x = 1"))
    store.repo.expire_snapshots(store.list_versions()[2].time)
    assert "lay in an earlier version, which expired" in repr(store.code())


def test_the_empty_start_is_refused(store):
    with pytest.raises(UnknownVersionError, match="empty start"):
        code(store.repo, ROOT)
