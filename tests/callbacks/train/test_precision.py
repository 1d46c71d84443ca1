"""Mixed precision, against loops by hand with `torch.autocast` and `GradScaler`; on the CPU, which has both."""

import copy
import math
import pickle
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from callbacks import (
    AccumulateCallback,
    ActivationStats,
    ClassificationMetricsCollector,
    ClipGradientCallback,
    CollectCallback,
    EMACallback,
    GradientStats,
    HooksCallback,
    LambdaCallback,
    MetricsCallback,
    MixedPrecisionCallback,
    NaNReportCallback,
    SAMCallback,
    TerminateOnNaNCallback,
)
from learner import (
    Callback,
    CancelBatchException,
    CancelStepException,
    Learner,
    LearnerError,
    Loaders,
    PostponeStepException,
)
from learner.optim import Optimizers
from tests.resuming import assert_equal_runs, resumed_from_each, stopped_and_resumed, uninterrupted
from tests.step_by_hand import Parts, by_hand, callbacks_of, learner, make_model

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(1))
BATCHES = list(zip(X.split(8), Y.split(8), strict=True))
WHOLE_STEP = {"accumulate": 2, "max_norm": 0.5, "is_cosine": True}
HIGH = 2.0**24  # so high that the first steps are skipped


def make(*cbs, dls=None, **kwargs) -> Learner:
    given = {"model": make_model(), "dls": dls or {"train": BATCHES, "valid": BATCHES}, "loss_f": cross_entropy}
    return Learner(**given | kwargs, cbs=list(cbs))


def at(signal, f, order=0) -> Callback:
    """Return a callback that calls a function at a signal."""
    cb = LambdaCallback(**{signal: f})
    cb.order = order
    return cb


def fail(error):
    def f(learn):
        raise error

    return f


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "init_scale"), [("bf16", 2.0**16), ("fp16", 2.0**16), ("fp16", HIGH)])
def test_it_equals_the_loop_by_hand(precision, init_scale):
    """Warnings are errors here: none comes of a schedule that steps before the optimizer, or of an infinite norm."""
    parts = Parts(precision, init_scale, **WHOLE_STEP)
    cbs, done = callbacks_of(parts), by_hand(parts, 2)
    learn = learner(parts, list(cbs.values()))
    learn.fit(2)
    assert all(map(torch.equal, learn.model.parameters(), done.model.parameters()))
    assert {p.dtype for p in learn.model.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in learn.model.parameters())
    assert cbs["MixedPrecisionCallback"].scale == done.scale
    assert (learn.n_steps, learn.n_skipped) == (done.n_steps, done.n_skipped)
    assert learn.n_steps + learn.n_skipped == 8
    assert cbs["SchedulerCallback"].scheduler.last_epoch == learn.n_steps
    assert learn.history.to_dict()["train/loss"] == pytest.approx(done.means, rel=1e-6)
    assert (learn.n_skipped > 0) == (init_scale == HIGH)


def test_a_skipped_step_leaves_no_gradient_and_nobody_hears_of_it():
    heard, left = [], []
    look = at("after_backward", lambda learn: heard.append(learn.model[0].weight.grad.isfinite().all()))
    after = at("after_batch", lambda learn: left.append([p.grad for p in learn.model.parameters()]))
    stats, clip, stop = GradientStats(), ClipGradientCallback(1.0), TerminateOnNaNCallback()
    learn = make(MixedPrecisionCallback("fp16", HIGH), look, after, stats, clip, stop, NaNReportCallback(None))
    learn.fit(3)
    assert learn.n_skipped > 0
    assert len(heard) == learn.n_steps == 12 - learn.n_skipped
    assert all(heard)
    assert all(grad is None for grads in left for grad in grads)
    assert stop.first_bad is None
    assert len(stats.parameter("0.weight").grad_norm) == learn.n_steps


@pytest.mark.parametrize("precision", HALF)
def test_gradients_are_true_for_all_that_come_after_it(precision):
    """Against autograd on the same forward; who comes before it sees them scaled."""
    seen = {}
    early = at("after_backward", lambda learn: seen.update(early=learn.model[0].weight.grad.clone()), order=-46)
    late = at("after_backward", lambda learn: seen.update(late=learn.model[0].weight.grad.clone()), order=-44)
    cb, stats = MixedPrecisionCallback(precision), GradientStats()
    learn = make(cb, early, late, stats, dls={"train": BATCHES[:1]})
    learn.model[2].p = 0.0  # no dropout
    with torch.autocast("cpu", HALF[precision]):
        preds = learn.model(BATCHES[0][0])
    (cross_entropy(preds.float(), BATCHES[0][1]) * cb.scale).backward()
    scaled = learn.model[0].weight.grad.clone()
    learn.fit(1)
    assert torch.equal(seen["early"], scaled)
    assert torch.equal(seen["late"], scaled / cb.scale)
    assert stats.parameter("0.weight").grad_norm[0] == pytest.approx(float((scaled / cb.scale).norm()), rel=1e-6)
    assert cb.scale == (1.0 if precision == "bf16" else 2.0**16)


def test_lbfgs_in_bf16_equals_the_loop_by_hand():
    learn = make(MixedPrecisionCallback("bf16"), opt_func=torch.optim.LBFGS, lr=0.1, model=nn.Linear(4, 3))
    model = nn.Linear(4, 3)
    model.load_state_dict(learn.model.state_dict())
    opt = torch.optim.LBFGS(model.parameters(), lr=0.1)
    for x, y in BATCHES:

        def closure(x=x, y=y):
            opt.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                preds = model(x)
            loss = cross_entropy(preds.float(), y)
            loss.backward()
            return loss

        opt.step(closure)
    learn.fit(1)
    assert all(map(torch.equal, learn.model.parameters(), model.parameters()))


def test_several_optimizers_in_fp16_equal_the_loop_by_hand():
    def make_opts(model):
        first, last = model[0].parameters(), model[3].parameters()
        return {"first": torch.optim.SGD(first, lr=0.1, momentum=0.9), "last": torch.optim.Adam(last, lr=0.01)}

    learn = make(MixedPrecisionCallback("fp16"), dls={"train": BATCHES}, model=make_model())
    learn.opt = Optimizers(**make_opts(learn.model))
    learn.fit(2)
    model, scaler = make_model(), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    opts = make_opts(model).values()
    for x, y in BATCHES * 2:
        with torch.autocast("cpu", torch.float16):
            preds = model(x)
        scaler.scale(cross_entropy(preds.float(), y)).backward()
        for opt in opts:
            scaler.step(opt)
        scaler.update()
        model.zero_grad()
    assert all(map(torch.equal, learn.model.parameters(), model.parameters()))


def test_steps_that_are_skipped_are_none_of_those_that_a_fit_is_to_make_nor_of_an_average():
    average = EMACallback(0.9)
    learn = make(MixedPrecisionCallback("fp16", HIGH), average, dls={"train": BATCHES * 3})
    learn.fit(steps=9)
    assert learn.n_steps == 9
    assert learn.n_skipped > 0
    assert average.n_updates == 9


def test_the_scale_doubles_after_so_many_steps():
    cb = MixedPrecisionCallback("fp16", 2.0**10)
    learn = make(cb)
    learn.fit(1)
    cb.load_state_dict({**cb.state_dict(), "growth_interval": 3, "_growth_tracker": 0})
    learn.fit(2)
    assert (learn.n_skipped, cb.scale) == (0, 2.0**12)


@pytest.mark.parametrize("error", [CancelStepException, CancelBatchException, KeyError])
def test_a_step_that_another_one_prevents_spoils_no_later_one(error):
    cb = MixedPrecisionCallback("fp16")
    learn = make(cb)
    with suppress(KeyError):
        learn.fit(1, cbs=at("after_backward", fail(error())))
    assert learn.n_steps == 0
    learn.fit(1)
    assert (learn.n_steps, cb.scale) == (4, 2.0**16)


# -- what is in float32 ------------------------------------------------------------------------------------------------


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None
    extra: tuple = ()


OUTPUTS = {
    "tensor": lambda logits, loss: logits,
    "tuple": lambda logits, loss: (logits, [logits]),
    "dict": lambda logits, loss: {"a": logits, "nest": {"b": (logits, 1)}},
    "mapping with loss": lambda logits, loss: {"logits": logits, "loss": loss, "more": [logits]},
    "dataclass with loss": lambda logits, loss: Output(logits, loss, (logits,)),
}


class Giving(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner, self.kind = nn.Linear(4, 3), kind

    def forward(self, x, y=None):
        logits = self.inner(x)
        loss = None if y is None else (logits.softmax(1) * nn.functional.one_hot(y, 3)).sum().to(logits.dtype)
        return OUTPUTS[self.kind](logits, loss)


def dtypes_in(value) -> set:
    """Return the kinds of floats in a nest."""
    if isinstance(value, Tensor):
        return {value.dtype} if value.is_floating_point() else set()
    if isinstance(value, Output):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        value = list(value.values())
    return set().union(*map(dtypes_in, value)) if isinstance(value, list | tuple) else set()


def first_tensor(value) -> Tensor:
    while not isinstance(value, Tensor):
        value = next(iter(value.values())) if isinstance(value, Mapping) else value[0]
    return value


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("kind", OUTPUTS)
def test_predictions_and_losses_are_in_float32_and_the_output_is_as_the_model_gave_it(kind, precision):
    seen = []

    def look(learn):
        learn.log(half=first_tensor(learn.preds).half().mean())
        seen.append((learn.role, *(frozenset(dtypes_in(v)) for v in (learn.output, learn.preds, learn.loss))))

    makes_loss = "loss" in kind
    loss_f = None if makes_loss else lambda preds, y: cross_entropy(first_tensor(preds), y)
    learn = make(MixedPrecisionCallback(precision), at("after_loss", look), model=Giving(kind), loss_f=loss_f)
    learn.fit(1)
    half, full = frozenset({HALF[precision]}), frozenset({torch.float32})
    assert set(seen) == {("train", half, full, full), ("valid", half, full, full)}
    assert dtypes_in(learn.get_preds()[0]) == {torch.float32}
    assert all(math.isfinite(value) for value in learn.metrics["train"].values())


def test_a_batch_of_half_losses_is_averaged_in_float32():
    """A sum of losses in float16 ends at 65504, and loses digits long before."""
    learn = make(dls={"train": BATCHES * 40})
    learn.fit(1, lr=0, cbs=at("after_batch", lambda learn: learn.log(large=torch.tensor(2001.0).half())))
    assert learn.metrics["train"]["large"] == 2001.0


@pytest.mark.parametrize("precision", HALF)
def test_records_and_metrics_are_computed_in_float32(precision):
    def loss_fn(preds, target):
        return cross_entropy(preds, target, reduction="none")

    collect = CollectCallback(ClassificationMetricsCollector(loss_fn=loss_fn))
    dls = Loaders.from_arrays(train=(X, Y), batch_size=8, shuffle=False)
    learn = make(MixedPrecisionCallback(precision), collect, MetricsCallback(again=cross_entropy), dls=dls)
    learn.model.eval()
    learn.model[2].p = 0.0
    learn.fit(1, lr=0)
    preds, _ = learn.get_preds("train")
    expected = cross_entropy(preds, Y, reduction="none")
    assert torch.equal(torch.as_tensor(collect.samples.numpy("loss")), expected)
    assert learn.metrics["train"]["again"] == pytest.approx(expected.mean().item(), rel=1e-6)


@pytest.mark.parametrize("precision", HALF)
def test_passes_outside_of_a_fit_run_in_that_precision(precision):
    learn = make(MixedPrecisionCallback(precision))
    learn.model.eval()
    with torch.no_grad(), torch.autocast("cpu", HALF[precision]):
        preds = learn.model(X)
    assert learn.validate()["loss"] == pytest.approx(cross_entropy(preds.float(), Y).item(), rel=1e-6)
    assert torch.equal(learn.get_preds()[0], preds.float())
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", HALF)
def test_what_layers_give_can_be_watched(precision):
    """Layers of either side of the size from which the histogram is made in another way."""
    seen = []
    stats, hooks = ActivationStats(), HooksCallback(lambda hook, module, inputs, output: seen.append(output.dtype))
    model = nn.Sequential(nn.Linear(4, 2048), nn.Sigmoid(), nn.Linear(2048, 3))
    learn = make(MixedPrecisionCallback(precision), stats, hooks, model=model, dls={"train": BATCHES})
    learn.fit(1, lr=0)
    assert set(seen) == {HALF[precision]}
    assert [stats.layer(name).hist.sum(1).tolist() for name in ("1", "2")] == [[8.0 * 2048] * 4, [8.0 * 3] * 4]


# -- looks at the device -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "n_looks"), [("bf16", 0), ("fp16", 1)])
def test_the_device_is_waited_for_once_a_step_in_fp16_and_never_in_bf16(monkeypatch, precision, n_looks):
    names = ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__")
    looks, is_in_batch = [], []
    for name in names:
        real = getattr(Tensor, name)
        monkeypatch.setattr(
            Tensor, name, lambda self, *a, real=real, name=name: (is_in_batch and looks.append(name), real(self, *a))[1]
        )
    begin = at("before_batch", lambda learn: is_in_batch.append(True), order=-1000)
    end = at("cleanup_batch", lambda learn: is_in_batch.clear(), order=-1000)
    learn = make(begin, end, MixedPrecisionCallback(precision), AccumulateCallback(2))
    learn.fit(2)
    assert looks == ["item"] * (learn.n_steps * n_looks)
    assert learn.n_steps == 4


# -- going on ----------------------------------------------------------------------------------------------------------


def moving(cbs) -> Learner:
    """Return a learner whose scale falls for longer than an epoch."""
    return learner(Parts("fp16", HIGH), [*cbs, *callbacks_of(Parts("fp16", 2.0**30, **WHOLE_STEP)).values()])


def scale_of(learn) -> float:
    return next(cb for cb in learn.cbs if isinstance(cb, MixedPrecisionCallback)).scale


@pytest.mark.parametrize("stop_at", [2, 7, 12])
def test_a_fit_that_was_killed_while_the_scale_moves_ends_as_one_that_was_not(stop_at, tmp_path):
    whole = uninterrupted(moving, 5, tmp_path / "whole")
    learn = stopped_and_resumed(moving, 5, stop_at, tmp_path / "stopped")
    assert_equal_runs(learn, whole)
    assert scale_of(learn) == scale_of(whole)
    assert learn.n_skipped == whole.n_skipped > 4


def test_a_fit_goes_on_from_any_batch(tmp_path):
    whole, gone_on = resumed_from_each(moving, 2, tmp_path)
    for learn in gone_on:
        assert_equal_runs(learn, whole)
        assert scale_of(learn) == scale_of(whole)


def test_the_scale_goes_on_in_the_next_fit_also_of_another_process_and_a_new_learner_begins_anew(tmp_path):
    first, second = (
        make(cb := MixedPrecisionCallback("fp16", HIGH)),
        make(other := MixedPrecisionCallback("fp16", HIGH)),
    )
    first.fit(1)
    scale = cb.scale
    assert scale < HIGH
    first.save(tmp_path / "learn.pt")
    second.load(tmp_path / "learn.pt")
    assert other.scale == scale
    for learn in (first, second):
        torch.manual_seed(1)
        learn.fit(1)
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))
    assert (cb.scale, first.n_skipped) == (other.scale, second.n_skipped)
    make(cb).fit(0)
    assert cb.scale == HIGH


def test_a_sandbox_puts_the_scale_back():
    learn = make(cb := MixedPrecisionCallback("fp16", HIGH))
    learn.fit(1)
    scale = cb.scale
    with learn.sandbox():
        learn.fit(3)
        assert cb.scale < scale
    assert cb.scale == scale


def test_a_copy_has_a_scale_of_its_own():
    learn = make(cb := MixedPrecisionCallback("fp16", HIGH))
    learn.fit(1)
    scale, copied = cb.scale, copy.deepcopy(learn)
    pickled = pickle.loads(pickle.dumps(cb))
    copied.fit(3)
    assert scale_of(copied) < scale == cb.scale == pickled.scale


@pytest.mark.parametrize(("saved", "now"), [("bf16", "fp16"), ("fp16", "bf16")])
def test_a_checkpoint_of_the_other_precision_is_refused(saved, now, tmp_path):
    learn = make(MixedPrecisionCallback(saved))
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    with pytest.raises(LearnerError, match=rf"`dtype` is {HALF[now]} here, {HALF[saved]} saved"):
        make(MixedPrecisionCallback(now)).load(tmp_path / "learn.pt")


def test_bf16_keeps_nothing_so_it_may_come_and_go(tmp_path):
    learn = make(MixedPrecisionCallback("bf16"))
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    other = make()
    other.load(tmp_path / "learn.pt")
    other.save(tmp_path / "other.pt")
    learn.load(tmp_path / "other.pt")


# -- where it runs -----------------------------------------------------------------------------------------------------


def test_the_device_is_that_of_the_model(monkeypatch):
    """With fakes, since this machine has no other device."""
    asked = []

    class Scaler:
        def __init__(self, device, init_scale):
            asked.append((device, init_scale))

        def load_state_dict(self, state):
            pass

        def scale(self, loss):
            asked.append(loss.device)

    monkeypatch.setattr("callbacks.train.precision.is_autocast_available", lambda device_type: True)
    cb = MixedPrecisionCallback("fp16")
    learn = make(cb, model=nn.Linear(4, 3, device="meta"))
    monkeypatch.setattr("callbacks.train.precision.GradScaler", Scaler)
    monkeypatch.setattr(torch, "autocast", lambda *args: (asked.append(args), nullcontext())[1])
    cb.before_epoch(learn)
    cb.around_predict(learn, lambda: None)
    assert asked == [("meta", torch.float16), ("meta", 2.0**16), torch.device("meta")]


def test_a_device_without_autocast_is_refused():
    with pytest.raises(LearnerError, match=r"a device that torch has autocast for .*, got 'meta'"):
        make(MixedPrecisionCallback(), model=nn.Linear(4, 3, device="meta")).validate()


def test_a_pass_within_a_prediction_leaves_autocast_as_it_was():
    def around_predict(learn, action):
        action()
        if learn.training:
            learn.validate()

    learn = make(MixedPrecisionCallback(), within := LambdaCallback())
    within.around_predict = around_predict
    learn.fit(1)
    assert not torch.is_autocast_enabled("cpu")


def test_a_batch_that_is_run_outside_of_any_pass(tmp_path):
    """As `NaNReportCallback.repeat` does, in a process that has trained nothing."""
    x = X.clone()
    x[9] = math.nan
    dls = {"train": list(zip(x.split(8), Y.split(8), strict=True))}
    with pytest.warns(RuntimeWarning, match="the loss was nan"):
        make(MixedPrecisionCallback(), NaNReportCallback(tmp_path / "nan.pt"), dls=dls).fit(1)
    report = NaNReportCallback.repeat(tmp_path / "nan.pt", make(MixedPrecisionCallback()))
    assert (report.module, report.outputs[0].dtype) == ("0", "bfloat16")


def test_a_model_without_any_tensor():
    assert make(MixedPrecisionCallback(), model=nn.Softmax(1)).validate()["loss"] > 0


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", torch.bfloat16, None, ["bf16"]])
def test_an_unknown_dtype(dtype):
    with pytest.raises(ValueError, match="`dtype` must be 'bf16' or 'fp16', got"):
        MixedPrecisionCallback(dtype)


@pytest.mark.parametrize(
    ("dtype", "meant"), [("float16", "fp16"), (torch.float16, "fp16"), ("bfloat16", "bf16"), (torch.bfloat16, "bf16")]
)
def test_a_dtype_of_another_name_is_told_the_right_one(dtype, meant):
    with pytest.raises(ValueError, match=f"must be 'bf16' or 'fp16', got .*; do '{meant}'"):
        MixedPrecisionCallback(dtype)


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf, 1e39, "1", True, None])
def test_a_scale_that_is_not_a_positive_finite_number(scale):
    with pytest.raises((TypeError, ValueError), match="`init_scale` must be"):
        MixedPrecisionCallback("fp16", scale)


def test_a_scale_that_would_not_be_used():
    with pytest.raises(ValueError, match="`init_scale` must be left out with 'bf16'"):
        MixedPrecisionCallback("bf16", 2.0**10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_in_half_precision_with_a_scale(dtype):
    learn = make(MixedPrecisionCallback("fp16"), model=nn.Linear(4, 3).to(dtype))
    with pytest.raises(LearnerError, match=rf"must have float32 parameters .*, got {dtype} in 'weight'"):
        learn.fit(1)
    frozen = nn.Linear(4, 4).to(dtype).requires_grad_(False)
    learn = make(MixedPrecisionCallback("fp16"), model=nn.Sequential(frozen, nn.Linear(4, 3)))
    learn.fit(1)
    assert learn.n_steps == 4


def test_what_does_not_go_with_a_scale():
    fp16 = r"MixedPrecisionCallback\('fp16'\)"
    with pytest.raises(LearnerError, match=f"{fp16} must have an optimizer .*, got LBFGS"):
        make(MixedPrecisionCallback("fp16"), opt_func=torch.optim.LBFGS).fit(1)
    with pytest.raises(LearnerError, match=r"SAMCallback must take gradients .*, got a MixedPrecisionCallback"):
        make(MixedPrecisionCallback("fp16"), SAMCallback()).fit(1)
    cb = MixedPrecisionCallback("fp16")
    cb.every = 2
    with pytest.raises(LearnerError, match=f"`every` of {fp16} must be None, got 2"):
        make(cb).fit(1)


def test_one_that_is_added_within_a_pass():
    learn = make(
        at("before_batch", lambda learn: learn.add_cb(MixedPrecisionCallback("fp16")) if learn.i == 1 else None)
    )
    with pytest.raises(
        LearnerError, match="must be there when a training pass begins, got one that was added to 'train'"
    ):
        learn.fit(1)


def test_two_of_them():
    learn = make(MixedPrecisionCallback("fp16"), MixedPrecisionCallback())
    for run in (learn.validate, lambda: learn.fit(1)):
        with pytest.raises(LearnerError, match="`cbs` must hold one MixedPrecisionCallback, got several"):
            run()


def test_a_step_without_any_gradient():
    head = nn.Linear(4, 3)
    learn = make(MixedPrecisionCallback("fp16"), loss_f=lambda preds, y: cross_entropy(head(X[:8]), y))
    with pytest.raises(LearnerError, match=r"must have a gradient, got none in all of `learn.opt`"):
        learn.fit(1)


def test_a_step_that_is_put_off_too_late():
    late = at("after_backward", fail(PostponeStepException()))
    with pytest.raises(LearnerError, match="give who puts it off an order below -45"):
        make(MixedPrecisionCallback("fp16"), late).fit(1)


def test_gradients_that_are_finite_at_no_scale_end_the_fit():
    cb = MixedPrecisionCallback("fp16")
    learn = make(cb, loss_f=lambda preds, y: (preds * math.inf).sum(), dls={"train": BATCHES * 11})
    with pytest.raises(LearnerError, match="must be finite at some scale of the loss, got infinite or NaN ones down"):
        learn.fit(1)
    assert learn.n_skipped == 44
