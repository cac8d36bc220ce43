"""The one table of what can be typed after ``%ice``: parser, help, completion and the README are made from it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from icemagic.display import Lines, Report, Shown, Table
from icemagic.errors import IcemagicError

Completes = Literal["ref", "branch", "store", "variable", "verb", "path", "array", "side", "nothing"]


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
            typed = f"{self.names[0]} {settings['metavar']}"
            return typed if settings.get("required") else f"[{typed}]"
        word = str(settings.get("metavar", self.names[0].upper()))
        return {"?": f"[{word}]", "*": f"[{word} …]"}.get(str(settings.get("nargs")), word)


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

_MESSAGE = _given("message", "what the commit is about, in quotes", metavar='"message"')
_NEEDED_REF = _given("ref", "version", "ref")
_ARRAY = _given("array", "path of an array or group; default: everything", "array", nargs="?")
_ONE_ARRAY = _given("array", "path of an array", "array")
_REGION = "DIM=LABEL[/LABEL]"
_SEL = _given(
    "--sel",
    "region in coordinates, such as epoch=2025-01-01T10:00/2025-01-01T11:00; may be repeated",
    action="append",
    default=[],
    metavar=_REGION,
)
_YES = _given("--yes", "do exactly what the plan shown last says", action="store_true")
_SEL = _given(
    "--sel",
    "region in coordinates, such as epoch=2025-01-01T10:00/2025-01-01T11:00; may be repeated",
    action="append",
    default=[],
    metavar="DIM=LABEL[/LABEL]",
)
_JSON = _given("--json", "text for another program: id, refs, time, author, message, parents", action="store_true")
_MANY: Mapping[str, Any] = {"nargs": "+", "default": [], "metavar": "ARRAY"}

COMMIT_OPTIONS = (
    _given("--dry-run", "show what would be committed and what each check says; commit nothing", action="store_true"),
    _given("--only", "refuse when another array changes", **_MANY),
    _given("--max-chunks", "refuse when more chunks change", type=int, metavar="N"),
    _given("--no-delete", "refuse when an array or group is removed or cut", action="store_true"),
    _given(
        "--expect",
        'refuse unless this is true of the dataset ds, such as "ds.SNR.max() < 60"; may be repeated',
        action="append",
        default=[],
        metavar="EXPRESSION",
    ),
    _given("--prune", "leave out chunks that were written with the bytes they had", action="store_true"),
    _given("--ours", "in a conflict, take these arrays as changed here", **_MANY),
    _given("--theirs", "in a conflict, take these arrays as the other commit has them", **_MANY),
)
_RETRY = _given("--retry", "in a conflict, run the cell again on the newest version", action="store_true")

_BRINGING = (
    _given("--dry-run", "show what would change and what is in conflict; change nothing", action="store_true"),
    _given("--ours", "in a conflict, take this branch's side of everything", action="store_true"),
    _given("--theirs", "in a conflict, take the other side of everything", action="store_true"),
    _given(
        "--array",
        "in a conflict, take one array, or the rows of a dimension, from ours or theirs; may be repeated",
        action="append",
        default=[],
        metavar="NAME=SIDE",
    ),
    Argument(("-m", "--message"), "what the commit is about", "nothing", (("metavar", "TEXT"), ("default", None))),
)

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
        Verb("status", "where the store stands, what is not committed, whether it would conflict, what to do next"),
        Verb(
            "log",
            "the versions, newest first: all, or those that one wrote, say or touch something",
            (
                _REF,
                Argument(
                    ("-n", "--limit"),
                    "how many are listed",
                    "nothing",
                    (("type", _at_least_one), ("default", 20), ("metavar", "N")),
                ),
                _given("--author", "regular expression that the author's name holds", metavar="NAME", default=""),
                _given("--grep", "regular expression that the message holds", metavar="TEXT", default=""),
                _given("--since", "as old as this date or newer, such as 2024-05-01 or '2 days ago'", metavar="DATE"),
                _given("--until", "as old as this date or older; a day means its start", metavar="DATE"),
                _given(
                    "--path",
                    "array or group that was touched, or something in it, wherever it lay then; may be repeated",
                    "array",
                    metavar="ARRAY",
                    action="append",
                    default=[],
                ),
                _given("--all", "list what all branches and tags hold", action="store_true"),
                _given("--graph", "draw the lines between versions, and list what was merged in", action="store_true"),
                _JSON,
            ),
        ),
        Verb("show", "one version: message, changes, and the cell that made it", (_REF,)),
        Verb("code", "the source of the cell that made a version", (_REF,)),
        Verb("replay", "put the cell that made a version into a new cell, where nothing runs by itself", (_REF,)),
        Verb(
            "diff",
            "what differs between two versions, or one and the one before it; also the open work (WORKING), stores, "
            "datasets and netCDF files",
            (
                _given("a", "version, A..B, WORKING, store, dataset or file", "side", nargs="?"),
                _given("b", "the other side", "side", nargs="?"),
                _given("array", "path of the one array or group to compare; may stand before", "array", nargs="?"),
                _given("--values", "compare values; only chunks that differ are read", action="store_true"),
                _given("--atol", "absolute tolerance; asks for values", type=float, default=0.0, metavar="NUMBER"),
                _given("--rtol", "relative tolerance; asks for values", type=float, default=0.0, metavar="NUMBER"),
                _SEL,
                _given("--json", "show it as JSON", action="store_true"),
                _given("--md", "show it as Markdown", action="store_true"),
            ),
        ),
        Verb("blame", "which version last wrote each chunk of an array, with maps", (_ONE_ARRAY, _REF, _SEL)),
        Verb(
            "history",
            "the value of a point, or the mean of a region, at every version that changed it",
            (
                _ONE_ARRAY,
                _given(
                    "labels",
                    "the point or region, such as epoch=2025-01-01T10:00 sid=G01|L1|C; without a dimension: all of it",
                    nargs="*",
                    default=[],
                    metavar=_REGION,
                ),
                _given("--version", "up to this version", "ref", metavar="REF", default="HEAD"),
            ),
        ),
        Verb("why", "which versions last wrote an array or a region of it, and their cells", (_ONE_ARRAY, _REF, _SEL)),
        Verb("tree", "groups and arrays, and what lies in storage"),
        Verb(
            "tag",
            "name a version for good; without a name: list the tags",
            (
                _given("name", "name of the tag", "ref", nargs="?"),
                _REF,
                _given("--delete", "delete the tag; its name cannot be given again", action="store_true"),
            ),
        ),
        Verb(
            "branch",
            "start a branch at a version; without a name: list the branches",
            (
                _given("name", "name of the branch", "branch", nargs="?"),
                _REF,
                _given("--delete", "delete the branch; undo brings it back", action="store_true"),
            ),
        ),
        Verb("switch", "stand on the newest version of a branch", (_given("branch", "branch", "branch"),)),
        Verb("checkout", "stand on a version, read-only", (_given("ref", "version", "ref"),)),
        Verb("refresh", "move to the newest version of the branch"),
        Verb("merge", "bring all that a branch, tag or version has into the branch", (_NEEDED_REF, *_BRINGING)),
        Verb("cherry-pick", "repeat on the branch what one version changed", (_NEEDED_REF, *_BRINGING)),
        Verb(
            "promote",
            "move the branch forward to one that was made on top of it; undo takes it back",
            (_NEEDED_REF, _given("--dry-run", "show what would change; move nothing", action="store_true")),
        ),
        Verb("begin", "open a transaction that lasts over several cells; a cell that fails leaves nothing in it"),
        Verb("commit", "commit what was changed since begin", (_MESSAGE, *COMMIT_OPTIONS)),
        Verb("discard", "throw away what the open transaction changed so far"),
        Verb(
            "stash",
            "put uncommitted work away; list: what was put away; pop: take it out again",
            (
                _given(
                    "what",
                    "push (the default), list or pop",
                    nargs="?",
                    metavar="push/list/pop",
                    choices=("push", "list", "pop"),
                    default="push",
                ),
                _given("which", "for pop: number or id of the stash; default: 0, the newest", nargs="?", default="0"),
                Argument(
                    ("-m", "--message"), "what the work is about", "nothing", (("metavar", "TEXT"), ("default", ""))
                ),
            ),
        ),
        Verb(
            "rescue",
            "list the versions that no branch or tag holds; with a name: make one of them a branch",
            (_given("ref", "version", nargs="?"), _given("name", "name of the new branch", nargs="?")),
        ),
        Verb("undo", "take back the last commit, amend or reset of the branch, or deletion of a branch"),
        Verb("redo", "do again what undo took back"),
        Verb("revert", "commit the opposite of one version", (_REF,)),
        Verb(
            "restore",
            "commit a state in which everything, an array or a region is as it was in a version",
            (
                _NEEDED_REF,
                _ARRAY,
                _SEL,
            ),
        ),
        Verb("reset", "move the branch to another version; undo takes it back", (_NEEDED_REF,)),
        Verb("amend", "give your own last commit a better message", (_MESSAGE,)),
        Verb(
            "guard",
            "the guards that the store carries for all its users; with options: change them",
            (
                _given("array", "path of an array of which something is demanded", "array", nargs="?"),
                _given(
                    "--protect", "refuse commits to, resets and deletion of this branch", "branch", metavar="BRANCH"
                ),
                _given("--unprotect", "take that back", "branch", metavar="BRANCH"),
                _given("--dtype", "data type that the array must have", metavar="DTYPE"),
                _given("--units", "its attribute units", metavar="UNITS"),
                _given("--range", "its smallest and largest valid value", metavar="LOW/HIGH"),
                _given("--increasing", "each value must be larger than the one before", action="store_true"),
                _given("--unique", "no value may occur twice", action="store_true"),
                _given("--forget", "demand nothing of the array any more", action="store_true"),
            ),
        ),
        Verb("du", "bytes by kind, by array, and what each version added and holds alone"),
        Verb(
            "expire",
            "plan to forget old versions; --yes does what the plan says",
            (
                _given("--before", "forget versions older than this date", metavar="DATE"),
                _given("--keep", "keep at least this many versions of every branch", type=_at_least_one, metavar="N"),
                _given("--branch", "branches that may go, too", nargs="+", default=[], metavar="NAME"),
                _given("--tag", "tags that may go, too", nargs="+", default=[], metavar="NAME"),
                _YES,
            ),
        ),
        Verb(
            "gc",
            "plan to delete data that no version needs; --yes does what the plan says",
            (
                _given("--before", "delete only what is older; default: one day", metavar="DATE"),
                _given("--recent", "allow a date younger than one day", action="store_true"),
                _YES,
            ),
        ),
        Verb("doctor", "what could be mended, and how"),
        Verb("upgrade", "plan to bring a repository of format 1 to format 2; --yes does it", (_YES,)),
        Verb("config", "each setting, its value and where it came from"),
        Verb(
            "help",
            "this table, or one verb in full",
            (_given("verb_asked", "verb", "verb", metavar="VERB", nargs="?"),),
            on_store=False,
        ),
    )
}

CELL = Verb(
    "%%commit",
    "the cell is one transaction: it commits as a whole or not at all",
    (_MESSAGE, *COMMIT_OPTIONS, _RETRY),
)
"""The cell magic, which takes what ``%ice commit`` takes, and ``--retry``."""

BISECT = Verb(
    "%%bisect",
    "the cell is a test: find the first version that fails it, by halving",
    (
        _given("--good", "version that passes, an ancestor of the bad one", "ref", metavar="REF", required=True),
        _given("--bad", "version that fails; default: where the store stands", "ref", metavar="REF", default="HEAD"),
    ),
)
"""The cell magic that looks for a version."""

CELLS: Mapping[str, Verb] = {"commit": CELL, "bisect": BISECT}
"""The cell magics by their names."""

_OPTIONS = 2


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]  # the words are always given
        # Read in one go, an argument that may be left out counts as left out where an option stands before it.
        return super().parse_args(args) if "--" in args else self.parse_intermixed_args(args)

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message[0].upper()}{message[1:]}.", " ".join(self.format_usage().split()))


def parser(verb: Verb) -> argparse.ArgumentParser:
    """Return the parser of everything after ``%ice VERB``."""
    # Without help of its own: argparse's would end the kernel with sys.exit.
    one = _Parser(prog=typed_name(verb), add_help=False, allow_abbrev=False)
    for argument in verb.everything:
        one.add_argument(*argument.names, help=argument.help, **dict(argument.settings))
    # Said here, because parse_intermixed_args says it without doubling the percent sign, which then means a format.
    one.usage = one.format_usage().removeprefix("usage: ").replace("%", "%%")
    return one


def typed_name(verb: Verb) -> str:
    """Return how a verb begins."""
    return verb.name if verb in CELLS.values() else f"%ice {verb.name}"


def usage(verb: Verb) -> str:
    """Return how a verb is typed, in one line; of many options only the first two."""
    options = [argument.typed() for argument in verb.arguments if argument.is_option]
    values = [argument.typed() for argument in verb.arguments if not argument.is_option]
    return " ".join([typed_name(verb), *values, *options[:_OPTIONS], *(["…"] if len(options) > _OPTIONS else [])])


@dataclass(frozen=True, repr=False)
class Help(Shown):
    """All verbs, or one of them in full."""

    verb: Verb | None = None

    def _report(self) -> Report:
        if self.verb is None:
            rows = [(usage(verb), verb.help) for verb in (*VERBS.values(), *CELLS.values())]
            return Report("icemagic: version control for arrays", (Table(("type", "to"), tuple(rows)),))
        rows = [(", ".join(argument.names), argument.help) for argument in self.verb.everything]
        return Report(usage(self.verb), (Lines((self.verb.help,)), Table(("argument", "meaning"), tuple(rows))))


def readme_table() -> str:
    """Return the table of verbs as Markdown, for the README."""
    rows = [(usage(verb), verb.help) for verb in (*VERBS.values(), *CELLS.values())]
    return "\n".join(["| type | to |", "|---|---|", *(f"| `{typed}` | {help_} |" for typed, help_ in rows)])
