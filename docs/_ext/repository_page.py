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

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = "examples"  # the folder that has them, here and there
PLACE = re.compile(r"^```\{repository-page\} (\S+)\n```$", flags=re.MULTILINE)


def pages() -> dict[Path, Path]:
    """Return which page of the site shows a file of the repository."""
    shown = {file: DOCS / EXAMPLES / f"{file.stem}.md" for file in (ROOT / EXAMPLES).glob("*.py")}
    for page in DOCS.glob("*.md"):
        for path in PLACE.findall(page.read_text()):
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


def fill_in(app: Any, name: str, text: list[str]) -> None:
    """Put the files of the repository where a page shows them, and have links to such files lead to these pages."""
    file = Path(app.env.doc2path(name))
    if file.suffix != ".md":
        return
    for path in PLACE.findall(text[0]):
        app.env.note_dependency(str(ROOT / path), docname=name)
    text[0] = PLACE.sub(lambda match: page_text(match[1]), linked(text[0], file.parent, file.parent))


def setup(app: Any) -> dict[str, bool]:
    """Write the pages of examples, and fill in what other pages show."""
    app.connect("builder-inited", write_example_pages)
    app.connect("source-read", fill_in)
    return {"parallel_read_safe": True}
