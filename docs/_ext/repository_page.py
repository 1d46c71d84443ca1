"""A directive that shows a page of the repository that is no page of the site: `{repository-page} CHANGELOG.md`."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


def page_text(path: str) -> str:
    """Return a page of the repository below its title, its links as those of a page in `docs/`.

    What is linked and is on the site stays a link; of the rest the text stays.
    """
    file = ROOT / path
    _, _, text = file.read_text().partition("\n")

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        there = (file.parent / target).resolve()
        if there.is_relative_to(ROOT / "docs"):
            return f"[{match[1]}]({there.relative_to(ROOT / 'docs')}{'#' * bool(anchor)}{anchor})"
        return match[1]

    text = re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)", link, text)
    return text.lstrip()


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


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("repository-page", RepositoryPage)
    return {"parallel_read_safe": True}
