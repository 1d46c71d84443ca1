"""NaNReportCallback: names the culprit, leaves the state before the batch, and can do it again from a file."""

import math
import random
import subprocess
import sys
import textwrap
import warnings
import weakref
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from callbacks import AccumulateCallback, CheckpointCallback, NaNReportCallback, TerminateOnNaNCallback
from callbacks.watch.batch_file import weights_of
from learner import Callback, Learner, Predictor

ROOT = Path(__file__).parents[3]
NAN, INF = math.nan, math.inf


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def batch(value=1.0, n=4):
    """Return a batch whose `value` is what a first `Log` looks at; the target is 1."""
    return torch.full((n, 2), value), torch.ones(n, 2)


def report_of(model, train, loss_f=functional.mse_loss, *cbs, match="the loss was", path=None):
    """Train until the loss is bad; return the report and the learner."""
    watch = NaNReportCallback(path)
    learn = Learner(model, {"train": train}, loss_f, lr=0.01, cbs=[watch, *cbs])
    with pytest.warns(RuntimeWarning, match=match):
        learn.fit(2)
    assert watch._passes == []
    assert all(len(m._forward_hooks) + len(m._forward_pre_hooks) == 0 for m in learn.model.modules())
    return watch.report, learn


# -- who did it --------------------------------------------------------------------------------------------------


def test_it_names_the_module_the_batch_and_what_went_in():
    model = nn.Sequential(nn.Linear(2, 2), Log(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    report, learn = report_of(
        model,
        [batch(3.0), batch(2.0), batch(-1.0), batch(2.0)],
        match=r"^the loss was nan in epoch 0, loader 'train', batch 2; the fit ends here\. The first output that is "
        r"not finite is that of `1` \(Log\), whose inputs are finite\. Inputs: input \(4, 2\) float32, .* See",
    )
    assert (report.epoch, report.dl_name, report.i, report.module, report.kind) == (0, "train", 2, "1", "Log")
    assert math.isnan(report.loss)
    (went_in,), (came_out,) = report.inputs, report.outputs
    assert (went_in.shape, went_in.n_nan, went_in.n_inf) == ((4, 2), 0, 0)
    assert went_in.max < 0  # the logarithm of less than nothing
    assert (came_out.n_nan, came_out.min) == (8, None)
    assert [(part.name, part.min) for part in report.batch] == [("xb", -1), ("yb", 1)]
    assert report.weights == ()
    assert (learn.n_steps, learn.epoch) == (2, 0)  # no step was taken with that loss, and no batch came after it


@pytest.mark.parametrize("value", [INF, -INF])
def test_infinite_losses_are_bad_too(value):
    report, _ = report_of(nn.Linear(2, 2), [batch()], lambda preds, y: preds.mean() * 0 + value)
    assert report.loss == value


def test_a_nested_module_is_named_by_its_path():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleDict({"lin": nn.Linear(2, 2), "log": Log()})

        def forward(self, x):
            return self.body["lin"](self.body["log"](x))

    report, _ = report_of(nn.Sequential(OrderedDict(first=nn.Identity(), block=Block())), [batch(), batch(0.0)])
    assert (report.module, report.outputs[0].n_inf) == ("block.body.log", 8)


def test_code_of_a_model_itself_is_told_from_its_modules():
    class Net(nn.Module):
        def __init__(self, is_before):
            super().__init__()
            self.a, self.b, self.is_before = nn.Identity(), nn.Linear(2, 2), is_before

        def forward(self, x):
            h = self.a(x)
            return self.b(h.log()) if self.is_before else self.b(h).mean() * x.log()

    report, _ = report_of(Net(True), [batch(-1.0)])
    assert (report.module, report.inputs[0].n_nan) == ("b", 8)
    assert "8 NaN in input came from code between modules" in report.cause
    report, _ = report_of(Net(False), [batch(-1.0)], match="is that of the model itself .Net., whose inputs are finite")
    assert (report.module, report.kind) == ("", "Net")


def test_what_is_given_by_name_is_seen_as_well():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.log, self.lin = Log(), nn.Linear(2, 2)

        def forward(self, x):
            return self.lin(self.log(x=x))

    report, _ = report_of(Net(), [batch(-1.0)])
    assert (report.module, [(part.name, part.min) for part in report.inputs]) == ("log", [("input.x", -1)])


def test_a_module_that_writes_over_its_input_is_seen_as_the_culprit():
    class LogInPlace(nn.Module):
        def forward(self, x):
            return x.log_()

    model = nn.Sequential(nn.Linear(2, 2), nn.Identity(), LogInPlace())
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, -1.0)
    report, _ = report_of(model, [batch()])
    assert (report.module, report.inputs[0].min, report.inputs[0].n_nan) == ("2", -1, 0)


def test_outputs_of_any_kind_are_looked_into():
    class Tuples(nn.Module):
        def forward(self, x):
            return x, (x, [x / 0])

    class Output(OrderedDict):  # as those of transformers
        logits = property(lambda self: self["logits"])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.tuples, self.lin = nn.LSTM(2, 2, batch_first=True), Tuples(), nn.Linear(2, 2)

        def forward(self, x):
            h, _ = self.lstm(x[:, None])
            h, (_, [bad]) = self.tuples(h)
            return Output(logits=self.lin(h)[:, 0], hidden=bad)

    report, _ = report_of(Net(), [batch()], lambda preds, y: preds.mean() * NAN)
    assert (report.module, [part.name for part in report.outputs if not part.is_finite]) == (
        "tuples",
        ["output[1][1][0]"],
    )
    model = Net()
    with torch.no_grad():
        model.lstm.weight_ih_l0.fill_(NAN)
    report, _ = report_of(model, [batch()])
    assert (report.module, report.kind, report.weights) == ("lstm", "LSTM", ("lstm.weight_ih_l0",))
    assert [part.name for part in report.outputs] == ["output[0]", "output[1][0]", "output[1][1]"]
    assert report.cause.startswith("Before the batch, NaN or inf was already in `lstm.weight_ih_l0`.")


def test_a_model_that_makes_its_own_loss():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(2, 2)

        def forward(self, x, labels):
            return {"loss": (self.lin(x) - labels).mean() / 0, "logits": x}

    report, _ = report_of(Net(), [{"x": batch()[0], "labels": batch()[1]}], None)
    assert (report.module, [part.name for part in report.outputs if not part.is_finite]) == ("", ["output.loss"])
    assert [part.name for part in report.batch] == ["xb.x", "xb.labels", "yb"]


def bad_at_zero(preds, y):
    return (preds - y).square().mean() / (0 if (y == 0).all() else 1)


class BadAtZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Log()

    def forward(self, preds, y):
        return preds.mean() * 0 + self.inner(y).mean()


@pytest.mark.parametrize(
    ("loss_f", "name", "kind"), [(bad_at_zero, "loss_f", "bad_at_zero"), (BadAtZero(), "loss_f.inner", "Log")]
)
def test_the_loss_function_as_the_culprit(loss_f, name, kind):
    x, y = batch()
    report, _ = report_of(nn.Linear(2, 2), [(x, y), (x, y * 0)], loss_f)
    assert (report.i, report.module, report.kind, report.outputs[0].n_inf > 0) == (1, name, kind, True)
    if name == "loss_f":
        assert [part.name for part in report.inputs] == ["input[0]", "input[1]"]
        assert "is that of the loss function (bad_at_zero), whose inputs are finite" in report.cause


def test_nan_in_the_batch_is_said_first():
    x, y = batch()
    x[1, 1] = NAN
    report, _ = report_of(
        nn.Linear(2, 2), [batch(), (x, y)], match="batch 1; the fit ends here. The batch itself holds 1 NaN"
    )
    assert report.cause.startswith("The batch itself holds 1 NaN in xb. The first output that is not finite is that of")
    assert [part.n_nan for part in report.batch] == [1, 0]
    report, _ = report_of(nn.Linear(2, 2), [(batch()[0], x)])
    assert report.cause.startswith("The batch itself holds 1 NaN in yb.")


def test_infinite_values_of_a_mask_are_no_bad_weights():
    model = nn.Sequential(nn.Linear(2, 2), Log())
    model.register_buffer("mask", torch.tensor([0.0, -INF]))
    model.register_buffer("mean", torch.tensor([0.0, NAN]))
    report, _ = report_of(model, [batch(-1.0)])
    assert report.weights == ("mean",)


# -- from the state before it ------------------------------------------------------------------------------------


class RareDivision(nn.Module):
    """Divides by a number that dropout makes 0 now and then."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x / self.drop(torch.ones(1))


def test_it_draws_the_same_random_numbers_again():
    """Which a second run with others would most likely not show."""
    torch.manual_seed(1)
    report, learn = report_of(nn.Sequential(nn.Linear(2, 2), RareDivision()), [batch()] * 100)
    assert (report.module, report.kind) == ("1", "RareDivision")
    assert report.i > 0
    assert learn.n_steps == report.i


def test_random_numbers_go_on_as_after_the_batch():
    states = []

    class Look(Callback):
        order = 49  # before the report

        def after_loss(self, learn):
            states[:] = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]

    class Draw(nn.Module):
        def forward(self, x):
            return x + np.random.rand() + random.random()

    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), Draw(), Log())
    report_of(model, [batch(-100.0)], functional.mse_loss, Look())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == [random.getstate(), np.random.get_state()[1].tolist()]


def test_weights_and_buffers_are_those_before_the_batch():
    """Not a running mean that is NaN."""
    good, (x, y) = [torch.randn(8, 2) for _ in range(3)], batch(NAN)

    def make():
        torch.manual_seed(3)  # the fit goes on from here
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.2), nn.Linear(2, 2))

    _, learn = report_of(make(), [*((g, g) for g in good), (x, y)])
    hand = make()
    opt = torch.optim.SGD(hand.parameters(), lr=0.01)
    for g in good:
        functional.mse_loss(hand(g), g).backward()
        opt.step()
        opt.zero_grad()
    expected = hand.state_dict()
    assert expected["1.num_batches_tracked"] == 3
    for name, weight in learn.model.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    assert all(p.grad is None for p in learn.model.parameters())


def test_a_healthy_fit_is_the_same_with_it_and_no_hook_is_on():
    class NoHooks(Callback):
        n = 0

        def after_predict(self, learn):
            self.n += 1
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in learn.model.modules())

    def trained(*cbs):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))
        data = [(torch.randn(8, 2), torch.randn(8, 2)) for _ in range(6)]
        learn = Learner(model, {"train": data, "valid": data}, functional.mse_loss, lr=0.1, cbs=cbs)
        learn.fit(3)
        return [
            *learn.model.state_dict().values(),
            torch.get_rng_state(),
            torch.tensor(learn.history.to_dict()["valid/loss"]),
        ]

    look, watch = NoHooks(), NaNReportCallback()
    assert all(map(torch.equal, trained(), trained(watch, look)))
    assert look.n == 36
    assert watch.report is None
    assert not Path("nan_report.pt").exists()


def test_it_runs_inside_of_what_wraps_the_model_and_on_the_very_input():
    """A wrapper that changes what goes in is not applied twice; its random numbers are its own."""

    class Noise(Callback):
        order = -50
        n = 0

        def around_predict(self, learn, action):
            Noise.n += 1
            learn.xb = learn.xb - torch.rand(1) - 1
            with torch.autocast("cpu", torch.bfloat16):
                action()

    model = nn.Sequential(nn.Identity(), RareDivision(), nn.Linear(2, 2))
    torch.manual_seed(0)
    report, _ = report_of(model, [batch()] * 100, functional.mse_loss, Noise())
    assert (report.module, Noise.n) == ("1", report.i + 2)
    assert -1 < report.batch[0].min < 0
    assert report.batch[0] == report.inputs[0]._replace(name="xb")

    report, _ = report_of(nn.Sequential(nn.Linear(2, 2), Log()), [batch(-1e3)], functional.mse_loss, Noise())
    assert report.outputs[0].dtype == "bfloat16"


def test_an_action_of_a_subclass_is_what_runs_again():
    class Halves(Learner):
        def predict(self):
            self.preds = self.model(self.xb).log()

    watch = NaNReportCallback(None)
    learn = Halves(nn.Identity(), {"train": [batch()], "valid": [batch(-1.0)]}, functional.mse_loss, cbs=watch)
    with pytest.warns(RuntimeWarning, match="the loss function .mse_loss.; 8 NaN in .* came from code between modules"):
        learn.validate()
    assert watch.report.module == "loss_f"


def test_the_graph_of_the_first_run_makes_room_for_the_second():
    class Net(nn.Linear):
        def forward(self, x):
            is_first = not hasattr(self, "seen")
            assert is_first or self.seen() is None
            output = super().forward(x) * NAN
            self.seen = weakref.ref(output)
            return output

    report, _ = report_of(Net(2, 2), [batch()])
    assert report.module == ""


@pytest.mark.parametrize("change", ["random", "loss"])
def test_what_does_not_happen_again_is_said(change):
    class Once(nn.Module):
        n = 0

        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(2, 2)

        def forward(self, x):
            self.n += 1
            return self.lin(x) * (NAN if self.n == 2 and change == "random" else 1)

    class Spoil(Callback):
        def after_loss(self, learn):
            if learn.i == 1 and change == "loss":
                learn.loss = learn.loss * NAN

    report, _ = report_of(
        Once(),
        [batch()] * 5,
        functional.mse_loss,
        Spoil(),
        match="batch 1; .* All values were finite when",
    )
    assert (report.module, report.kind, report.inputs, report.i) == (None, None, (), 1)


# -- where and when ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_inside", [True, False])
def test_validation_counts_and_runs_in_its_own_mode(is_inside):
    class ModeOf(nn.Module):
        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            return x.log()

    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Sequential())
    watch = NaNReportCallback(None)
    learn = Learner(model, {"train": [batch()], "valid": [batch(), batch(NAN)]}, functional.mse_loss, cbs=watch)
    with pytest.warns(RuntimeWarning, match="epoch 0, loader 'valid', batch 1; the fit ends here"):
        learn.fit(2) if is_inside else learn.validate()
    assert (watch.report.module, model.training, watch._passes) == ("0", True, [])
    assert learn.n_steps == is_inside

    model[2].append(ModeOf())
    with pytest.warns(RuntimeWarning, match="batch 0"):
        learn.validate()


def test_a_validation_within_a_batch_does_not_disturb_its_state():
    class Validate(Callback):
        def after_predict(self, learn):
            if learn.training:
                learn.validate()

    torch.manual_seed(0)
    watch = NaNReportCallback(None)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), RareDivision())
    dls = {"train": [(torch.randn(4, 2), torch.ones(4, 2)) for _ in range(100)], "valid": [batch(5.0, n=3)]}
    learn = Learner(model, dls, functional.mse_loss, lr=0.01, cbs=[watch, Validate()])
    with pytest.warns(RuntimeWarning, match="loader 'train'.*`2` .RareDivision."):
        learn.fit(1)
    assert watch.report.batch[0].shape == (4, 2)
    assert model[1].num_batches_tracked == watch.report.i


def test_with_accumulation_no_step_is_made_with_the_window():
    report, learn = report_of(nn.Linear(2, 2), [batch()] * 3 + [batch(NAN)], functional.mse_loss, AccumulateCallback(2))
    assert (report.i, learn.n_steps, learn.batches_per_step) == (3, 1, 1)
    assert all(p.grad is None for p in learn.model.parameters())


def test_it_comes_before_the_callback_that_only_ends_the_fit():
    stop = TerminateOnNaNCallback(every=1)
    watch = NaNReportCallback(None)
    learn = Learner(nn.Linear(2, 2), {"train": [batch(NAN)]}, functional.mse_loss, cbs=[stop, watch])
    with warnings.catch_warnings(record=True, action="always") as caught:
        learn.fit(1)
    assert watch.report.module == ""
    assert "The batch itself holds" in str(caught[0].message)


def test_a_second_fit_starts_clean():
    report, learn = report_of(nn.Linear(2, 2), [batch(), batch(NAN)])
    watch = learn.cbs[0]
    learn.dls = {"train": [batch()]}
    learn.fit(1)
    assert watch.report is None
    assert report.i == 1


def test_one_that_is_added_in_the_middle_of_a_pass_waits_for_the_next():
    class Add(Callback):
        def after_predict(self, learn):
            if len(learn.cbs) == 1:
                learn.add_cb(watch)

    watch = NaNReportCallback(None)
    learn = Learner(nn.Linear(2, 2), {"train": [batch(NAN)], "valid": [batch(NAN)]}, functional.mse_loss, cbs=Add())
    with pytest.warns(RuntimeWarning, match="loader 'valid'"):
        learn.fit(1)


def test_a_compiled_model_runs_again_uncompiled_and_stays_compiled():
    n_compiled = n_runs = 0

    def backend(graph, inputs):
        def run(*args):
            nonlocal n_runs
            n_runs += 1
            return graph(*args)

        nonlocal n_compiled
        n_compiled += 1
        return run

    inner = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Log(), nn.Linear(2, 2)))
    nn.init.zeros_(inner[0].weight)
    nn.init.constant_(inner[0].bias, 1.0)
    report, learn = report_of(torch.compile(inner, backend=backend), [batch(), batch(), batch(NAN)])
    assert report.module == "0"  # no `_orig_mod`
    assert (n_compiled, n_runs) == (1, 3)
    learn.dls = {"train": [batch()]}
    learn.fit(1)
    assert (n_compiled, n_runs) == (1, 4)


# -- errors and interrupts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_second_run_leaves_nothing_behind(error, tmp_path):
    class Fails(nn.Module):
        n = 0

        def forward(self, x):
            self.n += 1
            if self.n == 2:
                raise error("on purpose")
            return x * NAN

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5), Fails())
    watch = NaNReportCallback(tmp_path / "nan.pt")
    learn = Learner(model, {"train": [batch()]}, functional.mse_loss, cbs=watch)
    with pytest.raises(error, match="on purpose"):
        learn.fit(1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model[1].num_batches_tracked == 0
    assert watch._passes == []
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(RuntimeWarning, match="`3` .Fails."):
        learn.fit(1)


def test_whatever_fails_while_it_looks_tells_of_the_loss_as_well():
    class FailsAgain(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.n_calls = nn.Parameter(torch.ones(())), 0

        def forward(self, x):
            self.n_calls += 1
            if self.n_calls > 1:
                raise RuntimeError("not again")
            return self.weight * x * math.nan

    with pytest.raises(RuntimeError, match="not again") as caught:
        Learner(FailsAgain(), {"train": [batch()]}, functional.mse_loss, cbs=NaNReportCallback(None)).fit(1)
    assert any("a loss of nan in epoch 0, loader 'train', batch 0" in note for note in caught.value.__notes__)


class First(nn.Module):
    """Makes rows of a batch of an odd kind, and NaN of the rows."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.rnn, self.head, self.log = rows, nn.LSTM(3, 3), nn.Linear(3, 2), Log()

    def forward(self, x):
        return self.log(-1 - self.head(self.rows(self, x)).abs())


SEQUENCES = [torch.ones(n, 3) for n in (5, 2, 3)]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("path", [None, "nan.pt"])
@pytest.mark.parametrize("kind", ["jagged", "nested", "sparse", "csr", "packed", "scripted"])
def test_batches_and_modules_of_odd_kinds_hide_nothing(kind, path, tmp_path):
    nested = {"jagged": torch.jagged, "nested": torch.strided}
    x = torch.ones(3, 3)
    rows = nn.Linear(3, 3)
    if kind in nested:
        x = torch.nested.nested_tensor(SEQUENCES, layout=nested[kind])
        rows = lambda net, x: x.to_padded_tensor(0.0).mean(1)
    elif kind == "packed":
        x = nn.utils.rnn.pack_sequence(SEQUENCES, enforce_sorted=False)
        rows = lambda net, x: net.rnn(x)[1][0][-1]
    elif kind in ("sparse", "csr"):
        x = torch.eye(3).to_sparse() if kind == "sparse" else csr(torch.eye(3))
        rows = lambda net, x: x.to_dense()
    else:
        scripted = torch.jit.script(rows)
        rows = lambda net, x: scripted(x)
    model = First(rows)
    if kind == "scripted":
        model.scripted = scripted
    path = path and tmp_path / path
    report, learn = report_of(model, [(x, torch.zeros(3, 2))], path=path)
    assert report.module == "log"
    assert report.batch[0].n_nan == 0
    if kind in nested:
        assert report.batch[0].shape == (3, -1, 3)
        assert report.batch[0].mean == 1
    if path:
        again = NaNReportCallback.repeat(path, learn)
        assert again == report


def csr(dense):
    with warnings.catch_warnings(action="ignore"):  # torch's own, that these are new
        return dense.to_sparse_csr()


def test_a_file_that_cannot_be_written_does_not_lose_the_report(tmp_path):
    (tmp_path / "file").touch()
    watch = NaNReportCallback(tmp_path / "file" / "nan.pt")
    with pytest.raises(OSError, match="file") as caught:
        Learner(nn.Linear(2, 2), {"train": [batch(NAN)]}, functional.mse_loss, cbs=watch).fit(1)
    assert any("The batch itself holds" in note for note in caught.value.__notes__)
    assert watch.report.module == ""


# -- a device that is not waited for -----------------------------------------------------------------------------


class Elsewhere(torch.Tensor):
    """A loss that seems to be on another device."""

    is_cpu = False
    is_cuda = property(lambda self: Elsewhere.seems_cuda)
    seems_cuda = False


@pytest.fixture(params=[False, True], ids=["other", "cuda"])
def events(request, monkeypatch):
    """Return what happens, in order; with events of a device that are none."""
    happened = []

    class Event:
        def record(self, stream):
            happened.append("loss sent for")

        def synchronize(self):
            happened.append("loss waited for")

    class Write(Callback):
        order = 1000

        def around_backward(self, learn, action):
            action()
            happened.append("backward")

        def after_step(self, learn):
            happened.append("step")

        def after_batch(self, learn):
            happened.append("batch")

    monkeypatch.setattr(Elsewhere, "seems_cuda", request.param)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return happened, Write(), request.param


def loss_elsewhere(preds, y):
    return functional.mse_loss(preds, y).as_subclass(Elsewhere)


def test_on_a_device_the_loss_is_read_after_backward_and_before_the_step(events):
    happened, write, is_cuda = events
    report, learn = report_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), [batch(), batch(NAN)], loss_elsewhere, write)
    assert (report.module, report.i, learn.n_steps) == ("0", 1, 1)
    if is_cuda:
        first = ["loss sent for", "backward", "loss waited for", "step", "batch"]
        assert happened == [*first, "loss sent for", "backward", "loss waited for"]
    else:
        assert happened == ["backward", "step", "batch", "backward"]
    assert all(p.grad is None for p in learn.model.parameters())


def test_on_a_device_it_works_with_accumulation_and_validation(events):
    happened, _, is_cuda = events
    report, learn = report_of(nn.Linear(2, 2), [batch()] * 4 + [batch(NAN)], loss_elsewhere, AccumulateCallback(3))
    assert (report.i, learn.n_steps) == (4, 1)
    assert happened == ["loss sent for", "loss waited for"] * 5 * is_cuda
    learn.dls = {"train": [batch()], "valid": [batch(), batch(NAN)]}
    with pytest.warns(RuntimeWarning, match="loader 'valid', batch 1"):
        learn.fit(1)


# -- the file ----------------------------------------------------------------------------------------------------

BUILD = """
import torch
from torch import nn
from torch.nn import functional
from callbacks import NaNReportCallback
from learner import Learner

class RareDivision(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.1)
    def forward(self, x):
        return x / self.drop(torch.ones(1))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.norm, self.div = nn.Linear(2, 2), nn.BatchNorm1d(2), RareDivision()
        self.register_buffer("scale", torch.ones(1), persistent=False)
    def forward(self, x):
        self.scale += 1
        return self.div(self.norm(self.lin(x))) * self.scale

def make(cbs=None):
    torch.manual_seed(SEED)
    data = [(torch.randn(4, 2), torch.randn(4, 2)) for _ in range(100)]
    return Learner(Net(), {"train": data}, functional.mse_loss, lr=0.1, cbs=cbs)
"""


def built(seed):
    space = {"SEED": seed}
    exec(BUILD, space)
    return space["make"]


def failed_run(path):
    watch = NaNReportCallback(path)
    learn = built(1)(watch)
    learn.model.norm.eval()
    with pytest.warns(RuntimeWarning, match="`div` .RareDivision.*repeat"):
        learn.fit(1)
    assert watch.report.i > 0
    return watch.report, learn


def test_a_batch_runs_again_from_its_file_in_another_learner(tmp_path):
    report, learn = failed_run(tmp_path / "nan.pt")
    other = built(2)()
    other.model.norm.weight.requires_grad_(False)
    before = {name: w.clone() for name, w in weights_of(other.model).items()}
    state, modes = torch.get_rng_state(), [m.training for m in other.model.modules()]
    again = NaNReportCallback.repeat(tmp_path / "nan.pt", other)
    assert again == report
    assert str(again) == str(report)
    assert all(torch.equal(w, before[name]) for name, w in weights_of(other.model).items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in other.model.modules()] == modes
    assert (other.cbs, other.epoch, other.i, other.xb, other.loss) == ((), 0, 0, None, None)
    assert NaNReportCallback.repeat(tmp_path / "nan.pt", other) == report
    assert NaNReportCallback.repeat(tmp_path / "nan.pt", learn) == report


def test_a_batch_runs_again_in_another_process(tmp_path):
    report, _ = failed_run(tmp_path / "nan.pt")
    script = BUILD.replace("SEED", "7") + textwrap.dedent(f"""
        report = NaNReportCallback.repeat({str(tmp_path / "nan.pt")!r}, make())
        print(repr(report))
    """)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == repr(report)


def test_the_file_holds_what_a_person_looks_for(tmp_path):
    report, learn = failed_run(tmp_path / "nan.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["nan.pt"]
    saved = torch.load(tmp_path / "nan.pt", weights_only=True)
    x, y = learn.dls["train"][report.i]
    assert torch.equal(saved["xb"], x)
    assert torch.equal(saved["batch"][1], y)
    assert (saved["epoch"], saved["dl_name"], saved["i"], saved["batch_size"]) == (0, "train", report.i, 4)
    assert saved["report"] == str(report)
    assert saved["modes"]["norm"] is False
    learn.model.load_state_dict(saved["weights"], strict=False)
    assert float(saved["weights"]["scale"]) == report.i + 1


def test_a_batch_of_validation_and_of_any_kind_runs_again(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.log = nn.Linear(2, 2), Log()

        def forward(self, ids, mask=None, note=None):
            assert note == ["a", "b"]
            assert not torch.is_grad_enabled()
            return {"logits": self.log(self.lin(ids)) * mask}

    def learner():
        data = {"ids": torch.randn(2, 2), "mask": torch.ones(2, 2), "note": ["a", "b"], "labels": torch.ones(2, 2)}
        return Learner(Net(), {"train": [], "valid": [data | {"meta": object()}]}, functional.mse_loss)

    learn, watch = learner(), NaNReportCallback(tmp_path / "nan.pt")
    nn.init.constant_(learn.model.lin.bias, -100.0)
    with pytest.warns(RuntimeWarning, match="loader 'valid'"):
        learn.validate(cbs=watch)
    assert watch.report.module == "log"
    assert NaNReportCallback.repeat(tmp_path / "nan.pt", learner()) == watch.report


def test_repeat_runs_inside_of_the_learners_own_wrappers(tmp_path):
    class Autocast(Callback):
        def around_predict(self, learn, action):
            with torch.autocast("cpu", torch.bfloat16):
                action()

    model = nn.Sequential(nn.Linear(2, 2), Log())
    report, learn = report_of(model, [batch(NAN)], functional.mse_loss, Autocast(), path=tmp_path / "nan.pt")
    assert report.outputs[0].dtype == "bfloat16"
    assert NaNReportCallback.repeat(tmp_path / "nan.pt", learn) == report


def test_nothing_is_written_in_a_sandbox_or_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = Learner(nn.Linear(2, 2), {"train": [batch(NAN)]}, functional.mse_loss, cbs=NaNReportCallback())
    with pytest.warns(RuntimeWarning, match="See `report` for more.$"), learn.sandbox():
        learn.fit(1)
    learn.cbs[0].path = None
    with pytest.warns(RuntimeWarning, match="See `report` for more.$"):
        learn.fit(1)
    assert list(tmp_path.iterdir()) == []


def test_by_default_the_file_is_where_the_program_began(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = Learner(nn.Linear(2, 2), {"train": [batch(NAN)]}, functional.mse_loss, cbs=NaNReportCallback())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.warns(RuntimeWarning, match="nan_report.pt"):
        learn.fit(1)
    assert learn.cbs[0].report.path == str(tmp_path / "nan_report.pt")
    assert (tmp_path / "nan_report.pt").is_file()


def test_repeat_refuses_what_it_cannot_run(tmp_path):
    learn = Learner(nn.Linear(2, 2), {"train": [batch()]}, functional.mse_loss)
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"`path` must be a file that NaNReportCallback has written, got .*other\.pt"):
        NaNReportCallback.repeat(tmp_path / "other.pt", learn)

    class Graph:
        x = torch.full((2, 2), NAN)

    class Net(nn.Linear):
        def forward(self, graph):
            return super().forward(graph.x)

    model = Net(2, 2)
    predictor = Predictor(model, target_fn=lambda graph: torch.ones(2, 2))
    watch = NaNReportCallback(tmp_path / "nan.pt")

    class Size(Callback):
        def after_predict(self, learn):
            learn.batch_size = 2

    learn = Learner(model, {"train": [Graph()]}, functional.mse_loss, cbs=[watch, Size()], predictor=predictor)
    with pytest.warns(RuntimeWarning, match="the model itself .Net."):
        learn.fit(1)
    with pytest.raises(ValueError, match="hold the whole batch to run it again, got only descriptions of `xb`"):
        NaNReportCallback.repeat(tmp_path / "nan.pt", learn)
    _, learn = report_of(nn.Linear(2, 2), [batch(NAN)], path=tmp_path / "nan.pt")
    learn.model = nn.Linear(2, 3)
    learn.predictor.model = learn.model
    with pytest.raises(ValueError, match=r"`learn\.model` must be the model of the file"):
        NaNReportCallback.repeat(tmp_path / "nan.pt", learn)
    assert not learn.in_sandbox


def test_the_report_that_has_ended_a_fit_is_there_when_it_is_resumed(tmp_path):
    def learner():
        watch, model = NaNReportCallback(tmp_path / "report.pt"), nn.Sequential(nn.Linear(2, 2), Log(), nn.Linear(2, 2))
        torch.nn.init.eye_(model[0].weight), torch.nn.init.zeros_(model[0].bias)
        loaders = {"train": [batch(3.0), batch(-1.0)]}
        return watch, Learner(
            model, loaders, functional.mse_loss, 0.0, cbs=[watch, CheckpointCallback(tmp_path / "kept")]
        )

    watch, learn = learner()
    with pytest.warns(RuntimeWarning, match="the loss was nan in epoch 0, loader 'train', batch 1"):
        learn.fit(2)
    again, learn = learner()
    learn.fit(2, resume=True)
    assert learn.n_steps == 1
    assert again.report.module == "1"
    assert again.report.inputs == watch.report.inputs
    assert str(again.report) == str(watch.report)
