"""The page itself: its policy, its style and its script, and whatever body it is given."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources
from typing import Any

from fastcore.xml import FT, to_xml


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
