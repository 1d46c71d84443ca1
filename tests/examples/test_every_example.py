"""What holds for each file of `examples/`: it is short, it starts, it shows something, and it can be killed."""

import importlib
import random
import runpy
from pathlib import Path

import pytest
import torch

from learner.checkpoint.unsaved import unsaved
from tests.resuming import assert_equal_runs, stopped_and_resumed, uninterrupted

FOLDER = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
N_EPOCHS = {"finetune": 12}  # so that it unfreezes; else 2
WITH_STATE = {"gradient_noise"}  # all others need not say what is to be saved


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
def test_it_starts_by_its_name_and_shows_something(name, capsys):
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 5


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
    whole = uninterrupted(make, n_epochs, tmp_path / "whole")
    stop_at = random.Random(name).randrange(1, whole.cbs[-1].n_seen)
    assert_equal_runs(stopped_and_resumed(make, n_epochs, stop_at, tmp_path / "stopped"), whole)


@pytest.mark.parametrize("name", NAMES)
def test_all_that_it_has_is_saved_with_the_learner(name):
    learn = make_learner(name)
    learn.fit(0)
    assert unsaved(learn) == []
    has_state = any(getattr(cb, "state", ()) for cb in learn.cbs if type(cb).__module__.startswith("examples."))
    assert has_state == (name in WITH_STATE)
