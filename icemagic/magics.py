"""The IPython magics: ``%ice`` (also ``%icechunk``), ``%%commit`` and ``%%bisect``.

A shell: it reads a line, calls one method of the store, returns its record, and turns an error into one line plus the
next thing to type. The stores that it works on are the variables of the notebook; it keeps no second list of them.
"""

from __future__ import annotations

import argparse
import keyword
import os
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.display import display
from IPython.utils.text import DollarFormatter
from traitlets import Float

from icemagic import answers, commands, layout, provenance
from icemagic.answers import ON_STORE
from icemagic.cells import Body, HiddenFailureError, await_magic, compile_body
from icemagic.commands import VERBS, CommandError, Help, Verb
from icemagic.completion import Completer
from icemagic.config import load_config
from icemagic.display import Shown, size
from icemagic.errors import ConflictError, IcemagicError, StoreNotFoundError, TransactionError, did_you_mean
from icemagic.guards import Checks
from icemagic.lines import commit_line, paths, read, read_commit
from icemagic.progress import COMPARING, progress
from icemagic.provenance import Cell
from icemagic.records import Committed, Note, OpenStores, Rehearsal
from icemagic.redaction import REDACTED
from icemagic.savepoints import Savepoints
from icemagic.store import IcechunkStore
from icemagic.transaction import Terms, Transaction
from icemagic.trials import Trial

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from icemagic.merge import Side

_OF_THE_SHELL = ("commit", "diff", "replay")
"""Verbs on a store that need the shell, too."""
_TRIES = 5
DEFAULT_NAME = "store"
"""Variable to which a store is bound unless ``--as`` says otherwise."""


class IceError(UsageError):
    """A mistake of the user, in one or two lines without a traceback.

    A subclass of ``UsageError``, because IPython prints a plain one to stderr only, where nbval and "Run All" miss it.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


_UNREACHABLE = "Check the address, the network and the credentials, then run it again."
_DAMAGED = "The repository is damaged: something else removed or changed its files. Restore them from a copy."
_SIGNS_OF_DAMAGE = ("invalid-file-format", "object-not-found")
_FULL = "Make room where the repository lies, then run it again."
_SIGNS_OF_FULL = ("(os error 28)", "(os error 27)", "(os error 122)")  # no space, file too large, quota


def _hint(error: icechunk.IcechunkError) -> str:
    """Say what to do about an error of icechunk's, where that can be told."""
    if error.kind in _SIGNS_OF_DAMAGE:
        return _DAMAGED
    if any(sign in error.message for sign in _SIGNS_OF_FULL):
        return _FULL
    return _UNREACHABLE if error.kind == "object-store" else ""


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn the errors that are meant for people into `IceError`."""
    try:
        yield
    except icechunk.IcechunkError as error:
        text = error.message.splitlines()[0] if error.message else str(error.kind)
        raise IceError(f"icechunk says: {text} ({error.kind})\n{_hint(error)}".rstrip()) from error
    except (IcemagicError, OSError) as error:
        raise IceError(str(error)) from error


@magics_class
class IceMagic(Magics):
    """``%ice``, ``%icechunk``, ``%%commit`` and ``%%bisect``; ``%config IceMagic`` shows what can be set."""

    progress_after = Float(2.0, help="Seconds after which a running %%commit or %%bisect shows how far it is.").tag(
        config=True
    )

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell)
        self._shell = shell  # Magics.shell may be None
        self._name = DEFAULT_NAME
        self.completer = Completer(self.open_stores, lambda: self.open_stores().get(self._name))
        self.savepoints = Savepoints(self.open_stores)
        self.transform = lambda lines: await_magic(shell, lines)

    # -- stores --------------------------------------------------------------------------------------------------------

    def open_stores(self) -> Mapping[str, IcechunkStore]:
        """Return the stores that the notebook's variables hold."""
        variables = list(self._shell.user_ns.items())
        return {
            name: value for name, value in variables if isinstance(value, IcechunkStore) and not name.startswith("_")
        }

    def _store(self, name: str | None) -> IcechunkStore:
        stores = self.open_stores()
        wanted = name or self._name
        if wanted in stores:
            return stores[wanted]
        if name:
            raise CommandError(f"No open store is called {name!r}.", did_you_mean(name, stores))
        if stores:
            hint = f"Say which with --store: {', '.join(sorted(stores))}."
            raise CommandError(f"No store is called {wanted!r}.", hint)
        raise CommandError("No store is open.", "Open one: %icechunk open PATH_OR_URL (--create makes a new one).")

    def _bind(self, name: str, store: IcechunkStore) -> Shown:
        self._name = name
        self._shell.user_ns[name] = store
        return store.status()

    # -- line magics ---------------------------------------------------------------------------------------------------

    @no_var_expand
    @line_magic
    def ice(self, line: str) -> Shown | None:
        """Run one verb."""
        return self._read_and_run(line)

    @no_var_expand
    @line_magic
    def icechunk(self, line: str) -> Shown | None:
        """Run one verb."""
        return self._read_and_run(line)

    # What %ice? shows.
    ice.__doc__ = icechunk.__doc__ = f"{Help()}"

    def _read_and_run(self, line: str) -> Shown | None:
        typed = line.strip()
        name, _, rest = typed.removesuffix(";").partition(" ")
        with _in_one_line():
            verb = VERBS.get(name or "help")
            if verb is None:
                raise CommandError(f"There is no verb {name!r}.", f"{did_you_mean(name, VERBS)} %ice help lists them.")
            arguments = read_commit(verb, rest) if verb.name == "commit" else read(verb, rest)
            answer = self._run(verb, arguments)
        return None if typed.endswith(";") else answer

    def _run(self, verb: Verb, arguments: argparse.Namespace) -> Shown:
        if not verb.on_store or verb.name in _OF_THE_SHELL:
            return getattr(self, f"_do_{verb.name}")(arguments)  # type: ignore[no-any-return]
        if verb.name == "config" and not self.open_stores():
            return load_config()
        return ON_STORE[verb.name](self._store(arguments.store), arguments)

    def _do_open(self, arguments: argparse.Namespace) -> Shown:
        self._check_name(arguments.name)
        url, settings = self._url(arguments.url), self._settings(arguments.storage_config)
        try:
            store = IcechunkStore.open(
                url,
                version=arguments.version,
                branch=arguments.branch,
                read_only=arguments.read_only,
                storage_config=settings,
            )
        except StoreNotFoundError:
            if not arguments.create or arguments.version or arguments.branch != commands.DEFAULT_BRANCH:
                raise
            store = IcechunkStore.open_or_create(url, read_only=arguments.read_only, storage_config=settings)
        return self._bind(arguments.name, store)

    def _do_create(self, arguments: argparse.Namespace) -> Shown:
        self._check_name(arguments.name)
        settings = self._settings(arguments.storage_config)
        return self._bind(arguments.name, IcechunkStore.create(self._url(arguments.url), storage_config=settings))

    def _do_close(self, arguments: argparse.Namespace) -> Shown:
        store = self._store(arguments.name)
        store.close()
        name = arguments.name or self._name
        del self._shell.user_ns[name]
        return Note(f"closed {name}: {store.url}")

    def _do_stores(self, arguments: argparse.Namespace) -> Shown:
        found = layout.sites(arguments.folder) if Path(arguments.folder).is_dir() else None
        return OpenStores({name: store.status() for name, store in self.open_stores().items()}, self._name, found)

    def _do_commit(self, arguments: argparse.Namespace) -> Shown:
        store, terms = self._store(arguments.store), self._terms(arguments)
        if arguments.dry_run:
            if store.begun is None:
                raise TransactionError(
                    "No transaction was begun.", "%ice begin opens one that lasts over several cells."
                )
            return store.begun.rehearse(terms)
        cell = self.savepoints.cells(store.begun, self.running_cell())
        return store.commit(arguments.message, terms=terms, cell=cell)

    def _do_diff(self, arguments: argparse.Namespace) -> Shown:
        store = self._store(arguments.store)
        store.compared = (0, 0)
        with progress(lambda: _compared(store), words=COMPARING, after=self.progress_after):
            return answers.diff(store, arguments, self._shell.user_ns)

    def _do_replay(self, arguments: argparse.Namespace) -> Shown:
        found = self._store(arguments.store).code(arguments.ref)
        source, version = found.runnable(), found.version
        hints = ["nothing was run: read it, then run it"]
        if found.origin.magic == commands.CELL.name:
            source = f"{commit_line(version.message, arguments.store)}\n{source}"
        if version.checks:
            hints.append(f"it was committed with checks, whose options are not repeated: {version.checks}")
        if found.is_redacted or REDACTED in version.message:
            hints.append(f"secrets were not recorded: fill in what {REDACTED} stands for")
        self._shell.set_next_input(source, replace=False)
        return Note(f"the next cell is the one that made {version.summary()}", tuple(hints))

    def _do_help(self, arguments: argparse.Namespace) -> Shown:
        if arguments.verb_asked is None:
            return Help()
        verb = VERBS.get(arguments.verb_asked) or commands.CELLS.get(arguments.verb_asked.removeprefix("%%"))
        if verb is None:
            raise CommandError(f"There is no verb {arguments.verb_asked!r}.", did_you_mean(arguments.verb_asked, VERBS))
        return Help(verb)

    def _check_name(self, name: str) -> None:
        # A name with an underscore in front stands for something of IPython's, or for nothing that is to be listed.
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise CommandError(f"A variable cannot be called {name!r}.", "For example: --as reference")
        held = self.open_stores().get(name)
        if held is not None and held.in_transaction:
            raise TransactionError(f"{name} is in a transaction and cannot be replaced.", "Use --as NAME.")

    def _url(self, typed: str) -> str:
        """Expand ``{variable}`` and ``$variable``, as other line magics do, but never leave a misspelt one as it is."""
        if not re.search(r"[{}$]", typed):
            return typed
        try:
            return DollarFormatter().vformat(typed, (), self._shell.user_ns)
        except (NameError, LookupError, AttributeError, SyntaxError, TypeError, ValueError) as error:
            text = f"The variables in {typed!r} cannot be filled in: {error}."
            raise CommandError(text, "Write {{, }} and $$ where these characters belong to the name.") from None

    def _settings(self, name: str | None) -> Mapping[str, object] | None:
        if name is None:
            return None
        settings = self._shell.user_ns.get(name)
        if not isinstance(settings, Mapping):
            text = f"{name!r} is no dict in this notebook."
            raise CommandError(text, f'For example: {name} = {{"region": "us-east-1", "credentials": "auto"}}')
        return settings

    # -- the cell magic ------------------------------------------------------------------------------------------------

    @no_var_expand
    @cell_magic
    def commit(self, line: str, cell: str) -> Shown | Coroutine[Any, Any, Shown]:
        """Run the cell as one transaction: it commits as a whole or not at all.

        ``%%commit "message" [--store NAME]``; ``%ice help commit`` lists the options. Top-level ``await`` works;
        ``%%commit`` must then be the outermost magic.
        """
        __tracebackhide__ = True
        with _in_one_line():
            arguments = read_commit(commands.CELL, line)
            store = self._store(arguments.store)
            if store.in_transaction:
                raise TransactionError(
                    "A %%commit cell cannot run inside another transaction.", "Commit that one first."
                )
            terms = self._terms(arguments)
        body = compile_body(self._shell, cell)
        recorded = replace(self._cell(cell.strip("\n")), magic=commands.CELL.name)
        running = self._tries(store, arguments, terms, body, recorded)
        return running if body.awaits else _run_to_the_end(running)

    async def _tries(
        self, store: IcechunkStore, arguments: argparse.Namespace, terms: Terms, body: Body, cell: Cell
    ) -> Shown:
        """Run the transaction, with ``--retry`` again on the newest version when others changed the same."""
        __tracebackhide__ = True
        for left in reversed(range(_TRIES if arguments.retry else 1)):
            try:
                return await self._transaction(store, arguments, terms, body, cell)
            except IceError as error:
                if not left or not isinstance(error.__cause__, ConflictError):
                    raise
        raise AssertionError("the last try returns or raises")

    async def _transaction(
        self, store: IcechunkStore, arguments: argparse.Namespace, terms: Terms, body: Body, cell: Cell
    ) -> Shown:
        __tracebackhide__ = True
        started = time.perf_counter()
        with ExitStack() as stack:
            with _in_one_line():
                txn = stack.enter_context(store.transaction(cell=cell))
            try:
                with progress(
                    lambda: size(store.bytes_written), words=("writing:", "wrote"), after=self.progress_after
                ):
                    value = await body.run(self._shell)
                    with _in_one_line():
                        changes = txn.changes()
                        if arguments.dry_run and not changes.is_empty:
                            return _rehearsed(txn, terms)
                        if changes.is_empty:
                            txn.discard()  # what was written is what was there
                        else:
                            txn.commit(arguments.message, terms=terms)
            except HiddenFailureError:
                text = "Something in the cell showed an error and went on, so nothing was committed."
                raise IceError(f"{text}\nMend it, or take it out of the cell, and run the cell again.") from None
            except BaseException as error:  # interrupts, too: whatever ended the cell, say what became of the commit
                error.add_note(txn.fate())
                raise
        seconds = time.perf_counter() - started
        if value is not None and not _is_writer(value):
            display(value)
        if txn.version is None:
            return Note("Nothing was changed, so nothing was committed.")
        return Committed(txn.version, txn.branch, changes, seconds)

    @no_var_expand
    @cell_magic
    def bisect(self, line: str, cell: str) -> Shown | Coroutine[Any, Any, Shown]:
        """Run the cell, a test, on versions between a good and a bad one, and show the first that fails it.

        ``%%bisect --good REF [--bad REF] [--store NAME]``. In the cell the store stands on the version that is tested,
        read-only. An ``assert`` that fails, or a last expression that is not true, means bad; a version on which the
        cell raises anything else is skipped. What it prints is not shown; what it assigns stays. Top-level ``await``
        works; ``%%bisect`` must then be the outermost magic.
        """
        __tracebackhide__ = True
        with _in_one_line():
            arguments = read(commands.BISECT, line)
            store = self._store(arguments.store)
        body, source = compile_body(self._shell, cell), self._shell.transform_cell(cell)
        name = arguments.store or self._name
        trial = Trial(self._shell, store, name, replace(body, quiet=False), source, after=self.progress_after)
        running = _in_one_line_awaited(trial.bisect(arguments.good, arguments.bad))
        return running if body.awaits else _run_to_the_end(running)

    def _terms(self, arguments: argparse.Namespace) -> Terms:
        """Return the checks and choices that the options ask for."""
        checks = Checks(
            only=paths(arguments.only),
            max_chunks=arguments.max_chunks,
            no_delete=arguments.no_delete,
            expect={text: self._question(text) for text in arguments.expect},
        )
        sides: tuple[Side, Side] = ("ours", "theirs")
        choices = {f"/{path}": side for side in sides for path in paths(getattr(arguments, side))}
        return Terms(checks, choices, prune=arguments.prune)

    def _question(self, text: str) -> Callable[[object], object]:
        """Return a function of the dataset that answers an expression in the notebook's own variables."""
        try:
            code = compile(text, "<--expect>", "eval")
        except SyntaxError as error:
            raise CommandError(
                f"{text!r} cannot be read: {error.msg}.", 'For example: --expect "ds.SNR.max() < 60"'
            ) from None
        return lambda ds: eval(code, self._shell.user_global_ns, {**self._shell.user_ns, "ds": ds})  # noqa: S307  asked

    def _cell(self, source: str) -> Cell:
        outer = self._shell.displayhook.exec_result  # the shell's own count may stand on the next cell already
        count = self._shell.execution_count if outer is None else outer.execution_count
        return Cell(source, count, _notebook_name(self._shell))

    def running_cell(self) -> Cell | None:
        """Return the cell that runs, for transactions that are opened with ``with store.transaction(...)``."""
        outer = self._shell.displayhook.exec_result
        return None if outer is None else self._cell(outer.info.raw_cell)


def _run_to_the_end[T](running: Coroutine[Any, Any, T]) -> T:
    """Run what awaits nothing; so there is one path for cells that await and for those that do not."""
    __tracebackhide__ = True
    try:
        running.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("a body without await suspended itself")


async def _in_one_line_awaited(running: Coroutine[Any, Any, Shown]) -> Shown:
    __tracebackhide__ = True
    with _in_one_line():
        return await running


def _compared(store: IcechunkStore) -> str:
    done, total = store.compared
    return f"{100 * done // max(1, total)} % of {total:,} values"


def _rehearsed(txn: Transaction, terms: Terms) -> Rehearsal:
    rehearsal = txn.rehearse(terms)
    txn.discard()
    return rehearsal


def _is_writer(value: object) -> bool:
    """Whether it is what ``to_zarr`` returns: a handle, of no interest as the last line of a cell."""
    return type(value).__module__ == "xarray.backends.zarr"


def _notebook_name(shell: InteractiveShell) -> str | None:
    """Return the file name of the notebook where the front end tells it (Jupyter Server 2 and VS Code do)."""
    path = os.environ.get("JPY_SESSION_NAME") or shell.user_ns.get("__vsc_ipynb_file__")
    return re.split(r"[/\\]", path)[-1] if isinstance(path, str) and path.endswith(".ipynb") else None


_loaded: dict[InteractiveShell, IceMagic] = {}


def load(shell: InteractiveShell) -> None:
    """Register the magics, the completion and the names that a notebook uses without importing them."""
    from icemagic.ingest import preprocess_dataset
    from icemagic.widgets import VersionPicker

    magics = _loaded[shell] = IceMagic(shell)
    shell.register_magics(magics)
    shell.input_transformers_post.append(magics.transform)
    shell.Completer.custom_matchers.append(magics.completer.matcher)
    shell.events.register("pre_run_cell", magics.savepoints.before_cell)
    shell.events.register("post_run_cell", magics.savepoints.after_cell)
    provenance.running_cell = magics.running_cell
    for value in (IcechunkStore, VersionPicker, preprocess_dataset):
        shell.user_ns.setdefault(value.__name__, value)


def unload(shell: InteractiveShell) -> None:
    """Undo `load`; open stores stay open."""
    magics = _loaded.pop(shell)
    provenance.running_cell = provenance.no_cell
    shell.events.unregister("pre_run_cell", magics.savepoints.before_cell)
    shell.events.unregister("post_run_cell", magics.savepoints.after_cell)
    shell.Completer.custom_matchers.remove(magics.completer.matcher)
    shell.input_transformers_post.remove(magics.transform)
    shell.configurables.remove(magics)  # type: ignore[arg-type]  # else %config keeps talking to an instance that nobody uses
    for kind, name in (("line", "ice"), ("line", "icechunk"), *(("cell", name) for name in commands.CELLS)):
        shell.magics_manager.magics[kind].pop(name, None)
    magics.completer.close()
