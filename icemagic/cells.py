"""Runs the body of a ``%%commit`` or ``%%bisect`` cell as IPython would run the cell itself.

A cell magic is called synchronously and cannot await. So when the body awaits, a transformer puts ``await`` before the
call of the magic, which then returns a coroutine; IPython runs that in its own loop. The body is compiled under the
name and line numbers of the outer cell, so that a traceback shows the lines that the user typed.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from IPython.core.displayhook import DisplayHook

if TYPE_CHECKING:
    from types import CodeType

    from IPython.core.interactiveshell import InteractiveShell

_CALLS = tuple(f"get_ipython().run_cell_magic('{name}', " for name in ("commit", "bisect"))
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)*")


@dataclass(frozen=True)
class Body:
    """The compiled body of a cell."""

    steps: tuple[CodeType, ...]
    """All statements, then the last expression, where there is one."""
    quiet: bool
    """Whether a semicolon silences the last expression."""

    @property
    def awaits(self) -> bool:
        """Whether it must be awaited."""
        return any(_is_coroutine(step) for step in self.steps)

    async def run(self, shell: InteractiveShell) -> Any:  # noqa: ANN401  the value of the user's expression
        """Run it in the user's namespace and return the value of its last expression.

        Raises
        ------
        HiddenFailureError
            When something inside, such as ``%%capture`` or ``%run``, showed an error and went on.
        """
        __tracebackhide__ = True
        shown = _last_shown()
        value = None
        for step in self.steps:
            value = eval(step, shell.user_global_ns, shell.user_ns)  # noqa: S307  running the cell is what is asked for
            if _is_coroutine(step):
                value = await value
        if _last_shown() is not shown:
            raise HiddenFailureError
        return None if self.quiet else value


class HiddenFailureError(Exception):
    """The body showed an error and went on."""


def compile_body(shell: InteractiveShell, cell: str) -> Body:
    """Compile the body of a cell magic under the outer cell's name and line numbers."""
    outer = shell.displayhook.exec_result  # the ExecutionResult of the running cell
    raw = outer.info.raw_cell.rstrip() if outer is not None else ""
    body = cell.rstrip()
    head = raw[: len(raw) - len(body)] if raw.endswith(body) else "%%commit\n"
    head += _leading_blank_lines(cell)  # transform_cell drops them
    source = shell.transform_cell(cell)
    number = outer.execution_count if outer is not None else shell.execution_count
    name = shell.compile.cache(head + source, number, raw_code=raw or None)
    tree = shell.transform_ast(shell.compile.ast_parse("\n" * head.count("\n") + source, filename=name))
    nodes = tree.body
    shows = bool(nodes) and isinstance(nodes[-1], ast.Expr) and shell.ast_node_interactivity != "none"
    last = nodes.pop() if shows else None
    units: list[tuple[Any, str]] = [(ast.Module(nodes, []), "exec")] if nodes else []
    if isinstance(last, ast.Expr):
        units.append((ast.Expression(last.value), "eval"))
    with shell.compile.extra_flags(_await_flag(shell)):
        steps = tuple(shell.compile(node, name, mode) for node, mode in units)
    return Body(steps, quiet=DisplayHook.semicolon_at_end_of_expression(source))


def await_magic(shell: InteractiveShell, lines: list[str]) -> list[str]:
    """Put ``await`` before the magic where its body awaits; an input transformer without side effects.

    A body that Python cannot read is handed to IPython bare, at the right line: it reports the error and nothing runs.
    """
    if not lines or not lines[0].startswith(_CALLS):
        return lines
    body = _body_of_call("".join(lines))
    if body is None:
        return lines
    source = shell.transform_cell(body)
    above = "\n" * (1 + _leading_blank_lines(body).count("\n"))
    try:
        tree: Any = shell.compile.ast_parse(source)  # said to give any node; it gives a module
    except SyntaxError:
        return [above, *source.splitlines(keepends=True)]
    awaits = False
    for statement in tree.body:
        # IPython runs the statements before it reads the next one, so a faulty one is handed over without the others.
        code = _compiled(shell, ast.Module([statement], []))
        if code is None:
            alone = "\n" * (statement.lineno - 1) + (ast.get_source_segment(source, statement) or "")
            return [above, *f"{alone}\n".splitlines(keepends=True)]
        awaits = awaits or _is_coroutine(code)
    return [f"await {lines[0]}", *lines[1:]] if awaits else lines


def _compiled(shell: InteractiveShell, tree: Any) -> CodeType | None:  # noqa: ANN401  said to take text, takes trees
    try:
        # Warnings of the compiler are for the run itself; a kernel transforms every cell twice.
        with shell.compile.extra_flags(_await_flag(shell)), warnings.catch_warnings(action="ignore"):
            return shell.compile(tree, "<cell>", "exec")
    except SyntaxError:
        return None


def _body_of_call(source: str) -> str | None:
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return None
    match statements:
        case [ast.Expr(value=ast.Call(args=[_, _, ast.Constant(value=str(body))]))]:
            return body
    return None  # somebody else's line that happens to begin alike


def _leading_blank_lines(cell: str) -> str:
    blank = _BLANK_LINES.match(cell)
    return blank[0] if blank else ""


def _await_flag(shell: InteractiveShell) -> int:
    return ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if shell.autoawait else 0


def _is_coroutine(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_COROUTINE)


def _last_shown() -> object:
    """Return the exception that IPython displayed last; it changes whenever a traceback is shown."""
    return getattr(sys, "last_value", None)
