"""The magics: what can be typed, what comes back, and what an error says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import servers
from icemagic import IcechunkStore, commands, errors, lines, magics, provenance
from icemagic.display import Document, Shown
from icemagic.errors import IcemagicError
from icemagic.magics import IceError
from shells import WRITE, Typed, fresh_shell, tip

SECRET = "Xq7-not-for-anyone-9Z"


@pytest.fixture
def three(shell: Typed) -> Typed:
    """Return a shell whose store holds the versions one, two, three, the tag v1 on one and the branch dev on two."""
    shell.open_memory()
    for number, name in enumerate(("one", "two", "three")):
        shell.get(f'%%commit "{name}"', WRITE.replace("1", str(number)))
    shell.get("%ice tag v1 main~2")
    shell.get("%ice branch dev main~1")
    return shell


# -- the message -------------------------------------------------------------------------------------------------------

MESSAGES = [
    "plain",
    "it's",
    'she said "go"',
    "{x}",
    "$x and {y}",
    "{x} {{y}} {1/0}",
    "$HOME $x ${y} $$",
    r"C:\data\new \n \\",
    "ends with a backslash \\",
    "ünï 🧊 漢字",
    "  spaces around  ",
    "%s %d %%commit",
    "-m --store other",
    "# no comment; nothing",
    "!ls ?help %ice log",
    "a -- b",
    "what?",
    "1",
    "x" * 3000,
    '"',
    "'",
    "a\tb",
    "<b>&amp;</b>",
]


@pytest.mark.parametrize("form", ['%%commit "{}"', "%%commit '{}'", '%%commit -m "{}"', '%%commit --message="{}"  '])
def test_a_message_arrives_as_typed(shell: Typed, form: str):
    store = shell.open_memory()
    shell.get("x = y = 5")
    for number, message in enumerate(MESSAGES):
        shell.get(form.replace("{}", message), WRITE.replace("1", str(number)))
    assert [version.message for version in store.list_versions()] == MESSAGES
    assert [version.message for version in shell.get("%ice log -n 100")] == MESSAGES[::-1]


single_lines = st.text(min_size=1, max_size=60).filter(
    lambda text: text.strip() and len(text.splitlines()) == 1 and text.splitlines()[0] == text
)


@given(message=single_lines, options=st.sampled_from(["", " --store other"]), mark=st.sampled_from("\"'"))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_line_survives_between_quotes_unless_options_seem_to_follow_a_quote_in_it(
    message: str, options: str, mark: str
):
    assume(not re.search(rf"{mark}\s+--", message))
    read = lines.read_commit(commands.CELL, f"{mark}{message}{mark}{options}")
    assert (read.message, read.store) == (message, "other" if options else None)


@given(message=single_lines)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_line_typed_as_a_message_stands_in_the_log(shell: Typed, message: str):
    assume(not re.search(r'"\s+--', message))
    # What cannot be part of any cell: a front end sends text, and Python reads no null characters.
    assume("\0" not in message)
    store = shell.open_memory()
    shell.get(f'%%commit "{message}"', WRITE)
    assert [version.message for version in store.list_versions()] == [message]


@pytest.mark.parametrize(
    "line", ["", "message", "'one", "\"one'", '""', "''", '"  "', "-m", "-m message", "--store other"]
)
def test_a_missing_unquoted_or_empty_message_is_refused_with_an_example(shell: Typed, line: str):
    store = shell.open_memory()
    assert '%%commit "' in shell.refusal(f"%%commit {line}", WRITE)
    assert store.version is None


@pytest.mark.parametrize("rest", ["--nosuch", "--store", "--store a b", "--max-chunks many", "--sto store"])
def test_an_option_that_commit_does_not_know_is_refused_with_those_that_it_knows(shell: Typed, rest: str):
    store = shell.open_memory()
    said = shell.refusal(f'%%commit "it" {rest}', WRITE)
    assert "usage: %%commit" in said
    assert "[--store NAME]" in said
    assert store.version is None


def test_an_empty_cell_fails(shell: Typed):
    shell.open_memory()
    assert not shell.run('%%commit "it"').success


def test_commit_reads_the_store_option(shell: Typed):
    first, second = shell.open_memory("first"), shell.open_memory("second")
    shell.get('%%commit "to the first" --store first', WRITE.replace("store", "first"))
    shell.get('%%commit "to the latest"', WRITE.replace("store", "second"))
    assert [v.message for v in first.list_versions()] == ["to the first"]
    assert [v.message for v in second.list_versions()] == ["to the latest"]
    assert "Did you mean first?" in shell.refusal('%%commit "it" --store frist', "1")


def test_commit_returns_what_it_made_and_what_changed(shell: Typed):
    store = shell.open_memory()
    done = shell.get('%%commit "it"', "zarr.create_array(store, name='a', data=np.arange(10.0));")
    assert done.version == store.version
    assert (done.branch, done.version.message) == ("main", "it")
    assert re.search(r"1 array added.*written · (under 0\.1|\d+\.\d) s", str(done))
    assert shell.get("_") is done


def test_a_cell_that_changes_nothing_commits_nothing_and_says_so(shell: Typed):
    store = shell.open_memory()
    assert "nothing was committed" in str(shell.get('%%commit "it"', "1 + 1"))
    assert store.version is None


def test_a_commit_on_a_version_instead_of_a_branch_is_refused(three: Typed):
    three.get("%ice checkout v1")
    assert "not on a branch" in three.refusal('%%commit "it"', WRITE)


def test_a_commit_to_a_read_only_store_is_refused(three: Typed):
    three.get("%ice open place --create --as writer")
    three.get("%ice open place --read-only")
    assert "read-only" in three.refusal('%%commit "it"', WRITE)


def test_a_conflict_with_another_writer_is_told_in_two_lines_and_commits_nothing(shell: Typed):
    store = shell.open_memory()
    shell.get('%%commit "base"', "zarr.create_array(store, name='a', data=np.zeros(4))")
    shell.ip.user_ns["other"] = IcechunkStore.open(store.repo)
    text = shell.refusal(
        '%%commit "mine"',
        "zarr.open_array(store, path='a')[:] = 1",
        "s = other.repo.writable_session('main')",
        "zarr.open_array(s.store, path='a')[:] = 2",
        "s.commit('theirs')",
    )
    assert "Nothing was committed" in text
    assert store.repo.lookup_snapshot(tip(store)).message == "theirs"
    store.refresh()
    shell.get('%%commit "again"', "zarr.open_array(store, path='a')[:] = 3")


# -- records -----------------------------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[IcechunkStore], Any]] = {
    "status": lambda s: s.status(),
    "log": lambda s: s.log(),
    "log -n 2": lambda s: s.log(limit=2),
    "log --limit 1 v1": lambda s: s.log(limit=1, ref="v1"),
    "log dev": lambda s: s.log(ref="dev"),
    "log dev --all --graph": lambda s: s.log(ref="dev", all=True, graph=True),
    "log --author . --grep 'T(W|H)' --since 2020-01-01": lambda s: s.log(author=".", grep="T(W|H)", since="2020-01-01"),
    "log --until '2 days ago'": lambda s: s.log(until="2 days ago"),
    "log --path / -n 2": lambda s: s.log(path="/", limit=2),
    "log --json": lambda s: Document(s.log().to_json(), "json"),
    "show": lambda s: s.show(),
    "show main~1": lambda s: s.show("main~1"),
    "show @{now}": lambda s: s.show("@{now}"),
    "show @{0 days ago}": lambda s: s.show("@{0 days ago}"),
    'show "main@{0 days ago}"': lambda s: s.show("main@{0 days ago}"),
    "code": lambda s: s.code(),
    "code v1": lambda s: s.code("v1"),
    "diff": lambda s: s.diff(),
    "diff main~1": lambda s: s.diff("main~1"),
    "diff main~2..main": lambda s: s.diff("main~2", "main"),
    "diff main~2 main": lambda s: s.diff("main~2", "main"),
    "diff ..v1": lambda s: s.diff("HEAD", "v1"),
    "diff v1..@{0 days ago}": lambda s: s.diff("v1", "@{0 days ago}"),
    "diff --values": lambda s: s.diff(values=True),
    "diff main~1..main / --atol 1": lambda s: s.diff("main~1", "main", "/", atol=1),
    "diff main~1 main / --rtol 1e-3": lambda s: s.diff("main~1", "main", "/", rtol=1e-3),
    "diff main /": lambda s: s.diff("main", array="/"),
    "diff /": lambda s: s.diff(array="/"),
    "diff --json": lambda s: s.diff().to_json(),
    "diff --md --values": lambda s: s.diff(values=True).to_markdown(),
    "tree": lambda s: s.tree(),
    "tag": lambda s: s.tags(),
    "tag v2": lambda s: s.tag("v2"),
    "tag v2 dev": lambda s: s.tag("v2", "dev"),
    "branch": lambda s: s.branches(),
    "branch new": lambda s: s.branch("new"),
    "branch new v1": lambda s: s.branch("new", "v1"),
    "switch dev": lambda s: s.switch("dev"),
    "checkout v1": lambda s: s.checkout("v1"),
    "checkout dev": lambda s: s.checkout("dev"),
    "refresh": lambda s: s.refresh(),
    "merge dev": lambda s: s.merge("dev"),
    "merge dev --dry-run --array x=ours": lambda s: s.plan_merge("dev", arrays={"x": "ours"}),
    "cherry-pick main --theirs": lambda s: s.cherry_pick("main", choice="theirs"),
    "cherry-pick main --ours --dry-run": lambda s: s.plan_cherry_pick("main", choice="ours"),
    "promote dev": lambda s: s.promote("dev"),
    "promote dev --dry-run": lambda s: s.plan_promote("dev"),
    "discard": lambda s: s.discard(),
    "config": lambda s: s.config,
}


@pytest.mark.parametrize("magic", ["%ice", "%icechunk"])
@pytest.mark.parametrize("line", VERBS)
def test_a_verb_returns_what_the_method_of_the_store_returns(three: Typed, line: str, magic: str):
    twin = IcechunkStore.open(three["store"].repo)
    twin.url = three["store"].url
    typed = three.get(f"found = {magic} {line}", "found")
    assert isinstance(typed, Shown)
    for name in ("v2",):
        if name in twin.repo.list_tags():
            twin.repo.delete_tag(name)  # icechunk gives the name of a deleted tag to nobody, so compare the words
            assert str(typed).startswith(f"tag {name} stands on")
            return
    if "new" in twin.repo.list_branches():
        twin.repo.delete_branch("new")
    assert str(typed) == str(VERBS[line](twin))


def test_a_diff_takes_stores_and_datasets_by_their_variable_and_files_by_their_path(shell: Typed):
    store = shell.open_memory()
    shell.get('%%commit "first"', "ds = xr.Dataset({'a': ('x', np.arange(4.0))})", "ds.to_zarr(store)")
    shell.get("ds = ds + 1", "a = ds.a", "ds.to_netcdf('ds.nc')", "%icechunk create memory:other-diff --as other")
    shell.get('%%commit "second" --store other', "ds.to_zarr(other)")
    for sides in ("main ds", "ds", "main ds.nc", "ds.nc", "main other", "other", "main ds a", "main ds.nc a"):
        (found,) = shell.get(f"%ice diff {sides} --store store --values").arrays
        assert (found.path, found.changed_values, found.mean) == ("a", 4, 1), sides
    assert [one.mean for one in shell.get("%ice diff ds main --store store").arrays] == [-1]
    assert store.diff(array="a").arrays[0].status == "added"
    assert shell.get("%ice diff a --store store").arrays[0].status == "added"  # the array, not the variable


def test_a_long_comparison_says_how_far_it_is(shell: Typed, capsys: pytest.CaptureFixture[str]):
    shell.open_memory()
    for value in (1.0, 2.0):
        cell = f"xr.Dataset({{'a': ('x', np.full(20_000_000, {value}))}}).to_zarr(store, mode='w')"
        shell.get(f'%%commit "{value}"', cell)
    capsys.readouterr()
    shell.get("%config IceMagic.progress_after = 0.01", "found = %ice diff --values")
    assert re.search(r"^compared 100 % of 20,000,000 values in \d+ s$", capsys.readouterr().out, re.MULTILINE)
    assert shell["found"].arrays[0].changed_values == 20_000_000


def test_every_verb_on_a_store_is_tried():
    elsewhere = {
        found
        for name in ("test_answers.py", "test_workbench.py")
        for found in re.findall(r"%ice (\w+)", Path(__file__).with_name(name).read_text(encoding="utf-8"))
    }
    on_store = {name for name, verb in commands.VERBS.items() if verb.on_store}
    assert on_store - {line.split()[0] for line in VERBS} <= elsewhere


def test_a_verb_in_the_middle_of_a_transaction_sees_it(shell: Typed):
    shell.open_memory()
    shell.get('%%commit "it"', WRITE, "status = %ice status", "gone = %ice discard", "after = %ice status", WRITE)
    assert "not committed" in str(shell["status"])
    assert "discarded" in str(shell["gone"])
    assert "nothing differs" in str(shell["after"])


def test_a_semicolon_silences_a_verb_and_is_no_part_of_it(three: Typed, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert three.get("%ice checkout v1;") is None
    assert three.get("%ice log ;") is None
    assert capsys.readouterr().out == ""
    assert three["store"].current_branch is None


def test_the_line_without_a_verb_is_help(shell: Typed):
    assert str(shell.get("%ice")) == str(shell.get("%ice help"))


# -- opening -----------------------------------------------------------------------------------------------------------


def test_open_never_creates_and_a_mistyped_path_says_what_is_near(shell: Typed, tmp_path: Path):
    shell.get("%ice open stores/rosalia/rinex --create")
    before = sorted(tmp_path.rglob("*"))
    assert "stores/rosalia/rinex" in shell.refusal("%ice open stores/rosalia/rinx")
    assert "--create" in shell.refusal("%ice open elsewhere")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("rest", ["--version v1", "--branch dev", "--version HEAD"])
def test_create_makes_no_empty_store_where_a_version_or_branch_is_asked_for(shell: Typed, tmp_path: Path, rest: str):
    shell.refusal(f"%ice open place --create {rest}")
    assert not (tmp_path / "place").exists()


def test_create_opens_what_is_there(shell: Typed):
    shell.get("%ice open place --create")
    shell.get('%%commit "it"', WRITE)
    shell.get("%ice open place --create --as again")
    assert shell["again"].version == shell["store"].version
    assert "already" in shell.refusal("%ice create place")


def test_open_stands_on_the_version_or_branch_asked_for(three: Typed):
    three.get("%ice open place --create")
    for number in (1, 2, 3):
        three.get(f'%%commit "{number}"', WRITE.replace("1", str(number)))
    three.get("%ice tag v1 main~2", "%ice branch dev main~1".replace("%ice branch", "%ice branch"))
    by_version = three.get("%ice open place --version v1 --as at")
    assert (by_version.branch, by_version.version.message) == (None, "1")
    by_branch = three.get("%ice open place --branch dev --as at")
    assert (by_branch.branch, by_branch.version.message) == ("dev", "2")
    by_date = three.get("%ice open place --version @{0 days ago} --as at")
    assert by_date.version.message == "3"
    assert "no branch 'dve'" in three.refusal("%ice open place --branch dve --as at")


def test_as_names_the_variable_and_the_latest_is_what_verbs_work_on(shell: Typed):
    first, second = shell.open_memory("first"), shell.open_memory("second")
    assert shell.get("%ice status").url == second.url
    assert shell.get("%ice status --store first").url == first.url
    assert "store" not in shell.ip.user_ns
    listed = shell.get("%ice stores")
    assert set(listed.stores) == {"first", "second"}
    assert listed.current == "second"


@pytest.mark.parametrize("name", ["class", "a-b", "1", "a.b", "''", "_hidden", "None"])
def test_a_name_that_cannot_be_used_is_refused_before_anything_is_made(shell: Typed, tmp_path: Path, name: str):
    assert "--as" in shell.refusal(f"%ice open place --create --as {name}")
    assert not (tmp_path / "place").exists()


def test_read_only_refuses_writes_of_every_kind(shell: Typed):
    shell.get("%ice open place --create --as writer")
    shell.get('%%commit "it"', WRITE.replace("store", "writer"))
    assert shell.get("%ice open place --read-only").read_only
    for line in ("%ice tag v1", "%ice branch dev"):
        assert "read-only" in shell.refusal(line)


def test_storage_config_takes_the_name_of_a_dict(shell: Typed):
    assert "is no dict" in shell.refusal("%ice open s3://bucket/x --storage-config nothing")
    shell.ip.user_ns["settings"] = {"regoin": "us-east-1"}
    assert "Did you mean region" in shell.refusal("%ice open s3://bucket/x --storage-config settings")


@pytest.mark.parametrize("written", ["stores/{site}/rinex", "stores/$site/rinex", "'stores/{site.lower()}/rinex'"])
def test_variables_are_filled_in_in_a_url(shell: Typed, tmp_path: Path, written: str):
    shell.get("site = 'rosalia'")
    shell.get(f"%ice open {written} --create")
    assert (tmp_path / "stores" / "rosalia" / "rinex").is_dir()


@pytest.mark.parametrize("name", ["self", "typed", "line", "arguments"])
def test_the_users_variable_is_meant_whatever_its_name(shell: Typed, tmp_path: Path, name: str):
    shell.get(f"{name} = 'mine'")
    shell.get(f"%ice open {{{name}}} --create")
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize(
    "url", ["{sitee}/x", "$HOMEE/x", "stores/{site", "{1/0}x".replace("1/0", "site[5]"), "{site.nope}", "}"]
)
def test_a_misspelt_variable_creates_nothing(shell: Typed, tmp_path: Path, url: str):
    shell.get("site = 'abc'")
    assert repr(url) in shell.refusal(f"%ice open {url} --create")
    assert not list(tmp_path.iterdir())


def test_variables_are_filled_in_nowhere_else(three: Typed):
    three.get("v = 'v1'")
    assert "'{v}'" in three.refusal("%ice show {v}")
    assert "'$v'" in three.refusal("%ice show $v")
    assert "2020-01-01" in three.refusal("%ice show @{2020-01-01}")
    assert three.get("%ice show @{2999-01-01}").version.message == "three"


def test_paths_with_spaces_and_unicode_are_taken_in_quotes(shell: Typed, tmp_path: Path):
    shell.get("%ice open 'my störe/ü' --create")
    assert (tmp_path / "my störe" / "ü").is_dir()


def test_a_store_in_a_transaction_is_neither_replaced_nor_closed(shell: Typed):
    store = shell.open_memory()
    for line in ("%ice open memory:new --create", "%ice create memory:new2", "%ice close"):
        assert isinstance(shell.run('%%commit "it"', line).error_in_exec, IceError)
        assert shell["store"] is store


def test_close_closes_and_removes_the_variable(shell: Typed):
    shell.open_memory("first")
    shell.open_memory("second")
    assert "second" in str(shell.get("%ice close"))
    assert "second" not in shell.ip.user_ns
    assert "first" in shell.refusal("%ice status")
    shell.get("%ice close first")
    assert "No store is open" in shell.refusal("%ice status")
    assert "No store is open" in shell.refusal("%ice close")


@pytest.mark.parametrize("line", ["del store", "store = 5", "del store\nother = 1"])
def test_a_store_that_the_user_deleted_or_overwrote_is_not_open(shell: Typed, line: str):
    shell.open_memory()
    shell.get(line)
    assert "No store is open" in shell.refusal("%ice log")
    assert "No store is open" in shell.refusal('%%commit "it"', "1")
    assert not shell.get("%ice stores").stores


def test_a_store_opened_in_python_is_found(shell: Typed):
    shell.get("store = IcechunkStore.create('place')")
    shell.get('%%commit "it"', WRITE)
    assert len(shell.get("%ice log")) == 1


def test_a_store_under_two_names_is_one_store(shell: Typed):
    shell.open_memory()
    shell.get("twin = store")
    shell.get('%%commit "it" --store twin', WRITE)
    assert shell["store"].version.message == "it"


# -- errors ------------------------------------------------------------------------------------------------------------

MISTAKES = [
    "%ice lgo",
    "%ice --help",
    "%ice -h",
    "%ice --",
    "%ice --store store log",
    "%ice log -n",
    "%ice log -n x",
    "%ice log -n 0",
    "%ice log -n -5",
    "%ice log --nosuch",
    "%ice log a b",
    "%ice log nope",
    "%ice log --lim 3",
    "%ice log --author (",
    "%ice log --grep '*'",
    "%ice log --since soon",
    "%ice log --path nope",
    "%ice log --path",
    "%ice code nope",
    "%ice replay nope",
    "%ice show nope~1",
    "%ice show main~99",
    "%ice show @{nope}",
    "%ice show @{1990-01-01}",
    "%ice show main~x",
    "%ice show ''",
    "%ice show 'it",
    "%ice diff a b c",
    "%ice diff v1..main dev",
    "%ice diff v1..nope",
    "%ice diff nope",
    "%ice diff main nothing.nc",
    "%ice diff WORKING",
    "%ice diff --atol much",
    "%ice diff --sel time",
    "%ice diff --sel time=1",
    "%ice diff main np",
    "%ice tag v1",
    "%ice tag 'a b'",
    "%ice tag v9 nope",
    "%ice branch dev",
    "%ice branch main..x",
    "%ice merge",
    "%ice merge nope",
    "%ice merge v1 --ours --theirs",
    "%ice merge v1 --array x",
    "%ice merge v1 --array =ours",
    "%ice merge v1 --array x=mine",
    "%ice cherry-pick",
    "%ice cherry-pick main..dev",
    "%ice promote",
    "%ice promote v1 --ours",
    "%ice switch",
    "%ice switch v1",
    "%ice switch dve",
    "%ice checkout",
    "%ice checkout nope",
    "%ice open",
    "%ice open ''",
    "%ice open nosuch",
    "%ice open s4://bucket/x",
    "%ice open s3://user:pw@bucket/x",
    "%ice create",
    "%ice create https://example.org/x",
    "%ice close nosuch",
    "%ice status --store nosuch",
    "%ice help nope",
]


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_answered_in_two_lines_without_a_traceback(
    three: Typed, capsys: pytest.CaptureFixture[str], line: str
):
    before = tip(three["store"])
    capsys.readouterr()
    text = three.refusal(line)
    shown = capsys.readouterr().out
    assert shown.strip() == f"IceError: {text}".strip()
    assert len(text.splitlines()) == 2, "the next thing to type is missing"
    assert tip(three["store"]) == before


def test_an_unknown_argument_shows_how_that_verb_is_typed(three: Typed):
    assert "usage: %ice log" in three.refusal("%ice log a b")


ERRORS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, IcemagicError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_library_becomes_its_own_two_lines(three: Typed, kind: type[IcemagicError]):
    def fail(self: IcechunkStore) -> None:
        raise kind("What was wrong.", "What to do.")

    patch = type("Failing", (IcechunkStore,), {"status": fail})
    three["store"].__class__ = patch
    assert three.refusal("%ice status") == "What was wrong.\nWhat to do."


DAMAGE = ["repo", "snapshots", "transactions"]


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("how", ["garbage", "empty", "gone"])
def test_a_damaged_repository_is_told_in_two_lines_without_icechunks_inner_context(
    shell: Typed, tmp_path: Path, what: str, how: str
):
    shell.get("%ice open place --create")
    for number in (1, 2):
        shell.get(f'%%commit "{number}"', WRITE.replace("1", str(number)))
    path = tmp_path / "place" / what
    for file in [path] if path.is_file() else path.iterdir():
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(b"garbage " * 20 if how == "garbage" else b"")
    result = shell.run("%ice open place")
    if result.success:
        result = shell.run("%ice diff main~1..main")
    text = str(result.error_in_exec)
    assert isinstance(result.error_in_exec, IceError)
    assert len(text.splitlines()) == 2, text
    assert not re.search(r"context:|\.rs|\bat \d|icechunk_|│|╰", text)


def test_a_file_in_the_place_of_a_folder_is_told_in_a_line(shell: Typed, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    text = shell.refusal("%ice open file/place --create")
    assert "Traceback" not in text


def test_an_unreachable_server_is_told_in_two_lines_within_seconds_and_without_secrets(shell: Typed):
    (port,) = servers.free_ports(1)
    shell.ip.user_ns["settings"] = {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "allow_http": True,
        "region": "us-east-1",
        "access_key_id": "AKIAIOSFODNN7EXAMPLE",
        "secret_access_key": SECRET,
    }
    started = time.monotonic()
    for line in (
        "%ice open s3://bucket/x --storage-config settings",
        "%ice create s3://bucket/x --storage-config settings",
    ):
        text = shell.refusal(line)
        assert "icechunk says" in text
        assert "network" in text
        assert "AKIA" not in text
        assert SECRET not in text
        assert not re.search(r"context:|\.rs|│|╰", text)
    assert time.monotonic() - started < 30


@pytest.mark.servers
def test_refused_credentials_are_told_in_two_lines_without_the_credentials(
    shell: Typed, s3_server: servers.ObjectStore
):
    wrong = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": SECRET}
    shell.ip.user_ns["settings"] = s3_server.storage_config | wrong
    text = shell.refusal(f"%ice open {s3_server.new_url()} --create --storage-config settings")
    assert "AKIA" not in text
    assert SECRET not in text


@pytest.mark.servers
def test_credentials_of_the_open_store_are_not_recorded_with_a_cell(shell: Typed, s3_server: servers.ObjectStore):
    shell.ip.user_ns["settings"] = s3_server.storage_config
    shell.get(f"%ice open {s3_server.new_url()} --create --storage-config settings")
    secret = s3_server.storage_config["secret_access_key"]
    shell.get('%%commit "it"', f"print('a word: {secret} and more')", WRITE)
    recorded = repr(shell["store"].version.metadata)
    assert "a word" in recorded
    assert secret not in recorded + repr(shell["store"]) + repr(shell.get("%ice show"))


# -- loading -----------------------------------------------------------------------------------------------------------


def test_loading_prints_nothing_and_binds_the_three_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import icemagic

    with fresh_shell() as typed:
        capsys.readouterr()
        typed.get("%load_ext icemagic")
        assert capsys.readouterr() == ("", "")
        for name in ("IcechunkStore", "VersionPicker", "preprocess_dataset"):
            assert typed[name] is getattr(icemagic, name)
        assert "store" not in typed.ip.user_ns


def test_loading_leaves_the_users_own_names_alone():
    with fresh_shell() as typed:
        typed.get("VersionPicker = store = preprocess_dataset = 1")
        typed.get("%load_ext icemagic")
        assert typed["VersionPicker"] == typed["store"] == typed["preprocess_dataset"] == 1


def test_unloading_leaves_nothing_behind():
    def traces(typed: Typed) -> list[Any]:
        ip = typed.ip
        return [
            list(ip.configurables),
            list(ip.input_transformers_post),
            list(ip.Completer.custom_matchers),
            {kind: dict(table) for kind, table in ip.magics_manager.magics.items()},
            provenance.running_cell,
            dict(magics._loaded),
        ]

    with fresh_shell() as typed:
        typed.get("%load_ext autoreload")  # IPython makes what loads extensions only now
        before = traces(typed)
        typed.get("%load_ext icemagic")
        assert all(now != then for now, then in zip(traces(typed), before, strict=True))
        typed.get("%unload_ext icemagic")
        assert traces(typed) == before
        typed.get("%load_ext icemagic")
        typed.get("%reload_ext icemagic")
        assert sum(type(found).__name__ == "IceMagic" for found in typed.ip.configurables) == 1
        assert len(typed.ip.input_transformers_post) == len(before[1]) + 1


def test_open_stores_survive_a_reload(shell: Typed):
    store = shell.open_memory()
    shell.get("%reload_ext icemagic")
    shell.get('%%commit "it"', WRITE)
    assert shell.get("%ice status").url == store.url
    assert store.version is not None


def test_progress_after_can_be_configured(shell: Typed):
    shell.get("%config IceMagic.progress_after = 0.5")
    assert magics._loaded[shell.ip].progress_after == 0.5


# -- provenance --------------------------------------------------------------------------------------------------------


def test_a_commit_records_its_cell_its_number_and_its_notebook_and_show_displays_them(
    shell: Typed, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/deep/My notebook.ipynb")
    store = shell.open_memory()
    count = shell.ip.execution_count
    shell.get('%%commit "it"', "# why", WRITE)
    recorded = store.version.metadata["icemagic"]
    assert recorded["source"] == f"# why\n{WRITE}"
    assert recorded["count"] == count
    assert recorded["notebook"] == "My notebook.ipynb"
    shown = str(shell.get("%ice show"))
    for text in ("# why", WRITE, str(count), "My notebook.ipynb"):
        assert text in shown


def test_an_awaiting_cell_records_its_own_number(shell: Typed):
    store = shell.open_memory()
    count = shell.ip.execution_count
    shell.get('%%commit "it"', "import asyncio", "await asyncio.sleep(0)", WRITE)
    assert store.version.metadata["icemagic"]["count"] == count


def test_a_plain_transaction_records_the_cell_around_it(shell: Typed):
    store = shell.open_memory()
    count = shell.ip.execution_count
    cell = f'with store.transaction("it"):\n    {WRITE}'
    shell.get(cell)
    recorded = store.version.metadata["icemagic"]
    assert (recorded["source"], recorded["count"]) == (cell, count)


def test_after_unloading_a_transaction_records_no_cell(shell: Typed):
    store = shell.open_memory()
    shell.get("%unload_ext icemagic")
    shell.get('with store.transaction("it"):', f"    {WRITE}")
    assert "source" not in store.version.metadata["icemagic"]


def test_a_repeated_cell_stores_its_hash_only_and_show_still_finds_the_source(shell: Typed):
    store = shell.open_memory()
    cell = "g = zarr.open_group(store); g.attrs['n'] = g.attrs.get('n', 0) + 1"
    for number in (1, 2, 3):
        shell.get(f'%%commit "{number}"', cell)
    recorded = [version.metadata["icemagic"] for version in store.list_versions()]
    assert recorded[0]["source"] == cell
    assert [entry.split()[0] for entry in recorded[1:]] == [recorded[0]["hash"]] * 2
    assert cell in str(shell.get("%ice show main"))


@pytest.mark.parametrize(
    "line",
    [
        f'password = "{SECRET}"',
        f'api_key="{SECRET}"',
        f'settings = {{"secret_access_key": "{SECRET}"}}',
        f'url = "https://me:{SECRET}@example.org/x"',
        f"%env MY_TOKEN={SECRET}",
        f'print(len("{SECRET}"))  # held in the environment',
    ],
)
@pytest.mark.parametrize("form", ["magic", "with"])
def test_a_secret_in_a_cell_is_not_recorded(shell: Typed, monkeypatch: pytest.MonkeyPatch, line: str, form: str):
    monkeypatch.setenv("MY_TOKEN", "to be put back")
    if "environment" in line:
        monkeypatch.setenv("SOME_API_KEY", SECRET)
    store = shell.open_memory()
    if form == "magic":
        shell.get('%%commit "it"', line, WRITE)
    else:
        shell.get(line, 'with store.transaction("it"):', f"    {WRITE}")
    metadata = repr(store.version.metadata)
    assert "[redacted]" in metadata
    for text in (metadata, repr(store), repr(shell.get("%ice show")), repr(shell.get("%ice log"))):
        assert SECRET not in text
