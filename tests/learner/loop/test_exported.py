"""Exported modules run in the mode of their export, alone or in a model around them."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from learner import Learner, LearnerError, Predictor

X, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])


def exported(model):
    return torch.export.export(model, (X,)).module()


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_an_exported_model_predicts_and_trains_as_the_one_it_was_made_of():
    dls = {"train": [(X, Y)], "valid": [(X, Y)]}
    learn, plain = (Learner(model, dls, cross_entropy) for model in (exported(linear()), linear()))
    for each in (learn, plain):
        each.fit(2)
    assert torch.equal(learn.get_preds()[0], plain.get_preds()[0])
    assert learn.history.to_dict() == plain.history.to_dict()
    assert torch.equal(Predictor(learn.model)((X, Y)).forward, plain.model(X))


def test_around_an_exported_module_modes_are_set():
    model = nn.Sequential(exported(linear()), nn.BatchNorm1d(2))
    refusal = vars(model[0])["train"]
    seen = []
    model[1].register_forward_hook(lambda module, *_: seen.append(module.training))
    Learner(model, {"train": [(X, Y)], "valid": [(X, Y)]}, cross_entropy).fit(1)
    assert seen == [True, False]
    assert model[1].training
    assert vars(model[0])["train"] is refusal


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(3)], ids=["dropout", "batch norm"])
def test_what_was_exported_in_training_mode_is_not_validated(layer):
    model = nn.Sequential(layer, linear())
    model[0].train()
    with pytest.raises(LearnerError, match=r"must be exported in evaluation mode.*call `model\.eval\(\)` before"):
        Learner(exported(model), {"valid": [(X, Y)]}, cross_entropy).get_preds()
    Learner(exported(model.eval()), {"valid": [(X, Y)]}, cross_entropy).get_preds()


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
def test_a_recurrent_layer_without_dropout_has_no_mode():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 2)

        def forward(self, x):
            return self.rnn(x)[0]

    preds, _ = Learner(exported(Recurrent()), {"valid": [(X, Y)]}, cross_entropy).get_preds()
    assert preds.shape == (4, 2)
