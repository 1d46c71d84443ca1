"""`DistributedCallback` by itself; what it makes of a training is in `tests/test_ranks_*.py`."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from callbacks import AccumulateCallback, DistributedCallback, SAMCallback
from learner import Callback, Learner
from tests.ranks import TIMEOUT, error_of, in_each, loaders, network, weights

x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
BATCHES = list(zip(x.split(4), (2 * x).split(4), strict=True))


def learner(*cbs, dls=None, model=None, **options):
    torch.manual_seed(0)
    model = model or nn.Linear(1, 1).double()
    return Learner(model, dls or {"train": BATCHES, "valid": BATCHES[:1]}, mse_loss, cbs=list(cbs), **options)


# -- one process -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agree", ["late", True, "Step"])
def test_when_to_agree_is_one_of_three(agree):
    with pytest.raises(ValueError, match="`agree` must be 'step', 'batch' or None, got"):
        DistributedCallback(agree=agree)


def test_batch_norm_over_all_needs_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="`sync_batchnorm` must have CUDA, which is not there"):
        DistributedCallback(sync_batchnorm=True)


def test_twice_is_refused():
    with pytest.raises(ValueError, match="`cbs` must hold one callback that knows the processes of a job, got Distr"):
        learner(DistributedCallback(), DistributedCallback())


def test_alone_it_is_the_first_of_one():
    alone = DistributedCallback()
    assert (alone.rank, alone.world, alone.is_first) == (0, 1, True)
    assert learner(alone).job is alone.job


def test_alone_order_and_noise_are_functions_of_position():
    """So that a side pass in between changes nothing, as it changes nothing with more processes."""

    class Look(Callback):
        def after_batch(self, learn):
            if learn.training and learn.i % 3 == 0:
                learn.validate()

    def trained(*cbs):
        torch.manual_seed(0)
        learn = Learner(network(), loaders(), nn.functional.cross_entropy, cbs=[DistributedCallback(), *cbs])
        learn.fit(2)
        return weights(learn)

    assert torch.equal(trained(), trained(Look()))


# -- two processes -----------------------------------------------------------------------------------------------------


class Spy(Callback):
    """Put down what others see."""

    def __init__(self):
        self.sizes, self.models, self.none = [], set(), []

    def after_predict(self, learn):
        self.models.add(type(learn.model).__name__)

    def after_batch(self, learn):
        if learn.training:
            self.sizes.append((learn.batch_size, learn.global_batch_size))


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(x, 2 * x, strict=True)


class Backward(Callback):
    """Replace the forward, so that nobody knows how often the model is called."""

    def predict(self, learn):
        learn.preds = (learn.model(learn.xb) + learn.model(learn.xb)) / 2


def ours():
    """Return a callback for one learner: after an error of one they all are at their end."""
    return DistributedCallback(timeout=TIMEOUT)


def look_at_all():
    rank, seen = ours().rank, {}

    spy = Spy()
    learn = learner(ours(), spy, dls={"train": [*BATCHES, (x[:1], x[:1])], "valid": BATCHES[:1]})
    learn.model.weight.data.fill_(1.0 + rank)
    learn.fit(1)
    seen["sizes"], seen["models"] = spy.sizes, spy.models
    seen["counts"] = learn.n_samples, learn.n_steps
    seen["after"] = [
        type(learn.model).__name__,
        [len(p._post_accumulate_grad_hooks or ()) for p in learn.model.parameters()],
    ]
    seen["weights of the first"] = weights(learn)

    seen["by hand"] = error_of(learner(ours(), model=DistributedDataParallel(nn.Linear(1, 1).double())).fit, 1)
    lbfgs = learner(ours(), opt_func=lambda p, lr: torch.optim.LBFGS(p, lr=lr))
    seen["closure"] = error_of(lbfgs.fit, 1)

    torch.manual_seed(0)
    noisy = learner(ours())
    noisy.fit(0)
    seen["noise"] = torch.rand(3)

    own = learner(ours(), Backward())
    own.fit(2)
    seen["own forward"] = weights(own)
    accumulated = learner(ours(), Backward(), AccumulateCallback(2))
    accumulated.fit(2)
    seen["own forward, accumulated"] = weights(accumulated)
    sam = learner(ours(), SAMCallback(0.05))
    sam.fit(2)
    seen["sam"] = weights(sam)

    stream = learner(ours(), dls={"train": DataLoader(Stream(), 4)})
    stream.fit(2)
    seen["stream"] = weights(stream)

    with learner(ours()).sandbox():
        pass
    before = learner(ours())
    before.lr_find(n=10, plot=False)
    seen["lr_find"] = weights(before)
    seen["summary"] = len(str(before.summary())) > 0

    seen["silent trap"] = by_hand_without_it()
    return seen


def by_hand_without_it():
    """Train a model in DDP as people did before they read the documents."""
    learn = learner(model=DistributedDataParallel(nn.Linear(1, 1).double()))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        learn.fit(1)
    return [str(one.message) for one in told if one.category is RuntimeWarning]


@pytest.fixture(scope="module")
def alone():
    return in_each(1, look_at_one)[0]


def look_at_one():
    distributed, seen = DistributedCallback(), {}
    for name, cbs in {
        "own forward": [Backward()],
        "own forward, accumulated": [Backward(), AccumulateCallback(2)],
        "sam": [SAMCallback(0.05)],
        "stream": [],
    }.items():
        dls = {"train": DataLoader(Stream(), 4)} if name == "stream" else None
        learn = learner(distributed, *cbs, dls=dls)
        learn.fit(2)
        seen[name] = weights(learn)
    return seen


@pytest.fixture(scope="module")
def seen():
    return in_each(2, look_at_all)


def test_callbacks_see_the_share_and_how_large_the_whole_is(seen):
    assert [each["sizes"] for each in seen] == [[(2, 4)] * 5 + [(1, 1)], [(2, 4)] * 5 + [(0, 1)]]
    assert [each["counts"] for each in seen] == [(21, 6), (21, 6)]


def test_everybody_sees_the_plain_model_and_nothing_is_left_on_it(seen):
    for each in seen:
        assert each["models"] == {"Linear"}
        assert each["after"] == ["Linear", [0, 0]]


def test_weights_are_those_of_the_first(seen):
    assert torch.equal(*(each["weights of the first"] for each in seen))


def test_a_model_that_is_wrapped_by_hand_is_refused(seen):
    for each in seen:
        assert each["by hand"].startswith("LearnerError: `model` must be the plain one, got it in DistributedDataPar")


def test_an_optimizer_with_a_closure_is_refused(seen):
    for each in seen:
        assert "DistributedCallback" in each["closure"]
        assert "share" in each["closure"]


def test_noise_differs_between_processes_and_the_first_has_that_of_one(seen):
    torch.manual_seed(0)
    learn = learner()
    learn.fit(0)
    first, second = (each["noise"] for each in seen)
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.rand(3))


@pytest.mark.parametrize("name", ["own forward", "own forward, accumulated", "sam", "stream"])
def test_it_is_the_training_of_one_process_however_the_model_is_called(alone, seen, name):
    assert torch.equal(*(each[name] for each in seen))
    assert (seen[0][name] - alone[name]).abs().max() <= 1e-12


def test_side_trips_leave_weights_as_they_are(seen):
    torch.manual_seed(0)
    expected = nn.utils.parameters_to_vector(nn.Linear(1, 1).double().parameters()).detach()
    for each in seen:
        assert torch.equal(each["lr_find"], expected)
        assert each["summary"]


def test_who_does_it_by_hand_is_told_what_goes_wrong(seen):
    for each in seen:
        (told,) = each["silent trap"]
        assert "spread over processes by hand (DistributedDataParallel)" in told
        assert "add a DistributedCallback or a ShardCallback" in told


def test_it_can_be_copied():
    learn = learner(DistributedCallback())
    learn.fit(1)
    copy.deepcopy(learn).fit(1)
