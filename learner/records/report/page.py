"""The building blocks of a report: the page itself, charts of lines, tables that sort, pictures. They know no run."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from fastcore.xml import (
    FT,
    Button,
    Div,
    Figcaption,
    Figure,
    Img,
    Input,
    Label,
    Li,
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
    Ul,
    ft,
    to_xml,
)

from learner.history import format_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

N_COLORS = 6  # of lines in one chart; there are as many in report.css
_MOST_POINTS = 600  # of a line: more than there are pixels show nothing more
_MOST_DOTS = 60
_MOST_CHOICES = 50
_THUMB = 56  # [pixels]
_SMALL = 32  # [pixels] up to here every pixel is kept
_GREY = "#757e8a"
_INK: dict[Any, Any] = dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _GREY
)
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 210, 48, 10, 8, 34


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


# -- charts ------------------------------------------------------------------------------------------------------------


def line_chart(title: str, axis: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> FT:
    """Return a chart of lines.

    Where an x comes several times, as when training went on from before, the last value counts. Values that are not
    finite are gaps, and counted in the legend.

    Args:
        title: what the values are.
        axis: what x is.
        lines: by name x and y.
    """
    drawn = {name: _thinned(*_in_order(*line)) for name, line in lines.items()}
    x = np.concatenate([x for x, _ in drawn.values()])
    y = np.concatenate([y for _, y in drawn.values()])
    (left, right), (low, high) = _range(x, 0.0), _range(y[np.isfinite(y)], 0.05)

    def across(x: Any) -> Any:
        return _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def down(y: Any) -> Any:
        return _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    marks = []
    for tick in _ticks(low, high):
        at = f"{down(tick):.1f}"
        marks.append(ft("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at, cls="grid"))
        marks.append(ft("text", f"{tick:.6g}", x=_LEFT - 6, y=at, text_anchor="end", dominant_baseline="middle"))
    for tick in _ticks(left, right, is_whole=True):
        marks.append(ft("text", f"{tick:.6g}", x=f"{across(tick):.1f}", y=_HEIGHT - _BOTTOM + 15, text_anchor="middle"))
    marks.append(ft("text", axis, x=_WIDTH - _RIGHT, y=_HEIGHT - 4, text_anchor="end"))
    legend = []
    for i, (name, (x, y)) in enumerate(drawn.items()):
        is_known = np.isfinite(y)
        marks.append(ft("g", *_line(name, axis, x, y, across(x), down(y)), cls=f"s{i % N_COLORS}"))
        n_odd = np.count_nonzero(~np.isfinite(np.asarray(lines[name][1], float)))
        odd = f", {n_odd:,} not finite" if n_odd else ""
        last = f" {format_value(float(y[is_known][-1]))}" if is_known.any() else ""
        legend.append(Li(f"{name}{last}{odd}".strip(), cls=f"s{i % N_COLORS}"))
    told = f"{title} by {axis}; last values: " + ", ".join(item.children[0] for item in legend)
    chart = ft("svg", *marks, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", cls="chart", role="img", aria_label=told)
    return Figure(Figcaption(title, Ul(*legend, cls="legend")), chart, cls="card")


def _in_order(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    last = dict(zip(x, y, strict=True))
    order = sorted(last)
    return np.array(order, float), np.array([last[at] for at in order], float)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a line with few points: the lowest and the highest of each stretch, so that no peak is lost."""
    if len(x) <= _MOST_POINTS:
        return x, y
    stretches = np.array_split(np.arange(len(x)), _MOST_POINTS // 2)
    ends = [(part[np.argmin(y[part])], part[np.argmax(y[part])]) for part in stretches]
    kept = np.unique([0, *np.ravel(ends), len(x) - 1])
    return x[kept], y[kept]


def _range(values: np.ndarray, margin: float) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = (high - low) * margin if high > low else abs(low) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, is_whole: bool = False) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=is_whole).tick_values(low, high)
    return [0.0 if abs(tick) < 1e-9 * (high - low) else float(tick) for tick in ticks if low <= tick <= high]


def _line(name: str, axis: str, x: np.ndarray, y: np.ndarray, across: np.ndarray, down: np.ndarray) -> list[FT]:
    """Return a line with gaps; of few points each is a dot that says what it is."""
    is_known = np.isfinite(y)
    marks = []
    for piece in np.split(np.arange(len(x)), np.flatnonzero(~is_known)):
        points = [f"{across[i]:.1f},{down[i]:.1f}" for i in piece if is_known[i]]
        if len(points) > 1 or (points and is_known.sum() > _MOST_DOTS):
            marks.append(ft("polyline", points=" ".join(points)))
    if is_known.sum() <= _MOST_DOTS:
        for i in np.flatnonzero(is_known):
            says = ft("title", f"{name} {axis} {x[i]:g}: {format_value(float(y[i]))}".strip())
            marks.append(ft("circle", says, cx=f"{across[i]:.1f}", cy=f"{down[i]:.1f}", r=2.2))
    return marks


# -- tables ------------------------------------------------------------------------------------------------------------


def facts(rows: Iterable[tuple[str, Any]]) -> FT:
    """Return a table of names and values; those that are None are left out."""
    return Table(
        Tbody(*[Tr(Th(name, scope="row"), Td(said(value))) for name, value in rows if value is not None]), cls="facts"
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
            Button(name, type="button"),
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
        is_words = not known or any(isinstance(value, str | bool) for value in known)
        self.kind = "text" if is_words else "number"
        of_kind = "predicted" if name == "predicted" else ""
        if is_words:
            self._words = [_word(value) for value in values]
            self.cells = [Td(word, cls=f"text {of_kind}".strip()) for word in self._words]
            return
        is_whole = all(float(value).is_integer() for value in known if math.isfinite(value))
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


def _word(value: Any) -> str:
    return "" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _number(value: float, is_whole: bool) -> str:
    return f"{value:.0f}" if is_whole and math.isfinite(value) else format_value(float(value))


def _exact(value: float) -> str:
    """Return a number as JavaScript reads it."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# -- pictures ----------------------------------------------------------------------------------------------------------


def picture(draw: Callable[[], Drawing], caption: str, *, is_wide: bool = False) -> FT:
    """Return what a function draws by matplotlib, on no ground and in a grey that can be read on light and on dark."""
    from matplotlib import pyplot as plt
    from matplotlib.text import Text

    with plt.ioff(), plt.rc_context(_INK):
        drawing = draw()
        for text in drawing.findobj(lambda artist: isinstance(artist, Text) and bool(artist.get_path_effects())):
            text.set(color=_GREY, path_effects=[])  # outlines are white, for paper
        data = BytesIO()
        try:
            drawing.savefig(data, format="png", dpi=96 if is_wide else 144, transparent=True)
            width = round(drawing.get_figwidth() * 96)  # as on a screen; small pictures with more pixels than that
        finally:
            plt.close(drawing)
    style = "card plot wide" if is_wide else "card plot"
    return Figure(Figcaption(caption), Img(src=_png(data.getvalue()), alt=caption, width=width), cls=style)


def kept_picture(png: bytes, caption: str) -> FT:
    """Return a picture as it is, on paper."""
    return Figure(Figcaption(caption), Img(src=_png(png), alt=caption), cls="card paper")


def thumbnail(image: np.ndarray) -> str:
    """Return a small picture as a source: exact if it is small already.

    Shapes: `image` (H, W) or (H, W, 3), from 0 to 1.
    """
    from PIL import Image

    small = Image.fromarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8))
    data = BytesIO()
    if max(small.size) <= _SMALL:
        small.save(data, "PNG", optimize=True)
        return _png(data.getvalue())
    small.thumbnail((_THUMB, _THUMB))
    small.save(data, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _png(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
