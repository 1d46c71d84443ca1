"""What ran, at the head and at the end of a page."""

import json

import pytest
import torch

from learner.records import Run
from tests.learner.records.report.reading import EVIL, notes, read


def test_the_header_says_in_a_few_lines_what_ran(whole):
    found = read(whole.path / "report.html")
    assert found("h1")[0]["text"] == f"first {EVIL}"
    assert found("span", "status")[0]["text"] == "failed"
    header = " ".join(one["text"] for one in found("p", "quiet")[:3])
    for words in ("Net, 1,234 parameters", "shapes, 40 rows", f"torch {torch.__version__}", "lr 0.1", f"what {EVIL}"):
        assert words in header
    assert f"ValueError: {EVIL}" in found("div", "notes")[0]["text"]


def test_names_that_are_no_strings_are_text(run):
    odd = [EVIL, {"onclick": EVIL}]
    info = {**run.info, "name": odd, "config": {EVIL: odd}, "versions": {"torch": odd}, "command": ["a"]}
    info |= {"tables": {"f": {"name": odd, "n_rows": 3}, "g": {"name": {"onclick": EVIL}, "n_rows": 4}}, "error": odd}
    (run.path / "run.json").write_text(json.dumps(info))
    found = read(Run.open(run.path).report())
    assert len(found("script")) == 1
    assert not [one for one in found.found if "onclick" in one]
    assert {str(odd), str({"onclick": EVIL})} <= {one["text"] for one in found("th")}
    assert found("h1")[0]["text"] == str(odd)


@pytest.mark.parametrize("odd", [{"versions": 3}, {"learner": [1]}, {"tables": [{}]}, {"git": "x"}, {"command": 5}])
def test_what_makes_no_sense_costs_itself_alone(run, odd):
    run.log({"epoch": 0, "loss": 1.0})
    (run.path / "run.json").write_text(json.dumps({**run.info, **odd}))
    found = read(Run.open(run.path).report())
    assert found("h1")[0]["text"] == f"first {EVIL}"
    assert "Last values" in [one["text"] for one in found("h2")]
    assert notes(found)


def test_time_device_and_rates_are_told(run):
    rates = [[0.1 / (i + 1), 0.01] for i in range(40)]
    run.update(seconds=3723.4, learning_rates=rates, learner={"device": "cuda:0", "n_epochs": 40})
    found = read(run.report())
    facts = {head["text"]: cell["text"] for head, cell in zip(found("th"), found("td"), strict=True)}
    assert (facts["wall time"], facts["device"], facts["n epochs"]) == ("1:02:03", "cuda:0", "40")
    first, second = facts["learning rates by epoch"].split("; ")
    assert first.startswith("0.1 → 0.02 → ")
    assert first.count("→") == 11
    assert first.endswith("→ 0.0025")
    assert second == " → ".join(["0.01"] * 12) + " (12 of 40 epochs)"
    assert "1:02:03" in found("p", "quiet")[0]["text"]
    run.update(seconds=3.24, learning_rates=[[0.5]])
    assert "3.2 s" in read(run.report())("p", "quiet")[0]["text"]
