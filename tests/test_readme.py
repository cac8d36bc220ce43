"""What the README shows is what the code says."""

from __future__ import annotations

from pathlib import Path

from icemagic.commands import readme_table

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_holds_the_table_of_verbs():
    _, found, rest = README.read_text().partition("<!-- verbs:start -->")
    table, ended, _ = rest.partition("<!-- verbs:end -->")
    assert found
    assert ended
    right = readme_table()
    assert table.strip() == right, f"put this between the marks in README.md:\n\n{right}\n"
