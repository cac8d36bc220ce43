"""One store through any sequence of operations, against plain dictionaries of numpy arrays that keep every version.

After each step every version that a branch or tag reaches, and every stash, must hold what the model holds. The store
is read by hand, chunk by chunk, so that no code of icemagic or Zarr stands between the bytes and the comparison.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product

import icechunk
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icemagic import IcechunkStore
from icemagic.errors import IcemagicError, NothingToCommitError, TransactionError

ROOT = "1CECHNKREP0F1RSTCMT0"
CHUNK, WIDTH = 4, 2
"""Length of a chunk along t, and the length of s."""
VALUES = st.integers(1, 1_000_000)


@dataclass
class State:
    """What one version holds."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    attributes: dict[str, int] = field(default_factory=dict)

    def copy(self) -> State:
        return State({name: values.copy() for name, values in self.arrays.items()}, dict(self.attributes))

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, State)
        same_names = self.arrays.keys() == other.arrays.keys() and self.attributes == other.attributes
        return same_names and all(np.array_equal(values, other.arrays[name]) for name, values in self.arrays.items())

    __hash__ = None


# -- reading by hand ---------------------------------------------------------------------------------------------------


async def _read(store: icechunk.IcechunkStore) -> State:
    state = State()
    documents = [key async for key in store.list() if key.endswith("zarr.json")]
    for key in documents:
        metadata = json.loads((await store.get(key, default_buffer_prototype())).to_bytes())
        if metadata["node_type"] == "group":
            state.attributes = metadata["attributes"]
        else:
            state.arrays[key.removesuffix("/zarr.json")] = await _array(store, key.removesuffix("zarr.json"), metadata)
    return state


async def _array(store: icechunk.IcechunkStore, prefix: str, metadata: dict) -> np.ndarray:
    shape, chunk = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
    assert metadata["data_type"] == "int32"
    assert [codec["name"] for codec in metadata["codecs"]] == ["bytes"]
    values = np.full(shape, metadata["fill_value"], dtype="<i4")
    for at in product(*(range(-(-length // size)) for length, size in zip(shape, chunk, strict=True))):
        held = await store.get(f"{prefix}c/{'/'.join(map(str, at))}", default_buffer_prototype())
        if held is not None:
            region = tuple(slice(n * size, (n + 1) * size) for n, size in zip(at, chunk, strict=True))
            part = values[region]
            whole = np.frombuffer(held.to_bytes(), dtype="<i4").reshape(chunk)
            values[region] = whole[tuple(slice(0, length) for length in part.shape)]
    return values


def read(repo: icechunk.Repository, snapshot_id: str) -> State:
    return sync(_read(repo.readonly_session(snapshot_id=snapshot_id).store))


# -- edits, done to a store and to the model ---------------------------------------------------------------------------


def _group(store: icechunk.IcechunkStore) -> zarr.Group:
    return zarr.open_group(store, mode="a")


def _new(store: icechunk.IcechunkStore, name: str, values: np.ndarray, dims: tuple[str, ...]) -> None:
    chunks = (CHUNK, WIDTH)[: values.ndim]
    made = _group(store).create_array(
        name, shape=values.shape, chunks=chunks, dtype="i4", fill_value=0, compressors=None, dimension_names=dims,
        overwrite=True,
    )  # fmt: skip
    made[...] = values


def begin_series(store: icechunk.IcechunkStore, state: State, value: int) -> None:
    """Make t, x and y; all have t in common."""
    for name in ("t", "x", "y"):
        state.arrays[name] = rows(name, 0, value % 11 + 1, value)
        _new(store, name, state.arrays[name], ("t", "s")[: state.arrays[name].ndim])


def series(state: State) -> list[str]:
    """Return those of t, x and y that are there; what is restored alone comes without the others."""
    return [name for name in ("t", "x", "y") if name in state.arrays]


def rows(name: str, start: int, stop: int, value: int) -> np.ndarray:
    """Return values for the positions from start to stop; t counts them."""
    if name == "t":
        return np.arange(start, stop, dtype="<i4")
    return np.full((stop - start, WIDTH)[: 1 if name == "x" else 2], value, dtype="<i4")


def write(store: icechunk.IcechunkStore, state: State, value: int) -> None:
    """Write a region of t, x and y."""
    if not series(state):
        begin_series(store, state, value)
    for name in series(state):
        length = len(state.arrays[name])
        start = value % length
        stop = min(length, start + value % 7 + 1)
        state.arrays[name][start:stop] = rows(name, start, stop, value)
        _group(store)[name][start:stop] = rows(name, start, stop, value)


def append(store: icechunk.IcechunkStore, state: State, value: int) -> None:
    """Append rows to t, x and y."""
    if not series(state):
        begin_series(store, state, value)
    for name in series(state):
        length = len(state.arrays[name])
        more = rows(name, length, length + value % 6 + 1, value)
        _group(store)[name].append(more)
        state.arrays[name] = np.concatenate([state.arrays[name], more])


def resize(store: icechunk.IcechunkStore, state: State, value: int) -> None:
    """Cut or lengthen t, x and y alike."""
    if not series(state):
        begin_series(store, state, value)
    length = value % 14 + 1
    for name in series(state):
        array = _group(store)[name]
        kept = min(length, array.shape[0])
        array.resize((length, *array.shape[1:]))
        more = rows(name, kept, length, 0)
        if len(more):  # Zarr cuts whole chunks only: what was cut out of the last one would come back
            array[kept:] = more
        state.arrays[name] = np.concatenate([state.arrays[name][:kept], more])


def set_attribute(store: icechunk.IcechunkStore, state: State, value: int) -> None:
    _group(store).attrs[f"n{value % 3}"] = value
    state.attributes[f"n{value % 3}"] = value


def make_other(store: icechunk.IcechunkStore, state: State, value: int) -> None:
    """Make an array that has no dimension in common with the others, anew where it is there."""
    name, values = f"z{value % 2}", np.full(value % 9 + 1, value, dtype="<i4")
    _new(store, name, values, ("u" + name,))
    state.arrays[name] = values


def delete_other(store: icechunk.IcechunkStore, state: State, value: int) -> None:
    name = f"z{value % 2}"
    if name in state.arrays:
        del _group(store)[name]
        del state.arrays[name]


EDITS: list[Callable[[icechunk.IcechunkStore, State, int], None]] = [
    write, append, resize, set_attribute, make_other, delete_other,
]  # fmt: skip
CHANGES = st.lists(st.tuples(st.sampled_from(EDITS), VALUES), min_size=1, max_size=3)


def edit(store: icechunk.IcechunkStore, state: State, changes: list) -> None:
    for change, value in changes:
        change(store, state, value)


class Deliberate(Exception):  # noqa: N818  an interruption, not an error of anybody
    """Raised in the middle of a transaction."""


def consistent(state: State) -> bool:
    """Whether t, x and y have t in common, as the guard of every transaction demands."""
    return len({len(state.arrays[name]) for name in ("t", "x", "y") if name in state.arrays}) < 2


# -- the machine -------------------------------------------------------------------------------------------------------


@dataclass
class Operation:
    """What undo may take back: a move or the deletion of a branch."""

    branch: str
    before: str
    after: str | None
    """None for a deletion."""
    made: int
    """When, as a number."""
    undone: int | None = None
    """When it was taken back."""

    def counts(self, branch: str) -> bool:
        return self.branch == branch or self.after is None


class Machine(RuleBasedStateMachine):
    """Random operations on one store, and the model of all that they should do."""

    @initialize(local=st.booleans(), inline=st.booleans())
    def start(self, local, inline):
        self.folder = tempfile.TemporaryDirectory() if local else None
        storage = icechunk.local_filesystem_storage(self.folder.name) if local else icechunk.in_memory_storage()
        config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=512 if inline else 0)
        self.repo = icechunk.Repository.create(storage, config=config)
        self.store = IcechunkStore.open(self.repo)
        self.states = {ROOT: State()}
        self.parents: dict[str, str] = {}
        self.alive = {ROOT}
        self.cut: set[str] = set()
        """Versions whose parents expired."""
        self.branches, self.tags = {"main": ROOT}, {}
        self.branch, self.head = "main", ROOT
        self.working: State | None = None
        self.stashes: list[tuple[str, str]] = []
        self.operations: list[Operation] = []
        self.clock = self.number = 0

    def teardown(self):
        if getattr(self, "working", None) is not None:
            self.store.discard()
        if getattr(self, "folder", None):
            self.folder.cleanup()

    # what happens to the model

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def fresh(self, kind: str) -> str:
        self.number += 1
        return f"{kind}{self.number}"

    def made(self, snapshot_id: str, state: State, parent: str) -> str:
        assert snapshot_id not in self.states
        self.states[snapshot_id], self.parents[snapshot_id] = state, parent
        self.alive.add(snapshot_id)
        return snapshot_id

    def moved(self, branch: str, to: str) -> None:
        self.operations.append(Operation(branch, self.branches[branch], to, self.tick()))
        self.branches[branch] = to

    def committed(self, branch: str, state: State, snapshot_id: str) -> None:
        self.moved(branch, self.made(snapshot_id, state, self.branches[branch]))

    def chain(self, tip: str) -> list[str]:
        """Return the versions up to one, newest first; where older ones expired, the line ends."""
        found = []
        while tip != ROOT:
            found.append(tip)
            tip = self.parents[tip]
        return found

    def reachable(self) -> list[str]:
        tips = [*self.branches.values(), *self.tags.values()]
        return sorted({one for tip in tips for one in self.chain(tip)}, key=list(self.states).index)

    def some(self, data, what: list[str], label: str) -> str:
        return data.draw(st.sampled_from(what), label=label)

    def follow(self) -> None:
        """Note that the store moved to the newest version of its branch."""
        self.head = self.branches[self.branch]

    def listed(self) -> list[tuple[str, str]]:
        """Return the stashes that no branch or tag holds, newest first."""
        return [one for one in self.stashes if one[0] in self.alive and one[0] not in self.reachable()]

    def current(self) -> bool:
        return self.head == self.branches[self.branch]

    def refused(self, call, *arguments, **more) -> IcemagicError:
        """Call what must be refused in words; the invariants see that nothing changed."""
        with pytest.raises(IcemagicError) as caught:
            call(*arguments, **more)
        return caught.value

    def expect_commit(self, call, *arguments, result: State, must: bool) -> None:
        """Call what commits a state, or says that there is nothing to commit where nothing differs."""
        try:
            committed = call(*arguments)
        except NothingToCommitError:
            assert not must
            return
        self.committed(self.branch, result, committed.version.id)
        self.follow()

    # transactions

    @precondition(lambda self: self.working is None)
    @rule(changes=CHANGES, fails=st.booleans())
    def transaction(self, changes, fails):
        state = self.states[self.branches[self.branch]].copy()
        try:
            with self.store.transaction() as txn:
                edit(self.store, state, changes)
                if fails:
                    raise Deliberate  # noqa: TRY301  as a cell does
                if self.store.session.has_uncommitted_changes:
                    version = txn.commit("work")
                    self.committed(self.branch, state, version.id)
                    self.follow()
        except Deliberate:
            pass

    @precondition(lambda self: self.working is None)
    @rule()
    def begin(self):
        self.store.begin()
        self.working = self.states[self.branches[self.branch]].copy()
        self.base = self.branches[self.branch]

    @precondition(lambda self: self.working is not None)
    @rule(changes=CHANGES)
    def work(self, changes):
        edit(self.store, self.working, changes)

    @precondition(lambda self: self.working is not None)
    @rule(changes=CHANGES)
    def a_cell_that_fails(self, changes):
        point = self.store.begun.savepoint()
        edit(self.store, self.working.copy(), changes)
        self.store.begun.roll_back(point)

    @precondition(lambda self: self.working is not None)
    @rule()
    def commit(self):
        if not self.store.session.has_uncommitted_changes:
            self.refused(self.store.commit, "work")
            return
        committed = self.store.commit("work")
        self.committed(self.branch, self.working, committed.version.id)
        self.follow()
        self.working = None

    @precondition(lambda self: self.working is not None)
    @rule()
    def discard(self):
        self.store.discard()
        self.working = None

    @precondition(lambda self: self.working is not None)
    @rule()
    def stash(self):
        if not self.store.session.has_uncommitted_changes:
            self.refused(self.store.stash)
            return
        self.store.stash("later")
        newest = self.store.stashes()[0].id
        self.stashes.insert(0, (self.made(newest, self.working, self.base), self.base))
        self.working = None

    @precondition(lambda self: self.working is None and self.listed())
    @rule(data=st.data())
    def pop(self, data):
        number = data.draw(st.integers(0, len(self.listed()) - 1), label="stash")
        stashed, base = self.listed()[number]
        try:
            self.store.pop(number)
        except IcemagicError:  # the same was changed since, or what it was made on expired
            assert self.branches[self.branch] != base or base not in self.alive
            return
        self.stashes.remove((stashed, base))
        if self.branches[self.branch] == base:
            self.working, self.base = self.states[stashed].copy(), base
        else:  # merged, of which test_merge.py has the model
            self.store.discard()

    @rule(changes=CHANGES, data=st.data())
    def somebody_else_commits(self, changes, data):
        free = sorted(self.branches.keys() - ({self.branch} if self.working is not None else set()))
        if not free:
            return
        branch = self.some(data, free, "branch")
        state = self.states[self.branches[branch]].copy()
        other = IcechunkStore.open(self.repo, branch=branch)
        with other.transaction() as txn:
            edit(other, state, changes)
            if other.session.has_uncommitted_changes:
                self.committed(branch, state, txn.commit("theirs").id)

    # branches and tags

    @rule(data=st.data())
    def make_branch(self, data):
        found = self.reachable()
        if found:
            name, at = self.fresh("branch"), self.some(data, found, "at")
            self.store.branch(name, at)
            self.branches[name] = at

    @rule(data=st.data())
    def make_tag(self, data):
        found = self.reachable()
        if found:
            name, at = self.fresh("tag"), self.some(data, found, "at")
            self.store.tag(name, at)
            self.tags[name] = at

    @rule(data=st.data())
    def delete_branch(self, data):
        name = self.some(data, sorted(self.branches), "branch")
        if name in ("main", self.branch):
            self.refused(self.store.delete_branch, name)
            return
        self.store.delete_branch(name)
        self.operations.append(Operation(name, self.branches.pop(name), None, self.tick()))

    @precondition(lambda self: self.working is None)
    @rule(data=st.data())
    def switch(self, data):
        self.branch = self.some(data, sorted(self.branches), "branch")
        self.store.switch(self.branch)
        self.follow()

    # back and forth

    @precondition(lambda self: self.working is None)
    @rule(data=st.data())
    def reset(self, data):
        to = self.some(data, [ROOT, *self.reachable()], "to")
        if to == ROOT or to == self.branches[self.branch] or not self.current():
            if to != ROOT:
                self.refused(self.store.reset, to)
            return
        self.store.reset(to)
        self.moved(self.branch, to)
        self.follow()

    @precondition(lambda self: self.working is None)
    @rule()
    def undo(self):
        made = [one for one in self.operations if one.undone is None and one.counts(self.branch)]
        if not self.current() or not made:
            self.refused(self.store.undo)
            return
        last = max(made, key=lambda one: one.made)
        if last.before not in self.alive:
            self.refused(self.store.undo)
            return
        self.store.undo()
        last.undone = self.tick()
        self.branches[last.branch] = last.before
        self.follow()

    @precondition(lambda self: self.working is None)
    @rule()
    def redo(self):
        newest = max((one.made for one in self.operations if one.counts(self.branch)), default=0)
        undone = [one for one in self.operations if one.undone and one.counts(self.branch) and one.undone > newest]
        if not self.current() or not undone:
            self.refused(self.store.redo)
            return
        last = max(undone, key=lambda one: one.undone)
        deleted_current = last.after is None and last.branch == self.branch
        moved = last.after is None and self.branches.get(last.branch) != last.before
        if deleted_current or moved or (last.after is not None and last.after not in self.alive):
            self.refused(self.store.redo)
            return
        self.store.redo()
        last.undone = None
        if last.after is None:
            del self.branches[last.branch]
        else:
            self.branches[last.branch] = last.after
        self.follow()

    @precondition(lambda self: self.working is None)
    @rule()
    def amend(self):
        if not self.current() or self.head == ROOT:
            self.refused(self.store.amend, "better")
            return
        self.store.amend("better")
        amended, old = self.repo.lookup_branch(self.branch), self.head
        self.moved(self.branch, self.made(amended, self.states[old], self.parents[old]))
        self.cut |= {amended} if old in self.cut else set()
        self.follow()

    @precondition(lambda self: self.working is None)
    @rule()
    def revert(self):
        at = self.branches[self.branch]
        parent = self.parents.get(at)
        self.store.refresh()
        self.follow()
        if parent is None or at in self.cut:
            self.refused(self.store.revert, "HEAD")
            return
        result = self.states[parent].copy()
        self.expect_commit(self.store.revert, "HEAD", result=result, must=result != self.states[at])

    @precondition(lambda self: self.working is None)
    @rule(data=st.data(), kind=st.sampled_from(["everything", "array", "region"]))
    def restore(self, data, kind):
        found = self.reachable()
        if not found:
            return
        at = self.some(data, found, "version")
        then, now = self.states[at], self.states[self.branches[self.branch]]
        if kind == "everything":
            result, arguments = then.copy(), (at,)
        else:
            name = self.some(data, sorted(then.arrays) or ["nothing"], "array")
            if name not in then.arrays:
                self.refused(self.store.restore, at, name)
                return
            result, arguments = now.copy(), (at, name)
            if kind == "array":
                result.arrays[name] = then.arrays[name].copy()
            elif name not in ("x", "y") or name not in now.arrays:
                return
            else:
                last = min(len(then.arrays[name]), len(now.arrays[name])) - 1
                first = data.draw(st.integers(0, last), label="first")
                last = data.draw(st.integers(first, last), label="last")
                result.arrays[name][first : last + 1] = then.arrays[name][first : last + 1]
                arguments = (at, name, {"t": (str(first), str(last))})
        if not consistent(result):
            self.refused(self.store.restore, *arguments)
            return
        self.expect_commit(self.store.restore, *arguments, result=result, must=result != now)

    @rule(data=st.data())
    def rescue(self, data):
        lost = sorted(self.alive - set(self.reachable()) - {ROOT})
        if lost:
            name, at = self.fresh("rescued"), self.some(data, lost, "version")
            self.store.rescue(at, name)
            self.branches[name] = at

    # upkeep

    @rule(keep=st.integers(1, 4))
    def expire(self, keep):
        if self.working is not None:
            with pytest.raises(TransactionError):
                self.store.expire(self.store.plan_expire(keep=keep))
            return
        plan = self.store.plan_expire(keep=keep)
        gone = {version.id for version in (*plan.versions, *plan.unreachable)}
        assert not gone & {*self.branches.values(), *self.tags.values()}
        kept = {one for tip in self.branches.values() for one in self.chain(tip)[:keep]}
        assert not gone & kept
        self.store.expire(plan)
        self.alive -= gone
        for snapshot_id in self.alive - {ROOT}:
            if self.parents[snapshot_id] in gone:
                self.parents[snapshot_id] = ROOT
                self.cut.add(snapshot_id)
        self.follow()

    @rule()
    def collect(self):
        now = datetime.now(UTC) + timedelta(seconds=1)
        if self.working is not None:
            with pytest.raises(TransactionError):
                self.store.plan_collect(before=now, recent=True)
            return
        plan = self.store.plan_collect(before=now, recent=True)
        lost = self.alive - set(self.reachable()) - {ROOT}
        assert {version.id for version in (*plan.versions, *plan.stashes)} == lost
        self.store.collect(plan)
        self.alive -= lost

    # what must hold after every step

    @invariant()
    def every_reachable_version_is_as_it_was_made(self):
        if not hasattr(self, "repo"):
            return
        assert {name: self.repo.lookup_branch(name) for name in self.repo.list_branches()} == self.branches
        assert {name: self.repo.lookup_tag(name) for name in self.repo.list_tags()} == self.tags
        for tip in {*self.branches.values(), *self.tags.values()}:
            line = [info.id for info in self.repo.ancestry(snapshot_id=tip)]
            assert [one for one in line if one != ROOT] == self.chain(tip)
        for snapshot_id in {*self.reachable(), *(stashed for stashed, _ in self.listed())}:
            assert read(self.repo, snapshot_id) == self.states[snapshot_id]

    @invariant()
    def the_store_shows_what_it_stands_on(self):
        if not hasattr(self, "repo"):
            return
        assert self.store.current_branch == self.branch
        assert [version.id for version in self.store.stashes()] == [stashed for stashed, _ in self.listed()]
        if self.working is not None:
            assert sync(_read(self.store)) == self.working
        elif self.head in self.alive:
            assert sync(_read(self.store)) == self.states[self.head]


Machine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestEveryVersionEqualsTheModelAfterEveryStep = Machine.TestCase
