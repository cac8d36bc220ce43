"""Knows the layout ``stores/<site>/<kind>``, for example ``stores/rosalia/rinex``: sites, kinds and their chunks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from icemagic.config import Config
from icemagic.display import Lines, Report, Shown, Table
from icemagic.errors import ConfigError, StorageURLError, StoreNotFoundError, did_you_mean
from icemagic.storage import is_repository, locate

ROOT = "stores"
"""The folder, or the part of a prefix, under which the sites lie."""


@dataclass(frozen=True)
class Site:
    """One station."""

    name: str
    kinds: tuple[str, ...]
    """The kinds of data that have a repository there, by name."""


@dataclass(frozen=True, repr=False)
class Sites(Shown):
    """The stations under one folder."""

    root: Path
    sites: tuple[Site, ...]

    def _report(self) -> Report:
        rows = tuple((site.name, ", ".join(site.kinds), str(self.root / site.name)) for site in self.sites)
        empty = () if rows else (f"No repository lies there as {ROOT}/<site>/<kind>.",)
        return Report(f"Sites in {self.root}", (Table(("site", "kinds", "folder"), rows), Lines(empty)))


def kind_of(storage: str | os.PathLike[str]) -> str | None:
    """Return the kind of data that a URL or a path ``…/stores/<site>/<kind>`` names, or None."""
    text = os.fspath(storage)
    if text.lower().startswith("file:"):
        text = unquote(text)
    parts = [part for part in text.replace(os.sep, "/").split("/") if part not in ("", ".")]
    if parts and parts[0].startswith("memory:"):
        parts[0] = parts[0].removeprefix("memory:")
    return parts[-1] if parts[-3:-2] == [ROOT] and ".." not in parts[-2:] else None


def sites(root: str | os.PathLike[str] = ROOT) -> Sites:
    """Return the sites in a local folder and the kinds of data that each has a repository for.

    Raises
    ------
    StoreNotFoundError
        When the folder is not there.
    StorageURLError
        When `root` is not a local folder.
    """
    folder = locate(root).path
    if folder is None:
        message = "Sites can be listed in a local folder only."
        raise StorageURLError(message, "Open a store by its full URL.")
    if not folder.is_dir():
        message = f"There is no folder {folder}."
        raise StoreNotFoundError(message, f"Stores lie in {ROOT}/<site>/<kind>; name the folder that holds the sites.")
    found = (
        Site(site.name, tuple(sorted(kind.name for kind in site.iterdir() if is_repository(kind))))
        for site in sorted(folder.iterdir())
        if site.is_dir()
    )
    return Sites(folder, tuple(site for site in found if site.kinds))


def chunks_for(kind: str, sizes: Mapping[str, int], config: Config) -> dict[str, int]:
    """Return the chunk length of every dimension for one kind of data.

    A strategy's length stands even where the dimension is shorter, so that later appends fill the chunk; -1, and a
    dimension that the strategy does not name, is the whole dimension.

    Parameters
    ----------
    kind : str
        A key of ``config.chunk_strategies``.
    sizes : mapping of str to int
        The length of each dimension.
    config : Config
        The settings.

    Raises
    ------
    ConfigError
        When there is no strategy for `kind`.
    """
    if kind not in config.chunk_strategies:
        message = f"There is no chunk strategy for {kind!r}."
        hint = f"{did_you_mean(kind, config.chunk_strategies)} Or add it to chunk_strategies in the configuration."
        raise ConfigError(message, hint)
    strategy = config.chunk_strategies[kind]
    lengths = {dim: strategy.get(dim, -1) for dim in sizes}
    # A chunk cannot be empty, but a dimension can.
    return {dim: max(size, 1) if lengths[dim] == -1 else lengths[dim] for dim, size in sizes.items()}
