"""What each verb that works on an open store answers: one call to a method of the store."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from icemagic import history
from icemagic.commands import CommandError
from icemagic.coordinates import parse_selection
from icemagic.standing import Demand

if TYPE_CHECKING:
    import icechunk

    from icemagic.display import Shown
    from icemagic.expiry import ExpirePlan
    from icemagic.store import IcechunkStore

_shown: WeakKeyDictionary[icechunk.Repository, dict[str, tuple[dict[str, Any], Any]]] = WeakKeyDictionary()
"""The plans of each repository that were shown and not yet applied, with what was asked."""


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


def _moment(text: str | None) -> datetime | None:
    return None if text is None else history.parse_moment(text, datetime.now(UTC))


def _two_versions(a: str, b: str | None) -> tuple[str, str | None]:
    left, right = history.split_range(a)
    if b is not None and right is not None:
        raise CommandError(f"{a} names two versions already; {b!r} is one too many.", "Use A..B, or A B.")
    return left, right if right is not None else b


ON_STORE: Mapping[str, Callable[[IcechunkStore, argparse.Namespace], Shown]] = {
    "status": lambda store, _: store.status(),
    "log": lambda store, given: store.log(limit=given.limit, ref=given.ref),
    "show": lambda store, given: store.show(given.ref),
    "diff": lambda store, given: store.diff(*_two_versions(given.a, given.b)),
    "blame": lambda store, given: store.blame(given.array, given.ref, dict(map(parse_selection, given.sel))),
    "history": lambda store, given: store.history(given.array, dict(map(parse_selection, given.labels)), given.version),
    "why": lambda store, given: store.why(given.array, given.ref, dict(map(parse_selection, given.sel))),
    "tree": lambda store, _: store.tree(),
    "tag": _tag,
    "branch": _branch,
    "switch": lambda store, given: store.switch(given.branch),
    "checkout": lambda store, given: store.checkout(given.ref),
    "refresh": lambda store, _: store.refresh(),
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
