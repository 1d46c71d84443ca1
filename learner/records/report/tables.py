"""Tables: of names and values, and such that sort and filter by the script of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from fastcore.xml import (
    FT,
    Button,
    Div,
    Img,
    Input,
    Label,
    Option,
    Output,
    P,
    Select,
    Table,
    Tbody,
    Td,
    Th,
    Thead,
    Tr,
)

from learner.history import format_value

_MOST_CHOICES = 50


def facts(rows: Iterable[tuple[str, Any]]) -> FT:
    """Return a table of names and values; those that are None are left out."""
    return Table(
        Tbody(*[Tr(Th(str(name), scope="row"), Td(said(value))) for name, value in rows if value is not None]),
        cls="facts",
    )


def said(value: Any) -> str:
    """Return a value of plain data in words, without brackets.

    Example:
        >>> said({"lr": 0.1, "betas": [0.9, 0.99]})
        'lr 0.1, betas 0.9, 0.99'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {said(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value))
    return str(value)


def sortable(
    columns: Mapping[str, Sequence[Any]],
    images: Sequence[str | None] = (),
    is_wrong: Sequence[bool] = (),
    sorted_by: tuple[str, str] = ("", ""),
    has_filters: bool = False,
    style: str = "",
    label: str = "table",
) -> FT:
    """Return a table whose headers sort it.

    Args:
        columns: by name the values: numbers, flags, words, or None where there is none. A column that holds a word is
            of words.
        images: sources of pictures, put before the first column; None where there is none.
        is_wrong: which rows to mark, and to show alone by a checkbox.
        sorted_by: by which column the rows come, and how: "ascending" or "descending".
        has_filters: whether to have fields to filter by.
        style: "short" to be as wide as it needs, not as the page; "low" to be seen in part, and scrolled.
        label: what to call it to those who cannot see it.
    """
    has_images = any(image is not None for image in images)
    cells = {name: _Cells(name, values) for name, values in columns.items()}
    heads = [
        Th(
            Button(str(name), type="button"),
            scope="col",
            data_kind=column.kind,
            aria_sort=sorted_by[1] if name == sorted_by[0] else "none",
            cls=column.kind,
        )
        for name, column in cells.items()
    ]
    head = [Tr(*[Td(cls="thumb")] * has_images, *heads)]
    if has_filters:
        fields = [Td(column.field(i + has_images)) for i, column in enumerate(cells.values())]
        head.append(Tr(*[Td()] * has_images, *fields, cls="filters"))
    thumbs = [[_thumb(image)] for image in images] if has_images else [[]] * len(next(iter(columns.values()), ()))
    marked = is_wrong or [False] * len(thumbs)
    rows = [
        Tr(*thumb, *row, cls="wrong" if is_marked else None)
        for thumb, is_marked, *row in zip(thumbs, marked, *[column.cells for column in cells.values()], strict=True)
    ]
    table = Div(Table(Thead(*head), Tbody(*rows)), cls="scroll card", tabindex="0", role="region", aria_label=label)
    if not has_filters:
        return Div(table, cls=f"sortable {style}".strip())
    check = [Label(Input(type="checkbox", cls="only-wrong"), " only the wrong ones")] * any(is_wrong)
    tools = Div(Output(), *check, Button("Clear filters", type="button", cls="clear"), cls="tools")
    more = [P("Of these rows the first 100 are printed.", cls="quiet paper-only")] * (len(rows) > 100)
    return Div(tools, table, *more, cls=f"sortable {style}".strip())


def _thumb(source: str | None) -> FT:
    if source is None:
        return Td(cls="thumb")
    is_small = source.startswith("data:image/png")
    return Td(Img(src=source, alt="", loading="lazy", cls="small" if is_small else None), cls="thumb")


class _Cells:
    """A column of a table: its cells, and the field that filters by it."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        known = [value for value in values if value is not None]
        is_words = not known or any(isinstance(value, bool) or not isinstance(value, int | float) for value in known)
        self.kind = "text" if is_words else "number"
        of_kind = "predicted" if name == "predicted" else ""
        if is_words:
            self._words = [_word(value) for value in values]
            self.cells = [Td(word, cls=f"text {of_kind}".strip()) for word in self._words]
            return
        is_whole = all(isinstance(value, int) or _is_short(value) for value in known)
        style = f"number {of_kind}".strip()
        self.cells = [
            Td(cls=style) if value is None else Td(_number(value, is_whole), data_v=_exact(value), cls=style)
            for value in values
        ]

    def field(self, i: int) -> FT:
        """Return what to filter the i-th column by."""
        label = f"Filter by {self.name}"
        if self.kind == "number":
            return Input(
                type="text", placeholder="> 0.5", title="> 0.5, <= 3, 7, != 7, 0.1 .. 0.3, nan", aria_label=label,
                data_column=str(i), data_kind="number", autocomplete="off",
            )  # fmt: skip
        choices = sorted(set(self._words), key=lambda word: (len(word), word) if word.isdigit() else (0, word))
        if len(choices) > _MOST_CHOICES:
            return Input(
                type="text", placeholder="contains", aria_label=label, data_column=str(i), data_kind="text",
                autocomplete="off",
            )  # fmt: skip
        options = [Option(choice or "(none)", value=choice) for choice in choices]
        return Select(Option("all"), *options, aria_label=label, data_column=str(i), data_kind="text")


def plain_values(values: np.ndarray) -> list[Any]:
    """Return an array as Python's own values: float32 with the digits that it has, times in words.

    Example:
        >>> plain_values(np.array([0.1], np.float32))
        [0.1]
        >>> plain_values(np.array(["2020-01-31T06:30", "NaT"], "datetime64[us]"))
        ['2020-01-31 06:30', None]
    """
    if values.dtype in (np.float16, np.float32):
        return [float(str(value)) for value in values]
    if values.dtype.kind == "M":
        words = np.datetime_as_string(values, unit="auto").tolist()
        return [None if word == "NaT" else word.replace("T", " ") for word in words]
    if values.dtype.kind == "m":
        return [None if np.isnat(value) else str(value.astype("timedelta64[us]").item()) for value in values]
    return values.tolist()  # type: ignore[no-any-return]


def _word(value: Any) -> str:
    return "" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _is_short(value: float) -> bool:
    """Tell whether a float needs no point, or is none that has digits."""
    return not math.isfinite(value) or (value.is_integer() and abs(value) < 1e15)


def _number(value: int | float, is_whole: bool) -> str:
    if isinstance(value, int):
        return str(value)  # exactly, also beyond what a float can tell apart
    return f"{value:.0f}" if is_whole and math.isfinite(value) else format_value(value)


def _exact(value: int | float) -> str:
    """Return a number as JavaScript reads it."""
    if isinstance(value, int) or math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
