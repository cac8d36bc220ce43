"""Errors that say what was wrong, what was given, and what to do next.

Every class is also the builtin that a reader would catch::

    IcemagicError
    ├── ConfigError            ValueError          a setting is unknown, mistyped or out of range
    ├── StorageURLError        ValueError          a storage URL or storage_config cannot be used
    ├── StoreNotFoundError     FileNotFoundError   there is no repository at that place
    ├── StoreExistsError       FileExistsError     there is one already
    ├── NotWritableError       PermissionError     a write reached a store outside a transaction
    ├── UnknownVersionError    LookupError         no branch, tag, snapshot or date answers to that text
    ├── AmbiguousVersionError  LookupError         more than one does
    ├── RefNameError           ValueError          a branch or tag cannot be given that name
    ├── TransactionError       RuntimeError        nested, unfinished or empty transactions
    │   ├── NothingToCommitError                   the transaction changed nothing
    │   ├── GuardError                             a check refused the commit
    │   └── ConflictError                          someone else changed the same data meanwhile
    ├── CommitLostError        RuntimeError        the branch does not hold a commit that was reported
    ├── BisectError            ValueError          good and bad are not what they were said to be
    ├── SelectionError         ValueError          a region given in coordinates is not there
    ├── DatasetError           ValueError          a dataset cannot be made ready for a store
    └── MissingExtraError      ImportError         an optional package is needed

icechunk's own errors (storage, format, ...) pass through the library untouched; only the shells shorten them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IcemagicError(Exception):
    """Base of all errors of icemagic.

    Parameters
    ----------
    message : str
        What was wrong and what was given, one sentence.
    hint : str, optional
        What to do next, one line.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(IcemagicError, ValueError):
    """A setting is unknown, has the wrong type or is out of range."""


class StorageURLError(IcemagicError, ValueError):
    """A storage URL or a ``storage_config`` cannot be used."""


class StoreNotFoundError(IcemagicError, FileNotFoundError):
    """There is no icechunk repository at the given place."""


class StoreExistsError(IcemagicError, FileExistsError):
    """There is something at the given place already."""


class NotWritableError(IcemagicError, PermissionError):
    """A write reached a store that does not stand in a transaction."""


class UnknownVersionError(IcemagicError, LookupError):
    """No branch, tag, snapshot or date answers to the given text."""


class AmbiguousVersionError(IcemagicError, LookupError):
    """More than one version answers to the given text."""


class RefNameError(IcemagicError, ValueError):
    """A branch or tag cannot be given that name."""


class TransactionError(IcemagicError, RuntimeError):
    """A transaction is nested, unfinished or already over."""


class NothingToCommitError(TransactionError):
    """The transaction changed nothing."""


class GuardError(TransactionError):
    """A check refused what was to be committed."""


class ConflictError(TransactionError):
    """Someone else committed changes to the same data meanwhile."""


class CommitLostError(IcemagicError, RuntimeError):
    """The branch does not hold a commit that icechunk reported as done."""


class BisectError(IcemagicError, ValueError):
    """What was given as good and as bad is not, or does not lie on one line of history."""


class SelectionError(IcemagicError, ValueError):
    """A region given in coordinates is not there or cannot be read."""


class DatasetError(IcemagicError, ValueError):
    """A dataset cannot be made ready for a store."""


class MissingExtraError(IcemagicError, ImportError):
    """An optional package is needed."""


_MOST = 10


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a hint with the known words nearest to `given`, or with the first of them when none is near."""
    words = sorted(known)
    folded = {word.casefold(): word for word in words}
    near = [folded[word] for word in difflib.get_close_matches(given.casefold(), folded, n=3, cutoff=0.5)]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    more = f" and {len(words) - _MOST:,} more" if len(words) > _MOST else ""
    return f"Known: {', '.join(words[:_MOST])}{more}." if words else ""
