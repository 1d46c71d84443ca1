"""Docstrings are read as Markdown by people, and as reStructuredText by Sphinx: tables are written anew for it."""

import re
from collections.abc import Iterable
from typing import Any


def with_lists(lines: Iterable[str]) -> list[str]:
    """Return lines with a blank one before each list and after it, as reStructuredText wants it."""
    done: list[str] = []
    is_list = False
    for line in lines:
        starts = re.match(r"\s*- ", line) is not None
        if starts and not is_list and done and done[-1].strip():
            done.append("")
        is_list = starts or (is_list and line.startswith("  ") and bool(line.strip()))
        done.append(line)
    return done


def with_tables(lines: Iterable[str]) -> list[str]:
    """Return lines with each table of Markdown as a `list-table`."""
    done: list[str] = []
    table: list[str] = []
    for line in [*lines, ""]:
        if line.lstrip().startswith("|"):
            table.append(line)
            continue
        if table:
            done += _list_table(table)
            table = []
        done.append(re.sub(r"(?<!\\)\|(\w+)\|", r"\|\1\|", line))  # an absolute value, and no substitution
    return done[:-1]


def _list_table(lines: list[str]) -> list[str]:
    indent = " " * (len(lines[0]) - len(lines[0].lstrip()))
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]
    head, *body = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    has_head = any(head)
    text = ["", f"{indent}.. list-table::", *([f"{indent}   :header-rows: 1"] if has_head else []), ""]
    for row in [head, *body] if has_head else body:
        for i, cell in enumerate(row):
            text.append(f"{indent}   {'*' if i == 0 else ' '} - {cell}".rstrip())
    return [*text, ""]


def with_code(lines: list[str]) -> list[str]:
    """Return lines that say of an indented block after a colon and a blank line that it is code."""
    done = list(lines)
    for i, line in enumerate(lines[:-2]):
        indent = len(line) - len(line.lstrip())
        is_block = not lines[i + 1].strip() and lines[i + 2].startswith(" " * (indent + 4))
        if line.endswith(":") and is_block and not lines[i + 2].lstrip().startswith((">>>", "- ")):
            done[i] = f"{line}:"
    return done


def rewrite(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Write a docstring anew, in place."""
    lines[:] = with_code(with_lists(with_tables(lines)))


def leave_out(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the handlers of the library's callbacks, which the loop calls, and what checkpoints call."""
    from learner.callback import SIGNALS
    from learner.loop.naming import ACTIONS

    handlers = {*SIGNALS, *ACTIONS, *(f"around_{action}" for action in ACTIONS)}
    handlers |= {"state_dict", "load_state_dict", "differences", "trained_weights", "join_states", "empty_state"}
    return True if name in handlers and (getattr(obj, "__module__", "") or "").startswith("callbacks.") else None


def setup(app: Any) -> dict[str, bool]:
    """Have docstrings rewritten before napoleon reads them."""
    app.connect("autodoc-process-docstring", rewrite, priority=400)
    app.connect("autodoc-skip-member", leave_out)
    return {"parallel_read_safe": True}
