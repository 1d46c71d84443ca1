"""One pass on record: ids by sampler or by field, layers, rows that survive, loaders in order, temporary folders."""

import gc

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from callbacks import FunctionalMetricsCollector
from callbacks.samples.collection import Collection
from callbacks.samples.recording import Folder, Recording
from learner import Learner, LearnerError
from learner.interrogate import capture
from learner.records import CategoricalLabel, Samples
from learner.records.writer import SampleWriter

N = 10
DATA = TensorDataset(torch.arange(float(N))[:, None], torch.arange(float(N))[:, None])


def number(batch, output):
    return {"number": batch["x"] if isinstance(batch, dict) else batch[0][:, 0]}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(1, 2), nn.Linear(2, 1)

    def forward(self, x):
        return self.outer(self.inner(x if x.ndim == 2 else x[:, None]).relu_())


def recorded(tmp_path, loader, collect=number, **options):
    """Return the samples of a validation on record, the means, and the recording."""
    learn = Learner(Model(), {"train": loader}, nn.functional.mse_loss)
    collectors = [collect if isinstance(collect, FunctionalMetricsCollector) else FunctionalMetricsCollector(collect)]
    writer = SampleWriter(tmp_path, "part", schemas=collectors[0].column_schemas)
    collection = Collection(collectors, writer, **options)
    recording = Recording(learn.model, loader, collection, writer, {"epoch": 3, "split": "a"})
    try:
        learn.side_pass("train", loader, "infer", recording)
    finally:
        means = recording.close()
    return Samples(writer.paths[:1]), means


def test_rows_have_the_keys_and_the_means_are_of_the_samples(tmp_path):
    samples, means = recorded(tmp_path, DataLoader(DATA, batch_size=4, shuffle=True))
    assert samples.columns == ("example_id", "epoch", "split", "number")
    assert (samples.numpy("example_id") == samples.numpy("number")).all()
    assert sorted(samples.numpy("example_id")) == list(range(N))
    assert (set(samples.numpy("epoch")), set(samples.numpy("split"))) == ({3}, {"a"})
    assert means == {"number": 4.5}


def test_means_are_weighted(tmp_path):
    weights = np.linspace(0, 1, N)
    _, means = recorded(tmp_path, DataLoader(DATA, batch_size=4), weights=weights)
    assert means["number"] == pytest.approx(np.average(np.arange(N), weights=weights), rel=1e-12)


class Stream(IterableDataset):
    def __init__(self, key="example_id", ids=lambda i: 7 * i):
        self.key, self.ids = key, ids

    def __iter__(self):
        return iter([{"x": 7.0 * i, self.key: self.ids(i), "label": 0.0} for i in range(N)])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x):
        return self.linear(x.float()[:, None])[:, 0]


def record_stream(tmp_path, stream):
    loader = DataLoader(stream, batch_size=4)
    learn = Learner(Named(), {"train": loader}, nn.functional.mse_loss)
    writer = SampleWriter(tmp_path, "part")
    collection = Collection([FunctionalMetricsCollector(number)], writer)
    recording = Recording(learn.model, loader, collection, writer, {"split": ""})
    try:
        learn.side_pass("train", loader, "infer", recording)
    finally:
        recording.close()
    return Samples(writer.paths[:1])


def test_a_stream_may_say_its_ids_itself(tmp_path):
    samples = record_stream(tmp_path, Stream())
    assert (samples.numpy("example_id") == 7 * np.arange(N)).all()
    assert (samples.numpy("number") == samples.numpy("example_id")).all()


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (Stream("other"), "must be able to say which samples .* a stream, .* give each sample an `example_id`"),
        (Stream(ids=lambda i: i / 2), r"`example_id` must be a whole number for each of 4 samples, got Tensor\(4,\)"),
        (Stream(ids=lambda i: [i, i]), "`example_id` must be a whole number for each of 4 samples, got"),
        (Stream(ids=str), "`example_id` must be a whole number for each of 4 samples, got"),
    ],
)
def test_without_ids_that_are_right_it_is_refused(tmp_path, stream, message):
    with pytest.raises(LearnerError, match=message):
        record_stream(tmp_path, stream)


def test_layers_are_copies_without_a_graph_and_hooks_are_gone(tmp_path):
    loader = DataLoader(DATA, batch_size=4)
    learn = Learner(Model(), {"train": loader}, nn.functional.mse_loss, lr=0.0)
    seen = []

    def look(batch, output):
        seen.append(output.hidden_layers["inner"])
        return {"number": batch[0][:, 0]}

    collector = FunctionalMetricsCollector(look)
    collector.layers = ("inner",)
    writer = SampleWriter(tmp_path, "part")
    recording = Recording(learn.model, loader, Collection([collector], writer), writer, {"split": ""})
    learn.fit(1, cbs=recording)
    assert sum(len(module._forward_hooks) for module in learn.model.modules()) > 0
    recording.close()
    assert sum(len(module._forward_hooks) for module in learn.model.modules()) == 0
    assert not any(value.requires_grad for value in seen)
    with capture(learn.model, "inner") as acts, torch.no_grad():
        learn.model(DATA.tensors[0])
    assert torch.equal(torch.cat(seen), acts["inner"])  # the relu after it writes in place
    assert (acts["inner"] < 0).any()


def test_a_step_is_the_number_of_those_made_before(tmp_path):
    loader = DataLoader(DATA, batch_size=4)
    learn = Learner(Model(), {"train": loader}, nn.functional.mse_loss, lr=0.0)
    writer = SampleWriter(tmp_path, "part")
    collection = Collection([FunctionalMetricsCollector(number)], writer)
    recording = Recording(learn.model, loader, collection, writer, {"split": ""})
    learn.fit(1, cbs=recording)
    recording.close()
    assert Samples(writer.paths[:1]).numpy("step").tolist() == [0] * 4 + [1] * 4 + [2] * 2


def test_what_fails_at_the_end_takes_nothing_with_it_that_was_written(tmp_path):
    """A class id without a name is found when rows are written; those of the files before it stay."""
    n = 9000  # more than wait

    def classes(batch, output):
        return {"kind": (batch[0][:, 0] >= n - 1).long() * 5}

    collector = FunctionalMetricsCollector(classes, {"kind": CategoricalLabel("kind", ["a", "b"])})
    x = torch.arange(float(n))[:, None]
    with pytest.raises(ValueError, match=r"`?kind`?.* 5"):
        recorded(tmp_path, DataLoader(TensorDataset(x, x), batch_size=1000), collector)
    (part,) = (tmp_path / "samples").iterdir()
    assert Samples([part]).numpy("example_id").tolist() == list(range(8000))


def test_a_pass_without_a_batch_that_counts_leaves_no_file(tmp_path):
    writer = SampleWriter(tmp_path, "part")
    recording = Recording(
        Model(), DataLoader(DATA), Collection([FunctionalMetricsCollector(number)], writer), writer, {}
    )
    assert recording.close() == {}
    assert (writer.paths, list(tmp_path.iterdir())) == ([], [])


# -- folders ---------------------------------------------------------------------------------------------------------


def test_a_temporary_folder_is_gone_with_who_held_it():
    folder = Folder()
    path = folder.path
    (path / "a.txt").write_text("a")
    assert path.is_dir()
    del folder
    gc.collect()
    assert not path.exists()
