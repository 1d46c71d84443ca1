"""The table of all callbacks, made from the code: what each does, its arguments, order, what it reads and writes."""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOMS = ("train", "measure", "keep", "watch", "samples", "show", "loggers", "speed", "scale")


class Row(NamedTuple):
    """What the table says of a callback."""

    name: str
    room: str
    does: str
    arguments: str
    order: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def rows() -> list[Row]:
    """Return a row for each callback, by room and name."""
    import callbacks
    from learner import Callback

    classes = [getattr(callbacks, name) for name in callbacks.__all__]
    found = [_row(cls) for cls in classes if inspect.isclass(cls) and issubclass(cls, Callback)]
    return sorted(found, key=lambda row: ((*ROOMS, row.room).index(row.room), row.name.lower()))


def _row(cls: type) -> Row:
    parts = cls.__module__.split(".")
    signature = inspect.signature(cls)
    arguments = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    reads, writes = _state(cls)
    return Row(
        name=cls.__name__,
        room=parts[1] if len(parts) > 2 else "",
        does=" ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()),
        arguments=", ".join(map(str, arguments)),
        order=f"{cls.order:g}" if isinstance(cls.order, int | float) else str(cls.order),
        reads=tuple(sorted(reads)),
        writes=tuple(sorted(writes)),
    )


def _state(cls: type) -> tuple[set[str], set[str]]:
    """Return which of the learner's state the code of a callback reads and sets, that of its bases included."""
    from learner import Learner

    state = {name for name in Learner.__annotations__ if not name.startswith("_")}
    state |= {name for name, value in vars(Learner).items() if isinstance(value, property)}
    reads: set[str] = set()
    writes: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.startswith("callbacks."):
            for node in _nodes(base):
                if node.attr in state:
                    (reads if isinstance(node.ctx, ast.Load) else writes).add(node.attr)
    return reads - writes, writes


def _nodes(cls: type) -> list[ast.Attribute]:
    """Return where the class, or a function of its module, takes an attribute of the learner."""
    module = sys.modules[cls.__module__]
    functions = [value for value in vars(module).values() if inspect.isfunction(value)]
    own = [cls, *(value for value in functions if value.__module__ == cls.__module__)]
    trees = [ast.parse(textwrap.dedent(inspect.getsource(one))) for one in own]
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [node for node in found if isinstance(node.value, ast.Name) and node.value.id == "learn"]


class CallbackTable(SphinxDirective):
    """Write a table for each room, below its name and question."""

    def run(self) -> list[nodes.Node]:
        """Return all tables."""
        found = rows()
        lines: list[str] = []
        for room in dict.fromkeys(row.room for row in found):
            module = "callbacks" if not room else f"callbacks.{room}"
            about = (importlib.import_module(module).__doc__ or "").split("\n")[0] if room else "Any function as one."
            lines += [f"## {room or 'anything'}", "", about, "", "```{list-table}", ":class: callbacks"]
            lines += [":header-rows: 1", "", *_cells("callback", "what it does", "arguments", "order", "reads", "sets")]
            for row in (row for row in found if row.room == room):
                link = f"{{py:class}}`~callbacks.{row.name}`"
                parts = _code(row.arguments), row.order, _code(*row.reads), _code(*row.writes)
                lines += _cells(link, re.sub(r"(?<!`)`(?!`)", "`", row.does), *parts)
            lines += ["```", ""]
        node = nodes.section()
        node.document = self.state.document
        source = str(Path(__file__).name)
        self.state.nested_parse(StringList(lines, source=source), 0, node, match_titles=True)
        return node.children


def _cells(*cells: str) -> list[str]:
    return [f"{'*' if i == 0 else ' '} - {cell}".rstrip() for i, cell in enumerate(cells)]


def _code(*names: str) -> str:
    return " ".join(f"`{name}`" for name in names if name)


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("callback-table", CallbackTable)
    return {"parallel_read_safe": True}
