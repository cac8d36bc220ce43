"""What two branches changed is merged value by value, or refused at exactly the places that a plain model says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr
from hypothesis import event, given, settings
from hypothesis import strategies as st

from icemagic import IcechunkStore
from icemagic.errors import ConflictError, GuardError
from icemagic.mergeplan import Choices
from icemagic.merging import of_version

ROWS, COLUMNS = 5, 3
EXAMPLES = 60

# -- the model: whole arrays, one value at a time ----------------------------------------------------------------------


@dataclass
class Held:
    """An array as it is read."""

    values: np.ndarray
    dims: tuple[str | None, ...]
    form: tuple[Any, ...]
    fill: Any
    attributes: dict[str, Any] = field(default_factory=dict)

    def at(self, place: tuple[int, ...]) -> Any:
        """Return a value in a form that compares bit by bit, or None beyond the shape."""
        if any(index >= length for index, length in zip(place, self.values.shape, strict=True)):
            return None
        return bits(self.values[place])


State = dict[str, Held | dict[str, Any]]
"""Arrays by name, and the attributes of the root under an empty name."""


def bits(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.generic) else value


def read(store: Any) -> State:
    root = zarr.open_group(store, mode="r")
    found: State = {"": dict(root.attrs)}
    for name, array in root.arrays():
        dims = array.metadata.dimension_names or (None,) * array.ndim
        form = (str(array.dtype), array.chunks, dims)
        found[name] = Held(np.asarray(array[...]), tuple(dims), form, array.fill_value, dict(array.attrs))
    return found


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)


def alike(a: Held | None, b: Held | None) -> bool:
    if not isinstance(a, Held) or not isinstance(b, Held):
        return a == b
    if (a.form, a.attributes, a.values.shape) != (b.form, b.attributes, b.values.shape):
        return False
    return all(a.at(place) == b.at(place) for place in np.ndindex(a.values.shape))


class Model:
    """A three-way merge of whole arrays, value by value; one side wins in all conflicts.

    ``t`` is a dimension with a coordinate, ``s`` one without, which only ``x`` has; ``free`` has one without a name.
    """

    def __init__(self, base: State, ours: State, theirs: State, side: str) -> None:
        self.states = (base, ours, theirs)
        self.side = side
        self.conflicts: Counter[str] = Counter()
        """Name of an array or dimension to how many things are in conflict there."""
        self.unsolvable = False
        """Whether no side can win in all conflicts."""
        self.rows = {"t": self.rows_of("t", "t"), **({"s": self.rows_of("s", "x")} if self.has("x") else {})}
        self.state: State = {"": self.attributes("/", *self.three(""))}
        for name in sorted(set().union(*self.states) - {""}):
            if (found := self.array(name, *self.three(name))) is not None:
                self.state[name] = found

        self.lengths = {
            array.values.shape[0] for array in self.state.values() if isinstance(array, Held) and "t" in array.dims
        }
        """How long the dimension ``t`` is; with several lengths there the group does not decode."""

    def three(self, name: str) -> tuple[Any, Any, Any]:
        return tuple(state.get(name) for state in self.states)

    def has(self, name: str) -> bool:
        return all(name in state for state in self.states)

    def attributes(self, name: str, *sides: dict[str, Any]) -> dict[str, Any]:
        merged = {}
        for key in set().union(*sides):
            x, y, z = (side.get(key) for side in sides)
            clash = x not in (y, z) and y != z
            self.conflicts[name] += clash
            value = (y if self.side == "ours" else z) if clash else z if y == x else y
            merged |= {key: value} if value is not None else {}
        return merged

    def rows_of(self, dim: str | None, name: str) -> tuple[int, set[int]]:
        """Return the merged length of a dimension, and the rows that come from one side as a whole."""
        arrays = self.three(name)
        axis = arrays[0].dims.index(dim)
        a, b, c = lengths = [array.values.shape[axis] for array in arrays]

        def label(side: int, row: int) -> Any:
            return None if row >= lengths[side] else arrays[side].at((row,)) if dim == "t" else "some"

        unknown = bits(fill_of(arrays[0])) if dim == "t" else "some"
        conflict = any(label(1, row) != label(2, row) or label(1, row) == unknown for row in range(a, min(b, c)))
        conflict |= min(b, c) < a < max(b, c)
        mine, others = ({row for row in range(a) if label(side, row) != label(0, row)} for side in (1, 2))
        conflict |= any(label(1, row) != label(2, row) for row in mine & others)
        names = [name] if dim is None else sorted(set().union(*self.states) - {"", *("t" * (dim == "t"))})
        for rows, other in ((mine - others, 2), (others - mine, 1)):
            conflict |= any(self.wrote(one, dim, rows, other) for one in names)
        self.conflicts[name if dim is None else dim] += conflict
        if conflict:
            return (b if self.side == "ours" else c), mine | others | set(range(a, max(b, c)))
        return (c if b == a else b if c == a else min(b, c) if b < a else max(b, c)), set()

    def wrote(self, name: str, dim: str | None, rows: set[int], side: int) -> bool:
        """Whether a side changed a value of an array in some rows that base has."""
        before, after = self.states[0].get(name), self.states[side].get(name)
        if after is None or dim not in after.dims or not rows:
            return False
        if before is None or before.form != after.form:
            return True
        axis, fill = after.dims.index(dim), bits(fill_of(after))
        places = (place for place in np.ndindex(after.values.shape) if place[axis] in rows)
        return any(after.at(place) != (fill if before.at(place) is None else before.at(place)) for place in places)

    def array(self, name: str, a: Held | None, b: Held | None, c: Held | None) -> Held | None:
        some = b or c or a
        assert some is not None
        free = some.dims == (None,) and self.has(name)
        rows = [self.rows_of(None, name)] if free else [self.rows[dim] for dim in some.dims if dim in self.rows]
        we, they = not alike(a, b), not alike(a, c)
        if alike(b, c):
            return b
        if b is None or c is None or b.form != c.form:
            return self.whole(name, (a, b, c), we=we, they=they, rows=rows)
        if not (we and they) and not any(decided for _, decided in rows):
            return c if they else b
        return self.merged(name, (a, b, c), rows)

    def whole(
        self, name: str, three: tuple[Any, ...], *, we: bool, they: bool, rows: list[tuple[int, set[int]]]
    ) -> Any:
        a, b, c = three
        self.conflicts[name] += we and they
        origin = "theirs" if they and (not we or self.side == "theirs") else "ours"
        found, other = (c, b) if origin == "theirs" else (b, c)
        if found is None:
            return None
        stranded = sum(bool(decided) and self.side != origin for _, decided in rows)
        self.conflicts[name] += stranded
        self.unsolvable |= bool(stranded)
        shape = [
            max(length, now) if a is None and other is None and not decided else now
            for now, (length, decided) in zip_longest(found.values.shape, rows, fillvalue=(0, {0}))
        ]
        values = np.full(shape, fill_of(found), found.values.dtype)
        values[tuple(map(slice, found.values.shape))] = found.values
        return replace(found, values=values)

    def merged(self, name: str, three: tuple[Any, ...], rows: list[tuple[int, set[int]]]) -> Held:
        base, ours, theirs = three
        attributes = self.attributes(name, *(array.attributes if array else {} for array in three))
        if base is not None and base.form != ours.form:  # made anew in the same way on both sides
            base = None
        values = np.full([length for length, _ in rows], fill_of(ours), ours.values.dtype)
        for place in np.ndindex(values.shape):
            x, y, z = (array.at(place) if array else None for array in (base, ours, theirs))
            side = self.side
            if all(index not in decided for index, (_, decided) in zip(place, rows, strict=True)):
                clash = None not in (y, z) and y != z and x not in (y, z)
                self.conflicts[name] += clash
                if not clash:
                    side = "theirs" if y is None or (z is not None and y == x) else "ours"
            source = theirs if side == "theirs" else ours
            if source.at(place) is not None:
                values[place] = source.values[place]
        return replace(ours, values=values, attributes=attributes)


def fill_of(array: Held) -> Any:
    return np.full((), array.fill, array.values.dtype)[()]


# -- two branches ------------------------------------------------------------------------------------------------------

VALUES: dict[str, list[Any]] = {
    "float32": [0.0, -0.0, 1.5, np.nan, np.inf],
    "int16": [0, 1, -2, 3],
    "bool": [False, True],
    "string": ["", "a", "ångström"],
    "U3": ["", "a", "bcd"],
    "complex128": [0j, complex("nan"), 1 + 2j],
    "datetime64[s]": [np.datetime64(0, "s"), np.datetime64("NaT", "s"), np.datetime64(5, "s")],
}
FILLS = {"float32": np.nan, "int16": 0, "bool": False, "string": "", "U3": "", "complex128": 0j}


@dataclass(frozen=True)
class Layout:
    """How the arrays of one example are stored."""

    dtype: str
    chunks: tuple[int, int]
    shards: bool
    fill: bool


layouts = st.builds(
    Layout,
    st.sampled_from(sorted(VALUES)),
    st.tuples(st.integers(1, 6), st.integers(1, 4)),
    st.booleans(),
    st.booleans(),
)


def make(root: zarr.Group, name: str, shape: tuple[int, ...], layout: Layout, **form: Any) -> zarr.Array:
    dims = {"t": ("t",), "x": ("t", "s"), "free": None}.get(name, ("t",))
    chunks = form.pop("chunks", layout.chunks[: len(shape)])
    dtype = "int32" if name == "t" else layout.dtype
    fill = -1 if name == "t" else FILLS.get(dtype, 0)
    if layout.shards and name == "x":
        form["shards"] = tuple(2 * chunk for chunk in chunks)
    return root.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, dimension_names=dims, compressors=None, **form
    )


def drawn(random: np.random.Generator, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    values = np.array(VALUES[layout.dtype], dtype="T" if layout.dtype == "string" else layout.dtype)
    return values[random.integers(0, len(values), shape)]


def start(layout: Layout, seed: int) -> IcechunkStore:
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), config=config)
    session = repo.writable_session("main")
    root, random = zarr.open_group(session.store), np.random.default_rng(seed)
    make(root, "t", (ROWS,), layout)[:] = np.arange(ROWS)
    for name, shape in (("x", (ROWS, COLUMNS)), ("y", (ROWS,)), ("free", (ROWS,))):
        array = make(root, name, shape, layout, attributes={"k0": 0})
        if not layout.fill:
            array[...] = drawn(random, layout, shape)
    repo.create_branch("dev", session.commit("start"))
    return IcechunkStore.open(repo)


STEPS = ["write"] * 6 + ["append"] * 2 + ["attribute"] * 2 + [
    "cut", "relabel", "widen", "root", "delete", "rechunk", "new", "free"
]  # fmt: skip
steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), min_size=1, max_size=3)


def change(store: IcechunkStore, branch: str, doing: list[tuple[str, int]], layout: Layout) -> None:
    """Commit some steps to a branch; the same step with the same number does the same on either branch."""
    session = store.repo.writable_session(branch)
    root = zarr.open_group(session.store)
    for step, number in doing:
        random = np.random.default_rng(number)
        DO[step](root, random, layout, number)
    session.commit(branch, allow_empty=True)


def pick(root: zarr.Group, number: int) -> zarr.Array | None:
    name = ("x", "x", "y", "free")[number % 4]
    return root.get(name)


def write(root: zarr.Group, random: np.random.Generator, layout: Layout, number: int) -> None:
    array = pick(root, number)
    if array is not None:
        part = tuple(slice(begin := int(random.integers(0, size)), begin + 2) for size in array.shape)
        array[part] = drawn(random, layout, array[part].shape)


def append(root: zarr.Group, random: np.random.Generator, layout: Layout, number: int) -> None:
    old, more = root["t"].shape[0], 1 + number % 3
    for name, array in list(root.arrays()):
        if name != "free":
            array.resize((old + more, *array.shape[1:]))
            labels = old + np.arange(more) + 10 * (number // 4)
            array[old:] = labels if name == "t" else drawn(random, layout, (more, *array.shape[1:]))


def cut(root: zarr.Group, _: Any, layout: Layout, number: int) -> None:
    for name, array in list(root.arrays()):
        if name != "free":
            array.resize((max(1, array.shape[0] - 1 - number % 2), *array.shape[1:]))


def widen(root: zarr.Group, random: np.random.Generator, layout: Layout, number: int) -> None:
    if "x" not in root:
        return
    array = root["x"]
    rows, old = array.shape
    array.resize((rows, old + 1))
    if number % 2:
        array[:, old:] = drawn(random, layout, (rows, 1))


def relabel(root: zarr.Group, _: Any, layout: Layout, number: int) -> None:
    root["t"][number % root["t"].shape[0]] = 50 + number // 4


def attribute(root: zarr.Group, _: Any, layout: Layout, number: int) -> None:
    array = pick(root, number // 2)
    if array is not None:
        attributes = dict(array.attrs) | {f"k{number % 2}": number // 3}
        if number == 7:
            attributes.pop("k1")
        array.attrs.put(attributes)


def delete(root: zarr.Group, _: Any, layout: Layout, number: int) -> None:
    name = ("y", "free", "x", "y")[number % 4]
    if name in root:
        del root[name]


def rechunk(root: zarr.Group, _: Any, layout: Layout, number: int) -> None:
    array = pick(root, number)
    if array is not None:
        values, attributes = array[...], dict(array.attrs)
        del root[array.basename]
        chunks = tuple(7 for _ in values.shape)
        make(root, array.basename, values.shape, replace(layout, shards=False), chunks=chunks, attributes=attributes)[
            ...
        ] = values


def new(root: zarr.Group, random: np.random.Generator, layout: Layout, number: int) -> None:
    name = f"n{number % 2}"
    if name not in root:
        shape = root["t"].shape
        make(root, name, shape, layout, attributes={f"k{number}": 1})[...] = drawn(random, layout, shape)


def free(root: zarr.Group, random: np.random.Generator, layout: Layout, number: int) -> None:
    if "free" in root:
        array, more = root["free"], 1 + number % 2
        if number > 5:
            array.resize((max(1, array.shape[0] - more),))
        else:
            array.append(drawn(random, layout, (more,)))


DO = {
    "write": write, "append": append, "cut": cut, "widen": widen, "relabel": relabel, "attribute": attribute,
    "root": lambda root, _, __, number: root.attrs.update({f"k{number % 2}": number // 4}),
    "delete": delete, "rechunk": rechunk, "new": new, "free": free,
}  # fmt: skip


def at(store: IcechunkStore, branch: str) -> State:
    return read(store.repo.readonly_session(branch).store)


def found_conflicts(store: IcechunkStore, choices: Choices) -> Counter[str]:
    tips = [store.repo.lookup_branch(branch) for branch in ("main", "dev")]
    found: Counter[str] = Counter()
    for conflict in of_version(store.repo, "main", *tips, of="dev", choices=choices).plan.conflicts:
        found[conflict.name] += int(conflict.kind.split()[0].replace(",", "")) if "value" in conflict.kind else 1
    return found


@given(layout=layouts, seed=st.integers(0, 3), mine=steps, others=steps)
@settings(max_examples=EXAMPLES, deadline=None)
def test_two_branches_are_merged_or_refused_as_the_model_says(
    layout: Layout, seed: int, mine: list[tuple[str, int]], others: list[tuple[str, int]]
):
    store = start(layout, seed)
    base = at(store, "main")
    change(store, "main", mine, layout)
    change(store, "dev", others, layout)
    ours, theirs = at(store, "main"), at(store, "dev")
    models = {side: Model(base, ours, theirs, side) for side in ("ours", "theirs")}
    conflicts = +models["ours"].conflicts
    event(f"{'conflict' if conflicts else 'merged'}")
    for side, model in models.items():
        assert found_conflicts(store, Choices(side)) == +model.conflicts, side
    for branch in ("plain", "by ours", "by theirs", "back"):
        store.repo.create_branch(branch, store.repo.lookup_branch("dev" if branch == "back" else "main"))
    for branch, choice in (("plain", None), ("by ours", "ours"), ("by theirs", "theirs")):
        store.switch(branch)
        model = models[choice or "ours"]
        refused = bool(conflicts) if choice is None else model.unsolvable
        before = store.repo.lookup_branch(branch)
        if refused or len(model.lengths) > 1:
            with pytest.raises(ConflictError if refused else GuardError):
                store.merge("dev", choice=choice)
            assert store.repo.lookup_branch(branch) == before
        else:
            store.merge("dev", choice=choice)
            assert same(at(store, branch), model.state), branch
            assert "already up to date" in str(store.merge("dev"))
    if not conflicts and len(models["ours"].lengths) == 1:
        store.switch("back")
        store.merge("main")
        assert same(at(store, "back"), at(store, "plain"))
