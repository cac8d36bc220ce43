"""`VersionPicker`: looks through the versions of a store and moves the store to the chosen one.

The store is the model and the widgets are its view. Every event first asks the store to move and then shows where
the store stands, so a refusal takes the selection back by itself. Dropdown and slider are joined here and not in the
browser (``jslink``): a page without a kernel would show one version beside the data of another.
"""

from __future__ import annotations

import html
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import icechunk
import ipywidgets as W  # type: ignore[import-untyped]  # noqa: N812  ipywidgets has no types; W as in its own documentation

from icemagic import logs, refs
from icemagic.differences import Diff
from icemagic.display import Lines, Report, count, to_html, to_text
from icemagic.errors import IcemagicError, UnknownVersionError
from icemagic.records import Log, Version, short, utc
from icemagic.show import show
from icemagic.store import IcechunkStore

if TYPE_CHECKING:
    from types import TracebackType

    import xarray as xr

LIMIT = 1_000
"""Most versions of a branch or tag that are offered."""
WIDTH = "52em"
"""Widest that dropdowns and slider become; in a narrow window they shrink."""
FOLLOWERS = 8
"""Most pickers that follow a store which was moved elsewhere."""

_LOCK = RLock()
"""Held while a picker works. Events arrive in other threads while a cell runs, and pickers may share a store."""


class VersionPicker(W.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """A widget that shows the versions of a store and moves the store to the chosen one.

    Choosing the newest version of a branch switches to that branch, so that transactions work; choosing an older
    version or a tag checks it out, read-only. What the store refuses, for example in a transaction, is shown and the
    selection goes back. After each cell the picker follows where the store was moved; its button picks up versions that
    came from elsewhere.

    Parameters
    ----------
    store : IcechunkStore

    Raises
    ------
    TypeError
        When `store` is something else.
    """

    def __init__(self, store: IcechunkStore) -> None:
        if not isinstance(store, IcechunkStore):
            given = type(store).__name__  # type: ignore[unreachable]  # a notebook has no type checker
            raise TypeError(
                f"VersionPicker shows an IcechunkStore, not {given}: VersionPicker(IcechunkStore.open(URL))"
            )
        self.store = store
        self._place = _Place("branch", store.current_branch or "main")
        self._places: tuple[_Place, ...] = ()
        self._listed = Log(self._place.name, (), truncated=False)
        self._rows: tuple[Version, ...] = ()
        self._wanted_group: str | None = None
        self._quiet = False
        self._seen: tuple[str, str | None] | None = None
        label = {"description_width": "8em"}
        wide = W.Layout(width="auto", max_width=WIDTH)
        self.places = W.Dropdown(
            description="Branch or tag", layout=W.Layout(flex="1 1 auto", width="auto"), style=label
        )
        self.refresh_button = W.Button(
            description="Refresh",
            icon="refresh",
            tooltip="Pick up new versions, branches and tags",
            layout=W.Layout(flex="0 0 auto", width="auto"),
        )
        self.versions = W.Dropdown(description="Version", layout=wide, style=label)
        # The handle of a slider has no accessible name; the dropdown above it offers the same choice with one.
        self.slider = W.IntSlider(
            description="oldest – newest",
            readout=False,
            continuous_update=False,
            layout=W.Layout(width="auto", max_width=WIDTH),
            style=label,
        )
        self.groups = W.Dropdown(description="Group", layout=W.Layout(width="auto", max_width=WIDTH), style=label)
        self.alert, self.about, self.contents = W.HTML(), W.HTML(), W.HTML()
        self._reporting = _Reporting(self.alert)
        children = (
            W.HBox(
                [self.places, self.refresh_button], layout=W.Layout(max_width=f"calc({WIDTH} + 4px)", overflow="hidden")
            ),
            *(self.versions, self.slider, self.alert, self.about, self.groups, self.contents),
        )
        super().__init__(children, layout=W.Layout(width="100%", overflow="hidden"))
        self.refresh()
        self.places.observe(self._on_place, "index")
        self.versions.observe(self._on_version, "index")
        self.slider.observe(self._on_version, "value")
        self.groups.observe(self._on_group, "index")
        self.refresh_button.on_click(lambda _: self._act(lambda: None))
        _follow_cells(self)

    # -- what is chosen ------------------------------------------------------------------------------------------------

    @property
    def version(self) -> Version | None:
        """The chosen version, or None while there is none."""
        index = self.versions.index
        return None if index is None else self._rows[index]

    @property
    def group(self) -> str | None:
        """The chosen group, or None for the root group."""
        index = self.groups.index
        return None if index is None else self.groups.options[index].strip("/") or None

    @property
    def dataset(self) -> xr.Dataset:
        """The chosen group of the chosen version, opened lazily; it stays that version whatever is chosen later.

        Raises
        ------
        UnknownVersionError
            While no version is chosen.
        """
        import xarray as xr

        with _LOCK:
            version, group = self.version, self.group
        if version is None:
            raise UnknownVersionError("No version is chosen.", "Commit one, or choose one in the picker.")
        opened: xr.Dataset = xr.open_zarr(_pinned(self.store, version), group=group, consolidated=False)
        return opened

    def refresh(self) -> None:
        """Show where the store stands, with the versions, branches and tags that there are now."""
        with _LOCK:
            self._read()
            self._show()

    # -- events --------------------------------------------------------------------------------------------------------

    def _on_place(self, change: dict[str, Any]) -> None:
        with _LOCK:
            if self._quiet or change["new"] is None:
                return
            place = self._places[change["new"]]

            def choose() -> None:
                place.enter(self.store)
                self._place = place

            self._act(choose)

    def _on_version(self, change: dict[str, Any]) -> None:
        rows, index = self._rows, change["new"]  # those that were offered, whatever another thread does meanwhile
        with _LOCK:
            if self._quiet or index is None or index >= len(rows):
                return
            if rows is self._rows:
                # Before the store is asked, because that may take a while.
                self._point(index)
            self._act(lambda: self._place.choose(self.store, rows[index]))

    def _on_group(self, change: dict[str, Any]) -> None:
        with _LOCK:
            if self._quiet or change["new"] is None:
                return
            self._wanted_group = self.groups.options[change["new"]]
            self._show_contents()

    def _act(self, action: Callable[[], object]) -> None:
        """Do something to the store, then show where it stands, whatever came of it."""
        with _LOCK:
            self.alert.value = ""
            try:
                with self._reporting:
                    action()
            finally:
                with self._reporting:
                    self.refresh()
            for other in _followers():
                if other is not self and other.store is self.store:
                    other.follow()

    def follow(self) -> None:
        """Show where the store stands if it was moved since."""
        with _LOCK:
            if self._seen != _place_of(self.store):
                # What was refused during a cell stays to be read when the cell is over.
                with self._reporting:
                    self.refresh()

    # -- from the store to the widgets ---------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read the names, and the versions of the branch or tag on which the store stands."""
        repo = self.store.repo
        self._seen = _place_of(self.store)
        at = self.store.version
        branches = sorted(repo.list_branches(), key=lambda name: (name != "main", name))
        known = [_Place("branch", name) for name in branches]
        known += [_Place("tag", name) for name in sorted(repo.list_tags())]
        self._place, self._listed = self._find(known, at)
        self._places = tuple(known) if self._place in known else (*known, self._place)

    def _find(self, known: list[_Place], at: Version | None) -> tuple[_Place, Log]:
        """Return the branch or tag to list: the store's branch, else the listed one, else the first that holds `at`."""
        branch = self.store.current_branch
        likely = [_Place("branch", branch)] if branch else [self._place, *known]
        for place in likely:
            if place in known:
                listed = place.log(self.store.repo)
                if at is None or any(version.id == at.id for version in listed):
                    return place, listed
        if at is None:
            return self._place, Log(self._place.name, (), truncated=False)
        place = _Place("version", at.id)
        return place, place.log(self.store.repo)

    def _show(self) -> None:
        at = self.store.version
        rows = self._listed.versions[::-1]
        index = next((i for i, version in enumerate(rows) if at and version.id == at.id), None)
        with self._silence(self.places, self.versions, self.slider):
            self.places.options = tuple(place.label for place in self._places)
            self.places.index = self._places.index(self._place)
            self.versions.options = tuple(_label(version) for version in rows)
            self._rows = rows
            self.versions.disabled = not rows
            # A slider of one position is an error in the browser.
            self.slider.max = max(1, len(rows) - 1)
            self.slider.layout.display = None if len(rows) > 1 else "none"
        self._point(index)
        self._show_version()
        self._show_contents()

    def _point(self, index: int | None) -> None:
        """Let dropdown and slider show one row."""
        with self._silence(self.versions, self.slider):
            self.versions.index = index
            self.slider.value = index or 0

    @contextmanager
    def _silence(self, *widgets: W.Widget) -> Iterator[None]:
        """Change widgets without taking that for an event: new ``options`` select the first row and say so."""
        before, self._quiet = self._quiet, True
        try:
            with _held(*widgets):
                yield
        finally:
            self._quiet = before

    def _show_version(self) -> None:
        version = self.version
        lines = [_muted(line) for line in self._standing()]
        if version is None:
            self.about.value = "".join(lines)
            return
        message = Lines((*version.message.splitlines()[1:], version.byline()))
        changed = show(self.store.repo, version.id).diff
        text = to_html(Report(version.summary(), (message,))) + _details(changed) + "".join(lines)
        self.about.value = f'<div style="line-height:1.5">{text}</div>'

    def _standing(self) -> Iterator[str]:
        """Say in sentences what can be done where the store stands."""
        branch, index = self.store.current_branch, self.versions.index
        newer = len(self._rows) - (0 if index is None else index + 1)
        if not self._rows:
            yield f"{self._place.label} holds no version yet. Commit one, then press Refresh."
        elif index is None:
            yield "The store stands before the first version: choose one."
        elif self.store.opened_read_only:
            yield "The store is open read-only."
        elif branch is None:
            yield "The store stands on this version, read-only. To write, choose the newest version of a branch."
        elif newer:
            back = count(newer, "version")
            yield f"The store stands on branch {branch}, {back} back; transactions start at the newest."
        else:
            yield f"The store stands on branch {branch}; transactions commit there."
        if self._listed.truncated:
            further = f'store.checkout("{self._listed.of}~{LIMIT}")'
            yield f"Only the newest {LIMIT:,} versions are listed; {further} goes further back."

    def _show_contents(self) -> None:
        version = self.version
        self.contents.value = ""
        with _Reporting(self.contents, "This cannot be shown as a dataset."):
            names = _groups(_pinned(self.store, version)) if version else ()
            self._offer_groups(names)
            if names:
                # In a narrow window it scrolls by itself instead of being cut off.
                self.contents.value = f'<div style="overflow-x:auto">{self.dataset._repr_html_()}</div>'
            elif version:
                self.contents.value = _muted("This version holds no array.")

    def _offer_groups(self, names: tuple[str, ...]) -> None:
        with self._silence(self.groups):
            self.groups.options = names
            wanted = self._wanted_group if self._wanted_group in names else next(iter(names), None)
            self.groups.index = None if wanted is None else names.index(wanted)
            self.groups.layout.display = "none" if names in ((), ("/",)) else None

    # -- without a browser ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        number = f"the newest {LIMIT:,} versions" if self._listed.truncated else count(len(self._rows), "version")
        return f"VersionPicker({to_text(Report(self._listed.of))}, {number})"

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, Any]:
        """Return the live view, and a table of the versions for pages that have no kernel."""
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        return {**bundle, "text/plain": repr(self), "text/html": self._listed._repr_html_()}


@dataclass(frozen=True)
class _Place:
    """A branch, a tag, or a version that is on none of them."""

    kind: str
    name: str

    @property
    def label(self) -> str:
        return to_text(Report(f"{self.kind} {self.words}"))

    @property
    def words(self) -> str:
        return short(self.name) if self.kind == "version" else self.name

    def log(self, repo: icechunk.Repository) -> Log:
        """Return its versions, newest first."""
        match self.kind:
            case "branch":
                at = repo.lookup_branch(self.name)
            case "tag":
                at = repo.lookup_tag(self.name)
            case _:
                at = self.name
        return logs.log(repo, at, of=self.words, limit=LIMIT)

    def enter(self, store: IcechunkStore) -> None:
        """Move a store to its newest version."""
        if self.kind == "branch":
            store.switch(self.name)
        else:
            store.checkout(f"tags/{self.name}" if self.kind == "tag" else self.name)

    def choose(self, store: IcechunkStore, version: Version) -> None:
        """Move a store to one of its versions; on the newest of a branch it can be written again."""
        if self.kind == "branch" and refs.tip(store.repo, self.name) == version.id:
            store.switch(self.name)
        else:
            store.checkout(version)


class _Reporting:
    """Shows errors in a widget, where they would vanish otherwise; those that are nobody's mistake go on."""

    # What storage, the store and xarray answer to what a person chose: nothing to be seen in a traceback.
    EXPECTED = (IcemagicError, icechunk.IcechunkError, OSError, ValueError, KeyError)

    def __init__(self, alert: W.HTML, *before: str) -> None:
        self._alert = alert
        self._before = before

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        words = str(error) if isinstance(error, IcemagicError) else f"{type(error).__name__}: {error}"
        lines = "".join(f"<div>{_text(line)}</div>" for line in (*self._before, *words.splitlines()[:3]))
        style = "color:var(--jp-error-color1,#b71c1c);line-height:1.5"
        self._alert.value = f'<div role="alert" style="{style}">{lines}</div>'
        return isinstance(error, self.EXPECTED)


# ipywidgets keeps every widget until it is closed, so a cell that is run again leaves its picker behind, unseen.
_following: deque[ReferenceType[VersionPicker]] = deque(maxlen=FOLLOWERS)


def _follow_cells(picker: VersionPicker) -> None:
    """Let a picker follow its store after each cell of the notebook."""
    from IPython import get_ipython

    _following.append(ref(picker))
    shell = get_ipython()
    if shell is not None:
        shell.events.register("post_run_cell", _after_cell)


def _after_cell(_result: object) -> None:
    for picker in _followers():
        picker.follow()


def _followers() -> list[VersionPicker]:
    pickers = (reference() for reference in tuple(_following))
    return [picker for picker in pickers if picker is not None and picker.comm is not None]


def _place_of(store: IcechunkStore) -> tuple[str, str | None]:
    """Return where a store stands, without asking its storage."""
    return store.session.snapshot_id, store.current_branch


def _pinned(store: IcechunkStore, version: Version) -> icechunk.IcechunkStore:
    return store.repo.readonly_session(snapshot_id=version.id).store


def _groups(store: icechunk.IcechunkStore) -> tuple[str, ...]:
    """Return the paths of the groups that hold arrays, sorted; the root group is ``/``."""
    import zarr

    members = zarr.open_group(store, mode="r").members(max_depth=None)
    return tuple(sorted({f"/{path.rpartition('/')[0]}" for path, node in members if isinstance(node, zarr.Array)}))


def _label(version: Version) -> str:
    names = f" ({', '.join(version.refs)})" if version.refs else ""
    return to_text(Report(f"{version.summary()} · {utc(version.time)}{names}"))


def _details(changed: Diff | None) -> str:
    if changed is None:
        return _muted("What it changed is not known: the version before it expired.")
    if changed.is_empty:
        return _muted("It changed no array, group or attribute.")
    compared = to_html(Report(f"compared with {changed.a}", changed.parts()))
    # As the output of a cell, or the cells of the tables stand too close.
    style = 'class="jp-OutputArea-output jp-RenderedHTMLCommon" style="overflow-x:auto;box-sizing:border-box"'
    tables = f"<div {style}>{compared}</div>"
    return f'<details><summary style="cursor:pointer">{_text(changed.summary())}</summary>{tables}</details>'


def _text(words: str) -> str:
    """Return words without control characters, not too long, and escaped: W.HTML takes them as they are."""
    return html.escape(to_text(Report(words)))


def _muted(words: str) -> str:
    return f'<div style="color:var(--jp-content-font-color2,inherit);line-height:1.5">{_text(words)}</div>'


@contextmanager
def _held(*widgets: W.Widget) -> Iterator[None]:
    """Send what changes to the browser at the end, in one message a widget."""
    if not widgets:
        yield
        return
    with widgets[0].hold_sync(), _held(*widgets[1:]):
        yield
