"""What of a sample is an image, and images side by side."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from learner.records.report.images import image_of, sample_grid

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize(
    "sample",
    [
        GREY,
        torch.from_numpy(GREY),
        torch.from_numpy(GREY)[None],
        GREY[..., None],
        (torch.from_numpy(GREY), 3),
        [5, GREY],
        {"label": 3, "image": GREY},
    ],
)
def test_grey_images_are_found(sample):
    np.testing.assert_allclose(image_of(sample), GREY / 255, rtol=1e-6)


def test_colours_come_last_without_transparency():
    rng = np.random.default_rng(0)
    colored = rng.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    wanted = colored[..., :3] / 255
    np.testing.assert_allclose(image_of(colored), wanted, rtol=1e-6)
    np.testing.assert_allclose(image_of(torch.from_numpy(colored).permute(2, 0, 1)), wanted, rtol=1e-6)
    np.testing.assert_allclose(image_of((Image.fromarray(colored[..., :3]), 0)), wanted, rtol=1e-6)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I", "F"])
def test_deep_pictures_keep_their_levels(mode):
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).round()
    kinds = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
    picture = Image.frombytes(mode, (8, 8), ramp.astype(kinds[mode]).tobytes())
    np.testing.assert_allclose(image_of(picture), ramp / 65535, rtol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_pictures_of_other_modes_are_seen_as_they_are(mode):
    grey = Image.fromarray(np.repeat(GREY[..., None] * 20, 3, axis=2))
    picture = grey.convert("LAB") if mode == "LAB" else grey.convert(mode)
    np.testing.assert_allclose(image_of(picture), np.asarray(picture.convert("RGB")) / 255, rtol=1e-6)


def test_numbers_are_brought_between_0_and_1():
    half = torch.tensor([[0.25, 0.5], [0.0, 0.75]], dtype=torch.bfloat16)
    np.testing.assert_allclose(image_of(half), half.float().numpy())
    np.testing.assert_allclose(image_of(np.array([[-1.0, 0.0], [1.0, 3.0]])), [[0, 0.25], [0.5, 1]])
    np.testing.assert_allclose(image_of(np.array([[-1.0, np.nan], [1.0, 1.0]])), [[0, 0.5], [1, 1]])
    np.testing.assert_allclose(image_of(np.full((2, 2), 7.0)), np.zeros((2, 2)))


@pytest.mark.parametrize(
    "sample", ["word", 3, np.arange(64), torch.zeros(7, 5, 5), np.zeros((1, 9)), (), None, {"a": 1}]
)
def test_what_is_no_image(sample):
    assert image_of(sample) is None


def test_a_function_says_what_is_the_image():
    assert image_of(np.arange(64.0), lambda flat: flat.reshape(8, 8)).shape == (8, 8)
    assert image_of((GREY, 2 * GREY), lambda pair: pair[1]).max() == pytest.approx(22 / 255)


@pytest.mark.parametrize(("n", "shown"), [(0, 0), (1, 1), (7, 7), (230, 100)])
def test_a_grid_shows_each_once_up_to_a_hundred(n, shown):
    figure = sample_grid([np.full((2, 2), i / max(n, 1)) for i in range(n)], [f"#{i}" for i in range(n)], "worst")
    assert [ax.get_title() for ax in figure.axes if ax.images] == [f"#{i}" for i in range(shown)]
    assert figure.get_suptitle() == ("worst, 100 of 230" if n > 100 else "worst")
    figure.canvas.draw()
    plt.close(figure)


def test_words_are_drawn_where_there_is_no_image():
    figure = sample_grid(["costs $5 or $\\frac{$ " + "word " * 200, "short"], ["said $a$", "#1"], "worst")
    figure.canvas.draw()
    texts = [ax.texts[0].get_text() for ax in figure.axes]
    assert texts[1] == "short"
    assert texts[0].startswith("costs $5 or $\\frac{$")
    assert texts[0].count("\n") == 8
    assert texts[0].endswith("…")
    plt.close(figure)
