"""What is read off the outputs of a model."""

import pytest
import torch

from learner import LearnerError
from learner.inference.inference import Inference, first_of, n_classes_of

NAMES = ("cat", "dog", "cow")


def test_several_samples_of_classes():
    preds = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    said = Inference(preds, "logits", NAMES)
    assert torch.equal(said.probs, preds.softmax(1))
    assert said.predicted.tolist() == [0, 2]
    assert said.labels == ["cat", "cow"]
    assert len(said) == 2


def test_one_sample_has_no_axis_of_samples():
    said = Inference(torch.tensor([[2.0, 0.0, 0.0]]), "logits", NAMES, is_one=True)
    assert said.preds.shape == said.probs.shape == (3,)
    assert (said.predicted.item(), said.labels) == (0, "cat")
    assert repr(said) == "Inference: predicted cat, probability 0.7870, cat 0.7870, dog 0.1065, cow 0.1065"
    with pytest.raises(TypeError, match="`len` must be asked of several samples, and this is one"):
        len(said)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_one_output_tells_two_classes_apart(shape):
    preds = torch.tensor([3.0, -1.0]).reshape(shape)
    said = Inference(preds, "binary_logits", ("no", "yes"))
    assert torch.equal(said.probs, torch.tensor([3.0, -1.0]).sigmoid())
    assert said.labels == ["yes", "no"]
    assert said.predicted.tolist() == [1, 0]
    assert repr(said).splitlines()[1].split() == ["yes", "0.9526"]
    assert n_classes_of(preds, "binary_logits") == 2


def test_several_classes_may_be_true_at_once():
    said = Inference(torch.tensor([[3.0, -1.0, 1.0]]), "binary_logits", NAMES)
    assert said.predicted.tolist() == [[True, False, True]]
    assert said.labels == [["cat", "cow"]]
    assert "cat, cow" in repr(said)


def test_a_class_for_each_pixel():
    preds = torch.randn(2, 3, 4, 4)
    said = Inference(preds, "logits", NAMES)
    assert torch.equal(said.predicted, preds.argmax(1))
    assert said.labels[0][0][0] == NAMES[preds[0, :, 0, 0].argmax()]
    assert repr(said) == "Inference: Tensor(2, 3, 4, 4) float32"


def test_a_table_shows_the_first_ones():
    said = Inference(torch.randn(25, 40), "logits")
    lines = repr(said).splitlines()
    assert lines[0].split() == ["predicted", "probability"]
    assert (len(lines), lines[-1]) == (12, "... 15 more samples")
    assert said._repr_html_().count("<tr>") == 11
    assert "Tensor(2,)" in Inference(torch.zeros(2), "values")._repr_html_()


def test_what_nobody_knows_is_an_error_that_says_what_to_do():
    with pytest.raises(
        LearnerError, match=r"say what the outputs mean by `infer\(x, outputs=\.\.\.\)`: `outputs='logits'`"
    ):
        Inference(torch.zeros(2, 3)).probs
    with pytest.raises(LearnerError, match="it gives numbers, no probabilities"):
        Inference(torch.zeros(2, 3), "values").predicted
    with pytest.raises(LearnerError, match=r"it gives \(Tensor"):
        Inference((torch.zeros(2, 3), torch.zeros(2)), "logits").probs
    with pytest.raises(LearnerError, match=r"`classes` must be known for `labels`, .* do `infer\(x, classes="):
        Inference(torch.zeros(2, 3), "logits").labels


def test_the_first_of_several_outputs():
    preds = {"a": torch.arange(2), "b": (torch.ones(2, 3), ["x", "y"])}
    found = first_of(preds)
    assert (found["a"].item(), found["b"][0].tolist(), found["b"][1]) == (0, [1.0] * 3, "x")
    assert len(Inference(preds)) == 2
