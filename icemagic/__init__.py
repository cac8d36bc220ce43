"""Version control for arrays in the notebook.

``IcechunkStore`` opens a versioned Zarr store, ``preprocess_dataset`` makes a dataset ready for it, and
``%load_ext icemagic`` brings both to IPython as magics. Importing the package loads neither IPython nor xarray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icemagic.errors import IcemagicError
from icemagic.store import IcechunkStore

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from icemagic.ingest import preprocess_dataset
    from icemagic.widgets import VersionPicker

__version__ = "0.1.0"
__all__ = ["IcechunkStore", "IcemagicError", "VersionPicker", "__version__", "preprocess_dataset"]

_LAZY = {"preprocess_dataset": "icemagic.ingest", "VersionPicker": "icemagic.widgets"}


def __getattr__(name: str) -> Any:  # noqa: ANN401  the type is that of the name asked for
    if name not in _LAZY:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; called by ``%load_ext icemagic``."""
    from icemagic import magics

    magics.load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away again; called by ``%unload_ext icemagic``."""
    from icemagic import magics

    magics.unload(shell)
