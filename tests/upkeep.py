"""Repositories with versions, stashes, branches and tags, for the tests of upkeep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import icechunk
import zarr
from hypothesis import strategies as st


def new_repo(storage=None, spec_version=2):
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
    storage = storage or icechunk.in_memory_storage()
    return icechunk.Repository.create(storage, config=config, spec_version=spec_version)


def write(repo, branch, value, metadata=None):
    """Commit `value` into one of four chunks."""
    session = repo.writable_session(branch)
    fill(session, value)
    return session.commit(f"write {value}", metadata=metadata)


def stash(repo, value, metadata=None):
    session = repo.writable_session("main")
    fill(session, value)
    return session.flush(f"stash {value}", metadata=metadata)


def fill(session, value):
    root = zarr.open_group(session.store, mode="a")
    array = root.require_array("x", shape=(40,), chunks=(10,), dtype="i8", compressors=None)
    array[value % 4 * 10 : value % 4 * 10 + 10] = value


def values(repo, snapshot_id):
    return zarr.open_array(repo.readonly_session(snapshot_id=snapshot_id).store, path="x", mode="r")[:]


def ids(versions):
    return {version.id for version in versions}


def snapshots(repo):
    """Return the ids of all versions, whether a branch or tag reaches them or not."""
    return {found["id"] for found in repo.inspect_repo_info()["snapshots"] if "parent_id" in found}


def soon():
    """Return a moment after all that was written so far."""
    return datetime.now(UTC) + timedelta(seconds=1)


def moment(repo, snapshot_id):
    return repo.lookup_snapshot(snapshot_id).written_at


ACTIONS = st.lists(st.tuples(st.sampled_from(["write", "stash", "branch", "tag"]), st.integers(0, 7)), max_size=14)


def history(actions):
    """Return a repository with versions, stashes, branches and tags, and all moments at which one was made."""
    repo = new_repo()
    made = [write(repo, "main", 0)]
    for number, (action, at) in enumerate(actions, start=1):
        if action == "write":
            branches = sorted(repo.list_branches())
            made.append(write(repo, branches[at % len(branches)], number))
        elif action == "stash":
            stash(repo, number, {"icemagic": {"kept": "stash"}})
        elif action == "branch":
            repo.create_branch(f"branch{number}", made[at % len(made)])
        else:
            repo.create_tag(f"tag{number}", made[at % len(made)])
    times = [datetime.fromisoformat(found["flushed_at"]) for found in repo.inspect_repo_info()["snapshots"]]
    return repo, sorted([*times, soon()])
