"""Text and HTML show the same cells, escape everything, and stay small."""

from __future__ import annotations

import html
import re
import time
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic.display import (
    CELL_LIMIT,
    CODE_LIMIT,
    ROW_LIMIT,
    Code,
    Document,
    Lines,
    Report,
    Table,
    Verbatim,
    count,
    size,
    to_html,
    to_text,
)

words = st.text(max_size=40)
rows = st.integers(1, 4).flatmap(
    lambda width: st.tuples(st.tuples(*[words] * width), st.lists(st.tuples(*[words] * width), max_size=5).map(tuple))
)
parts = st.one_of(
    rows.map(lambda table: Table(*table)),
    st.lists(words, max_size=5).map(lambda lines: Lines(tuple(lines))),
    st.text(max_size=200).map(Code),
    st.text(max_size=200).map(lambda text: Verbatim(text, "json")),
)
reports = st.builds(Report, words, st.lists(parts, max_size=5).map(tuple))


class Reader(HTMLParser):
    """Collects the texts between tags, in order, and the tags."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open.append(tag)
        assert {name for name, _ in attrs} <= {"class", "style"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def squeeze(text: str) -> str:
    return "".join(text.split())


@settings(deadline=None)
@given(reports)
def test_text_and_html_hold_the_same_cells_in_the_same_order(report):
    assert squeeze("".join(Reader(to_html(report)).texts)) == squeeze(to_text(report))


@settings(deadline=None)
@given(reports)
def test_html_has_no_tags_but_its_own_and_is_closed(report):
    assert Reader(to_html(report)).tags <= {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"}


@settings(deadline=None)
@given(reports)
def test_nothing_steers_a_terminal_or_turns_the_direction_of_writing(report):
    for shown in (to_text(report), "".join(Reader(to_html(report)).texts)):
        kinds = {unicodedata.category(char) for char in shown if char != "\n"}
        assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (direction), surrogates, separators


@settings(deadline=None)
@given(reports)
def test_rendering_is_deterministic_and_text_has_no_trailing_spaces(report):
    assert to_html(report) == to_html(report)
    assert to_text(report) == to_text(report)
    assert all(line == line.rstrip() for line in to_text(report).split("\n"))


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ("</td></table><script>x</script>", "</td></table><script>x</script>"),
        ("\x1b[31mred\x1b[0m", "�[31mred�[0m"),
        ("one\ntwo", "one⏎two"),
        ("one\ttwo", "one two"),
        ("\u202egnp.exe", "�gnp.exe"),
        ("a\u2066b\u2069\u200fc", "a�b��c"),
        ("a\u00a0b\u3000c", "a b c"),
        ("bell\x07 null\x00 back\x08", "bell� null� back�"),
        ("\ud800", "�"),
        ('" onmouseover="x', '" onmouseover="x'),
        ("&lt;", "&lt;"),
        ("日本語 é 🧊", "日本語 é 🧊"),
    ],
)
def test_hostile_text_is_shown_and_does_nothing(hostile, shown):
    for report in (
        Report(hostile),
        Report("t", (Lines((hostile,)),)),
        Report("t", (Table((hostile, "b"), ((hostile, "b"),)),)),
    ):
        assert shown in to_text(report)
        assert html.escape(shown) in to_html(report)
        assert "<img" not in to_html(report)
        assert "<script" not in to_html(report)


def test_code_keeps_its_lines_and_indentation_and_is_escaped_too():
    report = Report("t", (Code("def f():\n\treturn '<b>'\x1b\n\nx = 1"),))
    assert to_text(report) == "t\n    def f():\n        return '<b>'�\n\n    x = 1"
    assert "def f():\n    return &#x27;&lt;b&gt;&#x27;�\n\nx = 1" in to_html(report)


def test_the_indentation_of_a_tree_survives_html():
    made = to_html(Report("t", (Table(("name",), (("    deep",),)),)))
    assert re.search(r"<td[^>]*white-space:pre[^>]*>    deep</td>", made)


def test_a_table_without_rows_shows_nothing():
    assert to_text(Report("t", (Table(("a", "b"), ()),))) == "t"
    assert "table" not in to_html(Report("t", (Table(("a", "b"), ()),)))


def test_columns_are_aligned():
    assert to_text(Report("t", (Table(("a", "b"), (("long", "x"), ("s", "yy"))),))) == "t\na     b\nlong  x\ns     yy"


HUGE = {
    "many rows": Report("t", (Table(("a", "b"), (("1", "2"),) * 100_000),)),
    "many lines": Report("t", (Lines(("line",) * 100_000),)),
    "megabyte cells": Report("t", (Table(("a", "b"), (("x" * 1_000_000, "<" * 1_000_000),) * 300),)),
    "megabyte lines": Report("t", (Lines(("&" * 1_000_000,) * 300),)),
    "a megabyte title": Report('"' * 1_000_000),
    "many columns": Report("t", (Table(("column",) * 20_000, (("x",) * 20_000,) * 3),)),
    "many tables": Report("t", (Table(("a",), (("1",),)),) * 10_000),
    "many tables after a full one": Report("t", (Table(("a" * 100,), (("x" * 150,),) * 200),) * 1_000),
    "many code parts": Report("t", (Code("x = 1\n" * 10),) * 10_000),
    "many empty code parts": Report("t", (Code(""),) * 10_000),
    "many lines parts": Report("t", (Lines(("a",)),) * 10_000),
    "escaped code": Report("t", (Code('"' * 1_000_000),) * 3),
    "long code": Report("t", (Code("x = 1\n" * 100_000),)),
    "control characters": Report("t", (Code("\x00" * 1_000_000), Lines(("\u202e" * 1_000,) * 1_000))),
    "wide characters": Report("t", (Table(("日本",), (("雪" * 150,),) * 200),)),
    "tabs": Report("t", (Code("\t" * 100_000),)),
    "text for a program": Report("", (Verbatim('{"a": "<b>"}\n' * 100_000, "json"),)),
}


@pytest.mark.parametrize("kind", HUGE)
def test_html_stays_under_50_kb_and_is_quick_whatever_is_shown(kind):
    start = time.process_time()
    made = to_html(HUGE[kind])
    assert time.process_time() - start < 1
    assert len(made.encode()) < 50_000
    assert len(to_text(HUGE[kind]).encode()) < 50_000 + 10_000
    Reader(made)


@pytest.mark.parametrize("kind", [kind for kind in HUGE if not kind.startswith(("a megabyte", "megabyte"))])
def test_what_is_left_out_is_counted(kind):
    assert re.search(r"… and [\d,]+ more (row|line|part|character)s?(: .*)?$", to_text(HUGE[kind]), re.MULTILINE)
    assert re.search(r"… and [\d,]+ more (row|line|part|character)s?(: .*)?<", to_html(HUGE[kind]))


@settings(deadline=None)
@given(st.integers(0, ROW_LIMIT + 50))
def test_rows_shown_and_rows_counted_make_all_rows(number):
    text = to_text(Report("t", (Table(("a",), (("row",),) * number),)))
    left = re.search(r"… and ([\d,]+) more row", text)
    assert text.count("\nrow") + (int(left[1]) if left else 0) == number
    assert text.count("\nrow") <= ROW_LIMIT


def test_a_cell_at_the_limit_is_whole_and_one_over_it_is_cut():
    assert to_text(Report("x" * CELL_LIMIT)) == "x" * CELL_LIMIT
    assert to_text(Report("x" * (CELL_LIMIT + 1))) == "x" * (CELL_LIMIT - 1) + "…"


def test_code_at_the_limit_is_whole_and_one_over_it_is_counted():
    assert "more" not in to_text(Report("t", (Code("x" * CODE_LIMIT),)))
    assert to_text(Report("t", (Code("x" * (CODE_LIMIT + 1)),))).endswith("… and 1 more character")


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" \n"), max_size=200))
def test_a_document_is_shown_as_it_is(text):
    document = Document(text, "json")
    assert str(document) == document.text == text
    assert repr(document) == "\n".join(line.rstrip() for line in text.split("\n"))
    assert "".join(Reader(document._repr_html_()).texts) == text


def test_a_long_document_is_whole_in_str_and_shown_cut_with_a_word_where_the_rest_is():
    document = Document('{"a": "\x1b[31m"}\n' * 10_000, "markdown")
    assert str(document) == document.text
    assert repr(document).endswith("more characters: str() of it holds them all")
    assert "\x1b" not in repr(document)
    assert len(document._repr_html_().encode()) < 50_000


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (1_500, "1.5 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (123_456_789, "123 MB"),
        (10**9, "1 GB"),
        (10**12, "1 TB"),
        (999_500_000_000_000, "1 PB"),
        (10**15, "1 PB"),
        (10**18, "1 EB"),
        (5 * 10**20, "500 EB"),
    ],
)
def test_sizes_are_said_in_words(number, words):
    assert size(number) == words


@settings(deadline=None)
@given(st.integers(0, 10**20))
def test_a_size_is_true_to_three_digits_and_never_in_powers_of_ten(number):
    value, unit = size(number).split()
    power = ("B", "kB", "MB", "GB", "TB", "PB", "EB").index(unit)
    assert "e" not in value
    assert float(value) < 1000
    assert abs(float(value) * 1000**power - number) <= 0.0051 * number


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "array", "0 arrays"),
        (1, "array", "1 array"),
        (2, "branch", "2 branches"),
        (1_234_567, "chunk", "1,234,567 chunks"),
        (3, "box", "3 boxes"),
    ],
)
def test_counts_are_said_in_words(number, noun, words):
    assert count(number, noun) == words
