"""Pictures that are part of the page: what matplotlib draws, what is on record, and samples made small."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from fastcore.xml import FT, Figcaption, Figure, Img

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_THUMB = 56  # [pixels]
_SMALL = 32  # [pixels] up to here every pixel is kept
_GREY = "#757e8a"
_INK: dict[Any, Any] = dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _GREY
)


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
