"""Everything trainable is trained, left out and said so, or an error; its gradients are cleared in any case."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils.parametrizations import weight_norm

from callbacks import CheckpointCallback
from learner import Callback, Learner, LearnerError
from learner.optim import add_to

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
DATA = list(zip(X.split(4), X.sum(1, keepdim=True).split(4), strict=True))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def make(model=None, loss_f=mse_loss, **more):
    return Learner(model or network(), {"train": DATA}, loss_f, 0.05, **more)


def of_what_trains(params, lr):
    return torch.optim.SGD([p for p in params if p.requires_grad], lr=lr, momentum=0.9)


def new_head(learn):
    learn.model[1] = nn.Linear(4, 1)


def unfreeze(learn):
    learn.model.requires_grad_(True)


def another_model(learn):
    learn.model = network()


def another_weight(learn):
    weight_norm(learn.model[1])


CHANGES = [
    (new_head, "1.weight, 1.bias"),
    (unfreeze, "0.weight, 0.bias"),
    (another_model, "0.weight, 0.bias, 1.weight, 1.bias"),
    (another_weight, "1.parametrizations.weight.original0, 1.parametrizations.weight.original1"),
]


def prepared(change, **more):
    model = network()
    if change is unfreeze:
        model[0].requires_grad_(False)
    return make(model, opt_func=of_what_trains, **more)


@pytest.mark.parametrize(("change", "names"), CHANGES)
def test_what_came_after_the_optimizer_between_two_fits_is_an_error_with_two_cures(change, names):
    learn = prepared(change)
    learn.fit(1)
    moments = learn.opt.state[learn.model[1].bias]["momentum_buffer"]
    change(learn)
    with pytest.raises(LearnerError, match=rf"`opt` must hold every parameter.*but {names} came.*learn\.opt = None"):
        learn.fit(1)
    other, before = copy.deepcopy(learn), None
    for cured in (learn, other):
        if cured is learn:
            add_to(cured.opt, cured.model)
        else:
            cured.opt = None
        before = [p.detach().clone() for p in cured.model.parameters()]
        cured.fit(1)
        assert all(not torch.equal(p, q) for p, q in zip(cured.model.parameters(), before, strict=True))
    assert any(values["momentum_buffer"] is moments for values in learn.opt.state.values())


@pytest.mark.parametrize(("change", "names"), CHANGES)
def test_what_came_within_a_fit_is_an_error_before_its_first_batch(change, names):
    class Change(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                change(learn)

    learn = prepared(change)
    with pytest.raises(LearnerError, match=f"but {names} came after it was made"):
        learn.fit(3, cbs=Change())
    assert learn.n_steps == len(DATA)


def of_the_head(params, lr):
    return torch.optim.SGD(list(params)[2:], lr=lr)


def test_what_opt_func_leaves_out_is_said_once_by_name_unless_it_is_frozen():
    learn = make(opt_func=of_the_head)
    with pytest.warns(RuntimeWarning, match=r"`opt_func` leaves out 0\.weight, 0\.bias.*freeze") as said:
        learn.fit(1)
    learn.fit(1)
    assert len(said) == 1
    model = network()
    model[0].requires_grad_(False)
    make(model, opt_func=of_the_head).fit(1)


class Norms(Callback):
    def before_fit(self, learn):
        self.norms = []

    def after_backward(self, learn):
        self.norms.append(learn.model[0].weight.grad.norm().item())


@pytest.mark.parametrize("is_own", [False, True])
def test_an_optimizer_of_frozen_parameters_alone_is_told_so(is_own):
    learn = make()
    learn.model[0].requires_grad_(False)
    opt = torch.optim.SGD(learn.model[0].parameters(), lr=0.1)
    if is_own:
        learn.opt = opt
    else:
        learn.opt_func = lambda params, lr: opt
    message = r"`opt` must hold a parameter that can be trained, got frozen ones alone, 0.weight, 0.bias; .*1.weight"
    with pytest.raises(LearnerError, match=message):
        learn.fit(1)


def test_gradients_outside_of_the_optimizer_are_those_of_one_batch():
    norms, learn = Norms(), make(opt_func=of_the_head)
    expected = []
    for x, y in DATA:
        learn.model.zero_grad()
        mse_loss(learn.model(x), y).backward()
        expected.append(learn.model[0].weight.grad.norm().item())
    with pytest.warns(RuntimeWarning, match="leaves out"):
        learn.fit(2, lr=0.0, cbs=norms)
    assert norms.norms == expected * 2


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.zeros(()))
        self.register_buffer("n", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, preds, y):
        self.n += 1
        return mse_loss(preds, y) * torch.exp(-self.s) + self.s


def by_hand(n_epochs):
    model, loss_f = network(), Weighted()
    opt = torch.optim.SGD([*model.parameters(), *loss_f.parameters()], lr=0.05, momentum=0.9)
    for x, y in DATA * n_epochs:
        opt.zero_grad()
        loss_f(model(x), y).backward()
        opt.step()
    return model, loss_f


def brings_those_of_the_loss(loss_f, **group):
    def opt_func(params, lr):
        own = [{"params": [*params]}, {"params": [*loss_f.parameters()]}] if group else [*params, *loss_f.parameters()]
        return torch.optim.SGD(own, lr=lr, momentum=0.9)

    return opt_func


@pytest.mark.parametrize("how", ["given", "brought", "brought as a group"])
def test_parameters_of_the_loss_are_trained_as_by_a_loop_of_ones_own(how):
    loss_f = Weighted()
    opt_func = of_what_trains if how == "given" else brings_those_of_the_loss(loss_f, group=how.endswith("group"))
    learn = make(loss_f=loss_f, opt_func=opt_func)
    learn.fit(3)
    model, expected = by_hand(3)
    assert torch.equal(loss_f.s, expected.s)
    assert torch.equal(learn.model[0].weight, model[0].weight)
    assert loss_f.s.grad is None


def test_a_loss_that_came_later_is_accounted_for_too():
    learn = make()
    learn.fit(1)
    learn.loss_f = Weighted()
    with pytest.raises(LearnerError, match=r"but loss_f\.s came after it was made"):
        learn.fit(1)


@pytest.fixture
def prompt():
    return nn.Parameter(torch.ones(3))  # which neither model nor loss holds


def test_a_sandbox_and_files_know_whatever_is_trained(tmp_path, prompt):
    def with_prompt(prompt):
        def opt_func(params, lr):
            return torch.optim.SGD([*params, prompt], lr=lr, momentum=0.9)

        class Prompt(Callback):
            def before_batch(self, learn):
                learn.batch = (learn.batch[0] * prompt, learn.batch[1])

        return make(loss_f=Weighted(), opt_func=opt_func, cbs=Prompt())

    learn = with_prompt(prompt)
    learn.fit(1)
    before = [v.detach().clone() for v in (learn.loss_f.s, learn.loss_f.n, prompt)]
    with learn.sandbox():
        learn.fit(1)
        assert not torch.equal(prompt, before[2])
    assert [torch.equal(*pair) for pair in zip((learn.loss_f.s, learn.loss_f.n, prompt), before, strict=True)] == [
        True
    ] * 3
    learn.save(tmp_path / "learn.pt")
    other_prompt = nn.Parameter(torch.zeros(3))
    other = with_prompt(other_prompt)
    other.load(tmp_path / "learn.pt")
    for each in (learn, other):
        each.fit(1)
    assert torch.equal(prompt, other_prompt)
    assert torch.equal(learn.loss_f.s, other.loss_f.s)
    assert torch.equal(learn.loss_f.n, other.loss_f.n)


def test_a_checkpoint_of_a_loss_without_parameters_does_not_fit_one_with_them(tmp_path):
    make().save(tmp_path / "learn.pt")
    with pytest.raises(LearnerError, match="`loss_f` is a module with parameters or buffers on one side alone"):
        make(loss_f=Weighted()).load(tmp_path / "learn.pt")


def test_a_fit_goes_on_with_the_loss_as_it_was(tmp_path, capsys):
    class Stop(Callback):
        def after_batch(self, learn):
            if learn.n_steps == 7:
                raise RuntimeError

    whole = make(loss_f=Weighted())
    whole.fit(3)
    with pytest.raises(RuntimeError):
        make(loss_f=Weighted(), cbs=CheckpointCallback(tmp_path, every=1)).fit(3, cbs=Stop())
    again = make(loss_f=Weighted(), cbs=CheckpointCallback(tmp_path, every=1))
    again.fit(3, resume=True)
    assert torch.equal(again.loss_f.s, whole.loss_f.s)
    assert torch.equal(again.model[0].weight, whole.model[0].weight)


def test_a_fit_that_trains_all_costs_nothing_more_per_batch():
    learn = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(1)
    assert learn._outside == ()
