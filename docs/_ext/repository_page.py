"""Files of the repository on the site: pages that show one, and links that lead to these pages.

    ```{repository-page} CHANGELOG.md
    ```

shows a page in Markdown below the title of the one that it stands in. Each file of `examples/` becomes a page.
"""

import ast
import re
from os.path import relpath
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = "examples"  # the folder that has them, here and there


def pages() -> dict[Path, Path]:
    """Return which page of the site shows a file of the repository."""
    shown = {file: DOCS / EXAMPLES / f"{file.stem}.md" for file in (ROOT / EXAMPLES).glob("*.py")}
    for page in DOCS.glob("*.md"):
        for path in re.findall(r"^```\{repository-page\} (\S+)$", page.read_text(), flags=re.MULTILINE):
            shown[ROOT / path] = page
    return shown


def linked(text: str, folder: Path, onto: Path) -> str:
    """Return Markdown with its relative links, as from a folder, written as those of a page in another folder.

    A link to a file of the repository leads to the page that shows it; where there is none, its text stays.
    """
    shown = pages()

    def link(match: re.Match[str]) -> str:
        target, hash_sign, anchor = match[2].partition("#")
        there = (folder / target).resolve()
        there = shown.get(there, there)
        return f"[{match[1]}]({relpath(there, onto)}{hash_sign}{anchor})" if there.is_relative_to(DOCS) else match[1]

    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)", link, text)


def page_text(path: str) -> str:
    """Return a page of the repository below its title, its links as those of a page in `docs/`."""
    file = ROOT / path
    _, _, text = file.read_text().partition("\n")
    return linked(text.lstrip(), file.parent, DOCS)


class RepositoryPage(SphinxDirective):
    """Show a page of the repository, below the title of this one."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return what it says."""
        path = self.arguments[0]
        self.env.note_dependency(str(ROOT / path))
        node = nodes.section()
        node.document = self.state.document
        lines = StringList(page_text(path).splitlines(), source=path)
        self.state.nested_parse(lines, 0, node, match_titles=True)
        return node.children


def example_text(file: Path) -> str:
    """Return the page of an example: what it says of itself, its picture, its code."""
    what = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
    name = file.stem
    return f"""---
orphan: true
---

# {file.name}

{what}

![](../pictures/{name}.png)

```{{literalinclude}} ../../{EXAMPLES}/{file.name}
:language: python
```

[All examples](../examples.md)
"""


def write_example_pages(app: Any) -> None:
    """Write a page for each example, before Sphinx looks which pages there are."""
    (DOCS / EXAMPLES).mkdir(exist_ok=True)
    for file in (ROOT / EXAMPLES).glob("*.py"):
        (DOCS / EXAMPLES / f"{file.stem}.md").write_text(example_text(file))


def lead_to_pages(app: Any, name: str, text: list[str]) -> None:
    """Have the links of a page to files of the repository lead to the pages that show them."""
    file = Path(app.env.doc2path(name))
    if file.suffix == ".md":
        text[0] = linked(text[0], file.parent, file.parent)


def setup(app: Any) -> dict[str, bool]:
    """Register the directive, and the pages of examples."""
    app.add_directive("repository-page", RepositoryPage)
    app.connect("builder-inited", write_example_pages)
    app.connect("source-read", lead_to_pages)
    return {"parallel_read_safe": True}
