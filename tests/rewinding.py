"""Trainings to go back into: what each training batch found, in a run that was left alone, to be compared with."""

import hashlib
import random
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from callbacks import (
    AccumulateCallback,
    CheckpointCallback,
    EMACallback,
    EpochLengthCallback,
    LossWeightCallback,
    MetricsCallback,
    MixedPrecisionCallback,
    SAMCallback,
    SchedulerCallback,
    SWACallback,
    accuracy,
)
from learner import Callback, Learner
from learner.checkpoint.plain import plain
from learner.checkpoint.snapshot import snapshot
from learner.data.moving import cloned
from tests.kill.training import Setting, count_labels, loaders_of, model_of, optimizer_of
from tests.resuming import seed_all

N_EPOCHS = 2


class Spy(Callback):
    """Take down what each training batch of a fit finds, before anybody has touched it."""

    order = -(10**9)

    def __init__(self):
        self.found = []
        self.is_on = True

    def before_batch(self, learn):
        if self.is_on and learn.training:
            self.found.append(seen_by(learn, learn.batch, learn.epoch, learn.i))


def seen_by(learn, batch, epoch, i):
    """Return all that the next batch depends on, copied."""
    opt = learn.opt.state_dict()
    # A rate that a schedule has never changed is a number; torch's fused ones hold tensors.
    return cloned(
        {
            "at": (epoch, i, learn.n_steps, learn.n_samples, learn.n_skipped),
            "batch": list(batch),
            "weights": dict(learn.model.state_dict()),
            "optimizer": {"state": opt["state"], "groups": opt["param_groups"]},
            "gradients": [p.grad for p in learn.model.parameters()],
            "random": [random.getstate(), torch.get_rng_state(), *map(str, np.random.get_state()[1:])],
            "history": learn.history.to_dict(),
        }
    )


def make(setting, folder, every="epoch", keep=100):
    """Return a learner as the kill tests train it, with checkpoints in a folder, and its spy."""
    schedule = SchedulerCallback(partial(OneCycleLR, max_lr=0.05)) if setting.optimizer == "one-cycle" else None
    spy = Spy()
    seed_all(0)
    cbs = [
        CheckpointCallback(folder, every, keep=keep),
        spy,
        MetricsCallback(accuracy),
        *([AccumulateCallback(setting.accumulate)] if setting.accumulate > 1 else []),
        *([SAMCallback(0.1)] if setting.optimizer == "sam" else []),
        *([LossWeightCallback(weight_of=count_labels)] if setting.weight == "labels" else []),
        *([EpochLengthCallback(train=9, valid=3)] if setting.length == "steps" else []),
        *([schedule] if schedule else []),
        *{"none": [], "ema": [EMACallback(0.8)], "swa": [SWACallback(0.3)]}[setting.average],
        *([MixedPrecisionCallback("fp16", init_scale=2.0**28)] if setting.precision == "fp16" else []),
    ]
    loss_f = nn.functional.cross_entropy
    learn = Learner(model_of(setting), loaders_of(setting), loss_f, 0.02, optimizer_of(setting), cbs=cbs)
    return learn, spy


def length_of(setting):
    return {"steps": 11} if setting.length == "steps" else {"n_epochs": N_EPOCHS}


SETTINGS = {
    "one-cycle, all noise": Setting(),
    "workers": Setting(workers=2, model="augmentation", accumulate=1),
    "weighted sampler": Setting(sampler="weighted", optimizer="sgd", accumulate=1),
    "sam": Setting(optimizer="sam", accumulate=1),
    "lbfgs": Setting(optimizer="lbfgs", accumulate=1, model="dropout"),
    "two optimizers": Setting(optimizer="two"),
    "ema": Setting(average="ema"),
    "swa": Setting(average="swa", optimizer="sgd"),
    "fp16": Setting(precision="fp16", accumulate=2),
    "steps in rounds": Setting(length="steps", accumulate=1),
    "labels": Setting(weight="labels"),
}


def listing(folder):
    """Return the files of a folder, each with a checksum of what is in it and the time of its last change."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def state_of(learn):
    """Return all that a learner holds, its callbacks' state included, copied; but for a clock."""
    state = plain(snapshot(learn), copy=True)
    state["callbacks"]["CheckpointCallback"].pop("pace")
    return state
