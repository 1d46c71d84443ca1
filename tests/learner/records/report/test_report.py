"""The report of a run: all that is on record is on the page, and what is not whole costs no more than itself."""

import os
import sys

import numpy as np
import pytest

from learner import LearnerError
from learner.records import Run, Table
from learner.records.report.report import write_report
from tests.learner.records.report.reading import captions, notes, read, record


def test_all_that_is_on_record_is_on_the_page(whole):
    found = read(whole.path / "report.html")
    assert [one["text"] for one in found("h2")] == [
        "Curves", "Last values", "Samples of train", "Samples of valid", "Samples", "Figures", "What ran",
    ]  # fmt: skip
    pictures = ["How the samples were learned", "Loss", "Confusion matrix"]
    assert captions(found) == ["loss", "lr", *pictures, "Map of embeddings", *pictures, "weights"]
    assert [one["text"] for one in found("h3")][:2] == ["Labels most likely wrong"] * 2


def test_of_many_figures_the_first_are_shown(run):
    (run.path / "figures").mkdir()
    for i in range(45):
        (run.path / "figures" / f"{i:02d}.png").write_bytes(b"png")
    found = read(run.report())
    assert captions(found) == [f"{i:02d}" for i in range(40)]
    assert "5 more are in the folder `figures`." in [one["text"] for one in found("p")]


def test_ten_thousand_samples_make_a_page_that_can_be_sent(tmp_path):
    run = Run.create(tmp_path / "run")
    table = Table(_Noise(10_000))
    run.register_table(table)
    record(run, "train", 10_000, 0, table)
    path = run.report()
    assert path.read_text().count("<img") > 2000
    assert path.stat().st_size < 8e6  # pictures of noise, the worst there is


class _Noise:
    """Large pictures of noise, made when asked for."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i >= self.n:
            raise IndexError(i)
        return np.random.default_rng(i).integers(0, 256, (96, 96, 3), np.uint8)


def test_a_run_in_which_nothing_happened(run):
    found = read(run.report())
    assert [one["text"] for one in found("h2")] == ["What ran"]
    assert not found("div", "notes")


def test_without_pyarrow_the_rest_is_there_and_it_is_said_once(full, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = read(full.report())
    assert sum("learner-callbacks[records]" in one for one in notes(found)) == 1
    assert captions(found) == ["loss", "lr", "weights"]


def test_a_page_is_replaced_when_the_new_one_is_whole(full, monkeypatch):
    path = full.path / "report.html"
    path.write_text("the old one")
    monkeypatch.setattr("os.replace", _fails)
    with pytest.raises(LearnerError, match=r"report\.html` must be a file that can be written, got disk full"):
        full.report()
    assert path.read_text() == "the old one"


def _fails(*paths):
    raise OSError("disk full")


def test_a_page_may_be_written_elsewhere(run, tmp_path):
    write_report(run, tmp_path / "page.html")
    assert (tmp_path / "page.html").is_file()
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(LearnerError, match="must be a file that can be written"):
        write_report(run, tmp_path / "nowhere" / "page.html")


def test_words_that_no_encoding_knows(run):
    for epoch in (0, 1):
        run.log({"epoch": epoch, "loss \ud800": 1.0})
    assert captions(read(run.report())) == ["loss ?"]


def test_a_figure_that_is_a_link_out_of_the_folder_is_not_shown(run, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (run.path / "figures").mkdir()
    (run.path / "figures" / "loss.png").symlink_to(tmp_path / "secret")
    os.mkfifo(run.path / "figures" / "pipe.png")
    found = read(run.report())
    assert not found("img")
    assert [one.partition(":")[0] for one in notes(found)] == ["Figure loss", "Figure pipe"]
