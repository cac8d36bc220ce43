"""One grammar for versions: what is typed means one version, or an error says what would."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import icechunk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic import history, logs
from icemagic.errors import AmbiguousVersionError, UnknownVersionError

ROOT = "1CECHNKREP0F1RSTCMT0"
NOW = datetime(2024, 5, 10, 12, 30, 15, 250_000, tzinfo=UTC)


def new_repo(spec_version: int = 2) -> icechunk.Repository:
    return icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=spec_version)


def commit(repo, branch="main", message="m"):
    return repo.writable_session(branch).commit(message, allow_empty=True)


def resolve(repo, ref, *, head=None, branch="main"):
    return history.resolve(repo, ref, head=head or repo.lookup_branch("main"), branch=branch)


def written(repo, snapshot_id):
    return repo.lookup_snapshot(snapshot_id).written_at


def refusal(repo, ref, kind=UnknownVersionError, **where):
    with pytest.raises(kind) as caught:
        resolve(repo, ref, **where)
    assert caught.value.message.count("\n") == 0
    assert caught.value.message.endswith(".")
    return caught.value


@pytest.fixture(params=[1, 2], ids=["format 1", "format 2"])
def line(request):
    """Return a repository and the ids of its four versions, oldest first."""
    repo = new_repo(request.param)
    return repo, [commit(repo, message=f"message {number}") for number in range(4)]


# -- against a model ---------------------------------------------------------------------------------------------------

NAMES = ("main", "dev", "a/b", "v1.0", "user@host", "2024", "DEAD")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(0, 9), st.none()),
        st.tuples(st.sampled_from(["branch", "tag"]), st.integers(0, 9), st.sampled_from(NAMES)),
    ),
    max_size=14,
)


def build(repo, made):
    """Make a history, and return the line of ids, oldest first, that every branch and every tag ends."""
    lines, tags = {"main": [commit(repo)]}, {}
    for what, choice, name in made:
        branch = sorted(lines)[choice % len(lines)]
        line = lines[branch][: choice % len(lines[branch]) + 1]
        if what == "commit":
            lines[branch] = [*lines[branch], commit(repo, branch)]
        elif what == "branch" and name not in lines:
            repo.create_branch(name, line[-1])
            lines[name] = line
        elif what == "tag" and name not in tags:
            repo.create_tag(name, line[-1])
            tags[name] = line
    return lines, tags


def names_of(lines, tags):
    """Return what can be typed without a step, and the line that it ends."""
    named = {f"heads/{name}": ids for name, ids in lines.items()} | {f"tags/{name}": ids for name, ids in tags.items()}
    named |= {name: ids for name, ids in (*lines.items(), *tags.items()) if (name in lines) != (name in tags)}
    for ids in (*lines.values(), *tags.values()):
        for at, snapshot in enumerate(ids):
            named[snapshot] = named[snapshot.lower()] = named[snapshot[:12]] = ids[: at + 1]
    return named


def walk(random, repo, ids):
    """Choose steps, and return their text and the line that is left of `ids`."""
    text, left = "", list(ids)
    for step in random.choices(["~", "^", "~0", "~2", "~00001", "@"], k=random.randrange(4)):
        if step == "@":
            moment = written(repo, random.choice(ids))
            zone = timezone(timedelta(minutes=random.randint(-1439, 1439)))
            text += f"@{{{moment.astimezone(zone).isoformat()}}}"
            left = [snapshot for snapshot in left if written(repo, snapshot) <= moment]
        else:
            text += step
            left = left[: max(0, len(left) - int(step[1:] or 1))]
        if not left:  # what stands behind is not read any more
            break
    return text, left


@settings(deadline=None, max_examples=40)
@given(steps, st.randoms(use_true_random=True))  # the ids are random too
def test_resolve_agrees_with_a_plain_model_on_random_histories(made, random):
    repo = new_repo()
    lines, tags = build(repo, made)
    for name in lines.keys() & tags.keys():
        refusal(repo, name, AmbiguousVersionError)
    head = random.choice(list(lines.values()))
    branch = random.choice([None, *lines])
    where = {"head": head[-1], "branch": branch}
    named = names_of(lines, tags) | {"HEAD": head, "": lines[branch] if branch else head}
    for _ in range(15):
        base, ids = random.choice(list(named.items()))
        text, left = walk(random, repo, ids)
        if left and (base or text.startswith("@")):
            assert resolve(repo, base + text, **where) == left[-1]
        else:
            refusal(repo, base + text, **where)


# -- names and ids -----------------------------------------------------------------------------------------------------


def test_a_version_that_was_found_resolves_to_itself(line):
    repo, ids = line
    found = history.list_versions(repo, ids[-1])
    assert [resolve(repo, version) for version in found] == ids
    assert [resolve(repo, str(version)) for version in found] == ids


def test_head_is_where_the_store_stands_and_a_bare_date_looks_on_the_branch(line):
    repo, ids = line
    assert resolve(repo, "HEAD", head=ids[1]) == ids[1]
    assert resolve(repo, "HEAD~1", head=ids[1]) == ids[0]
    assert resolve(repo, "@{now}", head=ids[1], branch="main") == ids[3]
    assert resolve(repo, "@{now}", head=ids[1], branch=None) == ids[1]


@pytest.mark.parametrize("ref", ["main~1", "main~01", "main^", "main~", " main^ ", "main~0^", "heads/main^", "main^~0"])
def test_one_step_back_in_every_spelling(line, ref):
    repo, ids = line
    assert resolve(repo, ref) == ids[2]


@pytest.mark.parametrize("ref", ["main~3", "main~~~", "main^^^", "main~2^", "main^~2", "main~1~1~1", "main~@{now}~2"])
def test_steps_add_up(line, ref):
    repo, ids = line
    assert resolve(repo, ref) == ids[0]


@pytest.mark.parametrize("ref", ["main~4", "main~3^", "main~99999999999999999999", "main~" + "9" * 5_000, "main^^^^"])
def test_a_step_past_the_first_version_says_how_far_back_it_goes(line, ref):
    repo, _ = line
    assert "lies before the first version" in refusal(repo, ref).message
    assert "3 back is the first version" in refusal(repo, "main~4").hint


@pytest.mark.parametrize("length", [6, 10, 19, 20])
def test_a_unique_prefix_finds_its_version_in_capitals_and_small_letters(line, length):
    repo, ids = line
    for snapshot in ids:
        assert resolve(repo, snapshot[:length]) == snapshot
        assert resolve(repo, snapshot[:length].lower()) == snapshot
        assert resolve(repo, f"{snapshot[:length].lower()}~0") == snapshot


def test_three_characters_are_no_prefix(line):
    repo, ids = line
    assert "No branch, tag or version" in refusal(repo, ids[0][:3]).message


def test_an_ambiguous_prefix_lists_its_versions_and_a_longer_one_decides():
    repo = new_repo()
    seen: dict[str, str] = {}
    while (snapshot := commit(repo, message=f"number {len(seen)}"))[:4] not in seen:
        seen[snapshot[:4]] = snapshot
        assert len(seen) < 10_000
    twins = (seen[snapshot[:4]], snapshot)
    for prefix in (snapshot[:4], snapshot[:4].lower()):
        error = refusal(repo, prefix, AmbiguousVersionError)
        assert "2 versions" in error.message
        for twin in twins:
            assert f"{twin[:8]} (" in error.hint
    for twin in twins:
        assert resolve(repo, twin[:10]) == twin


def test_a_prefix_is_found_on_every_branch_and_tag_and_counts_once(line):
    repo, ids = line
    repo.create_branch("dev", ids[1])
    repo.create_tag("v1", ids[2])
    side = commit(repo, "dev")
    assert resolve(repo, side[:10]) == side
    assert resolve(repo, ids[0][:10]) == ids[0]
    repo.create_branch("gone", ids[1])
    tagged = commit(repo, "gone")
    repo.create_tag("keep", tagged)
    repo.delete_branch("gone")
    assert resolve(repo, tagged[:10]) == tagged


def test_a_name_wins_over_a_prefix_of_the_same_letters(line):
    repo, ids = line
    repo.create_branch(ids[3][:5], ids[0])
    assert resolve(repo, ids[3][:5]) == ids[0]
    assert resolve(repo, ids[3][:6]) == ids[3]


@pytest.mark.parametrize("ref", ["0" * 20, "Z" * 20, "z" * 20])
def test_a_whole_id_that_is_not_there_is_named(line, ref):
    repo, _ = line
    assert "holds no snapshot" in refusal(repo, ref).message


def test_an_expired_version_is_unknown_whether_given_as_record_or_id():
    repo = new_repo()
    ids = [commit(repo) for _ in range(4)]
    record = history.version(repo, ids[0])
    repo.expire_snapshots(written(repo, ids[3]))
    for ref in (record, ids[0]):
        assert "may have expired" in refusal(repo, ref).hint
    assert resolve(repo, "main") == ids[3]


def test_an_unreachable_storage_is_not_taken_for_an_absent_version(tmp_path):
    place = tmp_path / "repo"
    storage = icechunk.local_filesystem_storage(str(place))
    made = icechunk.Repository.create(storage, spec_version=1)
    version = history.version(made, snapshot := commit(made))
    repo = icechunk.Repository.open(storage)  # it has no snapshot in its cache yet
    place.rename(tmp_path / "away")
    place.write_text("a file where the folder was")
    with pytest.raises(icechunk.StorageError):
        resolve(repo, version, head=snapshot)


def test_a_branch_and_a_tag_of_one_name_are_ambiguous_and_the_hint_says_how_to_choose(line):
    repo, ids = line
    repo.create_branch("x", ids[0])
    repo.create_tag("x", ids[1])
    assert refusal(repo, "x", AmbiguousVersionError).hint == "Say heads/x for the branch or tags/x for the tag."
    assert (resolve(repo, "heads/x"), resolve(repo, "tags/x")) == (ids[0], ids[1])
    assert resolve(repo, "tags/x~1") == ids[0]


@pytest.mark.parametrize(("typo", "near"), [("mian", "main"), ("devlop", "develop"), ("deev", "dev"), ("v1.O", "v1.0")])
def test_a_typo_gets_the_nearest_names(typo, near):
    repo = new_repo()
    at = commit(repo)
    repo.create_branch("dev", at)
    repo.create_branch("develop", at)
    repo.create_tag("v1.0", at)
    for ref in (typo, f"{typo}~1", f"{typo}@{{now}}"):
        assert re.search(rf"Did you mean .*\b{re.escape(near)}", refusal(repo, ref).hint)


@pytest.mark.parametrize(
    "ref",
    [
        "", " ", "~", "~1", "^", "~1^", "main~x", "main~1x", "main ~1", "main~٣", "main~-1", "main^2", "main@{", "@",
        "main@{now", "main}", "main~1@{2024", "..", "main..dev", ".", "/", "\u017feed", "ßeed", "\x00",
        "🧊", "x" * 10_000, "main~1 main", None, 3, "main~1.5", "heads/", "heads/none",
        "tags/main", "head", "DEADBEEF", "ILOU",
    ],
)  # fmt: skip
def test_what_names_no_version_gets_one_clear_sentence(line, ref):
    repo, _ = line
    assert refusal(repo, ref).hint


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=12) | st.text("main~^@{}0123456789 .-:TZ+agodysHEAD/", max_size=24))
def test_any_text_resolves_or_is_refused_by_an_error_of_ours(text):
    with suppress(UnknownVersionError):
        assert resolve(REPO, text) in IDS


REPO = new_repo()
IDS = {commit(REPO) for _ in range(3)}


@pytest.mark.parametrize("ref", ["main", "HEAD", "@{now}", "main~1", "main@{now}", "heads/main", ROOT])
@pytest.mark.parametrize("spec_version", [1, 2])
def test_an_empty_repository_has_no_version_and_says_how_to_make_one(spec_version, ref):
    assert "holds no version yet" in refusal(new_repo(spec_version), ref).message
    assert "%%commit" in refusal(new_repo(spec_version), ref).hint


def test_the_empty_start_is_no_version_to_a_prefix(line):
    repo, _ = line
    assert "no version starts so" in refusal(repo, ROOT[:6]).message


def test_a_branch_that_was_deleted_meanwhile_is_said_to_be_gone(line):
    repo, ids = line
    assert "no branch 'dev' any more" in refusal(repo, "@{now}", head=ids[0], branch="dev").message


# -- dates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-05-01", datetime(2024, 5, 1, 0, 0, 0, 999_999, tzinfo=UTC)),
        ("2024-05-01T10:30", datetime(2024, 5, 1, 10, 30, 0, 999_999, tzinfo=UTC)),
        ("2024-05-01 10:30", datetime(2024, 5, 1, 10, 30, 0, 999_999, tzinfo=UTC)),
        ("  2024-05-01   10:30:05 UTC ", datetime(2024, 5, 1, 10, 30, 5, 999_999, tzinfo=UTC)),
        ("2024-05-01T10:30:05.25Z", datetime(2024, 5, 1, 10, 30, 5, 250_000, tzinfo=UTC)),
        ("2024-05-01T10:30+02:00", datetime(2024, 5, 1, 8, 30, 0, 999_999, tzinfo=UTC)),
        ("2024-05-01T10:30-09:30", datetime(2024, 5, 1, 20, 0, 0, 999_999, tzinfo=UTC)),
        ("now", NOW),
        ("yesterday", NOW - timedelta(days=1)),
        ("1 second ago", NOW - timedelta(seconds=1)),
        ("90 minutes ago", NOW - timedelta(minutes=90)),
        ("2 hours ago", NOW - timedelta(hours=2)),
        ("2  days  ago", NOW - timedelta(days=2)),
        ("1 week ago", NOW - timedelta(weeks=1)),
        ("0 days ago", NOW),
    ],
)
def test_a_moment_is_read_and_no_zone_means_utc(text, moment):
    assert history.parse_moment(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "yesterdy", "2024-13-01", "2024-02-30", "24-5-1", "5 fortnights ago", "two days ago", "-2 days ago",
        "2 days", "ago", "2024-05-01T25:00", "2024-05-01T10:30+25:00", "٢ days ago", "10:30", "2024-05-1",
    ],
)  # fmt: skip
def test_what_is_no_date_is_refused_with_examples(line, text):
    with pytest.raises(UnknownVersionError, match="is not a date"):
        history.parse_moment(text, NOW)
    assert "2 days ago" in refusal(line[0], f"main@{{{text}}}").hint


@pytest.mark.parametrize(
    "text",
    [
        "999999999999 weeks ago",
        f"{'9' * 5_000} days ago",
        "3000 weeks ago",
        "0001-01-01T00:00+14:00",
        "0001-01-01",
        "1900-01-01",
    ],
)
def test_a_date_before_the_first_version_names_the_first_one(line, text):
    repo, ids = line
    error = refusal(repo, f"@{{{text}}}")
    assert "no version is as old as" in error.message
    assert ids[0][:8] in error.hint


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-14:00", "9999-12-31", "2999-01-01", "0 seconds ago", "now"])
def test_a_date_after_the_newest_version_means_the_newest(line, text):
    repo, ids = line
    assert resolve(repo, f"main@{{{text}}}") == ids[-1]


@settings(deadline=None)
@given(st.datetimes(), st.timezones() | st.none())
def test_every_moment_that_python_writes_is_read_as_that_moment(moment, zone):
    moment = moment.replace(tzinfo=zone, microsecond=moment.microsecond or 1)
    try:
        expected = moment.astimezone(UTC) if zone else moment.replace(tzinfo=UTC)
    except OverflowError:
        expected = None
    try:
        found = history.parse_moment(moment.isoformat(), NOW)
    except UnknownVersionError:
        assert "." in moment.isoformat()[-9:]  # zones of antiquity have fractions of seconds
        return
    assert expected is None or found == expected


def test_the_time_that_the_log_shows_finds_the_version_that_it_shows(line):
    repo, ids = line
    shown = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", repr(logs.log(repo, ids[-1], of="main")))[0]
    newest_of_that_second = [i for i in ids if f"{written(repo, i):%Y-%m-%d %H:%M:%S} UTC" == shown][-1]
    assert resolve(repo, f"@{{{shown}}}") == newest_of_that_second


# -- ranges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("main", ("main", None)),
        ("main~2..main", ("main~2", "main")),
        ("..", ("HEAD", "HEAD")),
        ("main..", ("main", "HEAD")),
        ("..main", ("HEAD", "main")),
        ("v1.0..v1.1", ("v1.0", "v1.1")),
        ("@{2024-05-01..}", ("@{2024-05-01..}", None)),
        ("main@{a..b}~1..@{2 days ago}", ("main@{a..b}~1", "@{2 days ago}")),
        ("a/b..heads/c^", ("a/b", "heads/c^")),
        ("a...b", ("a", ".b")),
        ("@{..main", ("@{", "main")),
    ],
)
def test_a_range_is_split_at_its_first_dots_outside_of_dates(text, sides):
    assert history.split_range(text) == sides


# -- listing -----------------------------------------------------------------------------------------------------------


def test_versions_are_listed_oldest_first_and_logged_newest_first_without_the_empty_root(line):
    repo, ids = line
    assert [version.id for version in history.list_versions(repo, ids[-1])] == ids
    assert [version.id for version in logs.log(repo, ids[-1], of="main")] == ids[::-1]
    assert history.list_versions(repo, ids[1])[0].parent == ROOT
    assert history.version(repo, ROOT) is None
    assert history.title(repo, ROOT) == "the empty start"
    assert history.title(repo, ids[2]) == f"{ids[2][:8]} message 2"


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 1_000])
def test_a_log_is_cut_at_its_limit_and_says_so(line, limit):
    repo, ids = line
    log = logs.log(repo, ids[-1], of="main", limit=limit)
    assert [version.id for version in log] == ids[::-1][:limit]
    assert log.truncated == (limit < 4)
    assert ("the newest" in repr(log)) == log.truncated


def test_the_log_of_an_empty_repository_says_so():
    assert repr(logs.log(new_repo(), ROOT, of="main")) == "main holds no version yet"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_log_without_room_is_refused(line, limit):
    with pytest.raises(ValueError, match=f"limit is {limit}"):
        logs.log(line[0], line[1][0], of="main", limit=limit)


def test_versions_carry_their_refs_and_branches_come_before_tags(line):
    repo, ids = line
    repo.create_tag("a", ids[-1])
    repo.create_branch("z", ids[-1])
    assert history.version(repo, ids[-1]).refs == ("main", "z", "a")
    assert history.version(repo, ids[0]).refs == ()


def test_behind_counts_the_versions_that_are_newer(line):
    repo, ids = line
    assert [history.behind(repo, snapshot, "main") for snapshot in (ROOT, *ids)] == [4, 3, 2, 1, 0]
