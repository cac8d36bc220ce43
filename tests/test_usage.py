"""What a version added and what only it holds agree with a count over the chunk tables of all versions."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import icechunk
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.sync import sync

from icemagic.nodes import read_chunks
from icemagic.usage import du, reachable

INLINE = 40  # bytes; the chunks below have 16 or 80
PATHS = ("a", "group/b")


def new_repo(spec_version=2, storage=None):
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=INLINE)
    storage = storage or icechunk.in_memory_storage()
    repo = icechunk.Repository.create(storage, config=config, spec_version=spec_version)
    session = repo.writable_session("main")
    root = zarr.create_group(session.store)
    root.create_array("a", shape=(8,), chunks=(2,), dtype="f8", compressors=None)
    root.create_array("group/b", shape=(40,), chunks=(10,), dtype="f8", compressors=None)
    session.commit("start")
    return repo


def write(repo, branch, path, chunk, value):
    session = repo.writable_session(branch)
    array = zarr.open_array(session.store, path=path)
    step = array.chunks[0]
    array[chunk * step : (chunk + 1) * step] = value
    return session.commit(f"{path} {chunk}", allow_empty=True)


def resize(repo, branch, path, chunks):
    session = repo.writable_session(branch)
    array = zarr.open_array(session.store, path=path)
    array.resize((chunks * array.chunks[0],))
    return session.commit("resize", allow_empty=True)


def recreate(repo, branch, path):
    session = repo.writable_session(branch)
    old = zarr.open_array(session.store, path=path)
    new = zarr.create_array(
        session.store, name=path, shape=old.shape, chunks=old.chunks, dtype="f8", compressors=None, overwrite=True
    )
    new[: new.chunks[0]] = 7
    return session.commit("recreate")


def stored(repo, snapshot_id):
    """Return the chunks of a version and their bytes; those inside a manifest are told apart by place."""
    store = repo.readonly_session(snapshot_id=snapshot_id).store
    chunks = {}
    for path in zarr.open_group(store, mode="r").members(max_depth=None):
        if isinstance(path[1], zarr.Array):
            for at, (what, length) in sync(read_chunks(store, f"/{path[0]}")).items():
                chunks[(path[0], at, what) if isinstance(what, bytes) else what] = length
    return chunks


def counted(repo):
    """Return what each version added and what only it holds, from all chunk tables in full."""
    found = reachable(repo)
    tables = {snapshot_id: stored(repo, snapshot_id) for snapshot_id in found}
    answer = {}
    for snapshot_id, info in found.items():
        mine, before = tables[snapshot_id], tables.get(info.parent_id, {})
        others = set().union(*(tables[other] for other in found if other != snapshot_id))
        added = sum(length for chunk, length in mine.items() if chunk not in before)
        answer[snapshot_id] = added, sum(length for chunk, length in mine.items() if chunk not in others)
    return answer


def said(repo):
    return {row.version.id: (row.added, row.only) for row in du(repo).versions}


ACTIONS = st.one_of(
    st.tuples(st.just(write), st.sampled_from(PATHS), st.integers(0, 3), st.integers(1, 2)),
    st.tuples(st.just(resize), st.sampled_from(PATHS), st.integers(1, 5)),
    st.tuples(st.just(recreate), st.sampled_from(PATHS)),
    st.tuples(st.just("branch"), st.integers(0, 5)),
    st.tuples(st.just("reset"), st.integers(0, 5)),
)


def act(repo, branch, action, *arguments):
    if callable(action):
        action(repo, branch, *arguments)
        return branch
    versions = sorted(reachable(repo).values(), key=lambda info: info.written_at)
    at = versions[arguments[0] % len(versions)].id
    if action == "reset":
        repo.reset_branch(branch, at)
        return branch
    name = f"branch{len(repo.list_branches())}"
    repo.create_branch(name, at)
    return name


@settings(deadline=None, max_examples=60)
@given(st.lists(ACTIONS, max_size=12), st.booleans())
def test_added_and_only_agree_with_a_count_over_all_chunk_tables(actions, old_format):
    repo = new_repo(1 if old_format else 2)
    branch = "main"
    for action in actions:
        branch = act(repo, branch, *action)
    assert said(repo) == counted(repo)


@settings(deadline=None, max_examples=30)
@given(st.lists(ACTIONS, min_size=3, max_size=12), st.integers(0, 12))
def test_the_count_holds_where_versions_expired_and_says_unknown_of_what_followed_them(actions, cut):
    repo = new_repo()
    branch = "main"
    for action in actions:
        branch = act(repo, branch, *action)
    parents = {snapshot_id: info.parent_id for snapshot_id, info in reachable(repo).items()}
    times = sorted(info.written_at for info in reachable(repo).values())
    gone = repo.expire_snapshots(times[cut % len(times)])
    orphans = {snapshot_id for snapshot_id, parent in parents.items() if parent in gone and snapshot_id not in gone}
    expected = {key: (None if key in orphans else added, only) for key, (added, only) in counted(repo).items()}
    assert said(repo) == expected


def test_by_array_every_chunk_of_all_versions_counts_once_and_the_head_counts_its_own():
    repo = new_repo()
    for value in (1, 2, 3):
        last = write(repo, "main", "group/b", 0, value)
    write(repo, "main", "group/b", 1, 1)
    every = set().union(*(stored(repo, snapshot_id) for snapshot_id in reachable(repo)))
    found = {row.path: row for row in du(repo).arrays}
    one = 80
    assert found["group/b"].all == one * len(every)
    assert found["group/b"].head == 2 * one
    assert {row.path: row.head for row in du(repo, head=last).arrays}["group/b"] == one
    assert (found["a"].all, found["a"].head) == (0, 0)


def test_a_moved_array_adds_nothing_and_is_counted_under_both_paths():
    repo = new_repo()
    written = write(repo, "main", "group/b", 0, 1)
    session = repo.rearrange_session("main")
    session.move("/group", "/moved")
    moved = session.commit("move")
    usage = du(repo)
    by_id = {row.version.id: (row.added, row.only) for row in usage.versions}
    assert by_id[moved] == (0, 0)
    assert by_id[written] == (80, 0)
    by_path = {row.path: (row.all, row.head) for row in usage.arrays}
    assert by_path["group/b"] == (80, 0)
    assert by_path["moved/b"] == (80, 80)


def test_chunks_that_lie_elsewhere_take_no_space(tmp_path):
    prefix = f"{tmp_path.as_uri()}/"
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(prefix, icechunk.local_filesystem_store(str(tmp_path)))
    )
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), config=config)
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="v", shape=(10,), chunks=(10,), dtype="u1", compressors=None)
    session.store.set_virtual_ref("v/c/0", f"{prefix}file", offset=0, length=10)
    session.commit("virtual")
    (version,) = du(repo).versions
    assert (version.added, version.only) == (0, 0)


def test_a_repository_without_a_version_has_only_files():
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    usage = du(repo)
    assert (usage.versions, usage.arrays) == ((), ())
    assert usage.bytes == sum(item.size_bytes for item in repo.storage.list_objects_metadata())
    assert len(usage.to_dataframe()) == 0


def test_the_newest_versions_are_shown_and_the_rest_is_counted():
    repo = new_repo()
    for value in range(1, 30):
        write(repo, "main", "a", 0, value)
    usage = du(repo)
    assert "30 versions" in repr(usage)
    assert "… and 10 older versions" in repr(usage)
    frame = usage.to_dataframe()
    assert list(frame.columns) == ["id", "time", "message", "added", "only"]
    assert [later >= earlier for later, earlier in pairwise(frame["time"])] == [True] * 29
    assert frame["time"].max() <= datetime.now(UTC)
    assert frame["only"].sum() == sum(row.only for row in usage.versions)
