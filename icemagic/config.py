"""Reads ``config/processing.yaml`` into frozen settings, each of which knows where it came from."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from icemagic.display import Lines, Report, Shown, Table
from icemagic.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import icechunk
    import yaml
    from zarr.abc.codec import BytesBytesCodec

VARIABLE = "ICEMAGIC_CONFIG"
"""The environment variable that names a configuration file."""
FILE = Path("config", "processing.yaml")
"""Where a configuration file is looked for, from the working directory upwards."""
LEVELS: Mapping[str, range] = {
    "zstd": range(1, 23),
    "gzip": range(10),
    "blosc-lz4": range(10),
    "blosc-zstd": range(10),
    "none": range(23),
}
"""The compression algorithms, all of which zarr ships, and their levels; ``none`` ignores the level."""
PROVENANCE = ("source", "hash", "off")
"""What a commit can record of the code that made it."""

_BUILT_IN = "built-in"
_UINT16 = 65_535  # icechunk keeps both numbers in 16 bits
_STRATEGY = {"epoch": 34_560, "sid": -1}


@dataclass(frozen=True, repr=False)
class Config(Shown):
    """Settings of a store.

    Raises
    ------
    ConfigError
        When a value has the wrong type or is out of range.
    """

    compression_algorithm: str = "zstd"
    """How the data are compressed, one of `LEVELS`."""
    compression_level: int = 5
    """How hard; the range depends on the algorithm."""
    inline_threshold: int = 512
    """Chunks of at most this many bytes are kept inside the manifest, not as objects of their own."""
    get_concurrency: int = 1
    """How many parts of one read of partial values are fetched at once."""
    chunk_strategies: Mapping[str, Mapping[str, int]] = field(
        default_factory=lambda: {"rinex": dict(_STRATEGY), "vod": dict(_STRATEGY)}, hash=False
    )
    """Chunk length per dimension for each kind of data; -1 is the whole dimension."""
    provenance: Literal["source", "hash", "off"] = "source"
    """What a commit records of the code that made it: its source, a hash of it, or nothing."""
    author: str | None = None
    """Who commits; None asks git, then the operating system."""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where a setting came from, a file and a line; one that is not here is built in."""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            if problem := check(getattr(self, name)):
                message = f"{name} {problem}."
                raise ConfigError(message)
        if problem := _level_problem(self.compression_algorithm, self.compression_level):
            message = f"compression_level {problem}."
            raise ConfigError(message)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the settings cannot do, one sentence each."""
        if self.compression_algorithm == "zstd":
            return ()
        what = "no compression" if self.compression_algorithm == "none" else self.compression_algorithm
        return (f"{what} is for the data; icechunk compresses its own metadata with zstd at its own level.",)

    def repository_config(self) -> icechunk.RepositoryConfig:
        """Return the settings that icechunk itself takes."""
        import icechunk

        compression = None
        if self.compression_algorithm == "zstd":
            algorithm = icechunk.CompressionAlgorithm.Zstd
            compression = icechunk.CompressionConfig(algorithm=algorithm, level=self.compression_level)
        return icechunk.RepositoryConfig(
            inline_chunk_threshold_bytes=self.inline_threshold,
            get_partial_values_concurrency=self.get_concurrency,
            compression=compression,
        )

    def codecs(self) -> tuple[BytesBytesCodec, ...]:
        """Return the Zarr codecs that compress the data; none for no compression."""
        from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

        level = self.compression_level
        match self.compression_algorithm:
            case "zstd":
                return (ZstdCodec(level=level),)
            case "gzip":
                return (GzipCodec(level=level),)
            case "blosc-lz4":
                return (BloscCodec(cname="lz4", clevel=level),)
            case "blosc-zstd":
                return (BloscCodec(cname="zstd", clevel=level),)
        return ()

    def _report(self) -> Report:
        rows = tuple((name, value, self.origins.get(name, _BUILT_IN)) for name, value in self._values())
        return Report("Configuration", (Table(("setting", "value", "from"), rows), Lines(self.notes)))

    def _values(self) -> Iterator[tuple[str, str]]:
        for name in _CHECKS:
            value = getattr(self, name)
            if name == "chunk_strategies":
                for kind, strategy in value.items():
                    yield f"{name}.{kind}", ", ".join(f"{dim}: {length}" for dim, length in strategy.items())
            else:
                yield name, "from git or the system" if value is None else str(value)


def load_config(path: str | os.PathLike[str] | None = None) -> Config:
    """Return the settings of a configuration file, and the built-in ones for what it leaves out.

    Parameters
    ----------
    path : str or path-like, optional
        The file. Without it the file that ``ICEMAGIC_CONFIG`` names is read, else the first ``config/processing.yaml``
        in the working directory or above it, else none.

    Raises
    ------
    ConfigError
        When a named file is not there, or a file has an unknown key, a wrong type or a value out of range; the message
        names the file and the line.
    """
    found = _find(path)
    return Config() if found is None else _load(_Source(found))


def _find(path: str | os.PathLike[str] | None) -> Path | None:
    named, where = (os.environ.get(VARIABLE), f" ({VARIABLE})") if path is None else (os.fspath(path), "")
    if named is None or (named == "" and path is None):
        here = Path.cwd()
        return next((folder / FILE for folder in (here, *here.parents) if (folder / FILE).is_file()), None)
    found = Path(named).expanduser()
    if not found.is_file():
        message = f"There is no configuration file {named!r}{where}."
        raise ConfigError(message, f"Correct the path, or leave it out for the nearest {FILE.as_posix()}.")
    return found


class _Entry(NamedTuple):
    line: int
    node: yaml.Node | None = None


class _Source:
    """A YAML file that remembers its lines."""

    def __init__(self, path: Path) -> None:
        here = Path.cwd()
        self.path = path
        self.name = str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

    def at(self, entry: _Entry) -> str:
        return f"{self.name}:{entry.line}"

    def refuse(self, entry: _Entry, problem: str, hint: str = "") -> NoReturn:
        message = f"{self.at(entry)}: {problem}."
        raise ConfigError(message, hint)

    def root(self) -> _Entry:
        import yaml

        # Nodes, not values: values have forgotten their lines, and that a key was there twice.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            return _Entry(1, yaml.compose(self.path.read_text(encoding="utf-8-sig"), Loader=loader))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.refuse(_Entry(mark.line + 1 if mark else 1), f"this is not YAML: {error.problem or error.context}")
        except (OSError, ValueError, yaml.YAMLError) as error:
            message = f"{self.name} cannot be read as text in UTF-8."
            raise ConfigError(message, "Save it as plain text.") from error

    def entries(self, entry: _Entry, what: str, known: Collection[str] = ()) -> dict[str, _Entry]:
        """Return what a mapping holds, by key; `known` lists the keys it may have, any text when empty."""
        import yaml

        if entry.node is None or entry.node.tag == "tag:yaml.org,2002:null":
            return {}
        if not isinstance(entry.node, yaml.MappingNode):
            self.refuse(entry, f"{what} must be a mapping, lines of the form key: value")
        found: dict[str, _Entry] = {}
        for key, value in entry.node.value:
            here = _Entry(key.start_mark.line + 1, value)
            if key.tag != "tag:yaml.org,2002:str":
                self.refuse(here, f"a key of {what} must be a text", "Put it in quotes.")
            if known and key.value not in known:
                self.refuse(here, f"{what} has no key {key.value!r}", did_you_mean(key.value, known))
            if key.value in found:
                self.refuse(here, f"{key.value} is there already, on line {found[key.value].line}", "Remove one.")
            found[key.value] = here
        return found

    def value(self, entry: _Entry) -> object:
        """Return a plain value; anything else comes back as its YAML node, which no setting takes."""
        import yaml

        if not isinstance(entry.node, yaml.ScalarNode):
            return entry.node
        if entry.node.tag == "tag:yaml.org,2002:bool":
            # YAML 1.1 reads the word off as False. No setting is a truth value, so the word counts as written.
            return entry.node.value
        try:
            return yaml.constructor.SafeConstructor().construct_object(entry.node)
        except (ValueError, yaml.YAMLError):
            return entry.node


def _load(source: _Source) -> Config:
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    top = source.entries(source.root(), "the file", (_SECTION, *_TOP))
    inside = source.entries(top.pop(_SECTION), _SECTION, _IN_SECTION) if _SECTION in top else {}
    for name, entry in (inside | top).items():
        if name == "chunk_strategies":
            kinds = source.entries(entry, name)
            strategies = {kind: _strategy(source, kind, found) for kind, found in kinds.items()}
            settings[name] = {**Config().chunk_strategies, **strategies}
            origins |= {f"{name}.{kind}": source.at(found) for kind, found in kinds.items()}
        else:
            settings[name], origins[name] = source.value(entry), source.at(entry)
            if problem := _CHECKS[name](settings[name]):
                source.refuse(entry, f"{name} {problem}", _choices(name, settings[name]))
    algorithm = settings.get("compression_algorithm", Config.compression_algorithm)
    if problem := _level_problem(algorithm, settings.get("compression_level", Config.compression_level)):
        where = inside["compression_level" if "compression_level" in inside else "compression_algorithm"]
        source.refuse(where, f"compression_level {problem}")
    return Config(**settings, origins=origins)


def _strategy(source: _Source, kind: str, entry: _Entry) -> dict[str, int]:
    lengths: dict[str, Any] = {}
    for dim, found in source.entries(entry, kind).items():
        lengths[dim] = source.value(found)
        if problem := _length_problem(lengths[dim]):
            source.refuse(found, f"{kind}.{dim} {problem}")
    return lengths


def _choices(name: str, value: object) -> str:
    words = {"compression_algorithm": tuple(LEVELS), "provenance": PROVENANCE}.get(name, ())
    return did_you_mean(str(value), words)


def _one_of(words: Collection[str]) -> _Check:
    def check(value: object) -> str | None:
        known = isinstance(value, str) and value in words
        return None if known else f"must be one of {', '.join(words)}, not {_given(value)}"

    return check


def _whole_number(low: int, high: int) -> _Check:
    def check(value: object) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return None
        return f"must be a whole number from {low} to {high:,}, not {_given(value)}"

    return check


def _text_or_none(value: object) -> str | None:
    fits = value is None or (isinstance(value, str) and value.strip())
    return None if fits else f"must be a text, not {_given(value)}"


def _length_problem(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and (value == -1 or value > 0):
        return None
    return f"must be a whole number above 0, or -1 for the whole dimension, not {_given(value)}"


def _strategies_problem(value: object) -> str | None:
    if not isinstance(value, Mapping) or not all(isinstance(strategy, Mapping) for strategy in value.values()):
        return f"must map kinds to mappings of dimensions to lengths, not {_given(value)}"
    lengths = (length for strategy in value.values() for length in strategy.values())
    return next((f"lengths: each {problem}" for problem in map(_length_problem, lengths) if problem), None)


def _level_problem(algorithm: str, level: int) -> str | None:
    levels = LEVELS[algorithm]
    return None if level in levels else f"must be from {levels[0]} to {levels[-1]} for {algorithm}, not {level}"


def _given(value: object) -> str:
    """Say a value as the reader wrote it, shortened; nothing and a YAML node have no text of their own."""
    if value is None:
        return "nothing"
    plain = isinstance(value, (str, int, float, list, tuple, Mapping))
    return reprlib.repr(value) if plain else f"a {type(value).__name__.removesuffix('Node').lower()}"


_Check = Callable[[object], str | None]
_SECTION = "icechunk"
_CHECKS: Mapping[str, _Check] = {
    "compression_algorithm": _one_of(LEVELS),
    "compression_level": _whole_number(0, 22),
    "inline_threshold": _whole_number(0, _UINT16),
    "get_concurrency": _whole_number(1, _UINT16),
    "chunk_strategies": _strategies_problem,
    "provenance": _one_of(PROVENANCE),
    "author": _text_or_none,
}
_TOP = ("provenance", "author")
_IN_SECTION = tuple(name for name in _CHECKS if name not in _TOP)
