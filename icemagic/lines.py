"""Reads the lines that are typed after a magic, and writes them."""

from __future__ import annotations

import argparse
import os
import re
from contextlib import suppress

from IPython.utils.process import arg_split  # type: ignore[attr-defined]  # its documented home

from icemagic import commands
from icemagic.commands import CommandError, Verb

# The message ends at the first quote of its kind after which only options follow, so that it may hold quotes itself.
_MESSAGE = re.compile(
    r"""\s*(?:(?:-m|--message)[\s=]+)?(?P<quote>["'])(?P<message>.*?)(?P=quote)(?P<rest>(?:\s+--.*)?)\s*"""
)


def _words(line: str) -> list[str]:
    """Split a line as a shell does; the spaces inside ``@{2 days ago}`` do not split."""
    whole = re.sub(r"@\{[^}]*\}", lambda date: re.sub(r"\s", "\0", date[0]), line)
    try:
        split = arg_split(whole, posix=os.name != "nt")
    except ValueError as error:
        hint = "Close the quotation, or write \\' for the mark itself."
        raise CommandError(f"This line cannot be read: {error}.", hint) from None
    return [word.replace("\0", " ") for word in split]


def read(verb: Verb, line: str) -> argparse.Namespace:
    """Read the values and options after a magic or a verb."""
    return commands.parser(verb).parse_args(_words(line))


def read_commit(verb: Verb, line: str) -> argparse.Namespace:
    """Read the message, as typed, and the options after it."""
    found = _MESSAGE.fullmatch(line)
    if found is None or not found["message"].strip():
        raise CommandError(
            "A commit needs a message in quotes.", f'For example: {commands.typed_name(verb)} "Add 2025-01-01"'
        )
    return commands.parser(verb).parse_args([*_words(found["rest"]), "--", found["message"]])


def commit_line(message: str, store: str | None) -> str:
    """Return the line of a ``%%commit`` cell with a message; some messages must stand between single quotes.

    Raises
    ------
    CommandError
        When no quotes give the message back.
    """
    for mark in ('"', "'"):
        line = f"{mark}{message}{mark}{f' --store {store}' if store else ''}"
        with suppress(CommandError):
            if read_commit(commands.CELL, line).message == message:
                return f"{commands.CELL.name} {line}"
    raise CommandError(f"No {commands.CELL.name} line can hold the message {message!r}.", "%ice code shows the cell.")


def paths(words: list[str]) -> tuple[str, ...]:
    """Return the paths among words, which spaces or commas separate."""
    return tuple(path.strip("/") for word in words for path in word.split(",") if path)
