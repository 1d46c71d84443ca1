"""What cannot be exact is found before the fit, and says why."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    Subset,
    TensorDataset,
)

from learner import Loaders
from learner.data.exact import why_not_exact
from learner.data.limit import BatchLimit
from learner.data.position import ResumableLoader
from learner.data.seeded_dataset import seeded
from tests.loaders import (
    PERSISTENT,
    WORKERS,
    Afresh,
    AsItGoes,
    BeginsTwice,
    Keeps,
    MyLoader,
    Noisy,
    Stream,
    learner,
    list_of_batches,
    loader,
)


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
            r"what its workers draw at random is not in its state; `learner.data.seeded",
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


def test_batches_that_were_kept_before_the_fit_are_said_to_be_no_others_will_have(tmp_path):
    limit = BatchLimit(loader(shuffle=True), 1)
    assert why_not_exact(limit) is None
    first = list(limit)
    assert why_not_exact(limit) == "its batches were fetched before the fit began"
    assert all(map(torch.equal, first[0], next(iter(ResumableLoader("train", limit).at(0)))))
    assert why_not_exact(BatchLimit(Afresh(), 1)) == why_not_exact(Afresh())


def test_of_a_loader_with_a_state_nothing_is_said_where_its_workers_draw_nothing_that_is_lost():
    stream = Stream()
    for dataset in (
        seeded(Noisy(), 0),
        TensorDataset(torch.ones(3)),
        Loaders.from_arrays(train=[1.0]).train.dataset,
        stream,
    ):
        assert why_not_exact(BeginsTwice(num_workers=2, dataset=dataset)) is None
