"""Confusion, precision, recall, F1 and errors of numbers, against scikit-learn."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn import metrics

from learner.records import CategoricalLabel, interpret
from tests.learner.records.recorded import made

N = 200
RNG = np.random.default_rng(0)
LABEL = RNG.integers(0, 4, N)
PREDICTED = np.where(RNG.random(N) < 0.7, LABEL, RNG.integers(0, 5, N))  # class 4 is said and never true
COLUMNS = {
    "example_id": np.arange(N),
    "label": LABEL,
    "predicted": PREDICTED,
    "loss": RNG.random(N),
    "confidence": RNG.random(N),
}
NAMES = CategoricalLabel("label", ["cat", "dog", "eel", "cow", "ant", "bee"])  # of bees there are none
SCHEMAS = {"label": NAMES, "predicted": NAMES}


@pytest.fixture
def found():
    return interpret(made(COLUMNS, SCHEMAS))


def test_the_numbers_are_those_of_scikit_learn(found):
    expected = metrics.confusion_matrix(LABEL, PREDICTED, labels=range(6))
    np.testing.assert_array_equal(found.confusion, expected)
    rates = metrics.precision_recall_fscore_support(LABEL, PREDICTED, labels=range(5), zero_division=0)
    table = found.per_class()
    for name, values in zip(("precision", "recall", "f1", "count"), rates, strict=True):
        np.testing.assert_allclose(table[name], values)
    assert table["class"].tolist() == list(NAMES.classes[:5])
    assert found.summary()["accuracy"] == metrics.accuracy_score(LABEL, PREDICTED)
    assert found.summary()["ECE"] == found.calibration.ece


def test_the_most_confused_come_first(found):
    pairs = found.most_confused(3)
    wrong = found.confusion - np.diag(np.diag(found.confusion))
    assert pairs["count"].tolist() == sorted(wrong.ravel().tolist())[-3:][::-1]
    first = NAMES.classes.index(pairs["label"][0]), NAMES.classes.index(pairs["predicted"][0])
    assert wrong[first] == pairs["count"][0]
    assert pairs["share"][0] == pytest.approx(wrong[first] / (first[0] == LABEL).sum())
    assert len(found.most_confused(1000)) == (wrong > 0).sum()


def test_the_largest_losses_come_first(found):
    top = found.top_losses(5)
    assert top.numpy("example_id").tolist() == np.argsort(-COLUMNS["loss"], kind="stable")[:5].tolist()


def test_classes_without_names_are_called_by_their_ids():
    found = interpret(made({**COLUMNS, "label": LABEL * 10, "predicted": PREDICTED * 10}))
    assert found.classes == ("0", "10", "20", "30", "40")
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(LABEL, PREDICTED))


def test_it_is_told_in_words_in_a_notebook_and_as_a_picture(found):
    words = repr(found)
    assert words.startswith(f"200 samples, accuracy {found.summary()['accuracy']:.4f}, loss ")
    assert all(title in words for title in ("classes\n", "most confused\n", "largest losses\n"))
    assert found._repr_html_().count("<table") == 3
    figure = found.plot()
    figure.canvas.draw()
    assert {text.get_text() for text in figure.axes[0].texts} >= {str(found.confusion[0, 0])}
    assert found.plot_confusion().axes[0].get_title() == figure.axes[0].get_title()
    plt.close("all")


def test_where_nothing_is_confused_nothing_is_told_of_it():
    found = interpret(made({**COLUMNS, "predicted": LABEL}, {"label": NAMES}))
    assert len(found.most_confused()) == 0
    assert "most confused" not in repr(found)


def test_of_several_epochs_the_last_one_counts():
    epoch = np.arange(N) % 2
    assert len(interpret(made({**COLUMNS, "epoch": epoch}, SCHEMAS)).samples) == N // 2


@pytest.mark.parametrize("shape", [(N,), (N, 3)])
def test_errors_of_numbers_are_those_of_scikit_learn(shape):
    target, predicted = RNG.random(shape), RNG.random(shape)
    loss = ((predicted - target) ** 2).reshape(N, -1).mean(1)
    columns = {"example_id": np.arange(N), "target": target, "predicted": predicted, "loss": loss}
    found = interpret(made({**columns, "residual": predicted - target}))
    numbers = found.summary()
    assert numbers["MAE"] == pytest.approx(metrics.mean_absolute_error(target, predicted))
    assert numbers["RMSE"] == pytest.approx(metrics.mean_squared_error(target.ravel(), predicted.ravel()) ** 0.5)
    assert numbers["R²"] == pytest.approx(metrics.r2_score(target, predicted))
    assert numbers["mean residual"] == pytest.approx((predicted - target).mean())
    assert "MAE" in repr(found)
    assert "largest losses" in found._repr_html_()
    figure = found.plot()
    figure.canvas.draw()
    assert len(figure.axes[0].collections[0].get_offsets()) == target.size
    plt.close("all")


@pytest.mark.parametrize(
    ("samples", "error", "match"),
    [
        ("samples", TypeError, "`samples` must be Samples, got str; of a run they are `run.samples`"),
        (made({"loss": np.zeros(2)}), ValueError, "`samples` must have the columns confidence, .* got loss"),
        (
            made({**COLUMNS, "split": np.array(["a", "b"] * 100)}),
            ValueError,
            r"of one split, got a, b; do `where\(split='a'",
        ),
        (made(COLUMNS).where(label=9), ValueError, "`samples` must hold rows, got none"),
    ],
    ids=["type", "columns", "splits", "none"],
)
def test_what_is_refused(samples, error, match):
    with pytest.raises(error, match=match):
        interpret(samples)
