"""Completes what is typed after ``%ice``: verbs, options, branches, tags, ids, arrays, open stores, paths."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import icechunk
from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from icemagic import history
from icemagic.commands import BISECT, CELLS, VERBS, Completes, Verb
from icemagic.comparison import WORKING
from icemagic.records import short

if TYPE_CHECKING:
    from icemagic.store import IcechunkStore

Candidates = list[tuple[str, str]]
"""Words and what they are, which JupyterLab shows beside them."""

_LINE = re.compile(r"^\s*(?:[\w, ]+=\s*)?(?P<sure>%?)(?:ice|icechunk)\s+(?P<rest>.*)$")
_BISECT_LINE = re.compile(r"^%%bisect\s+(?P<rest>.*)$")
_COMMIT_LINE = re.compile(r"^%%commit\s.*--store\s+(?P<name>\w*)$")
_WAIT = 0.03
"""Seconds that a key press waits for a listing; after that the last known one is offered."""
_FRESH = 2.0
"""Seconds for which a listing counts as fresh."""
_VERSIONS = 500
"""Newest versions whose ids are offered."""
_MIN_ID = 2
"""Characters of a snapshot id before ids are offered."""


class Completer:
    """Offers completions for the open stores.

    Parameters
    ----------
    stores : callable
        Returns the open stores by name.
    current : callable
        Returns the store that verbs work on without ``--store``, or None.
    """

    def __init__(
        self, stores: Callable[[], Mapping[str, IcechunkStore]], current: Callable[[], IcechunkStore | None]
    ) -> None:
        self._stores = stores
        self._current = current
        self._listings: WeakKeyDictionary[icechunk.Repository, _Listing] = WeakKeyDictionary()
        # One thread, so that a slow storage never has more than one listing under way.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="icemagic-completion")

        @context_matcher(identifier="icemagic", priority=50)
        def matcher(context: CompletionContext) -> SimpleMatcherResult:
            return self._match(context)

        self.matcher = matcher

    def close(self) -> None:
        """Let the thread go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _match(self, context: CompletionContext) -> SimpleMatcherResult:
        line = context.text_until_cursor
        if typed := _LINE.match(line):
            fragment = re.split(r"\s", typed["rest"])[-1]
            candidates = self.candidates(typed["rest"])
        elif typed := _BISECT_LINE.match(line):
            fragment = re.split(r"\s", typed["rest"])[-1]
            candidates = self._candidates(BISECT, re.split(r"\s+", typed["rest"]))
        elif typed := _COMMIT_LINE.match(line):
            fragment, candidates = typed["name"], [(name, "store") for name in self._stores()]
        else:
            return {"completions": []}
        before, dots, _ = fragment.rpartition("..")
        words = [(word if kind == "path" else f"{before}{dots}{word}", kind) for word, kind in candidates]
        hits = [
            SimpleCompletion(text=word, type=kind) for word, kind in words if word.lower().startswith(fragment.lower())
        ]
        if not hits and not typed.groupdict().get("sure", "%"):
            return {"completions": []}  # without a percent sign it may be a variable of that name
        if not hits and fragment:
            # IPython offers words of its own where nobody else offers any; the word as it stands changes nothing.
            hits = [SimpleCompletion(text=fragment, type="")]
        return {"completions": hits, "matched_fragment": fragment, "suppress": True, "ordered": True}

    def candidates(self, typed: str) -> Candidates:
        """Return what may stand where the last word of `typed` stands."""
        *words, fragment = re.split(r"\s+", typed.lstrip())
        if not words:
            return [(name, "verb") for name in VERBS]
        verb = VERBS.get(words[0])
        return self._candidates(verb, [*words[1:], fragment]) if verb else []

    def _candidates(self, verb: Verb, typed: list[str]) -> Candidates:
        *words, fragment = typed
        store = self._current()
        if "--store" in words[:-1]:
            store = self._stores().get(words[words.index("--store") + 1])
        return self._offer(*_expected(verb, words, fragment), fragment=fragment, store=store)

    def _offer(
        self, completes: Completes, options: Iterable[str], *, fragment: str, store: IcechunkStore | None
    ) -> Candidates:
        offered: Candidates = []
        match completes:
            case "verb":
                offered = [(name, "verb") for name in dict.fromkeys((*VERBS, *CELLS))]
            case "store":
                offered = [(name, "store") for name in self._stores()]
            case "path":
                offered = _folders(fragment)
            case "array" if store is not None:
                offered = [(path, "array") for path in self._listing(store).arrays]
            case "branch" | "ref" | "side" if store is not None:
                listing = self._listing(store)
                offered = [(name, "branch") for name in listing.branches]
                if completes == "side":
                    offered += [(path, "array") for path in listing.arrays]
                    offered += [(WORKING, "version")] * store.in_transaction
                if completes != "branch":
                    offered += [(name, "tag") for name in listing.tags] + [("HEAD", "version")]
                    if len(fragment.rpartition("..")[2]) >= _MIN_ID:
                        offered += [(short(snapshot), "version") for snapshot in listing.versions]
        return offered + [(option, "option") for option in options]

    def _listing(self, store: IcechunkStore) -> _Listing:
        known = self._listings.setdefault(store.repo, _Listing())
        head = store.session.snapshot_id
        is_old = time.monotonic() - known.asked > _FRESH or known.head != head
        if is_old and (known.pending is None or known.pending.done()):
            known.pending = self._pool.submit(known.update, store.repo, head)
        if known.pending is not None:
            # A key press is no place for an error: what is known is offered.
            with suppress(TimeoutError, icechunk.IcechunkError):
                known.pending.result(timeout=_WAIT)
        return known


class _Listing:
    """What was last seen in one repository."""

    def __init__(self) -> None:
        self.branches: list[str] = []
        self.tags: list[str] = []
        self.versions: list[str] = []
        self.arrays: list[str] = []
        """Paths of the arrays of the version `head`."""
        self.head = ""
        self.asked = float("-inf")
        self.pending: Future[None] | None = None

    def update(self, repo: icechunk.Repository, head: str) -> None:
        self.branches, self.tags = sorted(repo.list_branches()), sorted(repo.list_tags())
        self.versions = [version.id for version in islice(history.versions(repo, head), _VERSIONS)]
        if head != self.head:  # a version never changes
            nodes = repo.inspect_snapshot(head)["nodes"]
            self.arrays = sorted(node["path"].lstrip("/") for node in nodes if node["node_type"] == "array")
            self.head = head
        self.asked = time.monotonic()


def _expected(verb: Verb, words: list[str], fragment: str) -> tuple[Completes, list[str]]:
    """Return what the next word of a verb may be, and the options that may stand there too."""
    options = {name: argument for argument in verb.everything if argument.is_option for name in argument.names}
    values = 0
    wanted: Completes | None = None  # what the option before expects as its value
    for word in words:
        if wanted is not None:
            wanted = None
        elif word in options:
            wanted = None if options[word].is_switch else options[word].completes
        else:
            values += 1
    if wanted is not None:
        return wanted, []
    positional = [argument for argument in verb.arguments if not argument.is_option]
    left = [name for name in options if name not in words and name.startswith("--")]
    may_be_option = not fragment or fragment.startswith("-")
    return positional[values].completes if values < len(positional) else "nothing", left if may_be_option else []


def _folders(fragment: str) -> Candidates:
    if "://" in fragment:
        return []
    shown = fragment[: fragment.rfind("/") + 1]
    try:
        parent = Path(fragment).expanduser() if fragment.endswith("/") else Path(fragment).expanduser().parent
        names = sorted(item.name for item in islice(parent.iterdir(), 1000) if item.is_dir())
    except (OSError, RuntimeError, ValueError):  # not there, nobody's home folder, no path at all
        return []
    return [(f"{shown}{name}/", "path") for name in names if not name.startswith(".")]
