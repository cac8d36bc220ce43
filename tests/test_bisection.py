"""Halving: it finds the first bad version in few runs, whatever cannot be run, and never tells what was not seen."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from math import ceil, log2

import icechunk
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic import IcechunkStore
from icemagic.bisection import Run, bisect, line, search
from icemagic.errors import BisectError
from icemagic.records import Version

START = datetime(2025, 1, 1, tzinfo=UTC)


def versions(number):
    return [Version(f"{at:020}", f"message {at}", START + timedelta(hours=at)) for at in range(number)]


def found(verdicts):
    """Search among a version for each verdict; return the runs by place and the places of the candidates."""
    asked = []

    async def test(version):
        at = int(version.id)
        assert at not in asked, "a version was run twice"
        asked.append(at)
        return Run(version, verdicts[at])

    runs, candidates = asyncio.run(search(versions(len(verdicts)), test))
    assert list(runs) == asked
    assert {at: run.verdict for at, run in runs.items()} == {at: verdicts[at] for at in asked}
    return runs, [int(version.id) for version in candidates]


@settings(deadline=None, max_examples=300)
@given(st.integers(2, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_the_first_bad_version_is_found_within_the_bound(sizes):
    number, first = sizes
    runs, candidates = found(["good"] * first + ["bad"] * (number - first))
    assert candidates == [first]
    assert len(runs) <= ceil(log2(number)) + 1
    assert runs[first].verdict == "bad"
    assert runs[first - 1].verdict == "good"


@pytest.mark.parametrize("number", range(2, 130))
def test_the_bound_holds_wherever_the_first_bad_version_lies(number):
    for first in range(1, number):
        runs, candidates = found(["good"] * first + ["bad"] * (number - first))
        assert candidates == [first]
        assert len(runs) <= ceil(log2(number)) + 1


@st.composite
def with_skips(draw):
    number = draw(st.integers(2, 60))
    first = draw(st.integers(1, number - 1))
    verdicts = ["good"] * first + ["bad"] * (number - first)
    for at in draw(st.sets(st.integers(0, number - 2))):
        verdicts[at] = "skipped"
    return verdicts, first


@settings(deadline=None, max_examples=400)
@given(with_skips())
def test_with_versions_that_cannot_be_run_the_candidates_are_those_that_nobody_can_tell_apart(case):
    verdicts, first = case
    _, candidates = found(verdicts)
    last_good = max((at for at in range(first) if verdicts[at] == "good"), default=0)
    first_bad = min(at for at in range(first, len(verdicts)) if verdicts[at] == "bad")
    assert candidates == list(range(last_good + 1, first_bad + 1))
    assert first in candidates


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(["good", "bad", "skipped"]), max_size=60), st.sampled_from(["good", "skipped"]))
def test_whatever_the_verdicts_it_ends_between_a_good_version_and_a_bad_one(middle, oldest):
    verdicts = [oldest, *middle, "bad"]
    runs, candidates = found(verdicts)
    before, last = candidates[0] - 1, candidates[-1]
    assert verdicts[last] == "bad"
    assert last in runs
    assert before in runs
    assert verdicts[before] == "good" or before == 0
    assert all(verdicts[at] == "skipped" for at in candidates[:-1])


@pytest.mark.parametrize("number", [100, 1_000])
def test_a_long_stretch_that_cannot_be_run_costs_few_runs(number):
    first = number - number // 8
    verdicts = ["good"] + ["skipped"] * (number * 3 // 4) + ["good"] * (first - 1 - number * 3 // 4)
    verdicts += ["bad"] * (number - first)
    runs, candidates = found(verdicts)
    assert candidates == [first]
    assert len(runs) <= 2 * log2(number) + 4


@pytest.mark.parametrize(
    ("verdicts", "said", "runs"),
    [
        (["good"] * 9, "given as bad, passes", 1),
        (["bad"] * 9, "given as good, fails, too: because", 5),
        (["good"] * 8 + ["skipped"], "cannot be run on 00000000 message 8, given as bad: because", 1),
    ],
)
def test_a_wrong_premise_is_refused_as_soon_as_it_is_seen(verdicts, said, runs):
    asked = []

    async def test(version):
        asked.append(version)
        return Run(version, verdicts[int(version.id)], "because")

    with pytest.raises(BisectError, match=said):
        asyncio.run(search(versions(len(verdicts)), test))
    assert len(asked) <= runs


# -- on a repository ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store():
    store = IcechunkStore.open(icechunk.Repository.create(icechunk.in_memory_storage()))
    for number in range(8):
        with store.transaction(f"write {number}"):
            zarr.create_array(store, name="x", data=np.array([number]), overwrite=True)
    return store


async def is_small(version, store, limit=5):
    value = zarr.open_array(store.at(version), path="x", mode="r")[0]
    return Run(version, "good" if value < limit else "bad", f"{value}")


def test_the_answer_shows_the_version_its_changes_and_every_run(store):
    ids = [version.id for version in store.list_versions()]
    answer = asyncio.run(bisect(store.repo, ids[0], ids[-1], lambda version: is_small(version, store)))
    assert [version.id for version in answer.candidates] == [ids[5]]
    text = str(answer)
    assert text.startswith(f"the first bad version is {ids[5][:8]} write 5\n")
    assert "4 runs among 8 versions\n" in text
    assert f"%ice revert {ids[5][:8]} commits the opposite of it" in text
    assert "1 array added" in text or "changed: 1 array" in text
    order = [run.version.message for run in answer.runs]
    assert order == sorted(order, reverse=True)
    assert all(f"{run.version.id[:8]}  {run.version.message}" in text for run in answer.runs)
    assert text.count("first bad ") == 2


def test_candidates_that_cannot_be_told_apart_are_listed(store):
    ids = [version.id for version in store.list_versions()]

    async def test(version):
        at = ids.index(version.id)
        return Run(
            version, "skipped" if at in (3, 4) else "good" if at < 3 else "bad", "KeyError: 'x'" if at > 2 else ""
        )

    answer = asyncio.run(bisect(store.repo, ids[0], ids[-1], test))
    assert [version.id for version in answer.candidates] == ids[3:6]
    assert answer.exhibit is None
    assert str(answer).startswith("the first bad version is one of 3, of which all but the last could not be run")
    assert "2 without a verdict" in str(answer)
    assert "KeyError: 'x'" in str(answer)


def test_a_good_end_that_cannot_be_run_is_taken_at_its_word_and_that_is_said(store):
    ids = [version.id for version in store.list_versions()]

    async def test(version):
        return Run(version, "skipped" if version.id == ids[0] else "bad")

    answer = asyncio.run(bisect(store.repo, ids[0], ids[-1], test))
    assert [version.id for version in answer.candidates] == [ids[1]]
    assert f"{ids[0][:8]} write 0 could not be run, and was taken for good as you said" in str(answer)


def test_the_ends_must_lie_on_one_line_in_the_right_order(store):
    ids = [version.id for version in store.list_versions()]
    assert [version.id for version in line(store.repo, ids[2], ids[5])] == ids[2:6]
    with pytest.raises(BisectError, match="cannot be good and bad"):
        line(store.repo, ids[2], ids[2])
    with pytest.raises(BisectError, match="is no ancestor of") as other_way:
        line(store.repo, ids[5], ids[2])
    assert "descendant" in other_way.value.hint
    store.branch("dev", ids[3])
    store.switch("dev")
    with store.transaction("aside"):
        zarr.open_group(store).attrs["n"] = 1
    with pytest.raises(BisectError, match="is no ancestor of") as apart:
        line(store.repo, store.resolve("dev"), ids[7])
    assert "--graph" in apart.value.hint
