"""The learner from outside: fit, validate, get_preds, log, sandbox, shared state, subclasses."""

import copy
import gc
import inspect
import math
import pickle
import random
import subprocess
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Learner,
    LearnerError,
    Loaders,
)


class On(Callback):
    """Call functions at signals: `On(after_batch=f)`."""

    def __init__(self, **functions):
        vars(self).update(functions)


def weight_of(learn):
    return learn.model[0].weight


# -- fit ----------------------------------------------------------------------------------------------------------


def test_a_learner_without_callbacks_trains(make_learner):
    learn = make_learner()
    before = learn.validate()["loss"]
    learn.fit(20)
    assert learn.validate()["loss"] < 0.7 * before


@pytest.mark.parametrize("n_epochs", [0, 1, 3, np.int64(2)])
def test_fit_runs_so_many_epochs(make_learner, n_epochs):
    heard = []
    listener = On(
        before_fit=lambda learn: heard.append("before_fit"),
        before_epoch=lambda learn: heard.append((learn.epoch, learn.dl_name)),
        after_fit=lambda learn: heard.append("after_fit"),
        cleanup_fit=lambda learn: heard.append("cleanup_fit"),
    )
    learn = make_learner(listener)
    learn.fit(n_epochs)
    passes = [(epoch, name) for epoch in range(n_epochs) for name in ("train", "valid")]
    assert heard == ["before_fit", *passes, "after_fit", "cleanup_fit"]
    assert (learn.n_epochs, len(learn.history)) == (n_epochs, n_epochs)


def test_loaders_run_in_the_order_given_each_in_its_role(make_learner, dls):
    heard = []
    names = ["valid2", "train", "infer", "valid", "train2"]
    batches = {role: list(dls[role]) for role in ("train", "valid")}
    loaders = {name: batches["train" if name.startswith("train") else "valid"] for name in names}

    def hear(learn):
        heard.append((learn.dl_name, learn.role, learn.training, learn.model.training, torch.is_grad_enabled()))

    learn = make_learner(On(before_batch=hear, after_epoch=hear), dls=loaders)
    learn.fit(1)
    assert list(dict.fromkeys(heard)) == [
        ("valid2", "valid", False, False, False),
        ("train", "train", True, True, True),
        ("infer", "infer", False, False, False),
        ("valid", "valid", False, False, False),
        ("train2", "train", True, True, True),
    ]
    assert learn.n_steps == 6
    assert list(learn.history[0]) == ["epoch", "valid2/loss", "train/loss", "valid/loss", "train2/loss"]


@pytest.mark.parametrize("form", ["mapping", "pair", "list", "object", "Loaders"])
def test_dls_may_be_given_in_several_forms(make_learner, dls, form):
    given = {
        "mapping": OrderedDict(dls),
        "pair": (dls.train, dls.valid),
        "list": [dls.train, dls.valid],
        "object": SimpleNamespace(train=dls.train, valid=dls.valid),
        "Loaders": Loaders(dls),
    }[form]
    learn = make_learner(dls=given)
    learn.fit(1)
    assert list(learn.metrics) == ["train", "valid"]
    learn.dls = given  # replaced later on, every entrance takes the same forms
    learn.fit(1)
    for run in (learn.validate, learn.get_preds, learn.summary):
        learn.dls = given
        run()
    learn.dls = given
    with learn.sandbox():
        learn.fit(1)


def test_loaders_need_no_length(make_learner, dls):
    class Stream:
        def __iter__(self):
            return iter(dls.train)

    seen = []
    learn = make_learner(On(after_batch=lambda learn: seen.append((learn.i, learn.n_batches))), dls={"train": Stream()})
    learn.fit(2)
    assert seen == [(0, None), (1, None), (2, None)] * 2


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_training_does_not_depend_on_the_grad_mode_around_it(make_learner, context):
    learn = make_learner()
    before = weight_of(learn).clone()
    with context():
        learn.fit(1)
    assert not torch.equal(weight_of(learn), before)


def test_the_optimizer_is_made_at_the_first_fit_and_kept(make_learner):
    calls = []

    def opt_func(params, lr):
        calls.append((len(list(params)), lr))
        return torch.optim.Adam(learn.model.parameters(), lr=lr)

    learn = make_learner(opt_func=opt_func, lr=0.01)
    assert (learn.opt, calls) == (None, [])
    learn.fit(1, lr=0.5)
    opt = learn.opt
    learn.fit(1)
    assert learn.opt is opt
    assert calls == [(4, 0.01)]  # at the learner's own rate, so that groups keep their proportion to it


def test_lr_is_that_of_the_call_and_else_the_learners_own(make_learner):
    seen = []
    learn = make_learner(On(before_fit=lambda learn: seen.append(learn.opt.param_groups[0]["lr"])), lr=0.1)
    learn.fit(0)
    learn.fit(0, lr=np.float64(0.5))
    learn.fit(0)
    learn.lr = 0.25
    learn.fit(0)
    assert seen == [0.1, 0.5, 0.1, 0.25]
    assert type(learn.opt.param_groups[0]["lr"]) is float


def test_a_rate_kept_as_a_tensor_stays_that_tensor(make_learner):
    rate = torch.tensor(0.1)
    learn = make_learner(opt_func=lambda params, lr: torch.optim.Adam(params, lr=rate))
    learn.fit(1)
    learn.fit(1, lr=0.2)
    assert learn.opt.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.2)


def test_a_partly_frozen_model_trains_the_rest(make_learner):
    learn = make_learner(opt_func=torch.optim.AdamW)
    weight_of(learn).requires_grad_(False)
    frozen, free = weight_of(learn).clone(), learn.model[2].weight.clone()
    learn.fit(1)
    assert torch.equal(weight_of(learn), frozen)
    assert not torch.equal(learn.model[2].weight, free)


@pytest.mark.parametrize("run", ["fit", "validate", "get_preds"])
def test_fit_inside_a_callback_of_the_same_learner_is_refused(make_learner, run):
    learn = make_learner(On(before_batch=lambda learn: learn.fit(1)))
    with pytest.raises(LearnerError, match="`fit` must not be called while this learner runs"):
        learn.fit(1) if run == "fit" else getattr(learn, run)()
    assert learn.n_steps == 0
    assert (learn.opt is None) == (run != "fit")  # not even begun
    with pytest.raises(LearnerError, match="`fit` must not be called while this learner runs"):
        make_learner(On(before_fit=lambda learn: learn.fit(1))).fit(1)


def test_another_learner_may_be_fitted_inside_a_callback(make_learner):
    inner, plain = make_learner(), make_learner()
    make_learner(On(before_fit=lambda learn: inner.fit(1))).fit(0)
    assert inner.n_steps == 3
    assert plain.n_steps == 0


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_next_fit_goes_on_as_if_new(make_learner, kind):
    def fail(learn):
        if learn.i == 1:
            raise kind("on purpose")

    learn = make_learner(opt_func=lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9))
    with pytest.raises(kind, match="on purpose"):
        learn.fit(1, cbs=On(after_backward=fail))
    other = make_learner(opt_func=learn.opt_func, model=copy.deepcopy(learn.model))
    other.fit(0)
    other.opt.load_state_dict(copy.deepcopy(learn.opt.state_dict()))
    for each in (learn, other):
        torch.manual_seed(1)
        each.fit(2)
    assert torch.equal(weight_of(learn), weight_of(other))


@pytest.mark.parametrize("cbs", [None, Callback()])
def test_from_fit_to_the_optimizer_is_five_frames_of_one_file(make_learner, cbs):
    files, package = [], Path(inspect.getfile(Learner)).parent

    class Sees(torch.optim.SGD):
        def step(self):
            files.extend(Path(frame.filename) for frame in inspect.stack())

    make_learner(cbs, opt_func=Sees, dls={"train": one_batch()}).fit(1)
    ours = [file.name for file in files if file.parent == package]
    assert set(ours) == {"learner.py"}
    assert len(ours) <= 5


def one_batch():
    return [(torch.ones(2, 4), torch.tensor([0, 1]))]


# -- state that callbacks may read and replace --------------------------------------------------------------------

STATE = ("model", "dls", "loss_f", "lr", "opt_func", "opt", "cbs", "predictor", "n_epochs", "epochs", "epoch", "dl")
STATE += ("dl_name", "training", "i", "n_batches", "n_steps", "n_samples", "batch", "xb", "yb", "preds", "loss")
STATE += ("batch_size", "metrics", "history", "throughput")


@pytest.mark.parametrize("name", STATE)
def test_shared_state_is_documented_and_there_from_the_start(make_learner, name):
    assert hasattr(make_learner(), name)
    assert f"`{name}`" in Learner.__doc__


def test_counters(make_learner):
    """40 training points in batches of 16, 16 and 8."""
    seen = []

    def see(learn):
        seen.append((learn.epoch, learn.i, learn.n_batches, learn.batch_size, learn.n_steps))

    learn = make_learner(On(after_batch=lambda learn: learn.training and see(learn)))
    learn.fit(2)
    assert seen == [
        *[(0, 0, 3, 16, 1), (0, 1, 3, 16, 2), (0, 2, 3, 8, 3)],
        *[(1, 0, 3, 16, 4), (1, 1, 3, 16, 5), (1, 2, 3, 8, 6)],
    ]
    assert (learn.n_steps, learn.n_samples) == (6, 80)
    learn.validate()
    learn.get_preds("train")
    assert (learn.n_steps, learn.n_samples) == (6, 80)
    learn.fit(1)
    assert (learn.n_steps, learn.n_samples) == (9, 120)


@pytest.mark.parametrize("signal", ["before_batch", "after_predict", "after_backward", "after_batch"])
def test_cancelled_batches_count_neither_steps_nor_samples(make_learner, signal):
    def cancel(learn):
        if learn.training and learn.i == 0:
            raise CancelBatchException

    learn = make_learner(On(**{signal: cancel}))
    learn.fit(1)
    assert (learn.n_steps, learn.n_samples) == (3 if signal == "after_batch" else 2, 24)


def test_a_cancelled_step_is_no_step(make_learner):
    def cancel(learn):
        if learn.i == 0:
            raise CancelStepException

    learn = make_learner(On(after_loss=cancel))
    learn.fit(1)
    assert (learn.n_steps, learn.n_samples) == (2, 40)


def test_a_step_that_was_made_counts_at_once_and_whatever_comes_after_it(make_learner):
    seen = []

    def see_and_cancel(learn):
        seen.append(learn.n_steps)
        raise CancelStepException

    learn = make_learner(On(after_step=see_and_cancel))
    learn.fit(1)
    assert seen == [1, 2, 3]
    assert (learn.n_steps, learn.n_samples) == (3, 40)


def test_epochs_may_be_replaced_before_the_fit(make_learner):
    seen = []
    learn = make_learner(
        [
            On(before_fit=lambda learn: setattr(learn, "epochs", range(5, 7))),
            On(after_epoch=lambda learn: seen.append(learn.epoch)),
        ]
    )
    learn.fit(10)
    assert seen == [5, 5, 6, 6]


def test_the_loader_may_be_replaced_before_the_pass(make_learner, dls):
    few = [batch for batch, _ in zip(dls.train, range(2), strict=False)]

    def replace(learn):
        if learn.training:
            learn.dl = few

    seen = []
    learn = make_learner(
        [On(before_epoch=replace), On(after_batch=lambda learn: seen.append((learn.i, learn.n_batches)))]
    )
    learn.fit(1)
    assert seen == [(0, 2), (1, 2), (0, 2), (1, 2)]
    assert learn.dls["train"] is dls.train


def test_the_batch_may_be_replaced_before_it_is_used(make_learner):
    seen = []
    replace = On(
        before_batch=lambda learn: setattr(learn, "batch", (torch.ones(5, 4), torch.zeros(5, dtype=torch.int64)))
    )

    def see(learn):
        seen.append((learn.xb.sum().item(), learn.yb.sum().item(), tuple(learn.preds.shape), learn.batch_size))

    learn = make_learner([replace, On(after_predict=see)])
    learn.fit(1)
    assert seen == [(20.0, 0, (5, 3), 5)] * 5
    assert learn.n_samples == 15


PER_BATCH = ("xb", "yb", "preds", "loss")


def test_nothing_of_the_last_batch_is_there_when_a_batch_starts(make_learner):
    stale = []

    def see(learn):
        stale.extend(name for name in PER_BATCH if getattr(learn, name) is not None)
        sizes.append(learn.batch_size)

    sizes = []
    make_learner(On(before_batch=see)).fit(2)
    assert stale == []
    assert len(set(sizes)) == 1  # whatever stands for "not known yet", never the size of the batch before


def test_a_step_cut_short_leaves_no_stale_prediction_loss_or_size(make_learner):
    seen = []

    def cancel(learn):
        if learn.i == 1:
            raise CancelStepException

    def see(learn):
        if learn.training and learn.i == 1:
            seen.append([getattr(learn, name) for name in PER_BATCH])

    learn = make_learner(On(before_batch=cancel, after_batch=see))
    learn.fit(1)
    assert seen == [[None] * 4]
    assert learn.n_samples == 24  # of 16, 16 and 8 the second was never looked at


def test_xb_and_yb_are_a_tensor_where_there_is_one_else_a_tuple(make_learner):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, a, b):
            return self.layer(a + b)

    x, y, seen = torch.ones(2, 4), torch.tensor([0, 1]), []
    learn = make_learner(On(after_batch=lambda learn: seen.append(learn.xb)), model=Two(), dls={"train": [(x, x, y)]})
    learn.fit(1)
    assert isinstance(seen[0], tuple)
    assert [part is x for part in seen[0]] == [True, True]


@pytest.mark.parametrize("run", [lambda learn: learn.fit(1), Learner.validate, Learner.get_preds])
@pytest.mark.parametrize("cancel", [None, CancelBatchException, CancelEpochException, CancelFitException])
def test_tensors_of_the_last_batch_are_let_go_when_all_went_well(make_learner, dls, run, cancel):
    refs = []

    def see(learn):
        tensors = [learn.xb, learn.yb, learn.preds, learn.loss]
        refs.extend(weakref.ref(tensor) for tensor in tensors if tensor is not None)
        if cancel:
            raise cancel

    learn = make_learner(On(after_batch=see))
    result = run(learn)
    assert refs
    assert [ref for ref in refs if ref() is not None] == []
    assert [getattr(learn, name) for name in (*PER_BATCH, "batch")] == [None] * 5
    del result


@pytest.mark.parametrize("run", [lambda learn: learn.fit(1), Learner.validate])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_batch_stays_to_be_looked_at(make_learner, run, kind):
    seen = {}

    def fail(learn):
        if learn.i == 1:
            seen.update({name: getattr(learn, name) for name in (*PER_BATCH, "batch", "i", "dl_name")})
            raise kind("on purpose")

    learn = make_learner(On(after_loss=fail))
    with pytest.raises(kind, match="on purpose"):
        run(learn)
    assert all(getattr(learn, name) is value for name, value in seen.items())
    assert seen["preds"] is not None


class Cramped(nn.Module):
    """A model with room for eight samples."""

    def __init__(self, place):
        super().__init__()
        self.layer, self.place = nn.Linear(4, 3), place

    def forward(self, x):
        preds = self.layer(x)
        if self.place == "backward" and preds.requires_grad:
            preds.register_hook(lambda grad: self.check(x))
        elif self.place == "forward":
            self.check(x)
        return preds

    def check(self, x):
        if len(x) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_out_of_memory_passes_through_and_a_smaller_batch_fits_on_the_same_learner(make_learner, dls, place):
    refs, alive = [], []
    learn = make_learner(model=Cramped(place))
    whole = list(dls["train"])
    learn.dls = {"train": whole}
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 1\.00 GiB"):
        learn.fit(1, cbs=On(before_batch=lambda learn: refs.append(weakref.ref(learn.batch[0]))))
    assert len(refs) == 1
    assert all(p.grad is None for p in learn.model.parameters())
    learn.dls = {"train": [(x[:8].clone(), y[:8]) for x, y in whole]}
    other = make_learner(model=copy.deepcopy(learn.model), dls=learn.dls)
    del whole
    for each in (learn, other):
        each.fit(2, cbs=On(before_batch=lambda learn: alive.append(refs[0]() is not None)))
    assert not any(alive)  # its room is there for the next one
    assert torch.equal(learn.model.layer.weight, other.model.layer.weight)


# -- modes --------------------------------------------------------------------------------------------------------


def flags(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("run", [Learner.validate, Learner.get_preds, Learner.summary, lambda learn: learn.fit(2)])
def test_train_and_eval_flags_of_each_module_survive(make_learner, run):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    model[1].eval()
    learn = make_learner(model=model)
    before = flags(model)
    run(learn)
    assert flags(model) == before == [True, True, False, True, True]


def test_a_frozen_batch_norm_stays_frozen_while_training(make_learner):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model[1].eval()
    learn = make_learner(model=model)
    learn.fit(2)
    assert not model[1].running_mean.any()
    model[1].train()
    learn.fit(1)
    assert model[1].running_mean.any()


@pytest.mark.parametrize("kind", [None, ValueError])
def test_a_model_wholly_in_eval_mode_is_trained_in_train_mode_and_gets_its_flags_back(make_learner, kind):
    seen = []

    def see(learn):
        seen.append((learn.training, set(flags(learn.model))))
        if kind and not learn.training:
            raise kind("on purpose")

    learn = make_learner(On(after_predict=see))
    learn.model.eval()
    if kind:
        with pytest.raises(kind, match="on purpose"):
            learn.fit(1)
    else:
        learn.fit(1)
    assert (True, {True}) in seen
    assert set(flags(learn.model)) == {False}
    assert all(training in modes and len(modes) == 1 for training, modes in seen)


# -- validate -----------------------------------------------------------------------------------------------------


def test_validate_returns_the_metrics_of_a_pass_without_gradients(make_learner, dls):
    learn = make_learner()
    before = copy.deepcopy(learn.model.state_dict())
    result = learn.validate()
    x, y = (torch.cat(column) for column in zip(*dls.valid, strict=True))
    with torch.no_grad():
        expected = cross_entropy(learn.model(x), y).item()
    assert result == {"loss": pytest.approx(expected, rel=1e-6)}  # float32 sums in another order
    assert learn.metrics == {"valid": result}
    assert len(learn.history) == 0
    assert all(torch.equal(value, before[name]) for name, value in learn.model.state_dict().items())
    result["loss"] = 0
    assert learn.metrics["valid"]["loss"] != 0


def test_validate_takes_any_named_loader_also_one_that_trains(make_learner, dls):
    learn = make_learner()
    before = weight_of(learn).clone()
    result = learn.validate("train")
    x, y = dls.train.dataset.tensors
    assert result["loss"] == pytest.approx(cross_entropy(learn.model(x), y).item(), rel=1e-6)
    assert torch.equal(weight_of(learn), before)
    assert (learn.n_steps, learn.opt) == (0, None)


def test_validate_takes_callbacks_for_the_call(make_learner):
    seen = []
    learn = make_learner()
    learn.validate(cbs=On(after_batch=lambda learn: seen.append((learn.dl_name, learn.i))))
    learn.validate()
    assert seen == [("valid", 0), ("valid", 1)]


@pytest.mark.parametrize("name", ["valid", "test"])
def test_validate_says_which_loaders_there_are(make_learner, dls, name):
    learn = make_learner(dls={"train": dls.train})
    with pytest.raises(KeyError, match=f"no loader '{name}', only 'train'"):
        learn.validate(name)


PASS_STATE = ("dl", "dl_name", "training", "role", "i", "n_batches", "batch", "xb", "yb", "preds", "loss", "batch_size")


@pytest.mark.parametrize("signal", ["before_epoch", "before_batch", "after_predict", "after_backward", "after_batch"])
@pytest.mark.parametrize("ending", [None, CancelEpochException, ValueError])
def test_a_pass_in_the_middle_of_another_gives_all_of_its_state_back(make_learner, signal, ending):
    checked = []

    def end(learn):
        if ending:
            raise ending("inner")

    inner = On(after_loss=end)

    def look(learn):
        if not learn.training:
            return
        names = [*PASS_STATE, "epoch", "n_steps", "n_samples"]
        before = {name: getattr(learn, name) for name in names}
        gradients = [p.grad for p in learn.model.parameters()]
        modes, rng, grad = flags(learn.model), torch.get_rng_state(), torch.is_grad_enabled()
        if ending is ValueError:
            with pytest.raises(ValueError, match="inner"):
                learn.validate(cbs=inner)
        else:
            result = learn.validate(cbs=inner)
            assert set(result) == ({"loss"} if ending is None else set())
        assert all(getattr(learn, name) is value or getattr(learn, name) == value for name, value in before.items())
        assert all(p.grad is grad for p, grad in zip(learn.model.parameters(), gradients, strict=True))
        assert flags(learn.model) == modes
        assert torch.equal(torch.get_rng_state(), rng)
        assert torch.is_grad_enabled() == grad
        checked.append(signal)

    learn, plain = make_learner(On(**{signal: look})), make_learner()
    for each in (learn, plain):
        torch.manual_seed(1)
        each.fit(1)
    assert len(checked) == (1 if signal == "before_epoch" else 3)
    assert torch.equal(weight_of(learn), weight_of(plain))
    assert learn.history.to_dict() == plain.history.to_dict()


def test_cancelling_the_fit_from_a_pass_within_ends_the_fit(make_learner):
    def cancel(learn):
        raise CancelFitException

    seen = []
    learn = make_learner(
        On(
            after_batch=lambda learn: learn.training and learn.validate(cbs=On(after_predict=cancel)),
            cleanup_fit=lambda learn: seen.append((learn.dl_name, learn.i)),
        )
    )
    learn.fit(3)
    assert seen == [("train", 0)]


# -- get_preds ----------------------------------------------------------------------------------------------------


def test_get_preds_gives_predictions_and_targets_in_the_loaders_order(make_learner, dls):
    learn = make_learner()
    learn.fit(1)
    metrics, history = copy.deepcopy(learn.metrics), learn.history.to_dict()
    preds, targets = learn.get_preds()
    x, y = (torch.cat(column) for column in zip(*dls.valid, strict=True))
    assert torch.equal(targets, y)
    torch.testing.assert_close(preds, learn.model(x).detach())
    assert (preds.requires_grad, preds.device.type) == (False, "cpu")
    assert (learn.metrics, learn.history.to_dict()) == (metrics, history)


def test_get_preds_computes_no_loss(make_learner):
    def loss_f(preds, y):
        raise AssertionError("no loss is needed")

    preds, _ = make_learner(loss_f=loss_f).get_preds("train")
    assert preds.shape == (40, 3)


def test_get_preds_keeps_its_own_copy(make_learner):
    """A model that writes each output into the same memory must not overwrite what was gathered."""

    class Reuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.zeros(2, 1)

        def forward(self, x):
            return self.out.copy_(x)

    batches = [torch.full((2, 1), float(i)) for i in range(3)]
    preds, targets = make_learner(model=Reuses()).get_preds(batches)
    assert preds.flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert targets is None


@pytest.mark.parametrize("loader", [[torch.ones(2, 4)], [(torch.ones(2, 4),)], (torch.ones(2, 4) for _ in range(1))])
def test_get_preds_of_a_loader_without_targets(make_learner, loader):
    learn = make_learner()
    preds, targets = learn.get_preds(loader)
    torch.testing.assert_close(preds, learn.model(torch.ones(2, 4)).detach())
    assert targets is None


class Returns(nn.Module):
    """Return a fixed arrangement of the sum and the mean of each sample."""

    def __init__(self, arrange):
        super().__init__()
        self.arrange = arrange

    def forward(self, x):
        return self.arrange(x.sum(1), {"mean": x.mean(1)})


@pytest.mark.parametrize(
    "arrange",
    [lambda a, b: (a, b), lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}, lambda a, b: {"a": (a, b)}],
)
def test_get_preds_joins_tuples_and_mappings_part_by_part(make_learner, dls, arrange):
    learn = make_learner(model=Returns(arrange))
    preds, _ = learn.get_preds()
    x = torch.cat([x for x, _ in dls.valid])
    expected = arrange(x.sum(1), {"mean": x.mean(1)})
    torch.testing.assert_close(preds, tuple(expected) if isinstance(expected, list) else expected)


def test_get_preds_leaves_out_cancelled_batches(make_learner, dls):
    def cancel(kind):
        def raise_it(learn):
            if learn.i == 0:
                raise kind

        return raise_it

    learn = make_learner()
    for kind in (CancelBatchException, CancelStepException):
        with learn.added(On(before_batch=cancel(kind))):
            preds, targets = learn.get_preds()
        assert (len(preds), len(targets)) == (4, 4)


# -- log ----------------------------------------------------------------------------------------------------------

# valid has batches of 16 and 4; with the value i in batch i the weighted mean is 4 / 20.
LOG_PLACES = ["before_batch", "after_predict", "after_loss", "after_batch", "cleanup_batch"]


@pytest.mark.parametrize("make_value", [float, np.float64, torch.tensor, lambda i: torch.tensor([float(i)]), int])
@pytest.mark.parametrize("place", [*LOG_PLACES[1:], "predict", "get_loss"])
def test_logged_values_are_averaged_weighted_by_batch_size(make_learner, place, make_value):
    def log(learn):
        learn.log(value=make_value(learn.i))
        if place in ("predict", "get_loss"):
            getattr(Learner, place)(learn)

    learn = make_learner(On(**{place: log}))
    learn.fit(1)
    assert learn.metrics["valid"]["value"] == pytest.approx(4 / 20)
    assert learn.metrics["train"]["value"] == pytest.approx((0 * 16 + 1 * 16 + 2 * 8) / 40)
    assert learn.history[0]["valid/value"] == learn.metrics["valid"]["value"]
    assert learn.validate()["value"] == pytest.approx(4 / 20)
    assert type(learn.metrics["valid"]["value"]) is float


def test_log_from_a_subclass_and_the_loss_are_weighted_alike(make_learner, dls):
    class Logs(Learner):
        def get_loss(self):
            super().get_loss()
            self.log(same=self.loss, ones=1)

    plain = make_learner()
    learn = Logs(plain.model, dls, plain.loss_f)
    learn.fit(2)
    assert [row["valid/same"] for row in learn.history] == [row["valid/loss"] for row in learn.history]
    assert learn.metrics["train"]["ones"] == 1.0


def test_the_loss_is_the_mean_over_samples_by_hand(make_learner, dls):
    losses = []

    def see(learn):
        if learn.training:
            losses.append((learn.loss.item(), len(learn.xb)))

    learn = make_learner(On(after_loss=see))
    learn.fit(1)
    by_hand = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
    assert len({n for _, n in losses}) == 2
    assert learn.metrics["train"]["loss"] == pytest.approx(by_hand, rel=1e-6)  # float32, summed a few dozen at a time


def test_means_of_many_batches_are_exact(make_learner):
    n = 300
    batches = [(torch.full((i % 3 + 1, 1), float(i)), torch.zeros(i % 3 + 1, 1)) for i in range(n)]
    log = On(after_predict=lambda learn: learn.log(value=learn.xb.mean()))
    learn = make_learner(log, model=nn.Linear(1, 1), loss_f=mse_loss, dls={"valid": batches})
    expected = np.average(range(n), weights=[i % 3 + 1 for i in range(n)])
    assert learn.validate()["value"] == pytest.approx(expected, rel=1e-6)


def test_a_value_logged_in_after_epoch_joins_that_pass(make_learner):
    learn = make_learner(On(after_epoch=lambda learn: learn.log(total=torch.tensor(2.5))))
    learn.fit(1)
    assert (learn.metrics["valid"]["total"], learn.history[0]["train/total"]) == (2.5, 2.5)


def test_a_callback_may_add_to_the_metrics_in_after_epoch(make_learner):
    learn = make_learner(On(after_epoch=lambda learn: learn.metrics[learn.dl_name].update(extra=7.0)))
    learn.fit(1)
    assert learn.history[0]["valid/extra"] == 7.0
    assert learn.validate()["extra"] == 7.0


@pytest.mark.parametrize("place", ["before_batch", "after_predict", "after_batch"])
def test_a_cancelled_batch_does_not_count(make_learner, place):
    def log_and_cancel(learn):
        learn.log(value=learn.i)
        if learn.i == 0:
            raise CancelBatchException

    seen = []
    learn = make_learner([On(**{place: log_and_cancel}), On(after_loss=lambda learn: seen.append(learn.loss.item()))])
    result = learn.validate()
    assert result == {"value": 1.0, "loss": pytest.approx(seen[-1], rel=1e-6)}


@pytest.mark.parametrize("kind", [CancelStepException, CancelBatchException])
def test_a_pass_whose_batches_are_all_cut_short_has_no_loss_and_does_not_fail(make_learner, kind):
    def cut(learn):
        learn.log(value=3.0)
        raise kind

    learn = make_learner(On(before_batch=cut))
    learn.fit(1)
    assert "loss" not in learn.metrics["valid"]
    assert learn.metrics["valid"].get("value", 3.0) == 3.0


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"value": torch.zeros(3)}, ValueError, r"`value` must be a scalar, got Tensor\(3,\)"),
        ({"value": np.zeros(3)}, ValueError, "`value` must be a scalar"),
        ({"value": "high"}, ValueError, "`value` must be a scalar, got 'high'"),
        ({"value": None}, ValueError, "`value` must be a scalar, got None"),
        ({"loss": 1.0}, ValueError, "another name than 'loss'"),
    ],
)
def test_what_cannot_be_averaged_is_refused(make_learner, values, error, message):
    with pytest.raises(error, match=message):
        make_learner(On(after_predict=lambda learn: learn.log(**values))).validate()


@pytest.mark.parametrize("signal", [None, "before_fit", "after_fit", "cleanup_fit"])
def test_log_outside_of_a_pass_is_refused(make_learner, signal):
    learn = make_learner(On(**{signal: lambda learn: learn.log(value=1)}) if signal else None)
    with pytest.raises(LearnerError, match="`log` must be called while a pass runs"):
        learn.fit(1) if signal else learn.log(value=1)


def test_a_logged_tensor_keeps_no_graph(make_learner):
    refs = []

    def log(learn):
        learn.log(value=learn.loss * 2)
        refs.append(weakref.ref(learn.loss))

    def see(learn):
        alive.append([ref() for ref in refs[:-1]])

    alive = []
    make_learner([On(after_loss=log), On(after_epoch=see)]).fit(1)
    assert all(ref is None for refs in alive for ref in refs)


# -- history ------------------------------------------------------------------------------------------------------


def test_history_has_a_row_per_epoch_over_all_fits(make_learner):
    learn = make_learner()
    learn.fit(2)
    learn.fit(1)
    columns = learn.history.to_dict()
    assert columns["epoch"] == [0, 1, 2]
    assert list(columns) == ["epoch", "train/loss", "valid/loss"]
    assert columns["valid/loss"][-1] == learn.metrics["valid"]["loss"]


def test_history_after_an_error_keeps_the_passes_that_went_well_and_counts_on(make_learner):
    def fail(learn):
        if learn.epoch == 1 and not learn.training:
            raise ValueError("on purpose")

    learn = make_learner()
    with pytest.raises(ValueError, match="on purpose"):
        learn.fit(3, cbs=On(after_batch=fail))
    learn.fit(1)
    assert [(row["epoch"], "valid/loss" in row) for row in learn.history] == [(0, True), (1, False), (2, True)]


def test_history_has_the_last_pass_also_when_the_fit_is_cancelled_after_it(make_learner):
    """As early stopping does, in `after_epoch` of the loader it watches."""

    def stop(learn):
        if learn.epoch == 1 and not learn.training:
            raise CancelFitException

    learn = make_learner(On(after_epoch=stop))
    learn.fit(5)
    assert [list(row) for row in learn.history] == [["epoch", "train/loss", "valid/loss"]] * 2
    assert learn.history[1]["valid/loss"] == learn.metrics["valid"]["loss"]


def test_a_cancelled_pass_leaves_no_metrics_of_the_pass_before(make_learner):
    def cancel(learn):
        if learn.epoch == 1 and not learn.training:
            raise CancelEpochException

    learn = make_learner(On(after_batch=cancel))
    learn.fit(2)
    assert "valid/loss" not in learn.history[1]
    assert "loss" not in learn.metrics.get("valid", {})


@pytest.mark.parametrize("kind", [CancelEpochException, CancelFitException, ValueError])
def test_a_validation_within_a_pass_never_stands_for_that_pass_in_the_history(make_learner, kind):
    def look_and_end(learn):
        if learn.training:
            learn.validate("train")
            raise kind("on purpose")

    learn = make_learner(On(after_batch=look_and_end))
    with pytest.raises(ValueError, match="on purpose") if kind is ValueError else nullcontext():
        learn.fit(1)
    assert "train/loss" not in learn.history.to_dict()


# -- sandbox ------------------------------------------------------------------------------------------------------


class Busy(Callback):
    """Keep state of every plain kind, and change all of it."""

    def __init__(self):
        self.n, self.name, self.best = 0, "start", None
        self.rows, self.by_name, self.seen = [], {"a": [1]}, {1}
        self.recent, self.counts, self.pair = deque([1, 2], maxlen=3), defaultdict(int, x=1), ([], 2)
        self.tensor, self.array, self.wide = torch.zeros(3), np.zeros(3), torch.zeros(1).expand(3)
        self.layer = nn.Linear(1, 1)
        self.torch_rng = torch.Generator().manual_seed(1)
        self.numpy_rng = np.random.default_rng(1)
        self.python_rng = random.Random(1)

    def after_batch(self, learn):
        self.n, self.name, self.best = self.n + 1, "changed", learn.xb
        self.rows.append(self.n)
        self.by_name["a"].append(2)
        self.by_name["b"] = 3
        self.seen.add(self.n)
        self.recent.append(self.n)
        self.counts["y"] += 1
        self.pair[0].append(1)
        self.tensor += 1
        self.array += 1
        self.extra = 1
        with torch.no_grad():
            self.layer.weight += 1
        torch.rand(1, generator=self.torch_rng)
        self.numpy_rng.random()
        self.python_rng.random()
        random.random()
        np.random.rand()


class Sneaky(nn.Module):
    """A layer with buffers of every kind."""

    def __init__(self):
        super().__init__()
        self.register_buffer("in_place", torch.zeros(2))
        self.register_buffer("rebound", torch.zeros(2), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.in_place += 1
        self.rebound = self.rebound + 1
        return x


def plain(value):
    """Turn any state into something that can be compared with `==`."""
    if isinstance(value, torch.Tensor):
        return ("tensor", value.dtype, tuple(value.shape), value.tolist(), value.requires_grad)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, nn.Module):
        return {**plain(value.state_dict()), "flags": [m.training for m in value.modules()]}
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return plain(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return [plain(item) for item in value]
    return value


def all_state(learn, cb):
    model, opt = learn.model, learn.opt
    return {
        "weights": plain(dict(model.named_parameters())),
        "buffers": plain({f"{n}.{b}": t for n, m in model.named_modules() for b, t in m._buffers.items()}),
        "gradients": plain([p.grad for p in model.parameters()]),
        "flags": flags(model),
        "opt": opt and plain(list(opt.state.values())),
        "groups": opt and plain([{k: v for k, v in g.items() if k != "params"} for g in opt.param_groups]),
        "rngs": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "loaders": learn.dls.train.generator.get_state().tolist(),
        "counters": [learn.n_steps, learn.n_samples, learn.n_epochs, learn.epoch, learn.lr, learn.batches_per_step],
        "history": learn.history.to_dict(),
        "metrics": copy.deepcopy(learn.metrics),
        "callbacks": (list(learn.cbs), plain(vars(cb))),
        "flags of the learner": (learn.in_sandbox, learn.batch, learn.loss, learn.opt is None),
        "own": plain(learn.own),
    }


@pytest.fixture
def sandboxed():
    """A learner with state wherever state can be, and its busy callback."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), Sneaky(), nn.Dropout(), nn.Linear(8, 3))
    model[1].eval()
    dls = Loaders.from_datasets(
        train=torch.utils.data.TensorDataset(x, y), batch_size=8, generator=torch.Generator().manual_seed(5)
    )
    busy = Busy()
    learn = Learner(model, dls, cross_entropy, 0.1, torch.optim.AdamW, busy)
    learn.own = {"mine": [1]}
    return learn, busy


def play(learn):
    learn.model.eval()
    learn.fit(2, lr=0.7)
    learn.model[0].weight.requires_grad_(False)
    learn.model[0].bias.grad = torch.ones(8)
    learn.opt.param_groups[0]["weight_decay"] = 9
    learn.own["mine"].append(2)
    learn.new = 3
    learn.add_cb(On(after_batch=lambda learn: None))
    learn.batches_per_step = 4
    learn.lr = 17.0


@pytest.mark.parametrize("fitted", [True, False], ids=["after a fit", "before the first fit"])
@pytest.mark.parametrize("kind", [None, ValueError, KeyboardInterrupt, CancelFitException])
def test_a_sandbox_puts_everything_back_however_it_ends(sandboxed, kind, fitted):
    learn, busy = sandboxed
    if fitted:
        learn.fit(1)
        learn.model[0].weight.grad = torch.ones(8, 4)
    held = learn.own["mine"], busy.tensor, learn.model[0].weight, learn.history
    before = all_state(learn, busy)

    def go():
        with learn.sandbox():
            assert learn.in_sandbox
            play(learn)
            assert all_state(learn, busy) != before
            if kind:
                raise kind("on purpose")

    if kind:
        with pytest.raises(kind, match="on purpose"):
            go()
    else:
        go()
    after = all_state(learn, busy)
    assert [part for part in before if after[part] != before[part]] == []
    assert not hasattr(learn, "new")
    assert (held[0] is learn.own["mine"], held[1] is busy.tensor) == (True, True)
    assert (held[2] is learn.model[0].weight, held[3] is learn.history) == (True, True)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_fit_that_fails_in_a_sandbox_leaves_nothing(sandboxed, kind):
    learn, busy = sandboxed

    def fail(learn):
        if learn.i == 1:
            raise kind("on purpose")

    before = all_state(learn, busy)
    with pytest.raises(kind, match="on purpose"), learn.sandbox():
        learn.fit(1, cbs=On(after_step=fail))
    assert all_state(learn, busy) == before
    learn.fit(1)


def test_training_goes_on_after_a_sandbox_as_if_there_had_been_none(sandboxed):
    learn, _ = sandboxed
    twin = copy.deepcopy(learn)
    for each in (learn, twin):
        torch.manual_seed(3)
        each.fit(1)
    state = torch.get_rng_state()
    with learn.sandbox():
        play(learn)
    assert torch.equal(torch.get_rng_state(), state)
    learn.fit(1)
    torch.set_rng_state(state)
    twin.fit(1)
    assert torch.equal(weight_of(learn), weight_of(twin))


def test_sandboxes_nest_and_work_in_the_middle_of_a_fit(make_learner):
    def look(learn):
        if not learn.training:
            return
        with learn.sandbox():
            with learn.sandbox():
                weight_of(learn).data.zero_()
            assert weight_of(learn).any()
            assert learn.in_sandbox
            learn.validate()
        assert not learn.in_sandbox

    learn, twin = make_learner(On(after_backward=look)), make_learner()
    for each in (learn, twin):
        torch.manual_seed(1)
        each.fit(1)
    assert torch.equal(weight_of(learn), weight_of(twin))
    assert learn.history.to_dict() == twin.history.to_dict()


def test_a_new_optimizer_and_model_are_gone_after_a_sandbox(make_learner):
    learn = make_learner()
    model = learn.model
    with learn.sandbox():
        learn.fit(1)
        learn.model = nn.Linear(4, 3)
    assert learn.model is model
    assert learn.opt is None


# -- subclasses ---------------------------------------------------------------------------------------------------


def test_predict_and_get_loss_may_use_the_batch_by_hand(make_learner):
    """Batches that the default could not take apart: three parts for a model that takes one."""

    class ByHand(Learner):
        def predict(self):
            self.preds = self.model(self.batch[0])

        def get_loss(self):
            self.loss = cross_entropy(self.preds, self.batch[2])

    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
    learn = make_learner()
    by_hand = ByHand(copy.deepcopy(learn.model), {"train": [(x, "a name", y)]})
    learn.dls = {"train": [(x, y)]}
    learn.fit(2)
    by_hand.fit(2)
    assert torch.equal(weight_of(learn), weight_of(by_hand))
    assert by_hand.history.to_dict() == learn.history.to_dict()


def test_a_subclass_may_take_batches_of_any_kind_and_say_how_large_they_are(make_learner):
    class Batch:
        def __init__(self, n):
            self.points, self.labels = torch.ones(n, 4), torch.zeros(n, dtype=torch.int64)

    class ByHand(Learner):
        def predict(self):
            self.batch_size = len(self.batch.points)
            self.preds = self.model(self.batch.points)

        def get_loss(self):
            self.loss = cross_entropy(self.preds, self.batch.labels)
            self.log(size=self.batch_size)

    learn = ByHand(make_learner().model, {"train": [Batch(2), Batch(6)]})
    learn.fit(1)
    assert learn.n_samples == 8
    assert learn.metrics["train"]["size"] == (2 * 2 + 6 * 6) / 8


def test_own_signals_are_declared_and_emitted_by_hand(make_learner):
    class Clips(Learner):
        signals = ("before_clip", "after_clip", "cleanup_clip")

        def step(self):
            self.callback("before_clip")
            self.callback("after_clip")
            super().step()
            self.callback("cleanup_clip")

    class Hears(Callback):
        def __init__(self, name, order):
            self.name, self.order = name, order

        def before_clip(self, learn):
            heard.append(("before", self.name))

        def cleanup_clip(self, learn):
            heard.append(("cleanup", self.name))

    heard, base = [], make_learner()
    learn = Clips(base.model, {"train": one_batch()}, base.loss_f)
    learn.add_cb([Hears("b", 2), Hears("a", 1)])
    learn.fit(1)
    assert heard == [("before", "a"), ("before", "b"), ("cleanup", "b"), ("cleanup", "a")]
    with pytest.raises(ValueError, match=r"_clip` must be a signal of this learner.*declare it in the `signals`"):
        make_learner(Hears("c", 0))


def test_signals_of_a_base_class_are_inherited(make_learner):
    class One(Learner):
        signals = ("after_one",)

    class Two(One):
        signals = ("after_two",)

    class Three(Two):
        pass

    class Hears(Callback):
        def after_one(self, learn):
            heard.append(1)

        def after_two(self, learn):
            heard.append(2)

    heard, base = [], make_learner()
    learn = Three(base.model, base.dls, base.loss_f, cbs=Hears())
    learn.callback("after_one")
    learn.callback("after_two")
    assert heard == [1, 2]


def test_an_error_at_an_own_signal_is_noted(make_learner):
    class Own(Learner):
        signals = ("after_all",)

    class Fails(Callback):
        def after_all(self, learn):
            raise ValueError("on purpose")

    base = make_learner()
    with pytest.raises(ValueError, match="on purpose") as caught:
        Own(base.model, base.dls, base.loss_f, cbs=Fails()).callback("after_all")
    assert "Fails.after_all" in caught.value.__notes__[0]


@pytest.mark.parametrize("signal", ["after_nothing", "before_bach", "_fit", "predict", ""])
def test_a_signal_that_was_not_declared_is_refused(make_learner, signal):
    with pytest.raises(ValueError, match=f"must be one of before_fit, .*got '{signal}'"):
        make_learner().callback(signal)


@pytest.mark.parametrize("signals", ["after_clip", ("after clip",), (3,)])
def test_signals_must_be_a_tuple_of_names(signals):
    with pytest.raises(TypeError, match=r"`Own\.signals` must be a tuple of method names"):
        type("Own", (Learner,), {"signals": signals})


def test_a_signal_may_be_emitted_by_hand(make_learner):
    heard = []
    learn = make_learner(On(after_batch=lambda learn: heard.append(learn)))
    learn.callback("after_batch")
    assert heard == [learn]


# -- a loss of the model's own ------------------------------------------------------------------------------------


class OwnLoss(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = nn.Linear(4, 1), wrap

    def forward(self, x, y=None):
        out = self.layer(x)
        return self.wrap(loss=mse_loss(out, y) if y is not None else None, logits=out)


@pytest.mark.parametrize("wrap", [dict, SimpleNamespace, OrderedDict])
def test_without_loss_f_the_output_carries_the_loss(wrap):
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    model = OwnLoss(wrap)
    by_hand = copy.deepcopy(model.layer)
    learn = Learner(model, {"train": [(x, y)], "valid": [(x, y)]}, lr=0.1)
    learn.fit(1)
    loss = mse_loss(by_hand(x), y)
    loss.backward()
    torch.optim.SGD(by_hand.parameters(), lr=0.1).step()
    assert torch.equal(model.layer.weight, by_hand.weight)
    assert learn.history[0]["train/loss"] == pytest.approx(loss.item())


# -- leaving no trace ---------------------------------------------------------------------------------------------


def test_an_unknown_attribute_is_an_error_also_of_a_copy_that_is_only_being_made(make_learner):
    for learn in (make_learner(), Learner.__new__(Learner), pickle.loads(pickle.dumps(make_learner()))):
        with pytest.raises(AttributeError, match="'Learner' object has no attribute 'n_epoch'") as caught:
            _ = learn.n_epoch
        assert (caught.value.name, caught.value.obj) == ("n_epoch", learn)  # of which Python makes "Did you mean"


def test_a_copy_of_a_learner_trains_apart_from_it(make_learner):
    learn = make_learner()
    learn.fit(1)
    other, before = copy.deepcopy(learn), weight_of(learn).clone()
    other.fit(1)
    assert torch.equal(weight_of(learn), before)
    assert not torch.equal(weight_of(other), before)


def test_the_model_pickles_and_copies_after_a_fit(make_learner):
    learn = make_learner(On()) if False else make_learner()
    learn.fit(1)
    learn.summary()
    again = pickle.loads(pickle.dumps(learn.model))
    assert torch.equal(again[0].weight, copy.deepcopy(learn.model)[0].weight)
    assert not any(module._forward_hooks for module in learn.model.modules())


def test_a_learner_is_freed_when_nobody_holds_it(make_learner):
    learn = make_learner(On(predict=lambda learn: Learner.predict(learn)))
    learn.fit(1)
    ref = weakref.ref(learn)
    del learn
    gc.collect()
    assert ref() is None


def test_a_diverging_loss_is_no_error_of_the_loop(make_learner):
    learn = make_learner()
    learn.fit(1, lr=1e30)
    assert not math.isfinite(learn.history[0]["valid/loss"])


def test_what_a_nested_pass_logs_stays_in_it(make_learner):
    class ValidateWithin:
        def after_loss(self, learn):
            if learn.training:
                learn.validate()
            else:
                learn.log(depth=1.0)

    learn = make_learner(cbs=ValidateWithin())
    learn.fit(1)
    assert "depth" not in learn.metrics["train"]
    assert learn.metrics["valid"]["depth"] == 1.0


def test_lr_find_says_where_it_comes_from():
    """Without `callbacks` there is only the place for it."""
    code = "from learner import Learner; print(Learner.lr_find(None))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "LearnerError: `lr_find` must be brought by the callbacks; do `import callbacks` first." in found.stderr


def test_a_pass_that_somebody_asks_for_says_so_and_the_one_around_it_does_not(make_learner):
    class Ask(Callback):
        def __init__(self):
            self.seen = []

        def before_epoch(self, learn):
            self.seen.append((learn.dl_name, learn.is_side_pass))

        def after_batch(self, learn):
            if learn.training and learn.i == 0:
                learn.validate()
                learn.get_preds("train")
                assert not learn.is_side_pass

    ask = Ask()
    learn = make_learner(ask)
    learn.validate()
    learn.fit(1)
    assert ask.seen == [("valid", True), ("train", False), ("valid", True), ("train", True), ("valid", False)]
    assert not learn.is_side_pass


def test_a_side_pass_that_fails_leaves_no_word_of_it_to_the_next_fit(make_learner):
    class Fail(Callback):
        def before_batch(self, learn):
            if learn.is_side_pass:
                raise ValueError("mine")

    learn = make_learner(Fail())
    with pytest.raises(ValueError, match="mine"):
        learn.validate()
    learn.fit(1)
    assert not learn.is_side_pass


class Heard(Callback):
    """Note what pass it is that one hears of."""

    def __init__(self):
        self.seen = []

    def after_batch(self, learn):
        grads = any(p.grad is not None for p in learn.model.parameters())
        state = (learn.dl_name, learn.role, learn.training, learn.is_side_pass, learn.model.training)
        self.seen.append((*state, grads, learn.loss is not None, len(learn.xb)))


@pytest.mark.parametrize(("role", "has_loss"), [("infer", False), ("valid", True)])
def test_a_side_pass_goes_over_any_loader_for_callbacks_of_its_own(make_learner, role, has_loss):
    learn, heard = make_learner(), Heard()
    x, y = torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
    before = copy.deepcopy(learn.model.state_dict())
    learn.side_pass("odd", [(x[:3], y[:3]), (x[3:], y[3:])], role, heard)
    assert heard.seen == [("odd", role, False, True, False, False, has_loss, n) for n in (3, 2)]
    assert learn.cbs == ()
    assert learn.model.training
    assert all(torch.equal(value, before[name]) for name, value in learn.model.state_dict().items())
    with torch.no_grad():
        expected = {"loss": cross_entropy(learn.model(x), y).item()} if has_loss else {}
    assert learn.metrics["odd"] == pytest.approx(expected, rel=1e-6)


def test_a_side_pass_within_a_batch_gives_it_its_state_back(make_learner):
    heard, aside = Heard(), [torch.rand(2, 4)]

    class Aside(Callback):
        def after_loss(self, learn):
            if not learn.is_side_pass:
                before = {name: getattr(learn, name) for name in ("dl", "dl_name", "role", "i", "batch", "xb", "loss")}
                learn.side_pass("odd", aside, cbs=heard)
                assert all(getattr(learn, name) is value for name, value in before.items())

    learn, alone = make_learner(Aside()), make_learner()
    for one in (learn, alone):
        torch.manual_seed(1)
        one.fit(2)
    assert len(heard.seen) == 2 * (3 + 2)
    assert torch.equal(weight_of(learn), weight_of(alone))
    assert learn.history.to_dict() == alone.history.to_dict()


@pytest.mark.parametrize("is_inside", [False, True])
def test_a_side_pass_that_a_callback_cancels_ends_alone_or_with_the_fit(make_learner, is_inside):
    def cancel(learn):
        raise CancelFitException

    def go(learn):
        learn.side_pass("odd", [torch.rand(2, 4)], cbs=On(after_batch=cancel))

    learn = make_learner(On(after_predict=lambda learn: go(learn) if not learn.is_side_pass else None))
    if is_inside:
        learn.fit(3)
        assert (learn.n_steps, len(learn.history)) == (0, 0)
    else:
        go(learn)
    assert len(learn.cbs) == 1
