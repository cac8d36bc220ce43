"""The log's filters: each against a plain look at all versions, and what it says of itself."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import count

import icechunk
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from icechunk.testing import LatencyStorage
from zarr.core.sync import sync

from drawings import read
from icemagic import IcechunkStore, history, logs
from icemagic.display import HTML_BUDGET
from icemagic.errors import SelectionError, UnknownVersionError
from icemagic.nodes import read_nodes
from icemagic.records import MERGED, ROOT

AUTHORS = ("Ada Lovelace", "ada@host", "Grace", "")
MESSAGES = ("Add SNR", "fix snr\n\nsee Ada's note", "Überarbeitet", "draft (1)", "x" * 300)


def new_repo(spec_version: int = 2) -> icechunk.Repository:
    return icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=spec_version)


def commit(repo, branch="main", message="m", author="", merged=None):
    metadata = {"author": author} | ({MERGED: {"with": merged}} if merged else {})
    return repo.writable_session(branch).commit(message, metadata, allow_empty=True)


def ids(log):
    return [version.id for version in log]


def line(repo, branch="main"):
    """Return the versions of a branch, newest first."""
    return history.list_versions(repo, repo.lookup_branch(branch))[::-1]


# -- author, message and time ------------------------------------------------------------------------------------------

facts = st.lists(st.tuples(st.sampled_from(AUTHORS), st.sampled_from(MESSAGES)), max_size=10)
patterns = st.sampled_from(
    ["", "ADA", "^ada", "a.a", "grace|host", "snr", "^see", r"\(1\)", "über", "nothing", "x{200}$"]
)


@settings(deadline=None, max_examples=60)
@given(facts, patterns, patterns, st.integers(1, 12), st.randoms())
def test_author_message_and_dates_agree_with_a_plain_look_at_all_versions(made, author, message, limit, random):
    repo = new_repo()
    for name, text in made:
        commit(repo, author=name, message=text)
    store = IcechunkStore.open(repo)
    all_versions = line(repo)
    moments = [None, *(version.time for version in all_versions)]
    since, until = random.choice(moments), random.choice(moments)
    expected = [
        version.id
        for version in all_versions
        if re.search(author, version.author, re.IGNORECASE | re.MULTILINE)
        and re.search(message, version.message, re.IGNORECASE | re.MULTILINE)
        and (since is None or version.time >= since)
        and (until is None or version.time <= until)
    ]
    found = store.log(limit, author=author, grep=message, since=since, until=until)
    assert ids(found) == expected[:limit]
    assert found.truncated == (len(expected) > limit)
    for kind in ({"all": True}, {"graph": True}):
        assert ids(store.log(limit, author=author, grep=message, since=since, until=until, **kind)) == expected[:limit]


@pytest.mark.parametrize("option", ["author", "grep"])
@pytest.mark.parametrize("bad", ["[", "(", "*", "a{2,1}", "(?P<"])
def test_a_bad_expression_is_refused_in_words(option, bad):
    store = IcechunkStore.open(new_repo())
    with pytest.raises(SelectionError, match="is no regular expression") as caught:
        store.log(**{option: bad})
    assert "\n" not in caught.value.message
    assert repr(bad) in caught.value.message


def test_a_second_as_the_log_shows_it_is_wholly_included_at_both_ends():
    repo = new_repo()
    commit(repo)
    store = IcechunkStore.open(repo)
    (version,) = store.log()
    shown = f"{version.time:%Y-%m-%d %H:%M:%S}"
    assert len(store.log(since=shown, until=f"{shown} UTC")) == 1
    assert len(store.log(since=version.time.isoformat(), until=version.time.isoformat())) == 1
    after = version.time + timedelta(microseconds=1)
    assert len(store.log(since=after.isoformat())) == 0
    assert len(store.log(since=after.replace(tzinfo=None))) == 0
    assert len(store.log(since="2 days ago", until="now")) == 1
    assert len(store.log(until="2 days ago")) == 0


def test_what_is_no_date_is_refused():
    with pytest.raises(UnknownVersionError, match="is not a date"):
        IcechunkStore.open(new_repo()).log(since="some time ago")


# -- paths, against metadata, chunk tables and ids of all versions -----------------------------------------------------

PATHS = ("a", "b", "g", "g/x", "g/y", "h", "h/x", "nowhere")
steps = st.lists(
    st.tuples(st.sampled_from(["write", "write", "attr", "resize", "delete", "move", "create", "branch", "empty"]),
              st.integers(0, 99), st.integers(0, 99)),
    max_size=12,
)  # fmt: skip
_numbers = count(1)  # what is written is never what was there


def nodes(repo, snapshot):
    return {node["path"]: node for node in repo.inspect_snapshot(snapshot)["nodes"]}


def start(repo):
    session = repo.writable_session("main")
    for name in ("a", "g/x"):
        zarr.create_array(session.store, name=name, shape=(8,), chunks=(2,), dtype="i4")
    zarr.create_group(session.store, path="h")
    session.commit("start")


def move(repo, branch, source, target):
    session = repo.rearrange_session(branch)
    session.move(source, target)
    session.commit("move")


def take(repo, branches, step):
    """Change one thing on one of the branches and commit it; what cannot be done is passed over."""
    what, choice, other = step
    branch = branches[other % len(branches)]
    held = nodes(repo, repo.lookup_branch(branch))
    arrays = sorted(path for path, node in held.items() if node["node_type"] == "array")
    path = arrays[choice % len(arrays)] if arrays else None
    if what == "branch" and len(branches) < 3:
        branches.append(f"b{len(branches)}")
        repo.create_branch(branches[-1], repo.lookup_branch(branch))
        return
    if what == "move":
        source = sorted(held)[choice % len(held)]
        target = f"/{PATHS[other % 7]}"
        parent = held.get(target.rpartition("/")[0] or "/", {}).get("node_type")
        if source != "/" and target not in held and parent == "group" and not f"{target}/".startswith(f"{source}/"):
            move(repo, branch, source, target)
        return
    session = repo.writable_session(branch)
    root = zarr.open_group(session.store)
    new = PATHS[other % 7]
    above = new.rpartition("/")[0]
    if (
        what == "create"
        and f"/{new}" not in held
        and held.get(f"/{above}", {"node_type": "group"})["node_type"] == "group"
    ):
        root.create_array(new, shape=(8,), chunks=(2,), dtype="i4")
    elif what == "delete" and choice % 3:
        gone = sorted(held.keys() - {"/"})
        if gone:
            del root[gone[other % len(gone)].strip("/")]
    elif path is not None and what == "write":
        array = root[path.strip("/")]
        array[other % array.shape[0]] = next(_numbers)
    elif path is not None and what == "attr":
        root[path.strip("/")].attrs["n"] = next(_numbers)
    elif path is not None and what == "resize":
        array = root[path.strip("/")]
        array.resize((array.shape[0] + 2,))
    session.commit(what, allow_empty=True)


def state(repo, snapshot):
    """Return path, metadata and chunks of every node, by id."""
    held = nodes(repo, snapshot)
    read = sync(read_nodes(repo.readonly_session(snapshot_id=snapshot).store, held))
    return {node["id"]: (path, read[path].metadata, read[path].chunks) for path, node in held.items()}


def touched_by_brute_force(repo, versions, paths):
    """Return the versions in which a node differs that lies, or in a later version lay, at a path or below it."""
    states = {one: state(repo, one) for one in {*(v.id for v in versions), *(v.parent for v in versions)}}
    by_id = {version.id: version for version in versions}

    def inside(snapshot):
        return {
            node
            for node, (path, *_) in states[snapshot].items()
            if any(path == f"/{one}" or path.startswith(f"/{one}/") for one in paths)
        }

    later = {version.id: set() for version in versions}
    for version in versions:
        at = version
        while at is not None:
            later[at.id] |= inside(version.id)
            at = by_id.get(at.parent)
    found = []
    for version in versions:
        before, after = states[version.parent], states[version.id]
        changed = {node for node in before.keys() | after.keys() if before.get(node) != after.get(node)}
        if changed & (later[version.id] | inside(version.parent)):
            found.append(version.id)
    return found


def ever_there(repo, versions, path):
    every = {one for v in versions for one in nodes(repo, v.id)}
    return any(one == f"/{path}" or one.startswith(f"/{path}/") for one in every)


@settings(deadline=None, max_examples=60)
@given(steps, st.sets(st.sampled_from(PATHS), min_size=1, max_size=2), st.booleans(), st.sampled_from([1, 3, 64]))
def test_paths_agree_with_a_comparison_of_every_version_with_the_one_before(made, paths, everything, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("icemagic.touching._BATCH", at_once)
        check_paths(made, paths, everything=everything)


def check_paths(made, paths, *, everything):
    repo = new_repo()
    start(repo)
    branches = ["main"]
    for step in made:
        take(repo, branches, step)
    store = IcechunkStore.open(repo)
    versions = list(store.log(1_000, all=everything))
    if unknown := [path for path in paths if not ever_there(repo, versions, path)]:
        with pytest.raises(SelectionError, match=rf"array or group '({'|'.join(unknown)})'"):
            store.log(1_000, path=paths, all=everything)
    else:
        expected = touched_by_brute_force(repo, versions, paths)
        assert ids(store.log(1_000, path=paths, all=everything)) == expected
        if expected:
            assert ids(store.log(1, path=paths, all=everything)) == expected[:1]


@pytest.fixture(params=[1, 2], ids=["format 1", "format 2"])
def grown(request):
    """Return a store with arrays a, g/x and g/y, and a version for each of some changes."""
    repo = new_repo(request.param)
    store = IcechunkStore.open(repo)

    def change(message, edit):
        with store.transaction(message):
            edit(zarr.open_group(store))

    change("start", lambda root: [root.create_array(n, shape=4, chunks=2, dtype="i4") for n in ("a", "g/x", "g/y")])
    change("chunk of a", lambda root: root["a"].__setitem__(0, 1))
    change("chunk of g/x", lambda root: root["g/x"].__setitem__(0, 1))
    change("attribute of g", lambda root: root["g"].attrs.update(n=1))
    change("g/y is gone", lambda root: root["g"].__delitem__("y"))
    change("shape of a", lambda root: root["a"].resize(6))
    return store


def messages(log):
    return [version.message for version in log]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", ["shape of a", "chunk of a", "start"]),
        ("/a/", ["shape of a", "chunk of a", "start"]),
        ("g/x", ["chunk of g/x", "start"]),
        ("g", ["g/y is gone", "attribute of g", "chunk of g/x", "start"]),
        ("g/y", ["g/y is gone", "start"]),
        (["g/y", "a"], ["shape of a", "g/y is gone", "chunk of a", "start"]),
    ],
)
def test_a_path_lists_what_touched_it_and_what_lies_below_it(grown, path, expected):
    assert messages(grown.log(path=path)) == expected


def test_the_root_lists_all_that_changed_anything(grown):
    commit(grown.repo, message="nothing")
    grown.refresh()
    assert messages(grown.log(path="/")) == messages(grown.log())[1:]


def test_a_name_that_only_begins_alike_is_another_one(grown):
    with grown.transaction("new"):
        zarr.create_array(grown, name="ab", shape=1, dtype="i4")
    assert messages(grown.log(path="ab")) == ["new"]
    assert "new" not in messages(grown.log(path="a"))


def test_a_path_that_never_was_is_refused_with_the_nearest_even_where_another_one_is_known(grown):
    for paths in ("g/xx", ["a", "g/xx"]):
        with pytest.raises(SelectionError, match="holds an array or group 'g/xx'") as caught:
            grown.log(path=paths, author="nobody")
        assert "Did you mean g/x" in caught.value.hint


def test_an_empty_repository_holds_no_version_whatever_the_path():
    assert repr(IcechunkStore.open(new_repo()).log(path="a")) == "main: no version touching a"


def test_filters_together_list_what_passes_all_of_them(grown):
    assert messages(grown.log(path="a", grep="chunk")) == ["chunk of a"]
    assert messages(grown.log(path="g", grep="chunk|gone", limit=1)) == ["g/y is gone"]
    start = grown.list_versions()[0]
    assert messages(grown.log(path="g/y", until=start.time)) == ["start"]
    assert messages(grown.log(path="g/y", since=start.time + timedelta(microseconds=1))) == ["g/y is gone"]


def test_the_graph_of_a_path_joins_what_touched_it():
    repo = new_repo()
    start(repo)
    repo.create_branch("dev", repo.lookup_branch("main"))
    for branch, path in (("dev", "a"), ("main", "g/x"), ("main", "a")):
        session = repo.writable_session(branch)
        zarr.open_array(session.store, path=path)[0] = next(_numbers)
        session.commit(f"{path} on {branch}", {MERGED: {"with": repo.lookup_branch("dev")}} if branch == "main" else {})
    log = IcechunkStore.open(repo).log(path="a", graph=True)
    assert messages(log) == ["a on main", "a on dev", "start"]
    assert log.margin == ("●─╮", "│ ●", "○─╯")


def test_a_moved_array_keeps_its_history_and_its_old_path_is_listed_up_to_the_move():
    repo = new_repo()
    start(repo)
    move(repo, "main", "/g/x", "/h/y")
    store = IcechunkStore.open(repo)
    with store.transaction("after"):
        zarr.open_array(store, path="h/y")[0] = 7
    assert messages(store.log(path="h/y")) == ["after", "move", "start"]
    assert messages(store.log(path="h")) == ["after", "move", "start"]
    assert messages(store.log(path="g/x")) == ["move", "start"]
    assert messages(store.log(path="a")) == ["start"]


def test_what_expired_counts_for_the_version_that_took_it_over():
    repo = new_repo()
    start(repo)
    store = IcechunkStore.open(repo)
    for path in ("a", "g/x", "g/x"):
        with store.transaction(f"write {path}"):
            zarr.open_array(store, path=path)[0] = next(_numbers)
    versions = store.list_versions()
    repo.expire_snapshots(versions[2].time)
    assert messages(store.log()) == ["write g/x", "write g/x"]
    assert messages(store.log(path="a")) == ["write g/x"]
    assert ids(store.log(path="g/x")) == [versions[3].id, versions[2].id]


def test_paths_are_found_without_reading_data_and_a_few_logs_at_a_time():
    repo = new_repo()
    start(repo)
    for number in range(80):
        session = repo.writable_session("main")
        zarr.open_array(session.store, path="a")[:] = number + 1
        session.commit("write")
    slow = LatencyStorage(repo.storage)
    store = IcechunkStore.open(icechunk.Repository.open(slow))
    slow.read_latency_ms = 10
    started = datetime.now(UTC)
    assert len(store.log(1_000, path="g/x")) == 1
    # 81 logs take three readings of 10 ms each when read one after the other.
    assert datetime.now(UTC) - started < timedelta(seconds=1.2)


# -- all branches and tags, and the graph ------------------------------------------------------------------------------

histories = st.lists(st.tuples(st.sampled_from(["commit", "branch", "tag", "merge"]), st.integers(0, 50)), max_size=14)


def build(repo, made):
    """Make branches, tags and merges, and return the parents of each version."""
    branches, parents = ["main"], {}
    for number, (what, choice) in enumerate(made):
        branch = branches[choice % len(branches)]
        tip = repo.lookup_branch(branch)
        if what == "branch":
            branches.append(f"b{number}")
            repo.create_branch(branches[-1], tip)
        elif what == "tag" and tip != ROOT:
            repo.create_tag(f"t{number}", tip)
        elif what in ("commit", "merge"):
            other = sorted(parents)[choice % len(parents)] if what == "merge" and parents else None
            made_now = commit(repo, branch, message=f"{number}", merged=other)
            parents[made_now] = {tip, other} - {None, ROOT}
    return branches, parents


@settings(deadline=None, max_examples=80)
@given(histories, st.integers(1, 20))
def test_all_lists_each_version_once_newest_first_and_no_parent_before_its_children(made, limit):
    repo = new_repo()
    _, parents = build(repo, made)
    listed = ids(IcechunkStore.open(repo).log(1_000, all=True))
    assert sorted(listed) == sorted(parents)
    assert listed == sorted(parents, key=lambda one: repo.lookup_snapshot(one).written_at, reverse=True)
    place = {one: at for at, one in enumerate(listed)}
    assert all(place[child] < place[parent] for child, found in parents.items() for parent in found)
    assert ids(IcechunkStore.open(repo).log(limit, all=True)) == listed[:limit]


@settings(deadline=None, max_examples=60)
@given(histories, st.booleans(), st.integers(1, 15), st.sampled_from(["", "[02468]$", "[1357]$"]))
def test_the_graph_draws_each_version_and_the_way_to_its_nearest_listed_ancestors(made, everything, limit, wanted):
    repo = new_repo()
    _, parents = build(repo, made)
    log = IcechunkStore.open(repo).log(limit, all=everything, graph=True, grep=wanted)
    drawn, _ = read(log.margin, ids(log))
    shown = set(ids(log))

    def nearest(version):
        found = set()
        for parent in parents[version]:
            found |= {parent} if parent in shown else nearest(parent)
        return found

    for version in shown:
        assert drawn[version] == nearest(version)


def test_stashes_and_versions_that_nobody_holds_are_not_listed():
    store = IcechunkStore.open(new_repo())
    with store.transaction("kept"):
        zarr.create_group(store)
    with store.transaction("lost"):
        zarr.open_group(store).attrs["n"] = 1
    store.reset("HEAD~1")
    assert messages(store.log(all=True)) == ["kept"]


def test_the_graph_lists_what_was_merged_in_although_no_branch_holds_it_any_more():
    repo = new_repo()
    commit(repo, message="base")
    repo.create_branch("dev", repo.lookup_branch("main"))
    side = commit(repo, "dev", message="side")
    commit(repo, message="merge", merged=side)
    repo.delete_branch("dev")
    store = IcechunkStore.open(repo)
    assert messages(store.log(graph=True)) == ["merge", "side", "base"]
    assert store.log(graph=True).margin == ("●─╮", "│ ●", "○─╯")
    assert messages(store.log()) == messages(store.log(all=True)) == ["merge", "base"]


@pytest.mark.parametrize("gone", ["0" * 20, "", "no id", "main", 5, None])
@pytest.mark.parametrize("spec_version", [1, 2])
def test_a_version_merged_in_that_is_not_there_any_more_is_no_obstacle(gone, spec_version):
    repo = new_repo(spec_version)
    repo.writable_session("main").commit("merge", {MERGED: {"with": gone}}, allow_empty=True)
    log = IcechunkStore.open(repo).log(graph=True)
    assert (messages(log), log.margin) == (["merge"], ("○",))


def test_a_line_to_versions_that_are_cut_off_runs_on():
    repo = new_repo()
    for _ in range(3):
        commit(repo)
    store = IcechunkStore.open(repo)
    assert store.log(2, graph=True).margin == ("●", "●")
    assert store.log(3, graph=True).margin == ("●", "●", "○")


# -- the record --------------------------------------------------------------------------------------------------------


def test_the_title_says_which_filters_held():
    repo = new_repo()
    for _ in range(3):
        commit(repo, author="Ada")
    store = IcechunkStore.open(repo)
    title = lambda **given: repr(store.log(**given)).splitlines()[0]  # noqa: E731
    assert title() == "main: 3 versions, newest first"
    assert title(author="ada") == 'main: 3 versions by "ada", newest first'
    assert title(author="ada", limit=2) == 'main: the newest 2 versions by "ada"'
    assert title(limit=1) == "main: the newest version"
    assert title(author="bob", grep="x") == 'main: no version by "bob" saying "x"'
    assert title(since="2020-01-01", all=True) == (
        "all branches and tags: 3 versions since 2020-01-01 00:00:00 UTC, newest first"
    )


def test_text_and_html_show_the_same_rows_of_the_graph():
    repo = new_repo()
    base = commit(repo)
    repo.create_branch("dev", base)
    commit(repo, "dev")
    commit(repo)
    log = IcechunkStore.open(repo).log(all=True, graph=True)
    assert [row.split("  ")[0].rstrip() for row in repr(log).splitlines()[2:]] == ["●", "│ ●", "○─╯"]
    cells = re.findall(r"<td style=\"([^\"]*)\">([^<]*)</td>", log._repr_html_())
    drawn = [text for style, text in cells if "monospace" in style]
    assert drawn == list(log.margin)
    assert all("line-height" in style for style, _ in cells)
    assert "line-height" not in IcechunkStore.open(repo).log()._repr_html_()


def test_json_tells_all_that_a_program_needs():
    repo = new_repo()
    base = commit(repo, message='"base"\n\x1b[31m ü', author="Ada")
    repo.create_branch("dev", base)
    side = commit(repo, "dev", message="side")
    top = commit(repo, message="top", merged=side)
    repo.create_tag("v1", base)
    log = IcechunkStore.open(repo).log(all=True)
    told = json.loads(log.to_json())
    assert told["of"] == "all branches and tags"
    assert told["truncated"] is False
    assert [one["id"] for one in told["versions"]] == ids(log)
    last = told["versions"][-1]
    assert last == {
        "id": base,
        "refs": ["v1"],
        "time": log[2].time.isoformat(),
        "author": "Ada",
        "message": '"base"\n\x1b[31m ü',
        "parents": [],
        "checks": "",
    }
    assert datetime.fromisoformat(last["time"]) == log[2].time
    assert {one["id"]: one["parents"] for one in told["versions"]}[top] == [base, side]


def test_a_graph_of_many_branches_stays_small():
    repo = new_repo()
    base = commit(repo)
    for number in range(150):
        repo.create_branch(f"b{number}", base)
        commit(repo, f"b{number}")
    log = IcechunkStore.open(repo).log(1_000, all=True, graph=True)
    assert len(log) == 151
    assert len(log._repr_html_().encode()) < HTML_BUDGET + 10_000


@pytest.mark.parametrize("limit", [0, -1])
def test_a_log_without_room_is_refused(limit):
    repo = new_repo()
    with pytest.raises(ValueError, match=f"limit is {limit}"):
        logs.log(repo, repo.lookup_branch("main"), of="main", limit=limit)
