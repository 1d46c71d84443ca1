"""The one place that tells a person something: a line on the console, which never ends what it tells of."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Literal

from learner.ranks.job import is_other_process


def tell(text: str, to: Literal["stdout", "stderr"] = "stdout") -> None:
    r"""Write a line to a standard stream, if there is one that takes it.

    A program without a console has none, a pipe may be closed at the other end, and a console may not have the
    characters of a name: these are then written as `\xe4` or `\u8bad`.
    """
    stream = getattr(sys, to)
    if is_other_process() and to == "stdout":  # the first one says it
        return
    if stream is None:  # as of pythonw and of some services
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError):  # ValueError: it has been closed
        stream.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()  # a killed run leaves its lines in the log


def is_terminal(stream: Any) -> bool:
    """Tell whether a standard stream is there and is a terminal, which shows what changes in place."""
    with suppress(ValueError):  # it has been closed
        return stream is not None and bool(stream.isatty())
    return False
