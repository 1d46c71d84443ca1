"""What people bring from elsewhere: the classes of the course run as they are; other names are told what is here."""

import copy
import inspect
import math
import pickle
from copy import copy as copied
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

import learner as library
from learner import CancelEpochException, CancelFitException, Learner, LearnerError, Loaders
from learner.loop.foreign import FOREIGN_ATTRIBUTES

X = torch.linspace(-1, 1, 48)[:, None]


def learner(*cbs, model=None):
    dls = Loaders.from_arrays(train=(X, 2 * X), valid=(X, 2 * X), batch_size=8)
    return Learner(
        model or nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)), dls, nn.functional.mse_loss, cbs=cbs
    )


# == names ============================================================================================================


@pytest.mark.parametrize("name", FOREIGN_ATTRIBUTES)
def test_a_name_from_elsewhere_is_told_what_it_is_here_and_is_not_there(name):
    learn = learner()
    assert not hasattr(learn, name)
    assert getattr(learn, name, None) is None
    with pytest.raises(AttributeError, match=rf"'Learner' object has no attribute '{name}'; here it is ") as caught:
        getattr(learn, name)
    assert (caught.value.name, caught.value.obj) == (name, learn)  # of which Python makes its own suggestion


def test_what_it_is_here_is_here():
    learn = learner()
    for hint in FOREIGN_ATTRIBUTES.values():
        for part in hint.split("`")[1::2]:
            if part.startswith("learn."):
                assert hasattr(learn, part.removeprefix("learn.").split("(")[0].split("[")[0]), part


def test_any_other_name_is_an_ordinary_error_and_copies_are_copies():
    learn = learner()
    with pytest.raises(AttributeError, match=r"^'Learner' object has no attribute 'metric'$"):
        learn.metric
    assert isinstance(copy.deepcopy(learn), Learner)
    assert isinstance(pickle.loads(pickle.dumps(learn)), Learner)


class Wraps(library.Callback):
    def around_predict(self, learn, action):
        action()


class Owns(library.Callback):
    def predict(self, learn):
        learn.preds = learn.model(learn.xb)


@pytest.mark.parametrize("cbs", [[], [Wraps()], [Owns()], [Wraps(), Owns()]])
def test_predict_with_data_says_what_is_meant(cbs):
    with pytest.raises(TypeError, match=r"`predict` must be called by the loop, without arguments, got 1.*get_preds"):
        learner(*cbs).predict(X)


# == callbacks of the course ===========================================================================================


def to_cpu(x):
    if isinstance(x, dict):
        return {k: to_cpu(v) for k, v in x.items()}
    if isinstance(x, list):
        return [to_cpu(o) for o in x]
    if isinstance(x, tuple):
        return tuple(to_cpu(list(x)))
    res = x.detach().cpu()
    return res.float() if res.dtype == torch.float16 else res


def to_device(x, device="cpu"):
    if isinstance(x, torch.Tensor):
        return x.to(device)
    return type(x)(to_device(o, device) for o in x)


class Callback:
    order = 0


class SingleBatchCB(Callback):
    order = 1

    def after_batch(self, learn):
        raise CancelFitException()


class DeviceCB(Callback):
    def __init__(self, device="cpu"):
        self.device = device

    def before_fit(self, learn):
        if hasattr(learn.model, "to"):
            learn.model.to(self.device)

    def before_batch(self, learn):
        learn.batch = to_device(learn.batch, device=self.device)


class BatchTransformCB(Callback):
    def __init__(self, tfm, on_train=True, on_val=True):
        self.tfm, self.on_train, self.on_val = tfm, on_train, on_val

    def before_batch(self, learn):
        if (self.on_train and learn.training) or (self.on_val and not learn.training):
            learn.batch = self.tfm(learn.batch)


class CapturePreds(Callback):
    def before_fit(self, learn):
        self.all_inps, self.all_preds, self.all_targs = [], [], []

    def after_batch(self, learn):
        self.all_inps.append(to_cpu(learn.batch[0]))
        self.all_preds.append(to_cpu(learn.preds))
        self.all_targs.append(to_cpu(learn.batch[1]))

    def after_fit(self, learn):
        self.all_preds, self.all_targs, self.all_inps = map(torch.cat, [self.all_preds, self.all_targs, self.all_inps])


class LRFinderCB(Callback):
    def __init__(self, gamma=1.3, max_mult=3):
        self.gamma, self.max_mult = gamma, max_mult

    def before_fit(self, learn):
        self.sched = ExponentialLR(learn.opt, self.gamma)
        self.lrs, self.losses = [], []
        self.min = math.inf

    def after_batch(self, learn):
        if not learn.training:
            raise CancelEpochException()
        self.lrs.append(learn.opt.param_groups[0]["lr"])
        loss = to_cpu(learn.loss)
        self.losses.append(loss)
        if loss < self.min:
            self.min = loss
        if math.isnan(loss) or (loss > self.min * self.max_mult):
            raise CancelFitException()
        self.sched.step()


class BaseSchedCB(Callback):
    def __init__(self, sched):
        self.sched = sched

    def before_fit(self, learn):
        self.schedo = self.sched(learn.opt)

    def _step(self, learn):
        if learn.training:
            self.schedo.step()


class BatchSchedCB(BaseSchedCB):
    def after_batch(self, learn):
        self._step(learn)


class EpochSchedCB(BaseSchedCB):
    def after_epoch(self, learn):
        self._step(learn)


class RecorderCB(Callback):
    def __init__(self, **d):
        self.d = d

    def before_fit(self, learn):
        self.recs = {k: [] for k in self.d}
        self.pg = learn.opt.param_groups[0]

    def after_batch(self, learn):
        if not learn.training:
            return
        for k, v in self.d.items():
            self.recs[k].append(v(self))


class Hook:
    def __init__(self, m, f):
        self.hook = m.register_forward_hook(partial(f, self))

    def remove(self):
        self.hook.remove()

    def __del__(self):
        self.remove()


class Hooks(list):
    def __init__(self, ms, f):
        super().__init__([Hook(m, f) for m in ms])

    def remove(self):
        for h in self:
            h.remove()


class HooksCallback(Callback):
    def __init__(self, hookfunc, mod_filter=lambda m: True, on_train=True, on_valid=False, mods=None):
        self.hookfunc, self.mod_filter, self.on_train, self.on_valid, self.mods = (
            *(hookfunc, mod_filter, on_train, on_valid, mods),
        )

    def before_fit(self, learn):
        mods = self.mods if self.mods else [m for m in learn.model.modules() if self.mod_filter(m)]
        self.hooks = Hooks(mods, partial(self._hookfunc, learn))

    def _hookfunc(self, learn, *args, **kwargs):
        if (self.on_train and learn.training) or (self.on_valid and not learn.training):
            self.hookfunc(*args, **kwargs)

    def after_fit(self, learn):
        self.hooks.remove()

    def __iter__(self):
        return iter(self.hooks)

    def __len__(self):
        return len(self.hooks)


def append_stats(hook, mod, inp, outp):
    if not hasattr(hook, "stats"):
        hook.stats = ([], [], [])
    acts = to_cpu(outp)
    hook.stats[0].append(acts.mean())
    hook.stats[1].append(acts.std())
    hook.stats[2].append(acts.abs().histc(40, 0, 10))


class ActivationStats(HooksCallback):
    def __init__(self, mod_filter=lambda m: True):
        super().__init__(append_stats, mod_filter)


@pytest.mark.parametrize("cls", [SingleBatchCB, DeviceCB, CapturePreds, LRFinderCB, RecorderCB, ActivationStats])
def test_they_may_have_the_callback_of_this_library_as_their_base(cls):
    learn = learner(type(cls.__name__, (cls, library.Callback), {})())
    learn.fit(1)
    assert learn.n_steps == (1 if cls is SingleBatchCB else 6)


def test_single_batch():
    learn = learner(SingleBatchCB())
    learn.fit(3)
    assert learn.n_steps == 1


def test_device_batch_transform_and_captured_predictions():
    model, twin = nn.Linear(1, 1), nn.Linear(1, 1)
    twin.load_state_dict(model.state_dict())
    learn = learner(DeviceCB(), BatchTransformCB(lambda batch: (batch[0] * 2, batch[1]), on_val=False), model=model)
    learn.dls = {"train": [(X, X)]}
    learn.fit(2)
    opt = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        nn.functional.mse_loss(twin(X * 2), X).backward()
        opt.step()
        opt.zero_grad()
    assert torch.equal(model.weight, twin.weight)
    learn = learner(BatchTransformCB(lambda batch: (batch[0], batch[0] * 5), on_train=False), capture := CapturePreds())
    learn.fit(1)
    assert len(capture.all_preds) == len(capture.all_inps) == 96
    assert torch.equal(capture.all_targs[48:], X * 5)


def test_lr_finder():
    learn = learner(LRFinderCB())
    learn.fit(20)
    finder = learn.cbs[0]
    assert finder.lrs == pytest.approx([0.1 * 1.3**i for i in range(len(finder.lrs))])
    assert len(finder.losses) == len(finder.lrs) < 120


def test_schedules_and_recorder():
    rates = RecorderCB(lr=lambda cb: cb.pg["lr"])
    learner(BatchSchedCB(partial(OneCycleLR, max_lr=0.5, total_steps=13)), rates).fit(2)
    expected = OneCycleLR(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), max_lr=0.5, total_steps=13)
    by_hand = [expected.get_last_lr()[0]]
    for _ in range(12):
        expected.optimizer.step()
        expected.step()
        by_hand.append(expected.get_last_lr()[0])
    assert rates.recs["lr"] == by_hand[1:]  # recorded after the schedule's own turn
    rates = RecorderCB(lr=lambda cb: cb.pg["lr"])
    learner(EpochSchedCB(partial(ExponentialLR, gamma=0.5)), rates).fit(2)
    assert rates.recs["lr"] == [0.1] * 6 + [0.05] * 6


def test_activation_stats():
    stats = ActivationStats(lambda m: isinstance(m, nn.ReLU | nn.Linear))
    learn = learner(stats)
    learn.fit(2)
    assert [[len(part) for part in hook.stats] for hook in stats] == [[12, 12, 12]] * 3
    assert not any(module._forward_hooks for module in learn.model.modules())


class Mean:
    def reset(self):
        self.values = []

    def update(self, value, weight=1):
        self.values.append(value)

    def compute(self):
        return sum(self.values) / len(self.values)


class MetricsCB(Callback):
    def __init__(self, **metrics):
        self.metrics = metrics
        self.all_metrics = copied(metrics)
        self.all_metrics["loss"] = self.loss = Mean()

    def _log(self, d):
        raise NotImplementedError(d)

    def before_fit(self, learn):
        learn.metrics = self

    def before_epoch(self, learn):
        for o in self.all_metrics.values():
            o.reset()

    def after_batch(self, learn):
        x, *_ = to_cpu(learn.batch)
        self.loss.update(to_cpu(learn.loss), weight=len(x))


class ProgressCB(Callback):
    order = 1

    def before_fit(self, learn):
        learn.epochs = list(learn.epochs)
        if hasattr(learn, "metrics"):
            learn.metrics._log = self._log

    def _log(self, d):
        raise NotImplementedError(d)


class TrainCB(Callback):
    def predict(self, learn):
        learn.preds = learn.model(learn.batch[0])

    def get_loss(self, learn):
        learn.loss = learn.loss_func(learn.preds, learn.batch[1])

    def backward(self, learn):
        learn.loss.backward()

    def step(self, learn):
        learn.opt.step()

    def zero_grad(self, learn):
        learn.opt.zero_grad()


@pytest.mark.parametrize(
    ("cls", "words"),
    [(MetricsCB, "use MetricsCallback("), (ProgressCB, "use ProgressCallback("), (TrainCB, "leave it out")],
)
def test_what_cannot_run_says_what_to_use(cls, words):
    refused = (AttributeError, TypeError, LearnerError)
    with pytest.raises(refused, match=r"object has no attribute|not|left to the loop") as caught:
        learner(cls()).fit(1)
    (note,) = caught.value.__notes__
    assert f"{cls.__name__} of miniai cannot run here; " in note
    assert words in note


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("loss_func", "did you mean `loss_f`"),
        ("optimizer", "did you mean `opt_func`, such as `torch.optim.AdamW`"),
        ("predictr", "did you mean `predictor`"),
        ("metrics", r"did you mean `cbs=MetricsCallback\(...\)`"),
        ("zzz", "there are model, dls, loss_f, lr, opt_func, cbs, predictor"),
    ],
)
def test_an_argument_that_a_learner_has_not_is_told_what_it_is_here(name, hint):
    class Own(Learner):
        pass

    for kind in (Learner, Own):
        with pytest.raises(TypeError, match=f"^{kind.__name__} has no argument `{name}`; {hint}"):
            kind(nn.Linear(1, 1), {"train": []}, **{name: None})


def test_what_a_learner_takes_can_still_be_read():
    assert list(inspect.signature(Learner).parameters) == [
        "model",
        "dls",
        "loss_f",
        "lr",
        "opt_func",
        "cbs",
        "predictor",
    ]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'dls'"):
        Learner(nn.Linear(1, 1))
