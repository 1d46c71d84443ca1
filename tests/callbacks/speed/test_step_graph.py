"""A step that is replayed trains as one that is not. A stand-in for CUDA graphs keeps to their rules on the host."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import (
    AccumulateCallback,
    ClipGradientCallback,
    CompileCallback,
    DeviceCallback,
    LambdaCallback,
    MetricsCallback,
    MixedPrecisionCallback,
    SchedulerCallback,
    one_cycle,
)
from callbacks.speed import compile as compiling
from callbacks.speed import step_graph as module
from learner import Callback, Learner, LearnerError
from learner.data.moving import tensors_of

PYTHON = ("xb", "yb", "output", "preds", "loss")  # what code of Python has set, and a replay does not
SGD = partial(torch.optim.SGD, momentum=0.5, fused=True)
RATE = 0.125  # the same number in float32, which the graph has it in


class Graphs:
    """Graphs of the host: a recording leaves no trace but memory, a replay writes into that and runs no Python."""

    def __init__(self):
        self.learn, self.events = None, []

    def made(self):
        return tensors_of((self.learn.output, self.learn.preds, self.learn.loss))

    def warm_up(self, step):
        self.events.append("warm up")
        step()

    def record(self, step):
        self.events.append("record")
        learn = self.learn
        changed = [*learn.model.state_dict().values(), *tensors_of(list(map(dict, learn.opt.state.values())))]
        before = [tensor.clone() for tensor in changed]
        step()
        for tensor, value in zip(changed, before, strict=True):
            tensor.data.copy_(value)
        inputs, memory = (learn.xb, learn.yb), self.made()

        def replay():
            self.events.append("replay")
            outside = {name: getattr(learn, name) for name in PYTHON}
            learn.xb, learn.yb = inputs
            step()
            for there, new in zip(memory, self.made(), strict=True):
                there.data.copy_(new)
            for p in learn.model.parameters():
                p.grad = None  # the graph has its own
            vars(learn).update(outside)

        return replay


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """Have graphs without a device for them, and run what is compiled as it is."""
    torch._dynamo.reset()
    made = Graphs()
    monkeypatch.setattr(module, "graphs_on", lambda device: made)
    monkeypatch.setattr(compiling, "compile_graph", lambda graph, *_: graph.forward)
    yield made
    torch._dynamo.reset()


def batches(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [(x, x.sum(1, keepdim=True)) for x in (torch.randn(n, 4, generator=generator) for n in sizes)]


def make(graphs, cbs=(), step=True, train=(8,) * 10, loss_f=mse_loss, opt_func=SGD, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    own = [CompileCallback(step=True)] if step else []
    dls = {"train": batches(*train), "valid": batches(8, 8)}
    graphs.learn = Learner(model, dls, loss_f, RATE, opt_func, cbs=[*own, *cbs], **options)
    return graphs.learn


def weights(learn):
    return list(learn.model.state_dict().values())


def others():
    return [
        DeviceCallback("cpu"),
        MetricsCallback(distance=lambda preds, y: (preds - y).abs().mean()),
        SchedulerCallback(lambda opt, total_steps: torch.optim.lr_scheduler.StepLR(opt, 5, 0.5)),
    ]


@pytest.mark.parametrize("train", [(8,) * 10, (8,) * 9 + (5,), (8, 8, 5, 8, 8, 8, 8, 8, 5, 8)])
def test_it_trains_as_without(graphs, train):
    learn = make(graphs, others(), train=train)
    learn.fit(3)
    plain = make(graphs, others(), step=False, train=train)
    plain.fit(3)
    assert all(map(torch.equal, weights(learn), weights(plain)))
    assert learn.history.to_dict() == plain.history.to_dict()
    assert (learn.n_steps, learn.n_samples) == (plain.n_steps, plain.n_samples)


def test_what_is_replayed(graphs):
    learn = make(graphs, train=(8,) * 9 + (5,))
    learn.fit(2)
    (cb,) = learn.cbs
    assert graphs.events == (["warm up"] * 3 + ["record"] + ["replay"] * 5) * 2
    assert cb.n_replayed == 10
    learn.fit(1)
    assert cb.n_replayed == 5


def test_what_a_callback_keeps_is_not_written_over(graphs):
    kept = []
    keep = LambdaCallback(after_batch=lambda learn: kept.append((learn.preds, learn.loss)) if learn.training else None)
    make(graphs, [keep]).fit(1)
    plain, kept = kept, []
    make(graphs, [keep], step=False).fit(1)
    for (preds, loss), (others, other) in zip(kept, plain, strict=True):
        assert torch.equal(preds, others)
        assert torch.equal(loss, other)


def test_batches_of_any_make(graphs):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x, scale):
            return self.layer(x) * scale

    def trained(scales, step):
        torch.manual_seed(0)
        data = [{"x": x, "scale": scale, "y": y} for (x, y), scale in zip(batches(*[8] * 10), scales, strict=True)]
        cbs = [CompileCallback(step=True)] if step else []
        graphs.learn = Learner(Named(), {"train": data}, mse_loss, RATE, SGD, cbs=cbs)
        graphs.learn.fit(1)
        return graphs.learn

    for scales, n in (([2] * 10, 6), ([2] * 8 + [3, 2], 5), ([1, 2] * 5, 0)):
        learn = trained(scales, step=True)
        assert learn.cbs[0].n_replayed == n  # another number is no tensor, so it would be frozen
        assert all(map(torch.equal, weights(learn), weights(trained(scales, step=False))))


class Listens(Callback):
    def after_loss(self, learn): ...


@pytest.mark.parametrize(
    ("cb", "names"),
    [
        (Listens(), "Listens, which has after_loss"),
        (ClipGradientCallback(1.0), "ClipGradientCallback, which has after_backward"),
        (MixedPrecisionCallback("bf16"), "MixedPrecisionCallback, which has .*around_predict"),
        (AccumulateCallback(2), "AccumulateCallback, which has .*around_"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_who_stands_between_forward_and_step_is_named(graphs, cb, names):
    learn = make(graphs, [cb])
    with pytest.raises(LearnerError, match=f"`step=True` must have no callback between forward and step.*{names}"):
        learn.fit(1)
    assert learn.n_steps == 0


def test_an_optimizer_whose_step_no_graph_can_hold_is_named(graphs):
    for opt_func in (torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS):
        with pytest.raises(LearnerError, match=f"got {opt_func.__name__}; do `partial.*capturable=True.*fused=True"):
            make(graphs, opt_func=opt_func).fit(1)


def test_a_graph_that_is_of_no_use_is_told(graphs):
    learn = make(graphs, train=(8, 5) * 6)
    with pytest.warns(RuntimeWarning, match="`step=True` replayed none of 24 steps: in no pass did 5 batches of one"):
        learn.fit(2)
    learn.fit(1)  # too short to tell


def test_a_value_that_is_logged_between_forward_and_step_is_an_error(graphs):
    def loss_f(preds, y):
        graphs.learn.log(largest=preds.max())
        return mse_loss(preds, y)

    learn = make(graphs, loss_f=loss_f)
    with pytest.raises(LearnerError, match=r"`learn.log` must not be called .* got largest") as caught:
        learn.fit(1)
    assert any("leave `step` out" in note for note in caught.value.__notes__)
    assert "log" not in vars(learn)


def test_a_setting_of_the_optimizer_that_changes_within_a_pass_is_an_error(graphs):
    with pytest.raises(LearnerError, match=r"settings of the optimizer must stay .* momentum changed"):
        make(graphs, [SchedulerCallback(one_cycle())]).fit(1)


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_rates_are_numbers_again_however_the_fit_ends(graphs, error):
    def look(learn):
        if learn.n_steps == 8:
            assert isinstance(learn.opt.param_groups[0]["lr"], torch.Tensor)
            if error:
                raise error

    learn = make(graphs, [LambdaCallback(after_batch=look)])
    if error:
        with pytest.raises(error):
            learn.fit(1)
    else:
        learn.fit(1)
    assert learn.opt.param_groups[0]["lr"] == RATE
    assert type(learn.opt.param_groups[0]["lr"]) is float
    learn.fit(1, lr=RATE / 2)
    assert learn.opt.param_groups[0]["lr"] == RATE / 2


def test_a_copy_and_a_pickle_begin_anew(graphs):
    learn = make(graphs)
    learn.fit(1)
    (cb,) = learn.cbs
    for other in (copy.deepcopy(cb), pickle.loads(pickle.dumps(cb))):
        assert other.around_predict.__self__ is other.step_graph is not cb.step_graph
        assert other.n_replayed == 0


def test_a_machine_without_cuda_says_so_before_the_first_batch(graphs, monkeypatch):
    monkeypatch.undo()
    learn = make(graphs)
    with pytest.raises(
        LearnerError, match="`step=True` must have a CUDA device, and the model is on cpu; leave it out"
    ):
        learn.fit(1)
    assert learn.n_steps == 0


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_graphs_within_the_graph_are_refused(mode):
    with pytest.raises(ValueError, match=f"`mode` must not make CUDA graphs of its own .* got '{mode}'"):
        CompileCallback(mode, step=True)


def test_without_it_nothing_is_wrapped():
    cb = CompileCallback()
    assert cb.n_replayed == 0
    assert not any(hasattr(cb, f"around_{action}") for action in ("predict", "step"))
    with pytest.raises(TypeError, match="`step` must be True or False, got 1"):
        CompileCallback(step=1)
