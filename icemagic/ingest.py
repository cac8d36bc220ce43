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

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from icemagic.config import Config, load_config
from icemagic.display import Lines, Report, Shown, Table, count
from icemagic.errors import DatasetError
from icemagic.fit import (
    TIME_ENCODING,
    aligned,
    check_fits,
    few,
    index_for,
    note_append,
    rebuilt,
    same,
    set_chunks,
    sid_labels,
    stored_at,
)
from icemagic.layout import chunks_for, kind_of
from icemagic.writing import active_store

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from zarr.storage import StoreLike

DURATION_ENCODING = {"units": "nanoseconds", "dtype": "int64"}


_DEFAULT_KIND = "rinex"


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
    kind: str | None = None,
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
    kind : str, optional
        Kind of data, which picks the chunk strategy of the configuration; by default the ``<kind>`` of a store that
        lies at ``stores/<site>/<kind>``, where there is a strategy of that name, else ``"rinex"``.
    sid : iterable of str, optional
        The signals that the store is to have, in their order.
    store : zarr store, optional
        The store that will be written; by default the one whose transaction is open here, if any.
    group : str, optional
        Group in that store; by default the root.
    config : Config, optional
        Settings; by default those of the store, else those of `load_config`.

    Raises
    ------
    ConfigError
        If there is no chunk strategy for the given `kind`.
    DatasetError
        If something in the dataset would be lost, or cannot be stored.
    """
    _check(ds)
    notes: list[str] = []
    target = store if store is not None else active_store()
    config = config or getattr(target, "config", None) or load_config()
    kind = kind or _kind(target, config)
    stored = stored_at(target, group)
    out = _storable(ds, notes)
    out = _sorted_unique(out, notes)
    index = index_for(sid, stored, group)
    if index is not None:
        out = aligned(out, index, stored, notes)
    if stored is not None:
        check_fits(out, stored)
        note_append(out, stored, notes)
    sizes = {str(dim): size for dim, size in out.sizes.items()}
    chunks = set_chunks(out, chunks_for(kind, sizes, config), stored)
    out.ice.remember(Prepared(kind, sizes["epoch"], sizes["sid"], chunks, tuple(notes)))
    return out


def _kind(target: StoreLike | None, config: Config) -> str:
    """Return the kind that the place of the store names, where the configuration knows it."""
    named = kind_of(getattr(target, "url", ""))
    return named if named is not None and named in config.chunk_strategies else _DEFAULT_KIND


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
        notes.append(f"encodings of the source dropped: {few(sorted(dropped))}")
    return rebuilt(ds, variables)


def _nanoseconds(name: Hashable, variable: xr.Variable, notes: list[str]) -> xr.Variable:
    """Return times or durations as nanoseconds, with the encoding in which all of them are exact."""
    dtype = np.dtype(f"{variable.dtype.kind}8[ns]")
    out = variable.to_base_variable().copy(deep=False)
    if out.dtype != dtype:
        values = np.asarray(out.values)
        try:
            converted = values.astype(dtype)
            # An older NumPy wraps around where a newer one raises.
            fits = bool(same(converted.astype(values.dtype), values).all())
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
    sid_labels(sid.values, "the dataset")


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
            differs = ~same(*rows).reshape(repeats.size, -1).all(axis=1)
            names += [str(name)] if differs.any() else []
            conflict |= differs
    if conflict.any():
        epochs = np.unique(ds["epoch"].values[repeats[conflict]])
        msg = f"Epochs come more than once with different {', '.join(names)}: {few(epochs)}."
        hint = 'ds.drop_duplicates("epoch") keeps the first rows; ds.groupby("epoch").first() the first values not NaN.'
        raise DatasetError(msg, hint)
