"""Layers that are frozen at first, against a loop by hand that sets `requires_grad`."""

import copy
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from callbacks import CheckpointCallback, FreezeCallback, LambdaCallback, SchedulerCallback, one_cycle
from learner import Callback, CancelFitException, Learner, LearnerError
from learner.optim import freeze, param_groups
from tests.resuming import (
    StopAt,
    assert_equal_runs,
    resumed_from_each,
    resumed_from_each_validation,
    stopped,
    tiny_learner,
)

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
DATA = list(zip(X.split(4), Y.split(4), strict=True))


def network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(8, 2))


def adamw(params, lr):
    return torch.optim.AdamW(params, lr=lr, weight_decay=0.3)


def learner(cbs=None, opt_func=adamw, model=None):
    return Learner(model or network(), {"train": DATA}, cross_entropy, 0.05, opt_func, cbs)


def train_by_hand(model, opt, n_epochs):
    for x, y in DATA * n_epochs:
        opt.zero_grad()
        cross_entropy(model(x), y).backward()
        opt.step()


def assert_equal_modules(a, b):
    for (name, value), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def trains(learn):
    return [name for name, p in learn.model.named_parameters() if p.requires_grad]


ALL = [name for name, _ in network().named_parameters()]


def test_it_equals_a_loop_by_hand_with_one_optimizer():
    learn = learner()
    learn.fit(4, cbs=FreezeCallback("0", until=2))
    model = network()
    opt = adamw(model.parameters(), 0.05)
    for layer in (model[0][0], model[0][3]):
        layer.requires_grad_(False)
    train_by_hand(model, opt, 2)
    model.requires_grad_(True)
    train_by_hand(model, opt, 2)
    assert_equal_modules(learn.model, model)
    assert trains(learn) == ALL


def test_batch_norms_that_are_frozen_too_keep_their_statistics_as_well():
    learn = learner()
    before = copy.deepcopy(learn.model)
    seen = []
    look = LambdaCallback(after_batch=lambda learn: seen.append(learn.model[0][1].training))
    learn.fit(3, cbs=[FreezeCallback("0", until=2, norms=True), look])
    assert seen == [False] * 12 + [True] * 6
    model = copy.deepcopy(before)
    opt = adamw(model.parameters(), 0.05)
    model[0].requires_grad_(False)
    model[0][1].eval()
    train_by_hand(model, opt, 2)
    assert_equal_modules(model[0], before[0])
    model.requires_grad_(True)
    model.train()
    train_by_hand(model, opt, 1)
    assert_equal_modules(learn.model, model)
    assert learn.model[0][1].training


def test_a_norm_asked_for_by_itself_is_frozen_and_one_in_eval_mode_stays_so():
    learn = learner()
    learn.model[0][1].eval()
    before = copy.deepcopy(learn.model[0][1])
    learn.fit(1, cbs=FreezeCallback(learn.model[0][1], until=1))
    assert_equal_modules(learn.model[0][1], before)
    assert not learn.model[0][1].training


def test_an_optimizer_of_what_trains_alone_holds_it_all_the_same():
    def of_what_trains(params, lr):
        return adamw([p for p in params if p.requires_grad], lr)

    learn, other = learner(opt_func=of_what_trains), learner()
    for each in (learn, other):
        each.fit(3, cbs=FreezeCallback("0", until=1))
    assert_equal_modules(learn.model, other.model)


class Note(Callback):
    def before_fit(self, learn):
        self.rows = []

    def after_batch(self, learn):
        self.rows.append(trains(learn))


def test_several_unfreeze_step_by_step_in_any_order():
    for order in (1, -1):
        note = Note()
        cbs = [FreezeCallback("0", until=1), FreezeCallback("0.0", until=2), FreezeCallback("**.3", "2", until=1)]
        learn = learner(cbs[::order])
        freeze(learn.model, "0.3.bias")  # which stays so
        learn.fit(3, cbs=note)
        most = [name for name in ALL if name != "0.3.bias"]
        assert note.rows[0] == ["0.1.weight", "0.1.bias"]
        assert note.rows[6] == [name for name in most if not name.startswith("0.0")]
        assert note.rows[12] == note.rows[-1] == trains(learn) == most


@pytest.mark.parametrize("error", [KeyError, CancelFitException, KeyboardInterrupt])
@pytest.mark.parametrize("at", [2, 8])
def test_what_trains_is_as_before_however_a_fit_ends(error, at):
    def stop(learn):
        if learn.n_steps == at:
            raise error

    learn = learner([FreezeCallback("0", until=1), LambdaCallback(after_batch=stop)])
    with suppress(error):
        learn.fit(3)
    assert learn.n_steps == at
    assert trains(learn) == ALL


def test_outside_of_a_fit_and_in_passes_beside_it_nothing_is_frozen():
    learn = learner(FreezeCallback("0", until=1))
    learn.dls = {"train": DATA, "valid": DATA}
    learn.validate()
    assert trains(learn) == ALL
    note = Note()
    learn.fit(2, cbs=[LambdaCallback(after_batch=lambda learn: learn.is_side_pass or learn.validate()), note])
    assert trains(learn) == ALL
    learn.validate()
    assert trains(learn) == ALL
    with learn.sandbox():
        learn.fit(1)
    assert trains(learn) == ALL


def make(cbs, until=2):
    opt_func = param_groups(torch.optim.AdamW, no_decay="auto", layer_decay=0.5)
    own = [FreezeCallback("0", 2, until=until, norms=True), SchedulerCallback(one_cycle())]
    return tiny_learner([*own, *cbs], opt_func)


def test_it_goes_on_within_either_phase_bit_for_bit_and_without_a_word_of_what_is_frozen(tmp_path, capsys):
    whole, gone_on = resumed_from_each(make, 3, tmp_path)
    gone_on += resumed_from_each_validation(make, 3, tmp_path)
    assert len(gone_on) > 18
    for learn in gone_on:
        assert_equal_runs(learn, whole)
        assert len(trains(learn)) == 6
        assert learn.model[1].training
    assert "requires_grad" not in capsys.readouterr().out


def test_a_file_of_the_first_phase_that_is_loaded_does_not_freeze_for_good(tmp_path):
    stopped(make, 3, 3, tmp_path)
    (path,) = sorted(tmp_path.glob("*.pt"))[-1:]
    learn = make([CheckpointCallback(tmp_path / "other"), StopAt()])
    learn.load(path)
    learn.fit(3)
    assert len(trains(learn)) == 6
    before = learn.model[0].weight.detach().clone()
    learn.fit(3)
    assert not torch.equal(learn.model[0].weight, before)


@pytest.mark.parametrize(
    ("cb", "match"),
    [
        (lambda: FreezeCallback("0", 2, until=1, norms=True), "`until` is 1 here, 2 saved"),
        (
            lambda: FreezeCallback("0", until=2),
            r"what is frozen is \['0.weight', '0.bias'\] here, \[.*'1.bias'\] saved",
        ),
    ],
)
def test_other_settings_are_refused_when_it_goes_on(tmp_path, cb, match):
    stopped(make, 3, 3, tmp_path)
    other = make([CheckpointCallback(tmp_path, every=1), StopAt()])
    other.remove_cb(other.cbs[0])
    other.add_cb(cb())
    with pytest.raises(LearnerError, match=match):
        other.fit(3, resume=True)
    assert len(trains(other)) == 6


@pytest.mark.parametrize(
    ("arguments", "until", "error", "match"),
    [
        ((), 1, ValueError, "`layers` must say what is to be frozen"),
        (("0",), 0, ValueError, "`until` must be at least 1 epoch, got 0"),
        (("0",), 1.5, TypeError, r"`until` must be a whole number of epochs, got 1\.5"),
        (("0",), True, TypeError, "`until` must be a whole number of epochs, got True"),
    ],
)
def test_wrong_arguments_are_found_when_it_is_made(arguments, until, error, match):
    with pytest.raises(error, match=match):
        FreezeCallback(*arguments, until=until)


def test_what_does_not_fit_the_model_is_an_error_before_anything_is_trained():
    learn = learner()
    with pytest.raises(ValueError, match=r"`layers` must hold names or globs.*got 'body'"):
        learn.fit(1, cbs=FreezeCallback("body", until=1))
    with pytest.raises(LearnerError, match=r"`model` must have a parameter that can be trained.*all are frozen"):
        learn.fit(1, cbs=FreezeCallback("**", until=1))
    assert (trains(learn), learn.n_steps) == (ALL, 0)
    with pytest.raises(LearnerError, match=r"must hold what was frozen when the fit began, but 0\.0\.weight is gone"):
        learn.fit(2, cbs=[FreezeCallback("0.0", until=2), Replace()])


class Replace(Callback):
    def after_epoch(self, learn):
        learn.model[0][0] = nn.Sequential(learn.model[0][0])
