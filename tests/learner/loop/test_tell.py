"""What only tells ends nothing: no console, one that is closed, one without the characters."""

import ast
import io
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from callbacks import (
    AccumulateCallback,
    CheckpointCallback,
    EarlyStoppingCallback,
    OverfitCallback,
    ProgressCallback,
)
from learner import Learner
from learner.loop.tell import tell

ROOT = Path(__file__).parents[3]


class Broken(io.StringIO):
    """A pipe of which the other end is gone."""

    def flush(self):
        raise BrokenPipeError


def ascii_only():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {"none": lambda: None, "closed": closed, "broken": Broken, "ascii": ascii_only}


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_line_is_written_and_flushed(monkeypatch, name):
    file = io.BytesIO()
    monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding="utf-8"))
    tell("fünf Zeilen", to=name)
    assert file.getvalue().decode() == "fünf Zeilen\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_character_that_a_console_has_not_is_written_by_its_number(monkeypatch, encoding):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding=encoding))
    tell("in 训练/\udcff")
    assert file.getvalue() == b"in \\u8bad\\u7ec3/\\udcff\n"


@pytest.mark.parametrize("stream", STREAMS)
def test_a_fit_that_tells_all_there_is_to_tell_ends_well(monkeypatch, tmp_path, stream):
    data = [(torch.ones(2, 3), torch.ones(2, 1))]

    def learner(*cbs):
        dls = {"train": data, "valid": data, "valid_läufe": data}
        return Learner(nn.Linear(3, 1), dls, nn.functional.mse_loss, cbs=[*cbs, ProgressCallback()])

    monkeypatch.setattr(sys, "stdout", STREAMS[stream]())
    monkeypatch.setattr(sys, "stderr", STREAMS[stream]())
    learner().plan()
    learner(OverfitCallback()).fit(1)
    learner(AccumulateCallback(2)).fit(1, overfit=True)
    learner(EarlyStoppingCallback(patience=1, min_delta=9.0)).fit(3)
    folder = tmp_path / "läufe 训练"
    for n_epochs in (1, 2, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)  # of loaders whose order is not known
            learner(CheckpointCallback(folder)).fit(n_epochs, resume=True)
    learner(CheckpointCallback(folder)).fit(1)  # sets aside what is there


def test_nothing_else_writes_to_the_console():
    found = []
    for file in sorted(file for package in ("learner", "callbacks") for file in (ROOT / package).rglob("*.py")):
        if file.stem in ("__main__", "tell"):  # a program of its own
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            is_stream = isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("sys.stdout.", "sys.stderr."))
            found += [f"{file.name}:{node.lineno}"] if is_print or is_stream else []
    assert found == []


def test_of_several_processes_one_tells_but_each_has_its_errors(monkeypatch, capsys):
    monkeypatch.setattr("learner.loop.tell.is_other_process", lambda: True)
    tell("resume: goes on")
    tell("SIGTERM: stops", to="stderr")
    assert capsys.readouterr() == ("", "SIGTERM: stops\n")
