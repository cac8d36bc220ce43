"""The one table of what can be typed after ``%ice``: parser, help, completion and the README are made from it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from icemagic.display import Lines, Report, Shown, Table
from icemagic.errors import IcemagicError

Completes = Literal["ref", "branch", "store", "variable", "verb", "path", "nothing"]


class CommandError(IcemagicError, ValueError):
    """What was typed after ``%ice`` cannot be read."""


@dataclass(frozen=True)
class Argument:
    """One argument or option of a verb."""

    names: tuple[str, ...]
    help: str
    completes: Completes = "nothing"
    settings: tuple[tuple[str, Any], ...] = ()
    """Keywords for argparse, such as ``("nargs", "?")``."""

    @property
    def is_option(self) -> bool:
        """Whether it starts with a dash."""
        return self.names[0].startswith("-")

    @property
    def is_switch(self) -> bool:
        """Whether it is an option without a value."""
        return dict(self.settings).get("action") == "store_true"

    def typed(self) -> str:
        """Return how it is typed."""
        settings = dict(self.settings)
        if self.is_switch:
            return f"[{self.names[0]}]"
        if self.is_option:
            return f"[{self.names[0]} {settings['metavar']}]"
        word = str(settings.get("metavar", self.names[0].upper()))
        return f"[{word}]" if settings.get("nargs") == "?" else word


@dataclass(frozen=True)
class Verb:
    """One verb: ``%ice NAME``."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    on_store: bool = True
    """Whether it works on an open store, and so takes ``--store``."""

    @property
    def everything(self) -> tuple[Argument, ...]:
        """All arguments, ``--store`` included."""
        return (*self.arguments, STORE) if self.on_store else self.arguments


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _given(name: str, help: str, completes: Completes = "nothing", **settings: Any) -> Argument:  # noqa: A002, ANN401
    return Argument((name,), help, completes, tuple(settings.items()))


STORE = _given("--store", "work on the store of this name instead of the one opened last", "store", metavar="NAME")
_AS = _given("--as", "name of the variable; default: store", "nothing", dest="name", metavar="NAME", default="store")
_SETTINGS = _given(
    "--storage-config",
    "variable that holds a dict with region, credentials and so on",
    "variable",
    dest="storage_config",
    metavar="VARIABLE",
)
_REF = _given("ref", "version; default: where the store stands", "ref", nargs="?", default="HEAD")
_URL = _given("url", "path or URL: stores/site/kind, s3://…, gs://…, az://…, http(s)://…, memory:NAME", "path")

DEFAULT_BRANCH = "main"

VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "open",
            "open a store and bind it to a variable",
            (
                _URL,
                _given("--create", "create it when there is none", action="store_true"),
                _AS,
                _given("--read-only", "refuse every write", action="store_true"),
                _given(
                    "--branch",
                    "branch to stand on; default: main",
                    dest="branch",
                    metavar="NAME",
                    default=DEFAULT_BRANCH,
                ),
                _given("--version", "stand on this version instead", "ref", metavar="REF"),
                _SETTINGS,
            ),
            on_store=False,
        ),
        Verb("create", "create a store and bind it to a variable", (_URL, _AS, _SETTINGS), on_store=False),
        Verb(
            "close",
            "close a store and remove its variable",
            (_given("name", "its variable", "store", nargs="?"),),
            on_store=False,
        ),
        Verb(
            "stores",
            "list the open stores, and the sites below a folder",
            (_given("folder", "folder of <site>/<kind>; default: stores", "path", nargs="?", default="stores"),),
            on_store=False,
        ),
        Verb("status", "where the store stands, what is not committed, what to do next"),
        Verb(
            "log",
            "the versions, newest first",
            (
                _REF,
                Argument(
                    ("-n", "--limit"),
                    "how many",
                    "nothing",
                    (("type", _at_least_one), ("default", 20), ("metavar", "N")),
                ),
            ),
        ),
        Verb("show", "one version: message, changes, and the cell that made it", (_REF,)),
        Verb(
            "diff",
            "what differs between two versions: A..B, A B, or one version and the one before it",
            (
                _given("a", "version or A..B", "ref", nargs="?", default="HEAD"),
                _given("b", "version", "ref", nargs="?"),
            ),
        ),
        Verb("tree", "groups and arrays, and what lies in storage"),
        Verb(
            "tag",
            "name a version for good; without a name: list the tags",
            (_given("name", "name of the tag", nargs="?"), _REF),
        ),
        Verb(
            "branch",
            "start a branch at a version; without a name: list the branches",
            (_given("name", "name of the branch", nargs="?"), _REF),
        ),
        Verb("switch", "stand on the newest version of a branch", (_given("branch", "branch", "branch"),)),
        Verb("checkout", "stand on a version, read-only", (_given("ref", "version", "ref"),)),
        Verb("refresh", "move to the newest version of the branch"),
        Verb("discard", "throw away what the open transaction changed so far"),
        Verb("config", "each setting, its value and where it came from"),
        Verb(
            "help",
            "this table, or one verb in full",
            (_given("verb_asked", "verb", "verb", metavar="VERB", nargs="?"),),
            on_store=False,
        ),
    )
}


_OPTIONS = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message[0].upper()}{message[1:]}.", " ".join(self.format_usage().split()))


def parser(verb: Verb) -> argparse.ArgumentParser:
    """Return the parser of everything after ``%ice VERB``."""
    # Without help of its own: argparse's would end the kernel with sys.exit.
    one = _Parser(prog=f"%ice {verb.name}", add_help=False, allow_abbrev=False)
    for argument in verb.everything:
        one.add_argument(*argument.names, help=argument.help, **dict(argument.settings))
    return one


def usage(verb: Verb) -> str:
    """Return how a verb is typed, in one line; of many options only the first two."""
    options = [argument.typed() for argument in verb.arguments if argument.is_option]
    values = [argument.typed() for argument in verb.arguments if not argument.is_option]
    return " ".join([f"%ice {verb.name}", *values, *options[:_OPTIONS], *(["…"] if len(options) > _OPTIONS else [])])


@dataclass(frozen=True, repr=False)
class Help(Shown):
    """All verbs, or one of them in full."""

    verb: Verb | None = None

    def _report(self) -> Report:
        if self.verb is None:
            rows = [(usage(verb), verb.help) for verb in VERBS.values()]
            rows.append(('%%commit "message"', "the cell is one transaction"))
            return Report("icemagic: version control for arrays", (Table(("type", "to"), tuple(rows)),))
        rows = [(", ".join(argument.names), argument.help) for argument in self.verb.everything]
        return Report(usage(self.verb), (Lines((self.verb.help,)), Table(("argument", "meaning"), tuple(rows))))


def readme_table() -> str:
    """Return the table of verbs as Markdown, for the README."""
    rows = [(usage(verb), verb.help) for verb in VERBS.values()]
    rows.append(('%%commit "message"', "the cell is one transaction: it commits as a whole or not at all"))
    return "\n".join(["| type | to |", "|---|---|", *(f"| `{typed}` | {help_} |" for typed, help_ in rows)])
