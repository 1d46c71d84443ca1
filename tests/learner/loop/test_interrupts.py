"""Ctrl-C and SIGTERM at every place of a fit: what is done, what is written, and how it goes on."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from jupyter_client import KernelManager
from torch import nn
from torch.utils.data import DataLoader, Dataset

from callbacks import CheckpointCallback, ValidateCallback
from learner import Callback, CancelBatchException, CancelFitException, Learner
from learner.loop.interrupts import deferred_interrupts
from tests.resuming import assert_equal_runs, resumed, seed_all, uninterrupted

ROOT = Path(__file__).parents[3]
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
RAISED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}
N_EPOCHS, N_TRAIN, N_VALID = 2, 3, 2  # batches


@pytest.fixture(autouse=True)
def _same_handlers():
    """Have every test, however it goes, leave the handlers as they were."""
    former = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    assert {number: signal.getsignal(number) for number in NUMBERS} == former


class Send(Callback):
    """Send a signal to this process when it comes to a place for the n-th time, from 0; do it there and then.

    Places are the signals of a callback, and what calls this object with a name of its own.
    """

    def __init__(self, place=None, n=0, number=signal.SIGINT):
        self.place, self.n, self.number, self.n_seen = place, n, number, 0
        if hasattr(Callback, str(place)):
            setattr(self, place, lambda learn: self(place))

    def __call__(self, place):
        if place == self.place:
            self.n_seen += 1
            if self.n_seen == self.n + 1:
                signal.raise_signal(self.number)

    def state_dict(self):
        """Return nothing; it is asked for when a checkpoint is made."""
        self("save")
        return {}

    def load_state_dict(self, state):
        """Take over nothing."""


class Log(Callback):
    """Have one more thing that is averaged over a pass."""

    def after_loss(self, learn):
        learn.log(mae=(learn.preds - learn.yb).abs().mean())


class Data(Dataset):
    """Points whose loading may be interrupted."""

    def __init__(self, n, send):
        generator = torch.Generator().manual_seed(n)
        self.x, self.y = torch.randn(n, 3, generator=generator), torch.randn(n, 1, generator=generator)
        self.send = send

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.send("fetch")
        return self.x[i] + 0.1 * torch.randn(3), self.y[i]


class Layer(nn.Module):
    """A layer whose forward and backward may be interrupted."""

    def __init__(self, send):
        super().__init__()
        self.send = send

    def forward(self, x):
        self.send("forward" if self.training else "forward of valid")
        if x.requires_grad:
            x.register_hook(lambda grad: self.send("backward"))
        return x


class HalfSGD(torch.optim.SGD):
    """An optimizer that may be interrupted when half of the parameters are new."""

    def __init__(self, params, send, **kwargs):
        params = list(params)
        super().__init__([{"params": params[:2]}, {"params": params[2:]}], **kwargs)
        self.send = send

    def step(self, closure=None):
        groups = self.param_groups
        try:
            for group in groups:
                self.param_groups = [group]
                super().step(closure)
                self.send("step")
        finally:
            self.param_groups = groups


def make(cbs=None, send=None, **kwargs):
    """Make a learner with dropout, momentum, noise in the data, and a validation in the middle of each epoch."""
    send = send or Send()
    seed_all(1)
    model = nn.Sequential(nn.Linear(3, 4), Layer(send), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1))
    dls = {
        "train": DataLoader(Data(11, send), 4, shuffle=True, generator=torch.Generator().manual_seed(0)),
        "valid": DataLoader(Data(7, send), 4),
    }

    def opt_func(params, lr):
        return HalfSGD(params, send, lr=lr, momentum=0.9)

    cbs = [*(cbs or []), ValidateCallback(2), Log(), send]
    return Learner(model, dls, nn.functional.mse_loss, 0.05, opt_func, cbs, **kwargs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the learner of a fit that nobody interrupted."""
    return uninterrupted(make, N_EPOCHS, tmp_path_factory.mktemp("whole"), "epoch")


def interrupted(send, folder=None, every="epoch", **fit):
    """Fit a learner that is interrupted; return it, and what was raised."""
    learn = make([CheckpointCallback(folder, every)] if folder else None, send)
    seed_all(0)
    with pytest.raises(RAISED[send.number], match="learner: in ") as caught:
        learn.fit(N_EPOCHS, **fit)
    assert getattr(caught.value, "code", 143) == 143
    return learn, caught.value


def batches_done(folder):
    """Return how many training batches the newest checkpoint has seen."""
    return max((int(path.name[5:13]) for path in folder.glob("step-*.pt")), default=None)


# -- the first signal ------------------------------------------------------------------------------------------------

# place, the how-many-th time, batches that train when it stops, note
PLACES = [
    ("before_fit", 0, 1, "after batch 0, epoch 0, loader 'train'"),
    ("before_epoch", 0, 1, "after batch 0, epoch 0, loader 'train'"),
    ("fetch", 0, 1, "after batch 0, epoch 0, loader 'train'"),
    ("fetch", 5, 2, "after batch 1, epoch 0, loader 'train'"),
    ("before_batch", 1, 2, "after batch 1, epoch 0, loader 'train'"),
    ("forward", 1, 2, "after batch 1, epoch 0, loader 'train'"),
    ("backward", 2, 3, "after batch 2, epoch 0, loader 'train'"),
    ("step", 2, 2, "after batch 1, epoch 0, loader 'train'"),
    ("after_step", 0, 1, "after batch 0, epoch 0, loader 'train'"),
    ("forward of valid", 0, 2, "after batch 1, epoch 0, loader 'train'"),  # of a validation within the second batch
    ("forward of valid", 2, 3, "after batch 0, epoch 0, loader 'valid'"),
    ("forward of valid", 3, 3, "after batch 1, epoch 0, loader 'valid'"),
    ("cleanup_batch", 0, 2, "after batch 1, epoch 0, loader 'train'"),  # the end of this one has begun
    ("after_epoch", 1, 3, "after batch 0, epoch 0, loader 'valid'"),  # 0 is that of the validation within
    ("cleanup_epoch", 2, 4, "after batch 0, epoch 1, loader 'train'"),
    ("step", 6, 4, "after batch 0, epoch 1, loader 'train'"),
    ("forward", 5, 6, "after batch 2, epoch 1, loader 'train'"),
    ("cleanup_epoch", 6, 6, "when the last batch was done, epoch 1, loader 'valid'"),
    ("after_fit", 0, 6, "when the last batch was done, epoch 1, loader 'valid'"),
    ("cleanup_fit", 0, 6, "when the last batch was done, epoch 1, loader 'valid'"),
]


@pytest.mark.parametrize("number", RAISED, ids=lambda number: number.name)
@pytest.mark.parametrize(("place", "n", "n_batches", "note"), PLACES)
def test_the_batch_is_done_and_written_and_resuming_equals_the_uninterrupted_fit(
    whole, tmp_path, number, place, n, n_batches, note
):
    learn, error = interrupted(Send(place, n, number), tmp_path)
    assert error.__notes__ == [f"learner: in an interrupt, {note}"]
    assert (learn.n_steps, batches_done(tmp_path)) == (n_batches, n_batches)
    assert_equal_runs(resumed(make, N_EPOCHS, tmp_path, "epoch"), whole)


@pytest.mark.parametrize("number", RAISED, ids=lambda number: number.name)
@pytest.mark.parametrize("n", range(7))
def test_a_signal_while_a_checkpoint_is_made_spoils_neither_it_nor_the_fit(whole, tmp_path, number, n):
    learn, _ = interrupted(Send("save", n, number), tmp_path, every=1)
    assert learn.n_steps == batches_done(tmp_path)
    assert_equal_runs(resumed(make, N_EPOCHS, tmp_path, 1), whole)


@pytest.mark.parametrize("place", ["backward", "forward of valid"])
def test_the_same_learner_goes_on_as_in_a_notebook(whole, tmp_path, place):
    learn, _ = interrupted(Send(place, 2), tmp_path)
    learn.fit(N_EPOCHS, resume=True)
    assert_equal_runs(learn, whole)


@pytest.mark.parametrize("number", RAISED, ids=lambda number: number.name)
def test_all_clean_ups_run_and_are_told_of_it(number):
    ended, send = [], Send("step", 0, number)

    class Ended(Callback):
        def cleanup_batch(self, learn):
            ended.append(learn.ended_by)

        cleanup_epoch = cleanup_fit = cleanup_batch

    learn = make([Ended()], send)
    with pytest.raises(RAISED[number], match="after batch 0") as caught:
        learn.fit(1)
    assert ended == [None, caught.value, caught.value]
    assert (learn.interrupt, learn._pending.interrupt, learn.ended_by) == (None, None, None)


def test_the_learner_can_be_looked_at_and_fitted_on_without_a_checkpoint(capsys):
    learn, _ = interrupted(Send("forward", 1))
    assert capsys.readouterr().err == "SIGINT: stops after this batch; once more to stop at once.\n"
    assert (learn.preds.shape, learn.batch[0].shape, learn.i, learn.epoch) == ((4, 1), (4, 3), 1, 0)
    assert all(p.grad is None for p in learn.model.parameters())
    assert learn.validate()["loss"] > 0
    learn.fit(1)
    assert (learn.n_steps, [row["epoch"] for row in learn.history]) == (2 + N_TRAIN, [0])


def test_a_validation_within_a_batch_is_whole(tmp_path):
    learn, _ = interrupted(Send("forward of valid", 0), tmp_path)
    rows = learn.cbs[1].rows
    assert [row.n_steps for row in rows] == [2]
    assert rows[0].metrics["loss"] == learn.validate()["loss"]


def test_a_signal_with_no_batch_to_wait_for_is_raised_in_the_end():
    learn = make(send=Send("before_fit"))
    with pytest.raises(KeyboardInterrupt, match="an interrupt, when the last batch was done"):
        learn.fit(0)


def test_a_signal_in_a_sandbox_is_not_undone_with_it():
    def try_out(learn):
        with learn.sandbox():
            signal.raise_signal(signal.SIGINT)

    learn = make([On(before_batch=try_out)])
    with pytest.raises(KeyboardInterrupt, match="an interrupt, after batch 0, epoch 0, loader 'train'"):
        learn.fit(1)
    learn.remove_cb(learn.cbs[0])
    learn.fit(1)


def test_a_signal_after_the_checkpoint_was_not_yet_due_waits_for_the_next_batch(whole, tmp_path):
    late = On(cleanup_batch=lambda learn: learn.n_steps == 1 and signal.raise_signal(signal.SIGINT))
    late.order = -2000  # cleaned up after the callback that writes
    learn = make([CheckpointCallback(tmp_path), late])
    seed_all(0)
    with pytest.raises(KeyboardInterrupt, match="an interrupt, after batch 1, epoch 0, loader 'train'"):
        learn.fit(N_EPOCHS)
    assert batches_done(tmp_path) == 2
    assert_equal_runs(resumed(make, N_EPOCHS, tmp_path, "epoch"), whole)


def test_a_callback_that_ends_the_fit_after_a_signal_does_not_swallow_it(tmp_path, capsys):
    class Stop(Callback):
        def after_batch(self, learn):
            raise CancelFitException

    learn = make([CheckpointCallback(tmp_path), Stop()], Send("step"))
    with pytest.raises(KeyboardInterrupt, match="an interrupt, when the last batch was done"):
        learn.fit(N_EPOCHS)
    learn.fit(N_EPOCHS, resume=True)
    assert "is of a fit that a callback has ended in epoch 0; nothing is left." in capsys.readouterr().out
    assert learn.n_steps == 1


def test_a_batch_that_is_cancelled_is_done_too(tmp_path):
    class Skip(Callback):
        def after_loss(self, learn):
            raise CancelBatchException

    learn = make([CheckpointCallback(tmp_path), Skip()], Send("forward", 1))
    with pytest.raises(KeyboardInterrupt, match="after batch 1, epoch 0, loader 'train'"):
        learn.fit(N_EPOCHS)
    assert (learn.n_steps, batches_done(tmp_path)) == (0, 2)


def test_what_is_said_never_ends_the_batch(monkeypatch):
    class Gone:
        def write(self, text):
            raise OSError("the terminal is gone")

    monkeypatch.setattr(sys, "stderr", Gone())
    learn, _ = interrupted(Send("step"))
    assert learn.n_steps == 1


def test_outside_of_a_fit_nothing_waits():
    learn = make(send=Send("forward of valid"))
    with pytest.raises(KeyboardInterrupt, match="learner: in the batch, epoch 0, loader 'valid', batch 0 of 2"):
        learn.validate()


# -- errors after a signal -------------------------------------------------------------------------------------------


class On(Callback):
    """Call functions at signals: `On(after_batch=f)`."""

    def __init__(self, **functions):
        vars(self).update(functions)


def fail(learn):
    raise RuntimeError("on purpose")


def test_an_error_in_the_batch_is_untouched_and_nothing_is_written(tmp_path):
    learn = make([CheckpointCallback(tmp_path), On(after_step=fail)], Send("forward"))
    with pytest.raises(RuntimeError, match="on purpose") as caught:
        learn.fit(N_EPOCHS)
    assert (caught.value.__cause__, caught.value.__context__, batches_done(tmp_path)) == (None, None, None)


def test_an_error_in_the_middle_of_a_step_writes_nothing_and_the_checkpoint_before_it_is_exact(whole, tmp_path):
    def half(place):
        if place == "step":
            half.n += 1
            if half.n == 4:  # the weights are new, the biases are not
                raise torch.OutOfMemoryError("on purpose")

    half.n = 0
    learn = make([CheckpointCallback(tmp_path, 1)])
    learn.opt_func = lambda params, lr: HalfSGD(params, half, lr=lr, momentum=0.9)
    seed_all(0)
    with pytest.raises(torch.OutOfMemoryError, match="on purpose"):
        learn.fit(N_EPOCHS)
    assert (learn.n_steps, batches_done(tmp_path)) == (1, 1)
    learn.fit(N_EPOCHS, resume=True)
    assert_equal_runs(learn, whole)


@pytest.mark.parametrize("number", RAISED, ids=lambda number: number.name)
def test_an_error_between_two_batches_is_the_cause_of_the_interrupt(number):
    # As of a loader whose workers have been stopped by the same signal: it is no fault of anybody's.
    learn = make([On(before_epoch=fail)], Send("before_fit", 0, number))
    with pytest.raises(RAISED[number], match="an interrupt, between two batches, epoch 0, loader 'train'") as caught:
        learn.fit(N_EPOCHS)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert learn.interrupt is None


# -- the second signal -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(2, 2), (2, 15), (15, 2), (15, 15)])
@pytest.mark.parametrize(("place", "n"), [("forward", 1), ("backward", 1), ("step", 2), ("forward of valid", 0)])
def test_a_second_signal_is_obeyed_at_once(whole, tmp_path, place, n, numbers):
    first = On(before_batch=lambda learn: learn.n_steps == 1 and learn.training and signal.raise_signal(numbers[0]))
    learn = make([CheckpointCallback(tmp_path, 1), first], Send(place, n, numbers[1]))
    seed_all(0)
    with pytest.raises(RAISED[numbers[1]], match="learner: in the batch, epoch 0") as caught:
        learn.fit(N_EPOCHS)
    assert getattr(caught.value, "code", 143) == 143
    assert batches_done(tmp_path) == 1
    assert all(p.grad is None for p in learn.model.parameters())
    learn.remove_cb(first)
    learn.fit(N_EPOCHS, resume=True)
    assert_equal_runs(learn, whole)


def test_a_second_signal_while_the_last_checkpoint_is_made_ends_that_alone(whole, tmp_path):
    first = On(after_step=lambda learn: learn.n_steps == 2 and signal.raise_signal(signal.SIGINT))
    learn = make([CheckpointCallback(tmp_path, 1), first], Send("save", 1))
    seed_all(0)
    with pytest.raises(KeyboardInterrupt, match=r"in CheckpointCallback\.cleanup_batch"):
        learn.fit(N_EPOCHS)
    assert (learn.n_steps, batches_done(tmp_path)) == (2, 1)
    learn.remove_cb(first)
    learn.fit(N_EPOCHS, resume=True)
    assert_equal_runs(learn, whole)


# -- handlers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def set_handler():
    """Set handlers for the time of a test."""
    former = {number: signal.getsignal(number) for number in NUMBERS}
    yield signal.signal
    for number, handler in former.items():
        signal.signal(number, handler)


def handlers(*_):
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.mark.parametrize("end", ["well", "error", "cancel", "wrong argument"])
def test_handlers_are_put_back_however_a_fit_ends(end):
    def leave(learn):
        if end != "well":
            raise CancelFitException if end == "cancel" else RuntimeError("on purpose")

    before, within = handlers(), []
    learn = make([On(before_fit=lambda learn: within.extend(handlers()), after_step=leave)])
    if end == "well" or end == "cancel":
        learn.fit(1)
    elif end == "error":
        with pytest.raises(RuntimeError, match="on purpose"):
            learn.fit(1)
    else:
        with pytest.raises(ValueError, match="`lr` must be"):
            learn.fit(1, lr=-1)
    assert handlers() == before
    assert within == [] if end == "wrong argument" else within[0] != before[0] and within[1] != before[1]


def test_handlers_of_ones_own_are_left_alone(set_handler):
    heard = []
    set_handler(signal.SIGINT, lambda number, frame: heard.append(number))
    set_handler(signal.SIGTERM, signal.SIG_IGN)
    before, within = handlers(), []
    learn = make([On(after_fit=lambda learn: within.extend(handlers())), Send("step", 1, signal.SIGTERM)], Send("step"))
    learn.fit(1)
    assert (heard, within, handlers()) == ([signal.SIGINT], before, before)
    assert learn.n_steps == N_TRAIN


def test_a_handler_that_is_set_within_the_fit_stays(set_handler):
    def mine(number, frame):
        """Nothing."""

    make([On(after_step=lambda learn: set_handler(signal.SIGTERM, mine))]).fit(1)
    assert signal.getsignal(signal.SIGTERM) is mine


@pytest.mark.parametrize(
    ("place", "n", "has_cause"),
    [("forward", 0, False), ("forward of valid", 0, False), ("fetch", 8, False), ("fetch", 0, True)],
)
def test_workers_that_end_by_the_same_signal_are_no_error_within_a_batch(set_handler, place, n, has_cause):
    def fail(number, frame):  # as torch does, where a worker ends in another way than it should
        raise RuntimeError("DataLoader worker is killed by signal")

    class SendBoth(Send):
        def __call__(self, place):
            super().__call__(place)
            if (place, self.n_seen) == (self.place, self.n + 1):
                signal.raise_signal(signal.SIGCHLD)

    set_handler(signal.SIGCHLD, fail)
    _, error = interrupted(SendBoth(place, n))
    assert isinstance(error.__cause__, RuntimeError) == has_cause
    assert signal.getsignal(signal.SIGCHLD) is fail


def test_in_another_thread_the_fit_works_and_no_handler_is_set(whole, tmp_path):
    before, within, learners = handlers(), [], []

    def fit():
        listener = On(before_fit=lambda learn: within.extend(handlers()))
        learners.append(uninterrupted(lambda cbs: make([*cbs, listener]), N_EPOCHS, tmp_path, "epoch"))

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    assert within == before
    assert_equal_runs(learners[0], whole)


def test_no_thread_of_a_fit_is_left_when_it_is_done(tmp_path):
    # So that a process may be forked after it.
    before = threading.enumerate()
    make([CheckpointCallback(tmp_path, 1)]).fit(1)
    assert threading.enumerate() == before


def test_a_fit_of_another_learner_within_a_batch_belongs_to_the_batch():
    inner = make(send=Send("step"))
    outer = make([On(after_batch=lambda learn: learn.training and inner.fit(N_EPOCHS))])
    with pytest.raises(KeyboardInterrupt, match="an interrupt, after batch 0, epoch 0, loader 'train'"):
        outer.fit(1)
    assert (inner.n_steps, inner.interrupt, outer.n_steps) == (N_EPOCHS * N_TRAIN, None, 1)


def test_a_program_of_its_own_that_was_forked_is_deaf_to_ctrl_c_and_obeys_sigterm(monkeypatch):
    learn, status, parent = make(), [], os.getpid()
    monkeypatch.setattr(os, "_exit", status.append)
    with deferred_interrupts(learn), monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: parent + 1)
        for number in RAISED:
            signal.raise_signal(number)
    assert (learn.interrupt, status) == (None, [143])


# -- other processes -------------------------------------------------------------------------------------------------

SCRIPT = """
import multiprocessing
import os
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from callbacks import CheckpointCallback
from learner import Callback, Learner

folder, gate, place = sys.argv[1:]


class Data(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        if (i, place) == (0, "fetch"):
            os.write(1, b"ready\\n")
            open(gate).close()  # waits until somebody opens it to write
        return torch.randn(3), torch.zeros(1)


class Wait(Callback):
    def after_predict(self, learn):
        if place == "batch":
            os.write(1, b"ready\\n")
            open(gate).close()
            if os.environ["NAME"] == "SIGTERM":
                for worker in multiprocessing.active_children():
                    worker.join()  # nothing is made of it within the batch that they have been stopped as well


dl = DataLoader(Data(), 4, num_workers=2, multiprocessing_context="fork")
learn = Learner(torch.nn.Linear(3, 1), {"train": dl}, torch.nn.functional.mse_loss, 0.1)
learn.add_cb([CheckpointCallback(folder), Wait()])
try:
    learn.fit(1)
finally:
    for worker in multiprocessing.active_children():
        worker.join()  # it is ending; one that is left would not
    print(learn.n_steps, flush=True)
"""


@pytest.mark.parametrize(
    ("place", "number", "n_steps"),
    [
        ("batch", signal.SIGINT, 1),
        ("batch", signal.SIGTERM, 1),
        ("fetch", signal.SIGINT, 1),
        ("fetch", signal.SIGTERM, 0),  # its workers are gone, so this batch never comes
    ],
)
def test_a_signal_to_a_whole_job_with_workers(tmp_path, place, number, n_steps):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "checkpoints"), str(gate), place],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NAME": number.name},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a terminal or a scheduler makes it
    )
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, number)
            assert process.stderr.readline() == f"{number.name}: stops after this batch; once more to stop at once.\n"
            if (place, number) != ("fetch", signal.SIGTERM):
                gate.write_text("")  # go on
            out, err = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert out == f"{n_steps}\n"
    assert batches_done(tmp_path / "checkpoints") == (n_steps or None)
    if number == signal.SIGTERM:
        assert process.returncode == 143
    else:
        # 1 where torch imports `tabulate` at the exit, if that is installed: Python then forgets the signal.
        assert process.returncode in (-signal.SIGINT, 130, 1)
        assert err.endswith("KeyboardInterrupt\nlearner: in an interrupt, after batch 0, epoch 0, loader 'train'\n")


CELL = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from callbacks import CheckpointCallback
from learner import Callback, Learner


class Wait(Callback):
    def after_predict(self, learn):
        if learn.n_steps == 1:
            print("ready", flush=True)
            while learn._pending.interrupt is None:
                pass


data = [(torch.ones(2, 1), torch.ones(2, 1))] * 3
cbs = [CheckpointCallback("checkpoints"), Wait()]
learn = Learner(torch.nn.Linear(1, 1), {{"train": data}}, torch.nn.functional.mse_loss, 0.1, cbs=cbs)
learn.fit(2)
"""


@pytest.mark.serial  # starts a kernel, as the notebooks do
def test_interrupting_the_kernel_of_a_notebook_stops_the_fit_and_the_next_cell_goes_on(tmp_path):
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    said = []

    def hear(message):
        said.append(message["content"].get("text", ""))
        if "ready" in said[-1]:
            manager.interrupt_kernel()

    try:
        client.wait_for_ready(timeout=60)
        reply = client.execute_interactive(CELL, output_hook=hear, timeout=60)["content"]
        assert reply["ename"] == "KeyboardInterrupt"
        assert batches_done(tmp_path / "checkpoints") == 2
        code = "learn.remove_cb(cbs[1]); learn.fit(2, resume=True); print(learn.n_steps, 'steps')"
        reply = client.execute_interactive(code, output_hook=hear, timeout=60)["content"]
        assert reply["status"] == "ok"
        assert "6 steps\n" in "".join(said)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
