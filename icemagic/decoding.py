"""Reads parts of one array as xarray would give them, without opening the group that the array lies in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    import zarr


def read(array: zarr.Array[Any], region: tuple[slice, ...]) -> np.ndarray[Any, Any]:
    """Return the decoded values of a region (CF conventions 8.1; times as numpy's or cftime's)."""
    return decode(array[region], dict(array.attrs), dims=dimensions(array))


def decode(values: Any, attributes: dict[str, Any], *, dims: Sequence[str]) -> np.ndarray[Any, Any]:  # noqa: ANN401  as Zarr gives them
    """Return the values that stored ones stand for, under the attributes of their array."""
    import xarray as xr

    held = np.asarray(values)
    # Texts become what xarray reads them as.
    variable: xr.Variable = xr.Variable(dims, held.astype(object) if held.dtype.kind == "T" else held)
    variable.attrs = _readable(attributes, variable.dtype)
    return xr.conventions.decode_cf_variable("values", variable).values


def dimensions(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Return the names of an array's dimensions; one without a name is called after its number."""
    names: Sequence[str | None] = array.metadata.dimension_names or (None,) * array.ndim  # type: ignore[union-attr]  # format 3 has them
    return tuple(name or f"dim_{axis}" for axis, name in enumerate(names))


def _readable(attributes: dict[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return attributes with the fill value as a number: xarray writes that of floats to Zarr in base 64."""
    from xarray.backends.zarr import FillValueCoder

    fill = attributes.get("_FillValue")
    if dtype.kind in "fc" and isinstance(fill, str | list):
        return {**attributes, "_FillValue": FillValueCoder.decode(fill, dtype)}
    return attributes
