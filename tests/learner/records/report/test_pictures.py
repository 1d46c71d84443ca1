"""Pictures: what is drawn is what was given, of few samples, of many, and of odd ones."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from sklearn.decomposition import PCA

from learner.records.report.pictures import confusion_matrix, data_map, histogram, plane_map


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


@pytest.mark.parametrize("n", [1, 10, 50_000])
def test_a_data_map_has_a_point_for_each_sample(n):
    rng = np.random.default_rng(0)
    confidence, variability, correctness = rng.random((3, n))
    figure = data_map(confidence, variability, correctness)
    figure.canvas.draw()
    points = figure.axes[0].collections[0]
    order = np.argsort(-correctness)
    np.testing.assert_array_equal(points.get_offsets(), np.stack([variability, confidence], 1)[order])
    np.testing.assert_array_equal(points.get_array(), correctness[order])
    assert figure.axes[0].get_title() == f"{n:,} samples"


def test_a_data_map_of_a_run_that_diverged():
    data_map(np.full(3, np.nan), np.full(3, np.nan), np.zeros(3)).canvas.draw()


@pytest.mark.parametrize("n", [1, 10, 5000])
def test_a_histogram_counts_all_that_is_finite(n):
    values = np.append(np.random.default_rng(0).exponential(size=n), [np.nan, np.inf])
    figure = histogram(values, "loss", ids=np.arange(n + 2) + 100, when=", epoch 3")
    figure.canvas.draw()
    ax = figure.axes[0]
    assert sum(bar.get_height() for bar in ax.patches) == n
    assert ax.get_yscale() == "log"
    assert ax.get_title() == f"loss of {n + 2:,} samples, 2 not finite, epoch 3"
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words[-1].startswith(f"largest: #{100 + np.argmax(values[:n])}")


def test_tails_of_a_histogram_are_marked():
    values = np.arange(1000.0)
    ax = histogram(values, "loss").axes[0]
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["below 1 %, 9: 9 samples", "above 99 %, 989: 10 samples"]
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [9, 989]
    ax = histogram(np.append(values, 5000), "loss").axes[0]
    assert ax.patches[-1].get_facecolor() == to_rgba("#d2391a") != ax.patches[0].get_facecolor()


def test_a_histogram_of_nothing_finite():
    assert not histogram(np.array([np.nan]), "loss").axes[0].patches


def test_a_confusion_matrix_counts():
    true, said = np.array([0, 0, 0, 1, -1]), np.array([0, 1, 1, 1, 0])
    figure = confusion_matrix(true, said, ["cat", "dog"], ", valid")
    figure.canvas.draw()
    ax = figure.axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), [[1 / 3, 2 / 3], [0, 1]])
    assert {text.get_position(): text.get_text() for text in ax.texts} == {(0, 0): "1", (1, 0): "2", (1, 1): "1"}
    assert ax.get_title() == "4 samples, 50.0% right, valid"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["cat", "dog"]


def test_a_cell_is_framed_and_its_samples_drawn():
    true, said = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])
    images = [np.zeros((2, 2))]
    figure = confusion_matrix(true, said, ["cat", "dog"], cell=(0, 1), images=images, captions=["#7"])
    figure.canvas.draw()
    frame = figure.axes[0].patches[0]
    assert frame.get_xy() == (0.5, -0.5)
    assert frame.get_edgecolor() == to_rgba("#d2391a")
    assert "#7" in [ax.get_title() for ax in figure.axes]
    assert [part.get_suptitle() for part in figure.subfigs][1] == "true cat, said dog: 1 of 2"


def test_a_cell_without_samples_is_empty():
    figure = confusion_matrix(np.array([0]), np.array([0]), ["cat", "dog"], cell=(1, 0))
    assert figure.subfigs[1].get_suptitle() == "true dog, said cat: 0"


def test_many_classes_have_no_numbers():
    ids = np.arange(100)
    figure = confusion_matrix(ids, ids, [f"class {i}" for i in ids])
    figure.canvas.draw()
    assert not figure.axes[0].texts


def test_of_very_many_classes_those_with_the_most_errors_are_drawn():
    n = 100_000
    classes = [f"class {i}" for i in range(n)]
    true, said = np.arange(n), np.arange(n)
    said[[7, 8]] = 9  # two errors; and one between classes that have no place of their own
    said[50_000] = 60_000
    figure = confusion_matrix(true, said, classes, cell=(70_000, 7), images=[], captions=[])
    figure.canvas.draw()
    ax = figure.axes[0]
    assert ax.images[0].get_array().shape == (20, 20)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert {"class 7", "class 8", "class 9", "class 50000", "class 60000", "class 70000"} <= {*names}
    assert names[-1] == "99,981 others"
    counts = {(names[int(y)], names[int(x)]): t.get_text() for t in ax.texts for x, y in [t.get_position()]}
    assert counts["class 7", "class 9"] == counts["class 9", "class 9"] == "1"
    assert counts["99,981 others", "99,981 others"] == "99,981"
    assert ax.get_title() == "100,000 samples, 100.0% right\nof 100,000 classes those with the most errors"
    assert ax.patches[0].get_xy() == (names.index("class 7") - 0.5, names.index("class 70000") - 0.5)
    assert figure.subfigs[1].get_suptitle() == "true class 70000, said class 7: 0"


# -- maps ----------------------------------------------------------------------------------------------------------


def points_of(figure):
    return [ax.collections[0].get_offsets() for ax in figure.axes if ax.collections and ax.get_title()]


def as_sets(points):
    return {tuple(np.round(point, 6)) for point in np.asarray(points)}


@pytest.mark.parametrize("shape", [(40, 5), (6, 30)])
def test_a_map_is_fitted_on_the_last_panel_and_applied_to_all(shape):
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(2, *shape))
    figure = plane_map({"epoch 0": lambda: first, "epoch 1": lambda: last}, "hidden")
    figure.canvas.draw()
    pca = PCA(2).fit(last)
    signs = np.array([np.sign(axis[np.abs(axis).argmax()]) for axis in pca.components_])
    for found, given in zip(points_of(figure), (first, last), strict=True):
        assert as_sets(found) == as_sets(pca.transform(given) * signs)
    assert figure.get_suptitle() == "hidden by PCA, fitted on epoch 1"
    limits = {(*ax.get_xlim(), *ax.get_ylim()) for ax in figure.axes}
    assert len(limits) == 1


def test_a_reducer_is_fitted_once():
    class Reducer:
        fits = 0

        def fit(self, x):
            self.fits += 1
            return self

        def transform(self, x):
            return x[:, 1:3]

    reducer = Reducer()
    x = np.arange(12.0).reshape(4, 3)
    figure = plane_map({"a": lambda: x, "b": lambda: x + 1}, "hidden", by=reducer)
    assert reducer.fits == 1
    assert as_sets(points_of(figure)[1]) == as_sets(x[:, 1:3] + 1)
    assert "by Reducer" in figure.get_suptitle()


def test_words_have_a_legend_in_the_order_of_the_classes():
    x = np.eye(3)
    figure = plane_map({"": lambda: x}, "hidden", colors=[np.array(["eel", "cat", "?"])], classes=["dog", "eel", "cat"])
    figure.canvas.draw()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["eel", "cat", "?"]
    colors = {tuple(color) for color in figure.axes[0].collections[0].get_facecolors()}
    assert len(colors) == 3


def test_colours_belong_to_their_points():
    x = np.random.default_rng(0).normal(size=(50, 2))
    x = x - x.mean(0)
    values = np.linspace(0, 1, 50)
    figure = plane_map({"": lambda: x}, "hidden", colors=[values], color_name="loss")
    figure.canvas.draw()
    points = figure.axes[0].collections[0]
    distance = {round(float(np.hypot(*point)), 6): value for point, value in zip(x, values, strict=True)}
    for point, value in zip(points.get_offsets(), points.get_array(), strict=True):
        assert distance[round(float(np.hypot(*point)), 6)] == value
    assert figure.axes[-1].get_ylabel() == "loss"
    assert (points.norm.vmin, points.norm.vmax) == tuple(np.quantile(values, [0.01, 0.99]))


def test_few_whole_numbers_are_groups_and_many_are_values():
    x = np.random.default_rng(0).normal(size=(60, 2))
    assert len(plane_map({"": lambda: x}, "hidden", colors=[np.arange(60) % 12]).legends[0].get_texts()) == 12
    assert not plane_map({"": lambda: x}, "hidden", colors=[np.arange(60)]).legends


def test_vectors_that_are_not_finite_are_left_out():
    x = np.random.default_rng(0).normal(size=(6, 3))
    x[1, 2] = np.nan
    figure = plane_map({"": lambda: x}, "hidden", colors=[np.array([0.0, 1.0, np.nan, 3.0, 4.0, 5.0])])
    figure.canvas.draw()
    assert len(points_of(figure)) == 0  # without a title there is no panel of a name
    assert len(figure.axes[0].collections[0].get_offsets()) == 5


def test_of_many_epochs_twenty_are_shown():
    x = np.random.default_rng(0).normal(size=(5, 3))
    figure = plane_map({f"epoch {i}": lambda: x for i in range(50)}, "hidden")
    titles = [ax.get_title() for ax in figure.axes]
    assert len(titles) == 20
    assert (titles[0], titles[-1]) == ("epoch 0", "epoch 49")
    assert figure.get_suptitle().endswith("20 of 50 epochs")


def test_vectors_of_one_number_lie_on_a_line():
    figure = plane_map({"": lambda: np.arange(4.0)[:, None]}, "hidden")
    figure.canvas.draw()
    assert (figure.axes[0].collections[0].get_offsets()[:, 1] == 0).all()


def test_a_map_says_what_is_wrong():
    x = np.full((3, 2), np.nan)
    with pytest.raises(ValueError, match="`hidden` must have two vectors that are finite, got 0"):
        plane_map({"": lambda: x}, "hidden")
    with pytest.raises(ValueError, match="`by` must be 'pca' or have `fit` and `transform`, got 'tsne'"):
        plane_map({"": lambda: np.eye(3)}, "hidden", by="tsne")
    with pytest.raises(TypeError, match="`by` must be 'pca' or have `fit` and `transform`, got 3"):
        plane_map({"": lambda: np.eye(3)}, "hidden", by=3)
