"""What goes wrong with data and shapes, each by the error or warning that a person sees."""

import functools
import gc
import multiprocessing
import os
import signal

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, Dataset, IterableDataset

from callbacks import CheckpointCallback
from learner import Learner, LearnerError
from tests.resuming import assert_equal_runs, seed_all

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def learner(loader, model=None, loss_f=cross_entropy, **options):
    torch.manual_seed(0)
    return Learner(model or nn.Linear(4, 3), {"train": loader}, loss_f, **options)


class Numbered(Dataset):
    """Sample i, unless something is to happen there."""

    def __init__(self, happens=None, at=5, n=12):
        self.happens, self.at, self.n = happens, at, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i == self.at and self.happens:
            self.happens()
        return X[i], Y[i]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Wait for a worker that does not end for less than the 5 seconds of torch."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)


def fail():
    raise OSError("no such picture")


def assert_workers_go(caught):
    """An error holds what it passed through, as long as anybody holds it; then no worker is left."""
    caught._excinfo = None
    gc.collect()
    for worker in multiprocessing.active_children():
        worker.join(60)  # one that was told to go may take a moment, one that was not never goes
    assert multiprocessing.active_children() == []


def notes(caught):
    return "\n".join(caught.value.__notes__)


def test_an_empty_dataset_and_one_that_is_smaller_than_a_batch_end_the_fit_before_a_step():
    for options in ({}, {"drop_last": True}):
        learn = learner(DataLoader(Numbered(n=2 if options else 0), 4, **options))
        with pytest.raises(
            LearnerError, match=r"got none in epoch 0: its dataset has [02] samples, its batch size is 4"
        ):
            learn.fit(1)
        assert learn.n_steps == 0


@pytest.mark.parametrize("loss_f", [nn.MSELoss(reduction="sum"), functools.partial(mse_loss, reduction="sum")])
def test_a_loss_that_sums_over_the_batch_is_told_once_a_fit(loss_f):
    learn = learner([(X, X[:, :1])] * 3, nn.Linear(4, 1), loss_f, lr=1e-5)
    with pytest.warns(UserWarning, match=r"`loss_f` sums over the samples of a batch.*weighted by batch size") as said:
        learn.fit(2)
    assert len(said) == 1


def test_predictions_and_targets_that_would_be_broadcast_are_told_with_both_shapes():
    learn = learner([(X, X[:, 0])], nn.Linear(4, 1), mse_loss)
    with pytest.raises(LearnerError, match=r"got Tensor\(12, 1\) float32 and Tensor\(12,\) float32.*\(12, 12\)"):
        learn.fit(1)
    assert learn.n_steps == 0
    with pytest.raises(ValueError, match=r"Target size \(torch.Size\(\[12\]\)\) must be the same as input size"):
        learner([(X, X[:, 0])], nn.Linear(4, 1), nn.BCEWithLogitsLoss()).fit(1)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_the_model_has_no_output_for_is_named_with_its_batch(label):
    learn = learner([(X, Y), (X, torch.where(Y == 2, label, Y))])
    with pytest.raises(IndexError, match=f"Target {label} is out of bounds") as caught:
        learn.fit(1)
    assert "batch 1 of 2, xb Tensor(12, 4) float32, yb Tensor(12,) int64" in notes(caught)


def test_whole_numbers_into_a_model_of_floats_are_told_with_both_dtypes():
    with pytest.raises(RuntimeError, match="same dtype, but got Long and Float") as caught:
        learner([(X.long(), Y)]).fit(1)
    assert "xb Tensor(12, 4) int64" in notes(caught)


def test_one_sample_through_batch_norm_is_told_with_its_batch():
    learn = learner(DataLoader(Numbered(n=9), 4), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as caught:
        learn.fit(1)
    assert "batch 2 of 3, xb Tensor(1, 4)" in notes(caught)
    assert "`drop_last=True` in the loader leaves it out" in notes(caught)


def test_a_parameter_in_two_groups_or_twice_in_one_is_told_by_torch():
    groups = lambda params, lr: torch.optim.SGD([{"params": params}, {"params": params[:1]}], lr)
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        learner([(X, Y)], opt_func=groups).fit(1)
    with pytest.warns(UserWarning, match="parameter group with duplicate parameters"):
        learner([(X, Y)], opt_func=lambda params, lr: torch.optim.SGD([*params, params[0]], lr)).fit(1)


class Stream(IterableDataset):
    def __init__(self, length=None):
        self.length = length

    def __len__(self):
        if self.length is None:
            raise TypeError
        return self.length

    def __iter__(self):
        return zip(X, Y, strict=True)


@pytest.mark.parametrize("length", [None, 12])
def test_a_stream_may_have_a_length_or_not(length):
    learn = learner(DataLoader(Stream(length), 4))
    learn.fit(1)
    assert (learn.n_samples, learn.n_steps) == (12, 3)


@pytest.mark.parametrize(("length", "n_batches"), [(4, 1), (40, 10)])
def test_a_stream_of_another_length_than_it_says_is_told_and_what_it_gave_counts(length, n_batches):
    learn = learner(DataLoader(Stream(length), 4))
    with pytest.warns(
        RuntimeWarning, match=f"'train' must give as many batches as its length says, {n_batches}, got 3;"
    ):
        learn.fit(1)
    assert (learn.n_samples, learn.n_steps) == (12, 3)


def test_a_stream_that_every_worker_gives_whole_is_told_where_it_has_a_length():
    learn = learner(DataLoader(Stream(4), 1, num_workers=2))
    with (
        pytest.warns(RuntimeWarning, match=r"length says, 4, got 24; .* Does every worker give the whole of a stream"),
        pytest.warns(UserWarning, match=r"reported to be 4.*but \d+ samples have been fetched.*each worker"),
    ):
        learn.fit(1)
    assert learn.n_samples == 24


@pytest.mark.parametrize("is_ordered", [False, True])
def test_an_error_of_a_dataset_in_a_worker_keeps_its_type_and_says_where(is_ordered, tmp_path):
    learn = learner(DataLoader(Numbered(fail), 2, num_workers=2))
    cbs = CheckpointCallback(tmp_path) if is_ordered else None
    with pytest.raises(OSError, match=r"(?s)in DataLoader worker process 0.*no such picture") as caught:
        learn.fit(1, cbs=cbs)
    assert "learner: in the loader, batch 2, epoch 0, loader 'train'" in notes(caught)
    assert ("in sample 5 of the dataset" in str(caught.value)) == is_ordered
    assert_workers_go(caught)


# It may be killed while torch receives a tensor from it, over a socket that then nobody closes but the collector.
@pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_is_killed_ends_the_fit_and_it_can_go_on(tmp_path):
    """As the kernel does when memory runs out."""

    def make(folder, happens=None):
        seed_all(0)
        loader = DataLoader(Numbered(happens), 2, shuffle=True, num_workers=2)
        return learner(loader, nn.Sequential(nn.Dropout(), nn.Linear(4, 3)), cbs=CheckpointCallback(folder, 1))

    whole = make(tmp_path / "whole")
    whole.fit(2)
    learn = make(tmp_path / "killed", lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(
        RuntimeError, match=r"DataLoader worker \(pid.* \d+\) (is killed by signal|exited unex)"
    ) as caught:
        learn.fit(2)
    assert_workers_go(caught)
    learn = make(tmp_path / "killed")
    learn.fit(2, resume=True)
    assert_equal_runs(learn, whole)


def test_a_worker_that_hangs_is_given_up_after_the_timeout():
    forever = multiprocessing.Event()
    learn = learner(DataLoader(Numbered(forever.wait, at=0), 2, num_workers=1, timeout=0.3))
    with pytest.raises(RuntimeError, match=r"DataLoader timed out after 0\.3 seconds") as caught:
        learn.fit(1)
    assert "in the loader, batch 0" in notes(caught)
    assert_workers_go(caught)


def test_a_dataset_that_cannot_be_sent_to_a_worker_is_told_by_what_it_holds():
    learn = learner(DataLoader(Numbered(lambda: None), 2, num_workers=1, multiprocessing_context="spawn"))
    with (
        pytest.warns(UserWarning, match="Got pickle error when attempting to start a worker"),
        pytest.raises(AttributeError, match=r"Can't pickle local object '.*<lambda>'"),
    ):
        learn.fit(1)


@pytest.mark.parametrize(
    ("loader", "differs"),
    [
        (lambda: DataLoader(Numbered(n=10), 4), "the number of samples of loader 'train' is 10 here, 12 saved"),
        (lambda: DataLoader(Numbered(), 3), "the batch size of loader 'train' is 3 here, 4 saved"),
        (lambda: DataLoader(Numbered(), 4, shuffle=True), "the sampler of loader 'train' is RandomSampler here, Seq"),
    ],
)
def test_other_data_at_a_resume_is_refused_with_both_numbers(loader, differs, tmp_path):
    learner(DataLoader(Numbered(), 4)).fit(1, cbs=CheckpointCallback(tmp_path))
    with pytest.raises(LearnerError, match=f"{differs}.*Nothing was changed"):
        learner(loader()).fit(2, cbs=CheckpointCallback(tmp_path), resume=True)
