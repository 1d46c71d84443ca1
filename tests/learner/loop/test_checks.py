"""Each bad input has one clear error that names the thing, as early as it can be found."""

import copy
import math
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from callbacks import LambdaCallback
from learner import Callback, Learner, LearnerError, Loaders, Predictor

X, Y = torch.ones(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def assert_nothing_happened(learn):
    assert (learn.n_steps, learn.n_samples, len(learn.history)) == (0, 0, 0)


# -- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_epochs", "error", "got"),
    [
        (-1, ValueError, "at least 0, got -1"),
        (1.5, TypeError, "a whole number, got 1.5"),
        (2.0, TypeError, "a whole number, got 2.0"),
        ("3", TypeError, "a whole number, got '3'"),
        (True, TypeError, "a whole number, got True"),
        (math.nan, TypeError, "a whole number, got nan"),
    ],
)
def test_n_epochs(make_learner, n_epochs, error, got):
    learn = make_learner()
    with pytest.raises(error, match=f"`n_epochs` must be {got}"):
        learn.fit(n_epochs)
    assert_nothing_happened(learn)
    assert learn.opt is None


BAD_RATES = [
    (-0.1, ValueError, r"a finite number of at least 0, got -0\.1"),
    (math.nan, ValueError, "a finite number of at least 0, got nan"),
    (math.inf, ValueError, "a finite number of at least 0, got inf"),
    (torch.tensor(math.nan), ValueError, "a finite number of at least 0, got nan"),
    (np.float64(-1), ValueError, r"a finite number of at least 0, got -1\.0"),
    ("0.1", TypeError, r"a number, got '0\.1'"),
    (True, TypeError, "a number, got True"),
    ([0.1], TypeError, r"a number, got \[0\.1\]"),
    (1j, TypeError, "a number, got 1j"),
]


@pytest.mark.parametrize(("lr", "error", "got"), [*BAD_RATES, (None, TypeError, "a number, got None")])
def test_lr_of_the_learner(make_learner, lr, error, got):
    with pytest.raises(error, match=f"`lr` must be {got}"):
        make_learner(lr=lr)


@pytest.mark.parametrize(("lr", "error", "got"), BAD_RATES)
def test_lr_of_a_fit(make_learner, lr, error, got):
    learn = make_learner(Callback())
    with pytest.raises(error, match=f"`lr` must be {got}"):
        learn.fit(1, lr=lr)
    assert_nothing_happened(learn)
    learn.fit(1)


@pytest.mark.parametrize("lr", [0, 1, 0.5, np.float64(0.5), np.float32(0.5), torch.tensor(0.5), Decimal("0.5")])
def test_a_rate_of_any_kind_of_number_becomes_a_float(make_learner, lr):
    learn = make_learner(lr=lr)
    learn.fit(1)
    rates = [learn.lr, *(group["lr"] for group in learn.opt.param_groups)]
    assert rates == [pytest.approx(float(lr))] * 2
    assert all(type(rate) is float for rate in rates)


@pytest.mark.parametrize("model", [None, nn.Linear, lambda x: x, "resnet18"])
def test_model(dls, model):
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got"):
        Learner(model, dls, cross_entropy)


def test_opt_func_that_is_an_optimizer_instance(make_learner):
    opt = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(
        TypeError, match=r"`opt_func` must be called as opt_func\(params, lr=lr\), got .*SGD.*the class"
    ):
        make_learner(opt_func=opt)


@pytest.mark.parametrize("opt_func", [None, "sgd", 3])
def test_opt_func_that_cannot_be_called(make_learner, opt_func):
    with pytest.raises(TypeError, match=r"`opt_func` must be called as opt_func\(params, lr=lr\)"):
        make_learner(opt_func=opt_func)


def test_opt_func_that_returns_no_optimizer(make_learner):
    learn = make_learner(opt_func=lambda params, lr: None)
    with pytest.raises(TypeError, match="`opt_func` must return an optimizer, got NoneType"):
        learn.fit(1)
    assert learn.opt is None


@pytest.mark.parametrize("loss_f", [3, "mse", nn.MSELoss])
def test_loss_f(make_learner, loss_f):
    hint = r".*pass MSELoss\(\)" if isinstance(loss_f, type) else ""
    with pytest.raises(TypeError, match=rf"`loss_f` must be a function of \(preds, target\), got{hint}"):
        make_learner(loss_f=loss_f)


def test_predictor_of_another_model(make_learner):
    with pytest.raises(ValueError, match="`predictor` must hold the learner's own model"):
        make_learner(predictor=Predictor(nn.Linear(4, 3)))


# -- the model and its parameters ---------------------------------------------------------------------------------


def test_a_model_without_parameters(make_learner):
    learn = make_learner(model=nn.ReLU())
    with pytest.raises(LearnerError, match="`model` must have a parameter that can be trained, got ReLU: it has no"):
        learn.fit(1)
    assert math.isfinite(learn.validate()["loss"])  # it may well be looked at


def test_what_a_callback_has_frozen_is_no_fault_of_the_loader(make_learner):
    def freeze(learn):
        learn.model.requires_grad_(False)

    with pytest.raises(LearnerError, match="all are frozen") as caught:
        make_learner(cbs=LambdaCallback(before_epoch=freeze)).fit(1)
    assert caught.value.__notes__ == ["learner: in the beginning of a pass, epoch 0, loader 'train'"]


def test_a_frozen_model(make_learner):
    learn = make_learner()
    learn.model.requires_grad_(False)
    with pytest.raises(LearnerError, match=r"`model` must have a parameter.*all are frozen; unfreeze one of 0.weight"):
        learn.fit(1)
    learn.validate()
    learn.model[2].requires_grad_(True)
    learn.fit(1)


def test_a_model_that_was_replaced_after_a_fit(make_learner):
    learn = make_learner()
    learn.fit(1)
    learn.model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(LearnerError, match=r"`opt` must hold every parameter.*0\.weight.*Set `learn\.opt = None`"):
        learn.fit(1)
    learn.opt = None
    before = learn.model[0].weight.clone()
    learn.fit(1)
    assert not torch.equal(learn.model[0].weight, before)


def test_an_optimizer_of_another_model(make_learner):
    other = copy.deepcopy(make_learner().model)
    learn = make_learner(opt_func=lambda params, lr: torch.optim.SGD(other.parameters(), lr=lr))
    with pytest.raises(LearnerError, match="`opt` must hold parameters of the model, got none of them"):
        learn.fit(1)


# -- loaders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["valid"], ["valid", "infer"]])
def test_no_train_loader(make_learner, dls, names):
    learn = make_learner(dls=dict.fromkeys(names, dls.valid))
    with pytest.raises(LearnerError, match=r"`dls` must hold a loader whose name starts with 'train', got \['valid'"):
        learn.fit(1)
    assert learn.validate()["loss"] > 0


@pytest.mark.parametrize("run", [Learner.validate, Learner.get_preds, lambda learn, name: learn.validate(name=name)])
def test_a_loader_that_is_not_there(make_learner, run):
    with pytest.raises(KeyError, match="no loader 'test', only 'train', 'valid'"):
        run(make_learner(), "test")


def few(n, **options):
    return DataLoader(TensorDataset(X[:n], Y[:n]), batch_size=8, **options)


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        ([], "it is empty"),
        ((), "it is empty"),
        (few(6, drop_last=True), "its dataset has 6 samples, its batch size is 8 and `drop_last` True"),
    ],
)
@pytest.mark.parametrize("name", ["train", "valid", "infer"])
def test_an_empty_loader(make_learner, name, loader, reason):
    learn = make_learner(dls={"train": [(X, Y)], name: loader})
    with pytest.raises(
        LearnerError, match=f"loader '{name}' must give at least one batch, got none in epoch 0: {reason}"
    ):
        learn.fit(1)
    if name != "train":
        with pytest.raises(LearnerError, match=f"loader '{name}' must give at least one batch"):
            learn.validate(name) if name == "valid" else learn.get_preds(name)


@pytest.mark.parametrize(
    "make", [lambda: ((X, Y) for _ in range(2)), lambda: iter([(X, Y)]), lambda: map(tuple, [(X, Y)])]
)
@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_one_shot_generator_in_the_second_epoch(make_learner, make, name):
    learn = make_learner(dls={"train": [(X, Y)], name: make()})
    learn.fit(1)
    with pytest.raises(
        LearnerError,
        match=f"loader '{name}' must give at least one batch, got none in epoch 0.*used up.*looped over again",
    ):
        learn.fit(1)
    learn = make_learner(dls={"train": [(X, Y)], name: make()})
    with pytest.raises(LearnerError, match=r"got none in epoch 1.*used up"):
        learn.fit(2)


@pytest.mark.parametrize("name", ["dev", "Train", 3])
def test_a_name_without_a_role(make_learner, dls, name):
    with pytest.raises(ValueError, match=r"a loader's name must start with 'train'.*got .*rename it"):
        make_learner(dls={"train": dls.train, name: dls.valid})


@pytest.mark.parametrize("loader", [None, 3, "data.csv"])
def test_what_is_no_loader(make_learner, dls, loader):
    with pytest.raises(TypeError, match=r"`dls\['valid'\]` must be an iterable of batches, got"):
        make_learner(dls={"train": dls.train, "valid": loader})
    with pytest.raises(TypeError, match=r"`dls\['valid'\]` must be an iterable of batches, got"):
        make_learner(dls=(dls.train, loader))


def test_a_single_loader(make_learner, dls):
    with pytest.raises(TypeError, match=r"`dls` must be a mapping.*got DataLoader.*\{'train': loader\}"):
        make_learner(dls=dls.train)


# -- batches ------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, left, right):
        return self.layer(left + right)


@pytest.mark.parametrize(
    ("model", "batch", "holds"),
    [
        (Two(), (X, Y), r"Tensor\(6, 4\) float32"),
        (Two(), X, r"Tensor\(6, 4\) float32"),
        (Two(), (X, X, X, Y), r"Tensor\(6, 4\) float32, Tensor\(6, 4\) float32"),
        (nn.Linear(4, 3), (X, X, Y), r"Tensor\(6, 4\) float32, Tensor\(6, 4\) float32"),
    ],
)
@pytest.mark.parametrize("run", [lambda learn: learn.fit(1), Learner.validate, Learner.get_preds])
def test_a_batch_that_is_not_what_the_model_takes_is_described_in_one_message(make_learner, model, batch, holds, run):
    learn = make_learner(model=model, dls={"train": [batch], "valid": [batch]})
    takes = "left, right" if isinstance(model, Two) else "input"
    with pytest.raises(LearnerError, match=rf"(?s){holds}.*forward takes \({takes}.*Change one.*n_inp=") as caught:
        run(learn)
    assert caught.value.__cause__ is None
    assert learn.n_steps == 0


def test_a_model_of_two_inputs_works_when_the_batch_holds_them(make_learner):
    make_learner(model=Two(), dls={"train": [(X, X, Y)]}).fit(1)


@pytest.mark.parametrize("batch", [X, (X,), [X]])
@pytest.mark.parametrize("loss_f", [cross_entropy, nn.CrossEntropyLoss()])
def test_a_missing_target(make_learner, batch, loss_f):
    learn = make_learner(dls={"train": [batch]}, loss_f=loss_f)
    with pytest.raises(
        LearnerError, match=r"(?s)a batch of 'train' must hold a target for `loss_f`.*Tensor\(6, 4\).*\(x, y\)"
    ):
        learn.fit(1)


def test_a_loss_of_the_predictions_alone_needs_no_target(make_learner):
    learn = make_learner(dls={"train": [X], "valid": [X]}, loss_f=lambda preds: preds.square().mean())
    learn.fit(1)
    assert learn.validate()["loss"] > 0


# -- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss_f", "message"),
    [
        (
            lambda preds, y: cross_entropy(preds, y, reduction="none"),
            r"the loss must be a scalar, got shape \(6,\).*mean",
        ),
        (lambda preds, y: cross_entropy(preds, y).item(), r"the loss must be a scalar tensor with a gradient, got \d"),
        (lambda preds, y: None, "the loss must be a scalar tensor with a gradient, got None"),
        (
            lambda preds, y: (cross_entropy(preds, y), 1),
            "the loss must be a scalar tensor with a gradient, got .Tensor",
        ),
        (lambda preds, y: cross_entropy(preds, y).detach(), "the loss must have a gradient while training.*detached"),
        (torch.no_grad()(cross_entropy), "the loss must have a gradient while training.*no_grad"),
    ],
    ids=["not a scalar", "a float", "None", "a tuple", "detached", "under no_grad"],
)
def test_the_loss(make_learner, loss_f, message):
    learn = make_learner(loss_f=loss_f, dls={"train": [(X, Y)]})
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(LearnerError, match=message):
        learn.fit(1)
    assert all(torch.equal(value, before[name]) for name, value in learn.model.state_dict().items())


def test_the_loss_of_a_model_under_no_grad(make_learner):
    class Closed(nn.Linear):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    with pytest.raises(LearnerError, match="the loss must have a gradient while training"):
        make_learner(model=Closed(4, 3)).fit(1)


@pytest.mark.parametrize("loss_f", [lambda p, y: cross_entropy(p, y, reduction="none"), lambda p, y: None])
def test_the_loss_of_a_validation(make_learner, loss_f):
    with pytest.raises(LearnerError, match="the loss must be a scalar"):
        make_learner(loss_f=loss_f).validate()


def test_a_loss_without_a_gradient_is_enough_to_validate(make_learner):
    learn = make_learner(loss_f=lambda preds, y: cross_entropy(preds, y).detach())
    assert learn.validate()["loss"] > 0


@pytest.mark.parametrize("output", [X[:, :1], {"logits": X}, {"loss": None}, (X, X)])
def test_no_loss_f_and_no_loss_in_the_output(make_learner, output):
    class Gives(nn.Linear):
        def forward(self, x):
            return output

    with pytest.raises(
        LearnerError, match=r"the model's output must carry a `loss` when `loss_f` is None, got .*pass a"
    ):
        make_learner(model=Gives(4, 3), loss_f=None, dls={"train": [X]}).fit(1)


def test_elements_of_different_lengths_are_refused(make_learner):
    dls = Loaders({"train": [(X, torch.ones(5, 3))]})
    with pytest.raises(LearnerError, match=r"must have one length.*Tensor\(6, 4\).*Tensor\(5, 3\).*n_inp"):
        make_learner(dls=dls, loss_f=mse_loss).fit(1)


# -- a model of several heads -------------------------------------------------------------------------------------


class Heads(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.logits, self.boxes = kind, nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.kind(logits=self.logits(x), boxes=self.boxes(x))


def by_key(out, y):
    return cross_entropy(out["logits"], y) + out["boxes"].pow(2).mean()


def by_attribute(out, y):
    return cross_entropy(out.logits, y) + out.boxes.pow(2).mean()


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize(
    ("kind", "loss_f"), [(dict, by_key), (SimpleNamespace, by_attribute)], ids=["mapping", "attributes"]
)
@pytest.mark.parametrize("target", [Y, (Y, Y)], ids=["one target", "two"])
def test_a_loss_that_wants_more_than_the_logits_is_told_how_to_get_it(kind, loss_f, target):
    def of_first(out, targets):
        return loss_f(out, targets[0])

    learn = Learner(Heads(kind), {"train": [(X, target)]}, loss_f if target is Y else of_first)
    with pytest.raises(LearnerError, match=r"are the `logits` alone.*set `learn\.preds = learn\.output`"):
        learn.fit(1)

    class WholeOutput(Callback):
        def after_predict(self, learn):
            learn.preds = learn.output

    learn.fit(1, cbs=WholeOutput())
    assert learn.n_steps == 1


def test_a_label_out_of_bounds_is_no_matter_of_the_logits():
    learn = Learner(Heads(dict), {"train": [(X, Y + 7)]}, cross_entropy)
    with pytest.raises(IndexError, match="out of bounds"):
        learn.fit(1)
