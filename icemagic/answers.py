"""What each verb that works on an open store answers: one call to a method of the store."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from icemagic import comparison, history
from icemagic.commands import CommandError
from icemagic.display import Document
from icemagic.lines import paths
from icemagic.selecting import parse_selection
from icemagic.standing import Demand

if TYPE_CHECKING:
    import icechunk

    from icemagic.display import Shown
    from icemagic.expiry import ExpirePlan
    from icemagic.merge import Side
    from icemagic.store import IcechunkStore

_shown: WeakKeyDictionary[icechunk.Repository, dict[str, tuple[dict[str, Any], Any]]] = WeakKeyDictionary()
"""The plans of each repository that were shown and not yet applied, with what was asked."""


def _log(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    found = store.log(
        given.limit,
        given.ref,
        author=given.author,
        grep=given.grep,
        since=given.since,
        until=given.until,
        path=paths(given.path),
        all=given.all,
        graph=given.graph,
    )
    return Document(found.to_json(), "json") if given.json else found


def _tag(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    if given.name is None:
        return store.tags()
    return store.delete_tag(given.name) if given.delete else store.tag(given.name, given.ref)


def _branch(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    if given.name is None:
        return store.branches()
    return store.delete_branch(given.name) if given.delete else store.branch(given.name, given.ref)


def _stash(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    match given.what:
        case "list":
            return store.stashes()
        case "pop":
            return store.pop(given.which)
    return store.stash(given.message)


def _rescue(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    if given.ref is None:
        return store.unreachable()
    if given.name is None:
        raise CommandError(
            "A rescued version needs the name of a branch.", f"For example: %ice rescue {given.ref} rescued"
        )
    return store.rescue(given.ref, given.name)


def _guard(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    if given.protect:
        return store.protect(given.protect)
    if given.unprotect:
        return store.unprotect(given.unprotect)
    wanted = Demand(given.dtype, given.units, _range(given.range), given.increasing, given.unique)
    if given.array is None:
        if wanted != Demand():
            raise CommandError("A demand needs the path of an array.", "For example: %ice guard SNR --range 0/70")
        return store.guards()
    if wanted == Demand() and not given.forget:
        raise CommandError(
            f"Nothing is demanded of {given.array}.", "For example: %ice guard SNR --range 0/70, or --forget"
        )
    return store.demand(given.array, wanted)


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split("/"))
    except ValueError:
        raise CommandError(f"{text!r} is no range.", "For example: --range 0/70") from None
    return low, high


def _merge(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    choice, arrays = _sides(given)
    if given.dry_run:
        return store.plan_merge(given.ref, choice=choice, arrays=arrays)
    return store.merge(given.ref, choice=choice, arrays=arrays, message=given.message)


def _cherry_pick(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    choice, arrays = _sides(given)
    if given.dry_run:
        return store.plan_cherry_pick(given.ref, choice=choice, arrays=arrays)
    return store.cherry_pick(given.ref, choice=choice, arrays=arrays, message=given.message)


def _promote(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    return store.plan_promote(given.ref) if given.dry_run else store.promote(given.ref)


def _sides(given: argparse.Namespace) -> tuple[Side | None, dict[str, Side]]:
    """Return the side that wins everywhere, and those that win for single arrays."""
    if given.ours and given.theirs:
        raise CommandError(
            "--ours and --theirs contradict each other.", "Give one; --array NAME=SIDE decides one array."
        )
    arrays: dict[str, Side] = {}
    for text in given.array:
        match text.rpartition("="):
            case [str(name), "=", "ours" | "theirs" as side] if name:
                arrays[name] = side
            case _:
                raise CommandError(f"{text!r} names no array and side.", "For example: --array SNR=theirs")
    return "ours" if given.ours else "theirs" if given.theirs else None, arrays


def _expire(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    def plan() -> ExpirePlan:
        if (given.before is None) == (given.keep is None):
            raise CommandError("Expiry needs a date or a number.", "For example: %ice expire --keep 100")
        return store.plan_expire(before=_moment(given.before), keep=given.keep, branches=given.branch, tags=given.tag)

    return _planned(store, given, plan, store.expire)


def _collect(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    return _planned(
        store, given, lambda: store.plan_collect(before=_moment(given.before), recent=given.recent), store.collect
    )


def _upgrade(store: IcechunkStore, given: argparse.Namespace) -> Shown:
    return _planned(store, given, store.plan_upgrade, lambda _: store.upgrade())


def _planned[Plan: Shown](
    store: IcechunkStore, given: argparse.Namespace, plan: Callable[[], Plan], apply: Callable[[Plan], Shown]
) -> Shown:
    """Show a plan, or with ``--yes`` do what the plan shown last says."""
    shown = _shown.setdefault(store.repo, {})
    key = apply.__qualname__
    asked = {name: value for name, value in vars(given).items() if name not in ("yes", "store")}
    if not given.yes:
        made = plan()
        shown[key] = (asked, made)
        return made
    if key not in shown or (any(asked.values()) and asked != shown[key][0]):
        hint = "Run the line without --yes first, and look at what would go."
        raise CommandError("No such plan was shown yet.", hint)
    answer = apply(shown[key][1])
    del shown[key]
    return answer


def diff(store: IcechunkStore, given: argparse.Namespace, variables: Mapping[str, object]) -> Shown:
    """Compare what was typed: versions, stores and datasets in variables, netCDF files; last perhaps an array."""
    left, right = history.split_range(given.a) if given.a else (None, None)
    words = [word for word in (left, right, given.b, given.array) if word is not None]
    array = words.pop() if words and comparison.is_array(store, words[-1]) else None
    if len(words) > 2:  # noqa: PLR2004  the two sides
        raise CommandError(f"{words[2]!r} is one too many.", "Use A..B or A B, and perhaps the path of an array.")
    a, b, *_ = [*(comparison.named(store, word, variables) for word in words), None, None]
    answer = store.diff(
        a,
        b,
        array,
        values=given.values,
        atol=given.atol,
        rtol=given.rtol,
        selection=dict(map(parse_selection, given.sel)),
    )
    return answer.to_json() if given.json else answer.to_markdown() if given.md else answer


def _moment(text: str | None) -> datetime | None:
    return None if text is None else history.parse_moment(text, datetime.now(UTC))


ON_STORE: Mapping[str, Callable[[IcechunkStore, argparse.Namespace], Shown]] = {
    "status": lambda store, _: store.status(),
    "log": _log,
    "show": lambda store, given: store.show(given.ref),
    "code": lambda store, given: store.code(given.ref),
    "blame": lambda store, given: store.blame(given.array, given.ref, dict(map(parse_selection, given.sel))),
    "history": lambda store, given: store.history(given.array, dict(map(parse_selection, given.labels)), given.version),
    "why": lambda store, given: store.why(given.array, given.ref, dict(map(parse_selection, given.sel))),
    "tree": lambda store, _: store.tree(),
    "tag": _tag,
    "branch": _branch,
    "switch": lambda store, given: store.switch(given.branch),
    "checkout": lambda store, given: store.checkout(given.ref),
    "refresh": lambda store, _: store.refresh(),
    "merge": _merge,
    "cherry-pick": _cherry_pick,
    "promote": _promote,
    "discard": lambda store, _: store.discard(),
    "begin": lambda store, _: store.begin(),
    "stash": _stash,
    "rescue": _rescue,
    "undo": lambda store, _: store.undo(),
    "redo": lambda store, _: store.redo(),
    "revert": lambda store, given: store.revert(given.ref),
    "restore": lambda store, given: store.restore(given.ref, given.array, dict(map(parse_selection, given.sel))),
    "reset": lambda store, given: store.reset(given.ref),
    "amend": lambda store, given: store.amend(given.message),
    "guard": _guard,
    "du": lambda store, _: store.du(),
    "expire": _expire,
    "gc": _collect,
    "doctor": lambda store, _: store.doctor(),
    "upgrade": _upgrade,
    "config": lambda store, _: store.config,
}
