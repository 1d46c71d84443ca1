"""Several optimizers as one, by a GAN against a loop by hand; and each thing that sees `learn.opt` sees all of them."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss, softplus
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from callbacks import AccumulateCallback, ClipGradientCallback, DeviceCallback, RecorderCallback, SchedulerCallback
from learner import Callback, Learner, LearnerError
from learner.optim import Optimizers, add_to, param_groups
from learner.optim.several import replace_parameters
from tests.resuming import assert_equal_runs, resumed_from_each, seed_all

SGD, Adam = torch.optim.SGD, torch.optim.Adam
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
DATA = X.split(4)


class GAN(Callback):
    """Discriminator and generator in turn, each with an optimizer of its own."""

    def predict(self, learn):
        learn.preds = learn.model["G"](torch.randn(len(learn.xb), 3))

    def get_loss(self, learn):
        judge = learn.model["D"]
        learn.loss = softplus(-judge(learn.xb)).mean() + softplus(judge(learn.preds.detach())).mean()

    def step(self, learn):
        learn.opt["D"].step()
        g_loss = softplus(-learn.model["D"](learn.preds)).mean()
        learn.opt["G"].zero_grad()
        g_loss.backward()
        learn.opt["G"].step()
        learn.log(g_loss=g_loss)


def network():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6))
    return nn.ModuleDict({"G": generator, "D": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))})


def optimizers(model, lr):
    return Optimizers(D=Adam(model["D"].parameters(), lr=2 * lr), G=SGD(model["G"].parameters(), lr=lr, momentum=0.9))


def gan(cbs=None, lr=0.01, opt_func=optimizers):
    model = network()
    seed_all(0)
    return Learner(
        model, {"train": list(DATA)}, lr=lr, cbs=[GAN(), *(cbs or [])], opt_func=lambda _, lr: opt_func(model, lr)
    )


def by_hand(n_epochs, lr=0.01, make_schedules=lambda d, g, n: ()):
    model = network()
    d, g = Adam(model["D"].parameters(), lr=2 * lr), SGD(model["G"].parameters(), lr=lr, momentum=0.9)
    schedules = make_schedules(d, g, n_epochs * len(DATA))
    seed_all(0)
    for x in DATA * n_epochs:
        fake = model["G"](torch.randn(len(x), 3))
        d.zero_grad()
        (softplus(-model["D"](x)).mean() + softplus(model["D"](fake.detach())).mean()).backward()
        d.step()
        g.zero_grad()
        softplus(-model["D"](fake)).mean().backward()
        g.step()
        for schedule in schedules:
            schedule.step()
    return model


def assert_equal_modules(a, b):
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def rates(opt):
    return [group["lr"] for group in opt.param_groups]


def test_a_gan_equals_a_loop_by_hand():
    learn = gan()
    learn.fit(3)
    assert_equal_modules(learn.model, by_hand(3))
    assert learn.n_steps == 3 * len(DATA)


def test_a_schedule_sees_both_though_each_is_stepped_by_its_name():
    learn = gan([SchedulerCallback(CosineAnnealingLR)])
    learn.fit(3)
    expected = by_hand(3, make_schedules=lambda d, g, n: [CosineAnnealingLR(d, n), CosineAnnealingLR(g, n)])
    assert_equal_modules(learn.model, expected)
    assert rates(learn.opt) == pytest.approx([0, 0], abs=1e-12)
    learn.fit(1)
    assert learn.opt["D"].param_groups[0].keys() == Adam(learn.model.parameters()).param_groups[0].keys()


@pytest.mark.parametrize("each", ["batch", "epoch"])
def test_a_schedule_for_one_of_them_leaves_the_other_alone(tmp_path, each):
    def make(cbs):
        return gan([SchedulerCallback(lambda opt: StepLR(opt["G"], 2, gamma=0.5), each=each), *cbs])

    whole, gone_on = resumed_from_each(make, 3, tmp_path)
    by = [StepLR(SGD([nn.Parameter(torch.zeros(1))], lr=0.01), 2, gamma=0.5)]
    for _ in range(3 * len(DATA) if each == "batch" else 3):
        by[0].optimizer.step()
        by[0].step()
    assert rates(whole.opt) == [0.02, by[0].get_last_lr()[0]]
    if each == "batch":
        expected = by_hand(3, make_schedules=lambda d, g, n: [StepLR(g, 2, gamma=0.5)])
        assert_equal_modules(whole.model, expected)
    for learn in gone_on:
        assert_equal_runs(learn, whole)
    pickle.dumps(whole.opt["G"])
    assert "step" not in vars(whole.opt["G"])
    assert all("initial_lr" not in group for group in whole.opt.param_groups)


def test_a_schedule_of_an_optimizer_elsewhere_is_an_error():
    elsewhere = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(LearnerError, match=r"`make` must return a schedule of the optimizer.*got one of another SGD"):
        gan([SchedulerCallback(lambda opt: StepLR(elsewhere, 2))]).fit(1)


def test_a_plain_schedule_of_ones_own_has_nothing_to_warn_of():
    learn = gan()
    learn.fit(0)
    schedule = StepLR(learn.opt, 1)
    for opt in learn.opt.opts.values():
        opt.step()
    schedule.step()
    assert rates(learn.opt) == pytest.approx([0.002, 0.001])


def test_it_goes_on_from_every_batch(tmp_path):
    whole, gone_on = resumed_from_each(lambda cbs: gan([SchedulerCallback(CosineAnnealingLR), *cbs]), 2, tmp_path)
    assert len(gone_on) == 2 * len(DATA)
    for learn in gone_on:
        assert_equal_runs(learn, whole)


def test_a_fit_that_asks_for_a_rate_and_lr_find_keep_proportions():
    seen = RecorderCallback(d=lambda learn: rates(learn.opt)[0], g=lambda learn: rates(learn.opt)[1])
    learn = gan([seen])
    learn.fit(1, lr=0.5)
    assert rates(learn.opt) == [1.0, 0.5]
    before = copy.deepcopy(learn)
    assert learn.lr_find(1e-4, 1e-2, n=5, plot=False).lrs == pytest.approx([1e-4 * 100 ** (i / 4) for i in range(5)])
    for each in (learn, before):
        torch.manual_seed(1)
        each.fit(1)
    assert_equal_runs(learn, before)
    assert rates(learn.opt) == [0.02, 0.01]


def test_saved_loaded_and_copied_it_trains_on_alike(tmp_path):
    a, b = gan(), gan()
    a.fit(1)
    a.save(tmp_path / "gan.pt")
    b.load(tmp_path / "gan.pt")
    for each in (a, b):
        torch.manual_seed(1)
        each.fit(1)
    assert_equal_runs(a, b)
    opt = pickle.loads(pickle.dumps(a.opt))
    assert repr(opt) == repr(a.opt)
    assert opt["D"].state_dict()["state"].keys() == a.opt["D"].state_dict()["state"].keys()
    opt["D"].step()  # and knows of the steps of its own parts
    assert vars(opt)["_opt_called"] is True


def test_a_sandbox_puts_all_back_groups_that_came_within_too():
    a, b = gan(), gan()
    for each in (a, b):
        torch.manual_seed(0)
        each.fit(1)
    with b.sandbox():
        extra = nn.Parameter(torch.ones(2))
        add_to(b.opt["D"], extra, lr=0.5)
        assert rates(b.opt) == [0.02, 0.01, 0.5]  # what came later is last, for what counts groups
        b.fit(1)
    assert rates(b.opt) == rates(a.opt)
    for each in (a, b):
        torch.manual_seed(1)
        each.fit(1)
    assert_equal_runs(a, b)


def test_a_group_that_comes_later_keeps_its_proportion_and_is_in_files(tmp_path):
    class Gated(Callback):
        def __init__(self):
            self.gate = nn.Parameter(torch.ones(6))

        def before_batch(self, learn):
            learn.batch = learn.batch * self.gate

    def make():
        learn = gan([gated := Gated()])
        learn.fit(1)
        add_to(learn.opt["D"], gated.gate, lr=0.04)
        return learn, gated

    (a, gated), (b, _) = make(), make()
    a.fit(1, lr=0.02)
    assert rates(a.opt) == pytest.approx([0.04, 0.02, 0.08])
    assert not torch.equal(gated.gate, torch.ones(6))
    a.save(tmp_path / "gan.pt")
    b.load(tmp_path / "gan.pt")
    for each in (a, b):
        torch.manual_seed(1)
        each.fit(1)
    assert_equal_runs(a, b)


def test_a_group_that_is_gone_and_one_that_comes_elsewhere_are_told_apart():
    opt = optimizers(network(), 0.1)
    add_to(opt["D"], parameter(), lr=0.5)
    assert rates(opt) == [0.2, 0.1, 0.5]
    del opt["D"].param_groups[1]
    add_to(opt["G"], parameter(), lr=0.4)
    assert rates(opt) == [0.2, 0.1, 0.4]


def test_clipping_is_by_the_norm_of_all():
    model = network()
    opt = optimizers(model, 0.0)
    clip = ClipGradientCallback(1e-3)
    learn = Learner(model, {"train": [(torch.ones(2, 3), torch.ones(2, 1))]}, mse_loss, cbs=[clip, Chain()])
    learn.opt = opt
    learn.fit(1)
    loss = mse_loss(model["D"](model["G"](torch.ones(2, 3))), torch.ones(2, 1))
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert torch.allclose(clip.norm, torch.stack([grad.norm() for grad in grads]).norm())


class Chain(Callback):
    def predict(self, learn):
        learn.preds = learn.model["D"](learn.model["G"](learn.xb))


@pytest.mark.parametrize("cbs", [[], [AccumulateCallback(2), DeviceCallback("cpu")]])
def test_without_an_owner_of_the_step_each_makes_its_own(cbs):
    data = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(4)]
    model, other = network(), network()
    learn = Learner(model, {"train": data}, mse_loss, 0.01, lambda _, lr: optimizers(model, lr), [Chain(), *cbs])
    learn.fit(2)
    opts, n = [*optimizers(other, 0.01).opts.values()], learn.batches_per_step if not cbs else 2
    for i, (x, y) in enumerate(data * 2):
        (mse_loss(other["D"](other["G"](x)), y) / n).backward()
        if (i + 1) % n == 0:
            for opt in opts:
                opt.step()
                opt.zero_grad()
    assert_equal_modules(model, other)


def test_a_closure_is_called_once_and_its_loss_returned():
    model = network()
    opt, calls = optimizers(model, 0.1), []

    def closure():
        calls.append(torch.is_grad_enabled())
        return torch.tensor(3.0)

    with torch.no_grad():
        assert opt.step(closure) == 3
    assert calls == [True]


def test_hooks_hear_each_step_until_they_are_removed():
    opt, heard = optimizers(network(), 0.1), []
    handles = [
        opt.register_step_pre_hook(lambda one, *_: heard.append(("before", type(one).__name__))),
        opt.register_step_post_hook(lambda one, *_: heard.append(("after", type(one).__name__))),
    ]
    opt["D"].step()
    assert heard == [("before", "Adam"), ("after", "Adam")]
    opt.step()
    assert heard[2:] == [(when, name) for name in ("Adam", "SGD") for when in ("before", "after")]
    for handle in handles:
        handle.remove()
    opt.step()
    assert len(heard) == 6


def test_a_callback_that_steps_something_else_is_told():
    class Elsewhere(GAN):
        def step(self, learn):
            SGD(learn.model.parameters(), lr=0.1).step()

    learn = gan()
    learn.remove_cb(learn.cbs)
    with pytest.raises(LearnerError, match=r"ClipGradientCallback must act on the optimizer.*Elsewhere owns `step`"):
        learn.fit(1, cbs=[Elsewhere(), ClipGradientCallback(1.0)])


def test_it_may_be_made_of_named_groups_and_shows_them():
    def opt_func(model, lr):
        adamw = param_groups(torch.optim.AdamW, no_decay="auto", weight_decay=0.1)
        return Optimizers(D=adamw(model["D"], lr=2 * lr), G=SGD(model["G"].parameters(), lr=lr))

    opt_func.takes_model = True
    learn = Learner(network(), {"train": list(DATA)}, lr=0.01, opt_func=opt_func, cbs=GAN())
    learn.fit(1)
    assert [line.split() for line in repr(learn.opt).splitlines()] == [
        ["Optimizers"],
        ["optimizer", "names", "parameters", "lr", "weight_decay"],
        ["D", "(AdamW)", "0.weight,", "2.weight", "56", "0.02", "0.1"],
        ["D", "(AdamW)", "0.bias,", "2.bias", "9", "0.02", "0"],
        ["G", "(SGD)", "4", "without", "names", "86", "0.01", "0"],
    ]
    assert learn.opt._repr_html_().count("<tr>") == 4
    assert "optimizer: Optimizers(D=AdamW, G=SGD), lr 0.02, 0.01" in repr(learn)


def test_what_they_remember_can_be_read_in_one_place():
    learn = gan()
    learn.fit(1)
    assert {p for opt in learn.opt.opts.values() for p in opt.state} == set(learn.opt.state)
    with pytest.raises(TypeError, match="does not support item assignment"):
        learn.opt.state[0] = 1


def parameter():
    return nn.Parameter(torch.zeros(2, 3))


def twice():
    p = parameter()
    return Optimizers(D=SGD([parameter(), p]), G=SGD([p]))


def same():
    opt = SGD([parameter()])
    return Optimizers(D=opt, G=opt)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (Optimizers, ValueError, "`opts` must be optimizers by name.*got none"),
        (lambda: Optimizers(D=SGD), TypeError, "`D` must be an optimizer, got type"),
        (
            twice,
            ValueError,
            r"`G` must hold parameters of its own, but its number 0, of shape \(2, 3\), is in `D` as well",
        ),
        (same, ValueError, "`D` must be another optimizer than `G`, got the same one"),
    ],
)
def test_what_cannot_be_one_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_name_that_is_not_there_and_a_group_for_nobody():
    opt = optimizers(network(), 0.1)
    with pytest.raises(KeyError, match="`name` must be one of D, G, got 'X'"):
        opt["X"]
    with pytest.raises(ValueError, match=r"must be one of several.*as `learn\.opt\[\"D\"\]`"):
        add_to(opt, parameter())


def test_files_of_others_are_refused(tmp_path):
    learn = gan()
    learn.fit(1)
    learn.save(tmp_path / "gan.pt")
    other = gan(opt_func=lambda m, lr: Optimizers(D=SGD(m["D"].parameters(), lr=lr), G=SGD(m["G"].parameters(), lr=lr)))
    match = r"the optimizer is Optimizers\(D=SGD, G=SGD\) here, Optimizers\(D=Adam, G=SGD\) saved"
    with pytest.raises(LearnerError, match=match):
        other.load(tmp_path / "gan.pt")
    with pytest.raises(ValueError, match=r"`state_dict` must have groups of \[4, 4\] parameters, got \[8\]"):
        learn.opt.load_state_dict(SGD(network().parameters()).state_dict())


def test_one_of_them_on_a_callback_needs_no_word_in_state(tmp_path):
    class Keeps(GAN):
        def before_fit(self, learn):
            self.opt_d = learn.opt["D"]

    learn = gan()
    learn.remove_cb(learn.cbs)
    learn.add_cb(Keeps())
    learn.fit(1)
    learn.save(tmp_path / "gan.pt")  # a warning would be an error here


def test_an_error_within_one_of_them_is_known_to_be_in_the_step():
    class Broken(SGD):
        def step(self, closure=None):
            raise RuntimeError("size mismatch")

    learn = gan(opt_func=lambda m, lr: Optimizers(D=Broken(m["D"].parameters(), lr=lr), G=SGD(m["G"].parameters())))
    with pytest.raises(RuntimeError, match="size mismatch") as raised:
        learn.fit(1)
    assert any("step" in note for note in raised.value.__notes__)


def test_replaced_parameters_keep_their_group_and_what_is_remembered_of_them():
    a, b, new = (nn.Parameter(torch.ones(2)) for _ in range(3))
    opt = SGD([{"params": [a], "lr": 0.5}, {"params": [b]}], lr=0.1, momentum=0.9)
    (a * b).sum().backward()
    opt.step()
    of_a, of_b = opt.state[a], opt.state[b]
    replace_parameters(opt, {a: new})
    assert [[p is new, p is b] for group in opt.param_groups for p in group["params"]] == [[True, False], [False, True]]
    assert opt.param_groups[0]["lr"] == 0.5
    assert opt.state[new] is of_a
    assert opt.state[b] is of_b
    assert len(opt.state) == 2


def test_several_may_be_in_several():
    make = partial(SGD, lr=0.1)
    inner = Optimizers(a=make([parameter()]), b=make([parameter()]))
    opt = Optimizers(inner=inner, c=make([parameter()]))
    assert len(opt.param_groups) == 3
    assert "inner (Optimizers(a=SGD, b=SGD))" in repr(opt)
