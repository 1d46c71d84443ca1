"""Where a pass begins, for every kind of loader: stopped anywhere it goes on bit for bit, or says that it may not."""

import os
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
)

from callbacks import CheckpointCallback, OverfitCallback
from learner import Learner
from learner.data.exact import why_not_exact
from learner.data.limit import BatchLimit
from learner.data.order import OrderedLoader, ordered
from learner.data.position import ResumableLoader, SkipLoader
from learner.data.seeded_dataset import seeded
from tests.loaders import (
    EXACT,
    PERSISTENT,
    SAYS_SO,
    SIZE,
    WORKERS,
    AsItGoes,
    Augmented,
    Counted,
    Lengths,
    MyLoader,
    N,
    Noisy,
    WithState,
    assert_goes_on,
    collate,
    generator,
    learner,
    list_of_batches,
    loader,
    seen,
)
from tests.resuming import StopAt, assert_equal_runs, resumed, seed_all, stopped, uninterrupted


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


def test_loaders_without_a_position_are_read_in_the_order_they_have():
    iterator = iter([1, 2, 3])
    assert ResumableLoader("train", iterator).at(0) is iterator  # that it is used up can be seen
    assert list(ResumableLoader("train", iter([1, 2, 3])).at(0, 2)) == [3]
    batches = [1, 2, 3]
    assert ResumableLoader("train", batches).at(5) is batches
    rest = ResumableLoader("train", batches).at(5, 2)
    assert (list(rest), list(rest), len(rest)) == ([3], [3], 3)
    assert list(ResumableLoader("train", range(4)).at(1, 4)) == []


def test_a_rest_is_the_loader_but_for_where_it_begins():
    rest = pickle.loads(pickle.dumps(SkipLoader(DataLoader(range(6), 2), 1)))
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
    placed = ResumableLoader("train", given).at(1, 2)
    assert type(placed) is OrderedLoader
    changed = {name for name, value in before.items() if vars(placed)[name] is not value}
    assert changed == {"batch_sampler", "generator"}
    assert vars(given) == before


def test_workers_that_persist_are_the_same_ones_in_all_passes():
    resumable = ResumableLoader("train", loader(Pids(), **PERSISTENT, shuffle=True, collate_fn=list), seed=0)
    first, rest, third = ([pid for batch in resumable.at(*at) for pid in batch] for at in ((0,), (1, 2), (2,)))
    assert len(set(first)) == 2
    assert {*first, *rest, *third} == set(first)


class Pids(Noisy):
    def __getitem__(self, i):
        return os.getpid()


def test_the_order_of_an_ordered_loader_is_that_of_its_own_seed():
    mine = ordered(loader(shuffle=True, collate_fn=torch.stack), 3)
    theirs = ResumableLoader("train", mine, seed=None)
    assert theirs.seed == 3
    for epoch in range(2):
        mine.batch_sampler.set_position(epoch)
        assert all(map(torch.equal, mine, theirs.at(epoch)))
    assert not torch.equal(next(iter(mine)), next(iter(ResumableLoader("train", ordered(mine, 4)).at(1))))


def test_loaders_of_one_seed_and_other_names_draw_other_numbers():
    one, other = (ResumableLoader(name, loader(shuffle=True), seed=0).at(0) for name in ("train", "train_2"))
    assert not torch.equal(next(iter(one))[0], next(iter(other))[0])


def test_the_seed_is_that_of_the_generator_or_that_of_torch_and_nothing_is_drawn_for_it():
    torch.manual_seed(17)
    before = torch.get_rng_state()
    assert ResumableLoader("train", loader(shuffle=True)).seed == 17
    assert ResumableLoader("train", loader(shuffle=True, generator=generator())).seed == 5
    assert ResumableLoader("train", loader(sampler=AsItGoes(generator()))).seed == 5
    assert torch.equal(torch.get_rng_state(), before)


def rng():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("kind", [kind for kind in (*EXACT, *SAYS_SO) if not kind.startswith("state")])
def test_reading_a_loader_draws_nothing_that_the_training_draws(kind):
    given = EXACT[kind]() if kind in EXACT else SAYS_SO[kind][0]()
    resumable, before = ResumableLoader("train", given, seed=1), rng()
    for _ in resumable.at(0):
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


def test_a_validation_in_the_middle_sees_the_batches_that_a_limit_has_kept():
    limit = BatchLimit(loader(shuffle=True), 2)
    placed = list(ResumableLoader("valid", limit).at(3))
    assert all(torch.equal(x, other) for (x, _), (other, _) in zip(limit, placed, strict=True))
    assert why_not_exact(limit) is None  # also in the next fit


def test_samplers_and_datasets_are_told_the_epoch():
    sampler = DistributedSampler(Noisy(), 2, 0)
    dataset = seeded(Noisy(), 0)
    ResumableLoader("train", loader(dataset, sampler=sampler)).at(4)
    assert (sampler.epoch, int(dataset._epoch)) == (4, 4)
    stream = Augmented()
    ResumableLoader("train", DataLoader(stream, sampler=sampler, batch_size=None)).at(5)
    assert (sampler.epoch, stream.epoch) == (5, 5)


def test_what_a_loader_with_a_state_draws_to_begin_depends_on_seed_and_epoch_alone():
    class Eager(WithState):
        def __iter__(self):
            self.order, self.n_given = torch.randperm(N).tolist(), 0
            return super().__iter__()

    def order(global_seed, seed, epoch):
        seed_all(global_seed)
        resumable = ResumableLoader("train", Eager(), seed)
        iter(resumable.at(epoch))
        return resumable.loader.order

    assert order(1, 0, 0) == order(2, 0, 0)
    assert len({tuple(order(1, *at)) for at in ((0, 0), (0, 1), (1, 0))}) == 3
