"""Loaders of every kind, and a comparison of a run that was stopped with one that was not."""

import random
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from callbacks import CheckpointCallback
from learner import Callback, Learner
from learner.data.limit import BatchLimit
from learner.data.order import ordered
from learner.data.seeded_dataset import seeded
from tests.resuming import assert_equal_runs, seed_all

N, SIZE = 8, 3  # three batches, the last one shorter


class Noisy(Dataset):
    """Sample i: its number, then one of each global generator."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.tensor([float(i), random.random(), np.random.rand(), torch.rand(()).item()])


class Counted(Noisy):
    """Knows how often it was read, in workers too."""

    def __init__(self, n):
        self.n = n
        self.n_read = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.n_read += 1
        return super().__getitem__(i)


class Augmented(Noisy):
    """Draws nothing, but depends on the epoch that it was told, as the datasets of Hugging Face."""

    epoch = -1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, i):
        return torch.tensor([float(i), float(self.epoch), 0.0, 0.0])


class Stream(IterableDataset):
    def __iter__(self):
        worker = get_worker_info()
        for i in range(worker.id if worker else 0, N, worker.num_workers if worker else 1):
            yield Noisy()[i]


def collate(samples):
    """Make a batch of noisy samples, with noise."""
    x = torch.stack(samples)
    return x + torch.rand(()), x[:, 0].long() % 2


class AsItGoes(Sampler):
    """Draw each number when it is asked for, none of them twice, from a generator or from all global ones."""

    def __init__(self, generator=None):
        self.generator = generator

    def __len__(self):
        return N

    def __iter__(self):
        left = list(range(N))
        while left:
            k = int(torch.randint(len(left), (), generator=self.generator))
            if self.generator is None:
                k += random.randrange(99) + np.random.randint(99)
            yield left.pop(k % len(left))


class Lengths(Sampler):
    """A batch sampler of one's own: batches of one to three samples."""

    def __iter__(self):
        left = torch.randperm(N).tolist()
        while left:
            n = random.randint(1, 3)
            yield left[:n]
            left = left[n:]


class Afresh:
    """An iterable of one's own, that draws as it goes."""

    def __iter__(self):
        for first in range(0, N, SIZE):
            yield collate([Noisy()[i] for i in range(first, min(N, first + SIZE))])


class ByNumber:
    """The old way to be iterable."""

    def __getitem__(self, i):
        if i == 3:
            raise IndexError
        return collate([Noisy()[i]] * 2)


class WithState:
    """A loader that shuffles, in the protocol of torchdata's `StatefulDataLoader`."""

    def __init__(self, dataset=None):
        self.dataset = dataset or Noisy()
        self.order, self.n_given = None, 0  # of the pass that runs

    def __iter__(self):
        if self.order is None:
            self.order, self.n_given = torch.randperm(len(self.dataset)).tolist(), 0
        while self.n_given < len(self):
            self.n_given += 1
            yield collate([self.dataset[i] for i in self.order[(self.n_given - 1) * SIZE : self.n_given * SIZE]])
        self.order = None

    def __len__(self):
        return -(-len(self.dataset) // SIZE)

    def state_dict(self):
        return {"order": self.order, "n_given": self.n_given}

    def load_state_dict(self, state):
        self.order, self.n_given = state["order"], state["n_given"]


class BeginsTwice(WithState):
    """Draws when a pass begins, and once more when that goes on from a state, as torchdata's."""

    def __init__(self, **options):
        super().__init__()
        vars(self).update(options)
        self.is_put_back = False

    def __iter__(self):
        for _ in range(1 + self.is_put_back):
            torch.rand(())
        self.is_put_back = False
        return super().__iter__()

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.is_put_back = True


class OneByOne(Noisy):
    """Gives whole batches."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return collate([Noisy.__getitem__(self, i)] * 2)


class MyLoader(DataLoader):
    """Reads as it likes."""

    def __iter__(self):
        return ((x + torch.rand(()), y) for x, y in super().__iter__())


class Renamed(DataLoader):
    """Is made in a way of its own, and reads as any."""

    def __init__(self, dataset):
        super().__init__(dataset, SIZE, shuffle=True, collate_fn=collate)


def loader(dataset=None, **options):
    size = {} if "batch_sampler" in options else {"batch_size": SIZE}
    return DataLoader(Noisy() if dataset is None else dataset, **{**size, "collate_fn": collate, **options})


def generator():
    return torch.Generator().manual_seed(5)


def list_of_batches():
    with seeds(3):
        return list(Afresh())


@contextmanager
def seeds(seed):
    seed_all(seed)
    yield


WORKERS = {"num_workers": 2}


PERSISTENT = {"num_workers": 2, "persistent_workers": True}


EXACT = {
    "in order": lambda: loader(),
    "shuffled": lambda: loader(shuffle=True),
    "generator": lambda: loader(shuffle=True, generator=generator()),
    "drop_last": lambda: loader(shuffle=True, drop_last=True),
    "weighted": lambda: loader(sampler=WeightedRandomSampler(range(1, N + 1), N)),
    "weighted, generator": lambda: loader(sampler=WeightedRandomSampler([1] * N, N, generator=generator())),
    "subset sampler": lambda: loader(sampler=SubsetRandomSampler([1, 3, 5, 7, 0])),
    "subset": lambda: loader(Subset(Noisy(), [7, 1, 4, 2]), shuffle=True),
    "a batch as a sample": lambda: DataLoader(OneByOne(), batch_size=None, shuffle=True),
    "a batch as a sample, workers": lambda: DataLoader(OneByOne(), batch_size=None, shuffle=True, **WORKERS),
    "workers": lambda: loader(shuffle=True, **WORKERS),
    "persistent workers": lambda: loader(shuffle=True, prefetch_factor=4, **PERSISTENT),
    "own sampler": lambda: loader(sampler=AsItGoes()),
    "own sampler, generator": lambda: loader(sampler=AsItGoes(generator())),
    "own sampler, workers": lambda: loader(sampler=AsItGoes(), **WORKERS),
    "own sampler, generator, persistent workers": lambda: loader(sampler=AsItGoes(generator()), **PERSISTENT),
    "own batch sampler": lambda: loader(batch_sampler=Lengths()),
    "own batch sampler, workers": lambda: loader(batch_sampler=Lengths(), **WORKERS),
    "own sampler in batches": lambda: loader(batch_sampler=BatchSampler(AsItGoes(), 2, True)),
    "a list as a sampler": lambda: loader(sampler=[3, 1, 2, 5]),
    "distributed": lambda: loader(sampler=DistributedSampler(Noisy(), num_replicas=2, rank=1, seed=4), batch_size=2),
    "told the epoch": lambda: loader(Augmented(), shuffle=True),
    "told the epoch, persistent workers": lambda: loader(Augmented(), **PERSISTENT),
    "seeded dataset": lambda: loader(seeded(Noisy(), 3), shuffle=True, **WORKERS),
    "ordered": lambda: ordered(loader(shuffle=True), seed=3),
    "derived": lambda: Renamed(Noisy()),
    "list": list_of_batches,
    "tuple": lambda: tuple(list_of_batches()),
    "state": WithState,
    "state, begins twice": BeginsTwice,
    "limit of a state": lambda: BatchLimit(BeginsTwice(), 2),
    "limit": lambda: BatchLimit(loader(shuffle=True), 2),
    "limit of workers": lambda: BatchLimit(loader(sampler=AsItGoes(), **WORKERS), 2),
    "limit of a list": lambda: BatchLimit(list_of_batches(), 2),
}


# It says so, and nevertheless goes on exactly: nobody but the person can tell that it does.
SAYS_SO = {
    "stream": (lambda: loader(Stream()), "its dataset is a stream, of which nobody can tell"),
    "stream, workers": (lambda: loader(Stream(), **WORKERS), "its dataset is a stream, of which nobody can tell"),
    "own iterable": (Afresh, "nobody can tell whether a Afresh gives the same batches again"),
    "by number": (ByNumber, "nobody can tell whether a ByNumber gives the same batches again"),
}


class Seen(Callback):
    """Keep what goes into the model."""

    def __init__(self):
        self.batches = []

    def after_batch(self, learn):
        self.batches.append((learn.epoch, learn.dl_name, learn.i, learn.xb.clone(), learn.yb.clone()))


def learner(make_loader, folder, every=1, cbs=(), **options):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))
    dls = {"train": make_loader(), "valid": loader(shuffle=True)}
    keeper = CheckpointCallback(folder, every, keep=99, **options)
    opt = lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9)
    return Learner(model, dls, nn.functional.cross_entropy, opt_func=opt, cbs=[Seen(), keeper, *cbs])


def seen(learn):
    return learn.cbs[0].batches


def assert_goes_on(make_loader, tmp_path, n_epochs=2, cbs=lambda: (), **fit):
    """Train without a stop; then from each of the checkpoints, in a learner and with seeds of another process."""
    for every in (1, "epoch"):
        whole = learner(make_loader, tmp_path / f"whole {every}", every, cbs())
        seed_all(0)
        whole.fit(n_epochs, **fit)
        files = sorted((tmp_path / f"whole {every}").glob("*.pt"))
        assert len(files) == (n_epochs if every == "epoch" else whole.cbs[1]._n_batches)
        for file in files:
            seed_all(99)
            learn = learner(make_loader, tmp_path / f"{every} {file.name}", every, cbs())
            learn.fit(n_epochs, resume=file, **fit)
            rest = seen(whole)[len(seen(whole)) - len(seen(learn)) :]
            for now, then in zip(seen(learn), rest, strict=True):
                assert now[:3] == then[:3]
                assert torch.equal(now[3], then[3])
                assert torch.equal(now[4], then[4])
            assert_equal_runs(learn, whole)
    return whole


class Keeps(Noisy):
    """Holds a random generator of its own."""

    def __init__(self, **held):
        vars(self).update(held)
