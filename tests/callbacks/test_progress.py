import fcntl
import io
import itertools
import os
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
import torch
from torch import Tensor

from callbacks import progress as module
from callbacks.progress import ProgressCallback
from learner import Callback, CancelEpochException, CancelFitException, Learner, Loaders

MakeLearner = Callable[..., Learner]


class Clock(Callback):
    """A clock that stands still, or as a callback goes on by some seconds at each batch."""

    now, tick = 0.0, 0.2

    def __call__(self) -> float:
        return self.now

    def before_epoch(self, learn: Learner) -> None:
        self.now += self.tick

    def before_batch(self, learn: Learner) -> None:
        self.now += self.tick


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Take the place of the clock."""
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    return clock


class Terminal(io.StringIO):
    """A terminal's screen: knows carriage return, line feed and cursor up, which is all that tqdm asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[list[str]] = []  # what was to be seen after each write

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        n = super().write(text)
        self.frames.append(self.screen())
        return n

    def showed(self, pattern: str) -> bool:
        return any(re.match(pattern, line) for frame in self.frames for line in frame)

    def screen(self) -> list[str]:
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\r|\n|\x1b\[A|[^\r\n\x1b]+", self.getvalue()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif part == "\x1b[A":
                row -= 1
            else:
                line = lines[row].ljust(column)
                lines[row], column = line[:column] + part + line[column + len(part) :], column + len(part)
        return [line.rstrip() for line in lines if line.strip()]


@contextmanager
def in_terminal() -> Iterator[Terminal]:
    """Have standard output and error on one screen."""
    terminal = Terminal()
    with redirect_stdout(terminal), redirect_stderr(terminal):
        yield terminal


class Known(Callback):
    """Put known numbers in place of the loss: 1.0 for the first pass of a loader, 2.0 for the second, ..."""

    def __init__(self) -> None:
        self.n = {"train": 0, "valid": 0}

    def before_epoch(self, learn: Learner) -> None:
        self.n[learn.dl_name] += 1

    def after_loss(self, learn: Learner) -> None:
        learn.loss = learn.loss * 0 + self.n[learn.dl_name]


class Raise(Callback):
    """Raise an error at a signal of a pass."""

    def __init__(self, error: type[BaseException], signal: str, epoch: int, loader: str = "train") -> None:
        self.error, self.epoch, self.loader = error, epoch, loader
        setattr(self, signal, self.throw)

    def throw(self, learn: Learner) -> None:
        if learn.epoch == self.epoch and learn.dl_name == self.loader:
            raise self.error("stop")


HEADER = "epoch  train/loss  valid/loss      time"


# -- plain lines -------------------------------------------------------------------------------------------------


def test_piped_it_writes_plain_lines(make_learner: MakeLearner, capsys: pytest.CaptureFixture[str]) -> None:
    class Log(Callback):
        def after_batch(self, learn: Learner) -> None:
            if not learn.training:
                learn.log(accuracy=0.5)

    learn = make_learner(cbs=[Known(), Log(), ProgressCallback()])
    learn.fit(2)
    out, err = capsys.readouterr()
    assert out == (
        "epoch  train/loss  valid/loss  valid/accuracy      time\n"
        "    0      1.0000      1.0000          0.5000      0.0s\n"
        "    1      2.0000      2.0000          0.5000      0.0s\n"
    )
    assert err == ""


def test_a_second_fit_has_a_table_of_its_own_and_counts_on(
    make_learner: MakeLearner, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = make_learner(cbs=[Known(), ProgressCallback()])
    learn.fit(1)
    learn.fit(1)
    assert capsys.readouterr().out.splitlines() == [
        HEADER,
        "    0      1.0000      1.0000      0.0s",
        HEADER,
        "    1      2.0000      2.0000      0.0s",
    ]
    assert [row["epoch"] for row in learn.history] == [0, 1]


@pytest.mark.parametrize(("step", "shown"), [(0.0625, "0.4s"), (8.5, "51.0s"), (10.0, "01:00"), (600.0, "1:00:00")])
def test_time_of_a_round(
    make_learner: MakeLearner, capsys: pytest.CaptureFixture[str], clock: Clock, step: float, shown: str
) -> None:
    clock.tick = step  # at each of 5 batches and of 2 passes
    make_learner(cbs=[clock, ProgressCallback()]).fit(1)
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == shown


def test_a_row_is_there_as_soon_as_its_last_loader_is_done(
    make_learner: MakeLearner, capsys: pytest.CaptureFixture[str]
) -> None:
    class Look(Callback):
        def before_epoch(self, learn: Learner) -> None:
            seen.append(capsys.readouterr().out.count("\n"))

        def after_fit(self, learn: Learner) -> None:
            seen.append(capsys.readouterr().out.count("\n"))

    seen: list[int] = []
    make_learner(cbs=[ProgressCallback(), Look()]).fit(2)
    assert seen == [0, 0, 2, 0, 1]


def test_rows_are_flushed(make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Out(io.StringIO):
        n_lines = 0

        def flush(self) -> None:
            self.n_lines = self.getvalue().count("\n")

    out = Out()
    monkeypatch.setattr(sys, "stdout", out)
    seen = []
    cb = ProgressCallback()
    make_learner(cbs=[cb, type("Look", (), {"after_fit": lambda self, learn: seen.append(out.n_lines)})()]).fit(2)
    assert seen == [3]


def test_new_columns_come_with_a_header_in_the_order_of_the_loaders(
    make_learner: MakeLearner, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = make_learner(cbs=[Known(), ProgressCallback(), Raise(CancelEpochException, "after_step", 0)])
    learn.fit(2)
    assert capsys.readouterr().out.splitlines() == [
        "epoch  valid/loss      time",
        "    0      1.0000      0.0s",
        HEADER,
        "    1      2.0000      2.0000      0.0s",
    ]


# -- passes that end early ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["before_epoch", "before_batch", "after_loss"])
def test_a_cancelled_pass_leaves_blanks(
    make_learner: MakeLearner, capsys: pytest.CaptureFixture[str], signal: str
) -> None:
    make_learner(cbs=[Known(), ProgressCallback(), Raise(CancelEpochException, signal, 1, "valid")]).fit(2)
    assert capsys.readouterr().out.splitlines() == [
        HEADER,
        "    0      1.0000      1.0000      0.0s",
        "    1      2.0000                  0.0s",
    ]


def test_a_round_of_which_nothing_finished_has_an_empty_row_if_the_fit_goes_on(
    make_learner: MakeLearner, dls: Loaders, capsys: pytest.CaptureFixture[str]
) -> None:
    cbs = [Known(), ProgressCallback(), *(Raise(CancelEpochException, "after_step", epoch) for epoch in (1, 3))]
    make_learner(dls={"train": dls["train"]}, cbs=cbs).fit(4)
    assert capsys.readouterr().out.splitlines() == [
        "epoch  train/loss      time",
        "    0      1.0000      0.0s",
        "    1                  0.0s",
        "    2      3.0000      0.0s",
        "    3                  0.0s",
    ]


@pytest.mark.parametrize("error", [CancelFitException, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("loader", ["train", "valid"])
def test_an_interrupted_round_has_a_row_if_anything_of_it_finished(
    make_learner: MakeLearner, capsys: pytest.CaptureFixture[str], error: type[BaseException], loader: str
) -> None:
    learn = make_learner(cbs=[Known(), ProgressCallback(), Raise(error, "after_loss", 1, loader)])
    if error is CancelFitException:
        learn.fit(3)
    else:
        with pytest.raises(error, match="stop"):
            learn.fit(3)
    rows = [HEADER, "    0      1.0000      1.0000      0.0s"]
    rows += ["    1      2.0000                  0.0s"] if loader == "valid" else []
    assert capsys.readouterr().out.splitlines() == rows
    assert len(learn.history) == len(rows) - 1


def test_an_error_before_anything_finished_leaves_no_table(
    make_learner: MakeLearner, dls: Loaders, capsys: pytest.CaptureFixture[str]
) -> None:
    for loaders in (dls, {"train": dls["train"]}):
        learn = make_learner(dls=loaders, cbs=[ProgressCallback(), Raise(RuntimeError, "after_loss", 0)])
        with pytest.raises(RuntimeError, match="stop"):
            learn.fit(1)
    assert capsys.readouterr().out == ""


def test_a_fit_after_a_broken_one_is_as_ever(make_learner: MakeLearner) -> None:
    learn = make_learner(cbs=[Known(), ProgressCallback()])
    with in_terminal() as terminal:
        with pytest.raises(KeyboardInterrupt, match="stop"):
            learn.fit(1, cbs=Raise(KeyboardInterrupt, "after_loss", 0))
        assert terminal.screen() == []
        learn.fit(1)
    assert terminal.screen() == [HEADER, "    0      2.0000      1.0000      0.0s"]


# -- passes beside the fit ---------------------------------------------------------------------------------------


class ValidateAt(Callback):
    def __init__(self, signal: str) -> None:
        setattr(self, signal, self.validate)

    def validate(self, learn: Learner) -> None:
        if learn.dl_name != "valid" and learn.i in (0, 2):
            learn.validate()
            learn.get_preds()


@pytest.mark.parametrize("signal", ["before_fit", "before_epoch", "after_batch", "after_epoch", "after_fit"])
def test_passes_that_somebody_asks_for_have_no_row(
    make_learner: MakeLearner, capsys: pytest.CaptureFixture[str], signal: str
) -> None:
    learn = make_learner(cbs=[ProgressCallback(), ValidateAt(signal)])
    learn.fit(2)
    assert [line.split()[:-1] for line in capsys.readouterr().out.splitlines()] == [
        ["epoch", "train/loss", "valid/loss"],
        *([str(row["epoch"]), f"{row['train/loss']:.4f}", f"{row['valid/loss']:.4f}"] for row in learn.history),
    ]


def test_after_the_last_round_a_pass_over_the_training_loader_has_no_row(
    make_learner: MakeLearner, capsys: pytest.CaptureFixture[str]
) -> None:
    class Last(Callback):
        def after_fit(self, learn: Learner) -> None:
            learn.validate("train")

    make_learner(cbs=[ProgressCallback(), Last()]).fit(1)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_outside_a_fit_there_is_a_bar_alone(make_learner: MakeLearner) -> None:
    learn = make_learner(cbs=ProgressCallback())
    with in_terminal() as terminal:
        learn.validate()
        learn.get_preds()
    assert terminal.showed("valid:   0%")
    assert terminal.screen() == []


def test_in_a_sandbox_there_is_a_bar_alone(make_learner: MakeLearner) -> None:
    learn = make_learner(cbs=ProgressCallback())
    with in_terminal() as terminal, learn.sandbox():
        learn.fit(2)
    assert terminal.showed("epoch 0 train:   0%")
    assert terminal.screen() == []


# -- bars ----------------------------------------------------------------------------------------------------------


def test_bars_in_a_terminal_vanish_and_rows_stay(make_learner: MakeLearner, clock: Clock) -> None:
    with in_terminal() as terminal:
        make_learner(cbs=[clock, Known(), ProgressCallback()]).fit(2)
    bars = [re.fullmatch(r"(.*):.*\| (\d+/\d+) \[.*?(?:loss (.*))?\]", frame[-1]) for frame in terminal.frames if frame]
    assert [bar for bar, _ in itertools.groupby(bar.groups() for bar in bars if bar)] == [
        *(("epoch 0 train", f"{n}/3", "1.0000" if n else None) for n in range(4)),
        *(("epoch 0 valid", f"{n}/2", "1.0000" if n else None) for n in range(3)),
        *(("epoch 1 train", f"{n}/3", "2.0000" if n else None) for n in range(4)),
        *(("epoch 1 valid", f"{n}/2", "2.0000" if n else None) for n in range(3)),
    ]
    assert terminal.screen() == [
        HEADER,
        "    0      1.0000      1.0000      1.2s",
        "    1      2.0000      2.0000      1.2s",
    ]


def test_a_validation_within_a_pass_has_its_bar_below_and_the_outer_one_goes_on(
    make_learner: MakeLearner, clock: Clock
) -> None:
    with in_terminal() as terminal:
        make_learner(cbs=[clock, ProgressCallback(), ValidateAt("after_batch")]).fit(1)
    labels = [[line.split(":")[0] for line in frame] for frame in terminal.frames]
    assert ["epoch 0 train", "epoch 0 valid"] in labels
    last = max(i for i, frame in enumerate(labels) if frame[:1] == ["epoch 0 train"])
    assert "2/3" in terminal.frames[last][0]  # the third batch falls into the pause
    assert [line.split()[0] for line in terminal.screen()] == ["epoch", "0"]


def test_a_loader_without_a_length(make_learner: MakeLearner, clock: Clock) -> None:
    with in_terminal() as terminal:
        make_learner(dls={"train": Stream()}, cbs=[clock, ProgressCallback()]).fit(1)
    assert terminal.showed(r"epoch 0 train: 3it \[.*loss \d")


def test_a_loader_replaced_in_before_epoch(make_learner: MakeLearner, clock: Clock) -> None:
    class First(Callback):
        def before_epoch(self, learn: Learner) -> None:
            learn.dl = list(learn.dl)[:1]

    with in_terminal() as terminal:
        make_learner(cbs=[clock, First(), ProgressCallback()]).fit(1)
    assert terminal.showed("epoch 0 train: 100%.* 1/1")


class LossReads:
    """Count how often a tensor is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 0
        real = Tensor.item

        def item(tensor: Tensor) -> Any:
            self.n += 1
            return real(tensor)

        monkeypatch.setattr(Tensor, "item", item)


def many(n: int) -> dict[str, Any]:
    return {"train": [(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))] * n}


class Stream:
    """Three batches, without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(many(3)["train"])


def test_the_loss_is_read_at_most_ten_times_a_second(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    clock.tick = 0.01
    reads = LossReads(monkeypatch)
    with in_terminal() as terminal:
        make_learner(dls=many(200), cbs=[clock, ProgressCallback()]).fit(2)  # 4 seconds
    assert 35 <= reads.n <= 40
    assert terminal.getvalue().count(", loss ") == reads.n


def test_passes_too_short_to_be_seen_are_not_drawn(make_learner: MakeLearner) -> None:
    with in_terminal() as terminal:
        make_learner(cbs=ProgressCallback()).fit(5)
    assert re.findall("epoch . (?:train|valid):", terminal.getvalue()) == ["epoch 0 train:"]


def test_slow_drawing_is_drawn_less_often(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def move(self: Any, n: int, total: int | None, note: str) -> None:
        clock.now += 0.2

    clock.tick = 0.1
    monkeypatch.setattr(module._Terminal, "move", move)
    reads = LossReads(monkeypatch)
    with in_terminal():
        make_learner(dls=many(200), cbs=[clock, ProgressCallback()]).fit(1)
    assert 8 <= reads.n <= 10  # a tenth of 20 seconds at 0.2 seconds each


def test_the_loss_is_not_read_where_nothing_is_drawn(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    reads = LossReads(monkeypatch)
    make_learner(dls=many(20), cbs=[clock, ProgressCallback()]).fit(1)
    assert reads.n == 0


def test_it_only_looks_and_starts_no_thread(make_learner: MakeLearner, clock: Clock) -> None:
    class Look(Callback):
        def after_batch(self, learn: Learner) -> None:
            seen.append((learn.dl is learn.dls[learn.dl_name], learn.epochs))

    seen: list[Any] = []
    weights = []
    for cbs in ([], [ProgressCallback(plot=True)]):
        learn = make_learner(cbs=[*cbs, clock, Look()])
        torch.manual_seed(0)
        with in_terminal():
            learn.fit(2)
        weights.append([p.detach() for p in learn.model.parameters()])
    assert set(seen) == {(True, range(2))}
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert not any(type(thread).__name__ == "TMonitor" for thread in threading.enumerate())


def test_in_a_real_terminal(make_learner: MakeLearner) -> None:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(slave, "w") as tty:
        with redirect_stdout(tty), redirect_stderr(tty):
            make_learner(cbs=[Known(), ProgressCallback()]).fit(1)
        text = os.read(master, 65536).decode()
    os.close(master)
    screen = Terminal()
    screen.write(text.replace("\r\n", "\n"))  # a terminal makes the one of the other
    assert "epoch 0 train:   0%" in text
    assert screen.screen() == [HEADER, "    0      1.0000      1.0000      0.0s"]


# -- Jupyter -------------------------------------------------------------------------------------------------------


class Notebook:
    """What stands under a cell: each output with all that it showed, one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outputs: list[list[dict[str, str]]] = []
        monkeypatch.setattr("IPython.display.display", self.display)
        monkeypatch.setattr(module, "in_notebook", lambda: True)

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Handle":
        assert raw
        assert display_id
        self.outputs.append([data])
        return Handle(self.outputs[-1])

    @property
    def html(self) -> list[list[str]]:
        return [[data["text/html"] for data in output] for output in self.outputs]


class Handle:
    def __init__(self, output: list[dict[str, str]]) -> None:
        self.output = output

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.output.append(data)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    return Notebook(monkeypatch)


def cells(html: str) -> list[list[str]]:
    """Return the cells of a table, row by row."""
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>.*?</tr>", html, re.DOTALL)]


def test_in_jupyter_there_is_one_output_a_fit_and_its_table_stays(
    make_learner: MakeLearner, notebook: Notebook, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = make_learner(cbs=[clock, Known(), ProgressCallback()])
    learn.fit(2)
    learn.fit(1)
    assert len(notebook.outputs) == 2
    shown = notebook.html[0]
    bars = [re.search(r"<progress(.*?)></progress> (epoch \d \w+ \d+/\d+)", html) for html in shown[:-1]]
    assert [bar.groups() for bar in bars if bar][:5] == [
        (' value="0" max="3"', "epoch 0 train 0/3"),
        (' value="1" max="3"', "epoch 0 train 1/3"),
        (' value="2" max="3"', "epoch 0 train 2/3"),
        (' value="3" max="3"', "epoch 0 train 3/3"),
        (' value="0" max="2"', "epoch 0 valid 0/2"),
    ]
    assert any("loss 1.0000" in html for html in shown)
    assert "<progress" not in shown[-1]
    assert [row[:3] for row in cells(shown[-1])] == [
        ["epoch", "train/loss", "valid/loss"],
        ["0", "1.0000", "1.0000"],
        ["1", "2.0000", "2.0000"],
    ]
    assert [line.split()[:3] for line in notebook.outputs[0][-1]["text/plain"].splitlines()] == [
        row[:3] for row in cells(shown[-1])
    ]
    assert capsys.readouterr() == ("", "")


def test_in_jupyter_it_is_drawn_at_most_ten_times_a_second(
    make_learner: MakeLearner, notebook: Notebook, clock: Clock
) -> None:
    clock.tick = 0.01
    make_learner(dls=many(3), cbs=[clock, ProgressCallback()]).fit(100)  # 4 seconds, a row each 0.04
    assert 35 <= len(notebook.html[0]) <= 42
    assert len(cells(notebook.html[0][-1])) == 101


def test_in_jupyter_an_interrupted_fit_leaves_its_rows(make_learner: MakeLearner, notebook: Notebook) -> None:
    learn = make_learner(cbs=[Known(), ProgressCallback(), Raise(KeyboardInterrupt, "after_loss", 1, "valid")])
    with pytest.raises(KeyboardInterrupt, match="stop"):
        learn.fit(3)
    assert len(notebook.outputs) == 1
    assert cells(notebook.html[0][-1])[1:] == [["0", "1.0000", "1.0000", "0.0s"], ["1", "2.0000", "", "0.0s"]]
    assert "<progress" not in notebook.html[0][-1]


def test_in_jupyter_passes_beside_the_fit(make_learner: MakeLearner, notebook: Notebook, clock: Clock) -> None:
    learn = make_learner(cbs=[clock, ProgressCallback(), ValidateAt("after_batch")])
    learn.fit(1)
    assert any(html.count("<progress") == 2 for html in notebook.html[0])
    assert len(notebook.outputs) == 1
    learn.validate()
    assert len(notebook.outputs) == 1  # too short to leave an empty line in the cell for
    clock.tick = 0.6
    learn.validate()
    assert len(notebook.outputs) == 2
    assert "<progress" in notebook.html[1][0]
    assert notebook.html[1][-1] == ""
    with learn.sandbox():
        learn.fit(1)
    assert len(notebook.outputs) == 3
    assert notebook.html[2][-1] == ""


def test_in_jupyter_a_loader_without_a_length(make_learner: MakeLearner, notebook: Notebook, clock: Clock) -> None:
    make_learner(dls={"train": Stream()}, cbs=[clock, ProgressCallback()]).fit(1)
    assert any("<progress></progress> epoch 0 train 3/? [" in html for html in notebook.html[0])


def test_a_fit_of_no_epochs_shows_nothing(make_learner: MakeLearner, notebook: Notebook) -> None:
    make_learner(cbs=ProgressCallback()).fit(0)
    assert notebook.outputs == []


def test_names_are_escaped(make_learner: MakeLearner, notebook: Notebook, dls: Loaders) -> None:
    make_learner(dls={"train<b>": dls["train"]}, cbs=ProgressCallback()).fit(1)
    assert "train&lt;b&gt;/loss" in notebook.html[0][-1]
    assert "<b>" not in "".join(notebook.html[0])


class Drawn:
    """Take the place of a figure's axes, and keep what is drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from matplotlib.axes import Axes

        self.lines: list[dict[str, tuple[list[float], list[float]]]] = []
        real = Axes.legend

        def legend(ax: Any) -> Any:
            self.lines.append({line.get_label(): tuple(map(list, line.get_data())) for line in ax.lines})
            return real(ax)

        monkeypatch.setattr(Axes, "legend", legend)


def test_plot_draws_each_training_loss_and_the_means_of_other_loaders(
    make_learner: MakeLearner, notebook: Notebook, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    class Losses(Callback):
        def after_batch(self, learn: Learner) -> None:
            if learn.training:
                losses.append(float(learn.loss.detach()))

    losses: list[float] = []
    drawn = Drawn(monkeypatch)
    learn = make_learner(cbs=[clock, Losses(), ProgressCallback(plot=True)])
    learn.fit(2)
    assert drawn.lines[-1] == {
        "train": ([1, 2, 3, 4, 5, 6], losses),
        "valid": ([3, 6], [row["valid/loss"] for row in learn.history]),
    }
    assert re.search(r'<img src="data:image/png;base64,iVBORw0KGgo[^"]+" alt="loss curve">', notebook.html[0][-1])
    assert len(notebook.outputs) == 1
    n_drawn = len(drawn.lines)
    with learn.sandbox():
        learn.fit(1)
    learn.validate()
    assert len(drawn.lines) == n_drawn


def test_a_long_curve_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    curve = module._Curve()
    curve.new = list(torch.arange(5000.0))
    curve.image()
    xs, ys = drawn.lines[-1]["train"]
    assert xs[:3] == [1, 4, 7]
    assert ys[:3] == [0.0, 3.0, 6.0]
    assert len(xs) <= 2000


def test_plot_outside_jupyter_draws_nothing(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = Drawn(monkeypatch)
    make_learner(cbs=[Known(), ProgressCallback(plot=True)]).fit(1)
    assert drawn.lines == []
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.notebook
def test_in_a_saved_notebook_the_table_is_there() -> None:
    code = """
        import torch
        from callbacks import ProgressCallback
        from learner import Learner, Loaders
        x = torch.zeros(32, 3)
        dls = Loaders.from_arrays(train=(x, x), valid=(x, x), batch_size=4)
        learn = Learner(torch.nn.Linear(3, 3), dls, torch.nn.functional.mse_loss, cbs=ProgressCallback(plot=True))
        learn.fit(2)"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("\n".join(map(str.strip, code.split("\n"))))])
    root = str(Path(__file__).parents[2])
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": root}}).execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    assert [row[:1] for row in cells(output.data["text/html"])] == [["epoch"], ["0"], ["1"]]
    assert "<progress" not in output.data["text/html"]
    assert "<img" in output.data["text/html"]
    assert output.data["text/plain"].split()[:4] == ["epoch", "train/loss", "valid/loss", "time"]
