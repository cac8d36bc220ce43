"""Records are frozen, show themselves, and become tables."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import pytest

from icemagic.bisection import Bisected, Run
from icemagic.differences import ArrayDiff, Change, Diff
from icemagic.display import Document
from icemagic.records import (
    MERGED,
    ROOT,
    Committed,
    Exhibit,
    Log,
    Note,
    Origin,
    Refs,
    Status,
    Version,
    first_line,
    utc,
)
from icemagic.sources import CellCode
from icemagic.tree import Tree

WHEN = datetime(2024, 5, 1, 10, 30, 5, 999_999, tzinfo=UTC)
ONE = Version("ABCDEFGH0123456789JK", "one", WHEN, None, {"icemagic": {"author": "Ada"}}, ("main", "v1"))
TWO = Version("BCDEFGH0123456789JKA", "two\nand <b>more</b>", WHEN + timedelta(hours=1), ONE.id)
DIFF = Diff(
    "a",
    "b",
    arrays=(
        ArrayDiff("g/x", "added", 3, 4, 1_500),
        ArrayDiff("y", "resized", 1, 2, 10, (Change("y", "shape", (2,), (4,)),)),
    ),
    groups={"g": "added", "old": "removed"},
    attributes=(Change("y", "units", "m", "km"), Change("y", "new", None, 1), Change("/", "gone", 1, None)),
)
RECORDS = (
    ONE,
    Log("main", (TWO, ONE), truncated=True),
    Log("main", (), truncated=False),
    Log("main", (TWO, ONE), truncated=False, filters='by "<b>"', margin=("●", "○")),
    Document('{"a": "<b>"}', "json"),
    CellCode(TWO, Origin({"author": "Ada"}, "x = '<b>'", "abc")),
    Bisected((Run(TWO, "bad", "<b>"), Run(ONE, "good")), 2, (TWO,), Exhibit(TWO, DIFF, Origin({}))),
    Bisected((Run(TWO, "bad", "<b>"), Run(ONE, "skipped")), 3, (TWO, TWO), None),
    Refs("branch", {"main": ONE, "empty": None}, "main"),
    Refs("tag", {}),
    DIFF,
    Diff("a", "b"),
    Origin({"author": "Ada"}, "x = 1", "abc"),
    Origin({}),
    Exhibit(TWO, DIFF, Origin({})),
    Exhibit(TWO, None, Origin({}, None, "abc")),
    Committed(TWO, "main", DIFF, 1.25),
    Note("done", ("next",)),
    Status("file:///x", "main", ONE, 2, read_only=False, uncommitted=DIFF),
    Status("file:///x", None, None, 0, read_only=True, uncommitted=None),
    Tree("t", (), (), "remark"),
)


@pytest.mark.parametrize("record", [pytest.param(x, id=f"{i} {type(x).__name__}") for i, x in enumerate(RECORDS)])
def test_a_record_is_frozen_and_shows_itself_as_text_and_html(record):
    assert repr(record)
    assert record._repr_html_().startswith('<div class="icemagic">')
    assert "<b>" not in record._repr_html_()
    field = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, None)


def test_a_version_is_its_id_and_compares_by_what_never_changes():
    assert str(ONE) == ONE.id
    assert dataclasses.replace(ONE, refs=(), metadata={}) == ONE
    assert len({ONE, dataclasses.replace(ONE, refs=("dev",)), TWO}) == 2


@pytest.mark.parametrize(
    ("parent", "merged", "parents"),
    [
        (ONE.id, None, (ONE.id,)),
        (ONE.id, {"with": TWO.id}, (ONE.id, TWO.id)),
        (ONE.id, {"with": ONE.id}, (ONE.id,)),
        (ROOT, {"with": TWO.id}, (TWO.id,)),
        (ROOT, None, ()),
        (None, "text", ()),
    ],
)
def test_the_parents_of_a_version_are_versions(parent, merged, parents):
    metadata = {} if merged is None else {MERGED: merged}
    assert Version("A", "m", WHEN, parent, metadata).parents == parents


@pytest.mark.parametrize(
    ("metadata", "author"),
    [
        ({}, ""),
        ({"author": "Bob"}, "Bob"),
        ({"icemagic": {"author": "Ada"}, "author": "Bob"}, "Ada"),
        ({"icemagic": "text", "author": "Bob"}, "Bob"),
        ({"icemagic": {"author": None}}, ""),
        ({"icemagic": {"author": 5}}, "5"),
    ],
)
def test_the_author_is_found_wherever_it_stands(metadata, author):
    assert Version("A", "m", WHEN, metadata=metadata).author == author


def test_a_moment_is_said_in_utc_whatever_its_zone():
    assert utc(WHEN) == "2024-05-01 10:30:05 UTC"
    assert utc(WHEN.astimezone(timezone(timedelta(hours=9)))) == "2024-05-01 10:30:05 UTC"


@pytest.mark.parametrize(
    ("text", "line"),
    [("", ""), ("a", "a"), ("a\n", "a"), ("a\nb", "a …"), ("\n\na", "a"), ("a\r\nb", "a …"), ("  ", "")],
)
def test_the_first_line_is_marked_when_there_are_more(text, line):
    assert first_line(text) == line


def test_a_log_becomes_a_dataframe_with_a_row_a_version():
    frame = Log("main", (TWO, ONE), truncated=False).to_dataframe()
    assert list(frame.columns) == ["id", "refs", "time", "author", "message", "checks"]
    assert list(frame["id"]) == [TWO.id, ONE.id]
    assert frame["refs"][1] == "main, v1"
    assert frame["time"][1] == WHEN
    assert frame["message"][0] == TWO.message
    assert Log("main", (), truncated=False).to_dataframe().shape == (0, 6)


def test_refs_become_a_dataframe_with_a_row_a_name():
    frame = Refs("branch", {"main": ONE, "empty": None}).to_dataframe()
    assert list(frame.columns) == ["branch", "id", "time", "message"]
    assert list(frame["branch"]) == ["main", "empty"]
    assert frame["id"][0] == ONE.id
    assert frame["id"].isna()[1]
    assert Refs("tag", {}).to_dataframe().shape == (0, 4)


def test_a_diff_becomes_a_dataframe_with_a_row_an_array_and_says_its_sums():
    frame = DIFF.to_dataframe()
    assert list(frame["path"]) == ["g/x", "y"]
    assert frame["bytes"].sum() == DIFF.bytes == 1_510
    assert DIFF.summary() == (
        "1 array added, 1 array resized, 1 group added, 1 group removed, 4 chunks, 1.51 kB written, 3 attributes"
    )
    assert Diff("a", "b").summary() == "nothing differs"
    assert Diff("a", "b").is_empty
    assert list(Diff("a", "b").to_dataframe().columns) == list(frame.columns)


def test_a_diff_shows_before_and_after():
    text = repr(DIFF)
    assert "shape: (2,) → (4,)" in text
    assert "units: 'm' → 'km'" in text
    assert "new: added 1" in text
    assert "gone: removed 1" in text
    assert "3 of 4" in text


@pytest.mark.parametrize(
    ("status", "next_step"),
    [
        (Status("u", "main", ONE, 0, read_only=False, uncommitted=None), "%%commit"),
        (Status("u", None, ONE, 0, read_only=False, uncommitted=None), "store.switch"),
        (Status("u", "main", ONE, 0, read_only=True, uncommitted=None), "read-only"),
        (Status("u", "main", ONE, 0, read_only=False, uncommitted=DIFF), "not committed: 1 array added"),
        (Status("u", "main", ONE, 3, read_only=False, uncommitted=None), "3 newer versions on main"),
    ],
)
def test_a_status_says_what_to_do_next(status, next_step):
    assert next_step in repr(status)
