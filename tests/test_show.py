"""One version in full: message, what it changed, how it came about."""

from __future__ import annotations

import icechunk
import pytest
import zarr

from icemagic.errors import UnknownVersionError
from icemagic.provenance import KEY
from icemagic.show import show


@pytest.fixture(params=[1, 2], ids=["format 1", "format 2"])
def repo(request):
    return icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=request.param)


def write(repo, value, message="m", metadata=None):
    session = repo.writable_session("main")
    if value == 0:
        zarr.create_array(session.store, name="x", shape=(10,), chunks=(5,), dtype="i4")
    zarr.open_array(session.store, path="x")[:5] = value + 1
    return session.commit(message, metadata)


def test_the_first_version_shows_what_it_added_to_the_empty_start(repo):
    found = show(repo, write(repo, 0, "first\n\nand why"))
    assert [(array.path, array.status) for array in found.diff.arrays] == [("x", "added")]
    assert found.diff.a == "the empty start"
    text = repr(found)
    assert text.splitlines()[0] == f"{found.version.id[:8]} first …"
    assert "and why" in text
    assert "nothing was recorded" not in text.splitlines()[0]


def test_a_later_version_shows_what_changed_since_the_one_before(repo):
    first, second = write(repo, 0, "first"), write(repo, 1, "second")
    found = show(repo, second)
    assert [(array.status, array.changed_chunks) for array in found.diff.arrays] == [("changed", 1)]
    assert found.diff.a == f"{first[:8]} first"


def test_the_empty_start_is_refused(repo):
    with pytest.raises(UnknownVersionError, match="empty start"):
        show(repo, repo.lookup_branch("main"))


def test_how_it_came_about_is_shown_with_the_cell(repo):
    facts = {"author": "Ada", "source": "ds.to_zarr(store)\n<b>", "source_hash": "abc", "count": 3}
    found = show(repo, write(repo, 0, metadata={KEY: facts}))
    assert "    ds.to_zarr(store)\n    <b>" in repr(found)
    assert "Ada" in repr(found)
    assert "<b>" not in found._repr_html_()


def test_a_long_message_is_shown_in_full_and_a_short_one_once(repo):
    long = "Added " + " ".join(f"word{number}" for number in range(80))
    assert " ".join(repr(show(repo, write(repo, 0, long))).split()).count("word79") == 1
    assert repr(show(repo, write(repo, 1, "short"))).count("short") == 1


def test_what_a_version_changed_is_unknown_when_the_one_before_expired():
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    ids = [write(repo, value) for value in range(4)]
    repo.expire_snapshots(repo.lookup_snapshot(ids[2]).written_at)
    found = show(repo, ids[2])
    assert found.diff is None
    assert "unknown, the version before it expired" in repr(found)
    assert show(repo, ids[3]).diff is not None
