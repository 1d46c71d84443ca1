"""Read a tree of packages from its source: which module imports which, when, and by which name."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One module imports another, or a name of it."""

    file: Path  # relative to the root of the tree
    line: int
    source: str  # dotted names of modules
    target: str
    name: str | None  # None if the module itself is imported
    at_run_time: bool  # False below `if TYPE_CHECKING:`

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.source} imports {self.target}"


class Tree:
    """The modules below `root` of some packages, and the imports between them, those inside functions too."""

    def __init__(self, root: Path, packages: tuple[str, ...]):
        files = sorted(file.relative_to(root) for package in packages for file in (root / package).rglob("*.py"))
        self.files = {dotted(file): file for file in files}
        self._sources = {module: ast.parse((root / file).read_text()) for module, file in self.files.items()}
        self.imports = [each for module in self.files for each in self._imports_of(module)]
        for module, file in self.files.items():
            if (stub := root / file.with_suffix(".pyi")).is_file():  # the names that a door resolves when asked for
                names = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
                for node in names:
                    target = f"{module}.{node.module}"
                    self.imports += [
                        Import(file.with_suffix(".pyi"), node.lineno, module, target, a.name, True) for a in node.names
                    ]

    def circle(self) -> list[str]:
        """Return modules that import one another in a circle at run time, or an empty list."""
        graph = {module: set() for module in self.files}
        for each in self.imports:
            if each.at_run_time and each.source != each.target:
                graph[each.source].add(each.target)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            return error.args[1]
        return []

    def private_names(self) -> list[str]:
        """Return each place where a file uses a private name of another one."""
        found = [f"{each} its {each.name}" for each in self.imports if each.name and is_private(each.name)]
        for module, tree in self._sources.items():
            bound = {}  # what a name in this file says: a module of the tree
            for node in ast.walk(tree):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    bound |= self._bound_modules(node)
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and is_private(node.attr) and first_name(node) in bound:
                    owner, _, rest = ast.unparse(node.value).partition(".")
                    target = ".".join(filter(None, (bound.get(owner), rest)))
                    if target in self.files and target != module:
                        found.append(f"{self.files[module]}:{node.lineno}: {module} uses {target}.{node.attr}")
        return found

    def _imports_of(self, module: str) -> Iterator[Import]:
        for node, at_run_time in imports_in(self._sources[module]):
            for alias in node.names:
                target, name = alias.name, None
                if isinstance(node, ast.ImportFrom):
                    target, name = f"{node.module}.{alias.name}", None
                    if target not in self.files:
                        target, name = node.module, alias.name
                if target in self.files:
                    yield Import(self.files[module], node.lineno, module, target, name, at_run_time)

    def _bound_modules(self, node: ast.Import | ast.ImportFrom) -> dict[str, str]:
        prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        bound = {}
        for alias in node.names:
            if prefix or alias.asname:
                bound[alias.asname or alias.name] = prefix + alias.name
            else:  # `import a.b` binds `a`
                top = alias.name.partition(".")[0]
                bound[top] = top
        return {name: module for name, module in bound.items() if module in self.files}


def dotted(file: Path) -> str:
    """Return the name by which a file is imported."""
    parts = file.parent.parts if file.name == "__init__.py" else file.with_suffix("").parts
    return ".".join(parts)


def first_name(node: ast.AST) -> str | None:
    """Return `a` of `a.b.c`; None of what does not begin with a name."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def imports_in(node: ast.AST, at_run_time: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield every import statement below a node, and whether it runs or is there for type checkers alone."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, at_run_time
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from imports_in(child, at_run_time=False)
        for child in node.orelse:
            yield from imports_in(child, at_run_time)
    else:
        for child in ast.iter_child_nodes(node):
            yield from imports_in(child, at_run_time)
