"""The page itself: its policy, its style and its script, and whatever body it is given."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources

from fastcore.xml import FT, to_xml


def page(title: str, body: FT) -> str:
    """Return a whole page, with its style and its script in it.

    Its policy lets the browser load nothing, and run nothing but this script: also if a name that somebody gave a class
    were taken for one.
    """
    files = resources.files(__package__)
    style, script = (files.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = f"default-src 'none'; img-src data:; style-src {_hash_of(style)}; script-src {_hash_of(script)}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{style}</style>\n</head>\n{to_xml(body, indent=False)}\n<script>{script}</script>\n</html>\n"
    )


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
