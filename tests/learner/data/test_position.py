"""Where a pass begins, for every kind of loader: stopped anywhere it goes on bit for bit, or says that it may not."""

import os
import pickle
import random
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
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
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from callbacks import CheckpointCallback, OverfitCallback
from learner import Callback, Learner, Loaders
from learner.data.limit import BatchLimit
from learner.data.order import OrderedLoader, ordered, seeded
from learner.data.position import Places, Rest, why_not_exact
from tests.resuming import StopAt, assert_equal_runs, resumed, seed_all, stopped, uninterrupted

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


@pytest.mark.parametrize("kind", EXACT)
def test_a_loader_of_which_nothing_is_said_goes_on_bit_for_bit(kind, tmp_path, capsys):
    whole = assert_goes_on(EXACT[kind], tmp_path)
    first, second = ([x[:, 0] for epoch, name, _, x, _ in seen(whole) if (epoch, name) == (n, "train")] for n in (0, 1))
    is_fixed = kind in ("list", "tuple") or kind.startswith("limit")
    assert torch.equal(torch.cat(first), torch.cat(second)) == is_fixed  # noise is new in each epoch
    assert "again" not in capsys.readouterr().out
    assert why_not_exact(EXACT[kind]()) is None


@pytest.mark.parametrize("kind", SAYS_SO)
def test_a_loader_that_nobody_can_vouch_for_says_so_once_and_is_read_again(kind, tmp_path, capsys):
    make_loader, reason = SAYS_SO[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert_goes_on(make_loader, tmp_path)
    assert "resume: reads 2 batches of loader 'train' again, since it" in capsys.readouterr().out
    learn = learner(make_loader, tmp_path / "one more")
    with pytest.warns(
        RuntimeWarning, match=f"^loader 'train' must give the same batches again .* but {reason}"
    ) as said:
        learn.fit(2)
    assert len(said) == 1
    strict = learner(make_loader, tmp_path / "strict", exact=True)
    with pytest.raises(ValueError, match=f"^loader 'train' must .* but {reason}.*; pass a DataLoader over numbered"):
        strict.fit(1)
    assert seen(strict) == []


READ_AGAIN = {
    "own loader": lambda: MyLoader(Noisy(), SIZE, True, collate_fn=collate),
    "own loader, own sampler, workers": lambda: MyLoader(
        Noisy(), SIZE, sampler=AsItGoes(), collate_fn=collate, **WORKERS
    ),
}


@pytest.mark.parametrize("kind", READ_AGAIN)
def test_a_loader_that_is_read_again_says_what_it_costs_and_goes_on_bit_for_bit(kind, tmp_path, capsys):
    assert_goes_on(READ_AGAIN[kind], tmp_path)
    assert "resume: reads 2 batches of loader 'train' again, since it is a MyLoader, not" in capsys.readouterr().out


class Keeps(Noisy):
    """Holds a random generator of its own."""

    def __init__(self, **held):
        vars(self).update(held)


@pytest.mark.parametrize(
    ("make_loader", "reason"),
    [
        (lambda: iter(list_of_batches()), "it is an iterator, which is used up by one pass"),
        (lambda: (batch for batch in list_of_batches()), "it is an iterator"),
        (lambda: loader(Stream(), **PERSISTENT), "its dataset is a stream"),
        (lambda: MyLoader(Noisy(), **PERSISTENT), "its workers persist, and have drawn random numbers that"),
        (lambda: loader(in_order=False, **WORKERS), r"it gives batches in the order .* \(in_order=False\)"),
        (
            lambda: BeginsTwice(num_workers=1),
            "what its workers draw at random is not in its state; `learner.data.seeded` makes it",
        ),
        (lambda: loader(Keeps(rng=np.random.default_rng(0))), "its dataset.rng is a random generator that nobody can"),
        (lambda: loader(Keeps(rng=torch.Generator()), **WORKERS), "its dataset.rng is"),
        (lambda: loader(Subset(Keeps(t=[1, Keeps(r=random.Random(0))]), [0])), r"its dataset.dataset.t\[1\].r is"),
        (lambda: loader(Keeps(r=np.random.RandomState(0))), "its dataset.r is"),
        (lambda: loader(collate_fn=Keeps(r=np.random.default_rng(0))), "its collate_fn.r is"),
        (lambda: loader(sampler=AsItGoes(np.random.default_rng(0))), "its sampler.generator is"),
    ],
)
def test_what_cannot_be_exact_is_said_before_the_fit_and_refused_where_that_was_asked_for(
    make_loader, reason, tmp_path
):
    assert why_not_exact(make_loader()) is not None
    learn = learner(make_loader, tmp_path / "warned")
    with pytest.warns(RuntimeWarning, match=f"but {reason}.*; the rest of a pass may differ") as said:
        learn.fit(0)
    assert len(said) == 1
    with pytest.raises(ValueError, match=f"but {reason}.*; pass a DataLoader over numbered samples, or leave out"):
        learner(make_loader, tmp_path / "strict", exact=True).fit(0)


def test_what_holds_generators_is_not_looked_for_without_end():
    knot = Keeps(many=[np.random.default_rng(0)] * 33, module=random, kind=random.Random)
    knot.itself = knot
    assert why_not_exact(loader(knot)) is None
    knot.rng = np.random.default_rng(0)
    assert why_not_exact(loader(knot)) == "its dataset.rng is a random generator that nobody can put back"


def test_loaders_without_a_position_are_read_in_the_order_they_have():
    iterator = iter([1, 2, 3])
    assert Places("train", iterator).at(0) is iterator  # that it is used up can be seen
    assert list(Places("train", iter([1, 2, 3])).at(0, 2)) == [3]
    batches = [1, 2, 3]
    assert Places("train", batches).at(5) is batches
    rest = Places("train", batches).at(5, 2)
    assert (list(rest), list(rest), len(rest)) == ([3], [3], 3)
    assert list(Places("train", range(4)).at(1, 4)) == []


def test_a_rest_is_the_loader_but_for_where_it_begins():
    rest = pickle.loads(pickle.dumps(Rest(DataLoader(range(6), 2), 1)))
    assert (rest.batch_size, len(rest), len(list(rest))) == (2, 3, 2)
    with pytest.raises(AttributeError, match="'DataLoader' object has no attribute 'nothing'"):
        rest.nothing


@pytest.mark.parametrize("options", [{}, WORKERS, PERSISTENT], ids=["alone", "workers", "persistent"])
def test_a_resume_reads_what_is_left_of_the_pass_and_no_batch_more(options, tmp_path):
    n_batches, at = 20, 18

    def make_loader():
        return loader(Counted(n_batches * SIZE), shuffle=True, **options)

    whole = learner(make_loader, tmp_path / "whole")
    whole.fit(1)
    learn = learner(make_loader, tmp_path / "rest")
    learn.fit(1, resume=tmp_path / "whole" / f"step-{at:08}.pt")
    assert whole.dls.train.dataset.n_read == n_batches * SIZE
    assert learn.dls.train.dataset.n_read == (n_batches - at) * SIZE
    assert_equal_runs(learn, whole)


def test_other_workers_at_the_resume_make_no_difference(tmp_path):
    """Nor do pinned memory, and how far workers read ahead."""
    for kind in ({"shuffle": True}, {"sampler": AsItGoes(generator())}, {"batch_sampler": Lengths()}):
        folder = tmp_path / next(iter(kind))
        whole = learner(lambda: loader(**kind), folder)  # noqa: B023  # called at once
        seed_all(0)
        whole.fit(2)
        for options in (WORKERS, {**PERSISTENT, "prefetch_factor": 1}):
            seed_all(9)
            learn = learner(lambda: loader(**kind, **options), folder / f"{len(options)}")  # noqa: B023
            learn.fit(2, resume=folder / "step-00000002.pt")
            assert_equal_runs(learn, whole)


def test_options_of_the_loader_are_left_alone():
    given = loader(pin_memory=True, prefetch_factor=3, timeout=9, **PERSISTENT)
    before = dict(vars(given))
    placed = Places("train", given).at(1, 2)
    assert type(placed) is OrderedLoader
    changed = {name for name, value in before.items() if vars(placed)[name] is not value}
    assert changed == {"batch_sampler", "generator"}
    assert vars(given) == before


def test_workers_that_persist_are_the_same_ones_in_all_passes():
    places = Places("train", loader(Pids(), **PERSISTENT, shuffle=True, collate_fn=list), seed=0)
    first, rest, third = ([pid for batch in places.at(*at) for pid in batch] for at in ((0,), (1, 2), (2,)))
    assert len(set(first)) == 2
    assert {*first, *rest, *third} == set(first)


class Pids(Noisy):
    def __getitem__(self, i):
        return os.getpid()


def test_the_order_of_an_ordered_loader_is_that_of_its_own_seed():
    mine = ordered(loader(shuffle=True, collate_fn=torch.stack), 3)
    theirs = Places("train", mine, seed=None)
    assert theirs.seed == 3
    for epoch in range(2):
        mine.batch_sampler.set_position(epoch)
        assert all(map(torch.equal, mine, theirs.at(epoch)))
    assert not torch.equal(next(iter(mine)), next(iter(Places("train", ordered(mine, 4)).at(1))))


def test_loaders_of_one_seed_and_other_names_draw_other_numbers():
    one, other = (Places(name, loader(shuffle=True), seed=0).at(0) for name in ("train", "train_2"))
    assert not torch.equal(next(iter(one))[0], next(iter(other))[0])


def test_the_seed_is_that_of_the_generator_or_that_of_torch_and_nothing_is_drawn_for_it():
    torch.manual_seed(17)
    before = torch.get_rng_state()
    assert Places("train", loader(shuffle=True)).seed == 17
    assert Places("train", loader(shuffle=True, generator=generator())).seed == 5
    assert Places("train", loader(sampler=AsItGoes(generator()))).seed == 5
    assert torch.equal(torch.get_rng_state(), before)


def rng():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("kind", [kind for kind in (*EXACT, *SAYS_SO) if not kind.startswith("state")])
def test_reading_a_loader_draws_nothing_that_the_training_draws(kind):
    given = EXACT[kind]() if kind in EXACT else SAYS_SO[kind][0]()
    places, before = Places("train", given, seed=1), rng()
    for _ in places.at(0):
        assert rng() == before
    assert rng() == before


def test_an_overfit_sees_the_same_batches_in_another_process(tmp_path, capsys):
    make_loader = lambda: loader(shuffle=True, **WORKERS)
    assert_goes_on(make_loader, tmp_path / "overfit", overfit=True)
    whole = assert_goes_on(make_loader, tmp_path / "callback", cbs=lambda: [OverfitCallback(train=2)])
    batches = [x for _, name, _, x, _ in seen(whole) if name == "train"]
    assert len(batches) == 4
    assert torch.equal(torch.cat(batches[:2]), torch.cat(batches[2:]))
    assert "again" not in capsys.readouterr().out


def test_an_overfit_on_a_stream_whose_length_shows_in_the_first_pass_goes_on(tmp_path):
    def make(cbs):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))
        return Learner(model, {"train": WithoutLength()}, nn.functional.cross_entropy, cbs=cbs)

    class WithoutLength(WithState):
        __len__ = None

        def __iter__(self):
            yield from list_of_batches()

    whole, learn = make([CheckpointCallback(tmp_path / "a")]), make([CheckpointCallback(tmp_path / "b")])
    seed_all(0)
    whole.fit(2, overfit=True)
    learn.fit(2, overfit=True, resume=tmp_path / "a")
    assert_equal_runs(learn, whole)


def test_a_state_outlives_two_stops_before_its_loader_has_its_turn(tmp_path):
    class Counts(WithState):
        """Each pass has another order, by its number."""

        n = 0

        def __iter__(self):
            if self.order is None:
                self.n += 1
                generator = torch.Generator().manual_seed(self.n)
                self.order, self.n_given = torch.randperm(N, generator=generator).tolist(), 0
            return super().__iter__()

        def state_dict(self):
            return {**super().state_dict(), "n": self.n}

        def load_state_dict(self, state):
            super().load_state_dict(state)
            self.n = state["n"]

    def make(cbs):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))
        return Learner(model, {"train": Counts(), "valid": WithState()}, nn.functional.cross_entropy, cbs=cbs)

    whole = uninterrupted(make, 3, tmp_path / "whole")
    stopped(make, 3, 3, tmp_path / "stopped", by_interrupt=True)  # in the validation pass
    again = make([CheckpointCallback(tmp_path / "stopped"), StopAt(0, by_interrupt=True)])
    with pytest.raises(KeyboardInterrupt):
        again.fit(3, resume=True)
    assert_equal_runs(resumed(make, 3, tmp_path / "stopped"), whole)


def test_batches_that_were_kept_before_the_fit_are_said_to_be_no_others_will_have(tmp_path):
    limit = BatchLimit(loader(shuffle=True), 1)
    assert why_not_exact(limit) is None
    first = list(limit)
    assert why_not_exact(limit) == "its batches were fetched before the fit began"
    assert all(map(torch.equal, first[0], next(iter(Places("train", limit).at(0)))))
    assert why_not_exact(BatchLimit(Afresh(), 1)) == why_not_exact(Afresh())


def test_a_validation_in_the_middle_sees_the_batches_that_a_limit_has_kept():
    limit = BatchLimit(loader(shuffle=True), 2)
    placed = list(Places("valid", limit).at(3))
    assert all(torch.equal(x, other) for (x, _), (other, _) in zip(limit, placed, strict=True))
    assert why_not_exact(limit) is None  # also in the next fit


def test_samplers_and_datasets_are_told_the_epoch():
    sampler = DistributedSampler(Noisy(), 2, 0)
    dataset = seeded(Noisy(), 0)
    Places("train", loader(dataset, sampler=sampler)).at(4)
    assert (sampler.epoch, int(dataset._epoch)) == (4, 4)
    stream = Augmented()
    Places("train", DataLoader(stream, sampler=sampler, batch_size=None)).at(5)
    assert (sampler.epoch, stream.epoch) == (5, 5)


def test_of_a_loader_with_a_state_nothing_is_said_where_its_workers_draw_nothing_that_is_lost():
    stream = Stream()
    for dataset in (
        seeded(Noisy(), 0),
        TensorDataset(torch.ones(3)),
        Loaders.from_arrays(train=[1.0]).train.dataset,
        stream,
    ):
        assert why_not_exact(BeginsTwice(num_workers=2, dataset=dataset)) is None


def test_what_a_loader_with_a_state_draws_to_begin_depends_on_seed_and_epoch_alone():
    class Eager(WithState):
        def __iter__(self):
            self.order, self.n_given = torch.randperm(N).tolist(), 0
            return super().__iter__()

    def order(global_seed, seed, epoch):
        seed_all(global_seed)
        places = Places("train", Eager(), seed)
        iter(places.at(epoch))
        return places.loader.order

    assert order(1, 0, 0) == order(2, 0, 0)
    assert len({tuple(order(1, *at)) for at in ((0, 0), (0, 1), (1, 0))}) == 3
