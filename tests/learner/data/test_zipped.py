"""Several loaders side by side."""

from itertools import chain, count, islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from callbacks import EpochLengthCallback
from learner import Callback, Learner, LearnerError, Loaders
from learner.data.exact import why_not_exact
from tests.resuming import assert_equal_runs, resumed_from_each, seed_all


@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_a_pass_is_as_long_as_the_longest_and_the_others_begin_again(lengths):
    loader = Loaders.zipped(**{f"part{i}": [(i, j) for j in range(n)] for i, n in enumerate(lengths)})
    assert len(loader) == max(lengths)
    for _ in range(2):
        columns = {name: [batch[name] for batch in loader] for name in loader.loaders}
        for i, n in enumerate(lengths):
            assert columns[f"part{i}"] == list(
                islice(chain.from_iterable([(i, j)] * 1 for _ in count() for j in range(n)), max(lengths))
            )


def test_the_one_without_a_length_ends_a_pass():
    loader = Loaders.zipped(a=[1, 2], b=(c for c in "vwxyz"))
    with pytest.raises(TypeError, match="no len"):
        len(loader)
    assert [batch["a"] for batch in loader] == [1, 2, 1, 2, 1]


def test_what_cannot_be_zipped():
    with pytest.raises(TypeError, match="`longest` must be a loader to be zipped, got True"):
        Loaders.zipped(a=[1], b=[2], longest=True)
    with pytest.raises(ValueError, match=r"must get two loaders or more, got \['a'\]"):
        Loaders.zipped(a=[1])
    with pytest.raises(ValueError, match=r"at most one loader without a length, got \['a', 'b'\]"):
        Loaders.zipped(a=(i for i in "x"), b=(i for i in "y"))
    with pytest.raises(LearnerError, match="loader 'a' must give batches whenever it begins again"):
        list(Loaders.zipped(a=[], b=[1]))


class Semi(Callback):
    """Learn from labels and, on batches without, towards certain predictions."""

    def predict(self, learn):
        x, learn.yb = learn.batch["labelled"]
        learn.batch_size = len(x)
        learn.preds = learn.model(x)

    def get_loss(self, learn):
        (x,) = learn.batch["unlabelled"]
        learn.loss = cross_entropy(learn.preds, learn.yb) + 0.1 * learn.model(x).softmax(1).square().sum(1).mean()


def loaders():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(44, 3, generator=generator), torch.randint(2, (44,), generator=generator)
    labelled = DataLoader(TensorDataset(x[:10], y[:10]), 4, shuffle=True)
    return labelled, DataLoader(TensorDataset(x), 4, shuffle=True)


def make(cbs, *more):
    labelled, unlabelled = loaders()
    seed_all(0)
    dls = {"train": Loaders.zipped(labelled=labelled, unlabelled=unlabelled)}
    return Learner(nn.Linear(3, 2), dls, None, 0.1, cbs=[Semi(), *cbs, *more])


def test_labelled_and_unlabelled_batches_equal_the_loop_by_hand():
    learn = make([])
    learn.fit(2)
    labelled, unlabelled = loaders()
    seed_all(0)
    model = nn.Linear(3, 2)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        stream = chain.from_iterable(iter(labelled) for _ in count())
        for (u,) in unlabelled:
            x, y = next(stream)
            loss = cross_entropy(model(x), y) + 0.1 * model(u).softmax(1).square().sum(1).mean()
            loss.backward()
            opt.step()
            opt.zero_grad()
    assert torch.equal(model.weight, learn.model.weight)
    assert learn.n_samples == 2 * (4 + 4 + 2) * 3 + 2 * (4 + 4)  # 11 labelled batches each: 4, 4, 2, and so on


@pytest.mark.parametrize("length", [None, 5])
def test_it_goes_on_from_each_batch_bit_for_bit(tmp_path, length):
    def make_this(cbs):
        return make(cbs, *([EpochLengthCallback(train=length)] if length else []))

    whole, gone_on = resumed_from_each(make_this, 2, tmp_path)
    for learn in gone_on:
        assert_equal_runs(learn, whole)


def test_the_reason_of_a_part_is_that_of_the_whole():
    assert why_not_exact(Loaders.zipped(a=[1], b=DataLoader(range(3)))) is None
    assert "it is an iterator" in why_not_exact(Loaders.zipped(a=[1], b=iter([1, 2])))


def test_a_batch_that_does_not_fit_is_still_an_error_where_the_learner_predicts():
    labelled, unlabelled = loaders()
    learn = Learner(nn.Linear(3, 2), {"train": Loaders.zipped(labelled=labelled, unlabelled=unlabelled)}, cross_entropy)
    with pytest.raises(LearnerError, match="the target must be one field of the batch"):
        learn.fit(1)
