"""A directive that documents the public names of a package: those of its `__all__`, so none is forgotten."""

import importlib
import inspect
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


def public_names(package: str, room: str | None = None) -> list[str]:
    """Return the public names of a package, or those that one of its rooms defines."""
    door = importlib.import_module(package)
    inside = package if room is None else f"{package}.{room}"
    modules = {name: f"{getattr(door, name).__module__}." for name in door.__all__}
    return [name for name, module in modules.items() if room is None or module.startswith(f"{inside}.")]


class PublicNames(SphinxDirective):
    """Document each public name of a package: `{public-names} callbacks`.

    `:room: train` takes those of a room alone, `:first: Learner Callback` begins with these.
    """

    required_arguments = 1
    option_spec = {"room": directives.unchanged, "first": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Return the documentation of all."""
        package = self.arguments[0]
        first = self.options.get("first", "").split()
        lines = []
        for name in [*first, *(name for name in public_names(package, self.options.get("room")) if name not in first)]:
            thing = getattr(importlib.import_module(package), name)
            lines += [f".. auto{_kind(thing)}:: {package}.{name}", ""]
        node = nodes.section()
        node.document = self.state.document
        source = StringList(lines, source=f"public names of {package}")
        self.state.nested_parse(_in_rst(source, self), 0, node)
        return node.children


def _kind(thing: Any) -> str:
    if inspect.isclass(thing):
        return "exception" if issubclass(thing, BaseException) else "class"
    return "function"


def _in_rst(lines: StringList, directive: SphinxDirective) -> StringList:
    """Return lines within a directive of MyST that reads reStructuredText, since autodoc writes that."""
    text = ["```{eval-rst}", *lines, "```"]
    return StringList(text, source=directive.get_source_info()[0])


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
