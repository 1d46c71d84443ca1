"""The numbers of the samples in each batch, whatever draws them and whoever loads them."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from learner import BatchLimit, LearnerError
from learner.data.order import ordered
from learner.data.position import ResumableLoader, SkipLoader
from learner.records.ids import SampleIds

N = 23
DATA = TensorDataset(10 * torch.arange(N))  # a sample tells its number

SAMPLERS = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "without the last": {"shuffle": True, "drop_last": True},
    "weighted": {"sampler": WeightedRandomSampler(torch.linspace(0, 1, N), 2 * N)},
}


def check(loader, until=None):
    """Compare what is said of each batch with what it holds."""
    with SampleIds(loader) as ids:
        for i, (x,) in enumerate(loader):
            found = ids.of_batch(i, len(x))
            assert (10 * found == x.numpy()).all()
            assert found.dtype == np.int64
            if i == until:
                break


@pytest.mark.parametrize("n_workers", [0, 2, 4])
@pytest.mark.parametrize("is_persistent", [False, True])
@pytest.mark.parametrize("sampling", SAMPLERS)
def test_numbers_are_those_of_the_dataset_in_every_pass_and_after_one_left_early(sampling, is_persistent, n_workers):
    workers = {"num_workers": n_workers, "persistent_workers": is_persistent and n_workers > 0}
    loader = DataLoader(DATA, batch_size=4, **SAMPLERS[sampling], **workers)
    sampler = loader.batch_sampler
    list(loader)  # workers that persist are there now
    check(loader)
    check(loader, until=1)
    check(loader)
    assert loader.batch_sampler is sampler
    assert len(list(loader)) == len(loader)


def test_what_is_drawn_is_drawn_as_without():
    loader = DataLoader(DATA, batch_size=4, shuffle=True)
    torch.manual_seed(0)
    plain = [x.tolist() for (x,) in loader]
    torch.manual_seed(0)
    with SampleIds(loader):
        assert [x.tolist() for (x,) in loader] == plain


def test_batches_that_the_dataset_makes_of_a_list_of_numbers():
    check(DataLoader(DATA, batch_size=None, sampler=BatchSampler(RandomSampler(DATA), 4, drop_last=False)))


def test_a_pass_within_a_pass_over_the_same_loader():
    loader = DataLoader(DATA, batch_size=4, shuffle=True)
    sampler = loader.batch_sampler
    with SampleIds(loader) as ids:
        for i, (x,) in enumerate(loader):
            check(loader)
            assert (10 * ids.of_batch(i, len(x)) == x.numpy()).all()
    assert loader.batch_sampler is sampler


@pytest.mark.parametrize("is_first_out", [True, False])
@pytest.mark.parametrize("n_workers", [0, 1])
def test_two_may_listen_to_one_pass(is_first_out, n_workers):
    loader = DataLoader(DATA, batch_size=4, shuffle=True, num_workers=n_workers, persistent_workers=n_workers > 0)
    sampler = loader.batch_sampler
    one, two = SampleIds(loader).__enter__(), SampleIds(loader).__enter__()
    for i, (x,) in enumerate(loader):
        assert (10 * one.of_batch(i, len(x)) == x.numpy()).all()
        assert (10 * two.of_batch(i, len(x)) == x.numpy()).all()
    for ids in (one, two) if is_first_out else (two, one):
        ids.__exit__(None, None, None)
    assert loader.batch_sampler is sampler
    check(loader)


def test_not_each_batch_has_to_be_asked_for():
    loader = DataLoader(DATA, batch_size=4)
    with SampleIds(loader) as ids:
        for _ in loader:
            pass
        assert ids.of_batch(2, 4).tolist() == [8, 9, 10, 11]
        with pytest.raises(LearnerError, match=r"batch 1 must hold the samples .*, got 4 of 0"):
            ids.of_batch(1, 4)


def test_the_loader_is_as_it_was_after_an_error():
    loader = DataLoader(DATA, batch_size=4, num_workers=1, persistent_workers=True)
    sampler = loader.batch_sampler
    list(loader)
    with pytest.raises(KeyboardInterrupt), SampleIds(loader):
        raise KeyboardInterrupt
    assert loader.batch_sampler is sampler
    assert loader._iterator._index_sampler is sampler


def test_a_sampler_is_itself_while_somebody_listens():
    loader = DataLoader(DATA, batch_size=4, shuffle=True)
    with SampleIds(loader):
        assert loader.batch_sampler.batch_size == 4
        assert len(loader) == 6
        assert len(copy.copy(loader).batch_sampler) == 6


@pytest.mark.parametrize(("keep", "found"), [(slice(3), 3), (slice(0), 0)])
def test_a_loader_that_drops_samples_is_found_out(keep, found):
    loader = DataLoader(DATA, batch_size=4, collate_fn=lambda samples: samples[keep])
    with SampleIds(loader) as ids:
        batch = next(iter(loader))
        with pytest.raises(LearnerError, match=rf"batch 0 must hold .*, got {found} of 4; where the loader drops"):
            ids.of_batch(0, len(batch))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_passes_over_the_same_loader_in_the_middle_of_one_are_not_listened_to(n_workers):
    loader = DataLoader(DATA, batch_size=4, shuffle=True, num_workers=n_workers)
    with SampleIds(loader) as ids:
        for i, (x,) in enumerate(loader):
            next(iter(loader))
            assert len(list(loader)) == 6
            assert (10 * ids.of_batch(i, len(x)) == x.numpy()).all()


# -- passes that begin in the middle -----------------------------------------------------------------------------------


class OwnSampler(Sampler):
    """Hand out the numbers backwards."""

    def __iter__(self):
        return reversed(range(N))

    def __len__(self):
        return N


def check_rest(loader, start):
    """Compare what is said of each batch with what it holds; batches count from the beginning of the pass."""
    n = 0
    with SampleIds(loader, start) as ids:
        for i, (x,) in enumerate(loader, start):
            assert (10 * ids.of_batch(i, len(x)) == x.numpy()).all()
            n += 1
    return n


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.parametrize("sampling", SAMPLERS)
def test_a_loader_that_skips_what_is_done_says_where_it_begins(sampling, workers):
    loader = ordered(DataLoader(DATA, batch_size=4, **SAMPLERS[sampling], **workers), seed=0)
    for epoch, start in enumerate((0, 2, len(loader))):
        loader.batch_sampler.set_position(epoch, start)
        assert check_rest(loader, start) == len(loader) - start


def test_where_a_pass_begins_is_read_when_it_begins():
    loader = ordered(DataLoader(DATA, batch_size=4, shuffle=True), seed=0)
    loader.batch_sampler.set_position(0, 3)
    with SampleIds(loader, 3) as ids:
        batches = iter(loader)
        loader.batch_sampler.set_position(1)  # of another pass, by somebody else
        assert [(10 * ids.of_batch(i, len(x)) == x.numpy()).all() for i, (x,) in enumerate(batches, 3)] == [True] * 3


def test_two_may_listen_to_the_rest_of_a_pass():
    loader = ordered(DataLoader(DATA, batch_size=4, shuffle=True), seed=0)
    loader.batch_sampler.set_position(0, 4)
    with SampleIds(loader, 4) as one, SampleIds(loader, 4) as two:
        for i, (x,) in enumerate(loader, 4):
            assert (10 * one.of_batch(i, len(x)) == x.numpy()).all()
            assert (10 * two.of_batch(i, len(x)) == x.numpy()).all()
    assert check_rest(loader, 4) == 2


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3, 6])
def test_what_reads_again_and_drops_says_it_too(start, n_workers):
    loader = DataLoader(DATA, batch_size=4, sampler=OwnSampler(), num_workers=n_workers)
    assert check_rest(SkipLoader(loader, start), start) == 6 - start


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(DATA, batch_size=4, shuffle=True),
        DataLoader(DATA, batch_size=4, sampler=OwnSampler()),
        DataLoader(DATA, batch_sampler=BatchSampler(OwnSampler(), 5, False)),
        DataLoader(DATA, batch_size=None, sampler=BatchSampler(RandomSampler(DATA), 4, drop_last=False)),
    ],
)
def test_whatever_begins_a_pass_in_the_middle(loader, start):
    assert check_rest(ResumableLoader("train", loader, seed=0).at(epoch=1, start=start), start) == len(loader) - start


class Stateful(DataLoader):
    """A loader that goes on from a state of its own."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_refused_where_a_loader_goes_on_by_itself():
    loader = Stateful(DATA, batch_size=4)
    check(loader)
    with pytest.raises(
        ValueError, match=r"but a Stateful goes on from a state of its own, and cannot tell .*; give each"
    ):
        SampleIds(ResumableLoader("train", loader, seed=0).at(epoch=0))


def test_refused_where_a_loader_has_taken_the_place_of_the_rest_of_a_pass():
    with pytest.raises(
        ValueError, match=r"but it took the place of the rest of a pass, and nobody can tell .*; give each"
    ):
        SampleIds(DataLoader(DATA), 2)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(N))


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        (DataLoader(Stream(), batch_size=4), "its dataset is a stream, whose samples have no numbers"),
        (DataLoader(DATA, num_workers=2, in_order=False), "in the order in which workers are done"),
        ([torch.zeros(2)], "it is a list, not a DataLoader"),
        (BatchLimit(DataLoader(DATA), 1), "batches that were fetched before"),
    ],
)
def test_refused_where_it_cannot_be_right(loader, reason):
    with pytest.raises(ValueError, match=f"must be able to say which samples .*, but .*{reason}.*; give each"):
        SampleIds(loader)


def test_without_workers_there_is_one_order():
    check(DataLoader(DATA, batch_size=4, in_order=False))


KEYS = {
    "names": ["a", "b", "c", "d"],
    "digits": ["0", "1", "2", "3"],
    "numbers and sizes": [(i, 32) for i in range(4)],
    "numbers and shapes": [(i, (32, 32)) for i in range(4)],
    "fractions": [0.5] * 4,
}


@pytest.mark.parametrize("keys", KEYS)
def test_what_is_no_whole_number_numbers_no_sample(keys):
    class Keyed(torch.utils.data.Dataset):
        def __getitem__(self, key):
            return torch.ones(3)

    loader = DataLoader(Keyed(), 2, sampler=KEYS[keys])
    with SampleIds(loader) as ids:
        next(iter(loader))
        with pytest.raises(LearnerError, match=r"must hand out whole numbers.*`example_id`"):
            ids.of_batch(0)


def test_numbers_may_be_those_of_numpy_and_torch():
    for numbers in (list(np.arange(4)), list(torch.arange(4))):
        with SampleIds(loader := DataLoader(DATA, 2, sampler=numbers)) as ids:
            assert [ids.of_batch(i).tolist() for i, _ in enumerate(loader)] == [[0, 1], [2, 3]]
