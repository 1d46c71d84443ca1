"""The contract that every callback keeps: it leaves no trace, starts clean, can be gone on with, and is documented.

A new callback needs an entry in `MAKE` and one in `READ`; one that only looks at training goes into `OBSERVERS` too.
"""

import ast
import copy
import gc
import inspect
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

import callbacks
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Learner,
    Loaders,
)
from learner.records.run import Run
from tests.callbacks.loggers.services import (
    InMemory,
    make_mlflow,
    make_tensorboard,
    make_trackio,
    read_mlflow,
    read_tensorboard,
    read_trackio,
)
from tests.resuming import assert_equal_runs, differing, stopped_and_resumed, uninterrupted

MAKE: dict[str, Callable[[Path], Any]] = {
    "AccumulateCallback": lambda folder: callbacks.AccumulateCallback(2),
    "ActivationStats": lambda folder: callbacks.ActivationStats(),
    "BatchTransformCallback": lambda folder: callbacks.BatchTransformCallback(add_noise),
    "BestModelCallback": lambda folder: callbacks.BestModelCallback(),
    "CSVLoggerCallback": lambda folder: callbacks.CSVLoggerCallback(folder / "log.csv"),
    "CheckpointCallback": lambda folder: callbacks.CheckpointCallback(folder / "checkpoints"),
    "ClipGradientCallback": lambda folder: callbacks.ClipGradientCallback(1.0),
    "CollectCallback": lambda folder: callbacks.CollectCallback(callbacks.ClassificationMetricsCollector()),
    "CutMix": lambda folder: callbacks.CutMix(1.0),
    "CompileCallback": lambda folder: callbacks.CompileCallback(),
    "DeviceCallback": lambda folder: callbacks.DeviceCallback("cpu"),
    "DistributedCallback": lambda folder: callbacks.DistributedCallback(),
    "EMACallback": lambda folder: callbacks.EMACallback(0.9),
    "EarlyStoppingCallback": lambda folder: callbacks.EarlyStoppingCallback(patience=1),
    "FreezeCallback": lambda folder: callbacks.FreezeCallback("0", 1, until=1),
    "GradientStats": lambda folder: callbacks.GradientStats(),
    "HooksCallback": lambda folder: callbacks.HooksCallback(look_at_output),
    "EpochLengthCallback": lambda folder: callbacks.EpochLengthCallback(train=3, valid=2),
    "LRFinderCallback": lambda folder: callbacks.LRFinderCallback(),
    "LambdaCallback": lambda folder: callbacks.LambdaCallback(after_batch=lambda learn: None),
    "LoggerCallback": lambda folder: callbacks.LoggerCallback(InMemory()),
    "LossWeightCallback": lambda folder: callbacks.LossWeightCallback(weight_of=lambda learn: learn.batch_size),
    "MLflowCallback": make_mlflow,
    "MetricsCallback": lambda folder: callbacks.MetricsCallback(accuracy=callbacks.accuracy),
    "MixedPrecisionCallback": lambda folder: callbacks.MixedPrecisionCallback("fp16", init_scale=2.0**20),
    "MixUp": lambda folder: callbacks.MixUp(0.4),
    "NaNReportCallback": lambda folder: callbacks.NaNReportCallback(folder / "nan_report.pt"),
    "OverfitCallback": lambda folder: callbacks.OverfitCallback(train=2, valid=2),
    "ProfilerCallback": lambda folder: callbacks.ProfilerCallback(folder / "trace.json"),
    "ProgressCallback": lambda folder: callbacks.ProgressCallback(),
    "ProgressiveResize": lambda folder: callbacks.ProgressiveResize(multiple=1),
    "RecoverCallback": lambda folder: callbacks.RecoverCallback(),
    "RecorderCallback": lambda folder: callbacks.RecorderCallback(lr=lambda learn: learn.opt.param_groups[0]["lr"]),
    "RunCallback": lambda folder: callbacks.RunCallback(Run.create(tempfile.mkdtemp(dir=folder.parent))),
    "SAMCallback": lambda folder: callbacks.SAMCallback(0.05),
    "SWACallback": lambda folder: callbacks.SWACallback(0.4),
    "ShardCallback": lambda folder: callbacks.ShardCallback(["0", "4"]),  # in one process; several: see there
    "SchedulerCallback": lambda folder: callbacks.SchedulerCallback(
        partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1)
    ),
    "SeedCallback": lambda folder: callbacks.SeedCallback(1),
    "SelfCheckCallback": lambda folder: callbacks.SelfCheckCallback(every=2),
    "TensorBoardCallback": make_tensorboard,
    "TerminateOnNaNCallback": lambda folder: callbacks.TerminateOnNaNCallback(),
    "TrackioCallback": make_trackio,
    "ValidateCallback": lambda folder: callbacks.ValidateCallback(every=2),
    "WandbCallback": lambda folder: callbacks.WandbCallback(mode="disabled"),  # to begin and end runs takes a second
}
OBSERVERS = [
    "ActivationStats",
    "BestModelCallback",
    "CSVLoggerCallback",
    "CollectCallback",
    "DeviceCallback",  # here the model is on its device already
    "EMACallback",
    "GradientStats",
    "HooksCallback",
    "LambdaCallback",
    "LoggerCallback",
    "MLflowCallback",
    "MetricsCallback",
    "NaNReportCallback",
    "ProfilerCallback",
    "ProgressCallback",
    "RecorderCallback",
    "RunCallback",
    "SelfCheckCallback",
    "TensorBoardCallback",
    "TerminateOnNaNCallback",
    "TrackioCallback",
    "ValidateCallback",
    "WandbCallback",
]
# What a person reads from a callback after a fit, as plain data; of those that are not here there is nothing to read.
READ: dict[str, Callable[[Any], Any]] = {
    "ActivationStats": lambda cb: (rows_of(cb), {name: cb.layer(name) for name in cb.layers}),
    "BestModelCallback": lambda cb: cb.best,
    "CSVLoggerCallback": lambda cb: cb.path.read_bytes(),
    "CollectCallback": lambda cb: columns_of(cb.samples),
    "EMACallback": lambda cb: (cb.n_updates, cb.average),
    "EarlyStoppingCallback": lambda cb: (cb.best, cb.stopped_epoch),
    "GradientStats": lambda cb: (rows_of(cb), {name: cb.parameter(name) for name in cb.names}),
    "HooksCallback": lambda cb: [hook.total for hook in cb.hooks],
    "LRFinderCallback": lambda cb: (cb.result.lrs, cb.result.losses),
    "MLflowCallback": lambda cb: sorted_scalars(read_mlflow(None, cb)),
    "MixedPrecisionCallback": lambda cb: cb.scale,
    "NaNReportCallback": lambda cb: cb.report,
    "RecorderCallback": lambda cb: cb.values,
    "RecoverCallback": lambda cb: cb.recoveries,
    "RunCallback": lambda cb: (cb.run.scalars(), cb.run.info["status"], cb.run.info["error"], cb.run.info["learner"]),
    "SWACallback": lambda cb: (cb.n_updates, cb.average),
    "SelfCheckCallback": lambda cb: (cb.n_checked, cb.faults),
    "TensorBoardCallback": lambda cb: sorted_scalars(read_tensorboard(cb.logger.path.parent, cb)),
    "TerminateOnNaNCallback": lambda cb: cb.first_bad,
    "TrackioCallback": lambda cb: sorted_scalars(read_trackio(None, cb)),
    "ValidateCallback": lambda cb: cb.rows,
}
NOTHING_TO_READ = [
    "AccumulateCallback",
    "BatchTransformCallback",
    "CheckpointCallback",  # its files, which is what each of these tests is about
    "ClipGradientCallback",
    "CompileCallback",
    "CutMix",
    "DeviceCallback",
    "DistributedCallback",  # here without other processes
    "EpochLengthCallback",  # but which batches come, which is compared
    "FreezeCallback",  # but what trains, which is compared
    "LambdaCallback",
    "LoggerCallback",  # but what its service has, see there
    "LossWeightCallback",
    "MetricsCallback",  # but what is in the history
    "MixUp",
    "OverfitCallback",
    "ProfilerCallback",  # but its files
    "ProgressCallback",  # but what it shows, see there
    "ProgressiveResize",
    "SAMCallback",
    "SchedulerCallback",  # but the learning rate, which the optimizer has
    "SeedCallback",
    "ShardCallback",  # but the job, which is of one process here
    "WandbCallback",  # as for any logger
]
# How much of a prediction a callback may change, relative to it; 0 for those that are not here.
ROUNDING = {"MixedPrecisionCallback": 1e-2}
OF_PICTURES = ["CutMix", "ProgressiveResize"]
MAKE_FOR_A_STOP = {
    **MAKE,
    "CollectCallback": lambda folder: callbacks.CollectCallback(
        callbacks.ClassificationMetricsCollector(), run=run_in(folder)
    ),
    "EpochLengthCallback": lambda folder: callbacks.EpochLengthCallback(train=3, valid=2),
    "LRFinderCallback": lambda folder: callbacks.LRFinderCallback(n=14),
    "RunCallback": lambda folder: callbacks.RunCallback(run_in(folder)),
}
# An epoch has 3 batches that train and 2 of validation. An error leaves the checkpoint of the training batch before,
# an interrupt one of the batch itself.
STOPS = {
    "in the first epoch": (1, False),
    "after the last batch of an epoch": (4, True),
    "at the last batch that trains": (7, False),
    "after the last batch that trains": (7, True),
    "in a validation": (9, False),
    "after a batch of a validation": (8, True),
    "in the last epoch": (11, False),
}
CLASSES = {name: getattr(callbacks, name) for name in callbacks.__all__}
CLASSES = {name: cls for name, cls in CLASSES.items() if inspect.isclass(cls) and issubclass(cls, Callback)}

STEP_PLACES = [("after_predict", "train"), ("after_step", "train"), ("after_loss", "valid")]
BATCH_PLACES = [*STEP_PLACES, ("before_batch", "train"), ("after_batch", "train")]
EPOCH_PLACES = [*STEP_PLACES, ("before_epoch", "train"), ("after_epoch", "valid")]
FIT_PLACES = [*EPOCH_PLACES, ("before_fit", None), ("after_fit", None)]
ENDS = [
    *((CancelStepException, place) for place in STEP_PLACES),
    *((CancelBatchException, place) for place in BATCH_PLACES),
    *((CancelEpochException, place) for place in EPOCH_PLACES),
    *((CancelFitException, place) for place in FIT_PLACES),
    *((KeyError, place) for place in FIT_PLACES),
    *((KeyboardInterrupt, place) for place in STEP_PLACES),
]


def add_noise(batch, generator):
    return batch[0] + torch.randn(batch[0].shape, generator=generator), batch[1]


def look_at_output(hook, module, inputs, output):
    hook.total = getattr(hook, "total", 0) + output.detach().sum()


class EndAt(Callback):
    """Raise an error at a signal, when every other callback has had its turn."""

    order = 1000

    def __init__(self, error, place):
        self.error, (signal, self.dl_name) = error, place
        self.has_come = False
        setattr(self, signal, self.end)

    def end(self, learn):
        is_elsewhere = learn.i == 0 and learn.batch is not None  # in a batch, wait for the second one
        if self.dl_name in (None, learn.dl_name) and not is_elsewhere:
            self.has_come = True
            raise self.error("on purpose")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Run graphs as they are: to compile one takes seconds."""
    monkeypatch.setattr("callbacks.speed.compile.compile_graph", lambda graph, *_: graph.forward)


@pytest.fixture(params=MAKE)
def name(request):
    return request.param


@pytest.fixture
def make(name, tmp_path, monkeypatch):
    """Return a function that makes the callback; what it may write goes to an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(MAKE[name], tmp_path)


@pytest.fixture
def dls(dls: Loaders, name: str) -> Loaders:
    """Return rows of numbers, or pictures of these for a callback that takes nothing else."""
    if name not in OF_PICTURES:
        return dls
    parts = {key: default_collate(list(loader.dataset)) for key, loader in dls.items()}
    return Loaders.from_arrays(**{key: (x.view(-1, 1, 2, 2), y) for key, (x, y) in parts.items()}, batch_size=16)


@pytest.fixture
def learn(dls: Loaders) -> Learner:
    return new_learner(dls)


def new_learner(dls: Loaders, cbs: Any = None) -> Learner:
    """Return a learner whose training draws random numbers, and whose modes are not all alike."""
    torch.manual_seed(0)
    rows, pictures = nn.Linear(4, 8), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 8))
    first = rows if dls["train"].dataset[0][0].ndim == 1 else pictures
    model = nn.Sequential(first, nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))
    model[1].eval()
    return Learner(model, dls, nn.functional.cross_entropy, lr=0.05, cbs=cbs)


def weights(learn: Learner) -> torch.Tensor:
    return nn.utils.parameters_to_vector(learn.model.parameters()).detach().clone()


def traces(learn: Learner) -> dict[str, Any]:
    """Return all that a callback might have forgotten to put back."""
    modules = list(learn.model.modules())
    hook_tables = [key for key in vars(nn.Module()) if key.endswith("_hooks")]
    return {
        "hooks on the model": [{key: len(vars(module)[key]) for key in hook_tables} for module in modules],
        "train/eval flags": [module.training for module in modules],
        "requires_grad": [p.requires_grad for p in learn.model.parameters()],
        "gradients": [p.grad is None for p in learn.model.parameters()],
        "grad mode": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "attributes of the learner": sorted(vars(learn)),
        "parts of the learner": [learn.model, learn.dls, learn.loss_f, learn.opt_func, learn.opt, learn.predictor],
        "callbacks": list(learn.cbs),
        "types": [type(learn.epochs), type(learn.metrics), type(learn.history), type(learn.lr)],
        "flags": (learn.batches_per_step, learn.in_sandbox),
        "methods of the model": [sorted(key for key in vars(m) if callable(vars(m)[key])) for m in modules],
        "methods of the optimizer": sorted(key for key, value in vars(learn.opt).items() if callable(value)),
        "hooks of the optimizer": [len(v) for k, v in sorted(vars(learn.opt).items()) if k.endswith("_hooks")],
    }


def test_every_callback_has_an_entry():
    assert sorted(MAKE) == sorted(CLASSES)


@pytest.mark.parametrize(
    ("error", "place"), ENDS, ids=lambda value: value.__name__ if inspect.isclass(value) else "-".join(map(str, value))
)
def test_it_leaves_no_trace_however_the_fit_ends(learn, name, make, error, place):
    learn.fit(0)  # makes the optimizer
    before, cb, end = traces(learn), make(), EndAt(error, place)
    raised = None
    try:
        learn.fit(2, cbs=[cb, end])
    except (KeyError, KeyboardInterrupt) as what:
        raised = type(what)
    assert raised is (error if end.has_come and error in (KeyError, KeyboardInterrupt) else None)
    assert end.has_come or name == "LRFinderCallback"  # which trains alone, and ends the fit itself
    assert traces(learn) == before
    learn.fit(1, cbs=cb)  # the same callback, after all that
    assert traces(learn) == before


def test_it_leaves_no_trace_when_all_goes_well(learn, make):
    learn.fit(1)
    before, cb = traces(learn), make()
    learn.fit(2, cbs=cb)
    assert traces(learn) == before
    learn.fit(1, cbs=cb)
    assert traces(learn) == before


def test_a_second_fit_starts_clean(dls, make):
    """A callback that has seen a fit does in the next one what a new one does."""
    used = make()
    new_learner(dls, used).fit(2)
    again, fresh = new_learner(dls, used), new_learner(dls, make())
    for learn in (again, fresh):
        torch.manual_seed(1)
        learn.fit(2)
    assert torch.equal(weights(again), weights(fresh))
    assert again.history.to_dict() == fresh.history.to_dict()


@pytest.fixture(scope="module")
def whole_runs():
    """Runs that were not stopped, by callback: the learner, and what is to be read."""
    return {}


@pytest.mark.parametrize(("stop_at", "by_interrupt"), STOPS.values(), ids=STOPS)
def test_a_fit_that_was_stopped_ends_as_one_that_was_not(dls, name, tmp_path, whole_runs, stop_at, by_interrupt):
    """Weights, optimizer, history, random generators, and what is to be read from the callback: bit for bit."""
    made = []

    def make(cbs):
        if name != "CheckpointCallback":  # which is there anyway
            made.append(MAKE_FOR_A_STOP[name](tmp_path))
        return new_learner(dls, [*cbs, *made[-1:]])

    def read():
        return READ[name](made[-1]) if name in READ else None

    if name not in whole_runs:
        whole_runs[name] = uninterrupted(make, 3, tmp_path / "kept"), read()
        tmp_path /= "again"
        tmp_path.mkdir()
    resumed = stopped_and_resumed(make, 3, stop_at, tmp_path / "kept", by_interrupt=by_interrupt)
    whole, read_from_whole = whole_runs[name]
    assert_equal_runs(resumed, whole)
    assert differing(read(), read_from_whole) == []


def run_in(folder: Path) -> Run:
    """Return the run in a folder, opened again if it is there."""
    path = folder / "run"
    return Run.open(path) if path.exists() else Run.create(path)


def rows_of(stats: Any) -> dict[str, list[Any]]:
    return stats.to_pandas().drop(columns="hist").to_dict("list")


def sorted_scalars(seen: Any) -> dict[str, list[Any]]:
    return {name: sorted(map(list, points)) for name, points in seen.scalars.items()}


def columns_of(samples: Any) -> dict[str, list[Any]]:
    return {name: samples.numpy(name).tolist() for name in samples.columns}


def test_what_is_to_be_read_of_every_callback_is_compared():
    assert sorted([*READ, *NOTHING_TO_READ]) == sorted(MAKE)


@pytest.mark.parametrize("name", OBSERVERS)
def test_looking_changes_nothing(dls, name, make):
    alone, watched = new_learner(dls), new_learner(dls, make())
    states = []
    for learn in (alone, watched):
        torch.manual_seed(1)
        learn.fit(2)
        states.append(torch.get_rng_state())
    assert torch.equal(weights(alone), weights(watched))
    assert torch.equal(*states)


def test_passes_outside_of_a_fit_work(dls, name, make):
    """`validate` and `get_preds` emit signals of epochs and batches alone; nothing of a fit may be relied on."""
    alone, learn = new_learner(dls), new_learner(dls, make())
    rounding = ROUNDING.get(name, 0.0)
    assert learn.validate()["loss"] == pytest.approx(alone.validate()["loss"], rel=rounding, abs=0)
    assert torch.allclose(learn.get_preds()[0], alone.get_preds()[0], rtol=rounding, atol=rounding)
    learn.fit(1)
    learn.validate()


def test_a_sandbox_holds(dls, make, tmp_path, capsys):
    learn = new_learner(dls, make())
    before = weights(learn)
    with learn.sandbox():
        learn.fit(1)
    assert torch.equal(weights(learn), before)
    assert (os.listdir(tmp_path), capsys.readouterr().out, len(learn.history)) == ([], "", 0)


def test_the_model_can_be_copied_and_pickled_after_a_fit(learn, make):
    learn.fit(1, cbs=make())
    x = next(iter(learn.dls["valid"]))[0]
    learn.model.eval()
    for model in (copy.deepcopy(learn.model), pickle.loads(pickle.dumps(learn.model))):
        assert torch.equal(model(x), learn.model(x))


def test_it_does_not_keep_the_learner_alive(dls, make):
    learn, cb = new_learner(dls), make()
    learn.fit(1, cbs=cb)
    gone = weakref.ref(learn)
    del learn
    gc.collect()
    assert gone() is None, cb


def test_it_is_documented(name):
    doc = vars(CLASSES[name])["__doc__"] or ""
    assert "Example:" in doc
    assert ">>>" in doc
    for attribute, value in vars(CLASSES[name]).items():
        if inspect.isfunction(value) and not attribute.startswith("_"):
            assert value.__doc__, f"{name}.{attribute}"


def test_its_file_can_be_read_at_once_and_has_a_test_file(name):
    file = Path(inspect.getfile(CLASSES[name]))
    room = file.parent.relative_to(Path(callbacks.__file__).parent)
    assert (Path(__file__).parent / room / f"test_{file.name}").is_file()
    assert count_code_lines(file) <= 210  # about 150 is the aim


def count_code_lines(file: Path) -> int:
    """Count the lines that hold code: no blanks, comments or docstrings."""
    tree = ast.parse(file.read_text())
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [node.body[0] for node in ast.walk(tree) if isinstance(node, holders) and ast.get_docstring(node)]
    skipped = {i for doc in docs for i in range(doc.lineno, doc.end_lineno + 1)}
    lines = enumerate(file.read_text().splitlines(), start=1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and i not in skipped for i, line in lines)


def test_who_promises_to_observe_is_looked_at():
    """By `test_looking_changes_nothing`."""
    assert {name for name in MAKE if getattr(callbacks, name).is_observer} <= set(OBSERVERS)
