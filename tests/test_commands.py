"""The table of verbs and what is made from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from icemagic.commands import CELLS, VERBS, Argument, CommandError, Help, parser, readme_table, usage
from icemagic.magics import IceMagic
from shells import Typed, fresh_shell


def value(argument: Argument) -> str:
    """Return a word that an argument reads."""
    settings = dict(argument.settings)
    return settings["choices"][-1] if "choices" in settings else "3" if "type" in settings else "x"


@pytest.fixture
def shell() -> Iterator[Typed]:
    with fresh_shell() as typed:
        typed.get("%load_ext icemagic")
        yield typed


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_has_a_help_of_its_own_that_names_all_that_it_takes(shell: Typed, name: str):
    text = str(shell.get(f"%ice help {name}"))
    verb = VERBS[name]
    assert text.startswith(usage(verb))
    assert verb.help in text
    for argument in verb.everything:
        assert argument.help in text
        assert all(typed in text for typed in argument.names)


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_reads_what_its_help_says(name: str):
    verb = VERBS[name]
    words = []
    for argument in verb.everything:
        if argument.is_option:
            words += [argument.names[-1], *([] if argument.is_switch else [value(argument)])]
    if values := [value(argument) for argument in verb.arguments if not argument.is_option]:
        words += ["--", *values]
    parser(verb).parse_args(words)
    if any(dict(argument.settings).get("nargs") == "*" for argument in verb.arguments):
        return  # takes any number of words
    with pytest.raises(CommandError, match=f"usage: %ice {name}"):
        parser(verb).parse_args([*words, "one-too-many"])


@pytest.mark.parametrize("asked", ["bisect", "%%bisect", "%%commit"])
def test_a_cell_magic_has_a_help_of_its_own_too(shell: Typed, asked: str):
    verb = CELLS[asked.removeprefix("%%")]
    text = str(shell.get(f"%ice help {asked}"))
    assert text.startswith(usage(verb))
    assert all(name in text for argument in verb.everything for name in argument.names)


def test_a_cell_magic_reads_what_its_help_says_and_needs_what_is_not_in_brackets():
    read = parser(CELLS["bisect"]).parse_args(["--good", "v1", "--bad", "HEAD~1", "--store", "other"])
    assert (read.good, read.bad, read.store) == ("v1", "HEAD~1", "other")
    with pytest.raises(CommandError, match="usage: %%bisect --good REF"):
        parser(CELLS["bisect"]).parse_args(["--bad", "v1"])


@pytest.mark.parametrize("line", ["x --sel t=1 v1", "x v1 --sel t=1", "--sel t=1 x v1", "--sel t=1 -- x v1"])
def test_a_version_that_may_be_left_out_is_read_before_and_after_options(line: str):
    read = parser(VERBS["blame"]).parse_args(line.split())
    assert (read.array, read.ref, read.sel) == ("x", "v1", ["t=1"])


@pytest.mark.parametrize(("verb", "line"), [("blame", ""), ("blame", "x y z"), ("switch", ""), ("log", "-n 0")])
def test_what_cannot_be_read_is_answered_with_the_usage(verb: str, line: str):
    with pytest.raises(CommandError, match=f"\nusage: %ice {verb} "):
        parser(VERBS[verb]).parse_args(line.split())


@pytest.mark.parametrize("magic", [IceMagic.ice, IceMagic.icechunk])
def test_the_question_mark_shows_every_verb(magic: object):
    assert all(f"%ice {name}" in (magic.__doc__ or "") for name in VERBS)


def test_the_question_mark_answers_in_a_shell(shell: Typed, capsys: pytest.CaptureFixture[str]):
    shell.get("%ice?")
    assert "stand on the newest version of a branch" in capsys.readouterr().out


@pytest.mark.parametrize("text", [str(Help()), readme_table()], ids=["help", "readme"])
def test_every_verb_stands_in_the_table_once(text: str):
    for verb in (*VERBS.values(), *CELLS.values()):
        assert text.count(usage(verb)) >= 1
        assert text.count(verb.help) == 1


def test_the_table_for_the_readme_has_two_columns_in_every_row():
    assert all(row.count("|") == 3 for row in readme_table().splitlines())


def test_words_of_the_help_end_without_a_full_stop():
    for verb in (*VERBS.values(), *CELLS.values()):
        for text in (verb.help, *(argument.help for argument in verb.everything)):
            assert not text.endswith(".")
            assert text == text.strip()
