"""Every name that a branch or tag can get can be typed back; all others are refused with the reason."""

from __future__ import annotations

import subprocess

import icechunk
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from icemagic import history, locking, refs
from icemagic.errors import RefNameError, TransactionError, UnknownVersionError


def new_repo(spec_version: int = 2) -> icechunk.Repository:
    return icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=spec_version)


def commit(repo, branch="main", message="m"):
    return repo.writable_session(branch).commit(message, allow_empty=True)


def resolve(repo, ref):
    return history.resolve(repo, ref, head=repo.lookup_branch("main"), branch="main")


@pytest.fixture
def repo():
    return new_repo()


@pytest.fixture(params=[1, 2], ids=["format 1", "format 2"])
def either(request):
    return new_repo(request.param)


GOOD = (
    "v1.0", "2024-05-01", "feature/rosalia", "user@host", "é", "日本", "a.b-c_d", "a{b}", "DEAD", "dead/beef", "heads",
    "x" * 500, "@x", "a@", "head", "r'q\"", "a;b", "%s", "🧊", "a#b", "a=b", "a,b", "(x)", "REF",
)  # fmt: skip
BAD = (
    "", " ", "a b", "-a", "/a", "a/", "a//b", ".a", "a.", "a/.b", "a.lock", "a.lock/b", "a..b", "a~1", "a^", "a:b",
    "a?", "a*", "a\\b", "a@{now}", "@", "HEAD", "heads/a", "tags/a", "a\nb", "a\tb", "\x7f", "a\x00", "a\u00a0",
    "\u2003a", "a[0]", "a\u202eb", "\ud800", "ABCDEFGH0123456789JK", "abcdefgh0123456789jk", "@{", "..",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["branch", "tag"])
@pytest.mark.parametrize("name", BAD)
def test_a_name_that_cannot_be_typed_back_is_refused_and_nothing_is_made(repo, kind, name):
    at = commit(repo)
    make = {"branch": refs.create_branch, "tag": refs.create_tag}[kind]
    with pytest.raises(RefNameError, match=f"A {kind} cannot be called"):
        make(repo, name, at)
    assert repo.list_branches() == {"main"}
    assert repo.list_tags() == set()


@pytest.mark.parametrize("kind", ["branch", "tag"])
def test_good_names_are_accepted_and_typed_back(repo, kind):
    first = commit(repo)
    commit(repo)
    make = {"branch": refs.create_branch, "tag": refs.create_tag}[kind]
    for name in GOOD:
        make(repo, name, first)
        assert resolve(repo, name) == first


# Most random texts are refused, as they should be; what is asked here is asked of the others.
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    st.text("aZ09é☃._-/@", min_size=1, max_size=12)
    | st.text(min_size=1, max_size=30)
    | st.text("aZ0./-_@{}~^: HEAD\\*[]lock", min_size=1, max_size=12)
)
def test_every_accepted_name_can_be_typed_back_alone_in_steps_in_ranges_and_with_spaces_around(name):
    try:
        refs.check_name(name, "tag")
    except RefNameError:
        reject()
    repo = new_repo()
    if name == "main":
        reject()  # the one branch has it
    first, second = commit(repo), commit(repo)
    refs.create_tag(repo, name, second)
    assert resolve(repo, name) == second
    assert resolve(repo, f" {name} ") == second
    assert resolve(repo, f"{name}~1") == first
    assert resolve(repo, f"{name}^") == first
    assert resolve(repo, f"{name}@{{now}}") == second
    assert resolve(repo, f"tags/{name}") == second
    assert history.split_range(f"{name}..{name}~1") == (name, f"{name}~1")


def test_every_name_that_git_refuses_is_refused():
    letters = ("a", ".", "/", "-", "@", "{", "~", "^", ":", " ", "\\", "*", "[", "?", ".lock", "..", "é", "HEAD")
    names = {one + two + three for one in letters for two in ("", *letters) for three in ("", ".")}
    names |= set(BAD) | set(GOOD)
    names = sorted(name for name in names if "\0" not in name and "\n" not in name and name.isprintable() and name)
    # A branch that git can make: git asks for the form of refs/heads/NAME, and for no leading dash.
    script = 'while IFS= read -r name; do git check-ref-format "refs/heads/$name" && echo "$name"; done; true'
    answer = subprocess.check_output(["sh", "-c", script], input="\n".join(names) + "\n", text=True)
    git_takes = {name for name in answer.splitlines() if not name.startswith("-")} - {"HEAD", "@"}
    assert len(git_takes) > 50
    for name in set(names) - git_takes:
        with pytest.raises(RefNameError):
            refs.check_name(name, "branch")


def test_a_taken_name_is_refused_and_stays_where_it_is(either):
    first, second = commit(either), commit(either)
    refs.create_branch(either, "dev", first)
    refs.create_tag(either, "v1", first)
    with pytest.raises(RefNameError, match="There is a branch 'dev' already"):
        refs.create_branch(either, "dev", second)
    with pytest.raises(RefNameError, match="There is a tag 'v1' already"):
        refs.create_tag(either, "v1", second)
    assert either.lookup_branch("dev") == either.lookup_tag("v1") == first


def test_the_name_of_a_deleted_tag_is_refused_with_that_reason(either):
    at = commit(either)
    refs.create_tag(either, "v1", at)
    either.delete_tag("v1")
    with pytest.raises(RefNameError, match="name of a deleted tag"):
        refs.create_tag(either, "v1", at)


def test_the_name_of_a_deleted_branch_is_given_again(either):
    at = commit(either)
    refs.create_branch(either, "dev", at)
    either.delete_branch("dev")
    refs.create_branch(either, "dev", at)
    assert resolve(either, "dev") == at


def test_format_1_takes_no_slash_and_says_so():
    old = new_repo(1)
    at = commit(old)
    for make in (refs.create_branch, refs.create_tag):
        with pytest.raises(RefNameError, match="format 1"):
            make(old, "a/b", at)


def test_a_branch_and_a_tag_may_share_a_name_and_are_told_apart(repo):
    first, second = commit(repo), commit(repo)
    refs.create_branch(repo, "x", first)
    refs.create_tag(repo, "x", second)
    assert resolve(repo, "heads/x") == first
    assert resolve(repo, "tags/x") == second


def test_an_unknown_branch_gets_the_nearest_names(repo):
    refs.create_branch(repo, "develop", commit(repo))
    with pytest.raises(UnknownVersionError, match=r"no branch 'devlop'.\nDid you mean develop"):
        refs.tip(repo, "devlop")
    assert refs.tip(repo, "develop") == repo.lookup_branch("develop")


def test_branches_and_tags_are_listed_by_name_with_their_versions(repo):
    assert refs.branches(repo, "main")["main"] is None
    assert "no version yet" in repr(refs.branches(repo, "main"))
    first = commit(repo, message="first")
    second = commit(repo, message="second")
    for name in ("b", "a"):
        refs.create_branch(repo, name, first)
        refs.create_tag(repo, f"tag-{name}", second)
    found = refs.branches(repo, "main")
    assert list(found) == ["a", "b", "main"]
    assert [found[name].id for name in found] == [first, first, second]
    assert repr(found).count("*") == 1
    assert list(refs.tags(repo)) == ["tag-a", "tag-b"]
    assert refs.tags(repo)["tag-a"].refs == ("main", "tag-a", "tag-b")
    assert len(refs.tags(repo)) == 2


def test_deleting_says_where_the_name_stood_and_takes_only_that_name(either):
    first, second = commit(either), commit(either)
    for name in ("a", "b"):
        refs.create_branch(either, name, first)
        refs.create_tag(either, name, second)
    assert refs.delete_branch(either, "a") == first
    assert refs.delete_tag(either, "b") == second
    assert either.list_branches() == {"main", "b"}
    assert either.list_tags() == {"a"}
    assert [resolve(either, name) for name in ("main", "a", "b")] == [second, second, first]


def test_deleting_an_unknown_name_changes_nothing_and_names_the_nearest(either):
    at = commit(either)
    refs.create_branch(either, "develop", at)
    refs.create_tag(either, "v1.0", at)
    with pytest.raises(UnknownVersionError, match=r"no branch 'devlop'.\nDid you mean develop"):
        refs.delete_branch(either, "devlop")
    with pytest.raises(UnknownVersionError, match=r"no tag 'v1'.\nDid you mean v1.0"):
        refs.delete_tag(either, "v1")
    assert either.list_branches() == {"main", "develop"}
    assert either.list_tags() == {"v1.0"}


def test_main_is_not_deleted(either):
    at = commit(either)
    with pytest.raises(RefNameError, match="'main' cannot be deleted"):
        refs.delete_branch(either, "main")
    assert either.lookup_branch("main") == at


def test_deleting_holds_the_lock_of_a_local_repository(tmp_path, monkeypatch):
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "r")))
    at = commit(repo)
    refs.create_branch(repo, "dev", at)
    refs.create_tag(repo, "v1", at)
    monkeypatch.setattr(locking, "PATIENCE", 0.1)
    with FileLock(tmp_path / "r" / locking.LOCK_NAME):
        for delete, name in ((refs.delete_branch, "dev"), (refs.delete_tag, "v1")):
            with pytest.raises(TransactionError):
                delete(repo, name)
    assert resolve(repo, "dev") == resolve(repo, "v1") == at
