"""Finds the region of an array that labels mean, as a person types them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zarr.core.sync import sync

from icemagic import decoding
from icemagic.coordinates import Box, beside
from icemagic.display import label
from icemagic.errors import SelectionError, did_you_mean
from icemagic.nodes import read_metadata

if TYPE_CHECKING:
    import icechunk
    import pandas as pd
    import xarray as xr

Selection = Mapping[str, tuple[str, str]]
"""Dimension to its first and last label, both included, as typed."""
_COMPARED = 10_000
"""Most labels among which the nearest to a mistyped one is looked for, which takes a second for ten times as many."""


def parse_selection(text: str) -> tuple[str, tuple[str, str]]:
    """Read ``DIMENSION=LABEL`` or ``DIMENSION=FIRST/LAST``.

    Raises
    ------
    SelectionError
        When it is neither.
    """
    name, equals, labels = text.partition("=")
    first, slash, last = labels.partition("/")
    if not (name and equals and first and (last or not slash)):
        message = f"{text!r} is no selection."
        raise SelectionError(message, "For example: epoch=2025-01-01T10:00/2025-01-01T11:00")
    return name, (first, last or first)


def region(dataset: xr.Dataset, name: str, selection: Selection) -> Box:
    """Return the positions that labels mean in one variable, both ends included as in xarray's ``sel``.

    Raises
    ------
    SelectionError
        When a dimension or a label is not there, or nothing lies between the labels.
    """
    variable = dataset[name]
    if unknown := selection.keys() - set(map(str, variable.dims)):
        message = f"{name} has no dimension {', '.join(sorted(unknown))}."
        raise SelectionError(message, did_you_mean(min(unknown), map(str, variable.dims)))
    return tuple(
        _between(variable.get_index(dim), str(dim), *selection[str(dim)]) if dim in selection else range(length)
        for dim, length in variable.sizes.items()
    )


def _between(index: pd.Index[Any], name: str, first: str, last: str) -> range:
    try:
        chosen = _either_way(index, first, last)
    except (KeyError, ValueError, TypeError) as error:
        message = f"{name} has no label {first if first == last else f'{first} or {last}'}."
        raise SelectionError(message, _range(index)) from error
    if not chosen and first == last:
        near = did_you_mean(first, index) if index.inferred_type == "string" and len(index) <= _COMPARED else ""
        raise SelectionError(f"{name} has no label {first}.", near or _range(index))
    if not chosen:
        raise SelectionError(f"{name} has nothing between {first} and {last}.", _range(index))
    return chosen


def find(index: pd.Index[Any], first: str, last: str) -> range:
    """Return the positions that labels mean, both ends included; none where they are not there.

    Raises
    ------
    SelectionError
        When the labels repeat, or are times in no order, so that it cannot be told.
    """
    try:
        return _either_way(index, first, last)
    except (ValueError, TypeError):  # no label of this index is written so
        return range(0)
    except KeyError:
        # Of times in no order pandas finds no part, such as a day; of repeated labels no beginning.
        is_times = index.dtype.kind in "mM"
        if index.is_unique and (index.is_monotonic_increasing or not is_times):
            return range(0)
        if first == last and not is_times and _typed(index, first) not in index:
            return range(0)
    span = first if first == last else f"{first} … {last}"
    raise SelectionError(f"The labels of {index.name} repeat or are in no order, so {span} cannot be found in it.")


def _either_way(index: pd.Index[Any], first: str, last: str) -> range:
    """Find labels in either order: a descending coordinate runs from its largest label to its smallest."""
    ends = _typed(index, first), _typed(index, last)
    return _chosen(index, *ends) or _chosen(index, *reversed(ends))


def _chosen(index: pd.Index[Any], first: Any, last: Any) -> range:  # noqa: ANN401  labels of any type
    return range(*index.slice_indexer(first, last).indices(len(index)))


def _range(index: pd.Index[Any]) -> str:
    return f"It runs from {label(index.values[0])} to {label(index.values[-1])}." if len(index) else "It is empty."


def _typed(index: pd.Index[Any], text: str) -> Any:  # noqa: ANN401  pandas types it too narrowly
    """Return a label as the index holds it; times stay text, which pandas reads as a whole day or hour where it is."""
    if index.dtype.kind in "iuf":
        return float(text) if index.dtype.kind == "f" else int(text)
    return text


def is_coordinate(metadata: Mapping[str, Any], dim: str, length: int) -> bool:
    """Whether an array, given by its Zarr metadata, is the coordinate of a dimension of some length."""
    return (metadata.get("shape"), metadata.get("dimension_names")) == ([length], [dim])


def index(store: icechunk.IcechunkStore, path: str, *, start: int = 0) -> pd.Index[Any]:
    """Return the labels that a coordinate holds from a position on; no chunks before it are read."""
    import pandas as pd
    import zarr

    coordinate = zarr.open_array(store, path=path, mode="r")
    found: pd.Index[Any] = pd.Index(decoding.read(coordinate, (slice(start, None),)), name=path.rpartition("/")[2])
    return found


def variable(store: icechunk.IcechunkStore, path: str) -> xr.Variable:
    """Return an array as xarray decodes it; lazy, so that only what is looked at is read.

    Nothing else of its group is looked at, so nothing that is wrong with it stands in the way.

    Raises
    ------
    SelectionError
        When the array has no names of dimensions.
    """
    import xarray as xr
    from xarray.backends import ZarrStore

    group, _, name = path.strip("/").rpartition("/")
    try:
        source = ZarrStore.open_group(store, group=group or None, mode="r", consolidated=False)
        encoded = source.open_store_variable(name)
    except KeyError as error:
        if "dimension_names" not in str(error):
            raise
        text = f"The dimensions of {path.strip('/')} have no names, so nothing can be selected in it."
        raise SelectionError(text, "Arrays that xarray writes have them.") from None
    return xr.conventions.decode_cf_variable(name, encoded)


def region_of(store: icechunk.IcechunkStore, path: str, selection: Selection) -> Box:
    """Return what :func:`region` does for an array of a store; only the coordinates of the selection are read."""
    import xarray as xr

    name = path.strip("/").rpartition("/")[2]
    array = xr.DataArray(variable(store, path))
    for dim in selection.keys() & array.sizes.keys():
        coordinate = beside(path, dim)
        metadata = sync(read_metadata(store, coordinate))
        if is_coordinate(metadata or {}, dim, array.sizes[dim]):
            array = array.assign_coords({dim: index(store, coordinate)})
    return region(xr.Dataset({name: array}) if name not in array.coords else array.coords.to_dataset(), name, selection)


def typed(selection: Mapping[str, str | tuple[str, str]]) -> Selection:
    """Return a selection in which labels may be typed as on the magic line: ``LABEL`` or ``FIRST/LAST``."""
    return {
        name: parse_selection(f"{name}={labels}")[1] if isinstance(labels, str) else labels
        for name, labels in selection.items()
    }
