"""Where a training went back to a checkpoint by itself, why, and what it did then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastcore.xml import FT, Code, Li, Ul


def recovered(info: Mapping[str, Any]) -> list[FT]:
    """Return a list of what a `RecoverCallback` did, with the line of code that goes there; none if it did nothing.

    Args:
        info: of the run: `recoveries` is what was done, `checkpoints` the folder of checkpoints.
    """
    lines = [_line(one, info.get("checkpoints")) for one in info.get("recoveries", [])]
    return [Ul(*lines)] if lines else []


def _line(one: Mapping[str, Any], folder: str | None) -> FT:
    epoch, i = one["epoch"], one["i"]
    loss, usual = float(one["loss"]), float(one["usual"])  # text where they are not finite
    where = f"batch {i} of epoch {epoch}: loss {loss:.4g}, and {usual:.4g} before; {one['what']}."
    if folder is None:
        return Li(where)
    return Li(
        f"{where} To stand before it: ", Code(f"with learn.rewind({folder!r}, epoch={epoch}, i={i}) as then: ...")
    )
