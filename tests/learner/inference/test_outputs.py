"""What outputs mean by the loss, and the probabilities in them."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from learner.inference.outputs import MEANINGS, checked_meaning, meaning_of, probs_of


class Weighted(nn.CrossEntropyLoss):
    """A loss of one's own over one of torch's."""


@pytest.mark.parametrize(
    ("loss_f", "meaning"),
    [
        (F.cross_entropy, "logits"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "logits"),
        (partial(partial(F.cross_entropy, weight=None), label_smoothing=0.1), "logits"),
        (Weighted(), "logits"),
        (nn.NLLLoss(), "log_probs"),
        (F.binary_cross_entropy_with_logits, "binary_logits"),
        (nn.BCELoss(), "probs"),
        (F.mse_loss, "values"),
        (lambda preds, target: preds.mean(), None),
        (nn.KLDivLoss(), None),
        (None, None),
    ],
)
def test_the_loss_says_what_outputs_mean(loss_f, meaning):
    assert meaning_of(loss_f, nn.Linear(1, 1)) == meaning


@pytest.mark.parametrize(("problem", "meaning"), [("single_label_classification", "logits"), (None, None)])
def test_without_a_loss_a_model_of_transformers_says_it(problem, meaning):
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(problem_type=problem)
    assert meaning_of(None, model) == meaning


def test_what_outputs_mean_is_one_of_a_few():
    assert checked_meaning(None) is None
    assert checked_meaning("probs") == "probs"
    with pytest.raises(ValueError, match=r"`outputs` must be one of 'logits' .*; got 'softmax'"):
        checked_meaning("softmax")


@pytest.mark.parametrize("meaning", MEANINGS)
def test_probabilities_are_those_of_torch_in_full_precision(meaning):
    preds = torch.randn(4, 3, dtype=torch.bfloat16)
    given = preds.float()
    expected = {"logits": given.softmax(1), "log_probs": given.exp(), "binary_logits": given.sigmoid()}
    assert torch.equal(probs_of(preds, meaning, 1), expected.get(meaning, given))
