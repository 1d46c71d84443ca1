"""Each metric function against another library or numbers worked out by hand."""

import pytest
import torch
from sklearn.metrics import accuracy_score, mean_absolute_error, mean_squared_error, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from callbacks import accuracy, mae, mean_over_samples, mse, top_k_accuracy

CLASSES = torch.int64


def classes(*shape):
    return torch.zeros(shape, dtype=CLASSES)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_accuracy_by_hand():
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    assert accuracy(scores, torch.tensor([1, 0, 0, 1])) == 0.5
    assert accuracy(scores, torch.tensor([1, 0, 1, 1])) == 0.75


@pytest.mark.parametrize("extra", [(), (6,), (3, 2)], ids=["one answer", "a sequence", "an image"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_several_classes_against_torchmetrics(k, extra):
    scores, target = torch.randn(40, 5, *extra), torch.randint(5, (40, *extra))
    expected = multiclass_accuracy(scores, target, num_classes=5, average="micro", top_k=k).item()
    assert top_k_accuracy(k)(scores, target).item() == pytest.approx(expected)
    if k == 1:
        assert accuracy(scores, target).item() == pytest.approx(expected)


def test_top_k_against_scikit_learn():
    scores, target = torch.randn(60, 7), torch.randint(7, (60,))
    expected = top_k_accuracy_score(target, scores, k=4, labels=range(7))
    assert top_k_accuracy(4)(scores, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize(
    ("logits_shape", "target_shape"), [((50,), (50,)), ((50, 1), (50,)), ((50, 1), (50, 1)), ((50, 1, 4), (50, 4))]
)
def test_two_classes_against_scikit_learn(logits_shape, target_shape, dtype):
    logits, target = torch.randn(logits_shape), torch.randint(2, target_shape).to(dtype)
    expected = accuracy_score(target.flatten().bool(), logits.flatten() > 0)
    assert accuracy(logits, target).item() == pytest.approx(expected)


def test_a_logit_of_zero_is_a_no():
    assert accuracy(torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 1.0])) == 0.75


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3, 2)])
def test_errors_of_regression_against_scikit_learn(shape):
    preds, target = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    assert mse(preds, target).item() == pytest.approx(mean_squared_error(target.flatten(), preds.flatten()))
    assert mae(preds, target).item() == pytest.approx(mean_absolute_error(target.flatten(), preds.flatten()))


# -- names and marks ---------------------------------------------------------------------------------------------------


def test_all_are_means_over_samples_and_so_may_be_joined():
    assert all(f.is_mean_over_samples for f in (accuracy, mse, mae, top_k_accuracy(3)))


def test_marking_a_function_leaves_it_the_function_that_it_was():
    def half(preds, target):
        return 0.5

    assert mean_over_samples(half) is half
    assert half.is_mean_over_samples


def test_top_k_is_named_by_its_k():
    assert [top_k_accuracy(k).__name__ for k in (1, 5)] == ["top_1_accuracy", "top_5_accuracy"]


# -- what would give a wrong number is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preds", "target"),
    [
        (torch.zeros(4, 3), classes(4, 1)),  # broadcasts to (4, 4)
        (torch.zeros(4, 3), classes(4, 3)),  # one-hot
        (torch.zeros(4, 3), classes(5)),
        (torch.zeros(4, 3), torch.zeros(4)),  # no class numbers
        (torch.zeros(4), torch.zeros(4, 1)),  # broadcasts to (4, 4)
        (torch.zeros(4, 1), torch.zeros(5)),
        (classes(4), classes(4)),  # answers instead of logits
    ],
)
def test_accuracy_of_shapes_or_types_that_do_not_belong_together(preds, target):
    with pytest.raises(ValueError, match=r"`accuracy` must be given scores \(N, C, \.\.\.\).*, got Tensor\(4"):
        accuracy(preds, target)


@pytest.mark.parametrize("f", [mse, mae])
def test_a_column_against_a_row_is_refused(f):
    message = rf"`{f.__name__}` must be given two tensors of one shape, got Tensor\(4, 1\).* and Tensor\(4,\)"
    with pytest.raises(ValueError, match=message):
        f(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize("k", [0, -2, 2.0, "2", True, None])
def test_k_must_be_a_count(k):
    with pytest.raises(ValueError, match="`k` must be a whole number of at least 1, got"):
        top_k_accuracy(k)


def test_k_must_not_exceed_the_classes():
    with pytest.raises(ValueError, match="`k` must be at most the number of classes, got 4 of 3"):
        top_k_accuracy(4)(torch.zeros(2, 3), classes(2))


def test_top_k_takes_no_logits_of_two_classes():
    with pytest.raises(ValueError, match=r"`top_2_accuracy` must be given scores \(N, C"):
        top_k_accuracy(2)(torch.zeros(2), classes(2))


# -- what does not count -----------------------------------------------------------------------------------------------

FUNCTIONS = [accuracy, top_k_accuracy(1), top_k_accuracy(3)]


@pytest.mark.parametrize("extra", [(), (6,)], ids=["one answer", "a sequence"])
@pytest.mark.parametrize("k", [1, 2])
def test_labels_of_padding_do_not_count_against_torchmetrics(k, extra):
    scores, target = torch.randn(40, 5, *extra), torch.randint(5, (40, *extra))
    target[torch.rand(target.shape) < 0.4] = -100
    expected = multiclass_accuracy(scores, target, num_classes=5, average="micro", top_k=k, ignore_index=-100).item()
    assert top_k_accuracy(k)(scores, target).item() == pytest.approx(expected)
    if k == 1:
        assert accuracy(scores, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_without_a_label_that_counts_there_is_no_accuracy(f):
    assert f(torch.randn(4, 5), torch.full((4,), -100)).isnan()


def test_a_class_that_is_minus_100_in_eight_bits_counts():
    scores = torch.zeros(2, 200)
    scores[:, 156] = 1.0
    assert accuracy(scores, torch.tensor([156, 0], dtype=torch.uint8)) == 0.5


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("label", [0, 1, 4])
def test_scores_that_are_not_numbers_are_wrong(f, label):
    scores = torch.full((2, 5), -1.0)
    scores[0, label] = torch.nan
    scores[1, label] = 1.0
    assert f(scores, torch.tensor([label, label])) == 0.5


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_logits_that_are_not_numbers_are_wrong(shape):
    assert accuracy(torch.full(shape, torch.nan), torch.tensor([0.0, 1.0])) == 0.0


def test_each_says_which_values_are_better():
    assert [f.higher_is_better for f in (*FUNCTIONS, mse, mae)] == [True, True, True, False, False]
