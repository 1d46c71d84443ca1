"""Pictures in the page: readable on any ground, small ones exact."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.patheffects import withStroke

from learner.records.report.embedded import kept_picture, picture, thumbnail
from tests.learner.records.report.reading import EVIL, pixels, tags


def test_a_drawing_is_shown_on_no_ground_in_an_ink_for_each_scheme_and_closed():
    before = matplotlib.rcParams["text.color"]

    def draw():
        figure, ax = plt.subplots(figsize=(2, 1))
        ax.plot([0, 1], color="#ff0000")
        return figure

    found = tags(picture(draw, EVIL))
    image, dark = found("img")[0], found("source")[0]
    assert (image["alt"], image["width"], found("figcaption")[0]["text"]) == (EVIL, "192", EVIL)
    assert dark["media"] == "screen and (prefers-color-scheme: dark)"
    inks = (61, 68, 77), (200, 207, 216)
    for source, ink, other in zip((image["src"], dark["srcset"]), inks, inks[::-1], strict=True):
        drawn = pixels(source)
        assert drawn.shape == (144, 288, 4)
        assert drawn[0, 0, 3] == 0
        solid = {(*color,) for color in drawn[drawn[..., 3] == 255][:, :3].tolist()}
        assert {ink, (255, 0, 0)} <= solid
        assert other not in solid
    assert not plt.get_fignums()
    assert matplotlib.rcParams["text.color"] == before


def test_both_schemes_have_all_in_the_same_place():
    def draw():
        figure, axes = plt.subplots(1, 2, figsize=(5, 2), layout="constrained")
        for ax in axes:
            image = ax.imshow(np.arange(4).reshape(2, 2))
        figure.colorbar(image, ax=axes)
        return figure

    found = tags(picture(draw, "a"))
    light, dark = pixels(found("img")[0]["src"]), pixels(found("source")[0]["srcset"])
    assert np.array_equal(light[..., 3], dark[..., 3])
    assert (light != dark).any()


def test_outlines_for_paper_are_left_out():
    def draw():
        figure = plt.figure(figsize=(2, 1))
        figure.text(0.2, 0.4, "hard", path_effects=[withStroke(linewidth=9, foreground="white")])
        return figure

    drawn = pixels(tags(picture(draw, "a"))("img")[0]["src"])
    assert drawn[..., 3].max() == 255
    assert not (drawn == 255).all(-1).any()


def test_a_drawing_that_fails_is_closed():
    def draw():
        plt.figure().text(0.5, 0.5, "$\\frac{$")  # what cannot be read shows when it is drawn
        return plt.gcf()

    with pytest.raises(ValueError, match="frac"):
        picture(draw, "a")
    assert not plt.get_fignums()


def test_a_picture_on_record_is_kept_as_it_is():
    assert tags(kept_picture(b"png", "a"))("img")[0]["src"] == "data:image/png;base64,cG5n"


def test_a_small_picture_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    source = thumbnail(image / 255)
    assert source.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(pixels(source), image)
    np.testing.assert_array_equal(pixels(thumbnail(image[..., 0] / 255)), image[..., 0])


def test_a_large_picture_is_made_small():
    source = thumbnail(np.random.default_rng(0).random((300, 600, 3)))
    assert source.startswith("data:image/jpeg;base64,")
    assert pixels(source).shape == (28, 56, 3)
    assert len(source) < 4096
