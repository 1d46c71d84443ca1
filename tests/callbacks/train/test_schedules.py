"""One-cycle and warm-up with a cosine, against torch's own and arithmetic, with groups that keep their proportions."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.lr_scheduler import OneCycleLR

from callbacks import AccumulateCallback, RecorderCallback, SchedulerCallback, one_cycle, warmup_cosine
from learner import Callback, Learner, LearnerError
from learner.optim import Optimizers, param_groups
from tests.resuming import assert_equal_runs, resumed_from_each, tiny_learner

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW
MAKES = {
    "one_cycle": one_cycle(),
    "one_cycle, up at once": one_cycle(0.0, div=10, div_final=100, moms=None),
    "warmup_cosine": warmup_cosine(),
    "warmup_cosine, 5 steps": warmup_cosine(5, floor=0.25),
    "warmup_cosine, no warm-up": warmup_cosine(0.0),
}
FLOORS = dict(zip(MAKES, (1e-5, 0.01, 0.0, 0.25, 0.0), strict=True))
THREE_RATES = param_groups(SGD, lr={"0": 0.1, "1": 0.3})


class Rates(Callback):
    """The rates of the groups at each step that was made."""

    def before_fit(self, learn):
        self.rows = []

    def after_backward(self, learn):
        self.rows.append([float(group["lr"]) for group in learn.opt.param_groups])


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("lr", [None, 0.4])
def test_groups_keep_their_proportions_at_each_step_and_end_exactly_at_their_floor(name, lr):
    rates, schedule = Rates(), SchedulerCallback(MAKES[name])
    learn = tiny_learner([rates, schedule], THREE_RATES)
    learn.fit(3, lr=lr)
    assert len(rates.rows) == 18
    highest = lr or 0.05
    factors = [row[2] / highest for row in rates.rows]
    for row, factor in zip(rates.rows, factors, strict=True):
        assert row == pytest.approx([highest * share * factor for share in (0.1, 0.3, 1.0)], rel=1e-12)
    assert 0.8 < max(factors) <= 1
    assert [group["lr"] for group in learn.opt.param_groups] == [b * FLOORS[name] for b in schedule.scheduler.base_lrs]
    learn.fit(1, lr=lr)  # the next fit begins with the rates of before
    assert [row[0] / row[2] for row in rates.rows] == pytest.approx([0.1] * 6)


def test_lr_find_leaves_it_out_and_keeps_proportions():
    rates = Rates()
    learn = tiny_learner([rates, SchedulerCallback(one_cycle())], THREE_RATES)
    learn.lr_find(1e-4, 1e-2, n=5, plot=False)
    learn.fit(1)
    assert rates.rows[0] == pytest.approx([0.05 * share / 25 for share in (0.1, 0.3, 1.0)])


def test_one_cycle_is_that_of_torch_with_a_step_more():
    """Torch makes the last step at the lowest rate; here it is what is there after the last step."""
    n, pct = 16, 0.25
    opts = [AdamW([nn.Parameter(torch.zeros(1))], lr=0.3, betas=(0.9, 0.99)) for _ in range(2)]
    own = one_cycle(pct, div=20, div_final=1000)(opts[0], n)
    theirs = OneCycleLR(
        opts[1],
        0.3,
        total_steps=n + 1,
        pct_start=(pct * n + 1) / (n + 1),
        div_factor=20,
        final_div_factor=50,
        base_momentum=0.85,
        max_momentum=0.95,
    )
    for i in range(n + 1):
        mine, other = (opt.param_groups[0] for opt in opts)
        assert mine["lr"] == pytest.approx(other["lr"], rel=1e-12)
        assert mine["betas"] == pytest.approx(other["betas"], rel=1e-12)
        if i < n:
            for opt, schedule in zip(opts, (own, theirs), strict=True):
                opt.step()
                schedule.step()
    assert mine["lr"] == 0.3 * (1 / 1000)
    own.step()  # more steps than were planned stay at the end
    assert mine["lr"] == 0.3 * (1 / 1000)


def test_momentum_is_cycled_where_there_is_one_and_put_back():
    def opt_func(params, lr):
        first, *rest = params
        return SGD([{"params": [first], "momentum": 0.5}, {"params": rest}], lr=lr)

    seen = RecorderCallback(a=lambda learn: learn.opt.param_groups[0]["momentum"])
    learn = tiny_learner([seen, SchedulerCallback(one_cycle(0.5, moms=(0.9, 0.8, 0.7)))], opt_func)
    learn.fit(2)
    up = [0.8 + 0.1 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]
    assert seen.values["a"] == pytest.approx([*up, *(m - 0.1 for m in up)], abs=1e-9)
    assert [group["momentum"] for group in learn.opt.param_groups] == [0.5, 0]


def test_a_rise_and_a_cosine_by_arithmetic():
    opt = SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(0.3, floor=0.5)(opt, 10)
    rates = []
    for _ in range(11):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    fall = [0.5 + 0.25 * (1 + math.cos(math.pi * i / 7)) for i in range(8)]
    assert rates == pytest.approx([2 * f for f in [0.25, 0.5, 0.75, *fall]])
    assert opt.param_groups[0]["lr"] == 1.0


def test_its_steps_are_those_of_the_optimizer_not_batches():
    learn = tiny_learner([AccumulateCallback(2), SchedulerCallback(warmup_cosine(2))], THREE_RATES)
    rates = Rates()
    learn.fit(4, cbs=rates)
    assert len({tuple(row) for row in rates.rows}) == 12  # 6 batches in windows of 2
    assert learn.opt.param_groups[2]["lr"] == 0


def test_weights_equal_those_of_a_loop_by_hand():
    x = torch.randn(32, 4)
    data = list(zip(x.split(4), x[:, :1].split(4), strict=True))

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))

    model, by_hand = network(), network()
    opt_func = param_groups(AdamW, lr={"0": 0.25})
    Learner(model, {"train": data}, mse_loss, 0.1, opt_func, SchedulerCallback(warmup_cosine(0.25))).fit(2)
    opt = AdamW([{"params": by_hand[0].parameters(), "lr": 0.025}, {"params": by_hand[2].parameters()}], lr=0.1)
    for i, (xb, yb) in enumerate(data * 2):
        factor = (i + 1) / 5 if i < 4 else (1 + math.cos(math.pi * ((i - 4) / 12))) / 2
        for group, lr in zip(opt.param_groups, (0.025, 0.1), strict=True):
            group["lr"] = lr * factor
        opt.zero_grad()
        mse_loss(by_hand(xb), yb).backward()
        opt.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), by_hand.parameters(), strict=True))


def test_by_the_epoch_it_counts_epochs():
    rates = Rates()
    tiny_learner([rates, SchedulerCallback(warmup_cosine(1), each="epoch")], SGD).fit(3)
    assert [row[0] for row in rates.rows[::6]] == pytest.approx([0.025, 0.05, 0.025])


def test_a_rate_in_a_tensor_stays_there():
    rate = torch.tensor(0.1)
    learn = tiny_learner([SchedulerCallback(one_cycle())], lambda params, lr: AdamW(params, lr=rate))
    learn.fit(1)
    assert learn.opt.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(1e-6)


def test_several_optimizers_end_together():
    def opt_func(params, lr):
        first, *rest = params
        return Optimizers(a=AdamW([first], lr=2 * lr), b=SGD(rest, lr=lr, momentum=0.9))

    learn = tiny_learner([SchedulerCallback(one_cycle())], opt_func)
    learn.fit(2)
    assert [group["lr"] for group in learn.opt.param_groups] == pytest.approx([1e-6, 5e-7])
    assert learn.opt["a"].param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("make", [lambda: one_cycle(0.5), lambda: warmup_cosine(0.3)])
def test_it_goes_on_from_every_batch(tmp_path, make):
    opt_func = param_groups(AdamW, no_decay="auto", layer_decay=0.5)
    whole, gone_on = resumed_from_each(
        lambda cbs: tiny_learner([SchedulerCallback(make()), *cbs], opt_func), 2, tmp_path
    )
    for learn in gone_on:
        assert_equal_runs(learn, whole)


def test_other_settings_are_refused_when_it_goes_on(tmp_path):
    def make(cbs, floor=0.0):
        return tiny_learner([SchedulerCallback(warmup_cosine(floor=floor)), *cbs])

    whole, _ = resumed_from_each(make, 1, tmp_path)
    path = next((tmp_path / "whole").glob("*.pt"))
    other = make([*whole.cbs[1:]], floor=0.5)
    with pytest.raises(LearnerError, match=r"`floor` of the schedule is 0\.5 here, 0\.0 saved"):
        other.fit(1, resume=path)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: one_cycle(1.0), ValueError, r"`pct_start` must be a share.*below 1, got 1\.0"),
        (lambda: one_cycle("0.1"), TypeError, "`pct_start` must be a number, got '0.1'"),
        (lambda: one_cycle(div=0.5), ValueError, r"`div` must be a finite number of at least 1, got 0\.5"),
        (lambda: one_cycle(div_final=math.inf), ValueError, "`div_final` must be a finite.*got inf"),
        (lambda: one_cycle(div=True), TypeError, "`div` must be a number, got True"),
        (lambda: one_cycle(moms=(0.9, 0.8)), ValueError, r"`moms` must be three.*got \(0\.9, 0\.8\)"),
        (lambda: one_cycle(moms=(0.9, 0.0, 0.9)), ValueError, "`moms` must be three numbers above 0"),
        (lambda: warmup_cosine(-1), ValueError, "`warmup` must be at least 0 steps, got -1"),
        (lambda: warmup_cosine(1.5), ValueError, r"`warmup` must be a share.*got 1\.5"),
        (lambda: warmup_cosine(True), TypeError, "`warmup` must be a number, got True"),
        (lambda: warmup_cosine(floor=2), ValueError, r"`floor` must be a share.*got 2\.0"),
        (lambda: warmup_cosine(floor="0"), TypeError, "`floor` must be a number, got '0'"),
    ],
)
def test_wrong_arguments_are_found_when_it_is_made(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_fit_without_a_step_beyond_the_warm_up_is_an_error():
    learn = tiny_learner([SchedulerCallback(warmup_cosine(6))])
    with pytest.raises(ValueError, match="`warmup` must be fewer steps than the 6 of this fit, got 6"):
        learn.fit(1)
    assert learn.n_steps == 0


def test_it_trains():
    torch.manual_seed(0)
    x = torch.randn(64, 2)
    data = list(zip(x.split(8), (x[:, 0] * x[:, 1] > 0).long().split(8), strict=True))
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    learn = Learner(model, {"train": data}, cross_entropy, 0.03, AdamW, SchedulerCallback(one_cycle()))
    learn.fit(20)
    assert learn.metrics["train"]["loss"] < 0.2


@pytest.mark.parametrize("is_reversed", [False, True])
def test_two_schedules_of_one_optimizer_of_which_one_would_win_are_refused(is_reversed):
    data = [(torch.ones(2, 1), torch.ones(2, 1))] * 4
    cbs = [SchedulerCallback(warmup_cosine()), SchedulerCallback(one_cycle())]
    learn = Learner(torch.nn.Linear(1, 1), {"train": data}, torch.nn.functional.mse_loss)
    with pytest.raises(LearnerError, match=r"`cbs` must hold one schedule for an optimizer, got \w+ and \w+, of which"):
        learn.fit(1, cbs=cbs[::-1] if is_reversed else cbs)


def test_schedules_that_chain_go_together():
    data = [(torch.ones(2, 1), torch.ones(2, 1))] * 4
    makes = [
        partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5),
        partial(torch.optim.lr_scheduler.StepLR, step_size=2),
    ]
    learn = Learner(torch.nn.Linear(1, 1), {"train": data}, torch.nn.functional.mse_loss, lr=1.0)
    learn.fit(1, cbs=[SchedulerCallback(make) for make in makes])
    assert learn.opt.param_groups[0]["lr"] == pytest.approx(0.5**4 * 0.1**2)
