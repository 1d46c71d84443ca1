"""What differs between runs: config, training, versions, code and data, a row for each thing that is not alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastcore.xml import FT, P

from learner.records.report.tables import said, sortable

Info = Mapping[str, Any]  # `run.json`
SEEDS = ("seed", "config seed")


def facts_of(info: Info) -> dict[str, str]:
    """Return what made a run what it is, in words, by name.

    Example:
        >>> facts_of({"config": {"lr": 0.1, "opt": {"name": "sgd"}}, "seed": 1, "git": None})
        {'config lr': '0.1', 'config opt.name': 'sgd', 'seed': '1'}
    """
    facts = {f"config {name}": value for name, value in _flat(info.get("config", {})).items()}
    facts |= {f"training {name.replace('_', ' ')}": value for name, value in _flat(info.get("learner", {})).items()}
    facts["seed"] = info.get("seed")
    facts["command"] = " ".join(map(str, info.get("command") or ())) or None
    facts |= {f"version of {name}": value for name, value in _flat(info.get("versions", {})).items()}
    git = info.get("git") or {}
    facts |= {"commit": git.get("commit"), "changes since the commit": git.get("is_dirty")}
    for known, table in (info.get("tables") or {}).items():
        name = f"data {table['name']}"
        told = f"{table['n_rows']:,} rows, {known}"
        facts[name] = f"{facts[name]}; {told}" if name in facts else told
    return {name: _word(value) for name, value in facts.items() if value is not None}


def differences(facts: Mapping[str, Mapping[str, str]]) -> list[FT]:
    """Return a table of the facts that are not the same in all runs, a column for each run.

    Args:
        facts: by name of the run what `facts_of` gives.
    """
    names = dict.fromkeys(name for each in facts.values() for name in each)
    unlike = [name for name in names if len({each.get(name) for each in facts.values()}) > 1]
    n_alike = len(names) - len(unlike)
    words = P(f"{n_alike:,} other facts are the same in all.", cls="quiet")
    if not unlike:
        return [P(f"Nothing: all {n_alike:,} facts on record are the same.", cls="quiet")]
    columns: dict[str, Sequence[Any]] = {"fact": unlike}
    columns |= {run: [each.get(name) for name in unlike] for run, each in facts.items()}
    return [sortable(columns, style="short", label="what differs"), words]


def seed_groups(facts: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the names of runs that differ in their seed alone, together, by words for what tells them from the others.

    Config, training and data count; not versions, code and command, which differ for other reasons.

    Example:
        >>> seed_groups({"a": {"config lr": "1", "seed": "0"}, "b": {"config lr": "1", "seed": "1"}})
        {'all': ['a', 'b']}
    """
    kept = {run: _without_seed(each) for run, each in facts.items()}
    names = dict.fromkeys(name for each in kept.values() for name in each)
    unlike = [name for name in names if len({each.get(name) for each in kept.values()}) > 1]
    groups: dict[str, list[str]] = {}
    for run, each in kept.items():
        words = dict.fromkeys(f"{name.partition(' ')[2]} {each[name]}" for name in unlike if name in each)
        groups.setdefault(", ".join(words) or ("all" if not unlike else "none of this"), []).append(run)
    return groups


def _without_seed(facts: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in facts.items()
        if name.startswith(("config ", "training ", "data ")) and name not in SEEDS
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one, names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": item for inner, item in _flat(value).items()}
        else:
            found[str(name)] = value
    return found


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return said(value) if isinstance(value, str | int | float | list) else json.dumps(value)
