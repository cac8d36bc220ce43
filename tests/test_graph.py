"""The lines in the margin of a log: what is drawn can be read back, whatever the history."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawings import read
from icemagic.graph import margins


@st.composite
def histories(draw, most=14, parents=3):
    """Return versions with their parents, children first; some parents lie beyond the last row."""
    number = draw(st.integers(0, most))
    beyond = [f"older{n}" for n in range(draw(st.integers(0, 2)))]
    names = [f"v{n}" for n in range(number)]
    found = []
    for at, name in enumerate(names):
        older = [*names[at + 1 :], *beyond]
        chosen = draw(st.lists(st.sampled_from(older), max_size=parents, unique=True)) if older else []
        found.append((name, chosen))
    return found


@settings(deadline=None, max_examples=400)
@given(histories())
def test_every_edge_is_drawn_and_no_other(history):
    names = [name for name, _ in history]
    edges, running_on = read(margins(history), names)
    for name, parents in history:
        assert edges[name] == set(parents) & set(names)
    below = [child for children in running_on.values() for child in children]
    assert sorted(set(below)) == sorted(name for name, parents in history if set(parents) - set(names))


@settings(deadline=None, max_examples=200)
@given(histories())
def test_columns_are_used_again_and_no_row_ends_in_spaces(history):
    rows = margins(history)
    open_after = [0]
    for at in range(len(history)):
        later = {name for name, _ in history[at + 1 :]}
        beyond = {parent for _, parents in history for parent in parents} - {name for name, _ in history}
        lines = [(n, parent) for n, parents in history[: at + 1] for parent in parents if parent in later | beyond]
        open_after.append(len(lines))
    for at, row in enumerate(rows):
        assert row == row.rstrip()
        # Lines that pass, the version itself, and the lines that begin in its row each have a column at most.
        assert len(row[::2]) <= max(open_after[: at + 2]) + 1 + len(history[at][1])


def test_a_straight_history_takes_one_column():
    assert margins([("c", ["b"]), ("b", ["a"]), ("a", [])]) == ["●", "●", "○"]


def test_branches_run_beside_each_other_to_where_they_part():
    rows = margins([("c", ["a"]), ("dev", ["x"]), ("b", ["a"]), ("x", ["a"]), ("a", [])])
    assert rows == ["●", "│ ●", "│ │ ●", "│ ● │", "○─┴─╯"]


def test_a_merge_opens_a_line_to_what_was_merged_in():
    rows = margins([("e", ["d", "c"]), ("d", ["b"]), ("c", ["b"]), ("b", ["a"]), ("a", [])])
    assert rows == ["●─╮", "● │", "│ ●", "●─╯", "○"]


def test_a_merge_joins_a_line_that_leads_there_already():
    rows = margins([("top", ["x"]), ("m", ["b", "x"]), ("b", ["a"]), ("x", ["a"]), ("a", [])])
    assert rows == ["●", "├─●", "│ ●", "● │", "○─╯"]


def test_a_line_that_is_crossed_goes_through():
    rows = margins([("p", ["a"]), ("q", ["b"]), ("r", ["a"]), ("a", []), ("b", [])])
    assert rows == ["●", "│ ●", "│ │ ●", "○─│─╯", "  ○"]


def test_a_column_that_ended_is_used_again():
    rows = margins([("p", []), ("q", ["c"]), ("r", ["c"]), ("s", ["c"]), ("c", [])])
    assert rows == ["○", "●", "│ ●", "│ │ ●", "○─┴─╯"]


@pytest.mark.parametrize("number", [0, 1, 500])
def test_many_branches_and_long_histories_are_drawn(number):
    tips = [(f"t{n}", ["base"]) for n in range(number)]
    rows = margins([*tips, ("base", [])])
    assert len(rows) == number + 1
    edges, _ = read(rows, [*(name for name, _ in tips), "base"])
    assert all(edges[name] == {"base"} for name, _ in tips)
