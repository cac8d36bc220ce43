"""Says what defines a group or an array, and which of it changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icemagic.differences import Change
from icemagic.nodes import ENCODING, Node, chunk_shape, comparable


def changes(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return what differs between two mappings of JSON values, such as attributes."""
    keys = dict.fromkeys((*before, *after))
    differing = (key for key in keys if comparable(before, key) != comparable(after, key))
    return [Change(path, key, before.get(key), after.get(key)) for key in differing]


def properties(node: Node) -> dict[str, Any]:
    """Return what defines an array besides its attributes, in a person's words."""
    metadata = node.metadata
    return {
        "shape": tuple(metadata["shape"]),
        "dtype": dtype_words(metadata),
        "chunks": chunk_shape(metadata),
        "codecs": codec_words(metadata),
        "fill value": metadata["fill_value"],
        "dimensions": tuple(metadata.get("dimension_names") or ()),
    }


def encoding(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the values depend on besides the chunks."""
    attributes = metadata.get("attributes", {})
    return {
        **{key: metadata[key] for key in ("data_type", "fill_value", "codecs")},
        **{key: attributes[key] for key in ENCODING if key in attributes},
    }


def dtype_words(metadata: Mapping[str, Any]) -> str:
    """Say the data type of an array; types with settings, such as ``numpy.datetime64``, get them in brackets."""
    data_type = metadata["data_type"]
    if isinstance(data_type, str):
        return data_type
    return f"{data_type['name']}[{', '.join(map(str, data_type.get('configuration', {}).values()))}]"


def codec_words(metadata: Mapping[str, Any]) -> str:
    """Say the codecs of an array in one line, such as ``zstd level 5``."""
    return ", ".join(_codec_word(codec) for codec in metadata["codecs"] if codec["name"] != "bytes") or "none"


def _codec_word(codec: Mapping[str, Any]) -> str:
    settings = codec.get("configuration", {})
    level = next((settings[key] for key in ("level", "clevel") if key in settings), None)
    return str(codec["name"]) if level is None else f"{codec['name']} level {level}"
