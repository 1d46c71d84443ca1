"""The page itself: its policy, its style and its script, its header and sections, and its file."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from fastcore.xml import FT, H2, A, Body, Header, Nav, Section, to_xml

from learner.checkpoint.atomic import replacing
from learner.records.files import writing


def write_page(path: Path, title: str, body: FT) -> None:
    """Write a page to a file, which has its name when it is whole: a page that was there is there until then.

    Raises:
        LearnerError: if the file cannot be written.
    """
    text = page(title, body)
    with writing(path), replacing(path) as file:
        file.write(text.encode(errors="replace"))  # names may hold what no encoding knows


def body_of(lines: Sequence[FT], sections: Sequence[tuple[str, Any]], cards: Sequence[FT]) -> FT:
    """Return the body of a page: a header with links to its sections, and the sections.

    Args:
        lines: what the header begins with.
        sections: titles, and the content of each; one without content is left out.
        cards: what the header ends with.
    """
    shown = [(title, content) for title, content in sections if content]
    links = [A(title, href=f"#{_anchor(title)}") for title, _ in shown]
    header = Header(*lines, Nav(*links, aria_label="sections"), *cards)
    return Body(header, *[Section(H2(title), *content, id=_anchor(title)) for title, content in shown])


def _anchor(title: str) -> str:
    """Return the name by which a section is linked to."""
    return re.sub(r"\W+", "-", title.lower())


def page(title: str, body: FT) -> str:
    """Return a whole page, with its style and its script in it.

    Whatever stands in the body and is no element is text, of any type. Its policy lets the browser load nothing, send
    nothing and run nothing but this script: also if a name that somebody gave a class were taken for one.
    """
    files = resources.files(__package__)
    style, script = (files.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash_of(style)}; script-src {_hash_of(script)}; "
        f"form-action 'none'; base-uri 'none'"
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{style}</style>\n</head>\n{to_xml(_as_text(body), indent=False)}\n<script>{script}</script>\n</html>\n"
    )


def _as_text(part: Any) -> Any:
    """Return an element with all that it holds as elements and strings: fastcore escapes nothing else."""
    if not isinstance(part, FT):
        return "" if part is None else str(part)
    return FT(part.tag, tuple(map(_as_text, part.children)), part.attrs, part.void_)


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
