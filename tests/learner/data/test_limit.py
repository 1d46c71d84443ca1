"""Limited loaders, against the first batches of the loader itself."""

import copy
import itertools
import math
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from learner import BatchLimit, Learner, LearnerError, Loaders
from learner.data.generators import generators_of
from learner.data.limit import describe_limits, limited


class Noisy(Dataset):
    """40 numbers, each with noise that is drawn anew whenever it is read."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return i + torch.rand(2)


class Stream(IterableDataset):
    """Numbers without end, and without a length."""

    def __iter__(self):
        return itertools.count()


def shuffled(n_workers=0, **kwargs):
    return DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=n_workers, **kwargs)


def equal(batches, others):
    return len(batches) == len(others) and all(map(torch.equal, batches, others))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_every_pass_gives_the_first_batches_of_the_first_one(n_workers):
    torch.manual_seed(3)
    expected = list(itertools.islice(shuffled(n_workers), 3))
    torch.manual_seed(3)
    limit = BatchLimit(shuffled(n_workers), 3)
    for _ in range(3):
        assert equal(list(limit), expected)
    assert not equal(list(itertools.islice(shuffled(n_workers), 3)), expected)  # so it would have been seen


def test_workers_end_when_the_batches_are_there():
    before = multiprocessing.active_children()
    limit = BatchLimit(shuffled(2), 2)
    batches = iter(limit)
    assert multiprocessing.active_children() == before
    assert len(list(batches)) == 2


def test_workers_that_persist_give_the_same_batches():
    loader = shuffled(1, persistent_workers=True)
    limit = BatchLimit(loader, 2)
    first = list(limit)
    assert equal(list(limit), first)
    assert len(list(loader)) == 10


def test_the_first_pass_draws_what_the_loader_draws_and_later_ones_nothing():
    list(itertools.islice(shuffled(), 3))
    expected = torch.get_rng_state()
    torch.manual_seed(0)  # as before each test
    limit = BatchLimit(shuffled(), 3)
    for _ in range(2):
        list(limit)
        assert torch.equal(torch.get_rng_state(), expected)


def test_no_batch_more_is_fetched():
    stream = iter(range(10))
    assert list(BatchLimit(stream, 3)) == [0, 1, 2]
    assert next(stream) == 3


def test_a_pass_that_is_left_early_keeps_the_batches():
    limit = BatchLimit(shuffled(), 3)
    first = next(iter(limit))
    batches = list(limit)
    assert torch.equal(batches[0], first)
    assert equal(list(limit), batches)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_fetching_that_is_cut_short_begins_again(error):
    class Loader:
        n_passes = 0

        def __iter__(self):
            self.n_passes += 1
            yield 10 * self.n_passes
            if self.n_passes == 1:
                raise error("on purpose")
            yield 10 * self.n_passes + 1

    limit = BatchLimit(Loader(), 2)
    with pytest.raises(error, match="on purpose"):
        list(limit)
    assert [list(limit), list(limit)] == [[20, 21], [20, 21]]


def test_a_batch_that_is_changed_in_place_is_whole_in_the_next_pass():
    limit = BatchLimit([{"x": torch.ones(2), "y": [1]}], 1)
    for _ in range(3):
        (batch,) = limit
        assert batch["x"].tolist() == [1, 1]
        assert batch.pop("y") == [1]
        batch["x"].zero_()


def test_a_loader_that_uses_its_memory_again_does_no_harm():
    buffer = torch.zeros(1)
    limit = BatchLimit((buffer.fill_(i) for i in range(3)), 3)
    assert [batch.item() for batch in limit] == [0, 1, 2]


def test_loaders_that_are_used_up_and_loaders_without_iter_work():
    class Indexed:
        def __getitem__(self, i):
            return [5, 6, 7][i]

    for loader in (iter([5, 6, 7]), Indexed()):
        limit = BatchLimit(loader, 2)
        assert [list(limit), list(limit)] == [[5, 6], [5, 6]]


@pytest.mark.parametrize(
    ("n", "length", "expected"),
    [
        (1, 10, 1),
        (3, 10, 3),
        (30, 10, 10),
        (1.0, 10, 10),
        (0.5, 10, 5),
        (0.5, 7, 3),
        (0.99, 10, 9),
        (0.29, 100, 29),  # 28.999999999999996 in floats
        (0.1, 30, 3),  # 3.0000000000000004
        (0.001, 10, 1),
        (1e-5, 10, 1),
        (np.int64(3), 10, 3),
        (np.float64(0.3), 10, 3),
    ],
)
def test_it_knows_its_length(n, length, expected):
    limit = BatchLimit(range(length), n)
    assert len(limit) == expected
    assert len(list(limit)) == expected
    assert len(limit) == expected


def test_without_a_length_it_has_one_after_the_first_pass():
    limit = BatchLimit(DataLoader(Stream(), batch_size=2), 3)
    with pytest.raises(TypeError, match=r"the length of BatchLimit\(DataLoader, 3\) is not known before its first"):
        len(limit)
    assert [batch.tolist() for batch in limit] == [[0, 1], [2, 3], [4, 5]]
    assert len(limit) == 3
    short = BatchLimit(iter([1, 2]), 3)
    assert (list(short), len(short)) == ([1, 2], 2)


def test_what_others_read_off_a_loader_is_there():
    loader = shuffled(generator=torch.Generator())
    limit = BatchLimit(loader, 1)
    assert generators_of(limit) == [loader.generator]
    assert (limit.dataset, limit.batch_size, limit.drop_last) == (loader.dataset, 4, False)
    assert not hasattr(BatchLimit([1], 1), "dataset")
    assert not hasattr(limit, "state_dict")
    with pytest.raises(AttributeError, match="'BatchLimit' object has no attribute 'nothing'"):
        limit.nothing


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda limit: pickle.loads(pickle.dumps(limit))])
def test_it_can_be_copied_with_its_batches(copied):
    limit = BatchLimit(shuffled(), 2)
    batches = list(limit)
    assert equal(list(copied(limit)), batches)


def test_validating_draws_nothing_of_the_loaders_own_generator():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    valid = BatchLimit(shuffled(generator=generator), 2)
    learn = Learner(nn.Linear(2, 1), {"valid": valid}, lambda preds: preds.mean())
    assert learn.validate() == learn.validate()
    assert torch.equal(generator.get_state(), before)


def test_an_empty_loader_is_told_by_its_dataset():
    train = BatchLimit(DataLoader(range(3), batch_size=4, drop_last=True), 1)
    assert len(train) == 0
    learn = Learner(nn.Linear(1, 1), {"train": train}, nn.functional.mse_loss)
    with pytest.raises(LearnerError, match="got none in epoch 0: its dataset has 3 samples, its batch size is 4"):
        learn.fit(1)


@pytest.mark.parametrize("n", [0, -1, -0.5, 0.0, 1.5, 2.0, math.nan, math.inf])
def test_a_limit_out_of_range_is_refused(n):
    message = r"`n` must be a whole number of batches, at least 1, or a fraction of them, above 0.0 and at most 1.0"
    with pytest.raises(ValueError, match=f"{message}, got {n!r}; do 10 for ten batches"):
        BatchLimit([1, 2], n)


@pytest.mark.parametrize("n", [True, False, "3", None, [1], 1j, torch.tensor(1)])
def test_a_limit_that_is_no_number_is_refused(n):
    with pytest.raises(TypeError, match="`n` must be a whole number of batches, at least 1, or a fraction"):
        BatchLimit([1, 2], n)


@pytest.mark.parametrize("loader", [DataLoader(Stream()), iter([1, 2])])
def test_a_fraction_of_a_loader_without_length_is_refused(loader):
    with pytest.raises(ValueError, match="`n` must be a whole number of batches where the loader has no length"):
        BatchLimit(loader, 0.5)


@pytest.mark.parametrize("loader", [None, 3, "loader", list])
def test_what_is_no_loader_is_refused(loader):
    with pytest.raises(TypeError, match=r"`loader` must be an iterable of batches, got .*; pass a loader or a list"):
        BatchLimit(loader, 1)


def test_all_loaders_at_once_are_refused():
    with pytest.raises(TypeError, match=r"`loader` must be an iterable of batches, .*; pass one of its loaders"):
        BatchLimit(Loaders({"train": [1]}), 1)


def test_a_batch_that_cannot_be_copied_is_an_error():
    with_graph = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(LearnerError, match=r"a batch must be one that can be copied to be kept, got .*no_grad"):
        list(BatchLimit([with_graph], 1))


def test_limited_gives_each_loader_its_limit_and_keeps_the_order():
    dls = Loaders({"valid": range(7), "train": range(25), "train2": range(5)})
    part = limited(dls, {"train": 10, "valid": 0.5})
    assert {name: list(dl) for name, dl in part.items()} == {"valid": [0, 1, 2], "train": [*range(10)], "train2": [0]}
    assert list(part) == list(dls)
    assert [len(dl) for dl in limited(dls, {}, default=2).values()] == [2, 2, 2]


def test_limited_names_the_loader_that_does_not_fit():
    with pytest.raises(ValueError, match=r"`tain` must be the name of a loader .*only 'train', 'valid'; leave it out"):
        limited(Loaders({"train": [1], "valid": [2]}), {"tain": 1})
    with pytest.raises(ValueError, match="`valid` must be a whole number of batches where the loader has no length"):
        limited(Loaders({"train": [1], "valid": iter([2])}), {"valid": 0.5})
    with pytest.raises(ValueError, match="`train` must be a whole number of batches, at least 1"):
        limited(Loaders({"train": [1]}), {"train": 0})


@pytest.mark.parametrize(
    ("loaders", "expected"),
    [
        ({"train": range(25), "valid": range(7)}, "only a part of the data: train 10 of 25 batches, valid 1 of 7"),
        ({"train": DataLoader(Stream()), "valid": range(7)}, "only a part of the data: train 10 of ? batches, valid 1"),
        ({"train": range(4), "valid": range(7)}, "only a part of the data: train 4 of 4 batches, valid 1 of 7"),
        ({"train": range(4)}, "the same batches in every epoch, which are all there are: train 4 of 4 batches"),
    ],
)
def test_a_line_says_what_is_seen(loaders, expected):
    assert describe_limits(limited(Loaders(loaders), {"train": 10})).startswith(f"this fit sees {expected}")
