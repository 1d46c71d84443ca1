"""Batches whose loss is far out, on the page of a run."""

import numpy as np
import pytest
import torch
from torch import nn

from callbacks import CheckpointCallback, ClassificationMetricsCollector, CollectCallback, RunCallback
from learner import Learner, Loaders
from learner.records import Run
from learner.records.report.far_out import far_out, far_out_of
from tests.learner.records.report.reading import read, tags


def test_those_are_found_that_are_far_above_their_neighbours_and_no_others():
    rng = np.random.default_rng(0)
    losses = 3 * np.exp(-np.arange(2000) / 500) + 0.1 * rng.normal(size=2000)
    assert far_out_of(losses) == []
    losses[[40, 1003]] = 9.0, 4.0  # which is less than the first ones are by themselves
    losses[1500], losses[1700:1710] = np.nan, -np.inf
    assert far_out_of(losses) == [1500, 1003, 40]


@pytest.mark.parametrize("losses", [[], [1.0], [-np.inf] * 3, [2.0] * 60, [np.nan] * 60], ids=str)
def test_of_few_or_odd_losses_nothing_fails(losses):
    assert len(far_out_of(np.array(losses))) == (60 if losses and np.isnan(losses[0]) else 0)


def test_of_a_million_losses_the_one_far_out_is_found():
    losses = np.random.default_rng(0).normal(size=1_000_000)
    losses[777_777] = 50
    assert far_out_of(losses)[0] == 777_777


def test_the_page_names_the_batch_its_samples_and_the_code_that_goes_there(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    y = (x.sum(dim=1) > 0).long()
    x[77], y[77] = x[77] * 300, 1 - y[77]
    run = Run.create(tmp_path / "run")
    collect = CollectCallback(ClassificationMetricsCollector(), run=run)

    def make_learner():
        dls = Loaders.from_arrays(train=(x, y), batch_size=8)
        return Learner(
            nn.Linear(4, 2), dls, nn.functional.cross_entropy, 0.01, cbs=CheckpointCallback(tmp_path / "c", keep="all")
        )

    learn = make_learner()
    learn.add_cb([RunCallback(run), collect])
    learn.fit(3)
    found = read(run.report())
    (line,) = (one["text"] for one in found("li") if "loss" in one["text"])
    (code,) = (one["text"] for one in found("code") if "learn.rewind(" in one["text"])
    assert f"learn.rewind({str(tmp_path / 'c')!r}, epoch=0, i=" in code
    i = int(code.split("i=")[1].split(")")[0])
    assert line.startswith(f"batch {i} of epoch 0: loss ")
    other = make_learner()
    other.add_cb([RunCallback(run), collect])
    with other.rewind(tmp_path / "c", epoch=0, i=i) as then:
        assert 77 in then.ids
        assert f"samples {', '.join(map(str, then.ids))}." in line


def test_without_losses_there_is_no_such_part(tmp_path):
    for info in ({}, {"checkpoints": None}, {"checkpoints": str(tmp_path / "gone")}):
        assert far_out(info, []) == []


def test_where_the_length_of_an_epoch_is_not_known_the_number_is_all(tmp_path):
    losses = np.r_[np.ones(50), 99.0, np.ones(50), np.full(20, np.nan)]
    losses.tofile(tmp_path / "losses.f64")
    info = {"checkpoints": str(tmp_path), "learner": {"n_batches": {"train": None, "valid": 3}}}
    texts = [one["text"] for part in far_out(info, []) for one in tags(part)("li")]
    assert texts[0] == "training batch 101: loss nan"
    assert len(texts) == 10
    assert [one["text"] for one in tags(far_out(info, [])[1])("p")] == ["11 more are not listed."]
