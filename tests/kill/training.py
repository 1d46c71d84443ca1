"""A small training that is killed and resumed. `python -m tests.kill.training JSON` runs it in a process of its own."""

from __future__ import annotations

import io
import json
import os
import random
import re
import runpy
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torch.utils.data._utils import worker
from torchmetrics.classification import MulticlassAUROC

from callbacks import (
    AccumulateCallback,
    BestModelCallback,
    CheckpointCallback,
    ClassificationMetricsCollector,
    CollectCallback,
    EMACallback,
    EpochLengthCallback,
    LossWeightCallback,
    MetricsCallback,
    MixedPrecisionCallback,
    RunCallback,
    SAMCallback,
    SchedulerCallback,
    SWACallback,
    accuracy,
)
from learner import Callback, Learner
from learner.optim import Optimizers
from learner.records import Run

N_EPOCHS = 3
N_TRAIN, N_VALID = 13, 4  # batches of an epoch; the last of each is shorter
N_BATCHES = N_TRAIN + N_VALID
BATCH_SIZE = 4
DIGEST = "digest.json"
EXAMPLES = Path(__file__).parents[2] / "examples"

# Where a process is killed, each the first such place from batch `at` on: of all batches,
LOOP_POINTS = ("fetched", "backward", "stepped", "before the save", "during the save", "after a pass")
# or of those that train, by which files are named.
FILE_POINTS = ("torn", "written", "synced", "renamed")
POINTS = (*LOOP_POINTS, *FILE_POINTS)


class Setting(NamedTuple):
    """What is trained, and how."""

    workers: int = 0
    sampler: str = "shuffle"  # or "weighted"
    optimizer: str = "one-cycle"  # AdamW; or "sgd", with momentum; "sam"; "lbfgs"; "two", of which each has a layer
    model: str = "all"  # or one of "dropout", "batch norm", "augmentation"
    accumulate: int = 3  # 1 for "sam" and "lbfgs"
    every: int | str = 1
    average: str = "none"  # of the weights; or "ema", "swa"
    precision: str = "float32"  # or "fp16", with a scale that falls for more than an epoch
    length: str = "epochs"  # or "steps", in rounds of 9 batches
    weight: str = "samples"  # or "labels": what a loss is a mean over
    example: str = ""  # or the name of a file in examples/, which is trained in place of all that


class Kill(NamedTuple):
    """When a process kills itself.

    Attributes:
        point: one of the above; "operation" is before a change of the file system; "end" is when the fit has ended.
        at: the first batch, or file of that batch, or operation, where it may be.
        offset: of a torn file [bytes].
    """

    point: str
    at: int
    offset: int = 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- what is trained ---------------------------------------------------------------------------------------------------


class Points(Dataset[Any]):
    """Three classes of points, with noise from every generator that there is."""

    def __init__(self, n: int, seed: int, is_noisy: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.randint(0, 3, (n,), generator=generator)
        self.x = torch.randn(n, 6, generator=generator) + self.y[:, None]
        self.is_noisy = is_noisy

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.x[i]
        if self.is_noisy:
            x = x + torch.randn(6) + np.random.normal() + random.random()
        return x, self.y[i]


def model_of(setting: Setting) -> nn.Module:
    has = {"batch norm": [nn.BatchNorm1d(16)], "dropout": [nn.Dropout(0.5)]}
    return nn.Sequential(
        nn.Linear(6, 16),
        *(has["batch norm"] if setting.model in ("batch norm", "all") else ()),
        nn.ReLU(),
        *(has["dropout"] if setting.model in ("dropout", "all") else ()),
        nn.Linear(16, 3),
    )


def loaders_of(setting: Setting) -> dict[str, DataLoader[Any]]:
    is_noisy = setting.model in ("augmentation", "all")
    train = Points(N_TRAIN * BATCH_SIZE - 2, 1, is_noisy)
    valid = Points(N_VALID * BATCH_SIZE - 1, 2, is_noisy)
    options: dict[str, Any] = {"batch_size": BATCH_SIZE, "num_workers": setting.workers}
    if setting.workers:
        options["multiprocessing_context"] = "fork"
    if setting.sampler == "weighted":
        generator = torch.Generator().manual_seed(3)
        order: dict[str, Any] = {"sampler": WeightedRandomSampler(1.0 + train.y, len(train), generator=generator)}
    else:
        order = {"shuffle": True}
    return {"train": DataLoader(train, **order, **options), "valid": DataLoader(valid, **options)}


def optimizer_of(setting: Setting) -> Any:
    if setting.optimizer in ("sgd", "sam"):
        return partial(torch.optim.SGD, momentum=0.9)
    if setting.optimizer == "lbfgs":
        return partial(torch.optim.LBFGS, max_iter=3)
    if setting.optimizer == "two":
        return two_optimizers
    return torch.optim.AdamW


def two_optimizers(params: Any, lr: float) -> Optimizers:
    first, *rest = params
    return Optimizers(first=torch.optim.Adam([first], lr), rest=torch.optim.SGD(rest, lr, momentum=0.9))


def inputs(batch: Any, output: Any) -> dict[str, Any]:
    """Put on record what the model saw."""
    return {"x": batch[0].numpy(), "first": batch[0][:, 0].numpy()}


def distance(preds: Tensor, target: Tensor) -> Tensor:
    """Be a metric that the callback has to evaluate batch by batch."""
    return (preds.softmax(1)[:, 0] - target).abs().mean()


def train(setting: Setting, folder: Path, kill: Kill | None = None) -> None:
    """Train to the end, from the newest checkpoint if there is one, and put down a digest of all that came out."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if setting.example:
        train_example(setting, folder, kill)
        return
    n_operations = hook_files(folder, kill)
    where = folder / "run"
    run = Run.open(where) if (where / "run.json").exists() else Run.create(where)
    best = BestModelCallback("accuracy", mode="max")
    checkpoint = CheckpointCallback(folder / "checkpoints", every=setting.every, metric="accuracy", mode="max")
    schedule = SchedulerCallback(partial(OneCycleLR, max_lr=0.05)) if setting.optimizer == "one-cycle" else None
    average = {"none": None, "ema": EMACallback(0.8), "swa": SWACallback(0.3)}[setting.average]
    precision = MixedPrecisionCallback("fp16", init_scale=2.0**28) if setting.precision == "fp16" else None
    cbs = [
        checkpoint,
        MetricsCallback(accuracy, distance=distance, auroc=MulticlassAUROC(3)),
        best,
        *([AccumulateCallback(setting.accumulate)] if setting.accumulate > 1 else []),
        *([SAMCallback(0.1)] if setting.optimizer == "sam" else []),
        *([LossWeightCallback(weight_of=count_labels)] if setting.weight == "labels" else []),
        *([EpochLengthCallback(train=9, valid=3)] if setting.length == "steps" else []),
        *([schedule] if schedule else []),
        *([average] if average else []),
        *([precision] if precision else []),
        *([CollectCallback([ClassificationMetricsCollector(), inputs])] if setting.length == "epochs" else []),
        RunCallback(run),
        BeforeSave(kill),
        AfterSave(kill),
    ]
    learn = Learner(
        model_of(setting), loaders_of(setting), nn.functional.cross_entropy, 0.02, optimizer_of(setting), cbs=cbs
    )
    learn.fit(**({"steps": 11} if setting.length == "steps" else {"n_epochs": N_EPOCHS}), resume=True)
    if kill and kill.point == "end":
        die()
    parts = {
        "weights and buffers": {**learn.model.state_dict(), **dict(learn.model.named_buffers())},
        "optimizer": learn.opt.state_dict(),
        "schedule": schedule and schedule.scheduler.state_dict(),
        "average": average and average.state_dict(),
        "scale": precision and (precision.state_dict(), learn.n_skipped),
        "counters": (learn.n_steps, learn.n_samples, learn.epoch, learn.lr),
        "history": learn.history.to_dict(),
        "metrics": learn.metrics,
        "best": (learn.best, checkpoint.best),
        "random generators": random_state(learn),
        "samples": samples_on_record(where),
        "scalars": run.logged(),
        "status": run.info["status"],
    }
    best.put_back(learn)
    parts["best weights"] = learn.model.state_dict()
    put_down(parts, folder, n_operations())


def count_labels(learn: Learner) -> Tensor:
    return (learn.yb > 0).sum()


def train_example(setting: Setting, folder: Path, kill: Kill | None) -> None:
    """Train a file of examples/ for two epochs, as `train` does."""
    n_operations = hook_files(folder, kill)
    make_learner = runpy.run_path(str(EXAMPLES / f"{setting.example}.py"))["make_learner"]
    checkpoint = CheckpointCallback(folder / "checkpoints", every=setting.every)
    learn = make_learner(cbs=[checkpoint, BeforeSave(kill), AfterSave(kill)])
    learn.fit(2, resume=True)
    parts = {
        "weights and buffers": learn.model.state_dict(),
        "optimizer": learn.opt.state_dict(),
        "counters": (learn.n_steps, learn.n_skipped, learn.n_samples),
        "history": learn.history.to_dict(),
        "random generators": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
    }
    put_down(parts, folder, n_operations())


def put_down(parts: dict[str, Any], folder: Path, n_operations: int) -> None:
    """Write the digest of what came out, and what was left over."""
    digest = {name: sha256(canonical(part)).hexdigest() for name, part in parts.items()}
    left = [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")]
    told = {"digest": digest, "left over": left, "operations": n_operations}
    (folder / DIGEST).write_text(json.dumps(told), encoding="utf-8")


# -- the digest --------------------------------------------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """Return a value as bytes that differ if any bit of it does."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype}{value.shape}".encode() + value.tobytes()
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: repr(item[0]))
        return b"{%s}" % b",".join(canonical(key) + b":" + canonical(item) for key, item in items)
    if isinstance(value, list | tuple | np.ndarray):
        return b"[%s]" % b",".join(map(canonical, value))
    if not isinstance(value, bool | int | float | str | None):
        raise TypeError(f"there is no digest of {value!r}")
    return repr(value).encode()


def random_state(learn: Learner) -> Any:
    return (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        [getattr(dl.sampler, "generator", None) and dl.sampler.generator.get_state() for dl in learn.dls.values()],
    )


def samples_on_record(run: Path) -> dict[str, Any]:
    """Return the rows of each file, sorted by all columns."""
    found = {}
    for path in sorted(run.glob("*/*.parquet")):
        columns = pq.read_table(path).to_pydict()
        found[path.name] = list(columns), sorted(zip(*columns.values(), strict=True), key=repr)
    return found


# -- where it is killed ------------------------------------------------------------------------------------------------


class Killer(Callback):
    """Kill the process at a point of a batch."""

    def __init__(self, kill: Kill | None) -> None:
        self.kill = kill

    def reach(self, learn: Learner, point: str) -> None:
        if self.kill is None or self.kill.point != point or learn.is_side_pass:
            return
        if learn.epoch * N_BATCHES + (0 if learn.training else N_TRAIN) + learn.i >= self.kill.at:
            die()


class BeforeSave(Killer):
    """Kill it before the checkpoint of a batch is written, when all else of the batch has happened, or earlier."""

    order = CheckpointCallback.order + 1

    def before_batch(self, learn):
        self.reach(learn, "fetched")

    def around_backward(self, learn, action):
        action()
        self.reach(learn, "backward")

    def around_step(self, learn, action):
        action()
        self.reach(learn, "stepped")

    def cleanup_batch(self, learn):
        self.reach(learn, "before the save")


class AfterSave(Killer):
    """Kill it when the copy is taken and the file is being written beside, or when all of a pass has happened."""

    order = CheckpointCallback.order - 1

    def cleanup_batch(self, learn):
        self.reach(learn, "during the save")

    def cleanup_epoch(self, learn):
        self.reach(learn, "after a pass")


def hook_files(folder: Path, kill: Kill | None) -> Any:
    """Kill the process at a point of the writing of a checkpoint, or before any change of files.

    Returns:
        A function that tells how many changes there were.
    """
    n_operations, lock = 0, threading.Lock()
    changes = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.truncate": 0}  # which argument names the file

    def audit(event: str, args: tuple[Any, ...]) -> None:
        nonlocal n_operations
        if event == "open":
            path, mode, flags = args
            is_change = bool(set(mode or "") & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            path, is_change = (args[changes[event]], True) if event in changes else ("", False)
        if is_change and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(str(folder)):
            with lock:
                n_operations += 1
                if kill and kill.point == "operation" and n_operations >= kill.at:
                    die()

    sys.addaudithook(audit)
    if kill and kill.point in FILE_POINTS:
        _hook_writing(kill)
    return lambda: n_operations


def _hook_writing(kill: Kill) -> None:
    real_open, real_fsync, real_replace = io.open, os.fsync, os.replace
    is_meant = False  # whether the checkpoint that is being written is the one

    def open_file(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        nonlocal is_meant
        if mode == "w+b" and (match := re.match(r"step-(\d+)", Path(path).name)):
            is_meant = int(match[1]) >= kill.at
            if is_meant and kill.point == "torn":
                return _TornFile(io.FileIO(path, "w+"), kill.offset)
        return real_open(path, mode, *args, **kwargs)

    def fsync(fd: int) -> None:
        if is_meant and kill.point in ("torn", "written"):
            die()
        real_fsync(fd)
        if is_meant and kill.point == "synced":
            die()

    def replace(old: Any, new: Any, **kwargs: Any) -> None:
        real_replace(old, new, **kwargs)
        if is_meant and kill.point == "renamed" and Path(new).suffix == ".pt":
            die()

    io.open, os.fsync, os.replace = open_file, fsync, replace  # type: ignore[assignment]


class _TornFile(io.BufferedRandom):
    """A file whose process dies in the middle of the writing of it."""

    def __init__(self, raw: io.FileIO, n_left: int) -> None:
        super().__init__(raw)
        self.n_left = n_left

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        if len(data) > self.n_left:
            super().write(data[: self.n_left])
            self.flush()
            die()
        self.n_left -= len(data)
        return super().write(data)


def main(job: str) -> None:
    """Train as a job says: a setting, a folder, and when to be killed, as JSON."""
    torch.set_num_threads(1)
    worker.MP_STATUS_CHECK_INTERVAL = 0.2  # [s] between looks at whether the parent is alive, which is 5 else
    warnings.simplefilter("error")
    setting, folder, kill = json.loads(job)
    train(Setting(*setting), Path(folder), Kill(*kill) if kill else None)


if __name__ == "__main__":
    main(sys.argv[1])
