"""Bars and rows, in a terminal and where there is none. How all of it looks: see test_progress."""

import io
from contextlib import redirect_stderr

from callbacks.show.progress_terminal import Bar, Terminal


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_begins_where_the_fit_goes_on():
    screen = Screen()
    with redirect_stderr(screen):
        terminal = Terminal()
        terminal.open("epoch 1 train", 90)
        assert (terminal.bars[0].initial, terminal.bars[0].n) == (90, 90)  # its speed counts from there
        assert screen.getvalue() == ""  # not drawn before it has moved
        terminal.move(92, 100, "loss 0.5")
        assert "92/100" in screen.getvalue()
        assert "loss 0.5" in screen.getvalue()
        terminal.close()
    assert terminal.bars == []


def test_without_a_terminal_there_are_lines(capsys):
    terminal = Terminal()
    assert (terminal.is_plain, terminal.pause, terminal.patience) == (True, 60, 60)
    terminal.open("epoch 1 train", 0)
    terminal.open("valid", 0)
    terminal.move(2, 10, "loss 0.5")
    terminal.close()
    terminal.move(3, None, "")
    terminal.close()
    assert capsys.readouterr().out.splitlines() == ["valid · 2/10 · loss 0.5", "epoch 1 train · 3"]


def test_a_header_is_written_when_the_columns_change(capsys):
    terminal = Terminal()
    for columns in (["epoch", "time"], ["epoch", "time"], ["epoch", "loss", "time"]):
        terminal.add_row(columns, {"epoch": "0", "time": "1s"})
    terminal.end()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["epoch", "time"],
        ["0", "1s"],
        ["0", "1s"],
        ["epoch", "loss", "time"],
        ["0", "1s"],
    ]


def test_a_bar_starts_no_thread(monkeypatch):
    monkeypatch.setattr(Bar, "monitor", None)  # another bar of this process may have started one
    with redirect_stderr(Screen()), Bar(total=3):
        assert Bar.monitor is None
