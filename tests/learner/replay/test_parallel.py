"""What callbacks record in several processes at once is what they record in one."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from callbacks import (
    ActivationStats,
    CheckpointCallback,
    GradientStats,
    LambdaCallback,
    ProgressCallback,
    RecorderCallback,
    SchedulerCallback,
    SelfCheckCallback,
)
from learner import Callback, LearnerError
from learner.__main__ import main
from learner.checkpoint.losses import LossFile
from learner.replay import load_recorded, parallel, parallel_hindsight
from learner.replay.find import Checkpoints
from tests.resuming import tiny_learner
from tests.rewinding import listing

FOLDER = "FOLDER_OF_THE_TEST"


def make_learner(*cbs):
    """Return a learner, in each process the same one; the environment says where its checkpoints are."""
    torch.set_num_threads(1)  # as in this process
    schedule = SchedulerCallback(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.05))
    return tiny_learner([CheckpointCallback(os.environ[FOLDER], every=4, keep="all"), schedule, *cbs])


class Norms(Callback):
    """One's own callback, with one's own way of joining."""

    state = ("norms",)

    def __init__(self):
        self.norms = []

    def after_backward(self, learn):
        self.norms.append(float(learn.model[0].weight.grad.norm()))

    def join_parts(self, states):
        return {"norms": [norm for state in states for norm in state["norms"]]}


def look():
    recorder = RecorderCallback(loss=lambda learn: learn.loss, lr=lambda learn: learn.opt.param_groups[0]["lr"])
    return [recorder, ActivationStats(hist_every=3), [GradientStats(hist_every=3), Norms()], SelfCheckCallback(1)]


def look_elsewhere():
    return Norms()


def not_joined():
    return [ActivationStats(), ProgressCallback()]


def keeps_nothing():
    return LambdaCallback(after_batch=print)


def nothing():
    return []


def of_another_training():
    torch.set_num_threads(1)
    return tiny_learner([CheckpointCallback(os.environ[FOLDER])], opt_func=torch.optim.SGD)


def no_learner():
    return torch.nn.Linear(1, 1)


def dies():
    os._exit(3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder of checkpoints after 0, 4, 8, 12, 16 and 18 steps of 3 epochs."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "run"))
    make_learner().fit(3)
    return tmp_path / "run"


def test_it_is_what_one_process_records(folder):
    """The parts begin at step 5, whose checkpoint is that of step 4, and at 8; a difference is told."""
    alone = look()
    make_learner().hindsight(folder, alone, slice(5, 17))
    file = LossFile(folder)
    losses = file.read().tolist()
    file.write(0, [*losses[:13], losses[13] + 1, *losses[14:]])
    before = listing(folder)
    with pytest.warns(RuntimeWarning, match="the loss differs from batch 1 of epoch 2 on"):
        together = parallel_hindsight(make_learner, folder, look, slice(5, 17))
    assert together[0].values == alone[0].values
    assert len(together[0].values["loss"]) == 12
    for kind in (0, 1):
        mine, theirs = together[1].layer("0"), alone[1].layer("0")
        assert torch.equal(mine[kind], theirs[kind])
    assert together[1].to_pandas()[["epoch", "batch"]].equals(alone[1].to_pandas()[["epoch", "batch"]])
    assert torch.equal(together[2].parameter("0.weight").update, alone[2][0].parameter("0.weight").update)
    assert together[3].norms == alone[2][1].norms
    assert together[4].n_checked == alone[3].n_checked == 12
    assert listing(folder) == before


def test_a_shell_can_do_it(folder, tmp_path, capsys, monkeypatch):
    """The same, but that a thread takes the place of processes, which take seconds to begin."""
    alone = look()
    make_learner().hindsight(folder, alone, slice(5, 17))
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", lambda n, context: ThreadPoolExecutor(1))
    out = tmp_path / "recorded.pt"
    names = [f"{__file__}:make_learner", str(folder), f"{__file__}:look"]
    main(["hindsight", *names, "--steps", "5:17", "--processes", "3", "--out", str(out)])
    assert capsys.readouterr().out == f"{out}\n"
    again = load_recorded(out, look())
    assert again[0].values == alone[0].values
    assert again[3].norms == alone[2][1].norms


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"make_learner": "make"}, TypeError, "`make_learner` must be a function, got 'make'"),
        ({"make_cbs": lambda: None}, ValueError, "`make_cbs` must be a function at the top level of a file"),
        ({"make_cbs": nothing}, LearnerError, "`make_cbs` must return a callback at least, got none"),
        ({"make_cbs": not_joined}, LearnerError, r"but ProgressCallback has no `join_parts\(states\)`; do it in one"),
        ({"make_cbs": keeps_nothing}, LearnerError, "LambdaCallback has no `state`, nor a `state_dict`"),
        ({"n_processes": 0}, ValueError, "`n_processes` must be at least 1, got 0"),
        ({"n_processes": 1.5}, TypeError, "`n_processes` must be a whole number"),
        ({"steps": (5, 17)}, TypeError, r"`steps` must be a slice, got \(5, 17\)"),
        ({"steps": slice(9, 9)}, ValueError, "`steps` must hold a step at least"),
        ({"path": "nowhere"}, LearnerError, "`path` must be a checkpoint or a folder that has some"),
    ],
)
def test_what_cannot_be_is_one_error_before_a_process_begins(folder, arguments, error, words, monkeypatch):
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", None)
    usual = {"make_learner": make_learner, "path": folder, "make_cbs": look, "steps": slice(5, 17)}
    with pytest.raises(error, match=words):
        parallel_hindsight(**{**usual, **arguments})


def test_steps_before_the_first_checkpoint_are_one_error(folder):
    for file in sorted(folder.glob("*.pt"))[:2]:
        file.unlink()
    with pytest.raises(
        LearnerError, match=r"`steps.start=5` must not be before the first checkpoint, step-00000008.pt"
    ):
        parallel_hindsight(make_learner, folder, look, slice(5, 17))


def test_what_fails_is_told_with_its_part(folder, tmp_path):
    with pytest.raises(LearnerError, match="the learner must have the callbacks that trained") as caught:
        parallel.record_part(of_another_training, folder, look, slice(8, None), tmp_path / "part.pt")
    assert caught.value.__notes__ == ["in the part from step 8 to the end"]
    with pytest.raises(TypeError, match="`make_learner` must return a Learner, got Linear"):
        parallel.record_part(no_learner, folder, look, slice(8, 9), tmp_path / "part.pt")


def test_a_process_that_dies_is_told(folder):
    with pytest.raises(LearnerError, match="each process must live until its part is done, but one has ended before"):
        parallel_hindsight(dies, folder, look, slice(8, 9), n_processes=1)


def test_the_parts_begin_at_checkpoints_and_are_about_equal(folder):
    def parts(steps, n):
        return [(part.start, part.stop) for part in parallel.parts_of(Checkpoints(folder), steps, n)]

    assert parts(slice(5, 17), 3) == [(5, 8), (8, 12), (12, 17)]
    assert parts(slice(5, 17), 1) == [(5, 17)]
    assert parts(slice(None, None), 2) == [(0, 8), (8, None)]
    assert parts(slice(9, 11), 4) == [(9, 11)]
    assert parts(slice(8, 16), 5) == [(8, 12), (12, 16)]
    assert parts(slice(18, None), 2) == [(18, None)]  # which then is told to have no batch
