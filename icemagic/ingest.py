"""Make any epoch x sid dataset ready to be written to a store, and appended to what is there.

Four habits of xarray 2026.9 decide the rules here, because each of them loses data without an error:

- An append encodes epochs in the units that are stored already. Into ``seconds since ...`` it writes nanosecond counts
  when a batch has sub-second epochs, and a coarser datetime than the stored unit becomes NaT. So every time is
  ``datetime64[ns]`` and stored as ``nanoseconds since 1970-01-01``, in which all of them are exact.
- An append writes the batch's ``sid`` over the stored one, and the data by position. So ``sid`` is aligned first.
- An append casts to the stored dtype. So a batch that would be rounded is refused.
- A ``<U8`` array takes no longer label later. So strings become ``object`` arrays, which Zarr v3 stores at any length.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from zarr.errors import GroupNotFoundError

from icemagic.config import Config, load_config
from icemagic.display import Lines, Report, Shown, Table, count
from icemagic.errors import DatasetError
from icemagic.layout import chunks_for

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from zarr.storage import StoreLike

TIME_ENCODING = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}
"""The one encoding of datetimes in which every ``datetime64[ns]`` is exact, whatever is appended later."""
DURATION_ENCODING = {"units": "nanoseconds", "dtype": "int64"}
FEW = 5
"""How many of many an error names."""


@dataclass(frozen=True, repr=False)
class Prepared(Shown):
    """What `preprocess_dataset` made of a dataset.

    Attributes
    ----------
    kind : str
        Kind of store that it was prepared for; it picked the chunks.
    epochs, sids : int
        Sizes of the result.
    chunks : Mapping[str, tuple[int, ...]]
        Zarr chunks of each variable.
    changes : tuple of str
        What was changed or is worth knowing, one sentence each.
    """

    kind: str
    epochs: int
    sids: int
    chunks: Mapping[str, tuple[int, ...]]
    changes: tuple[str, ...]

    def _report(self) -> Report:
        rows = tuple((name, " × ".join(map(str, chunks))) for name, chunks in self.chunks.items())
        return Report(
            f"Prepared for {self.kind}: {self.epochs:,} epochs × {count(self.sids, 'sid')}",
            (Lines(self.changes or ("nothing had to be changed",)), Table(("variable", "chunks"), rows)),
        )


@xr.register_dataset_accessor("ice")  # type: ignore[no-untyped-call]  # xarray does not annotate it
class IceAccessor:
    """What icemagic knows about a dataset.

    xarray keeps one accessor per dataset object and gives a copy a new one, so the record can never be read off a
    dataset that was made from a prepared one by other means; `Dataset.encoding` would survive ``isel``.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        del ds  # xarray passes it; the record says it all, and a reference would be a cycle
        self._prepared: Prepared | None = None

    @property
    def prepared(self) -> Prepared:
        """Return the record of what `preprocess_dataset` changed.

        Raises
        ------
        DatasetError
            If this very object does not come from `preprocess_dataset`.
        """
        if self._prepared is None:
            raise DatasetError(
                "There is no record: this object is not what preprocess_dataset returned.",
                "Keep what it returns: ds = preprocess_dataset(raw); ds.ice.prepared",
            )
        return self._prepared

    def remember(self, prepared: Prepared) -> None:
        """Keep the record of what was changed."""
        self._prepared = prepared


def preprocess_dataset(
    ds: xr.Dataset,
    kind: str = "rinex",
    *,
    sid: Iterable[str] | None = None,
    store: StoreLike | None = None,
    group: str | None = None,
    config: Config | None = None,
) -> xr.Dataset:
    """Make a dataset over (epoch, sid) ready for ``ds.to_zarr(store, mode="a")`` or ``append_dim="epoch"``.

    Epochs become sorted and unique: a row that repeats an epoch with the same values is dropped, one with other values
    is an error. `sid` is aligned to the given index, or to the one stored at `group`: signals that the data lack are
    padded with NaN (strings with ``""``, times with NaT). Encodings from the source file are dropped, strings and times
    made storable, chunks set. Nothing is loaded that needs no change; dask arrays of numbers stay lazy and are
    rechunked to whole Zarr chunks. ``result.ice.prepared`` says what was done. The input is not modified.

    Parameters
    ----------
    ds : xarray.Dataset
        Any variables; dimensions `epoch` (datetime64) and `sid` (strings) with labels. Other dimensions pass through.
    kind : str
        Kind of store (``"rinex"``, ``"vod"``); picks the chunk strategy of the configuration.
    sid : iterable of str, optional
        The signals that the store is to have, in their order.
    store : zarr store, optional
        The store that will be written; by default the one whose transaction is open here, if any.
    group : str, optional
        Group in that store; by default the root.
    config : Config, optional
        Settings; by default those of `load_config`.

    Raises
    ------
    DatasetError
        If something in the dataset would be lost, or cannot be stored.
    """
    _check(ds)
    notes: list[str] = []
    stored = _stored(store, group)
    out = _storable(ds, notes)
    out = _sorted_unique(out, notes)
    index = _index(sid, stored, group)
    if index is not None:
        out = _aligned(out, index, stored, notes)
    if stored is not None:
        _check_fits(out, stored)
        _note_overlap(out, stored, notes)
    sizes = {str(dim): size for dim, size in out.sizes.items()}
    chunks = _set_chunks(out, chunks_for(kind, sizes, config or load_config()), stored)
    out.ice.remember(Prepared(kind, sizes["epoch"], sizes["sid"], chunks, tuple(notes)))
    return out


def _check(ds: object) -> None:
    """Refuse what is not a dataset over labelled epochs and signals."""
    if isinstance(ds, xr.DataArray):
        msg = f"preprocess_dataset takes a Dataset; this is the DataArray {ds.name!r}."
        raise DatasetError(msg, f"Use array.to_dataset(name={'SNR' if ds.name is None else str(ds.name)!r}).")
    if not isinstance(ds, xr.Dataset):
        msg = f"preprocess_dataset takes an xarray.Dataset, not {type(ds).__name__}."
        raise DatasetError(msg, "Open a file with xr.open_dataset(path).")
    for dim in ("epoch", "sid"):
        if dim not in ds.dims:
            msg = f"The dataset has no dimension {dim!r}; it has {', '.join(map(repr, ds.dims)) or 'none'}."
            raise DatasetError(msg, f'Use ds.rename(NAME="{dim}") or ds.expand_dims("{dim}").')
        if dim not in ds.coords:
            raise DatasetError(f"The dimension {dim!r} has no labels.", f"Use ds.assign_coords({dim}=...).")
        if ds.sizes[dim] == 0:
            raise DatasetError(f"The dataset is empty: {dim!r} has length 0.", "There is nothing to write.")
    if not ds.data_vars:
        raise DatasetError("The dataset has no data variables.", "There is nothing to write.")
    for dim, labels in ds.indexes.items():
        if isinstance(labels, pd.MultiIndex):
            raise DatasetError(f"{dim!r} is a MultiIndex, which Zarr cannot hold.", f"Use ds.reset_index({dim!r}).")


def _storable(ds: xr.Dataset, notes: list[str]) -> xr.Dataset:
    """Return the dataset without encodings, its strings as objects and its times in nanoseconds."""
    variables: dict[Hashable, xr.Variable] = {}
    dropped: set[str] = set(ds.encoding)
    for name, variable in ds.variables.items():
        dropped |= set(variable.encoding)
        # A pandas dtype (strings, categories, times with a zone) has a `kind` too, but only NumPy's means what it says.
        dtype_kind = variable.dtype.kind if isinstance(variable.dtype, np.dtype) else "O"
        if dtype_kind in "mM":
            variables[name] = _nanoseconds(name, variable, notes)
        elif dtype_kind in "SUTO" and name != "epoch":
            variables[name] = _text(name, variable)
        else:
            variables[name] = variable.to_base_variable().copy(deep=False)
            variables[name].encoding = {}
    _check_epoch(variables["epoch"])
    _check_sid(variables["sid"])
    if dropped:
        notes.append(f"encodings of the source dropped: {_few(sorted(dropped))}")
    return _rebuilt(ds, variables)


def _nanoseconds(name: Hashable, variable: xr.Variable, notes: list[str]) -> xr.Variable:
    """Return times or durations as nanoseconds, with the encoding in which all of them are exact."""
    dtype = np.dtype(f"{variable.dtype.kind}8[ns]")
    out = variable.to_base_variable().copy(deep=False)
    if out.dtype != dtype:
        values = np.asarray(out.values)
        try:
            converted = values.astype(dtype)
            # An older NumPy wraps around where a newer one raises.
            fits = bool(_same(converted.astype(values.dtype), values).all())
        except OverflowError:
            fits = False
        if not fits:
            msg = f"{name!r} holds times that {dtype} cannot: {values.min()} to {values.max()}."
            raise DatasetError(msg, "Times must lie between 1677-09-22 and 2262-04-11.")
        out = xr.Variable(out.dims, converted, out.attrs)
    # xarray refuses to write a variable that has its encoding in its attributes as well.
    clash = [key for key in TIME_ENCODING if key in out.attrs]
    if clash:
        notes.append(f"{name}: attributes {', '.join(clash)} dropped; the encoding of times has them")
        out.attrs = {key: value for key, value in out.attrs.items() if key not in clash}
    out.encoding = dict(TIME_ENCODING if variable.dtype.kind == "M" else DURATION_ENCODING)
    return out


def _text(name: Hashable, variable: xr.Variable) -> xr.Variable:
    """Return strings of any kind as an object array of `str`, which Zarr v3 stores at any length."""
    values = np.asarray(variable.values)  # of a dask array too: xarray loads objects, and warns, when it writes them
    try:
        values = (values.astype(str) if values.dtype.kind == "S" else values).astype(object)
    except UnicodeDecodeError:
        msg = f"{name!r} holds bytes that are not ASCII."
        raise DatasetError(msg, f'Decode them first: ds["{name}"].str.decode("utf-8").') from None
    odd = next((value for value in values.flat if not isinstance(value, str)), None)
    if odd is not None:
        msg = f"{name!r} should hold strings, but has {odd!r} ({type(odd).__name__})."
        raise DatasetError(msg, 'Give missing strings as "", or convert the variable to numbers.')
    return xr.Variable(variable.dims, values, variable.attrs)


def _check_epoch(epoch: xr.Variable) -> None:
    if not (isinstance(epoch.dtype, np.dtype) and epoch.dtype.kind == "M"):
        msg = f"'epoch' must be datetime64 without time zone; it is {epoch.dtype}."
        raise DatasetError(
            msg, 'Use ds.assign_coords(epoch=pd.to_datetime(ds.indexes["epoch"], utc=True).tz_localize(None)).'
        )
    missing = int(np.isnat(epoch.values).sum())
    if missing:
        msg = f"{missing} of {epoch.size} epochs are NaT."
        raise DatasetError(msg, "Use ds.isel(epoch=ds.epoch.notnull()).")


def _check_sid(sid: xr.Variable) -> None:
    if sid.dtype != object:
        msg = f"'sid' must hold strings such as 'G01|L1|C'; it holds {sid.dtype}."
        raise DatasetError(msg, "Use ds.assign_coords(sid=[...]) with one string for each signal.")
    _labels(sid.values, "the dataset")


def _labels(sid: Iterable[object], where: str) -> list[str]:
    """Return the signals as a list of unique strings."""
    if isinstance(sid, str):
        raise DatasetError(f"sid={sid!r} is one string.", f"Give a list: sid=[{sid!r}].")
    labels = np.asarray(sid).tolist() if isinstance(sid, xr.DataArray | xr.Variable) else list(sid)
    odd = [label for label in labels if not isinstance(label, str)]
    if odd:
        raise DatasetError(f"'sid' of {where} has {odd[0]!r}, which is not a string.", "Signals look like 'G01|L1|C'.")
    twice = [label for label, times in Counter(labels).items() if times > 1]
    if twice:
        msg = f"'sid' of {where} has {_few(twice)} more than once."
        raise DatasetError(msg, 'ds.drop_duplicates("sid") keeps the first of each.')
    return [str(label) for label in labels]


def _sorted_unique(ds: xr.Dataset, notes: list[str]) -> xr.Dataset:
    """Return the dataset with epochs in order, each once."""
    epochs = ds["epoch"].values
    if (epochs[1:] > epochs[:-1]).all():
        return ds
    order = np.argsort(epochs, kind="stable")
    ordered = epochs[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    repeats = order[~first]
    if repeats.size:
        originals = order[first][np.cumsum(first)[~first] - 1]
        _check_repeats(ds, repeats, originals)
        notes.append(f"{count(repeats.size, 'row')} dropped that repeated an epoch with the same values")
    if (epochs[1:] < epochs[:-1]).any():
        notes.append("epochs sorted")
    return ds.isel(epoch=order[first])


def _check_repeats(ds: xr.Dataset, repeats: NDArray[np.intp], originals: NDArray[np.intp]) -> None:
    """Refuse rows that repeat an epoch with other values; which of them is right only their owner can say.

    A value beside a NaN counts as other: taking the value would be a guess that both rows are one measurement.
    """
    conflict = np.zeros(repeats.size, dtype=bool)
    names = []
    for name, variable in ds.variables.items():
        if "epoch" in variable.dims:
            rows = [variable.isel(epoch=at).transpose("epoch", ...).values for at in (repeats, originals)]
            differs = ~_same(*rows).reshape(repeats.size, -1).all(axis=1)
            names += [str(name)] if differs.any() else []
            conflict |= differs
    if conflict.any():
        epochs = np.unique(ds["epoch"].values[repeats[conflict]])
        msg = f"Epochs come more than once with different {', '.join(names)}: {_few(epochs)}."
        hint = 'ds.drop_duplicates("epoch") keeps the first rows; ds.groupby("epoch").first() the first values not NaN.'
        raise DatasetError(msg, hint)


def _stored(store: StoreLike | None, group: str | None) -> xr.Dataset | None:
    """Return what is stored in the group, lazily and without indexes, or None where no such group is."""
    if store is None:
        from icemagic.transaction import active_store

        store = active_store()
    if store is None:
        return None
    try:
        zarr.open_group(store, path=group, mode="r", use_consolidated=False)
    except GroupNotFoundError:
        return None
    stored = xr.open_zarr(store, group=group, chunks=None, consolidated=False, create_default_indexes=False)
    return stored if stored.variables else None


def _index(sid: Iterable[str] | None, stored: xr.Dataset | None, group: str | None) -> list[str] | None:
    """Return the signals to align to: those given or stored; both must be the same."""
    given = None if sid is None else _labels(sid, "the argument")
    if stored is None or "sid" not in stored.variables:
        return given
    known = _labels(stored["sid"].values, "the store")
    if given is not None and given != known:
        where = group or "the root group"
        msg = f"The given sid ({len(given)} signals) is not the one stored in {where} ({len(known)})."
        hint = "Leave out sid= to use the stored one; to replace the group, prepare the dataset before the transaction."
        raise DatasetError(msg, hint)
    return known


def _aligned(ds: xr.Dataset, index: list[str], stored: xr.Dataset | None, notes: list[str]) -> xr.Dataset:
    """Return the dataset with exactly the signals of the index, in its order."""
    labels = ds["sid"].values.tolist()
    if labels == index:
        return ds
    position = {label: at for at, label in enumerate(index)}
    unknown = [label for label in labels if label not in position]
    if unknown:
        msg = f"{count(len(unknown), 'signal')} of the dataset are not in the index of {len(index)}: {_few(unknown)}."
        hint = "Begin the store with all signals (sid=[...] at the first write), or choose with ds.sel(sid=...)."
        raise DatasetError(msg, hint)
    positions = np.array([position[label] for label in labels])
    if (np.diff(positions) < 0).any():
        notes.append("sid put in the order of the index")
    absent = len(index) - len(labels)
    if not absent:
        return ds.isel(sid=np.argsort(positions))
    notes.append(f"sid padded from {len(labels)} to {len(index)}")
    take = np.full(len(index), len(labels))
    take[positions] = np.arange(len(labels))
    variables = {
        name: _padded(name, variable, take, _kept(name, variable, stored))
        for name, variable in ds.variables.items()
        if name != "sid"
    }
    variables["sid"] = xr.Variable("sid", np.array(index, dtype=object), ds["sid"].attrs)
    return _rebuilt(ds, variables)


def _kept(name: Hashable, variable: xr.Variable, stored: xr.Dataset | None) -> xr.Variable | None:
    """Return the stored values of a variable that describes signals, not epochs: a write replaces all of them."""
    if stored is None or name not in stored.variables or variable.dims != ("sid",):
        return None
    return xr.Variable("sid", stored[name].values.astype(variable.dtype))


def _padded(name: Hashable, variable: xr.Variable, take: NDArray[np.intp], kept: xr.Variable | None) -> xr.Variable:
    """Return the variable with its signals taken from the given places, where the place after the last is absent."""
    if "sid" not in variable.dims:
        return variable
    absent = take == variable.sizes["sid"]
    kind = variable.dtype.kind
    if kept is not None:
        out = kept.copy()
        out[~absent] = variable[take[~absent]]
        out.attrs = variable.attrs
    elif kind in "iub":
        msg = f"{name!r} ({variable.dtype}) cannot hold NaN for the {count(int(absent.sum()), 'absent signal')}."
        raise DatasetError(msg, f'Convert it first: ds["{name}"] = ds["{name}"].astype("float64").')
    else:
        # A fill of the variable's own dtype: xarray would make float64 of a float32 here.
        fill = "" if kind == "O" else np.full((), "NaT" if kind in "mM" else np.nan, dtype=variable.dtype)[()]
        out = variable.pad(sid=(0, 1), mode="constant", constant_values=cast("float", fill)).isel(sid=take)
    out.encoding = variable.encoding
    return out


def _check_fits(ds: xr.Dataset, stored: xr.Dataset) -> None:
    """Refuse values that the stored arrays, whose dtypes and time units stay as they are, would round."""
    for name, variable in ds.variables.items():
        if name not in stored.variables:
            continue
        there = stored.variables[name]
        if variable.dtype.kind in "mM":
            fits = _exact(variable, there.encoding)
        elif variable.dtype.kind in "iufc" and there.dtype.kind in "iufc":
            fits = np.can_cast(variable.dtype, there.dtype)
        else:
            fits = True
        if not fits:
            what = there.encoding.get("units", there.dtype)
            msg = f"{name!r} ({variable.dtype}) would be rounded: the store holds it as {what}."
            raise DatasetError(msg, f'Convert it first: ds["{name}"].astype(...), or write a new group.')


def _exact(variable: xr.Variable, encoding: Mapping[Any, Any]) -> bool:
    """Tell whether times survive the encoding of the store; xarray changes the units where they do not."""
    units = encoding.get("units")
    if (units, encoding.get("dtype")) in (("nanoseconds since 1970-01-01", "int64"), ("nanoseconds", "int64")):
        return True
    trial = xr.Variable(variable.dims, variable.values)
    trial.encoding = {key: encoding[key] for key in TIME_ENCODING if key in encoding}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoded = xr.conventions.encode_cf_variable(trial)
        decoded = xr.conventions.decode_cf_variable("trial", encoded)
    return bool(encoded.attrs.get("units") == units and _same(decoded.values, variable.values).all())


def _note_overlap(ds: xr.Dataset, stored: xr.Dataset, notes: list[str]) -> None:
    """Say how many epochs are stored already, which an append would store twice."""
    if "epoch" not in stored.variables or not stored.sizes["epoch"]:
        return
    epochs, last = ds["epoch"].values, stored["epoch"][-1].values
    # The rule is an append after the last epoch, and that one read decides it.
    if epochs[0] > last:
        return
    twice = int(np.isin(epochs, stored["epoch"].values).sum())
    notes.append(f"{twice:,} of the epochs are stored already; an append belongs after {last}")


def _set_chunks(ds: xr.Dataset, lengths: Mapping[str, int], stored: xr.Dataset | None) -> dict[str, tuple[int, ...]]:
    """Set and return the Zarr chunks of every variable; those of a stored array stay."""
    chunks = {}
    for name, variable in ds.variables.items():
        if not variable.dims:
            continue
        shape = tuple(lengths[str(dim)] for dim in variable.dims)
        done = 0
        if stored is not None and name in stored.variables and stored[name].dims == variable.dims:
            shape = stored[name].encoding["chunks"]
            done = stored.sizes.get("epoch", 0)
        variable.encoding["chunks"] = chunks[str(name)] = shape
        if variable.chunks is not None:
            # Two dask tasks that write to one Zarr chunk would lose data; xarray refuses them.
            variable.data = variable.chunk(
                {
                    dim: _blocks(variable.sizes[dim], length, done if dim == "epoch" else 0)
                    for dim, length in zip(variable.dims, shape, strict=True)
                }
            ).data
    return chunks


def _blocks(size: int, length: int, done: int) -> tuple[int, ...]:
    """Cut a dimension where the Zarr chunks begin, when `done` are stored already."""
    cuts = [0, *range(length - done % length, size, length), size]
    return tuple(int(step) for step in np.diff(cuts))


def _rebuilt(ds: xr.Dataset, variables: dict[Hashable, xr.Variable]) -> xr.Dataset:
    """Return a dataset of other variables under the same names."""
    coords = {name: variables[name] for name in ds.coords}
    return xr.Dataset({name: variables[name] for name in ds.data_vars}, coords, ds.attrs)


def _same(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """Compare element by element; NaN and NaT equal themselves."""
    return np.asarray((left == right) | ((left != left) & (right != right)))  # noqa: PLR0124  true of NaN and NaT only


def _few(values: Iterable[object]) -> str:
    """Name the first few of many."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:FEW]) + (f" and {len(listed) - FEW} more" if len(listed) > FEW else "")
