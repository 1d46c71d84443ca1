"""Order and noise as functions of position, bit for bit: where a pass begins and who reads makes no difference."""

import multiprocessing
import os
import pickle
import random
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    MapDataPipe,
    RandomSampler,
    Subset,
    TensorDataset,
    get_worker_info,
)

import learner.data.order
from learner import Learner, Loaders
from learner.data.limit import BatchLimit
from learner.data.order import ordered, why_not_ordered
from learner.data.sampler import PositionSampler
from learner.data.seeded_dataset import seeded
from learner.data.seeding import position_seed
from learner.records.ids import SampleIds
from tests.noise import (
    KINDS,
    SIZE,
    N,
    Noisy,
    NoisyTogether,
    Stream,
    generator_states,
    make,
    noise,
    noisy_collate,
    one_pass,
    same,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dataset", [Noisy(), NoisyTogether(), Subset(Noisy(), range(N))], ids=["one", "all", "subset"])
def test_a_pass_from_any_batch_on_is_the_rest_of_the_whole_pass(kind, dataset):
    loader = make(kind, dataset)
    whole = one_pass(loader, epoch=3)
    assert len(whole) == len(loader) > 1
    for start in range(len(whole) + 1):
        assert same(one_pass(make(kind, dataset), 3, start), whole[start:])
        assert len(loader) == len(whole)


@pytest.mark.parametrize("dataset", [Noisy(), NoisyTogether()], ids=["one", "all"])
@pytest.mark.parametrize("options", [{}, {"persistent_workers": True, "prefetch_factor": 4}], ids=["new", "persistent"])
def test_workers_and_what_they_fetch_ahead_make_no_difference(options, dataset):
    for kind in ("shuffle", "sequential", "drop_last", "weighted"):
        alone, loader = make(kind, dataset), make(kind, dataset, num_workers=2, **options)
        for epoch, start in [*((1, i) for i in range(len(alone) + 1)), (2, 0), (0, 1)]:
            assert same(one_pass(loader, epoch, start), one_pass(alone, epoch, start))


@pytest.mark.parametrize("persistent", [False, True])
def test_a_pass_that_was_left_early_leaves_nothing_behind(persistent):
    loader = make(num_workers=2, persistent_workers=persistent)
    loader.batch_sampler.set_position(0)
    next(iter(loader))
    assert same(one_pass(loader, 1, 1), one_pass(make(), 1, 1))


def test_noise_differs_with_position_epoch_and_seed_and_not_with_the_sample_or_the_size_of_the_batch():
    def noises(epoch=0, seed=0, **options):
        return torch.cat(one_pass(make("sequential", seed=seed, collate_fn=torch.stack, **options), epoch))[:, 1:]

    numbers = torch.stack([noises(epoch, seed) for epoch, seed in product(range(3), range(3))])
    assert numbers.unique().numel() == numbers.numel()
    assert torch.equal(noises(batch_size=5), noises())
    shuffled = torch.cat(one_pass(make("shuffle", seed=0, collate_fn=torch.stack)))
    assert not torch.equal(shuffled[:, 0], torch.arange(float(N), dtype=torch.float64))
    assert torch.equal(shuffled[:, 1:], noises())
    collated = torch.stack([batch[-1, 1:] for batch in one_pass(make("sequential", seed=0))])
    assert not torch.isin(collated, numbers).any()
    assert collated.unique().numel() == collated.numel()
    others = one_pass(make("sequential", list(torch.zeros(N, 7, dtype=torch.float64)), seed=0))  # draws nothing itself
    assert torch.equal(torch.stack([batch[-1, 1:] for batch in others]), collated)
    passes = [one_pass(make("sequential", NoisyTogether(), seed=s), e) for e, s in product(range(3), range(3))]
    numbers = torch.cat([batch[:, 1:] for batches in passes for batch in batches])
    assert numbers.unique().numel() == numbers.numel()


@pytest.mark.parametrize("kind", ["shuffle", "sequential", "weighted"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_generators_of_the_training_are_not_touched(kind, workers):
    generator = torch.Generator()
    loader = make(kind, num_workers=workers, generator=generator)
    random.gauss(0, 1), np.random.randn()  # a second number is now kept: it has to be put back, too
    before, own = generator_states(), generator.get_state()
    batches = iter(loader)
    assert generator_states() == before
    for _ in batches:
        assert generator_states() == before
    assert torch.equal(generator.get_state(), own)
    if kind == "shuffle":
        assert loader.sampler.generator is generator


def test_an_error_of_the_dataset_is_raised_as_it_is_and_the_generators_are_put_back():
    class Broken(Noisy):
        def __getitem__(self, i):
            raise KeyError(f"sample {i}")

    before = generator_states()
    with pytest.raises(KeyError, match="sample 0"):
        next(iter(make("sequential", Broken())))
    assert generator_states() == before


def test_a_training_with_dropout_is_the_same_for_any_number_of_workers():
    def trained(**options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(7, 8), nn.Dropout(), nn.Linear(8, 2))
        loader = make(collate_fn=lambda batch: (torch.stack(batch).float(), torch.ones(len(batch)).long()), **options)
        Learner(model, Loaders({"train": loader}), nn.functional.cross_entropy, lr=0.1).fit(2)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(trained(), trained(num_workers=2))


def mark_worker(number):
    get_worker_info().dataset.marked_by = number


class Marked(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        info = get_worker_info()
        return self.marked_by, info.dataset is self, info.seed


def test_a_worker_and_who_looks_at_the_loader_see_the_dataset_that_was_given():
    dataset = Marked()
    loader = ordered(DataLoader(dataset, 2, num_workers=2, worker_init_fn=mark_worker, collate_fn=list), 0)
    assert loader.dataset is dataset
    first = list(loader)
    assert [[sample[:2] for sample in batch] for batch in first] == [[(0, True)] * 2, [(1, True)] * 2]
    assert list(loader) == first  # the workers' seeds as well
    loader.batch_sampler.set_position(1)
    assert first[0][0][2] not in [sample[2] for batch in loader for sample in batch]


def test_all_options_are_kept_and_the_given_loader_stays_as_it_is():
    options = {
        "num_workers": 2,
        "prefetch_factor": 3,
        "persistent_workers": True,
        "timeout": 9,
        "worker_init_fn": mark_worker,
        "collate_fn": noisy_collate,
        "multiprocessing_context": multiprocessing.get_context("fork"),
        "drop_last": True,
        "batch_size": SIZE,
        "sampler": RandomSampler(Noisy()),
        "pin_memory": True,
    }
    given_loader = DataLoader(Noisy(), **options)
    before = dict(vars(given_loader))
    loader = ordered(given_loader, 0)
    assert {name: getattr(loader, name) for name in options} == options
    assert type(loader.batch_sampler) is PositionSampler
    assert vars(given_loader) == before
    assert len(DataLoader(Noisy(), SIZE, drop_last=True)) == len(loader)


def test_workers_of_the_given_loader_are_not_taken_over():
    used = DataLoader(Noisy(), SIZE, collate_fn=noisy_collate, num_workers=2, persistent_workers=True)
    list(used)
    assert same(one_pass(ordered(used, 7)), one_pass(make("sequential")))
    assert len(list(used)) == 4


def test_an_ordered_loader_can_be_given_another_seed():
    assert why_not_ordered(make()) is None
    assert same(one_pass(ordered(make(seed=7), 8)), one_pass(make(seed=8)))


def test_arrays_cost_no_seeding(monkeypatch):
    def fail(*_):
        raise NotImplementedError

    monkeypatch.setattr(learner.data.order, "seed_generators", fail)
    x = torch.arange(10.0)
    for loader in (Loaders.from_arrays(train=x, batch_size=4).train, DataLoader(TensorDataset(x), 4, shuffle=True)):
        batches = [batch if torch.is_tensor(batch) else batch[0] for batch in ordered(loader, 0)]
        assert torch.equal(torch.cat(batches).sort().values, x)
    with pytest.raises(NotImplementedError):
        list(ordered(DataLoader(TensorDataset(x), 4, collate_fn=list), 0))  # who knows what that one draws


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_on_record_know_their_numbers(workers):
    loader = make(num_workers=workers)
    loader.batch_sampler.set_position(2, 1)
    with SampleIds(loader) as ids:
        for i, batch in enumerate(loader, 1):
            assert ids.of_batch(i, len(batch) - 1).tolist() == batch[:-1, 0].tolist()


class MyLoader(DataLoader):
    def __iter__(self):
        return super().__iter__()


class Renamed(DataLoader):
    def __init__(self, dataset):
        super().__init__(dataset, SIZE, shuffle=True)


class Pipe(MapDataPipe):
    def __len__(self):
        return 4


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        ([1, 2], "it is a list, not a plain DataLoader"),
        (MyLoader(range(4)), "it is a MyLoader, not a plain DataLoader"),
        (BatchLimit(DataLoader(range(4)), 1), "it is a BatchLimit"),
        (DataLoader(Stream()), "its dataset is a stream"),
        (
            DataLoader(range(4), num_workers=1, in_order=False),
            "it gives batches in the order in which workers are done",
        ),
        (DataLoader(Pipe()), "its dataset is a data pipe, which draws by itself"),
    ],
)
def test_a_loader_that_cannot_be_ordered_is_refused_with_the_reason(loader, reason):
    with pytest.raises(ValueError, match=f"^`loader` must be one .* but {reason}.*; pass a DataLoader"):
        ordered(loader, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_is_a_batch_by_itself_has_a_position_too(workers):
    options = {"batch_size": None, "shuffle": True, "collate_fn": lambda x: torch.cat([x, noise()])}
    loader = ordered(DataLoader(Noisy(), num_workers=workers, **options), 7)
    assert (loader.batch_size, loader.batch_sampler, loader.sampler, len(loader)) == (None, None, loader.position, N)
    loader.position.set_position(1)
    whole = list(loader)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(position_seed(7, 1, "order")))
    assert [int(x[0]) for x in whole] == order.tolist()
    noises = torch.stack(whole)[:, 1:]
    assert noises.unique().numel() == noises.numel()
    again = ordered(ordered(DataLoader(Noisy(), **options), 1), 7)
    again.position.set_position(1, 4)
    assert same(list(again), whole[4:])
    tensors = DataLoader(TensorDataset(torch.arange(4.0)), batch_size=None, collate_fn=list)
    assert [x for (x,) in ordered(tensors, 0)] == [0, 1, 2, 3]


def test_a_class_that_reads_as_any_dataloader_can_be_ordered():
    loader = ordered(Renamed(Noisy()), 7)
    assert same(one_pass(loader, 1), one_pass(ordered(DataLoader(Noisy(), SIZE, shuffle=True), 7), 1))


class Told(Noisy):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, i):
        return torch.tensor([i, self.epoch])


@pytest.mark.parametrize("first", [0, 3])
def test_a_dataset_in_workers_that_persist_hears_of_a_new_epoch(first):
    dataset = Told()
    loader = ordered(DataLoader(dataset, SIZE, num_workers=2, persistent_workers=True), 0)
    dataset.set_epoch(first)
    for epoch, start in ((first, 3), (first + 1, 0), (first + 5, 0)):
        assert all((batch[:, 1] == epoch).all() for batch in one_pass(loader, epoch, start))


def test_a_loader_whose_only_worker_is_the_main_process_may_be_out_of_order():
    assert why_not_ordered(DataLoader(range(4), in_order=False)) is None


def test_numbers_of_any_kind_are_the_same_seed_and_position():
    loader = make(seed=np.int64(7))
    assert same(one_pass(loader, np.int64(1), np.int64(2)), one_pass(make(seed=7), 1, 2))
    with pytest.raises(TypeError, match=r"`seed` must be a whole number, got 0\.5; do"):
        make(seed=0.5)
    with pytest.raises(TypeError, match="`seed` must be a whole number, got 'a'; do"):
        seeded(Noisy(), "a")


SCRIPT = """
import pickle, random, sys
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset
from learner.data import ordered, seeded

class Noisy(Dataset):
    def __len__(self):
        return 11
    def __getitem__(self, i):
        return [i, random.random(), np.random.rand(), torch.rand(()).item()]

def batches(start, **options):
    loader = ordered(DataLoader(Noisy(), 3, shuffle=True, collate_fn=list, **options), 5)
    loader.batch_sampler.set_position(4, start)
    dataset = seeded(Noisy(), 6)
    other = DataLoader(dataset, 11, collate_fn=list, **options)
    dataset.set_epoch(2)
    return [*loader, *other]

if __name__ == "__main__":
    got = batches(2, num_workers=1, multiprocessing_context="spawn")
    sys.stdout.buffer.write(pickle.dumps(got))
"""


def test_a_new_process_with_new_workers_goes_on_as_if_nothing_had_happened(tmp_path):
    script = tmp_path / "resumed.py"
    script.write_text(SCRIPT)
    here = {"__name__": "here"}
    exec(compile(SCRIPT, str(script), "exec"), here)
    environment = {**os.environ, "PYTHONPATH": str(Path(learner.__file__).parents[1])}
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, check=True, env=environment)
    assert pickle.loads(done.stdout) == here["batches"](0)[2:]
