"""The protocol, over each of the services: what one is sent is what it has."""

import io
import math
from functools import partial

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from callbacks import ValidateCallback
from callbacks.loggers.logger import Names, imported
from learner import Callback
from tests.callbacks.loggers.services import SERVICES
from tests.resuming import resumed, stopped, tiny_learner, uninterrupted


@pytest.fixture(params=SERVICES)
def service(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return request.param


@pytest.fixture
def make(service, tmp_path):
    return partial(SERVICES[service][0], tmp_path)


@pytest.fixture
def read(service, tmp_path):
    return partial(SERVICES[service][1], tmp_path)


class Sends(Callback):
    """Send one of each kind from within the fit."""

    order = 200

    def __init__(self, logger, path):
        self.logger, self.path = logger, path

    def after_fit(self, learn):
        self.logger.log({"top 5 (%)/größe 训": 5, "step": math.nan, "large": math.inf})
        figure = Figure()
        figure.subplots().plot([1, 2])
        self.logger.log_figure("charts/größe", figure)
        self.logger.log_text("notes", "a <b> & ü")
        self.logger.log_file(self.path)


class FiguresOf(Callback):
    def figures(self):
        from matplotlib import pyplot as plt

        return {"of_callback": plt.figure()}


def test_what_a_service_is_sent_is_what_it_has(service, make, read, make_learner, tmp_path):
    notes = tmp_path / "notes.md"
    notes.write_text("a note")
    logger = make(config={"width": 8, "sizes": [1, 2], "name": "größe"})
    learn = make_learner([logger, Sends(logger, notes), FiguresOf(), ValidateCallback(every=2)])
    losses = []
    learn.add_cb(Losses(losses))
    learn.fit(2)
    seen = read(logger)
    in_float32 = np.float32 if service == "tensorboard" else float
    for name in ("train/loss", "valid/loss"):
        rows = [(3, learn.history[0][name]), (6, learn.history[1][name])]
        between = learn.cbs[[type(cb) for cb in learn.cbs].index(ValidateCallback)].rows
        found = sorted({*rows, *((n, metrics["loss"]) for n, metrics in between if name == "valid/loss")})
        assert sorted(set(seen.scalars[name])) == [(step, in_float32(value)) for step, value in found]
    assert seen.scalars["epoch"] == [(3, 0.0), (6, 1.0)]
    assert seen.scalars["train/batch_loss"] == [(i + 1, in_float32(loss)) for i, loss in enumerate(losses)]
    assert seen.scalars["lr"] == [(i + 1, in_float32(0.1)) for i in range(6)]
    assert seen.scalars["top 5 ___/größe 训" if service == "mlflow" else "top 5 (%)/größe 训"] == [(6, 5.0)]
    (nan,) = seen.scalars["metric_step" if service == "trackio" else "step"]
    assert math.isnan(nan[1])
    (inf,) = seen.scalars["large"]
    assert inf[1] == (math.inf if service != "mlflow" else 1.7976931348623157e308)  # the largest that a database has
    sizes = "[1, 2]" if service == "mlflow" else [1, 2]
    assert seen.config == {"width": "8" if service == "mlflow" else 8, "sizes": sizes, "name": "größe"}
    assert "Linear(in_features=4" in seen.texts["model"]
    assert "ü" in seen.texts["notes"]
    assert seen.figures == {"charts/größe", "of_callback"}
    assert seen.files == {"notes.md": "a note"}
    assert seen.end == "finished"


class Losses(Callback):
    order = 99

    def __init__(self, losses):
        self.losses = losses

    def after_backward(self, learn):
        self.losses.append(learn.loss.item())


class Fails(Callback):
    def __init__(self, error):
        self.error = error

    def before_batch(self, learn):
        if learn.epoch == 1 and learn.training and learn.i == 2:
            raise self.error


@pytest.mark.parametrize(
    ("error", "end"), [(KeyError("mine"), "failed: KeyError: 'mine'"), (KeyboardInterrupt("mine"), "interrupted")]
)
def test_the_last_values_and_the_reason_are_there_after_an_error(make, read, make_learner, error, end):
    logger = make()
    learn = make_learner([logger, Fails(error), FiguresOf()])
    with pytest.raises(type(error), match="mine"):
        learn.fit(3)
    seen = read(logger)
    assert seen.end == end
    assert [step for step, _ in seen.scalars["train/batch_loss"]] == [1, 2, 3, 4, 5]
    assert [step for step, _ in seen.scalars["train/loss"]] == [3]
    assert seen.figures == set()


@pytest.mark.parametrize(("every", "stop_at", "by_interrupt"), [(1, 13, False), ("epoch", 9, False), (2, 13, True)])
def test_a_fit_that_was_stopped_leaves_what_one_leaves_that_was_not(make, read, tmp_path, every, stop_at, by_interrupt):
    """Epochs are of 6 + 3 batches. What was sent after the checkpoint comes again, and is there once."""
    loggers = []

    def learner(cbs):
        loggers.append(make())
        return tiny_learner([loggers[-1], ValidateCallback(every=4), *cbs])

    uninterrupted(learner, 3, tmp_path / "whole", every)
    whole = read(loggers[-1])
    stopped(learner, 3, stop_at, tmp_path / "kept", every, by_interrupt)
    resumed(learner, 3, tmp_path / "kept", every)
    assert loggers[2].run_id == loggers[1].run_id
    seen = read(loggers[-1])
    assert (
        seen.scalars.keys() == whole.scalars.keys() == {"train/batch_loss", "lr", "epoch", "train/loss", "valid/loss"}
    )
    for name, points in seen.scalars.items():
        assert sorted(points) == sorted(whole.scalars[name]), name
    assert seen.end == "finished"


def test_later_fits_go_on_with_the_run_and_another_learner_begins_one(make, read, make_learner):
    logger = make()
    learn = make_learner(logger)
    learn.fit(1)
    first = logger.run_id
    learn.fit(1)
    assert logger.run_id == first
    assert [step for step, _ in read(logger).scalars["train/loss"]] == [3, 6]
    make_learner(logger).fit(1)
    assert [step for step, _ in read(logger).scalars["train/loss"]] == [3]


def test_no_random_number_of_the_training_is_drawn(make, make_learner):
    import random

    random.seed(0)
    before = random.getstate()
    make_learner(make()).fit(1)
    assert random.getstate() == before


def test_names_are_told_apart():
    names = Names(str.lower)
    assert [names["A"], names["a"], names["A"]] == ["a", "a_", "a"]


def test_a_package_that_is_missing_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r'`wandb` must be installed; do `pip install "learner-callbacks\[wandb\]"`'):
        imported("no_such_module", "wandb")


def test_the_picture_that_is_sent_is_a_png(make_learner, tmp_path):
    logger = SERVICES["memory"][0](tmp_path)
    make_learner([logger, FiguresOf()]).fit(1)
    assert Image.open(io.BytesIO(logger.logger.figures["of_callback"])).format == "PNG"
