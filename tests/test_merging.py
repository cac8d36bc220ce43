"""Merge, cherry-pick and promote: each rule by itself, refusals that change nothing, and what is recorded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

from icemagic import IcechunkStore
from icemagic.errors import ConflictError, GuardError, SelectionError, TransactionError, UnknownVersionError
from icemagic.mergeplan import Choices
from icemagic.merging import Merged, Outlook, of_version
from icemagic.operations import Moved
from icemagic.records import MERGED, PICKED, Note
from icemagic.standing import Demand

EPOCHS = np.datetime64("2025-01-01T10:00") + np.arange(12) * np.timedelta64(5, "m")
SIDS = ["G01|L1|C", "G02|L1|C", "G03|L1|C"]
Edit = Callable[[zarr.Group], None]


def day(rows: slice = slice(None), *, seed: int = 0, shift: str = "0h") -> xr.Dataset:
    values = np.random.default_rng(seed).random((EPOCHS.size, len(SIDS))).round(2).astype("f4")
    epochs = EPOCHS + np.timedelta64(int(shift[:-1]), "h")
    names = ("SNR", "Doppler")
    return xr.Dataset(dict.fromkeys(names, (("epoch", "sid"), values)), {"epoch": epochs, "sid": SIDS}).isel(epoch=rows)


@pytest.fixture
def store() -> IcechunkStore:
    """Return a store on ``main`` with twelve epochs, and a branch ``dev`` at the same version."""
    store = new_store()
    with store.transaction("start"):
        day().to_zarr(store, encoding={"SNR": {"chunks": (12, 3)}, "epoch": {"chunks": (12,)}})
    store.branch("dev")
    return store


def new_store() -> IcechunkStore:
    """Return an empty store that keeps no chunk inside a manifest, where the same bytes are the same chunk."""
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
    return IcechunkStore.open(icechunk.Repository.create(icechunk.in_memory_storage(), config=config))


def on(store: IcechunkStore, branch: str, message: str, edit: Edit) -> None:
    """Commit an edit to a branch, and go back to main."""
    store.switch(branch)
    with store.transaction(message):
        edit(zarr.open_group(store))
    store.switch("main")


def setting(name: str, rows: Any, value: float) -> Edit:
    def edit(root: zarr.Group) -> None:
        root[name][rows] = value

    return edit


def noting(name: str, **attributes: Any) -> Edit:
    return lambda root: (root[name] if name else root).attrs.update(attributes)


def values(store: IcechunkStore, name: str = "SNR") -> Any:
    return zarr.open_array(store, path=name, mode="r")[:]


def tips(store: IcechunkStore) -> dict[str, str]:
    return {name: store.repo.lookup_branch(name) for name in store.repo.list_branches()}


def objects(store: IcechunkStore) -> int:
    return sum(1 for _ in store.repo.storage.list_objects_metadata(prefix=""))


# -- the way a branch goes ---------------------------------------------------------------------------------------------


def test_a_branch_without_commits_of_its_own_moves_forward_and_undo_takes_it_back(store):
    on(store, "dev", "work", setting("SNR", 0, 9))
    before, dev = tips(store)["main"], tips(store)["dev"]
    moved = store.merge("dev")
    assert isinstance(moved, Moved)
    assert "fast-forward: 1 version of dev" in str(moved)
    assert tips(store)["main"] == dev == store.version.id
    store.undo()
    assert tips(store)["main"] == before
    store.redo()
    assert tips(store)["main"] == dev


@pytest.mark.parametrize("ref", ["dev", "main~1", "main"])
def test_what_is_there_already_is_not_merged(store, ref):
    on(store, "main", "more", setting("SNR", 0, 9))
    before = tips(store)
    for ask in (store.merge, store.plan_merge, store.promote, store.plan_promote):
        answer = ask(ref)
        assert isinstance(answer, Note)
        assert "already up to date: main has all of" in str(answer)
    assert tips(store) == before


def test_a_merge_records_what_it_brought_in_and_stands_in_log_and_show(store):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", (1, 0), 2))
    base, ours, dev = store.list_versions()[0].id, *tips(store).values()
    merged = store.merge("dev")
    assert isinstance(merged, Merged)
    assert store.version.message == f"Merge dev ({tips(store)['dev'][:8]}) into main"
    assert store.version.metadata[MERGED] == {"with": tips(store)["dev"], "of": "dev", "base": base}
    assert store.version.merged == tips(store)["dev"]
    assert store.version.parent in (ours, dev)
    assert f"merge of dev ({tips(store)['dev'][:8]})" in str(store.log())
    assert f"parents: {store.version.parent[:8]} and {tips(store)['dev'][:8]}" in str(store.show())
    assert "conflicts solved" not in str(store.show())


def test_solved_conflicts_are_recorded_with_their_side_and_number(store):
    on(store, "main", "ours", lambda root: (setting("SNR", 0, 1)(root), noting("SNR", note="ours")(root)))
    on(store, "dev", "theirs", lambda root: (setting("SNR", 0, 2)(root), noting("SNR", note="theirs")(root)))
    merged = store.merge("dev", arrays={"SNR": "theirs"}, message="Bring it")
    assert store.version.message == "Bring it"
    assert store.version.metadata[MERGED]["solved"] == {"SNR": ["theirs", "attribute note, 3 values"]}
    for shown in (merged, store.show(), store.log()):
        assert "conflicts solved: SNR by theirs (attribute note, 3 values)" in str(shown)


def test_of_many_solved_arrays_only_some_are_recorded_by_name():
    store = new_store()
    names = [f"a{number:02}" for number in range(30)]
    with store.transaction("start"):
        for name in names:
            zarr.create_array(store, name=name, data=np.zeros(2))
    store.branch("dev")
    for branch, value in (("main", 1), ("dev", 2)):
        on(store, branch, branch, lambda root, value=value: [root[name].__setitem__(0, value) for name in names])
    store.merge("dev", choice="theirs")
    assert len(store.version.metadata[MERGED]["solved"]) == 20
    assert store.version.metadata[MERGED]["more"] == 10
    assert "and 27 more" in str(store.show())


def test_a_second_merge_starts_from_what_the_first_brought_in(store):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", 1, 2))
    store.merge("dev")
    # Taken back on main, and untouched on dev since: an older base would bring it in again.
    on(store, "main", "back", setting("SNR", 1, 0))
    on(store, "dev", "more", setting("SNR", 2, 3))
    store.merge("dev")
    assert values(store)[:3].tolist() == [[1] * 3, [0] * 3, [3] * 3]
    assert store.version.metadata[MERGED]["base"] == store.resolve("dev~1")


def test_branches_that_were_merged_into_each_other_come_to_rest(store):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", 1, 2))
    store.merge("dev")
    store.switch("dev")
    store.merge("main")
    assert values(store)[:2].tolist() == [[1] * 3, [2] * 3]
    store.switch("main")
    before = tips(store)
    assert "already up to date" in str(store.merge("dev"))
    assert tips(store) == before


def test_in_a_criss_cross_the_newest_common_version_is_taken_and_that_is_said(store):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", 1, 2))
    store.tag("main-1"), store.tag("dev-1", "dev")
    store.merge("dev-1")
    store.switch("dev")
    store.merge("main-1")
    on(store, "dev", "more", setting("SNR", 2, 3))
    on(store, "main", "more", setting("SNR", 3, 4))
    assert "1 other version in common as near" in str(store.plan_merge("dev"))
    assert "1 other version in common as near" in str(store.merge("dev"))
    assert store.version.metadata[MERGED]["base"] == store.resolve("dev-1")
    assert values(store)[:4].tolist() == [[1] * 3, [2] * 3, [3] * 3, [4] * 3]


def test_a_merge_that_changes_nothing_is_recorded_so_that_it_is_not_asked_again(store):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", 0, 2))
    merged = store.merge("dev", choice="ours")
    assert merged.diff.is_empty
    assert store.version.merged == tips(store)["dev"]
    assert "already up to date" in str(store.merge("dev"))


def test_promote_moves_a_branch_forward_only(store):
    on(store, "dev", "work", setting("SNR", 0, 9))
    assert "would move forward to dev" in str(store.plan_promote("dev"))
    assert store.version.message == "start"
    assert "promotion: 1 version of dev" in str(store.promote("dev"))
    assert tips(store)["main"] == tips(store)["dev"]
    store.undo()
    assert store.version.message == "start"
    on(store, "main", "ours", setting("SNR", 1, 9))
    before = tips(store)
    for ask in (store.promote, store.plan_promote):
        with pytest.raises(ConflictError, match=r"dev was not made on top of .* ours: main would lose that") as refused:
            ask("dev")
        assert "%ice merge dev" in refused.value.hint
    assert tips(store) == before


def test_a_promotion_does_not_take_versions_off_a_branch_that_were_only_merged(store):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", 1, 2))
    store.merge("dev")
    store.switch("dev")
    with pytest.raises(ConflictError, match="would lose that"):
        store.promote("main")


# -- cherry-pick -------------------------------------------------------------------------------------------------------


def test_a_pick_repeats_what_one_version_changed_and_nothing_else(store):
    on(store, "dev", "first", setting("SNR", 0, 1))
    on(store, "dev", "second", setting("SNR", 1, 2))
    on(store, "dev", "third", setting("SNR", 2, 3))
    on(store, "main", "ours", setting("SNR", 3, 4))
    start = day()["SNR"].values
    picked = store.resolve("dev~1")
    assert "would be committed" in str(store.plan_cherry_pick("dev~1"))
    store.cherry_pick("dev~1")
    assert values(store)[1:4].tolist() == [[2] * 3, start[2].tolist(), [4] * 3]
    assert (store.version.message, store.version.metadata[PICKED]) == ("second", picked)
    assert f"pick of {picked[:8]}" in str(store.log())
    assert f"pick of {picked[:8]}" in str(store.show())
    assert "nothing that dev~1" in str(store.cherry_pick("dev~1"))
    assert "nothing that dev~1" in str(store.plan_cherry_pick("dev~1"))
    assert store.version.message == "second"


def test_a_pick_in_conflict_takes_the_choices_of_a_merge(store):
    on(store, "dev", "theirs", setting("SNR", 0, 1))
    on(store, "main", "ours", setting("SNR", (0, 0), 2))
    with pytest.raises(ConflictError, match=r"SNR at epoch 2025-01-01T10:00, sid G01\|L1\|C: 1 value"):
        store.cherry_pick("dev")
    store.cherry_pick("dev", choice="ours", message="Pick it")
    assert values(store)[0].tolist() == [2, 1, 1]
    assert store.version.message == "Pick it"


def test_a_version_whose_parent_expired_is_not_picked(store):
    on(store, "dev", "one", setting("SNR", 0, 1))
    on(store, "dev", "two", setting("SNR", 1, 2))
    store.repo.expire_snapshots(store.repo.lookup_snapshot(tips(store)["dev"]).written_at)
    store.refresh()
    with pytest.raises(UnknownVersionError, match="is not there any more"):
        store.cherry_pick("dev")


def test_a_reverted_version_can_be_picked_again(store):
    on(store, "main", "work", setting("SNR", 0, 9))
    store.revert("main")
    store.cherry_pick("main~1")
    assert values(store)[0].tolist() == [9] * 3


# -- rules -------------------------------------------------------------------------------------------------------------


def remade(root: zarr.Group, name: str, **form: Any) -> None:
    """Make an array anew with the same values and another form."""
    old = root[name]
    held, attributes, dims = old[...], dict(old.attrs), old.metadata.dimension_names
    del root[name]
    form = {"chunks": (5, 3), "dtype": held.dtype, "fill_value": np.nan} | form
    root.create_array(name, shape=held.shape, dimension_names=dims, attributes=attributes, **form)[...] = held


def appended(seed: int, shift: str, rows: slice = slice(None)) -> Edit:
    return lambda root: day(rows, seed=seed, shift=shift).to_zarr(root.store, append_dim="epoch")


def bare_rows(number: int) -> Edit:
    """Append rows of fill values without labels, which leave no chunk."""
    return lambda root: [
        root[name].resize((12 + number, *root[name].shape[1:])) for name in ("SNR", "Doppler", "epoch")
    ]


def removed(name: str) -> Edit:
    return lambda root: root.__delitem__(name)


def made(name: str, value: float, **attributes: Any) -> Edit:
    def edit(root: zarr.Group) -> None:
        array = root.create_array(name, shape=(12,), dtype="f4", dimension_names=("epoch",), attributes=attributes)
        array[:] = value

    return edit


MERGES: dict[str, tuple[Edit, Edit, Callable[[zarr.Group], bool]]] = {
    "values of one chunk": (
        setting("SNR", 0, 1),
        setting("SNR", 1, 2),
        lambda root: root["SNR"][:2].tolist() == [[1] * 3, [2] * 3],
    ),
    "the same values": (setting("SNR", 0, 1), setting("SNR", 0, 1), lambda root: root["SNR"][0].tolist() == [1] * 3),
    "an append and a value in the last chunk": (
        appended(1, "1h"),
        setting("SNR", 11, 2),
        lambda root: root["SNR"].shape == (24, 3) and root["SNR"][11].tolist() == [2] * 3,
    ),
    "the same append": (appended(1, "1h"), appended(1, "1h"), lambda root: root["SNR"].shape == (24, 3)),
    "the same rows, more of them on one side": (
        appended(1, "1h", slice(0, 4)),
        appended(1, "1h"),
        lambda root: np.array_equal(root["SNR"][12:], day(seed=1)["SNR"].values),
    ),
    "rechunked and untouched": (
        lambda root: remade(root, "SNR"),
        setting("Doppler", 0, 1),
        lambda root: root["SNR"].chunks == (5, 3) and root["Doppler"][0].tolist() == [1] * 3,
    ),
    "rechunked alike": (
        lambda root: remade(root, "SNR"),
        lambda root: remade(root, "SNR"),
        lambda root: root["SNR"].chunks == (5, 3),
    ),
    "removed and untouched": (removed("Doppler"), setting("SNR", 0, 1), lambda root: "Doppler" not in root),
    "removed and only rewritten": (
        removed("Doppler"),
        lambda root: root["Doppler"].__setitem__(slice(0, 5), root["Doppler"][:5]),
        lambda root: "Doppler" not in root,
    ),
    "removed on both sides": (removed("Doppler"), removed("Doppler"), lambda root: "Doppler" not in root),
    "attributes of other keys": (
        noting("SNR", a=1),
        noting("SNR", b=2),
        lambda root: (root["SNR"].attrs["a"], root["SNR"].attrs["b"]) == (1, 2),
    ),
    "the same attribute": (noting("SNR", a=1), noting("SNR", a=1), lambda root: root["SNR"].attrs["a"] == 1),
    "attributes of the root": (noting("", a=1), noting("", b=2), lambda root: dict(root.attrs) == {"a": 1, "b": 2}),
    "made alike": (made("flag", 1), made("flag", 1), lambda root: root["flag"][0] == 1),
    "made alike, with other attributes": (
        made("flag", 1, a=1),
        made("flag", 1, b=2),
        lambda root: dict(root["flag"].attrs) == {"a": 1, "b": 2},
    ),
    "groups made alike": (
        lambda root: root.create_group("g", attributes={"a": 1}),
        lambda root: root.create_group("g", attributes={"b": 2}),
        lambda root: dict(root["g"].attrs) == {"a": 1, "b": 2},
    ),
    "another array made along a dimension that the other side lengthened": (
        appended(1, "1h"),
        made("flag", 1),
        lambda root: root["flag"].shape == (24,) and root["flag"][11:13].tolist() == [1, 0],
    ),
    "encoding and untouched values": (
        noting("SNR", scale_factor=0.5),
        noting("SNR", note=1),
        lambda root: root["SNR"].attrs["scale_factor"] == 0.5,
    ),
    "cut and other rows": (
        lambda root: [root[name].resize((6, *root[name].shape[1:])) for name in ("SNR", "Doppler", "epoch")],
        setting("SNR", 5, 2),
        lambda root: root["SNR"].shape == (6, 3) and root["SNR"][5].tolist() == [2] * 3,
    ),
}


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("way", ["there", "back"])
def test_what_goes_together_is_merged_either_way(store, name, way):
    mine, others, holds = MERGES[name]
    on(store, "main", "ours", mine if way == "there" else others)
    on(store, "dev", "theirs", others if way == "there" else mine)
    store.merge("dev")
    assert holds(zarr.open_group(store, mode="r"))
    xr.open_zarr(store).load()


CONFLICTS: dict[str, tuple[Edit, Edit, str]] = {
    "values": (
        setting("SNR", 0, 1),
        setting("SNR", (slice(0, 2), 0), 2),
        r"SNR at epoch 2025-01-01T10:00, sid G01\|L1\|C: 1 value\.",
    ),
    "a block of values": (
        setting("SNR", slice(0, 12), 1),
        setting("SNR", (slice(0, 12), slice(0, 2)), 2),
        r"SNR at all epoch, sid G01\|L1\|C … G02\|L1\|C: 24 values\.",
    ),
    "an attribute": (noting("SNR", a=1), noting("SNR", a=2), "SNR in attribute a"),
    "an attribute that one side took away": (noting("SNR", a=1), noting("SNR", a=2), "SNR in attribute a"),
    "a removed array": (removed("Doppler"), setting("Doppler", 0, 1), "Doppler in its removal"),
    "a moved definition": (lambda root: remade(root, "SNR"), setting("SNR", 0, 1), "SNR in its definition"),
    "an array made on both sides": (made("flag", 1), made("flag", 2), "flag at all epoch: 12 values"),
    "an array made in two forms": (
        made("flag", 1),
        lambda root: root.create_array("flag", shape=(12,), dtype="i4", dimension_names=("epoch",)),
        "flag in its creation",
    ),
    "an array and a group": (made("flag", 1), lambda root: root.create_group("flag"), "flag in its creation"),
    "an encoding": (
        noting("SNR", scale_factor=0.5),
        setting("SNR", 0, 1),
        "SNR in attribute scale_factor, without which",
    ),
    "other rows": (
        appended(1, "1h"),
        appended(1, "2h"),
        "epoch in rows that both appended: epoch 2025-01-01T11:00 … 11:55 in main and ",
    ),
    "values of the same rows": (
        appended(1, "1h"),
        appended(2, "1h"),
        r"Doppler at .*: 36 values; SNR at .*: 36 values",
    ),
    "values of the same rows, where one side has fill values": (
        appended(1, "1h"),
        lambda root: (appended(1, "1h")(root), setting("SNR", slice(12, 24), np.nan)(root)),
        r"SNR at .*: 36 values",
    ),
    "rows without labels": (bare_rows(4), bare_rows(4), "epoch in rows that both appended"),
    "rows cut and written": (
        lambda root: [root[name].resize((6, *root[name].shape[1:])) for name in ("SNR", "Doppler", "epoch")],
        setting("SNR", 9, 2),
        r"epoch in rows that main removed or labelled anew and dev wrote in SNR: epoch 2025-01-01T10:30 … 10:55\.",
    ),
    "rows cut and appended": (
        lambda root: [root[name].resize((6, *root[name].shape[1:])) for name in ("SNR", "Doppler", "epoch")],
        appended(1, "1h"),
        "epoch in its length: 6 in main and 24 in dev",
    ),
    "labels and values": (
        lambda root: root["epoch"].__setitem__(3, 1),
        setting("Doppler", 3, 2),
        "epoch in rows that main removed or labelled anew and dev wrote in Doppler: epoch 2025-01-01T10:15",
    ),
    "labels": (
        lambda root: root["epoch"].__setitem__(3, 1),
        lambda root: root["epoch"].__setitem__(3, 2),
        "epoch in rows that both removed or labelled anew",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_what_contradicts_is_refused_with_its_place_and_nothing_is_changed(store, name):
    mine, others, said = CONFLICTS[name]
    on(store, "main", "ours", mine)
    on(store, "dev", "theirs", others)
    before, stored = tips(store), objects(store)
    with pytest.raises(ConflictError, match=said) as refused:
        store.merge("dev")
    assert "Nothing was changed." in refused.value.message
    assert len(str(refused.value).splitlines()) == 2
    outlook = store.plan_merge("dev")
    assert "would be refused" in str(outlook)
    assert {conflict.solved for conflict in outlook.conflicts} == {None}
    assert tips(store) == before
    assert objects(store) == stored
    assert not store.in_transaction


@pytest.mark.parametrize("name", CONFLICTS)
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_choice_solves_it_and_leaves_a_dataset_that_opens(store, name, side):
    mine, others, _ = CONFLICTS[name]
    on(store, "main", "ours", mine)
    on(
        store,
        "dev",
        "theirs",
        lambda root: (others(root), noting("Doppler" if "Doppler" in root else "SNR", kept=1)(root)),
    )
    assert "would be committed" in str(store.plan_merge("dev", choice=side))
    store.merge("dev", choice=side)
    chosen = IcechunkStore.open(store.repo, version="main~1" if side == "ours" else "dev")
    assert xr.open_zarr(store).drop_attrs().equals(xr.open_zarr(chosen).drop_attrs()) or name in (
        "values",
        "a block of values",
    )
    assert "already up to date" in str(store.merge("dev"))


def test_a_choice_for_one_array_leaves_the_others_in_conflict(store):
    on(store, "main", "ours", lambda root: (setting("SNR", 0, 1)(root), setting("Doppler", 0, 1)(root)))
    on(store, "dev", "theirs", lambda root: (setting("SNR", 0, 2)(root), setting("Doppler", 0, 2)(root)))
    with pytest.raises(ConflictError, match=r"same: Doppler at epoch .*: 3 values\. Nothing"):
        store.merge("dev", arrays={"SNR": "theirs"})
    store.merge("dev", choice="ours", arrays={"/SNR/": "theirs"})
    assert (values(store)[0, 0], values(store, "Doppler")[0, 0]) == (2, 1)


def test_a_choice_takes_only_what_is_in_conflict(store):
    on(store, "main", "ours", setting("SNR", slice(0, 4), 1))
    on(store, "dev", "theirs", setting("SNR", slice(2, 6), 2))
    store.merge("dev", choice="theirs")
    assert values(store)[:6, 0].tolist() == [1, 1, 2, 2, 2, 2]


def test_rows_come_from_one_side_in_all_arrays_of_a_group(store):
    on(store, "main", "ours", appended(1, "1h"))
    on(store, "dev", "theirs", lambda root: (appended(2, "2h", slice(0, 5))(root), setting("SNR", 0, 9)(root)))
    store.merge("dev", arrays={"epoch": "theirs"})
    merged = xr.open_zarr(store).load()
    assert merged.sizes["epoch"] == 17
    for name in ("SNR", "Doppler"):
        np.testing.assert_array_equal(merged[name][12:], day(slice(0, 5), seed=2)[name])
    assert merged["SNR"][0, 0] == 9
    assert merged["Doppler"][0, 0] == day()["Doppler"][0, 0]


def test_the_line_in_the_hint_appends_the_rows_of_the_other_side_on_top(store):
    on(store, "main", "ours", appended(1, "1h"))
    on(store, "dev", "theirs", appended(2, "2h", slice(0, 5)))
    with pytest.raises(ConflictError) as refused:
        store.merge("dev")
    keep, line = refused.value.hint.split("; ")
    assert keep == "--array epoch=ours keeps the rows of main"
    store.merge("dev", arrays={"epoch": "ours"})
    with store.transaction("Append theirs"):
        eval(line.partition(": ")[2], {"xr": xr, "IcechunkStore": IcechunkStore, "store": store})  # noqa: S307  our own
    merged = xr.open_zarr(store).load()
    assert merged["epoch"].values.tolist() == [*day()["epoch"].values.astype("M8[ns]").tolist(), *(
        day(seed=1, shift="1h")["epoch"].values.astype("M8[ns]").tolist()), *(
        day(slice(0, 5), shift="2h")["epoch"].values.astype("M8[ns]").tolist())]  # fmt: skip
    np.testing.assert_array_equal(merged["SNR"][24:], day(slice(0, 5), seed=2)["SNR"])
    assert "already up to date" in str(store.merge("dev"))


def test_rows_without_labels_are_never_taken_for_the_same():
    store = new_store()
    with store.transaction("start"):
        zarr.create_array(store, name="rows", shape=(0,), chunks=(5,), dtype="f8", fill_value=0)
    store.branch("dev")
    for branch in ("main", "dev"):
        on(store, branch, branch, lambda root: root["rows"].append(np.zeros(3)))
    with pytest.raises(
        ConflictError, match=r"rows in rows that both appended: rows\[0:3\] in main and rows\[0:3\] in dev"
    ):
        store.merge("dev")


def test_an_array_with_rows_that_were_not_chosen_is_refused_or_left_out(store):
    on(store, "main", "ours", appended(1, "1h"))

    def theirs(root: zarr.Group) -> None:
        appended(2, "2h")(root)
        root.create_array("flag", shape=(24,), dtype="f4", dimension_names=("epoch",))[:] = 1

    on(store, "dev", "theirs", theirs)
    with pytest.raises(ConflictError, match="flag in its rows along epoch, which are to come from main"):
        store.merge("dev", choice="ours")
    store.merge("dev", choice="ours", arrays={"flag": "ours"})
    assert "flag" not in zarr.open_group(store, mode="r")


def test_what_was_cut_off_in_a_merge_does_not_come_back_when_the_array_grows_again():
    store = new_store()
    with store.transaction("start"):
        zarr.create_array(store, name="x", data=np.ones(1000), chunks=(100,), fill_value=0)
    store.branch("dev")
    on(store, "main", "ours", noting("x", note=1))
    on(store, "dev", "theirs", lambda root: root["x"].resize((500,)))
    foreseen, merged = store.plan_merge("dev").diff, store.merge("dev").diff
    assert [array.changed_chunks for array in (*foreseen.arrays, *merged.arrays)] == [5, 5]
    with store.transaction("grow"):
        zarr.open_array(store, path="x", mode="r+").resize((1000,))
    assert values(store, "x").reshape(10, 100).sum(axis=1).tolist() == [100] * 5 + [0] * 5


def test_labels_and_rows_that_came_in_several_commits_come_in_one_merge(store):
    on(store, "dev", "labels", setting("epoch", 0, -5))
    on(store, "dev", "rows", appended(1, "1h"))
    on(store, "main", "ours", noting("SNR", note=1))
    store.merge("dev")
    assert values(store, "epoch")[0] == -5
    assert values(store).shape == (24, 3)


def test_that_an_array_gets_fill_values_is_said_before_and_after(store):
    on(store, "main", "ours", appended(1, "1h"))
    on(store, "dev", "theirs", made("flag", 1))
    for shown in (store.plan_merge("dev"), store.merge("dev")):
        assert "flag gets fill values in 12 rows of epoch" in str(shown)


def test_a_moved_array_is_one_removed_and_one_added(store):
    def move(branch: str) -> None:
        session = store.repo.rearrange_session(branch)
        session.move("/Doppler", "/D")
        session.commit("move")

    move("dev")
    on(store, "main", "ours", setting("SNR", 0, 1))
    store.merge("dev")
    assert {"D", "SNR"} <= set(zarr.open_group(store, mode="r"))
    assert "Doppler" not in zarr.open_group(store, mode="r")
    np.testing.assert_array_equal(values(store, "D"), day()["Doppler"])
    on(store, "main", "changed", setting("D", 0, 5))
    session = store.repo.rearrange_session("dev")
    session.move("/D", "/E")
    session.commit("move again")
    with pytest.raises(ConflictError, match="D in its removal"):
        store.merge("dev")


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nested(store: IcechunkStore) -> IcechunkStore:
    def make(root: zarr.Group) -> None:
        root.create_group("g", attributes={"a": 1}).create_array("x", data=np.arange(4.0))
        root["g"].create_array("y", data=np.arange(4.0))

    on(store, "main", "nested", make)
    store.promote("main")
    store.delete_branch("dev")
    store.branch("dev")
    return store


def add_to_group(root: zarr.Group) -> None:
    root["g"].create_array("new", data=np.ones(4))


@pytest.mark.parametrize("inside", [add_to_group, setting("g/x", 0, 9)], ids=["new", "changed"])
@pytest.mark.parametrize("remover", ["main", "dev"])
@pytest.mark.parametrize("side", [None, "ours", "theirs"])
def test_what_lies_in_a_group_that_one_side_removed_stays_with_its_group_or_goes(nested, inside, remover, side):
    on(nested, remover, "removed", removed("g"))
    on(nested, "dev" if remover == "main" else "main", "inside", inside)
    if side is None:
        with pytest.raises(ConflictError, match=r"g/new in its group, which|g/x in its removal"):
            nested.merge("dev")
        return
    nested.merge("dev", choice=side)
    root = zarr.open_group(nested, mode="r")
    kept = side == ("theirs" if remover == "main" else "ours")
    assert ("g" in root) == kept
    if kept:
        assert dict(root["g"].attrs) == {"a": 1}
        assert set(root["g"]) == ({"new"} if inside is add_to_group else {"x"})
        assert root["g/new" if inside is add_to_group else "g/x"][1] == 1


# -- refusals and guards -----------------------------------------------------------------------------------------------


def test_where_nothing_may_be_committed_nothing_is_merged(store):
    on(store, "dev", "work", setting("SNR", 0, 9))
    asks = [store.merge, store.plan_merge, store.cherry_pick, store.plan_cherry_pick, store.promote, store.plan_promote]
    before = tips(store)
    store.protect("main")
    for ask in asks:
        with pytest.raises(GuardError, match="protected against a"):
            ask("dev")
    store.unprotect("main")
    store.begin()
    for ask in asks:
        with pytest.raises(TransactionError, match="has to wait"):
            ask("dev")
    store.discard()
    store.checkout("main~0")
    for ask in asks:
        with pytest.raises(TransactionError, match="not on a branch"):
            ask("dev")
    assert tips(store) == before


def test_what_the_store_demands_is_demanded_of_a_merge(store):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", 1, 99))
    store.demand("SNR", Demand(range=(0, 70)))
    before = tips(store)
    with pytest.raises(GuardError, match="between 0 and 70"):
        store.merge("dev")
    assert tips(store) == before


def test_a_merge_after_which_a_group_would_not_decode_is_refused(store):
    on(store, "main", "ours", appended(1, "1h"))
    on(store, "dev", "theirs", lambda root: remade(root, "SNR"))
    before = tips(store)
    with pytest.raises(GuardError, match="epoch is 12 in SNR and 24 in Doppler, epoch") as refused:
        store.merge("dev", arrays={"SNR": "theirs"})
    assert "cell" not in refused.value.hint
    assert "groups must decode" in str(store.plan_merge("dev", arrays={"SNR": "theirs"}))
    assert tips(store) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arrays": {"SRN": "ours"}}, "no array or group 'SRN'"),
        ({"arrays": {"SNR": "mine"}}, "'mine' is no side"),
        ({"choice": "both"}, "'both' is no side"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(store, given, said):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", 1, 2))
    before = tips(store)
    with pytest.raises(SelectionError, match=said) as refused:
        store.merge("dev", **given)
    assert "SNR" in refused.value.hint or "theirs" in refused.value.hint
    assert tips(store) == before


def bring(store: IcechunkStore, meanwhile: Callable[[], None]) -> Any:
    """Merge dev while somebody else commits between the plan and the commit."""
    dev = store.repo.lookup_branch("dev")

    def make(tip: str) -> Any:
        planned = of_version(store.repo, "main", tip, dev, of="dev", choices=Choices("ours"))
        meanwhile()
        return planned

    return store._bring(make, None)


@pytest.mark.parametrize("theirs", [setting("SNR", 1, 2), setting("SNR", 0, 2)], ids=["changes", "changes nothing"])
def test_a_commit_that_comes_in_between_is_kept(store, theirs):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", theirs)
    other = IcechunkStore.open(store.repo)
    bring(store, lambda: on(other, "main", "meanwhile", setting("Doppler", 0, 7)))
    assert [version.message for version in store.list_versions()][-2] == "meanwhile"
    assert (values(store)[0, 0], values(store, "Doppler")[0, 0]) == (1, 7)
    assert store.version.merged == tips(store)["dev"]


def test_a_commit_in_between_that_changed_the_same_stops_the_merge(store):
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", 1, 2))
    other = IcechunkStore.open(store.repo)
    with pytest.raises(ConflictError, match="Someone committed to main meanwhile") as refused:
        bring(store, lambda: on(other, "main", "meanwhile", setting("SNR", 2, 7)))
    assert "Run it again" in refused.value.hint
    store.merge("dev")
    assert values(store)[:3, 0].tolist() == [1, 2, 7]


# -- how it is done ----------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_change_and_leaves_the_storage_as_it_was(store):
    on(store, "main", "ours", lambda root: (setting("SNR", 0, 1)(root), noting("SNR", note=1)(root)))
    on(store, "dev", "theirs", lambda root: (setting("SNR", 1, 2)(root), made("flag", 1)(root)))
    before, stored = tips(store), objects(store)
    outlook = store.plan_merge("dev")
    assert isinstance(outlook, Outlook)
    assert {(array.path, array.status) for array in outlook.diff.arrays} == {("SNR", "changed"), ("flag", "added")}
    assert "1 chunk to be merged value by value" in str(outlook)
    assert "newest version in common" in str(outlook)
    assert (tips(store), objects(store)) == (before, stored)
    merged = store.merge("dev")
    assert [(array.path, array.changed_chunks) for array in merged.diff.arrays] == [
        (array.path, array.changed_chunks) for array in outlook.diff.arrays
    ]


def test_a_dry_run_says_what_each_choice_would_leave(store):
    on(store, "main", "ours", lambda root: (setting("SNR", 0, 1.5)(root), noting("SNR", note="a")(root)))
    on(store, "dev", "theirs", lambda root: (setting("SNR", 0, 2.5)(root), noting("SNR", note="b")(root)))
    outlook = store.plan_merge("dev", arrays={"SNR": "theirs"})
    assert [(conflict.kind, conflict.sides, conflict.solved) for conflict in outlook.conflicts] == [
        ("attribute note", ("'a'", "'b'"), "theirs"),
        ("3 values", ("1.5, …", "2.5, …"), "theirs"),
    ]
    assert "--theirs: dev" in str(outlook)
    on(store, "main", "gone", removed("SNR"))
    assert ("not there", "12 × 3 float32") in [conflict.sides for conflict in store.plan_merge("dev").conflicts]


def test_chunks_of_one_side_are_moved_as_they_are_and_only_shared_ones_are_encoded(monkeypatch):
    store = new_store()
    with store.transaction("start"):
        zarr.create_array(store, name="x", data=np.random.default_rng(0).random(1000), chunks=(100,))
    store.branch("dev")
    alike = setting("x", slice(100, 150), 3)
    on(
        store,
        "main",
        "ours",
        lambda root: (setting("x", slice(0, 50), 1)(root), alike(root), setting("x", 999, 1)(root)),
    )
    on(
        store,
        "dev",
        "theirs",
        lambda root: (setting("x", slice(200, 700), 2)(root), alike(root), setting("x", 950, 2)(root)),
    )
    encoded = []
    plain = zarr.codecs.ZstdCodec._encode_single
    monkeypatch.setattr(
        zarr.codecs.ZstdCodec, "_encode_single", lambda self, *given: encoded.append(1) or plain(self, *given)
    )
    store.merge("dev")
    assert len(encoded) == 1
    assert values(store, "x")[[0, 100, 200, 699, 950, 999]].tolist() == [1, 3, 2, 2, 2, 1]


def test_memory_grows_with_a_chunk_and_not_with_the_array():
    store = new_store()
    chunk, number = 250_000, 24
    with store.transaction("start"):
        zarr.create_array(store, name="x", shape=(chunk * number,), chunks=(chunk,), dtype="f8", fill_value=0)
    store.branch("dev")

    def every_other(first: int) -> Edit:
        def edit(root: zarr.Group) -> None:
            for at in range(number):
                root["x"][at * chunk + first : (at + 1) * chunk - 10 : 2] = first + 1.0

        return edit

    on(store, "main", "ours", every_other(0))
    on(store, "dev", "theirs", every_other(1))
    tracemalloc.start()
    store.merge("dev")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * chunk * 8 < chunk * number * 8 / 2 + 1
    assert values(store, "x")[:4].tolist() == [1, 2, 1, 2]


def test_a_repository_of_format_1_merges_too():
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=1)
    store = IcechunkStore.open(repo)
    with store.transaction("start"):
        day().to_zarr(store)
    store.branch("dev")
    on(store, "main", "ours", setting("SNR", 0, 1))
    on(store, "dev", "theirs", setting("SNR", 1, 2))
    store.merge("dev")
    assert values(store)[:2, 0].tolist() == [1, 2]
    assert "already up to date" in str(store.merge("dev"))
