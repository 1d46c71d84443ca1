"""Rows of several processes in the order of one, with stand-ins for the processes."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from callbacks.samples.collection import Collection, joined_rows, no_rows
from callbacks.samples.collectors import FunctionalMetricsCollector
from callbacks.samples.joined import JoinedWriter, added_up, in_order, pieces
from learner import PredictorOutput
from learner.data.shares import share
from learner.ranks.job import Job


class Together(Job):
    """One of several processes that have nothing but what was given before."""

    def __init__(self, world, others=(), can_agree=True):
        self.world, self._others, self._can_agree = world, others, can_agree

    can_agree = property(lambda self: self._can_agree)

    def gather(self, mine, at):
        return [mine, *self._others]


class Kept:
    def __init__(self):
        self.chunks = []

    def add(self, columns):
        self.chunks.append({name: column.copy() for name, column in columns.items()})

    @property
    def ids(self):
        return [i for chunk in self.chunks for i in chunk["example_id"].tolist()]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5), st.integers(1, 4))
def test_shares_of_batches_are_put_together_as_one_process_reads_them(sizes, world, chunk):
    whole = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    shares = []
    for rank in range(world):
        mine = [(i, batch[slice(*share(len(batch), rank, world))]) for i, batch in enumerate(whole)]
        rows = np.concatenate([part for _, part in mine])
        chunks = [{"id": rows[start : start + chunk]} for start in range(0, len(rows), chunk)]
        shares.append(([(i, len(part)) for i, part in mine], chunks))
    assert in_order(shares)["id"].tolist() == list(range(sum(sizes)))


def test_without_rows_there_are_no_columns():
    assert in_order([([], []), ([], [])]) == {}
    assert list(pieces({})) == []


def test_the_rows_come_to_the_writer_a_few_thousand_at_a_time():
    assert [len(piece["id"]) for piece in pieces({"id": np.arange(20_000)})] == [8192, 8192, 3616]


def test_sums_and_weights_are_added_by_name():
    assert added_up([{"a": (1.0, 2.0)}, {"a": (3.0, 1.0), "b": (5.0, 5.0)}]) == {"a": (4.0, 3.0), "b": (5.0, 5.0)}


def test_what_is_taken_is_copied_and_written_at_the_end():
    kept, column = Kept(), np.array([1, 2])
    writer = JoinedWriter(kept, Together(2, [([(0, 1)], [{"example_id": np.array([9])}], {"x": (1.0, 1.0)})]))
    writer.batches.append((0, 2))
    writer.add({"example_id": column})
    column[:] = 0
    assert kept.chunks == []
    assert writer.finish({"x": (2.0, 2.0)}) == {"x": (3.0, 3.0)}
    assert kept.ids == [1, 2, 9]


def test_where_another_process_has_failed_its_own_rows_are_written():
    kept = Kept()
    writer = JoinedWriter(kept, Together(2, ["not asked"], can_agree=False))
    writer.batches.append((0, 1))
    writer.add({"example_id": np.array([4])})
    assert (writer.finish({}), kept.ids) == ({}, [4])


def collected(ids_by_batch):
    collector = FunctionalMetricsCollector(lambda batch, output: {"x": batch})
    collection = Collection([collector], Kept(), keeps_rows=True, job=Together(2))
    for i, ids in ids_by_batch:
        values = torch.tensor(ids, dtype=torch.float64)
        collection.add(values, PredictorOutput(values, {}), np.array(ids), i)
    return collection


def test_what_two_processes_have_collected_goes_on_in_one():
    first, second = collected([(0, [3, 1]), (1, [5])]), collected([(0, [2]), (1, [4])])
    rows = joined_rows([first.rows(), second.rows()])
    assert rows["batches"] == [[0, 3], [1, 2]]
    kept = Kept()
    alone = Collection(first.collectors, kept, keeps_rows=True)
    alone.go_on(rows)
    values = torch.tensor([7.0], dtype=torch.float64)
    alone.add(values, PredictorOutput(values, {}), np.array([7]), 2)
    alone.finish()
    assert kept.ids == [3, 1, 2, 5, 4, 7]
    assert alone.means() == {"x": np.mean([3, 1, 2, 5, 4, 7])}


def test_a_process_that_has_collected_nothing_goes_on_with_nothing():
    kept = Kept()
    collection = Collection(collected([]).collectors, kept, keeps_rows=True)
    collection.go_on(no_rows())
    collection.finish()
    assert (kept.ids, collection.means(), joined_rows([None, None])) == ([], {}, None)
