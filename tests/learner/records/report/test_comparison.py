"""The page that compares runs: what is on record is on it, and what is not whole costs no more than itself."""

import math
from statistics import mean, stdev

import pytest

from learner.records import Run, compare
from tests.learner.records.report.reading import EVIL, captions, make_images, notes, read, record, rows_of

TITLES = ["Runs", "What differs", "Curves", "Last values", "Right in one, wrong in another"]
LOSSES = {"a": [1.0, 0.5], "b": [1.2, 0.4], EVIL: [2.0, math.nan]}


@pytest.fixture
def runs(tmp_path):
    """Three runs: two that differ in their seed alone, and one of another rate that is hard to show."""
    table, made = make_images(), []
    for i, (name, losses) in enumerate(LOSSES.items()):
        config = {"lr": 0.1 if i < 2 else EVIL, "seed": i}
        run = Run.create(tmp_path / f"run{i}", config=config, name=name)
        for epoch, loss in enumerate(losses):
            run.log({"epoch": epoch, "train/loss": loss, "valid/loss": loss + 1, "lr": 0.1})
            record(run, "valid", 40 - 10 * (i == 2), epoch, table)
        run.update(status="finished", seconds=61.0, learner={"model": "Net", "n_parameters": 10 + i // 2})
        made.append(run)
    return made


def test_all_that_is_on_record_is_on_the_page(runs):
    path = compare(runs)
    found = read(path)
    assert [one["text"] for one in found("h2")] == TITLES
    assert captions(found) == ["train/loss", "valid/loss", "lr"]
    assert not found("div", "notes")
    assert [row["run"] for row in rows_of(path, "runs")] == list(LOSSES)
    assert {row["took"] for row in rows_of(path, "runs")} == {"0:01:01"}
    assert [row["fact"] for row in rows_of(path, "what differs")][:2] == ["config lr", "config seed"]
    last = {row["value"]: row for row in rows_of(path, "last values")}
    assert [last["train/loss"][name] for name in LOSSES] == ["0.5000", "0.4000", "nan"]


def test_runs_of_several_seeds_have_mean_and_standard_deviation(runs):
    spread = {row["mean ± standard deviation"]: row for row in rows_of(compare(runs), "spread over seeds")}
    (column,) = (name for name in spread["train/loss"] if name.endswith("2 seeds"))
    assert column == "lr 0.1, n parameters 10, 2 seeds"
    assert spread["train/loss"][column] == f"{mean([0.5, 0.4]):.4f} ± {stdev([0.5, 0.4]):.4f}"


def test_a_chart_has_a_line_for_each_run_and_of_many_runs_there_are_several(tmp_path):
    made = [Run.create(tmp_path / str(i)) for i in range(8)]
    for run in made:
        for epoch in range(2):
            run.log({"epoch": epoch, "loss": epoch})
    found = read(compare(made))
    assert captions(found) == ["loss", "loss"]
    assert len(found("polyline")) == 8
    assert [one["text"] for one in found("h1")] == ["8 runs, compared"]


def test_it_asks_for_nothing_and_runs_nothing_else(runs, browser):
    path = compare(runs)
    html = path.read_text()
    assert "default-src 'none'" in html
    assert not any(one.get("src", "data:")[:5] != "data:" for one in read(path).found)
    assert not any(one.get("href", "#")[0] != "#" for one in read(path).found)
    assert EVIL not in html
    dom, console = browser(path)
    assert not console
    assert '<html lang="en" class="js">' in dom


def test_runs_of_other_metrics_are_said_to_have_nothing_in_common(tmp_path):
    one, other = (Run.create(tmp_path / name) for name in ("one", "other"))
    one.log({"epoch": 0, "mse": 1.0})
    other.log({"step": 0, "perplexity": 1.0})
    path = compare([one, other])
    words = "No value was logged by more than one of these runs under the same name."
    assert words in [text["text"] for text in read(path)("p")]
    assert {row["value"] for row in rows_of(path, "last values")} == {"mse", "perplexity"}


def test_runs_with_nothing_on_record(tmp_path):
    path = compare([Run.create(tmp_path / name) for name in ("one", "other")])
    assert [one["text"] for one in read(path)("h2")] == TITLES[:2]


def test_what_cannot_be_read_costs_no_more_than_itself(runs):
    (runs[0].path / "scalars.jsonl").write_text('{"epoch": 0, "loss"\n{"epoch": 1, "loss": 1}\n')
    next((runs[1].path / "samples").iterdir()).write_bytes(b"not parquet")
    runs[2].update(config=3, tables=None)
    path = compare(runs)
    found = read(path)
    told = notes(found)
    assert any(line.startswith("Scalars of a: ") for line in told)
    assert any(line.startswith("Samples: ") for line in told)
    assert [one["text"] for one in found("strong")] == ["Not all of these runs could be shown"]
    assert {"Runs", "What differs", "Curves"} <= {one["text"] for one in found("h2")}
