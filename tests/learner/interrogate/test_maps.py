"""Positions against scikit-learn's PCA; what is in the picture; UMAP through a stand-in; nothing random is touched."""

import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import same_color
from sklearn.decomposition import PCA

from learner.interrogate.maps import RepresentationMap, representation_map


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


@pytest.fixture
def points() -> RepresentationMap:
    return representation_map(torch.randn(12, 5))


@pytest.mark.parametrize("shape", [(200, 7), (20, 300), (30, 30), (50, 2), (40, 3, 5)])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_pca_is_that_of_sklearn(shape, kind):
    x = torch.randn(shape, dtype=kind) * torch.linspace(1, 3, shape[-1], dtype=kind) + 5
    found = representation_map(x)
    pca = PCA(n_components=2, svd_solver="full")
    positions = pca.fit_transform(x.flatten(1).double().numpy())
    signs = np.sign((positions * found.positions.numpy()).sum(0))
    accuracy = 1e-4 if kind == torch.float32 else 1e-10
    assert found.positions.dtype == kind
    assert np.allclose(found.positions, positions * signs, atol=accuracy)
    assert np.allclose(found.explained, pca.explained_variance_ratio_, atol=accuracy)


def test_the_sign_of_pca_is_that_of_the_largest_loading():
    x = torch.randn(100, 6, dtype=torch.float64)
    for features in (x, x[:5]):  # by products of features, and of samples
        found = representation_map(features)
        loadings = (features - features.mean(0)).T @ found.positions
        assert (loadings.gather(0, loadings.abs().argmax(0, keepdim=True)) > 0).all()
    order = torch.randperm(100)
    assert torch.allclose(representation_map(x[order]).positions, representation_map(x).positions[order])


@pytest.mark.parametrize(
    ("x", "explained"),
    [
        (torch.tensor([[1.0], [2.0], [6.0]]), [1.0, 0.0]),
        (torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0]]), [1.0, 0.0]),
        (torch.full((7, 3), 0.1).double() + 0.1, [0.0, 0.0]),
        (torch.full((7, 9), 0.1).double() + 0.1, [0.0, 0.0]),
        (torch.ones(1, 4), [0.0, 0.0]),
    ],
)
def test_what_has_fewer_than_two_dimensions_lies_on_a_line_or_a_point(x, explained):
    found = representation_map(x)
    assert found.positions.shape == (len(x), 2)
    assert found.explained.tolist() == pytest.approx(explained, abs=1e-12)
    assert torch.allclose(torch.pdist(found.positions), torch.pdist(x), atol=1e-6)


def test_what_varies_in_one_direction_alone_has_a_position_whatever_rounding_does():
    for _ in range(100):  # in one of ten the second eigenvalue comes out a little below 0
        found = representation_map(torch.randn(3, 1).double() * torch.randn(1, 30).double())
        assert found.positions.isfinite().all()
        assert found.explained.tolist() == pytest.approx([1.0, 0.0], abs=1e-10)


def test_half_precision_and_nested_lists_are_taken():
    x = torch.randn(9, 4).bfloat16()
    expected = representation_map(x.float()).positions
    assert torch.equal(representation_map(x).positions, expected)
    assert torch.allclose(representation_map(x.tolist()).positions.float(), expected, atol=1e-6)


def test_a_function_is_given_the_features_and_its_positions_are_taken():
    x = torch.randn(9, 4, 2)
    found = representation_map(x, by=lambda features: features[:, :2] * 2)
    assert torch.equal(found.positions, x.flatten(1)[:, :2] * 2)
    assert found.explained is None


def test_a_reducer_of_sklearn_is_taken_by_its_method():
    x = torch.randn(9, 4)
    found = representation_map(x, by=PCA(n_components=2).fit_transform)
    assert torch.allclose(torch.pdist(found.positions), torch.pdist(representation_map(x).positions), atol=1e-5)
    assert repr(found) == "RepresentationMap(9 samples, by='PCA')"


def drawing(features):
    """Draw from all three global generators."""
    random.random()
    return torch.randn(len(features), 2) + torch.as_tensor(np.random.rand(len(features), 2))


class FakeUMAP:
    """Stands for umap.UMAP, and draws as it might."""

    given = None

    def __init__(self, **options):
        type(self).given = options

    def fit_transform(self, features):
        drawing(features)
        return np.asarray(features)[:, 1:3]


@pytest.fixture
def _fake_umap(monkeypatch):
    fake = ModuleType("umap")
    fake.UMAP = FakeUMAP
    monkeypatch.setitem(sys.modules, "umap", fake)


@pytest.mark.usefixtures("_fake_umap")
def test_umap_is_called_with_a_seed_of_its_own():
    x = torch.randn(9, 4)
    found = representation_map(x, by="umap")
    assert torch.equal(found.positions, x[:, 1:3])
    assert FakeUMAP.given == {"random_state": 0, "n_jobs": 1}
    assert found.explained is None
    assert repr(found) == "RepresentationMap(9 samples, by='umap')"


@pytest.mark.usefixtures("_fake_umap")
@pytest.mark.parametrize("by", ["pca", "umap", drawing])
def test_the_random_generators_are_left_as_they_were(by):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    representation_map(torch.randn(9, 4, generator=torch.Generator()), by=by)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


def test_umap_that_is_not_installed_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(
        ImportError, match="`by='umap'` needs umap-learn; do `pip install umap-learn`, or say `by='pca'`"
    ):
        representation_map(torch.randn(9, 4), by="umap")


def test_classes_get_a_legend_in_order_and_each_its_points(points):
    labels = ["dog", "ant", "cat"] * 4
    ax = points.plot(labels=labels).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ant", "cat", "dog"]
    assert {(handle.get_alpha(), *handle.get_sizes()) for handle in ax.get_legend().legend_handles} == {(1, 36)}
    drawn = {group.get_label(): group.get_offsets().data for group in ax.collections}
    for name in ("ant", "cat", "dog"):
        assert np.allclose(drawn[name], points.positions[[label == name for label in labels]])


def test_whole_numbers_are_classes_sorted_as_numbers(points):
    ax = points.plot(labels=torch.tensor([10, 9, 2] * 4)).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["2", "9", "10"]


def test_a_missing_class_is_a_class(points):
    ax = points.plot(labels=["b", None, "a"] * 4).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["None", "a", "b"]


def test_up_to_sixty_classes_look_different_and_more_are_refused():
    found = representation_map(torch.randn(61, 3), labels=np.arange(61) % 60)
    groups = found.plot().axes[0].collections
    looks = {
        (tuple(group.get_facecolor()[0]), len(group.get_paths()[0]), group.get_paths()[0].vertices.tobytes())
        for group in groups
    }
    assert len(looks) == 60
    with pytest.raises(
        ValueError, match="`labels` must be of at most 60 classes, got 61; pass them as floats for a colour"
    ):
        found.plot(labels=range(61))


@pytest.mark.parametrize(
    "labels", [np.linspace(0, 1, 12), torch.linspace(0, 1, 12).bfloat16(), np.arange(12.0).tolist()]
)
def test_other_numbers_get_a_colour_bar(points, labels):
    figure = points.plot(labels=labels)
    assert len(figure.axes) == 2
    assert figure.axes[0].get_legend() is None
    shown = figure.axes[0].collections[0].get_array()
    assert np.allclose(shown, np.asarray(torch.as_tensor(labels).double()))


def test_values_that_are_not_finite_are_grey_and_do_not_stretch_the_colours(points):
    labels = np.array([np.nan, np.inf, -np.inf, 1.0, 2.0, *[1.5] * 7])
    figure = points.plot(labels=labels)
    drawn = figure.axes[0].collections[0]
    assert drawn.get_clim() == (1.0, 2.0)
    figure.canvas.draw()
    assert not np.any(drawn.get_offsets().mask)
    assert all(same_color(color[:3], "lightgrey") for color in drawn.get_facecolor()[:3])


def test_without_labels_all_points_are_drawn_alike(points):
    ax = points.plot().axes[0]
    assert len(ax.collections) == 1
    assert np.allclose(ax.collections[0].get_offsets().data, points.positions)
    assert ax.get_legend() is None


def test_the_axes_say_what_they_are(points):
    ax = points.plot().axes[0]
    shares = [f"{share:.0%}" for share in points.explained]
    assert ax.get_xlabel() == f"PCA 1 ({shares[0]} of the variance)"
    assert ax.get_ylabel() == f"PCA 2 ({shares[1]} of the variance)"
    assert ax.get_aspect() == 1
    made = representation_map(torch.randn(5, 3), by=drawing)
    assert made.plot().axes[0].get_xlabel() == "drawing 1"


@pytest.mark.parametrize(
    ("names", "expected"), [(list("abcdefghijkl"), dict(enumerate("abcdefghijkl"))), ({3: "x"}, {3: "x"})]
)
def test_names_are_written_beside_their_points(points, names, expected):
    texts = points.plot(names=names).axes[0].texts
    assert {text.get_text(): tuple(text.xy) for text in texts} == {
        name: tuple(points.positions[i].tolist()) for i, name in expected.items()
    }


def test_labels_and_names_of_the_map_are_the_default():
    found = representation_map(torch.randn(3, 4), labels=["a", "b", "a"], names=["one", "two", "three"])
    ax = found.plot().axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert [text.get_text() for text in ax.texts] == ["one", "two", "three"]
    ax = found.plot(labels=["c", "c", "c"], names={0: "first"}).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["c"]
    assert [text.get_text() for text in ax.texts] == ["first"]


def test_it_draws_where_it_is_told(points):
    figure, axes = plt.subplots(1, 2)
    assert points.plot(labels=[0, 1] * 6, ax=axes[1]) is figure
    assert not axes[0].collections
    assert len(axes[1].collections) == 2


def test_in_a_notebook_it_shows_one_picture_and_leaves_no_figure(points):
    assert points._repr_png_().startswith(b"\x89PNG")
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"by": "pac"}, ValueError, "`by` must be 'pca', 'umap' or a function, got 'pac', did you mean 'pca'?"),
        ({"by": PCA(2)}, TypeError, r"`by` must be 'pca', 'umap' or a function, .* pass `.fit_transform`"),
        ({"by": lambda x: x}, ValueError, r"what `by` gives must have shape \(5, 2\), got Tensor\(5, 3\) float32"),
        ({"by": lambda x: x[:3, :2]}, ValueError, r"what `by` gives must have shape \(5, 2\), got Tensor\(3, 2\)"),
        ({"by": lambda x: x[:, :2] / 0 * 0}, ValueError, "`what `by` gives` must be finite"),
        ({"by": lambda x: None}, TypeError, "`what `by` gives` must be a tensor, an array"),
        ({"labels": [0, 1]}, ValueError, r"`labels` must be one per sample, shape \(5,\), got shape \(2,\)"),
        ({"labels": torch.zeros(5, 2)}, ValueError, r"`labels` must be one per sample, .* got shape \(5, 2\)"),
        ({"names": ["a"]}, ValueError, r"`names` must be 5 words, or a dict from sample to word, got \['a'\]"),
        ({"names": "abcde"}, ValueError, "`names` must be 5 words, or a dict from sample to word, got 'abcde'"),
        ({"names": {5: "a"}}, ValueError, "`names` must be of samples from 0 to 4, got 5"),
    ],
)
def test_bad_input_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        representation_map(torch.randn(5, 3), **arguments)


def test_features_that_are_none_are_refused():
    with pytest.raises(ValueError, match="`x` must be finite, got NaN or infinity in 1 of 2 samples"):
        representation_map([[torch.nan, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match="`x` must have shape"):
        representation_map(torch.zeros(4))
