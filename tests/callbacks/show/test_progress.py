"""What is to be seen of a fit: in a pipe, in a terminal, in a notebook. The clock is the tests' own."""

import fcntl
import io
import os
import re
import struct
import sys
import termios
import threading
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from itertools import groupby, pairwise
from pathlib import Path

import nbclient
import nbformat
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor

from callbacks import CheckpointCallback, ProgressCallback
from callbacks.show import progress, progress_notebook
from learner import Callback, CancelEpochException, CancelFitException
from learner.errors import CancelException
from learner.loop import throughput
from tests.resuming import StopAt, resumed, seed_all, stopped, tiny_learner, uninterrupted

HEADER = "epoch  train/loss  valid/loss      time"


class Clock(Callback):
    """Stand still; added to a learner, go on by `tick` seconds with each pass and each batch."""

    now, tick = 0.0, 0.2

    def __call__(self):
        return self.now

    def before_epoch(self, learn):
        self.now += self.tick

    def before_batch(self, learn):
        self.now += self.tick


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    for module in (progress, progress_notebook, throughput):
        monkeypatch.setattr(module, "perf_counter", clock)
    return clock


class CountingLoss(Callback):
    """Have the loss be 1 in a loader's first pass, 2 in its second, and so on."""

    def __init__(self):
        self.n_passes = {}

    def before_epoch(self, learn):
        self.n_passes[learn.dl_name] = self.n_passes.get(learn.dl_name, 0) + 1

    def after_loss(self, learn):
        learn.loss = 0 * learn.loss + self.n_passes[learn.dl_name]


def at(signal, action):
    """Return a callback that does something at one signal."""
    return type("At", (Callback,), {signal: lambda self, learn: action(learn)})()


def stop_at(signal, error, epoch, loader="train"):
    def stop(learn):
        if (learn.epoch, learn.dl_name) == (epoch, loader):
            raise error() if issubclass(error, CancelException) else error("stop")  # a reason has a line of its own

    return at(signal, stop)


def n_batches(n):
    return {"train": [(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))] * n}


class Stream:
    """Three batches, of which nobody knows the number before."""

    def __iter__(self):
        return iter(n_batches(3)["train"])


@pytest.fixture
def printed(capsys):
    """Return a function that gives the lines on stdout since it was last called; nothing may be on stderr."""

    def lines():
        out, err = capsys.readouterr()
        assert re.sub(r"a checkpoint is in .*\n", "", err) == ""
        return out.splitlines()

    return lines


# == plain lines =======================================================================================================


def test_in_a_pipe_a_table_grows_a_row_an_epoch(make_learner, printed):
    log = at("after_batch", lambda learn: None if learn.training else learn.log(accuracy=0.5))
    make_learner(cbs=[CountingLoss(), log, ProgressCallback()]).fit(2)
    assert printed() == [
        "epoch  train/loss  valid/loss  valid/accuracy      time",
        "    0      1.0000      1.0000          0.5000      0.0s",
        "    1      2.0000      2.0000          0.5000      0.0s",
    ]


def test_each_fit_has_a_table_and_epochs_count_on_as_in_the_history(make_learner, printed):
    learn = make_learner(cbs=[CountingLoss(), ProgressCallback()])
    learn.fit(1)
    learn.fit(1)
    assert printed() == [
        HEADER,
        "    0      1.0000      1.0000      0.0s",
        HEADER,
        "    1      2.0000      2.0000      0.0s",
    ]
    assert [row["epoch"] for row in learn.history] == [0, 1]


# An epoch of `dls` has two passes and 3 + 2 batches; the clock goes on 7 times, after the first of which a row begins.
@pytest.mark.parametrize(("tick", "time"), [(0.0625, "0.4s"), (8.5, "51.0s"), (10, "01:00"), (600, "1:00:00")])
def test_a_row_says_how_long_it_took(make_learner, printed, clock, tick, time):
    clock.tick = tick
    make_learner(cbs=[clock, ProgressCallback()]).fit(1)
    assert printed()[-1].endswith(f"  {time}")


def test_a_row_is_written_when_the_last_loader_is_done_not_at_the_end(make_learner, printed):
    seen = []
    look = at("before_epoch", lambda learn: seen.append(len(printed())))
    make_learner(cbs=[look, ProgressCallback()]).fit(3)
    assert [*seen, len(printed())] == [0, 0, 2, 0, 1, 0, 1]


def test_a_killed_run_leaves_its_rows_in_the_log(make_learner, monkeypatch):
    class File(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    file, seen = File(), []
    monkeypatch.setattr(sys, "stdout", file)
    make_learner(cbs=[at("after_fit", lambda learn: seen.append(file.flushed.count("\n"))), ProgressCallback()]).fit(2)
    assert seen == [3]


def test_columns_that_come_late_stand_where_their_loader_stands_under_a_new_header(make_learner, printed):
    cancel = stop_at("after_step", CancelEpochException, epoch=0)
    make_learner(cbs=[CountingLoss(), ProgressCallback(), cancel]).fit(2)
    assert printed() == [
        "epoch  valid/loss      time",
        "    0      1.0000      0.0s",
        HEADER,
        "    1      2.0000      2.0000      0.0s",
    ]


# -- passes that end early ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["before_epoch", "before_batch", "after_loss"])
def test_a_cancelled_pass_leaves_its_cells_empty(make_learner, printed, signal):
    cancel = stop_at(signal, CancelEpochException, epoch=1, loader="valid")
    make_learner(cbs=[CountingLoss(), ProgressCallback(), cancel]).fit(2)
    assert printed()[1:] == ["    0      1.0000      1.0000      0.0s", "    1      2.0000                  0.0s"]


def test_an_epoch_of_which_nothing_was_finished_still_has_its_row(make_learner, dls, printed):
    cancels = [stop_at("after_step", CancelEpochException, epoch) for epoch in (1, 3)]
    make_learner(dls={"train": dls["train"]}, cbs=[CountingLoss(), ProgressCallback(), *cancels]).fit(4)
    assert printed() == [
        "epoch  train/loss      time",
        "    0      1.0000      0.0s",
        "    1                  0.0s",
        "    2      3.0000      0.0s",
        "    3                  0.0s",
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(("loader", "last"), [("train", []), ("valid", ["    1      2.0000                  0.0s"])])
def test_a_broken_epoch_has_a_row_if_a_loader_was_finished(make_learner, printed, error, loader, last):
    learn = make_learner(cbs=[CountingLoss(), ProgressCallback(), stop_at("after_loss", error, 1, loader)])
    with pytest.raises(error, match="stop"):
        learn.fit(3)
    assert printed() == [HEADER, "    0      1.0000      1.0000      0.0s", *last]


def test_so_it_has_if_others_were_not_even_begun(make_learner, dls, printed):
    dls = {"train": dls["train"], "valid": dls["valid"], "valid2": dls["valid"]}
    learn = make_learner(dls=dls, cbs=[CountingLoss(), ProgressCallback(), stop_at("after_loss", OSError, 0, "valid")])
    with pytest.raises(OSError, match="stop"):
        learn.fit(1)
    assert printed() == ["epoch  train/loss      time", "    0      1.0000      0.0s"]


@pytest.mark.parametrize(("loader", "last"), [("train", []), ("valid", ["    1      2.0000                  0.0s"])])
def test_so_has_one_in_which_the_fit_was_ended(make_learner, printed, loader, last):
    cancel = stop_at("after_loss", CancelFitException, 1, loader)
    make_learner(cbs=[CountingLoss(), ProgressCallback(), cancel]).fit(3)
    assert printed() == [HEADER, "    0      1.0000      1.0000      0.0s", *last]


@pytest.mark.parametrize("names", [["train", "valid"], ["train"]])
def test_an_error_before_anything_was_finished_shows_nothing(make_learner, dls, printed, names):
    learn = make_learner(
        dls={name: dls[name] for name in names}, cbs=[ProgressCallback(), stop_at("after_loss", RuntimeError, 0)]
    )
    with pytest.raises(RuntimeError, match="stop"):
        learn.fit(1)
    assert printed() == []


# -- passes beside the fit ---------------------------------------------------------------------------------------------


def other_passes_at(signal):
    def look(learn):
        if learn.dl_name != "valid" and learn.i in (0, 2):
            learn.validate()
            learn.get_preds()

    return at(signal, look)


@pytest.mark.parametrize("signal", ["before_fit", "before_epoch", "after_batch", "after_epoch", "after_fit"])
def test_passes_that_a_callback_asks_for_have_no_part_in_the_table(make_learner, printed, signal):
    learn = make_learner(cbs=[ProgressCallback(), other_passes_at(signal)])
    learn.fit(2)
    rows = [f"    {row['epoch']}      {row['train/loss']:.4f}      {row['valid/loss']:.4f}" for row in learn.history]
    assert [line.removesuffix("      0.0s") for line in printed()] == [HEADER, *rows]


def test_nor_do_they_stand_in_for_a_pass_that_was_cancelled(make_learner, dls, printed):
    def cancel_the_pass_of_the_fit(learn):
        if learn.dl_name == "valid" and not validates:
            raise CancelEpochException

    def validate(learn):
        if learn.training:
            validates.append(True)
            learn.validate()
            validates.pop()

    validates = []
    cbs = [ProgressCallback(), at("after_batch", validate), at("before_batch", cancel_the_pass_of_the_fit)]
    make_learner(cbs=cbs).fit(1)
    assert printed()[0] == "epoch  train/loss      time"


def test_nor_has_the_training_loader_validated_after_the_last_epoch(make_learner, printed):
    make_learner(cbs=[ProgressCallback(), at("after_fit", lambda learn: learn.validate("train"))]).fit(1)
    assert len(printed()) == 2


# == a terminal ========================================================================================================


class Terminal(io.StringIO):
    """Keep what a terminal shows after each write: lines, of which the cursor moves back and up, as tqdm has it."""

    def __init__(self):
        super().__init__()
        self.frames = []
        self._lines, self._row, self._column = [""], 0, 0

    def isatty(self):
        return True

    def write(self, text):
        for part in re.findall(r"\r|\n|\x1b\[A|[^\r\n\x1b]+", text):
            if part == "\r":
                self._column = 0
            elif part == "\n":
                self._row += 1
                self._column = 0
                self._lines += [""] * (self._row + 1 - len(self._lines))
            elif part == "\x1b[A":
                self._row -= 1
            else:
                line = self._lines[self._row].ljust(self._column)
                end = self._column + len(part)
                self._lines[self._row], self._column = line[: self._column] + part + line[end:], end
        self.frames.append(self.shown)
        return super().write(text)

    @property
    def shown(self):
        return [line.rstrip() for line in self._lines if line.strip()]

    def ever_showed(self, pattern):
        return any(re.match(pattern, line) for frame in self.frames for line in frame)


@contextmanager
def terminal():
    screen = Terminal()
    with redirect_stdout(screen), redirect_stderr(screen):
        yield screen


def test_a_bar_for_each_pass_vanishes_and_the_table_stays(make_learner, clock):
    with terminal() as screen:
        make_learner(cbs=[clock, CountingLoss(), ProgressCallback()]).fit(2)
    bar = re.compile(r"(.+?):.*\| (\d)/(\d) \[.*?(?:, loss ([^,]+)(?:, [\d.]+ samples/s)?(?:, \d:\d\d left)?)?\]")
    bars = [bar.fullmatch(frame[-1]) for frame in screen.frames if frame]
    assert [bar for bar, _ in groupby(bar.groups() for bar in bars if bar)] == [
        (f"epoch {epoch}/2 {loader}", str(n), str(total), f"{epoch + 1}.0000" if n else None)
        for epoch in (0, 1)
        for loader, total in (("train", 3), ("valid", 2))
        for n in range(total + 1)
    ]
    assert screen.shown == [
        HEADER,
        "    0      1.0000      1.0000      1.2s",
        "    1      2.0000      2.0000      1.2s",
    ]


def test_a_pass_within_a_pass_has_its_bar_below(make_learner, clock):
    with terminal() as screen:
        make_learner(cbs=[clock, ProgressCallback(), other_passes_at("after_batch")]).fit(1)
    labels = [[line.split(":")[0] for line in frame] for frame in screen.frames]
    assert ["epoch 0/1 train", "epoch 0/1 valid"] in labels
    outer = [frame[0] for frame in screen.frames if frame and frame[0].startswith("epoch 0/1 train")]
    assert " 2/3 " in outer[-1]  # it goes on after the first validation; its third batch falls into a pause
    assert len(screen.shown) == 2


def test_a_loader_without_a_length_has_a_count_alone(make_learner, clock):
    with terminal() as screen:
        make_learner(dls={"train": Stream()}, cbs=[clock, ProgressCallback()]).fit(1)
    assert screen.ever_showed(r"epoch 0/1 train: 3it \[.*, loss \d")


def test_the_length_is_that_of_the_loader_that_runs(make_learner, clock):
    def shorten(learn):
        learn.dl = list(learn.dl)[:1]

    with terminal() as screen:
        make_learner(cbs=[clock, at("before_epoch", shorten), ProgressCallback()]).fit(1)
    assert screen.ever_showed("epoch 0/1 train: 100%.* 1/1 ")


@pytest.mark.parametrize("ask", [lambda learn: learn.validate(), lambda learn: learn.get_preds()])
def test_a_pass_outside_a_fit_has_a_bar_and_no_table(make_learner, ask):
    learn = make_learner(cbs=ProgressCallback())
    with terminal() as screen:
        ask(learn)
    assert screen.ever_showed("valid:   0%")
    assert screen.shown == []


def test_of_many_passes_outside_a_fit_not_all_have_a_bar(make_learner):
    learn = make_learner(cbs=ProgressCallback())
    with terminal() as screen:
        for _ in range(5):  # at one instant
            learn.validate()
    assert len(re.findall("valid:", screen.getvalue())) == 1


def test_after_a_fit_a_pass_belongs_to_no_epoch(make_learner, clock):
    learn = make_learner(cbs=[clock, ProgressCallback()])
    with terminal():
        learn.fit(1)
    with terminal() as screen:
        learn.validate()
    assert screen.ever_showed("valid:   0%")


def test_a_fit_in_a_sandbox_has_bars_and_no_table(make_learner):
    learn = make_learner(cbs=ProgressCallback())
    with terminal() as screen, learn.sandbox():
        learn.fit(2)
    assert screen.ever_showed("epoch 0/2 train:   0%")
    assert screen.shown == []


def test_after_a_broken_fit_the_screen_is_clean_and_the_next_is_as_ever(make_learner):
    learn = make_learner(cbs=[CountingLoss(), ProgressCallback()])
    with terminal() as screen:
        with pytest.raises(KeyboardInterrupt, match="stop"):
            learn.fit(1, cbs=stop_at("after_loss", KeyboardInterrupt, 0))
        assert screen.shown == []
        learn.fit(1)
    assert screen.shown == [HEADER, "    0      2.0000      1.0000      0.0s"]


def test_on_a_real_terminal(make_learner):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # lines and columns
    with os.fdopen(theirs, "w") as tty, redirect_stdout(tty), redirect_stderr(tty):
        make_learner(cbs=[CountingLoss(), ProgressCallback()]).fit(1)
    text, part = b"", b" "
    with suppress(OSError):  # when all was read; it comes in parts
        while part:
            part = os.read(ours, 2**16)
            text += part
    os.close(ours)
    text = text.decode()
    screen = Terminal()
    screen.write(text)
    assert "epoch 0/1 train:   0%" in text
    assert screen.shown == [HEADER, "    0      1.0000      1.0000      0.0s"]


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def n_reads(monkeypatch):
    """Return a list that grows each time the host reads a tensor."""
    reads, item = [], Tensor.item

    def spy(tensor):
        reads.append(tensor)
        return item(tensor)

    monkeypatch.setattr(Tensor, "item", spy)
    return reads


def test_ten_times_a_second_is_often_enough_to_read_the_loss(make_learner, clock, n_reads):
    clock.tick = 0.01
    with terminal() as screen:
        make_learner(dls=n_batches(200), cbs=[clock, ProgressCallback()]).fit(2)  # 4 seconds
    assert 35 <= len(n_reads) <= 40
    assert screen.getvalue().count(", loss ") == len(n_reads)


def test_a_screen_that_draws_slowly_gets_a_tenth_of_the_time(make_learner, monkeypatch, clock, n_reads):
    def slow(self, n, total, note):
        clock.now += 0.2

    clock.tick = 0.1
    monkeypatch.setattr(progress.Terminal, "move", slow)
    with terminal():
        make_learner(dls=n_batches(200), cbs=[clock, ProgressCallback()]).fit(1)  # 20 seconds, of which 2 are 10 * 0.2
    assert 8 <= len(n_reads) <= 10


def test_where_nobody_sees_it_no_loss_is_read(make_learner, printed, clock, n_reads):
    make_learner(dls=n_batches(20), cbs=[clock, ProgressCallback()]).fit(1)
    assert n_reads == []
    assert len(printed()) == 2


def test_passes_too_short_to_be_seen_have_no_bar(make_learner):
    with terminal() as screen:
        make_learner(cbs=ProgressCallback()).fit(5)
    assert re.findall("epoch ./. (?:train|valid):", screen.getvalue()) == ["epoch 0/5 train:"]


def test_it_only_looks_and_starts_no_thread(make_learner, clock):
    weights, loaders, threads = [], [], set(threading.enumerate())
    look = at("after_batch", lambda learn: loaders.append(learn.dl is learn.dls[learn.dl_name]))
    for cbs in ([], [ProgressCallback(plot=True)]):
        learn = make_learner(cbs=[*cbs, look, clock])
        torch.manual_seed(0)
        with terminal():
            learn.fit(2)
        weights.append(list(learn.model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert all(loaders)
    assert set(threading.enumerate()) <= threads


# == a notebook ========================================================================================================


class Output:
    """One output under a cell: all that it showed, one after the other."""

    def __init__(self, data):
        self.shown = [data]

    def update(self, data, *, raw):
        assert raw
        self.shown.append(data)

    @property
    def html(self):
        return [data["text/html"] for data in self.shown]


@pytest.fixture
def outputs(monkeypatch):
    """Be in a notebook; return the outputs of its cell."""
    outputs = []

    def display(data, *, raw, display_id):
        assert (raw, display_id) == (True, True)
        outputs.append(Output(data))
        return outputs[-1]

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    return outputs


def rows_of(html):
    """Return what stands in the cells of a table."""
    return [re.findall("<t[dh]>(.*?)</t[dh]>", row) for row in re.findall("<tr>.*?</tr>", html, re.DOTALL)]


def test_a_fit_is_one_output_with_bars_while_it_runs_and_a_table_after_it(make_learner, outputs, clock, printed):
    learn = make_learner(cbs=[clock, CountingLoss(), ProgressCallback()])
    learn.fit(2)
    learn.fit(1)
    assert len(outputs) == 2
    *while_running, at_the_end = outputs[0].html
    bars = [re.search(r'<progress value="(.)" max="(.)"></progress> (.*?) \[', html) for html in while_running]
    assert [bar.groups() for bar in bars if bar][:6] == [
        ("0", "3", "epoch 0/2 train 0/3"),
        ("1", "3", "epoch 0/2 train 1/3"),
        ("2", "3", "epoch 0/2 train 2/3"),
        ("3", "3", "epoch 0/2 train 3/3"),
        ("0", "2", "epoch 0/2 valid 0/2"),
        ("1", "2", "epoch 0/2 valid 1/2"),
    ]
    assert any(", loss 1.0000, " in html for html in while_running)
    assert "<progress" not in at_the_end
    assert rows_of(at_the_end) == [
        ["epoch", "train/loss", "valid/loss", "time"],
        ["0", "1.0000", "1.0000", "1.2s"],
        ["1", "2.0000", "2.0000", "1.2s"],
    ]
    assert [line.split() for line in outputs[0].shown[-1]["text/plain"].splitlines()] == rows_of(at_the_end)
    assert printed() == []


def test_it_is_drawn_ten_times_a_second_at_most_though_rows_come_faster(make_learner, outputs, clock):
    clock.tick = 0.01
    make_learner(dls=n_batches(3), cbs=[clock, ProgressCallback()]).fit(100)  # 4 seconds, a row each 0.04
    assert 35 <= len(outputs[0].html) <= 42
    assert len(rows_of(outputs[0].html[-1])) == 101


def test_an_interrupted_fit_leaves_the_rows_that_it_had(make_learner, outputs):
    stop = stop_at("after_loss", KeyboardInterrupt, 1, "valid")
    with pytest.raises(KeyboardInterrupt, match="stop"):
        make_learner(cbs=[CountingLoss(), ProgressCallback(), stop]).fit(3)
    (output,) = outputs
    assert rows_of(output.html[-1])[1:] == [["0", "1.0000", "1.0000", "0.0s"], ["1", "2.0000", "", "0.0s"]]
    assert "<progress" not in output.html[-1]


def test_a_pass_within_a_fit_is_shown_in_its_output(make_learner, outputs, clock):
    make_learner(cbs=[clock, ProgressCallback(), other_passes_at("after_batch")]).fit(1)
    (output,) = outputs
    assert max(html.count("<progress") for html in output.html) == 2


@pytest.mark.parametrize(("tick", "is_shown"), [(0.2, False), (0.6, True)])
def test_a_pass_by_itself_is_shown_if_it_takes_long_enough_to_leave_an_empty_line_for(
    make_learner, outputs, clock, tick, is_shown
):
    clock.tick = tick
    make_learner(cbs=[clock, ProgressCallback()]).validate()
    assert len(outputs) == is_shown
    if is_shown:
        assert "<progress" in outputs[0].html[0]
        assert outputs[0].html[-1] == ""


def test_a_fit_in_a_sandbox_leaves_no_table(make_learner, outputs, clock):
    clock.tick = 0.6
    learn = make_learner(cbs=[clock, ProgressCallback()])
    with learn.sandbox():
        learn.fit(1)
    (output,) = outputs
    assert "<progress" in output.html[0]
    assert output.html[-1] == ""


def test_a_bar_of_a_loader_without_a_length_has_no_end(make_learner, outputs, clock):
    make_learner(dls={"train": Stream()}, cbs=[clock, ProgressCallback()]).fit(1)
    assert any("<progress></progress> epoch 0/1 train 3/? [" in html for html in outputs[0].html)


def test_a_fit_of_no_epochs_shows_nothing(make_learner, outputs):
    make_learner(cbs=ProgressCallback(plot=True)).fit(0)
    assert outputs == []


def test_a_name_is_text_and_no_html(make_learner, dls, outputs):
    make_learner(dls={"train<b>": dls["train"]}, cbs=ProgressCallback()).fit(1)
    assert "train&lt;b&gt;/loss" in outputs[0].html[-1]
    assert not any("<b>" in html for html in outputs[0].html)


# -- the loss curve ----------------------------------------------------------------------------------------------------


@pytest.fixture
def curves(monkeypatch):
    """Return what was drawn: for each picture the points of each line by its label."""
    pictures, legend = [], Axes.legend

    def spy(ax):
        pictures.append({line.get_label(): list(zip(*line.get_data(), strict=True)) for line in ax.lines})
        return legend(ax)

    monkeypatch.setattr(Axes, "legend", spy)
    return pictures


@pytest.mark.parametrize("tick", [0.0, 0.2], ids=["drawn at the end", "drawn each time"])
def test_the_curve_has_the_loss_of_each_training_batch_and_the_means_of_other_loaders(
    make_learner, outputs, curves, clock, tick
):
    clock.tick = tick
    losses = []
    take = at("after_batch", lambda learn: losses.append(learn.loss.detach().item()) if learn.training else None)
    learn = make_learner(cbs=[clock, take, ProgressCallback(plot=True)])
    learn.fit(2)
    assert curves[-1] == {
        "train": list(zip(range(1, 7), losses, strict=True)),
        "valid": [(3, learn.history[0]["valid/loss"]), (6, learn.history[1]["valid/loss"])],
    }
    (output,) = outputs
    assert "<img" not in output.html[0]  # of what? no batch is done
    assert re.search(r'<img src="data:image/png;base64,iVBORw0KGgo[^"]+" alt="loss curve">', output.html[-1])


def test_passes_and_fits_that_leave_no_table_have_no_curve(make_learner, outputs, curves, clock):
    learn = make_learner(cbs=[clock, ProgressCallback(plot=True)])
    learn.validate()
    with learn.sandbox():
        learn.fit(1)
    assert curves == []


def test_outside_a_notebook_nothing_is_kept_for_a_curve(make_learner, monkeypatch, printed):
    monkeypatch.setattr(progress, "Curve", None)  # none can be made
    make_learner(cbs=ProgressCallback(plot=True)).fit(1)
    assert len(printed()) == 2


@pytest.mark.notebook
def test_a_notebook_that_really_ran_holds_table_and_curve():
    code = """\
import torch
from callbacks import ProgressCallback
from learner import Learner, Loaders
x = torch.zeros(32, 3)
dls = Loaders.from_arrays(train=(x, x), valid=(x, x), batch_size=4)
Learner(torch.nn.Linear(3, 3), dls, torch.nn.functional.mse_loss, cbs=ProgressCallback(plot=True)).fit(2)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    root = Path(__file__).parents[3]
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(root)}}).execute()
    (output,) = notebook.cells[0].outputs
    html = output.data["text/html"]
    assert output.output_type == "display_data"
    assert [row[0] for row in rows_of(html)] == ["epoch", "0", "1"]
    assert "<img" in html
    assert "<progress" not in html
    assert output.data["text/plain"].split()[:4] == ["epoch", "train/loss", "valid/loss", "time"]


# == from a checkpoint =================================================================================================


def with_late_metric(cbs):
    """Return a learner with epochs of 6 + 3 batches, and a metric from the second epoch on."""
    late = at("after_loss", lambda learn: learn.log(late=0.5) if learn.epoch else None)
    return tiny_learner([late, ProgressCallback(), *cbs])


@pytest.mark.parametrize(("n", "by_interrupt"), [(2, False), (7, True), (8, True), (10, False), (16, True), (26, True)])
def test_the_table_of_a_fit_that_goes_on_is_the_whole_table(tmp_path, printed, n, by_interrupt):
    uninterrupted(with_late_metric, 3, tmp_path / "whole")
    whole = printed()
    stopped(with_late_metric, 3, n, tmp_path / "parts", by_interrupt=by_interrupt)
    printed()
    resumed(with_late_metric, 3, tmp_path / "parts")
    first, *table = printed()
    assert first.startswith("resume: goes on with ")
    assert table == whole
    resumed(with_late_metric, 3, tmp_path / "parts")
    first, *table = printed()
    assert first.endswith("nothing is left to train.")
    assert table == whole


def test_the_table_of_a_fit_that_a_callback_has_ended_is_shown_again(tmp_path, printed):
    def learner():
        cancel = stop_at("after_loss", CancelFitException, 1, "valid")
        return tiny_learner([cancel, ProgressCallback(), CheckpointCallback(tmp_path)])

    learner().fit(3)
    whole = printed()
    assert len(whole) == 3
    learner().fit(3, resume=True)
    assert printed()[1:] == whole


def test_rows_of_before_are_shown_before_the_fit_goes_on(tmp_path, printed):
    seen = []
    stopped(
        lambda cbs: tiny_learner([ProgressCallback(), at("before_batch", lambda learn: None), *cbs]), 3, 10, tmp_path
    )
    printed()
    look = at("before_batch", lambda learn: seen.append(printed()))
    resumed(lambda cbs: tiny_learner([ProgressCallback(), look, *cbs]), 3, tmp_path)
    assert [line[:5] for line in seen[0][1:]] == ["epoch", "    0"]


def test_the_first_bar_begins_where_the_fit_goes_on(tmp_path, clock):
    def make(cbs):
        return tiny_learner([clock, ProgressCallback(), *cbs])

    with terminal():
        stopped(make, 2, 11, tmp_path)  # in the second epoch, after two batches
    with terminal() as screen:
        resumed(make, 2, tmp_path)
    bars = re.findall(r"epoch 1/2 (train|valid): .*?\| (\d)/(\d) \[(.*?)[,\]]", screen.getvalue())
    assert [bar[:3] for bar in dict.fromkeys(bars)][:6] == [
        *(("train", str(n), "6") for n in (2, 3, 4, 5, 6)),
        ("valid", "0", "3"),
    ]


def test_the_time_of_a_row_is_that_of_both_parts(tmp_path, clock, printed):
    """The clock ticks with each pass and each batch; the time between the two parts counts nowhere."""

    def make(cbs):
        return tiny_learner([clock, ProgressCallback(), *cbs])

    clock.tick = 1.0
    uninterrupted(make, 1, tmp_path / "whole")
    whole = printed()[-1]
    assert whole.endswith("  10.0s")
    stopped(make, 1, 3, tmp_path / "parts")
    clock.now += 1e6
    resumed(make, 1, tmp_path / "parts")
    assert printed()[-1] == whole


def test_the_curve_of_a_fit_that_goes_on_is_the_whole_curve(tmp_path, outputs, curves):
    def make(cbs):
        return tiny_learner([ProgressCallback(plot=True), *cbs])

    uninterrupted(make, 3, tmp_path / "whole")
    whole = curves[-1]
    assert [len(points) for points in whole.values()] == [18, 3]
    stopped(make, 3, 16, tmp_path / "parts", by_interrupt=True)
    resumed(make, 3, tmp_path / "parts")
    assert curves[-1] == whole
    assert [row[:-1] for row in rows_of(outputs[-1].html[-1])] == [row[:-1] for row in rows_of(outputs[0].html[-1])]


def test_a_checkpoint_that_was_only_loaded_has_no_part_in_later_tables(tmp_path, printed):
    stopped(with_late_metric, 3, 16, tmp_path, by_interrupt=True)
    learn = with_late_metric([CheckpointCallback(tmp_path), StopAt()])
    seed_all(0)
    learn.load(max(tmp_path.glob("*.pt")))
    printed()
    learn.validate()
    assert printed() == []


# == how far it is =====================================================================================================


def test_a_bar_says_how_long_the_fit_will_take(make_learner, clock):
    """Each pass has 3 or 2 batches and takes 10 s more than them: the clock goes on at its beginning."""
    clock.tick = 10
    with terminal() as screen:
        make_learner(cbs=[clock, ProgressCallback()]).fit(2)
    assert screen.ever_showed(r"epoch 0/2 train: .* 1/3 \[.*, loss .*, 1:30 left\]")  # 2 + 2 + 5 batches
    assert screen.ever_showed(r"epoch 1/2 valid: .* 2/2 \[.*, loss .*, 0:00 left\]")


def test_into_a_pipe_a_long_pass_writes_a_line_a_minute(make_learner, printed, clock):
    clock.tick = 25
    make_learner(dls=n_batches(7), cbs=[clock, CountingLoss(), ProgressCallback()]).fit(1)
    assert printed() == [
        "epoch 0/1 train · 3/7 · loss 1.0000, 0.08 samples/s, 1:40 left",
        "epoch 0/1 train · 6/7 · loss 1.0000, 0.08 samples/s, 0:25 left",
        "epoch  train/loss      time",
        "    0      1.0000     02:55",
    ]


def test_a_fit_of_steps_says_which_one_it_is(make_learner, clock):
    clock.tick = 10
    with terminal() as screen:
        make_learner(cbs=[clock, ProgressCallback()]).fit(steps=5)
    assert screen.ever_showed(r"epoch 0 train: .* 1/3 \[.*, step 1 of 5, loss ")
    assert screen.ever_showed(r"epoch 1 train: .* 2/3 \[.*, step 5 of 5, loss ")


def test_into_a_pipe_a_short_pass_writes_no_line(make_learner, printed, clock):
    clock.tick = 10
    make_learner(cbs=[clock, ProgressCallback()]).fit(4)
    assert len(printed()) == 5


def test_a_pass_outside_a_fit_says_how_far_it_is_as_well(make_learner, printed, clock):
    clock.tick = 61
    make_learner(cbs=[clock, CountingLoss(), ProgressCallback()]).validate()
    assert printed() == ["valid · 1/2 · loss 1.0000", "valid · 2/2 · loss 1.0000, 0.262 samples/s"]


def test_the_bar_does_not_wait_for_a_curve_that_takes_long(monkeypatch):
    """Drawing the curve takes 1 s: not more than every 10 s, while the bar moves with each batch of 0.2 s."""
    clock = Clock()
    moved, drawn = [], []

    class Slow(progress.Curve):
        def draw(self):
            drawn.append(clock.now)
            clock.now += 1.0

    class Screen(progress_notebook.Notebook):
        def _show(self):
            moved.append(clock.now)

    for module in (progress, progress_notebook):
        monkeypatch.setattr(module, "perf_counter", clock)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress, "Curve", Slow)
    monkeypatch.setattr(progress, "Notebook", Screen)
    tiny_learner([clock, ProgressCallback(plot=True)]).fit(10)
    gaps = [b - a for a, b in pairwise(moved)]
    assert max(gaps) <= 1.0 + 2 * clock.tick + 1e-9
    assert min(b - a for a, b in pairwise(drawn[:-1])) >= 10


@pytest.mark.parametrize(("error", "epochs"), [(CancelFitException, ["0"]), (CancelEpochException, ["0", "1"])])
def test_the_reason_of_a_cancel_is_told(make_learner, printed, error, epochs):
    def stop(learn):
        if (learn.epoch, learn.dl_name, learn.i) == (0, "train", 1):
            raise error("the loss is too high")

    make_learner(cbs=[at("after_batch", stop), ProgressCallback()]).fit(2)
    lines = printed()
    assert lines[0] == "epoch 0 train, batch 1: ended, the loss is too high"
    assert [line.split()[0] for line in lines[1:] if not line.startswith("epoch")] == epochs


def test_a_cancel_without_a_reason_has_no_line_nor_has_one_in_a_sandbox(make_learner, printed):
    learn = make_learner(cbs=[stop_at("after_batch", CancelFitException, 0), ProgressCallback()])
    learn.fit(2)
    assert printed() == []
    learn = make_learner(cbs=[stop_at("after_batch", CancelFitException, 0), ProgressCallback()])
    with learn.sandbox():
        learn.fit(2)
    assert printed() == []
