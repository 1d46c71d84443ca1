"""Where the time of profiled batches went, in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_N_OPERATORS = 5
_BATCH = "ProfilerStep"  # what torch calls the span of a batch


class _Row(NamedTuple):
    name: str
    calls: int
    host: float  # [µs]
    device: float  # [µs]

    @property
    def weight(self) -> float:
        """What rows are sorted by: the time of the device where it has any, for the host only hands it work."""
        return self.device or self.host


def profile_table(averages: Iterable[Any], n_batches: int) -> str:
    """Return what the batches took, what each span in them took, and the slowest operators.

    Args:
        averages: what `torch.profiler.profile.key_averages` gives.
        n_batches: how many batches were recorded.
    """
    events = [event for event in averages if event.device_type.name == "CPU"]
    spans = [_Row(e.key, e.count, e.cpu_time_total, e.device_time_total) for e in events if e.is_user_annotation]
    operators = [
        _Row(e.key, e.count, e.self_cpu_time_total, e.self_device_time_total)
        for e in events
        if not e.is_user_annotation
    ]
    whole = sum(row.host for row in spans if row.name.startswith(_BATCH))
    inner = sorted((row for row in spans if not row.name.startswith(_BATCH)), key=lambda row: -row.weight)
    slowest = sorted(operators, key=lambda row: -row.weight)[:_N_OPERATORS]
    has_device = any(row.device for row in (*inner, *slowest))
    return "\n".join(
        line
        for title, rows in (("span", inner), ("operator, by itself", slowest))
        for line in _lines(title, rows, whole, n_batches, has_device)
    )


def _lines(title: str, rows: list[_Row], whole: float, n_batches: int, has_device: bool) -> Iterator[str]:
    """Yield a table of names, calls, times [ms a batch] and shares of the batches."""
    yield f"{title:40s} {'calls':>7s} {'ms a batch':>11s} {'share':>6s}{' ms of the device' if has_device else ''}"
    for row in rows:
        last = f" {row.device / 1e3 / n_batches:16.3f}" if has_device else ""
        share = row.host / whole if whole else 0
        yield f"{row.name[:40]:40s} {row.calls:7,d} {row.host / 1e3 / n_batches:11.3f} {share:6.1%}{last}"
