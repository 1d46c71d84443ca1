"""Groups by names, against loops by hand with the same groups; and what came after the optimizer was made."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from callbacks import AccumulateCallback, ClipGradientCallback
from learner import Callback, Learner, LearnerError
from learner.optim import add_to, param_groups
from tests.resuming import assert_equal_runs, resumed_from_each, tiny_learner

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW
X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
DATA = list(zip(X.split(4), X[:, :2].split(4), strict=True))


class Net(nn.Module):
    """Embeds, has three blocks with norms, and a head that is tied to the first layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.scale = nn.Parameter(torch.ones(8, 1))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm((1, 8))) for _ in range(3))
        self.head = nn.Linear(8, 4, bias=False)
        self.head.weight = nn.Parameter(self.head.weight.detach())

    def forward(self, x):
        x = self.embed(x) * self.scale[:, 0]
        for block in self.blocks:
            x = x + block(x[:, None])[:, 0]
        return self.head(x)[:, :2]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x))[:, :2]


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.zeros(()))

    def forward(self, preds, y):
        return mse_loss(preds, y) * torch.exp(-self.s) + self.s


def seeded(make):
    torch.manual_seed(0)
    return make()


def learner(opt_func, model=Net, loss_f=mse_loss, lr=0.05, **more):
    return Learner(seeded(model), {"train": DATA}, loss_f, lr, opt_func, **more)


def rates(opt):
    return {name: g["lr"] for g in opt.param_groups for name in g["param_names"]}


def decays(opt):
    return {name: g["weight_decay"] for g in opt.param_groups for name in g["param_names"]}


def by_hand(n_epochs, opt, *modules):
    model, loss_f = modules if len(modules) == 2 else (*modules, mse_loss)
    for x, y in DATA * n_epochs:
        opt.zero_grad()
        loss_f(model(x), y).backward()
        opt.step()


def assert_equal_modules(a, b):
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_it_equals_a_loop_by_hand_with_the_same_groups():
    """Norms and biases, blocks whose rates fall towards the input, a factor besides, and a loss that learns."""
    opt_func = param_groups(
        AdamW, no_decay="auto", lr={"head": 2.0, "loss_f.s": 0.5}, layer_decay=0.75, weight_decay=0.2, betas=(0.8, 0.9)
    )
    learn = learner(opt_func, loss_f=Weighted())
    learn.fit(3)
    model, loss_f = seeded(Net), Weighted()
    groups = [{"params": [*model.head.parameters()], "lr": 0.05 * 2.0, "weight_decay": 0.2}]
    for i, block in enumerate(model.blocks):
        lr = 0.05 * 0.75 ** (3 - i)
        groups += [
            {"params": [block[0].weight], "lr": lr, "weight_decay": 0.2},
            {"params": [block[0].bias, *block[1].parameters()], "lr": lr, "weight_decay": 0.0},
        ]
    lr = 0.05 * 0.75**4
    groups += [
        {"params": [model.embed.weight, model.scale], "lr": lr, "weight_decay": 0.2},
        {"params": [model.embed.bias], "lr": lr, "weight_decay": 0.0},
        {"params": [loss_f.s], "lr": 0.05 * 0.5, "weight_decay": 0.0},
    ]
    by_hand(3, AdamW(groups, betas=(0.8, 0.9)), model, loss_f)
    assert_equal_modules(learn.model, model)
    assert torch.equal(learn.loss_f.s, loss_f.s)


def test_norms_and_what_has_one_dimension_are_not_decayed_by_auto():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.LayerNorm((2, 3, 3)), nn.Linear(3, 1))
    opt = param_groups(AdamW, no_decay="auto", weight_decay=0.1)(model, lr=0.1)
    decayed = {name for name, decay in decays(opt).items() if decay}
    assert decayed == {"0.weight", "3.weight"}
    opt = param_groups(AdamW, no_decay=["auto", "3"], weight_decay=0.1)(model, lr=0.1)
    assert {name for name, decay in decays(opt).items() if decay} == {"0.weight"}
    opt = param_groups(AdamW, no_decay="**.bias", weight_decay=0.1)(model, lr=0.1)
    assert {name for name, decay in decays(opt).items() if not decay} == {f"{i}.bias" for i in range(4)}


def test_tied_weights_are_trained_once_and_known_by_each_of_their_names():
    learn = learner(param_groups(SGD, lr={"head": 1.0}), Tied)
    learn.fit(2)
    assert list(rates(learn.opt)) == ["embed.weight"]
    model = seeded(Tied)
    by_hand(2, SGD([model.embed.weight], lr=0.05), model)
    assert_equal_modules(learn.model, model)
    with pytest.raises(ValueError, match=r"by one glob, got 'embed' and 'head' for embed\.weight|head\.weight"):
        learner(param_groups(SGD, lr={"embed": 0.5, "head": 1.0}), Tied).fit(1)


def test_without_anything_it_is_one_group_that_holds_all():
    (group,) = param_groups(SGD, momentum=0.9)(nn.DataParallel(Net()), lr=0.1).param_groups
    assert group["param_names"] == [name for name, _ in Net().named_parameters()]
    assert (group["lr"], group["momentum"]) == (0.1, 0.9)


def test_frozen_parameters_are_held_and_train_on_when_they_are_unfrozen_in_the_middle_of_a_fit():
    class Unfreeze(Callback):
        def before_epoch(self, learn):
            learn.model.blocks.requires_grad_(learn.epoch >= 2)

    learn = learner(param_groups(AdamW, lr={"blocks": 0.5}, weight_decay=0.3))
    learn.model.blocks.requires_grad_(False)
    learn.fit(4, cbs=Unfreeze())
    model = seeded(Net)
    others = [p for name, p in model.named_parameters() if not name.startswith("blocks")]
    opt = AdamW([{"params": others}, {"params": model.blocks.parameters(), "lr": 0.025}], lr=0.05, weight_decay=0.3)
    model.blocks.requires_grad_(False)
    by_hand(2, opt, model)
    model.blocks.requires_grad_(True)
    by_hand(2, opt, model)
    assert_equal_modules(learn.model, model)


DISCRIMINATIVE = param_groups(AdamW, no_decay="auto", lr={"0": 0.125}, layer_decay=0.5)


def proportions(learn):
    found = rates(learn.opt)
    return {name: rate / found["3.weight"] for name, rate in found.items()}


def test_a_fit_that_asks_for_a_rate_keeps_the_proportions_and_so_does_lr_find():
    learn = tiny_learner(None, DISCRIMINATIVE)
    learn.fit(0)
    expected = {"0.weight": 0.0625, "0.bias": 0.0625, "1.weight": 0.5, "1.bias": 0.5, "3.weight": 1, "3.bias": 1}
    assert proportions(learn) == expected
    for lr in (0.5, 0.01, None):
        learn.fit(1, lr=lr)
        assert proportions(learn) == pytest.approx(expected, rel=1e-12)
        assert rates(learn.opt)["3.weight"] == (lr or 0.05)
    learn.fit(1, lr=0.0)
    assert set(rates(learn.opt).values()) == {0.0}
    learn.lr_find(1e-4, 1e-2, n=6, plot=False)
    learn.fit(1)
    assert proportions(learn) == pytest.approx(expected, rel=1e-12)


def test_the_rates_of_a_range_test_are_those_that_a_fit_takes():
    """Not those of the group that happens to be the first, which is the one at the input."""
    seen = []

    class See(Callback):
        def after_step(self, learn):
            seen.append((rates(learn.opt)["3.weight"], proportions(learn)["0.weight"]))

    learn = tiny_learner(See(), DISCRIMINATIVE)
    result = learn.lr_find(1e-4, 1e-2, n=6, plot=False)
    assert [lr for lr, _ in seen] == pytest.approx(result.lrs)
    assert [share for _, share in seen] == pytest.approx([0.0625] * 6)


def test_saved_and_loaded_it_goes_on_in_proportion(tmp_path):
    a, b = (tiny_learner(None, DISCRIMINATIVE) for _ in range(2))
    a.fit(1, lr=0.02)
    a.save(tmp_path / "a.pt")
    b.load(tmp_path / "a.pt")
    assert repr(a.opt) == repr(b.opt)
    for learn in (a, b):
        torch.manual_seed(1)
        learn.fit(1, lr=0.01)
    assert_equal_runs(a, b)
    assert proportions(b) == pytest.approx({**proportions(b), "0.weight": 0.0625, "1.bias": 0.5})


def test_it_goes_on_from_every_batch(tmp_path):
    make = partial(tiny_learner, opt_func=DISCRIMINATIVE)
    whole, gone_on = resumed_from_each(
        lambda cbs: make([*cbs, AccumulateCallback(2), ClipGradientCallback(1.0)]), 2, tmp_path
    )
    assert len(gone_on) > 3
    for learn in gone_on:
        assert_equal_runs(learn, whole)


def test_other_groups_are_refused(tmp_path):
    tiny_learner(None, DISCRIMINATIVE).fit(1)
    learn = tiny_learner(None, DISCRIMINATIVE)
    learn.fit(1)
    learn.save(tmp_path / "a.pt")
    other = tiny_learner(None, param_groups(AdamW, no_decay="auto"))
    with pytest.raises(LearnerError, match="the optimizer's parameter groups differ"):
        other.load(tmp_path / "a.pt")


def test_it_can_be_copied_and_pickled():
    learn = learner(param_groups(AdamW, no_decay="auto", lr={"head": 0.5}))
    learn.fit(1)
    other = copy.deepcopy(learn)
    for each in (learn, other):
        each.fit(1)
    assert_equal_modules(learn.model, other.model)
    opt_func = pickle.loads(pickle.dumps(learn.opt_func))
    assert rates(opt_func(Net(), lr=0.05)) == rates(learn.opt)


def test_a_learner_says_what_it_will_make():
    learn = learner(param_groups(AdamW, lr={"head": 0.5}))
    assert "optimizer: AdamW, lr 0.05" in repr(learn)
    learn.fit(1)
    assert "optimizer: AdamW, lr 0.05, 0.025" in repr(learn)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (
            lambda: param_groups(AdamW, lr=0.1),
            TypeError,
            r"`lr` must map globs.*got 0\.1; .*`Learner\(\.\.\., lr=\.\.\.\)`",
        ),
        (lambda: param_groups(AdamW, lr={"head": "2"}), TypeError, r"`lr\['head'\]` must be a number, got '2'"),
        (lambda: param_groups(AdamW, lr={"head": -1}), ValueError, r"`lr\['head'\]` must be a finite.*got -1\.0"),
        (lambda: param_groups(AdamW, lr={"head": math.nan}), ValueError, r"`lr\['head'\]` must be a finite.*got nan"),
        (lambda: param_groups(AdamW, layer_decay=0), ValueError, r"`layer_decay` must be above 0.*got 0\.0"),
        (lambda: param_groups(AdamW, layer_decay=1.5), ValueError, r"`layer_decay` must be.*at most 1, got 1\.5"),
        (lambda: param_groups(AdamW, layer_decay=math.nan), ValueError, "`layer_decay` must be.*got nan"),
        (lambda: param_groups(AdamW, layer_decay=True), TypeError, "`layer_decay` must be a number, got True"),
        (lambda: param_groups(AdamW, weigth_decay=1), TypeError, "`options` must be what AdamW takes.*'weigth_decay'"),
        (
            lambda: param_groups(partial(SGD, momentum=0.9)),
            TypeError,
            "`opt_class` must be a class.*got functools.partial",
        ),
        (lambda: param_groups(nn.Linear), TypeError, "`opt_class` must be a class of optimizers"),
    ],
)
def test_wrong_arguments_are_found_when_it_is_made(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("opt_func", "lr", "match"),
    [
        (param_groups(AdamW, lr={"haed": 2}), 0.1, r"`lr` must hold names or globs.*got 'haed', did you mean 'head"),
        (param_groups(AdamW, no_decay="*.norm"), 0.1, r"`no_decay` must hold names.*got '\*\.norm' \(`\*` stops at"),
        (param_groups(AdamW, lr={"head": 2, "**.weight": 1}), 0.1, r"got 'head' and '\*\*\.weight' for head\.weight"),
        (param_groups(torch.optim.Rprop, no_decay="auto"), 0.1, "`no_decay` must be left out for Rprop"),
        (param_groups(AdamW, lr={"**": 0.5}), 0.1, r"the factor 0\.5 for all; change the `lr` of the learner"),
        (param_groups(AdamW, lr={"head": 0.5}), 0.0, r"`lr` of the learner must be above 0.*do `fit\(lr=0\)`"),
    ],
)
def test_what_does_not_fit_the_model_is_an_error_before_anything_is_trained(opt_func, lr, match):
    learn = learner(opt_func, lr=lr)
    with pytest.raises(ValueError, match=match):
        learn.fit(1)
    assert learn.n_steps == 0


def test_shapes_that_are_not_there_yet_are_named():
    opt_func = param_groups(AdamW, no_decay="auto")
    with pytest.raises(
        ValueError, match=r"must see the shapes of all parameters, but 0\.weight is lazy; call the model"
    ):
        opt_func(nn.Sequential(nn.LazyLinear(2)), lr=0.1)


def test_an_opt_func_of_ones_own_may_ask_for_the_model_and_gets_a_loss_that_learns():
    class PerLayer:
        takes_model = True

        def __call__(self, model, lr, loss_f=None):
            self.got = model, loss_f
            return SGD([*model.parameters(), *(loss_f.parameters() if loss_f else [])], lr=lr)

    plain, weighted = PerLayer(), PerLayer()
    for opt_func, loss_f in ((plain, nn.MSELoss()), (weighted, Weighted())):
        learn = learner(opt_func, loss_f=loss_f)
        learn.fit(1)
        assert opt_func.got == (learn.model, loss_f if loss_f is learn.loss_f and opt_func is weighted else None)


def test_a_classifier_of_images_trains_with_all_of_it():
    """The use in a line: no decay for biases and norms, rates that fall towards the input."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    data = [(X, (X[:, 0] > 0).long())]
    opt_func = param_groups(AdamW, no_decay="auto", layer_decay=0.75, weight_decay=0.05)
    learn = Learner(model, {"train": data}, cross_entropy, 0.1, opt_func)
    learn.fit(30)
    assert learn.metrics["train"]["loss"] < 0.1


def test_moments_of_the_others_are_kept_and_options_are_those_given():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    opt = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    opt.step()
    moments = opt.state[model[0].weight]["exp_avg"].clone()
    model[1] = nn.Linear(2, 3)
    add_to(opt, model, lr=0.01)
    assert opt.param_groups[1]["params"] == [*model[1].parameters()]
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.01]
    assert torch.equal(opt.state[model[0].weight]["exp_avg"], moments)


def test_a_parameter_or_several_may_be_given_and_frozen_ones_are_left_out():
    layer, opt = nn.Linear(2, 2), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    layer.bias.requires_grad_(False)
    add_to(opt, layer.weight)
    with pytest.raises(ValueError, match="`what` must hold a parameter that can be trained and that `opt` does not"):
        add_to(opt, [*layer.parameters()])


def test_an_optimizer_that_knows_names_gets_those_of_what_came_later():
    learn = learner(param_groups(SGD, lr={"head": 0.5}))
    learn.fit(1)
    learn.model.head = nn.Linear(8, 4)
    learn.model.gate = nn.Parameter(torch.ones(1))
    add_to(learn.opt, learn.model.gate)
    add_to(learn.opt, learn.model, lr=0.025)
    assert [group["param_names"] for group in learn.opt.param_groups[2:]] == [["added.0"], ["head.weight", "head.bias"]]
    learn.fit(1, lr=0.1)
    assert [group["lr"] for group in learn.opt.param_groups] == pytest.approx([0.1, 0.05, 0.1, 0.05])


def test_what_is_no_optimizer():
    with pytest.raises(TypeError, match="`opt` must be an optimizer, got NoneType; fit first"):
        add_to(None, nn.Linear(1, 1))
