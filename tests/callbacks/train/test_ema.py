"""EMACallback: the average is that of a loop by hand and of torch's own, bit for bit, also over a stop."""

import copy
import os
import signal
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from callbacks import (
    AccumulateCallback,
    BestModelCallback,
    CheckpointCallback,
    ClipGradientCallback,
    EMACallback,
    ValidateCallback,
)
from learner import Callback, CancelBatchException, CancelStepException, Learner, LearnerError, Loaders
from learner.checkpoint import read_checkpoint
from tests.resuming import (
    StopAt,
    assert_equal_runs,
    differing,
    resumed,
    resumed_from_each,
    resumed_from_each_validation,
    seed_all,
    stopped,
    tiny_learner,
    uninterrupted,
)

SGD = partial(torch.optim.SGD, momentum=0.9)


def batches(n=5):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(n)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def trained(*cbs, n_epochs=3, model=None, **kwargs):
    data = batches()
    learn = Learner(model or network(), {"train": data, "valid": data}, nn.functional.cross_entropy, 0.1, SGD, [*cbs])
    learn.fit(n_epochs, **kwargs)
    return learn


def steps_by_hand(n_epochs=3):
    """Train a network by hand; yield it after each step, and before the first."""
    model = network()
    opt = SGD(model.parameters(), lr=0.1)
    yield model
    for _ in range(n_epochs):
        for x, y in batches():
            nn.functional.cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
            yield model


def ema_by_hand(decay, every=1):
    steps = steps_by_hand()
    average = [p.detach().clone() for p in next(steps).parameters()]
    for n, model in enumerate(steps, start=1):
        if n % every == 0:
            k = n // every
            d = min(decay**every, (1 + k) / (10 + k))
            for a, p in zip(average, model.parameters(), strict=True):
                a.lerp_(p.detach(), 1 - d)
    return average


def assert_same(average, expected):
    assert all(torch.equal(a, b) for a, b in zip(average.values(), expected, strict=True))


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_it_equals_a_loop_by_hand(decay, every):
    learn = trained(ema := EMACallback(decay, every=every))
    assert_same(ema.average, ema_by_hand(decay, every))
    assert ema.n_updates == 15 // every
    assert list(ema.average) == [name for name, _ in learn.model.named_parameters()]


def test_it_equals_that_of_torch():
    """`AveragedModel` copies the first weights it is given, so it is told that the initial ones were those."""
    steps = steps_by_hand()
    model = next(steps)
    with_warmup, plain = (AveragedModel(model, multi_avg_fn=f) for f in (warming_up(0.5), get_ema_multi_avg_fn(0.18)))
    for averaged in (with_warmup, plain):
        averaged.n_averaged += 1
    for model in steps:  # the same one each time
        with_warmup.update_parameters(model)
        plain.update_parameters(model)
    trained(ema := EMACallback(0.5))
    assert_same(ema.average, with_warmup.module.parameters())
    trained(ema := EMACallback(0.18))  # below the first value of the warm-up, 2 / 11
    assert_same(ema.average, plain.module.parameters())


def warming_up(decay):
    def update(averaged, current, n):
        n = int(n)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def test_a_half_life_is_a_decay():
    assert EMACallback(half_life=1).decay == 0.5
    assert EMACallback(half_life=10).decay ** 10 == pytest.approx(0.5)
    trained(one := EMACallback(half_life=2), other := EMACallback(0.5**0.5, validate=False))
    assert_same(one.average, other.average.values())


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"decay": 1}, ValueError, "`decay` must be at least 0 and below 1, got 1"),
        ({"decay": -0.1}, ValueError, "`decay` must be at least 0 and below 1, got -0.1"),
        ({"decay": float("nan")}, ValueError, "`decay` must be at least 0 and below 1, got nan"),
        ({"decay": "0.9"}, TypeError, "`decay` must be a number, got '0.9'"),
        ({"decay": True}, TypeError, "`decay` must be a number, got True"),
        ({"decay": None}, TypeError, "`decay` must be a number, got None"),
        ({"half_life": 0}, ValueError, "`half_life` must be a finite number of steps above 0, got 0"),
        ({"half_life": float("inf")}, ValueError, "`half_life` must be a finite number of steps above 0, got inf"),
        ({"half_life": "10 steps"}, TypeError, "`half_life` must be a number, got '10 steps'"),
        ({"decay": 0.9, "half_life": 10}, ValueError, "`decay` and `half_life` must not both be given, got 0.9 and 10"),
        ({"every": 0}, ValueError, "`every` must be at least 1 step, got 0"),
        ({"every": True}, ValueError, "`every` must be at least 1 step, got True"),
        ({"every": 1.5}, TypeError, "`every` must be a whole number of optimizer steps, got 1.5"),
        ({"every": "10 batches"}, TypeError, "`every` must be a whole number of optimizer steps, got '10 batches'"),
    ],
)
def test_what_it_cannot_work_with(kwargs, error, words):
    with pytest.raises(error, match=words):
        EMACallback(**kwargs)


def test_only_steps_that_are_made_count():
    """Skipped and postponed steps and cancelled batches do not; the average follows the steps one by one."""

    class Skip(Callback):
        order = -40

        def after_backward(self, learn):
            if learn.i == 1:
                raise CancelStepException

        def before_batch(self, learn):
            if learn.training and learn.i == 3:
                raise CancelBatchException

    class ByHand(Callback):
        order = 45

        def before_fit(self, learn):
            self.average = [p.detach().clone() for p in learn.model.parameters()]
            self.n = 0

        def after_step(self, learn):
            self.n += 1
            d = min(0.9, (1 + self.n) / (10 + self.n))
            for a, p in zip(self.average, learn.model.parameters(), strict=True):
                a.lerp_(p.detach(), 1 - d)

    for cbs, n_steps in (([Skip()], 9), ([AccumulateCallback(2)], 9), ([AccumulateCallback(3), Skip()], 6)):
        learn = trained(ema := EMACallback(0.9), by_hand := ByHand(), *cbs)
        assert ema.n_updates == learn.n_steps == n_steps
        assert_same(ema.average, by_hand.average)


def test_it_goes_with_clipping_and_a_step_at_the_end_of_a_pass():
    learn = trained(ema := EMACallback(0.0), AccumulateCallback(2), ClipGradientCallback(0.1))
    assert ema.n_updates == learn.n_steps == 9
    assert_same(ema.average, learn.model.parameters())


def test_nothing_waits_for_the_device(monkeypatch):
    """None of what reads a number from a tensor is called in a fit, but for the means at the end of a pass."""
    asked = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "cpu", "numpy"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *args, _name=name, _method=method: watch(_name, _method, *args))

    def watch(name, method, *args):
        asked.append(name)
        return method(*args)

    def count(*cbs):
        asked.clear()
        trained(*cbs, ValidateCallback(2))
        return sorted(asked)

    assert count(EMACallback(0.9)) == count()


def test_each_fit_begins_a_new_average():
    learn = trained(ema := EMACallback(0.9), n_epochs=1)
    twin = trained(n_epochs=1)
    learn.fit(1)
    twin.add_cb(fresh := EMACallback(0.9))
    twin.fit(1)
    assert ema.n_updates == 5
    assert_same(ema.average, fresh.average.values())


def test_frozen_parameters_and_those_that_are_unfrozen_within_a_fit():
    class Unfreeze(Callback):
        def before_epoch(self, learn):
            learn.model[0].requires_grad_(learn.epoch > 0)

    model = network()
    first = model[0].weight.detach().clone()
    ema = EMACallback(0.9)
    trained(ema, Unfreeze(), model=model, n_epochs=1)
    assert torch.equal(ema.average["0.weight"], first)
    learn = trained(ema, Unfreeze(), n_epochs=2)
    assert not torch.equal(ema.average["0.weight"], learn.model[0].weight)
    assert not torch.equal(ema.average["0.weight"], first)


def test_parameters_that_come_with_the_first_batch():
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    learn = trained(ema := EMACallback(0.9), model=model)
    assert [tuple(value.shape) for value in ema.average.values()] == [(8, 4), (8,), (3, 8), (3,)]
    assert learn.history[-1]["valid/loss"] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_types_of_parameters(dtype):
    """The average of short types is in float32: in bfloat16 a step of 0.1 % of the way would be rounded away."""

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, dtype=dtype))
            self.bias = nn.Parameter(torch.zeros(1))  # of another type, side by side

        def forward(self, x):
            y = self.weight.sum()
            return x * (y.real if y.is_complex() else y) + self.bias

    x = torch.ones(4, 1)
    dls = Loaders.from_arrays(train=(x, x), valid=(x, x), batch_size=1)
    learn = Learner(Line(), dls, nn.functional.mse_loss, 0.01, cbs=(ema := EMACallback(0.999)))
    average, seen = [torch.ones(2), torch.zeros(1)], []

    class ByHand(Callback):
        order = 45

        def after_step(self, learn):
            seen.append(1)
            d = (1 + len(seen)) / (10 + len(seen))
            average[:] = [
                torch.lerp(a.to(ema.average[n].dtype), p.detach().to(ema.average[n].dtype), 1 - d)
                for a, (n, p) in zip(average, learn.model.named_parameters(), strict=True)
            ]

    learn.fit(5, cbs=ByHand())
    assert_same(ema.average, average)
    in_full = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    assert ema.average["weight"].dtype == in_full
    with ema.applied(learn):
        assert torch.equal(learn.model.weight, ema.average["weight"].to(dtype))
        assert learn.validate()["loss"] == learn.history[-1]["valid/loss"]


def test_parameters_whose_values_are_put_in_another_memory():
    """As `model.to(device)` and some wrappers do: `p.data` becomes another tensor."""

    class Move(Callback):
        def before_batch(self, learn):
            for p in learn.model.parameters():
                p.data = p.data.clone()

    moved, plain = EMACallback(0.9), EMACallback(0.9)
    trained(moved, Move())
    trained(plain)
    assert_same(moved.average, plain.average.values())


# -- checkpoints -------------------------------------------------------------------------------------------------------


def make(cbs, **kwargs):
    """Return a learner with an average of each second step, a best model and a validation within epochs."""
    return tiny_learner([*cbs, EMACallback(0.8, every=2), BestModelCallback(), ValidateCallback(4)], SGD, **kwargs)


def average_of(learn):
    ema = next(cb for cb in learn.cbs if isinstance(cb, EMACallback))
    return {"average": ema.average, "n_updates": ema.n_updates, "state": ema.state_dict()}


def assert_same_with_average(resumed_one, whole):
    assert_equal_runs(resumed_one, whole)
    assert differing(average_of(resumed_one), average_of(whole)) == []
    for learn in (resumed_one, whole):
        next(cb for cb in learn.cbs if isinstance(cb, BestModelCallback)).put_back(learn)
    assert differing(dict(resumed_one.model.state_dict()), dict(whole.model.state_dict())) == []


def test_going_on_from_each_batch_is_exact(tmp_path):
    whole, gone_on = resumed_from_each(make, 3, tmp_path)
    assert len(gone_on) == 18
    for learn in gone_on:
        assert_equal_runs(learn, whole)
        assert differing(average_of(learn), average_of(whole)) == []


def test_going_on_from_within_a_validation_is_exact(tmp_path):
    whole = uninterrupted(make, 2, tmp_path / "whole", "epoch")
    for learn in resumed_from_each_validation(make, 2, tmp_path):
        assert_same_with_average(learn, copy.deepcopy(whole))


def test_a_checkpoint_from_within_a_validation_holds_the_trained_weights(tmp_path):
    whole = tiny_learner([CheckpointCallback(tmp_path / "whole"), StopAt(), EMACallback(0.8)])
    seed_all(0)
    whole.fit(1)
    learn = stopped(lambda cbs: tiny_learner([*cbs, EMACallback(0.8)]), 1, 7, tmp_path / "stopped", by_interrupt=True)
    file = max((tmp_path / "stopped").glob("*.pt"))
    state = read_checkpoint(file)
    assert state["fit"]["loader"] == "valid"
    assert differing(state["model"]["state"], dict(whole.model.state_dict())) == []
    assert differing(dict(learn.model.state_dict()), dict(whole.model.state_dict())) == []
    other = tiny_learner([CheckpointCallback(tmp_path / "other"), StopAt(), ema := EMACallback(0.8)])
    other.load(file)
    assert differing(dict(other.model.state_dict()), dict(whole.model.state_dict())) == []
    with ema.applied(other):
        assert other.validate()["loss"] == whole.history[-1]["valid/loss"]


@pytest.mark.parametrize("i", [0, 1, 2])
def test_a_checkpoint_that_is_due_by_the_clock_within_a_validation_is_exact(tmp_path, monkeypatch, i):
    """The validation goes on with the average, in the run that writes it and in one that goes on from it."""
    ema = partial(EMACallback, 0.8)
    whole = uninterrupted(lambda cbs: tiny_learner([*cbs, ema()]), 2, tmp_path / "whole", "epoch")
    learn = tiny_learner([CheckpointCallback(tmp_path / "cut", "10 min"), StopAt(), ema()])
    monkeypatch.setattr(
        "learner.loop.frequency.Pace.tick", lambda *_: (learn.role, learn.epoch, learn.i) == ("valid", 0, i)
    )
    seed_all(0)
    learn.fit(2)
    assert_equal_runs(learn, whole)
    path = tmp_path / "cut" / "step-00000006.pt"
    assert (read_checkpoint(path)["fit"]["loader"], read_checkpoint(path)["fit"]["i"]) == ("valid", i + 1)
    gone_on = tiny_learner([CheckpointCallback(tmp_path / "on", "10 min"), StopAt(), ema()])
    seed_all(99)
    gone_on.fit(2, resume=path)
    assert_equal_runs(gone_on, whole)
    assert differing(average_of(gone_on), average_of(whole)) == []


def test_ctrl_c_within_a_validation(tmp_path):
    class Interrupt(Callback):
        def after_batch(self, learn):
            if learn.role == "valid" and learn.epoch == 1 and learn.i == 1:
                os.kill(os.getpid(), signal.SIGINT)

    def make(cbs):
        return tiny_learner([*cbs, EMACallback(0.8)])

    whole = uninterrupted(make, 3, tmp_path / "whole", "epoch")
    learn = tiny_learner([CheckpointCallback(tmp_path / "cut"), StopAt(), EMACallback(0.8), Interrupt()])
    seed_all(0)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3)
    gone_on = resumed(make, 3, tmp_path / "cut", "epoch")
    assert_equal_runs(gone_on, whole)
    assert differing(average_of(gone_on), average_of(whole)) == []


def test_the_best_checkpoint_has_both_the_average_that_was_best_and_what_to_train_on(tmp_path):
    def learner(folder):
        keep = CheckpointCallback(tmp_path / folder, metric="loss", keep=10)
        return tiny_learner([keep, ema := EMACallback(0.7)], SGD, lr=0.3), keep, ema

    whole, keep, _ = learner("whole")
    seed_all(0)
    whole.fit(4)
    losses = [row["valid/loss"] for row in whole.history]
    assert keep.best.value == min(losses)
    other, _, ema = learner("other")
    other.load(keep.best_path)
    with ema.applied(other):
        assert other.validate()["loss"] == min(losses)
    assert other.validate()["loss"] != min(losses)
    gone_on, _, again = learner("gone on")
    seed_all(99)
    gone_on.fit(4, resume=keep.best_path)
    assert_equal_runs(gone_on, whole)
    assert differing(average_of(gone_on), average_of(whole)) == []
    assert again.n_updates == 24


def test_another_decay_is_refused_when_a_fit_goes_on(tmp_path):
    stopped(lambda cbs: tiny_learner([*cbs, EMACallback(0.8)]), 2, 4, tmp_path)
    with pytest.raises(LearnerError, match=r"`decay` is 0\.9 here, 0\.8 saved of callback EMACallback"):
        resumed(lambda cbs: tiny_learner([*cbs, EMACallback(0.9)]), 2, tmp_path)
    with pytest.raises(LearnerError, match="`every` is 2 here, 1 saved of callback EMACallback"):
        resumed(lambda cbs: tiny_learner([*cbs, EMACallback(0.8, every=2)]), 2, tmp_path)
    with pytest.raises(LearnerError, match="callback EMACallback is missing here"):
        resumed(tiny_learner, 2, tmp_path)


def test_save_and_load_between_fits(tmp_path):
    learn = tiny_learner([EMACallback(0.8)])
    seed_all(0)
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    other = tiny_learner([ema := EMACallback(0.8)])
    with pytest.raises(LearnerError, match="no average"):
        ema.apply(other)
    other.load(tmp_path / "learn.pt")
    with ema.applied(other):
        assert other.validate()["loss"] == learn.history[-1]["valid/loss"]


def test_a_file_that_is_loaded_inside_applied_is_what_is_put_back(tmp_path):
    learn = tiny_learner([EMACallback(0.8)])
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    weights = {name: value.clone() for name, value in learn.model.state_dict().items()}
    learn.fit(1)
    ema = learn.cbs[0]
    with ema.applied(learn):
        learn.load(tmp_path / "learn.pt")
        assert torch.equal(learn.model[0].weight, ema.average["0.weight"])
    assert differing(dict(learn.model.state_dict()), weights) == []
