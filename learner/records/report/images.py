"""Samples side by side: what of a sample can be drawn, and many of them in one figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from learner.data.batch import fields_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

_MOST_IMAGES = 100


def image_of(sample: Any, image: Callable[[Any], Any] | None = None) -> np.ndarray | None:
    """Return what of a sample can be drawn, as (H, W) or (H, W, 3) from 0 to 1; None if nothing can.

    Args:
        sample: an image, or a tuple, list or mapping of which the first image is taken. Images are PIL's, or arrays and
            tensors of shape (H, W), or with 1, 3 or 4 channels before or after that.
        image: a function of the sample that gives the image instead.
    """
    if image is not None:
        return _as_picture(image(sample))
    found = _as_picture(sample)
    if found is None:
        fields = fields_of(sample)
        parts = list(fields.values()) if fields is not None else sample if isinstance(sample, tuple | list) else []
        found = next((picture for part in parts if (picture := _as_picture(part)) is not None), None)
    return found


def _as_picture(value: Any) -> np.ndarray | None:
    if isinstance(value, Tensor):
        value = value.detach().cpu().float().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
    if callable(getattr(value, "convert", None)) and hasattr(value, "getbands"):  # a PIL image
        is_deep = value.mode[0] in "IF"  # 16 or 32 bits: `convert` would cut off all above 255
        value = np.asarray(value if is_deep else value.convert("RGB"))
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return None
    if value.ndim == 3 and value.shape[0] in (1, 3, 4) and (value.shape[-1] not in (1, 3, 4) or len(value) == 1):
        value = np.moveaxis(value, 0, -1)
    is_image = value.ndim == 2 or (value.ndim == 3 and value.shape[-1] in (1, 3, 4))
    if not is_image or min(value.shape[:2]) < 2:
        return None
    value = value[..., 0] if value.ndim == 3 and value.shape[-1] == 1 else value[..., :3] if value.ndim == 3 else value
    numbers: np.ndarray = np.nan_to_num(value.astype(np.float32))
    low, high = float(numbers.min()), float(numbers.max())
    if value.dtype == np.uint8:
        return numbers / 255
    if low >= 0 and high <= 1:
        return numbers
    return (numbers - low) / max(high - low, 1e-12)  # it was normalised, in a way that is not known here


def sample_grid(images: Sequence[np.ndarray | str], captions: Sequence[str], title: str) -> Figure:
    """Draw samples side by side, each with words above it; at most a hundred.

    Args:
        images: (H, W) or (H, W, 3) as `image_of` gives them; or words.
        captions: one for each.
        title: of the figure.
    """
    from learner.drawing import new_figure

    n = min(len(images), _MOST_IMAGES)
    n_columns = _n_columns(n)
    n_rows = math.ceil(n / n_columns)
    figure = new_figure(figsize=(max(1.45 * n_columns, 3), 1.85 * n_rows + 0.5), layout="constrained")
    draw_images(figure, images[:n], captions[:n], title + (f", {n} of {len(images)}" if n < len(images) else ""))
    return figure


def draw_images(figure: FigureBase, images: Sequence[np.ndarray | str], captions: Sequence[str], title: str) -> None:
    """Draw images or words into a figure or a part of one, each with a caption above it."""
    figure.suptitle(title, fontsize="medium")
    if not len(images):
        return
    n_columns = _n_columns(len(images))
    axes = figure.subplots(math.ceil(len(images) / n_columns), n_columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, picture, caption in zip(axes.flat, images, captions, strict=False):
        if isinstance(picture, str):
            words = fill(picture, 24, max_lines=9, placeholder=" …")
            ax.text(0.5, 1, words, ha="center", va="top", fontsize=6.5, parse_math=False)
        else:
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        ax.set_title(caption, fontsize=7.5, parse_math=False)


def _n_columns(n: int) -> int:
    """Return in how many columns to draw n images: somewhat more than rows, with few places left empty."""
    best = max(1, math.ceil(math.sqrt(1.4 * n)))
    return min((best, best - 1, best + 1), key=lambda columns: -n % columns if columns > 0 else n)
