"""A census agrees with icechunk's own listing, and a difference between plan and deed is told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from icemagic import census
from icemagic.errors import TransactionError
from icemagic.history import list_versions
from icemagic.usage import reachable
from upkeep import ACTIONS, history, new_repo, snapshots


@settings(deadline=None, max_examples=20)
@given(ACTIONS)
def test_it_holds_every_version_and_knows_which_a_branch_or_tag_reaches(actions):
    repo, _ = history(actions)
    found = census.take(repo)
    root = found.versions.keys() - snapshots(repo)
    assert len(root) == 1
    assert found.reachable() - root == reachable(repo).keys()
    for name in repo.list_branches():
        tip = repo.lookup_branch(name)
        assert found.branches[name] == tip
        assert found.line(tip) == list_versions(repo, tip)[::-1]
    assert found.tags == {name: repo.lookup_tag(name) for name in repo.list_tags()}


def test_format_1_has_no_census():
    with pytest.raises(TransactionError, match="format 1"):
        census.take(new_repo(spec_version=1))


def test_what_went_unplanned_or_stayed_is_named():
    census.check_gone({"A", "B"}, ["B", "A"])
    for gone, planned in (({"AAAAAAAA", "B"}, {"B"}), ({"B"}, {"AAAAAAAA", "B"})):
        with pytest.raises(TransactionError, match="AAAAAAAA went or stayed unplanned"):
            census.check_gone(gone, planned)
