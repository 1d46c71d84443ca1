"""One pass over a table: who may be asked, with what, and what is left behind."""

import gc
import io
import random
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from callbacks import ClassificationMetricsCollector, EmbeddingsMetricsCollector, MetricsCollector, collect_metrics
from callbacks.show.progress_terminal import Bar
from learner import LearnerError, Loaders, Predictor
from learner.interrogate import capture
from learner.records import Run, Samples, Table

N = 10


class Keywords(nn.Module):
    def forward(self, arg_1=None, arg_2=None):
        return arg_1 + arg_2


class Positions(nn.Module):
    def forward(self, arg_1, arg_2):
        return arg_1 + arg_2


class One(nn.Module):
    def forward(self, arg):
        arg_1, arg_2 = arg
        return arg_1 + arg_2


def total(batch, output):
    return {"total": output.forward}


def number(batch, output):
    """Tell the number of a sample by its first feature."""
    return {"number": batch[0][:, 0].round()}


@pytest.fixture
def table():
    return Table.from_dict({"arg_1": list(range(N)), "arg_2": list(range(N, 2 * N))}, table_name="table")


@pytest.fixture
def data():
    """Ten points, of which the first feature is the number of the sample."""
    x = torch.stack([torch.arange(float(N)), torch.linspace(-1, 1, N)], 1)
    return TensorDataset(x, torch.arange(N) % 3)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(4, 3))


# -- what goes in ------------------------------------------------------------------------------------------------------


def as_pair(batch):
    return batch["arg_1"], batch["arg_2"]


def as_dict(batch):
    return {"arg_1": batch[0], "arg_2": batch[1]}


@pytest.mark.parametrize(
    ("is_mapped", "predictor"),
    [
        (False, Predictor(Keywords(), unpack_dicts=True)),
        (False, Predictor(Positions(), unpack_lists=True, preprocess_fn=as_pair)),
        (False, Predictor(One(), preprocess_fn=as_pair)),
        (True, Predictor(Keywords(), unpack_dicts=True, preprocess_fn=as_dict)),
        (True, Predictor(Positions(), unpack_lists=True, disable_preprocess=True)),
        (True, Predictor(One(), disable_preprocess=True)),
        (True, None),
    ],
)
def test_batches_of_any_kind_meet_models_of_any_kind(table, is_mapped, predictor):
    if is_mapped:
        table.map(lambda row: (row["arg_1"], row["arg_2"]))
    collect = total if predictor else lambda batch, output: {"total": batch[0] + batch[1]}
    samples = collect_metrics(table, collect, predictor, dataloader_args={"batch_size": 4})
    assert samples.columns == ("example_id", "split", "total")
    assert samples.numpy("total").tolist() == list(range(N, 3 * N, 2))
    assert samples.numpy("example_id").tolist() == list(range(N))
    assert samples.table is table


def test_a_model_goes_as_it_is_and_its_columns_equal_those_by_hand(data, model):
    model[1].running_mean.fill_(0.3)
    samples = collect_metrics(
        data, [ClassificationMetricsCollector(), number], model, dataloader_args={"batch_size": 4}
    )
    model.eval()
    x, y = data.tensors
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model(x), y, reduction="none").numpy()
    np.testing.assert_allclose(samples.numpy("loss"), losses, rtol=1e-5)
    assert samples.aggregates["loss"] == pytest.approx(losses.mean(dtype=float), rel=1e-6)  # 3 batches, of 4, 4 and 2
    assert samples.aggregates["number"] == 4.5
    assert (samples.numpy("number") == samples.numpy("example_id")).all()


def test_without_a_model_metrics_are_of_the_data_alone(data):
    def look(batch, output):
        assert output.forward is None
        assert output.hidden_layers == {}
        return number(batch, output)

    assert collect_metrics(data, look, None).numpy("number").tolist() == list(range(N))


def test_a_table_gives_the_samples_for_collection():
    table = Table.from_dict({"x": torch.arange(6.0)[:, None]})
    table.map(lambda row: (row["x"] + 100,)).map_collect_metrics(lambda row: (row["x"],))
    assert collect_metrics(table, number, None).numpy("number").tolist() == list(range(6))
    assert table[0][0].item() == 100


def test_a_dataset_that_cuts_batches_out_at_once():
    x = torch.arange(8.0)[:, None]
    dls = Loaders.from_arrays(train=(x, x), batch_size=4)
    assert collect_metrics(dls.train.dataset, number, None).numpy("number").tolist() == list(range(8))


@pytest.mark.parametrize(
    ("args", "n"),
    [
        ({"shuffle": True}, N),
        ({"shuffle": True, "batch_size": 4, "drop_last": True}, 8),
        ({"shuffle": True, "batch_size": 3, "num_workers": 2}, N),
        ({"sampler": WeightedRandomSampler(torch.linspace(0, 1, N), 3 * N), "batch_size": 4}, 3 * N),
        ({"batch_sampler": [[3, 1], [4]]}, 3),
    ],
)
def test_ids_are_right_whatever_the_loader_draws(data, args, n):
    samples = collect_metrics(data, number, None, dataloader_args=args)
    assert len(samples) == n
    assert (samples.numpy("number") == samples.numpy("example_id")).all()


def test_batches_are_of_64_samples_and_go_where_the_model_is():
    seen = []

    class Meta(nn.Module):
        """Say where it is by a buffer alone."""

        def __init__(self):
            super().__init__()
            self.register_buffer("here", torch.zeros(1, device="meta"))

        def forward(self, x):
            seen.append(x.shape)
            return x

    def look(batch, output):
        assert {part.device.type for part in (*batch, output.forward)} == {"meta"}
        return {"n": list(range(len(batch[0])))}

    collect_metrics(TensorDataset(torch.zeros(100, 1), torch.zeros(100)), look, Meta())
    assert seen == [(64, 1), (36, 1)]


def test_layers_equal_a_capture_by_hand(data, model):
    collector = EmbeddingsMetricsCollector(layers=["0", 2], reshape_strategy="flatten")
    samples = collect_metrics(data, collector, model, dataloader_args={"batch_size": 4})
    model.eval()
    with capture(model, "0", "1") as acts, torch.no_grad():
        model(data.tensors[0])
    np.testing.assert_allclose(samples.numpy("embeddings_0"), acts["0"].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(samples.numpy("embeddings_2"), acts["1"].numpy(), rtol=1e-5, atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_of_a_compiled_model_and_those_that_a_predictor_keeps_already(data, model):
    seen = []

    class Look(MetricsCollector):
        layers = ("0",)

        def compute_metrics(self, batch, output):
            seen.append(set(output.hidden_layers))
            return {"hidden": output.hidden_layers["0"]}

    predictor = Predictor(torch.compile(model, backend="eager"), layers=("4",))
    model.eval()
    with torch.no_grad():
        predictor.model(data.tensors[0])  # compiled by now
    samples = collect_metrics(data, Look(), predictor)
    with capture(model, "0") as acts, torch.no_grad():
        model(data.tensors[0])
    np.testing.assert_allclose(samples.numpy("hidden"), acts["0"].numpy(), rtol=1e-5, atol=1e-6)
    assert seen == [{"0", "4"}]
    assert set(predictor((data.tensors[0], None)).hidden_layers) == {"4"}  # asked for no more than before


# -- what stays as it was ----------------------------------------------------------------------------------------------


class Noisy(TensorDataset):
    def __getitem__(self, i):
        return torch.rand(1) + random.random() + np.random.rand(), super().__getitem__(i)[1]


def test_modes_gradients_and_random_numbers_are_as_before(data, model):
    model[1].eval()
    generator = torch.Generator()
    whole = nn.Sequential(nn.Linear(1, 2), model)
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), generator.get_state()

    def look(batch, output):
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in model.modules())
        assert not output.forward.requires_grad
        return total(batch, output)

    noisy = Noisy(*data.tensors)
    collect_metrics(noisy, look, whole, dataloader_args={"shuffle": True, "generator": generator})
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1], generator.get_state()
    assert torch.equal(now[0], states[0])
    assert now[1] == states[1]
    assert (now[2] == states[2]).all()
    assert torch.equal(now[3], states[3])


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_after_an_error_or_an_interrupt_nothing_is_left_and_what_was_there_stays(data, model, error, tmp_path):
    model[1].eval()
    modes = [module.training for module in model.modules()]

    class Break(MetricsCollector):
        layers = ("0",)

        def compute_metrics(self, batch, output):
            if 9 in batch[0][:, 0]:
                raise error("on purpose")
            return number(batch, output)

    with Run.create(tmp_path / "run") as run:
        collect_metrics(data, number, model)
        with pytest.raises(error, match="on purpose"):
            collect_metrics(data, Break(), model, dataloader_args={"batch_size": 4})
    assert [path.name for path in (run.path / "samples").iterdir()] == ["samples-0000.parquet"]
    assert len(run.samples) == N
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


# -- where it goes -----------------------------------------------------------------------------------------------------


def test_without_a_run_the_file_lives_as_long_as_the_samples(data):
    samples = collect_metrics(data, number, None)
    folder = samples._holder.path
    samples = samples.where(number=[2, 3])
    gc.collect()
    assert samples.numpy("example_id").tolist() == [2, 3]
    del samples
    gc.collect()
    assert not folder.exists()


def test_two_calls_make_two_parts_in_the_active_run(data, tmp_path):
    with Run.create(tmp_path / "run") as run:
        first = collect_metrics(data, number, None, split="valid")
        second = collect_metrics(data, number, None, split="valid")
        collect_metrics(data, number, None, split="a/b", constants={"epoch": 3})
        collect_metrics(data, number, None)
    names = ["a_b-0000", "samples-0000", "valid-0000", "valid-0001"]
    assert sorted(path.stem for path in (run.path / "samples").iterdir()) == names
    assert (len(first), len(second), len(run.samples)) == (N, N, 4 * N)
    assert run.samples.splits == ["", "a/b", "valid"]
    assert list(run.info["tables"]) == [Table(data).fingerprint]
    assert run.scalars()["valid/number"].values == [4.5, 4.5]
    assert run.scalars()["a/b/number"] == ("epoch", [3], [4.5])
    assert run.scalars()["number"].values == [4.5]


def test_a_run_that_is_given_comes_before_the_active_one(data, tmp_path):
    given = Run.create(tmp_path / "given")
    with Run.create(tmp_path / "active") as active:
        samples = collect_metrics(data, number, None, run=given)
    assert (len(given.samples), len(active.samples), len(samples)) == (N, 0, N)


def test_means_are_not_logged_if_they_are_not_wanted(data, tmp_path):
    run = Run.create(tmp_path / "run")
    samples = collect_metrics(data, number, None, run=run, collect_aggregates=False)
    assert run.scalars() == {}
    assert samples.aggregates == {"number": 4.5}


def test_constants_are_columns(data):
    constants = {"epoch": np.int64(2), "lr": 0.1, "kind": "clean", "step": 7}
    samples = collect_metrics(data, number, None, constants=constants, split="valid")
    assert samples.columns == ("example_id", "epoch", "step", "split", "lr", "kind", "number")
    assert {name: set(samples.numpy(name)) for name in samples.columns[1:6]} == {
        "epoch": {2},
        "step": {7},
        "split": {"valid"},
        "lr": {0.1},
        "kind": {"clean"},
    }


def test_class_names_are_kept(data, model):
    samples = collect_metrics(data, ClassificationMetricsCollector(classes=["cat", "dog", "fox"]), model)
    assert samples.classes("label") == ("cat", "dog", "fox")
    assert samples.where(label="dog").numpy("example_id").tolist() == [1, 4, 7]


def test_progress_is_shown_to_a_person_alone(data, capsys, monkeypatch):
    collect_metrics(data, number, None)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    module = sys.modules["callbacks.samples.collect_metrics"]  # of the same name as the function
    monkeypatch.setattr(module, "Bar", partial(Bar, mininterval=0, miniters=1))  # draw each time
    collect_metrics(data, number, None, split="valid", dataloader_args={"batch_size": 4})
    shown = capsys.readouterr().err
    assert all(text in shown for text in ("valid", "1/3", "3/3"))


# -- weights -----------------------------------------------------------------------------------------------------------


def weighted(weights):
    data = {"x": torch.arange(6.0)[:, None], "weight": weights}
    return Table.from_dict(data).map(lambda row: (row["x"], row["weight"]))


def test_means_are_weighted_where_there_are_weights(tmp_path):
    weights = [0.0, 1, 2, 0, 4, 5]
    run = Run.create(tmp_path / "run")
    args = {"batch_size": 4, "shuffle": True}
    samples = collect_metrics(weighted(weights), number, None, dataloader_args=args, run=run)
    mean = (1 * 1 + 2 * 2 + 4 * 4 + 5 * 5) / 12
    assert samples.aggregates == {"number": mean}
    assert run.scalars()["number"].values == [mean]
    assert len(samples) == 6


@pytest.mark.parametrize("args", [{"batch_size": 3}, {"shuffle": True}, {"num_workers": 2, "batch_size": 1}])
def test_samples_of_weight_0_may_be_left_out(args):
    samples = collect_metrics(
        weighted([0.0, 1, 2, 0, 4, 5]), number, None, dataloader_args=args, exclude_zero_weights=True
    )
    assert sorted(samples.numpy("example_id")) == [1, 2, 4, 5]
    assert (samples.numpy("number") == samples.numpy("example_id")).all()
    assert samples.aggregates["number"] == pytest.approx(46 / 12, rel=1e-12)


def test_if_all_are_left_out_there_are_no_samples():
    samples = collect_metrics(weighted([0.0] * 6), number, None, exclude_zero_weights=True)
    assert (len(samples), samples.aggregates) == (0, {})


# -- what is wrong -----------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


class Endless:
    def __getitem__(self, i):
        return i


DATA = TensorDataset(torch.zeros(4, 1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"table": Stream()},
            TypeError,
            "`table` must be a Table or .*, got Stream; samples of a stream have no numbers",
        ),
        ({"table": Endless()}, TypeError, "`table` must be a Table or a dataset with length and items, got Endless"),
        ({"table": DataLoader(DATA)}, TypeError, "`table` must be .*, got DataLoader; pass its `.dataset`"),
        ({"metrics_collectors": []}, ValueError, "`metrics_collectors` must hold a collector, got none"),
        ({"metrics_collectors": "loss"}, TypeError, "`metrics_collectors` must be collectors or functions, got 'loss'"),
        ({"predictor": "resnet"}, TypeError, "`model` must be an nn.Module, got 'resnet'"),
        ({"split": 3}, TypeError, "`split` must be a name, got 3"),
        ({"constants": {"split": "a"}}, ValueError, "`constants` must have names of their own, got 'split'"),
        ({"constants": {"example_id": 1}}, ValueError, "`constants` must have names of their own, got 'example_id'"),
        ({"constants": {"lr": [0.1]}}, TypeError, r"`constants` must be numbers or strings, got \[0.1\] for 'lr'"),
        ({"constants": {"epoch": "1"}}, TypeError, "`constants` must be a whole number, got '1' for 'epoch'"),
        ({"dataloader_args": {"num_workers": 2, "in_order": False}}, ValueError, "must leave batches in order"),
        ({"dataloader_args": {"batchsize": 2}}, TypeError, "unexpected keyword argument 'batchsize'"),
        ({"exclude_zero_weights": True}, ValueError, "`exclude_zero_weights` must have a Table with a column `weight`"),
        ({"run": "runs/1"}, TypeError, "`run` must be a Run, got 'runs/1'"),
    ],
)
def test_arguments_are_checked_before_the_pass(changes, error, message, tmp_path):
    called = []
    arguments = {
        "table": DATA,
        "metrics_collectors": lambda batch, output: called.append(1),
        "predictor": None,
        **changes,
    }
    with Run.create(tmp_path / "run") as run, pytest.raises(error, match=message):
        collect_metrics(**arguments)
    assert called == []
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "run.json"]


def test_a_layer_that_is_not_there_is_said_before_the_pass(data, model):
    with pytest.raises(ValueError, match="`layers` must be names, globs, positions or modules of the model, got 'fc'"):
        collect_metrics(data, EmbeddingsMetricsCollector(layers=["fc"]), model)


def named(name, column):
    def f(batch, output):
        return {column: batch[0][:, 0]}

    f.__name__ = name
    return f


@pytest.mark.parametrize(
    ("collectors", "constants", "message"),
    [
        ([named("a", "x"), named("b", "x")], {}, "column 'x' must come from one place, got it from a and b"),
        ([named("a", "lr")], {"lr": 0.1}, "column 'lr' must come from one place, got it from `constants` and a"),
        ([named("a", "epoch")], {}, "column 'epoch' of a must have another name"),
        ([named("a", "split")], {}, "column 'split' of a must have another name"),
        (
            [lambda batch, output: {"x": batch[0][1:, 0]}],
            {},
            "column 'x' .* must have a row for each of the 10 samples, got 9",
        ),
        ([lambda batch, output: {"x": batch[0].mean()}], {}, "column 'x' .* must have a value"),
    ],
)
def test_columns_that_cannot_be_are_said_by_name(data, collectors, constants, message):
    with pytest.raises(LearnerError, match=message):
        collect_metrics(data, collectors, None, constants=constants)


def test_samples_are_those_of_the_files(data, tmp_path):
    run = Run.create(tmp_path / "run")
    samples = collect_metrics(data, [number, lambda batch, output: {"wide": batch[0]}], None, run=run, split="a")
    again = Samples([Path(run.path / "samples" / "a-0000.parquet")])
    assert samples.columns == again.columns == ("example_id", "split", "number", "wide")
    assert (again.numpy("wide") == data.tensors[0].numpy()).all()


def test_its_bar_starts_no_thread(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    threads = set(threading.enumerate())
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    collect_metrics(TensorDataset(torch.zeros(4, 2)), lambda batch, output: {"x": batch[0][:, 0]}, None, split="here")
    assert "here" in screen.getvalue()
    assert set(threading.enumerate()) <= threads
