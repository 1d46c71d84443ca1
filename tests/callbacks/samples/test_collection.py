"""Collectors over a pass: nothing lost, nothing reordered, exact means, and no waiting for the device."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks import (
    ClassificationMetricsCollector,
    EmbeddingsMetricsCollector,
    FunctionalMetricsCollector,
    MetricsCollector,
)
from callbacks.samples import collection
from callbacks.samples.collection import Collection, checked_collectors, layers_of, log_means, schemas_of
from learner import LearnerError, PredictorOutput
from learner.checkpoint.file import read_checkpoint, write_checkpoint
from learner.records.schema import CategoricalLabel

NOTHING = PredictorOutput(None, {})


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.parts = []

    def add(self, columns):
        self.parts.append({name: column.copy() for name, column in columns.items()})

    def __getitem__(self, name):
        return np.concatenate([part[name] for part in self.parts])


def given(batch, predictor_output):
    """Give the batch as the columns."""
    return batch


def collect(batches, collectors=given, weights=None, **keys):
    """Collect batches that are columns by name; return the writer and the means."""
    kept, start = Kept(), 0
    made = Collection(checked_collectors(collectors), kept, weights)
    for batch in batches:
        stop = start + len(next(iter(batch.values())))
        made.add(batch, NOTHING, np.arange(start, stop), **keys)
        start = stop
    made.flush()
    return kept, made.means()


def batches_of(columns, sizes):
    ends = np.cumsum([0, *sizes])
    return [{name: column[a:b] for name, column in columns.items()} for a, b in pairwise(ends)]


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_waiting", [1, 4, 5, 100])
@pytest.mark.parametrize("sizes", [[4, 4, 4, 2], [1, 9, 3, 1], [14]])
@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["cpu", "device"])
def test_nothing_is_lost_or_reordered(monkeypatch, n_waiting, sizes, is_elsewhere):
    monkeypatch.setattr(collection, "N_WAITING", n_waiting)
    if is_elsewhere:
        monkeypatch.setattr(Tensor, "is_cpu", False)
    columns = {
        "number": torch.randn(14),
        "half": torch.randn(14).half(),
        "row": torch.randn(14, 3),
        "array": np.random.default_rng(0).normal(size=14),
        "is_even": torch.arange(14) % 2 == 0,
        "text": [f"{'long' * (i % 3)}{i}" for i in range(14)],
    }
    kept, _ = collect(batches_of(columns, sizes), epoch=3, split="train", rate=0.5, flag=True)
    assert kept["example_id"].tolist() == list(range(14))
    for name, column in columns.items():
        assert kept[name].tolist() == np.asarray(column).tolist()
    assert [kept[name].dtype for name in ("number", "half", "row", "array")] == ["f4", "f2", "f4", "f8"]
    for name, value in {"epoch": 3, "split": "train", "rate": 0.5, "flag": True}.items():
        assert kept[name].tolist() == [value] * 14
    assert all(len(part["number"]) <= max(n_waiting, *sizes) for part in kept.parts)
    assert len(kept.parts) <= -(-14 // n_waiting) + len(sizes)


def test_what_is_the_same_for_a_batch_may_differ_in_the_next():
    kept = Kept()
    made = Collection(checked_collectors(given), kept)
    for step in range(3):
        made.add({"x": torch.zeros(2)}, NOTHING, np.array([step, step + 7]), step=step, split="a" * step)
    made.flush()
    assert kept["step"].tolist() == [0, 0, 1, 1, 2, 2]
    assert kept["split"].tolist() == ["", "", "a", "a", "aa", "aa"]
    assert kept["example_id"].tolist() == [0, 7, 1, 8, 2, 9]


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["cpu", "device"])
def test_a_loader_may_use_its_memory_again(monkeypatch, is_elsewhere):
    if is_elsewhere:
        monkeypatch.setattr(Tensor, "is_cpu", False)
    label, array, ids, kept = torch.empty(4, dtype=torch.int64), np.empty(4), np.empty(4, np.int64), Kept()
    made = Collection(checked_collectors(given), kept)
    for i in range(5):
        label.fill_(i)
        array.fill(i)
        ids[:] = i
        made.add({"label": label, "array": array}, NOTHING, ids)
    made.flush()
    expected = np.repeat(np.arange(5), 4).tolist()
    assert kept["label"].tolist() == kept["array"].tolist() == kept["example_id"].tolist() == expected


def test_a_pass_without_batches_writes_nothing():
    kept, means = collect([])
    assert (kept.parts, means) == ([], {})


def test_flushing_twice_writes_once():
    kept = Kept()
    made = Collection(checked_collectors(given), kept)
    made.add({"x": torch.ones(2)}, NOTHING, np.arange(2))
    made.flush()
    made.flush()
    assert len(kept.parts) == 1


def test_a_type_that_changes_is_written_as_it_was():
    columns = [torch.ones(2), torch.ones(2).double(), np.ones(2, np.float16), ["a", "b"], torch.ones(2)]
    kept, _ = collect([{"x": column} for column in columns])
    assert [part["x"].dtype for part in kept.parts] == ["f4", "f8", "f2", object, "f4"]
    assert kept["example_id"].tolist() == list(range(10))


# -- going on ----------------------------------------------------------------------------------------------------------

MIXED = {
    "loss": torch.linspace(0.1, 1.7, 23) ** 7,
    "half": np.linspace(-1, 1, 23, dtype=np.float16),
    "count": torch.arange(23),
    "big": np.arange(23, dtype=">i4"),
    "is_right": torch.arange(23) % 3 == 0,
    "vector": torch.linspace(0, 1, 23 * 5).reshape(23, 5),
    "word": [["", "Grüße", "a\0b", "x" * 40][i % 4] for i in range(23)],
}


def collected(batches, rows=None, start=0):
    """Collect some batches; return what was written, the means, and the collection as it was before its end."""
    kept = Kept()
    made = Collection(checked_collectors(given), kept, np.linspace(1, 2, 23), keeps_rows=True)
    if rows is not None:
        made.go_on(rows)
    for batch in batches:
        stop = start + len(batch["loss"])
        made.add(batch, NOTHING, np.arange(start, stop), epoch=3, split="train")
        start = stop
    rows = made.rows()
    made.flush()
    return kept, made.means(), rows


@pytest.mark.parametrize("is_elsewhere", [False, True])
@pytest.mark.parametrize("n_waiting", [1, 7, 100])
def test_a_collection_goes_on_after_any_batch_as_if_there_had_been_no_break(
    monkeypatch, tmp_path, n_waiting, is_elsewhere
):
    monkeypatch.setattr(collection, "N_WAITING", n_waiting)
    if is_elsewhere:
        monkeypatch.setattr(Tensor, "is_cpu", False)
    batches = batches_of(MIXED, [4, 4, 2, 4, 1, 4, 4])
    whole, means, _ = collected(batches)
    for n in range(len(batches) + 1):
        *_, rows = collected(batches[:n])
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "is_cpu", True)
            write_checkpoint(tmp_path / "rows.pt", rows)
        rest, means_too, _ = collected(
            batches[n:], read_checkpoint(tmp_path / "rows.pt"), start=sum([4, 4, 2, 4, 1, 4, 4][:n])
        )
        assert means_too == means
        assert [list(part) for part in rest.parts] == [list(part) for part in whole.parts]
        for name in whole.parts[0]:
            assert [part[name].tolist() for part in rest.parts] == [part[name].tolist() for part in whole.parts], name
            assert [part[name].dtype for part in rest.parts] == [part[name].dtype for part in whole.parts], name


def test_a_collection_may_go_on_twice(monkeypatch):
    monkeypatch.setattr(collection, "N_WAITING", 7)
    batches = batches_of(MIXED, [4, 4, 2, 4, 1, 4, 4])
    whole, means, _ = collected(batches)
    *_, first = collected(batches[:2])
    *_, second = collected(batches[2:5], first, start=8)
    rest, means_too, _ = collected(batches[5:], second, start=15)
    assert means_too == means
    assert rest["word"].tolist() == whole["word"].tolist() == MIXED["word"]


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_rows_are_copies_and_not_kept_where_nobody_asks_for_them(monkeypatch, is_elsewhere):
    if is_elsewhere:
        monkeypatch.setattr(Tensor, "is_cpu", False)
    batches = batches_of(MIXED, [4, 4])
    made = Collection(checked_collectors(given), Kept(), keeps_rows=True)
    made.add(batches[0], NOTHING, np.arange(4))
    rows = made.rows()
    kept = next(packed for _, name, _, packed in rows["waiting"] if name == "loss")
    before = kept.clone()
    made.flush()
    made.add(batches[1], NOTHING, np.arange(4))
    assert torch.equal(kept, before)
    assert Collection(checked_collectors(given), Kept()).rows() is None


def test_blocks_are_made_once_and_are_no_larger_than_they_may(monkeypatch):
    made_blocks = []

    def spied(kind, n_rows, make=collection.empty_block):
        made_blocks.append(n_rows)
        return make(kind, n_rows)

    monkeypatch.setattr(collection, "empty_block", spied)
    collect([{"x": torch.ones(64, 16)}] * 300)
    assert [n for n in made_blocks if n > 1] == [8192, 8192]  # example_id and x
    made_blocks.clear()
    monkeypatch.setattr(collection, "N_BYTES", 2**16)
    kept, _ = collect([{"x": torch.ones(64, 126)}] * 4)  # 512 bytes a row, with the id
    assert [n for n in made_blocks if n > 1] == [128, 128]
    assert [len(part["x"]) for part in kept.parts] == [128, 128]


# -- the device --------------------------------------------------------------------------------------------------------


def test_the_device_is_waited_for_when_rows_are_written_alone(monkeypatch):
    n_reads = 0

    def spied(name):
        read = getattr(Tensor, name)

        def spy(tensor, *args, **kwargs):
            nonlocal n_reads
            n_reads += 1
            return read(tensor, *args, **kwargs)

        return spy

    kept, output, label = Kept(), PredictorOutput(torch.randn(64, 10), {}), torch.zeros(64).long()
    monkeypatch.setattr(Tensor, "is_cpu", False)
    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__", "__array__"):
        monkeypatch.setattr(Tensor, name, spied(name))
    made = Collection([ClassificationMetricsCollector()], kept)
    for i in range(300):
        made.add((None, label), output, np.arange(64) + 64 * i, epoch=0)
        # Eight columns, each brought over and then seen as an array, when 8192 rows are full.
        assert n_reads == 16 * len(kept.parts) == 16 * (i // 128)


def test_nothing_of_tensors_without_values_is_read():
    collectors = [ClassificationMetricsCollector(), EmbeddingsMetricsCollector(["head"], "avg_pool_2")]
    made = Collection(collectors, Kept())
    hidden = {"head": torch.empty(64, 3, 4, 4, device="meta")}
    output = PredictorOutput(torch.empty(64, 10, device="meta"), hidden)
    for i in range(100):
        made.add((None, torch.empty(64, device="meta").long()), output, np.arange(64) + 64 * i)
    assert {name for name, block in made._blocks.items() if isinstance(block, np.ndarray)} == {(-1, "example_id")}


def test_labels_on_a_device_are_checked_before_they_are_written(monkeypatch):
    monkeypatch.setattr(Tensor, "is_cpu", False)
    kept = Kept()
    made = Collection([ClassificationMetricsCollector()], kept)
    made.add((None, torch.tensor([0, 3])), PredictorOutput(torch.eye(2, 3), {}), np.arange(2))
    with pytest.raises(LearnerError, match="labels must be class ids from 0 to 2, got 3"):
        made.flush()
    assert kept.parts == []


# -- means -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_waiting", [1, 4, 100])
def test_means_are_exact_on_a_ragged_last_batch(monkeypatch, n_waiting):
    monkeypatch.setattr(collection, "N_WAITING", n_waiting)
    x = torch.tensor([0.0] * 8 + [1.0] * 2)
    columns = {"x": x, "is_one": x == 1, "count": x.to(torch.uint8) * 200, "half": x.half()}
    _, means = collect(batches_of(columns, [4, 4, 2]))
    assert means == {"x": 0.2, "is_one": 0.2, "count": 40.0, "half": 0.2}


def test_means_are_summed_in_float64():
    x = torch.full((9999,), 0.1)
    _, means = collect(batches_of({"x": x}, [5000, 4999]))
    assert means["x"] == pytest.approx(float(x.double().mean()), abs=1e-14)


def test_means_are_weighted_by_the_weights_of_the_samples():
    generator = np.random.default_rng(0)
    x, weights = generator.normal(size=10), generator.uniform(size=20).astype(np.float32)
    kept = Kept()
    made = Collection(checked_collectors(given), kept, weights)
    ids = generator.permutation(20)[:10]
    for at in np.split(np.arange(10), [4, 8]):
        made.add({"x": x[at]}, NOTHING, ids[at])
    made.flush()
    assert made.means()["x"] == pytest.approx(np.average(x, weights=weights[ids]), rel=1e-6)


def test_weights_that_are_all_zero_leave_no_mean():
    _, means = collect([{"x": torch.ones(2)}], weights=np.zeros(2))
    assert np.isnan(means["x"])


@pytest.mark.parametrize("values", [[1.0, np.nan], [np.inf, -np.inf]])
def test_a_mean_of_what_has_none(values):
    _, means = collect([{"x": np.array(values), "y": np.ones(2)}])
    assert np.isnan(means["x"])
    assert means["y"] == 1


def test_what_is_averaged():
    class Ids(MetricsCollector):
        column_schemas = {"id": CategoricalLabel("id", ["a", "b"])}  # noqa: RUF012

        def compute_metrics(self, batch, predictor_output):
            return {"id": [0, 1], "text": ["a", "b"], "row": torch.ones(2, 3), "number": [1, 2]}

    silent = FunctionalMetricsCollector(lambda batch, output: {"silent": [1, 2]}, compute_aggregates=False)
    _, means = collect([{"x": torch.ones(2)}], [Ids(), silent], rate=0.5)
    assert means == {"number": 1.5}


def test_the_means_of_a_classifier_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, log_loss

    logits, label = torch.randn(50, 3), torch.randint(0, 3, (50,))
    made = Collection([ClassificationMetricsCollector()], Kept())
    for at in torch.arange(50).split(16):
        made.add((None, label[at]), PredictorOutput(logits[at], {}), at.numpy())
    made.flush()
    means = made.means()
    assert list(means) == ["loss", "accuracy", "confidence", "true_probability", "margin", "entropy"]
    assert means["accuracy"] == pytest.approx(accuracy_score(label, logits.argmax(1)))
    assert means["loss"] == pytest.approx(log_loss(label, logits.double().softmax(1)), rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "logged"),
    [
        ({}, {"loss": 0.5}),
        ({"split": ""}, {"loss": 0.5}),
        ({"split": "valid", "epoch": 3}, {"epoch": 3, "valid/loss": 0.5}),
    ],
)
def test_means_are_logged_by_split_over_the_epoch(keys, logged):
    seen = []
    log_means(seen.append, {"loss": 0.5}, keys)
    log_means(seen.append, {}, keys)
    assert seen == [logged]


# -- columns that do not belong together -------------------------------------------------------------------------------


def test_two_collectors_with_one_column():
    def first(batch, output):
        return {"x": batch["x"], "y": batch["x"]}

    def second(batch, output):
        return {"y": batch["x"]}

    with pytest.raises(LearnerError, match="column 'y' must come from one place, got it from first and second; rename"):
        collect([{"x": torch.ones(2)}], [first, second])


def test_a_column_that_is_a_constant_too():
    with pytest.raises(LearnerError, match="column 'rate' must come from one place, got it from `constants` and given"):
        collect([{"rate": torch.ones(2)}], rate=0.5)


@pytest.mark.parametrize("other", [{"x": torch.ones(2), "y": torch.ones(2)}, {"y": torch.ones(2)}])
@pytest.mark.parametrize("n_waiting", [2, 100])
def test_columns_that_are_not_there_each_time(monkeypatch, other, n_waiting):
    monkeypatch.setattr(collection, "N_WAITING", n_waiting)
    with pytest.raises(LearnerError, match=r"collectors must give the same columns for every batch, got \[.*'y'\]"):
        collect([{"x": torch.ones(2)}, other])


@pytest.mark.parametrize("other", [torch.ones(2, 4), torch.ones(2), np.ones((2, 4))])
@pytest.mark.parametrize("n_waiting", [2, 100])
def test_rows_that_are_not_equally_wide(monkeypatch, other, n_waiting):
    monkeypatch.setattr(collection, "N_WAITING", n_waiting)
    message = r"column 'x' must have as many values for each sample of every batch, got rows of shape .* after \(3,\)"
    with pytest.raises(LearnerError, match=message):
        collect([{"x": torch.ones(2, 3)}, {"x": other}])


@pytest.mark.parametrize("bad", [{"x": torch.ones(1)}, {"x": torch.ones(2, 3)}, {"y": torch.ones(2)}, {"x": [1, "a"]}])
def test_what_came_before_a_batch_that_cannot_be_collected_is_written(bad):
    kept = Kept()
    made = Collection(checked_collectors(given), kept)
    made.add({"x": torch.ones(2)}, NOTHING, np.arange(2))
    with pytest.raises(LearnerError, match="column"):
        made.add(bad, NOTHING, np.arange(2))
    made.add({"x": torch.zeros(2)}, NOTHING, np.arange(2, 4))
    made.flush()
    assert kept["x"].tolist() == [1, 1, 0, 0]
    assert made.means() == {"x": 0.5}


# -- collectors --------------------------------------------------------------------------------------------------------


def test_one_or_several_collectors_or_functions():
    one = ClassificationMetricsCollector()
    assert checked_collectors(one) == [one]
    assert [collector.name for collector in checked_collectors(given)] == ["given"]
    several = checked_collectors(collector for collector in (one, given))
    assert [collector.name for collector in several] == ["ClassificationMetricsCollector", "given"]


@pytest.mark.parametrize(
    ("collectors", "message"),
    [
        (None, "must be collectors or functions, got None"),
        ("loss", "must be collectors or functions, got 'loss'"),
        (["loss"], "must be collectors or functions, got 'loss'"),
        ([ClassificationMetricsCollector], r"pass ClassificationMetricsCollector\(...\)"),
        (ClassificationMetricsCollector, r"pass ClassificationMetricsCollector\(...\)"),
    ],
)
def test_what_is_no_collector(collectors, message):
    with pytest.raises(TypeError, match=message):
        checked_collectors(collectors)


one = ClassificationMetricsCollector()


@pytest.mark.parametrize(("collectors", "message"), [([], "hold a collector, got none"), ([one, one], "one twice")])
def test_no_collector_or_one_twice(collectors, message):
    with pytest.raises(ValueError, match=message):
        checked_collectors(collectors)


def test_a_function_twice():
    with pytest.raises(ValueError, match="`metrics_collectors` must be different collectors, got one twice"):
        checked_collectors([given, given])


def test_what_collectors_need_and_say_together():
    collectors = [
        ClassificationMetricsCollector(classes=["a", "b"]),
        EmbeddingsMetricsCollector(["body.*", 2]),
        EmbeddingsMetricsCollector([2, "head"]),
    ]
    assert layers_of(collectors) == ("body.*", 2, "head")
    assert list(schemas_of(collectors)) == ["label", "predicted"]
