"""A fit is refused where what surrounds it would spoil it, or says what it may disturb."""

import threading
from contextlib import nullcontext

import pytest
import torch

from learner import Callback, LearnerError


def test_a_fit_within_autocast_is_refused_before_anything_is_trained(make_learner):
    learn = make_learner()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(LearnerError, match=r"inside `torch\.autocast`.*around_predict"),
    ):
        learn.fit(1)
    assert (learn.n_steps, learn.opt) == (0, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learn.validate()
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        learn.fit(1)


def test_two_fits_in_two_threads_say_that_they_share_the_generators(make_learner):
    one, other = make_learner(), make_learner()

    class FitTheOther(Callback):
        def before_fit(self, learn):
            thread = threading.Thread(target=other.fit, args=(1,))
            thread.start()
            thread.join()

    with pytest.warns(RuntimeWarning, match="another fit runs in another thread.*processes of their own") as said:
        one.fit(1, cbs=FitTheOther())
    assert len(said) == 1
    assert other.n_steps == 3
    one.fit(1)


def test_a_fit_within_a_fit_of_the_same_thread_is_not_told(make_learner):
    class FitAnother(Callback):
        def before_fit(self, learn):
            make_learner().fit(1)

    make_learner(FitAnother()).fit(1)


class Spread(torch.nn.Module):
    """Stands for torch's wrapper, which needs other processes."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


Spread.__name__ = "DistributedDataParallel"


@pytest.mark.parametrize(("n_processes", "wraps", "says"), [(2, True, True), (1, True, False), (2, False, False)])
def test_a_model_that_is_spread_by_hand_is_told_what_goes_wrong(make_learner, monkeypatch, n_processes, wraps, says):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: n_processes)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None: 0)
    learn = make_learner()
    if wraps:
        learn = make_learner(model=Spread(learn.model))
    with (
        pytest.warns(RuntimeWarning, match=r"by hand.*metrics, history.*DistributedCallback") if says else nullcontext()
    ):
        learn.fit(1)
