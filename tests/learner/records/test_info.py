"""`run.json`: plain data comes back, what is not plain is refused, a file that is not whole is named."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from learner import LearnerError
from learner.records.info import plain, read_info, write_info
from tests.learner.records.recorded import full_disk

INFO = {"format": 1, "name": "a", "created": "2025", "status": "created", "config": {}, "tables": {}}


def test_what_is_written_is_read(tmp_path):
    write_info(tmp_path, {**INFO, "config": {"größe": [1, 0.1, None, True, {"a": "b"}]}})
    assert read_info(tmp_path)["config"] == {"größe": [1, 0.1, None, True, {"a": "b"}]}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert (tmp_path / "run.json").read_text().startswith('{\n  "format": 1')  # for a person


def test_numbers_paths_and_tuples_become_plain():
    given = {
        "lr": np.float64(0.1),
        "n": np.int32(3),
        "t": torch.tensor(0.5),
        "betas": (0.9, [0.99]),
        "path": Path("a/b"),
        "inf": math.inf,
        "nan": math.nan,
        "none": None,
        "flag": np.bool_(True),
        "inner": {"deep": (1,)},
    }
    kept = {
        "lr": 0.1,
        "n": 3,
        "t": 0.5,
        "betas": [0.9, [0.99]],
        "path": "a/b",
        "inf": "inf",
        "nan": "nan",
        "none": None,
        "flag": True,
        "inner": {"deep": [1]},
    }
    assert plain("config", given) == kept == json.loads(json.dumps(plain("config", given)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"opt": torch.optim.SGD}, r"`config\['opt'\]` must be a number, a string, None"),
        ({"a": {"b": [0, object()]}}, r"`config\['a'\]\['b'\]\[1\]` must be a number, .* got object; do `str"),
        ({"w": torch.ones(2)}, r"`config\['w'\]` must be a number, .* got Tensor\(2,\) float32"),
        ({"names": {0: "cat"}}, r"`config\['names'\]` must have strings as keys, got 0; do `str\(key\)`"),
        ({"a": {1, 2}}, r"`config\['a'\]` must be a number"),
    ],
)
def test_what_has_no_plain_form_is_refused(value, message):
    with pytest.raises(TypeError, match=message):
        plain("config", value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "whose run.json is not there"),
        ("", r"whose run.json is cut short or damaged \("),
        (json.dumps(INFO)[:-5], "whose run.json is cut short or damaged"),
        ("\x00\x00", "whose run.json is cut short or damaged"),
        ("[]", "whose run.json is none of format 1"),
        (json.dumps({**INFO, "format": 2}), "whose run.json is none of format 1"),
        ('{"format": 1}', "whose run.json is none of format 1"),
    ],
)
def test_a_file_that_is_not_whole_says_so_and_how_to_read_the_samples(tmp_path, text, message):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(LearnerError, match=rf"{message}.*Its samples may still be read: `Samples\(sorted"):
        read_info(tmp_path)


def test_the_old_file_is_there_until_the_new_one_is(tmp_path):
    write_info(tmp_path, INFO)
    error = r"run\.json` must be a file that can be written.*File too large"
    with full_disk(30), pytest.raises(LearnerError, match=error):
        write_info(tmp_path, {**INFO, "status": "finished"})
    assert read_info(tmp_path) == INFO
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def deep(text="[" * 100_000):
    return '{"format": 1, "config": ' + text


ODD = {
    "created": {**INFO, "created": 3},
    "config": {**INFO, "config": [1]},
    "status": {**INFO, "status": None},
    "info": [1],
}


@pytest.mark.parametrize("text", [*map(json.dumps, ODD.values()), deep()], ids=[*ODD, "deep"])
def test_what_others_wrote_is_as_this_wrote_it_or_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(LearnerError, match=r"whose run.json is (none of format 1|cut short or damaged)"):
        read_info(tmp_path)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_ordinary_file_is_not_waited_for_nor_followed(tmp_path, kind):
    path, elsewhere = tmp_path / "run.json", tmp_path / "elsewhere"
    elsewhere.write_text(json.dumps(INFO))
    {"link": lambda: path.symlink_to(elsewhere), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    with pytest.raises(LearnerError, match=r"whose run.json cannot be read"):
        read_info(tmp_path)
