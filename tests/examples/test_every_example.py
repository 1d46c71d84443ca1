"""What holds for each file of `examples/`: it is short, it starts, it learns what it should, it can be killed."""

import importlib
import random
import runpy
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt

from learner.checkpoint.unsaved import unsaved
from tests.resuming import assert_equal_runs, stopped_and_resumed, uninterrupted

FOLDER = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
N_EPOCHS = {"finetune": 12}  # so that it unfreezes; else 2
# What each has reached when it ends, by the names that it has then.
REACHED = {
    "actor_critic": lambda end: end["learn"].history[-1]["train/falls_in_1000_steps"] < 5,  # 45 at random
    "classification": lambda end: accuracy_of(end["learn"]) > 0.93,  # 0.1 by chance
    "detection": lambda end: end["learn"].metrics["valid"]["overlap"] > 0.7,  # 0.2 of boxes in the middle
    "diffusion": lambda end: end["images"][-1].abs().mean() < 1 and end["learn"].metrics["train"]["loss"] < 0.3,  # 1
    "distillation": lambda end: accuracy_of(end["alone"]) + 0.05 < accuracy_of(end["taught"]),
    "hugging_face": lambda end: accuracy_of(end["learn"]) > 0.95,  # 0.5 by chance
    "regression": lambda end: end["learn"].metrics["valid"]["loss"] < -0.9,  # 0.1 of one normal distribution
    "self_supervised": lambda end: end["before"]["same_digit"] + 0.1 < end["learn"].metrics["valid"]["same_digit"],
    "text": lambda end: accuracy_of(end["learn"]) > 0.95,  # 0.5 by chance
    "vae": lambda end: end["learn"].metrics["valid"]["loss"] < 26,  # 44 untrained
    "back_in_time": lambda end: end["found"] in end["BROKEN"],
    "bptt": lambda end: end["learn"].metrics["valid"]["loss"] < 2.2,  # 3.2 by how often each character comes
    "finetune": lambda end: accuracy_of(end["scratch"]) < 0.85 < accuracy_of(end["tuned"]),
    "gan": lambda end: distance_of_means(end) < 1.5,  # 5.3 untrained
    "gradient_noise": lambda end: end["columns"][0][-1] < 0.2 < 0.8 < end["columns"][0.1][-1],
    "mean_teacher": lambda end: accuracy_of(end["learn"]) > 0.94,  # 0.88 by labels alone
    "wgan_gp": lambda end: end["learn"].metrics["train"]["distance"] < 0.2,  # 0.9 in the first epoch
}


def accuracy_of(learn):
    return learn.metrics["valid"]["accuracy"]


@torch.no_grad()
def distance_of_means(end):
    """Return how far the mean of what a GAN draws is from the mean of the data."""
    learn = end["learn"]
    fake = learn.model["generator"](torch.randn(500, end["N_NOISE"]))
    return torch.dist(fake.mean(dim=0), learn.dls.train.dataset.tensors[0].mean(dim=0))


def make_learner(name, cbs=()):
    return importlib.import_module(f"examples.{name}").make_learner(cbs=cbs)


@pytest.fixture
def one_thread():
    """Have as many threads afterwards as before, since examples take one."""
    n = torch.get_num_threads()
    yield
    torch.set_num_threads(n)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_at_most_80_lines(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 80


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("one_thread")
def test_it_starts_by_its_name_shows_a_picture_and_has_learned(name, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(map(plt.figure, plt.get_fignums())))
    end = runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 5
    assert len(shown) == 1
    assert all(ax.has_data() for ax in shown[0].axes)
    plt.close(shown[0])
    assert REACHED[name](end)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_learner_is_made_each_time(name):
    one, two = (make_learner(name).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("one_thread")
def test_it_is_killed_at_any_batch_and_goes_on_bit_for_bit(name, tmp_path):
    def make(cbs):
        return make_learner(name, cbs)

    torch.set_num_threads(1)
    n_epochs = N_EPOCHS.get(name, 2)
    whole = uninterrupted(make, n_epochs, tmp_path / "whole", every=3)
    n = whole.cbs[-1].n_seen
    stop_at = random.Random(name).randrange(2 * n // 3, n)  # in the last epochs, so that it goes on in the middle
    assert_equal_runs(stopped_and_resumed(make, n_epochs, stop_at, tmp_path / "stopped", every=3), whole)


@pytest.mark.parametrize("name", NAMES)
def test_all_that_it_has_is_saved_with_the_learner(name):
    learn = make_learner(name)
    learn.fit(0)
    assert unsaved(learn) == []
    own = [cb for cb in learn.cbs if type(cb).__module__.startswith("examples.")]
    assert not any(getattr(cb, "state", ()) for cb in own)  # without a word about it
