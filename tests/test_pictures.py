"""Pictures of chunk grids and of values: small, well-formed, without ids, and true to the numbers."""

from __future__ import annotations

import re
from itertools import product
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from icemagic import pictures, stepplot, svg
from icemagic.display import HTML_BUDGET, Lines, Picture, Report, size, to_html, to_text
from icemagic.pictures import EMPTY, NEVER, STORED, Axis, Grid, amount_map, version_map
from icemagic.stepplot import step_plot

SVG = "{http://www.w3.org/2000/svg}"
AXES = (Axis("epoch", "2025-01-01", "2025-12-31"), Axis("sid", "C02|L2|I", "R24|L2|P"), Axis("r<b>", "a&b", "]]>"))
NASTY = "<script>&\"'\x1b\x00]]>\u202e\nnew line"


def grid(states) -> Grid:
    states = np.asarray(states)
    return Grid(states, AXES[: states.ndim])


def names(number: int) -> list[tuple[str, str]]:
    return [(f"{at:08d} add", f"{at:08d} add day {at} {NASTY}") for at in range(number)]


def parsed(picture: Picture) -> ET.Element:
    assert len(picture.svg.encode()) <= svg.BUDGET
    tree = ET.fromstring(picture.svg)  # noqa: S314  our own
    assert not [one for one in tree.iter() if "id" in one.attrib or "href" in one.attrib or one.tag == f"{SVG}script"]
    return tree


def cells(tree: ET.Element) -> dict[tuple[int, int], tuple[str, str]]:
    """Return colour and title of each painted cell, by row and column."""
    found = {}
    for path in tree.find(f"{SVG}g"):
        title = path.find(f"{SVG}title").text
        for column, row, long in re.findall(r"M(\d+) (\d+)h(\d+)", path.get("d")):
            for at in range(int(column), int(column) + int(long)):
                assert (int(row), at) not in found
                found[int(row), at] = (path.get("stroke"), title)
    return found


grids = arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9).flatmap(
    lambda shape: st.tuples(
        arrays.arrays(int, shape, elements=st.sampled_from([NEVER, EMPTY, STORED])),
        arrays.arrays(int, shape, elements=st.integers(0, 5)),
    )
)


@given(given_grid=grids)
@settings(deadline=None, max_examples=150)
def test_each_cell_of_a_small_grid_has_the_colour_and_the_title_of_its_version(given_grid):
    states, writers = given_grid
    tree = parsed(version_map("map", grid(states), writers, names(6)))
    painted = cells(tree)
    rest = tuple(range(2, states.ndim))
    order = sorted(range(states.ndim), key=lambda axis: -states.shape[axis])
    newest = np.where(states == STORED, writers, -1).transpose(order)
    state = states.transpose(order)
    newest, state = (one.max(axis=rest) if rest else one for one in (newest, state))
    newest, state = (one[:, None] if one.ndim == 1 else one for one in (newest, state))
    colours: dict[int, set[str]] = {}
    for across, down in product(range(newest.shape[0]), range(newest.shape[1])):
        found = painted.get((down, across))
        if state[across, down] == NEVER:
            assert found is None
        elif state[across, down] == EMPTY:
            assert found == ("currentColor", "only fill values")
        else:
            number = int(newest[across, down])
            assert found is not None
            assert found[1].startswith(f"{number:08d} add day")
            colours.setdefault(number, set()).add(found[0])
    assert all(len(used) == 1 for used in colours.values())
    assert len(set.union(set(), *colours.values())) == len(colours)
    words = " ".join(one.text or "" for one in tree.iter(f"{SVG}text"))
    assert ("never written" in words) == bool((state == NEVER).any())
    assert ("only fill values" in words) == bool((state == EMPTY).any())


@given(
    shape=arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=150).filter(lambda s: np.prod(s) <= 60_000),
    seed=st.integers(0, 9),
    kinds=st.integers(1, 400),
)
@settings(deadline=None, max_examples=40)
def test_a_picture_of_any_grid_is_small_and_says_what_a_cell_stands_for(shape, seed, kinds):
    random = np.random.default_rng(seed)
    states = random.choice([NEVER, EMPTY, STORED, STORED], shape)
    picture = version_map("map", grid(states), random.integers(0, kinds, shape), names(kinds))
    tree = parsed(picture)
    painted = cells(tree)
    assert max((max(place) for place in painted), default=0) < 64
    words = " ".join(one.text or "" for one in tree.iter(f"{SVG}text"))
    needs = max(shape) > 64 or (min(shape) > 1 and len(shape) > 2)
    assert ("chunks to a cell:" in words) or not needs
    lines = picture.text.splitlines()
    assert len(lines) <= 16 + 3
    drawn = [line for line in lines if line and set(line) <= set("░▒▓█·-")]
    assert max(map(len, drawn), default=0) <= 64


@given(given_grid=grids)
@settings(deadline=None, max_examples=80)
def test_amounts_are_summed_and_each_lies_in_the_class_that_its_title_names(given_grid):
    states, amounts = given_grid
    tree = parsed(amount_map("sum", grid(states), amounts, str))
    order = sorted(range(states.ndim), key=lambda axis: -states.shape[axis])
    total = np.where(states == STORED, amounts, 0).transpose(order)
    total = total.sum(axis=tuple(range(2, states.ndim))) if states.ndim > 2 else total
    total = total[:, None] if total.ndim == 1 else total
    for (down, across), (colour, title) in cells(tree).items():
        if colour != "currentColor":
            low, _, high = title.partition(" – ")
            assert int(low) <= total[across, down] <= int(high or low)


def test_many_amounts_fall_into_a_few_classes_in_order():
    amounts = np.arange(1, 201) ** 2
    tree = parsed(amount_map("bytes", grid(np.full(200, STORED)), amounts, size))
    assert 1 < len({colour for colour, _ in cells(tree).values()}) <= 8


def test_of_the_chunks_in_one_cell_the_newest_is_shown_and_nothing_stored_only_where_none_is():
    states = np.array([STORED] * 64 + [EMPTY] * 63 + [STORED] + [NEVER, EMPTY] * 32)
    writers = np.arange(192)
    painted = cells(parsed(version_map("map", grid(states), writers, [(str(n), str(n)) for n in range(192)])))
    step = -(-192 // 64)
    for cell in range(64):
        part = slice(cell * step, (cell + 1) * step)
        held = writers[part][states[part] == STORED]
        if held.size:
            assert painted[0, cell][1] == str(held.max())
        else:
            assert painted[0, cell][1] == "only fill values"


def test_colours_run_from_dark_to_bright_and_none_is_taken_for_the_background():
    def brightness(colour: str) -> float:
        return sum(
            part * int(colour[at : at + 2], 16) for part, at in zip((0.2126, 0.7152, 0.0722), (1, 3, 5), strict=True)
        )

    for number in (2, 3, 9, 30):
        shades = [brightness(colour) for colour in pictures._colours(number)]
        assert shades == sorted(shades)
        assert shades[0] > 30
        assert shades[-1] < 215


def test_the_same_grid_is_drawn_alike_and_twice_on_a_page_without_clashes():
    picture = version_map("map", grid([[STORED, NEVER], [EMPTY, STORED]]), np.array([[0, -1], [1, 1]]), names(2))
    assert picture == version_map(
        "map", grid([[STORED, NEVER], [EMPTY, STORED]]), np.array([[0, -1], [1, 1]]), names(2)
    )
    page = to_html(Report("twice", (picture, picture)))
    assert page.count(picture.svg) == 2
    assert not re.search(r"\b(id|href|class)=", picture.svg)


def test_axes_say_their_ends_and_long_labels_are_cut():
    long = Axis("a" * 60, "b" * 60, "c" * 60)
    states = np.full((40, 6), STORED)
    tree = parsed(version_map("map", Grid(states, (long, AXES[1])), np.zeros((40, 6), dtype=int), names(1)))
    words = [one.text for one in tree.iter(f"{SVG}text")]
    assert {"C02|L2|I", "R24|L2|P", "↓ sid"} <= set(words)
    assert any("b" * 23 + "…" in one for one in words)
    width = float(tree.get("width"))
    assert width < 1000


# -- steps -------------------------------------------------------------------------------------------------------------

points = st.lists(st.none() | st.floats(-1e300, 1e300, allow_nan=False), min_size=1, max_size=150)


@given(found=points)
@settings(deadline=None, max_examples=100)
def test_a_plot_of_any_values_is_small_and_well_formed_and_names_each_version(found):
    given_points = [(f"{at:08d}", f"{value} {NASTY}", value) for at, value in enumerate(found)]
    picture = step_plot("value", given_points)
    tree = parsed(picture)
    titles = [one.text for one in tree.iter(f"{SVG}title")]
    assert 0 < len(titles) <= 60
    shown = found[-len(titles) :]
    assert [title.split(" ")[0] for title in titles] == [str(value) for value in shown]
    assert ("the newest" in picture.caption) == (len(shown) < len(found))
    spark = picture.text.partition("  ")[0] if any(v is not None for v in found[-64:]) else ""
    assert len(spark) <= 64


def test_a_step_is_higher_where_the_value_is_and_a_gap_is_a_gap():
    tree = parsed(step_plot("value", [("a", "a", 1.0), ("b", "b", 3.0), ("c", "c", None), ("d", "d", 2.0)]))
    line = next(one.get("d") for one in tree.iter(f"{SVG}path") if one.get("stroke-width") == "2")
    assert line.count("M") == 2
    first, second, third = (float(y) for y in re.findall(r"(?:M[\d.]+ |V)([\d.]+)", line))
    assert second < third < first
    assert step_plot("v", [("a", "a", 1.0), ("b", "b", 3.0), ("c", "c", None)]).text.startswith("▁█ ")


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [None, 5.0]])
def test_a_value_that_never_changed_is_drawn_in_the_middle(values):
    tree = parsed(step_plot("value", [(str(at), str(at), value) for at, value in enumerate(values)]))
    line = next(one.get("d") for one in tree.iter(f"{SVG}path") if one.get("stroke-width") == "2")
    assert set(re.findall(r"(?:M[\d.]+ |V)([\d.]+)", line)) == {f"{stepplot._PLOT[1] / 2:.1f}"}


# -- in a report -------------------------------------------------------------------------------------------------------


def test_a_picture_stands_in_html_as_it_is_and_in_the_text_in_characters():
    report = Report("title", (Picture("caption <&>", "<svg></svg>", "▁█\x1b"), Lines(("after",))))
    assert "<svg></svg>" in to_html(report)
    assert "caption &lt;&amp;&gt;" in to_html(report)
    assert to_text(report).splitlines() == ["title", "caption <&>", "▁█�", "after"]
    assert "▁" not in to_html(report)


def test_a_picture_that_does_not_fit_is_counted_and_what_follows_is_shown():
    large = Picture("large", f"<svg>{'x' * HTML_BUDGET}</svg>", "large one")
    report = Report("title", (large, Lines(("after",))))
    for shown in (to_html(report), to_text(report)):
        assert "… and 1 picture that does not fit" in shown
        assert "after" in shown
        assert "xxx" not in shown
        assert "large one" not in shown
    many = Report("title", (Picture("p", f"<svg>{'x' * 7_900}</svg>", ""),) * 9)
    assert len(to_html(many).encode()) < 50_000
    assert to_html(many).count("<svg>") == 4
