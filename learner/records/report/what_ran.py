"""What ran: the header of the page, and the cards at its end with all that is on record about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from fastcore.xml import FT, H1, H3, Div, P, Span, Strong

from learner.records.report.tables import facts, said

MOST_RATES = 12  # of epochs
MOST_CONFIG = 10  # of it in the header; all is below
Info = Mapping[str, Any]  # `run.json`


def header_lines(info: Info) -> list[FT]:
    """Return the name of a run, how it ended, and in a few lines what it was."""
    learner = info.get("learner", {})
    status = str(info["status"])
    words = [str(info["created"])[:16].replace("T", " ") + " UTC"]
    if "model" in learner:
        words.append(f"{learner['model']}, {learner['n_parameters']:,} parameters")
    words += [str(learner["device"])] if "device" in learner else []
    words += [duration(info["seconds"])] if "seconds" in info else []
    words += [f"{name}, {n_rows:,} rows" for name, n_rows, _ in _tables(info)]
    versions = [f"{name} {version}" for name, version in _versions(info).items()]
    config = [f"{name} {said(value)}" for name, value in info["config"].items()]
    more = [f"and {len(config) - MOST_CONFIG} more"] * (len(config) > MOST_CONFIG)
    lines = [words, [*versions, *_git(info, 10)], [*config[:MOST_CONFIG], *more]]
    known = status if status in ("finished", "failed", "interrupted") else ""
    return [
        Div(H1(str(info["name"])), Span(status, cls=f"status {known}".strip()), cls="title"),
        *[P(" · ".join(line), cls="quiet") for line in lines if line],
    ]


def failure(info: Info) -> list[FT]:
    """Return a card with the error that ended the run; none if none did."""
    return [Div(Strong("It failed. "), str(info["error"]), cls="card notes")] if info.get("error") else []


def what_ran(info: Info, folder: Path) -> list[FT]:
    """Return a card each for the run, its config, the training and the tables."""
    general = [
        ("wall time", duration(info["seconds"]) if "seconds" in info else None),
        ("cut short", info.get("cut_short")),
        ("folder", folder),
        ("command", " ".join(info.get("command", [])) or None),
        ("seed", info.get("seed")),
        ("git", said(_git(info)) or None),
        *_versions(info).items(),
    ]
    tables = [(name, f"{n_rows:,} rows, fingerprint {known}") for name, n_rows, known in _tables(info)]
    training = [(name.replace("_", " "), value) for name, value in info.get("learner", {}).items()]
    training += [("learning rates by epoch", _rates(rates))] if (rates := info.get("learning_rates")) else []
    blocks: dict[str, Sequence[tuple[str, Any]]] = {
        "Run": general,
        "Config": list(info["config"].items()),
        "Training": training,
        "Tables": tables,
    }
    cards = [Div(H3(title), facts(rows), cls="card") for title, rows in blocks.items() if rows]
    return [Div(*cards, cls="cards pictures")]


def duration(seconds: float) -> str:
    """Return seconds in words: "3.2 s" or "1:02:03"."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _rates(rates: Sequence[Sequence[float]]) -> str:
    """Return the rates of each group, an epoch after the other; of many epochs some, the first and the last."""
    chosen = np.unique(np.linspace(0, len(rates) - 1, min(len(rates), MOST_RATES)).round().astype(int))
    told = f" ({len(chosen)} of {len(rates)} epochs)" if len(chosen) < len(rates) else ""
    groups = zip(*[rates[i] for i in chosen], strict=True)
    return "; ".join(" → ".join(f"{rate:.3g}" for rate in group) for group in dict.fromkeys(groups)) + told


def _tables(info: Info) -> list[tuple[str, int, str]]:
    """Return name, number of rows and fingerprint of each table."""
    return [(table["name"], table["n_rows"], known) for known, table in info["tables"].items()]


def _versions(info: Info) -> dict[str, str]:
    return {name: version for name, version in info.get("versions", {}).items() if version}


def _git(info: Info, n_digits: int = 40) -> list[str]:
    git = info.get("git")
    return [f"commit {git['commit'][:n_digits]}{', with changes' * bool(git['is_dirty'])}"] if git else []
