"""What could not be shown: a section that fails costs the page no more than itself, and the page says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastcore.xml import FT, Div, Li, Strong, Ul


class Notes:
    """Collects the reasons why something is not on the page.

    Example:
        >>> notes = Notes()
        >>> notes.tried("half of it", lambda: 1 / 2), notes.tried("all of it", lambda: 1 / 0)
        (0.5, None)
        >>> notes.lines
        ['All of it: division by zero (ZeroDivisionError)']
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tried(self, what: str, make: Callable[..., Any], *given: Any) -> Any:
        """Return what a function gives; None if it fails, and the page says why.

        Whatever fails: a page that lacks a picture is worth more than none after hours of training.
        """
        try:
            return make(*given)
        except Exception as error:
            self.lines.append(f"{what[0].upper()}{what[1:]}: {error} ({type(error).__name__})")
            return None

    def card(self, what: str = "this run") -> list[FT]:
        """Return a card that lists the reasons; none if all could be shown.

        Args:
            what: is shown on the page.
        """
        if not self.lines:
            return []
        listed = Ul(*[Li(line) for line in dict.fromkeys(self.lines)])
        return [Div(Strong(f"Not all of {what} could be shown"), listed, cls="card notes", role="note")]
