"""Fits a dataset to the group that it will be written to: its signals, dtypes, time units and chunks."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr
import zarr
from zarr.errors import GroupNotFoundError

from icemagic.display import count
from icemagic.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from zarr.storage import StoreLike

TIME_ENCODING = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}
"""The one encoding of datetimes in which every ``datetime64[ns]`` is exact, whatever is appended later."""
FEW = 5
"""How many of many an error names."""


def stored_at(store: StoreLike | None, group: str | None) -> xr.Dataset | None:
    """Return what is stored in the group, lazily and without indexes, or None where no such group is."""
    if store is None:
        return None
    try:
        zarr.open_group(store, path=group, mode="r", use_consolidated=False)
    except GroupNotFoundError:
        return None
    stored = xr.open_zarr(store, group=group, chunks=None, consolidated=False, create_default_indexes=False)
    return stored if stored.variables else None


def index_for(sid: Iterable[str] | None, stored: xr.Dataset | None, group: str | None) -> list[str] | None:
    """Return the signals to align to: those given or stored; both must be the same."""
    given = None if sid is None else sid_labels(sid, "the argument")
    if stored is None or "sid" not in stored.variables:
        return given
    known = sid_labels(stored["sid"].values, "the store")
    if given is not None and given != known:
        where = group or "the root group"
        msg = f"The given sid ({len(given)} signals) is not the one stored in {where} ({len(known)})."
        hint = "Leave out sid= to use the stored one; to replace the group, prepare the dataset before the transaction."
        raise DatasetError(msg, hint)
    return known


def aligned(ds: xr.Dataset, index: list[str], stored: xr.Dataset | None, notes: list[str]) -> xr.Dataset:
    """Return the dataset with exactly the signals of the index, in its order."""
    labels = ds["sid"].values.tolist()
    if labels == index:
        return ds
    position = {label: at for at, label in enumerate(index)}
    unknown = [label for label in labels if label not in position]
    if unknown:
        msg = f"{count(len(unknown), 'signal')} of the dataset are not in the index of {len(index)}: {few(unknown)}."
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
    return rebuilt(ds, variables)


def _kept(name: Hashable, variable: xr.Variable, stored: xr.Dataset | None) -> xr.Variable | None:
    """Return the stored values of a variable that describes signals, not epochs: a write replaces all of them."""
    if stored is None or not {name, "sid"} <= stored.variables.keys():
        return None
    if not variable.dims == stored[name].dims == ("sid",):
        return None
    # Of two numeric dtypes the one that holds both, so that neither is rounded before _check_fits compares.
    dtype = variable.dtype if variable.dtype == object else np.result_type(variable.dtype, stored[name].dtype)
    return xr.Variable("sid", stored[name].values.astype(dtype))


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
        # NaT is no number and NaN no time, so the fill has the variable's own dtype.
        fill = "" if kind == "O" else np.full((), "NaT" if kind in "mM" else np.nan, dtype=variable.dtype)[()]
        out = variable.pad(sid=(0, 1), mode="constant", constant_values=cast("float", fill)).isel(sid=take)
    out.encoding = variable.encoding
    return out


def check_fits(ds: xr.Dataset, stored: xr.Dataset) -> None:
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
    return bool(encoded.attrs.get("units") == units and same(decoded.values, variable.values).all())


def note_append(ds: xr.Dataset, stored: xr.Dataset, notes: list[str]) -> None:
    """Say what speaks against an append; other writes may be meant, so none of it is an error."""
    if "epoch" not in stored.variables or not stored.sizes["epoch"]:
        return
    there, here = ({str(name) for name, v in of.variables.items() if "epoch" in v.dims} for of in (stored, ds))
    if there != here:
        notes.append(f"{few(sorted(there ^ here))}: not both here and stored; an append needs the same variables")
    epochs, last = ds["epoch"].values, stored["epoch"][-1].values
    # In the usual case, an append after the last epoch, one chunk is read and decides.
    if epochs[0] <= last:
        twice = int(np.isin(epochs, stored["epoch"].values).sum())
        notes.append(f"{twice:,} of the epochs are stored already; an append belongs after {last}")


def set_chunks(ds: xr.Dataset, lengths: Mapping[str, int], stored: xr.Dataset | None) -> dict[str, tuple[int, ...]]:
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


def sid_labels(sid: Iterable[object], where: str) -> list[str]:
    """Return the signals as a list of unique strings."""
    if isinstance(sid, str):
        raise DatasetError(f"sid={sid!r} is one string.", f"Give a list: sid=[{sid!r}].")
    labels = np.asarray(sid).tolist() if isinstance(sid, xr.DataArray | xr.Variable) else list(sid)
    odd = [label for label in labels if not isinstance(label, str)]
    if odd:
        raise DatasetError(f"'sid' of {where} has {odd[0]!r}, which is not a string.", "Signals look like 'G01|L1|C'.")
    twice = [label for label, times in Counter(labels).items() if times > 1]
    if twice:
        msg = f"'sid' of {where} has {few(twice)} more than once."
        raise DatasetError(msg, 'ds.drop_duplicates("sid") keeps the first of each.')
    return [str(label) for label in labels]


def rebuilt(ds: xr.Dataset, variables: dict[Hashable, xr.Variable]) -> xr.Dataset:
    """Return a dataset of other variables under the same names."""
    coords = {name: variables[name] for name in ds.coords}
    return xr.Dataset({name: variables[name] for name in ds.data_vars}, coords, ds.attrs)


def same(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """Compare element by element; NaN and NaT equal themselves."""
    return np.asarray((left == right) | ((left != left) & (right != right)))  # noqa: PLR0124  true of NaN and NaT only


def few(values: Iterable[object]) -> str:
    """Name the first few of many."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:FEW]) + (f" and {len(listed) - FEW} more" if len(listed) > FEW else "")
