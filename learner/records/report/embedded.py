"""Pictures that are part of the page: what matplotlib draws, what is on record, and samples made small."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from fastcore.xml import FT, Figcaption, Figure, Img, Picture, Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_THUMB = 56  # [pixels]
_SMALL = 32  # [pixels] up to here every pixel is kept
_DPI = 144
_INK, _INK_ON_DARK = "#3d444d", "#c8cfd8"
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
_DARK = "screen and (prefers-color-scheme: dark)"  # as in report.css


def picture(draw: Callable[[], Drawing], caption: str, *, is_wide: bool = False) -> FT:
    """Return what a function draws by matplotlib, on no ground, with its words and axes in one ink for each scheme."""
    from matplotlib import pyplot as plt

    inked: dict[Any, Any] = dict.fromkeys(_INKED, _INK)
    with plt.ioff(), plt.rc_context(inked):
        drawing = draw()
        try:
            _without_outlines(drawing)
            light = _drawn(drawing)
            drawing.set_layout_engine("none")  # all stays where it is now; to lay it out again takes long
            _ink_again(drawing)
            dark = _drawn(drawing)
            width = round(drawing.get_figwidth() * 96)  # as on a screen; the pictures have more pixels than that
        finally:
            plt.close(drawing)
    image = Picture(Source(srcset=_png(dark), media=_DARK), Img(src=_png(light), alt=caption, width=width))
    return Figure(Figcaption(caption), image, cls="card plot wide" if is_wide else "card plot")


def _without_outlines(drawing: Drawing) -> None:
    """Take off the white outlines of words, which are for paper."""
    from matplotlib.text import Text

    for text in drawing.findobj(lambda artist: isinstance(artist, Text) and bool(artist.get_path_effects())):
        text.set(color=_INK, path_effects=[])


def _ink_again(drawing: Drawing) -> None:
    """Give all that is in the ink of the light scheme that of the dark one."""
    from matplotlib.colors import same_color
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    kinds: dict[type, tuple[str, ...]] = {Text: ("color",), Line2D: ("color", "markeredgecolor"), Patch: ("edgecolor",)}
    for kind, properties in kinds.items():
        for artist in drawing.findobj(kind):
            for name in properties:
                if same_color(getattr(artist, f"get_{name}")(), _INK):
                    artist.set(**{name: _INK_ON_DARK})


def _drawn(drawing: Drawing) -> bytes:
    data = BytesIO()
    drawing.savefig(data, format="png", dpi=_DPI, transparent=True)
    return data.getvalue()


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
