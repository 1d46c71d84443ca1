"""ActivationStats against plain torch on the same outputs."""

import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import ActivationStats, CheckpointCallback, HooksCallback
from learner import Learner, LearnerError
from learner.checkpoint.plain import plain
from tests.resuming import tiny_learner

PLOTS = ("plot_stats", "color_dim", "dead_chart")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def outputs_of(name=None, **kwargs):
    """Return a callback that keeps copies of the outputs as tensors in float64, for reference."""

    def keep(hook, module, inputs, output):
        hook.outputs = [*getattr(hook, "outputs", []), output.detach().clone()]

    return HooksCallback(keep, name, **kwargs)


def fit(model, x, *cbs, n_epochs=1):
    """Train on batches `x`, whatever the model returns, and return the learner."""

    def loss_f(preds):
        preds = preds[0] if isinstance(preds, tuple) else preds
        return preds.abs().float().mean()

    learn = Learner(model, {"train": x}, loss_f, lr=0.01, cbs=list(cbs))
    learn.fit(n_epochs)
    return learn


# -- numbers ---------------------------------------------------------------------------------------------------


def test_equal_to_plain_torch(make_learner):
    stats, reference = ActivationStats(), outputs_of()
    make_learner([stats, reference]).fit(2)
    for name, hook in zip(stats.layers, reference.hooks, strict=True):
        mean, std, hist, dead = stats.layer(name)
        exact = [output.double() for output in hook.outputs]
        assert len(exact) == 6
        # float32 has 7 digits, a few are lost in sums
        torch.testing.assert_close(mean, torch.stack([o.mean() for o in exact]), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(std, torch.stack([o.std() for o in exact]), rtol=1e-5, atol=1e-7)
        assert torch.equal(hist, torch.stack([o.abs().histc(40, 0, 10) for o in exact]))
        near_zero = torch.stack([(o.abs() < 0.25).double().mean() for o in exact])
        torch.testing.assert_close(dead, near_zero)


@pytest.mark.parametrize(("mean", "std"), [(1000.0, 0.1), (-30.0, 1e-3), (0.0, 1e-6), (1e6, 10.0)])
def test_spread_far_from_zero_is_not_cancelled(mean, std):
    batch = torch.randn(64, 100) * std + mean
    stats = ActivationStats()
    fit(nn.Sequential(nn.Identity(), nn.Linear(100, 1)), [batch], stats)
    got, exact = stats.layer("0"), batch.double()
    torch.testing.assert_close(got.std[0], exact.std(), rtol=1e-4, atol=0)
    torch.testing.assert_close(got.mean[0], exact.mean(), rtol=1e-6, atol=std * 1e-3)


def test_large_and_short_batches_of_one_layer_read_alike():
    batches = [torch.randn(200, 100), torch.randn(10, 100)]  # counted in two ways
    stats = ActivationStats()
    fit(nn.Sequential(nn.Identity(), nn.Linear(100, 1)), batches, stats)
    assert torch.equal(stats.layer("0").hist, torch.stack([b.abs().histc(40, 0, 10) for b in batches]).double())


def test_dead_counts_what_is_beyond_the_histogram_as_alive():
    stats = ActivationStats()
    fit(nn.Sequential(nn.Identity(), nn.Linear(4, 1)), [torch.tensor([[0.0, 0.1, 3.0, 99.0]])], stats)
    assert stats.layer("0").dead.tolist() == [0.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    class Half(nn.Module):
        def forward(self, x):
            return (x * 300).to(dtype)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.head = Half(), nn.Linear(50, 1)

        def forward(self, x):
            return self.head(self.low(x).float())

    batch = torch.randn(64, 50)
    stats = ActivationStats("low")
    fit(Model(), [batch], stats)
    exact = (batch * 300).to(dtype).double()
    torch.testing.assert_close(stats.layer("low").std[0], exact.std(), rtol=1e-5, atol=0)
    assert torch.equal(stats.layer("low").hist[0], exact.abs().histc(40, 0, 10))


def test_values_that_are_not_finite_or_alone_warn_of_nothing():
    class Bad(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, math.inf], [math.nan, 2.0]])

    class One(nn.Module):
        def forward(self, x):
            return x.sum()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.bad, self.one, self.head = Bad(), One(), nn.Linear(4, 1)

        def forward(self, x):
            self.bad(x)
            return self.head(x) * self.one(x)

    stats = ActivationStats()
    fit(Model(), [torch.ones(2, 4)], stats)
    bad, one = stats.layer("bad"), stats.layer("one")
    assert bad.mean.isnan().all()
    assert bad.std.isnan().all()
    assert bad.dead.isnan().all()  # or a network that has diverged would look all alive
    assert bad.hist[0].nonzero().flatten().tolist() == [4, 8]
    assert one.mean.tolist() == [8.0]
    assert one.std.isnan().all()  # one number has no spread, as for torch.std
    for plot in PLOTS:
        getattr(stats, plot)().canvas.draw()


def test_a_batch_that_is_cancelled_or_fails_keeps_what_was_measured():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("of the model")

    stats, x = ActivationStats(), torch.randn(8, 4)
    with pytest.raises(RuntimeError, match="of the model"):
        fit(nn.Sequential(nn.Linear(4, 4), Fails()), [x], stats)
    assert stats.layer("0").hist.sum() == 32


# -- when and what ---------------------------------------------------------------------------------------------


def test_passes_and_every(make_learner):
    def batches(**kwargs):
        stats = ActivationStats("0", **kwargs)
        make_learner(stats).fit(2)
        frame = stats.to_pandas()
        return list(zip(frame["dl_name"], frame["epoch"], frame["batch"], strict=True))

    train = [("train", epoch, i) for epoch in range(2) for i in range(3)]
    valid = [("valid", epoch, i) for epoch in range(2) for i in range(2)]
    assert batches() == train
    assert batches(on_train=False, on_valid=True) == valid
    assert batches(on_valid=True) == train[:3] + valid[:2] + train[3:] + valid[2:]
    assert batches(every=2) == [("train", 0, 1), ("train", 1, 0), ("train", 1, 2)]
    assert batches(every="2 epochs", on_valid=True) == train[3:] + valid[2:]


def test_one_loader_of_several(make_learner):
    stats = ActivationStats(on_valid=True)
    make_learner(stats).fit(2)
    assert [len(stats.layer("0", name).mean) for name in ("train", "valid", None)] == [6, 4, 10]
    assert set(stats.to_pandas("valid")["dl_name"]) == {"valid"}
    assert len(stats.plot_stats("valid").axes[0].lines[0].get_xdata()) == 4
    with pytest.raises(ValueError, match=r"`dl_name` must be a loader that was watched, got 'test'; .*'train'"):
        stats.color_dim("test")


def test_histograms_of_every_nth_recorded_batch():
    batches = list(torch.randn(9, 8, 4))
    stats = ActivationStats("0", every=2, hist_every=2)
    fit(nn.Sequential(nn.Identity(), nn.Linear(4, 1)), batches, stats)
    mean, std, hist, dead = stats.layer("0")
    torch.testing.assert_close(mean, torch.stack([batches[i].mean() for i in (1, 3, 5, 7)]).double())
    assert std.isfinite().all()
    assert dead.isfinite().tolist() == [True, False, True, False]
    assert hist[1].isnan().all()
    assert torch.equal(hist[2], batches[5].abs().histc(40, 0, 10).double())
    assert [row is None for row in stats.to_pandas()["hist"]] == [False, True, False, True]
    assert list(stats.dead_chart().axes[0].lines[0].get_xdata()) == [0, 2]


def test_histograms_are_counted_over_passes_and_anew_in_each_fit(make_learner):
    class Busy:
        def after_epoch(self, learn):
            if learn.training:
                learn.validate("train")  # not looked at, and not counted

    stats = ActivationStats("0", hist_every=4)
    learn = make_learner([stats, Busy()])
    learn.fit(2)  # 3 batches each
    assert stats.layer("0").dead.isfinite().tolist() == [True, False, False, False, True, False]
    learn.fit(1)
    assert stats.layer("0").dead.isfinite().tolist() == [True, False, False]


def test_histograms_of_the_first_rows():
    batches = list(torch.randn(3, 16, 5, 4))
    stats = ActivationStats("0", hist_rows=6)
    fit(nn.Sequential(nn.Identity(), nn.Linear(4, 1)), batches, stats)
    expected = torch.stack([batch[:6].abs().histc(40, 0, 10) for batch in batches]).double()
    assert torch.equal(stats.layer("0").hist, expected)
    torch.testing.assert_close(stats.layer("0").dead, expected[:, 0] / 120)
    torch.testing.assert_close(stats.layer("0").std, torch.stack([batch.std() for batch in batches]).double())


def test_more_rows_than_there_are_takes_all():
    stats = ActivationStats("0", hist_rows=100)
    fit(nn.Sequential(nn.Identity(), nn.Linear(4, 1)), [torch.zeros(3, 4)], stats)
    assert stats.layer("0").hist[0, 0] == 12
    assert stats.layer("0").dead.tolist() == [1.0]


# -- any model -------------------------------------------------------------------------------------------------


class Sequence(nn.Module):
    """Ids to an embedding, an LSTM, attention: outputs that are tuples, and a child that is never called."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(10, 8), nn.LSTM(8, 6, batch_first=True)
        self.attention, self.spare = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(3, 3)

    def forward(self, ids):
        states, _ = self.lstm(self.embed(ids))
        return self.attention(states, states, states)[0]


def test_of_a_tuple_the_first_tensor():
    def first(hook, module, inputs, output):
        hook.std = output[0].detach().std()

    names = ["lstm", "attention"]
    stats, reference = ActivationStats(names), HooksCallback(first, names)
    fit(Sequence(), [torch.randint(0, 10, (4, 7))], stats, reference)
    for name, hook in zip(names, reference.hooks, strict=True):
        torch.testing.assert_close(stats.layer(name).std[0], hook.std.double())


def test_layers_that_never_ran_are_named():
    stats = ActivationStats()
    fit(Sequence(), [torch.randint(0, 10, (4, 7))], stats)
    assert stats.never_run == ["attention.out_proj", "spare"]
    assert repr(stats) == "ActivationStats: 4 layers, 1 batches; never run: attention.out_proj, spare"
    assert stats.to_pandas().attrs["never_run"] == stats.never_run
    assert len(stats.layer("spare").mean) == 0
    assert stats.layer("spare").hist.shape == (0, 40)
    for plot in PLOTS:
        figure = getattr(stats, plot)()
        figure.canvas.draw()
        texts = [ax.get_title() for ax in figure.axes]
        texts += [text.get_text() for ax in figure.axes if ax.legend_ for text in ax.legend_.get_texts()]
        assert "spare Linear (never ran)" in texts
        assert "embed Embedding" in texts


def test_all_layers_that_never_ran_are_drawn_too():
    stats = ActivationStats("spare")
    fit(Sequence(), [torch.randint(0, 10, (4, 7))], stats)
    for plot in PLOTS:
        getattr(stats, plot)().canvas.draw()
    assert len(stats.to_pandas()) == 0


class Odd(nn.Module):
    """Gives what it was made with, whatever comes in."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


@pytest.mark.parametrize(
    ("output", "mean"),
    [
        ({"a": None, "b": [torch.full((2, 3), 2.0)]}, 2.0),
        (torch.tensor([[1, 2], [3, 6]]), 3.0),
        (torch.tensor([True, False]), 0.5),
        (torch.tensor([3 + 4j, 0j]), 2.5),
        (torch.tensor(1.5), 1.5),
        (torch.full((2, 3, 4, 4), 2.0).to(memory_format=torch.channels_last), 2.0),
        (nn.utils.rnn.pack_sequence([torch.full((2, 1), 4.0), torch.full((1, 1), 1.0)]), 3.0),
        ("text", None),
        ((), None),
        (torch.empty(0, 3), None),
    ],
)
def test_outputs_of_any_kind(output, mean):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd, self.head = Odd(output), nn.Linear(4, 1)

        def forward(self, x):
            self.odd(x)
            return self.head(x)

    stats = ActivationStats("odd", hist_rows=1)
    fit(Model(), [torch.ones(2, 4)], stats)
    assert stats.layer("odd").mean.tolist() == ([] if mean is None else [mean])
    assert stats.never_run == (["odd"] if mean is None else [])


def test_a_layer_that_runs_several_times_is_recorded_each_time():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 1)
            nn.init.eye_(self.layer.weight)
            self.layer.weight.data *= 2

        def forward(self, x):
            return self.head(self.layer(self.layer(x)))

    stats = ActivationStats("layer")
    fit(Twice(), [torch.ones(2, 4)], stats)
    assert stats.layer("layer").mean.tolist() == [2.0, 4.0]
    assert stats.to_pandas()["batch"].tolist() == [0, 0]


def test_read_before_an_activation_works_in_place():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    batch = torch.randn(32, 4)
    expected = model[0](batch).detach()
    stats = ActivationStats()
    fit(model, [batch], stats)
    torch.testing.assert_close(stats.layer("0").mean[0], expected.mean().double())
    torch.testing.assert_close(stats.layer("1").mean[0], expected.relu().mean().double())


def test_a_transformer_with_padding_trains_and_validates():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(8, 1)

        def forward(self, x):
            return self.head(self.encoder(x, src_key_padding_mask=torch.arange(5) >= lengths))

    lengths = torch.tensor([5, 3, 2, 4, 5, 1])[:, None]

    def mean(hook, module, inputs, output):
        hook.means = [*getattr(hook, "means", []), output.mean().double()]

    names = ["encoder.layers.0.linear1", "encoder.layers.0"]
    stats, reference = ActivationStats(names, on_valid=True), HooksCallback(mean, names, on_valid=True)
    x = torch.randn(1, 6, 5, 8)
    learn = Learner(
        Model(), {"train": list(x), "valid": list(x)}, lambda p: p.square().mean(), lr=0.01, cbs=[stats, reference]
    )
    learn.fit(1)
    for name, hook in zip(names, reference.hooks, strict=True):  # not nested in validation, but as in training
        torch.testing.assert_close(stats.layer(name).mean, torch.stack(hook.means))


def test_nested_tensors_are_measured_without_their_gaps():
    class Nest(nn.Module):
        def forward(self, x):
            return torch.nested.nested_tensor([x[0, :5], x[1, :2]])

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, nested):
            return self.weight * sum(part.square().sum() for part in nested.unbind())

    stats, x = ActivationStats("0"), torch.randn(1, 2, 6)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors", UserWarning)
        Learner(nn.Sequential(Nest(), Sum()), {"train": list(x)}, lambda p: p, cbs=stats).fit(1)
    kept = torch.cat([x[0, 0, :5], x[0, 1, :2]]).double()
    torch.testing.assert_close(stats.layer("0").mean[0], kept.mean(), rtol=1e-6, atol=1e-7)  # of float32


# -- life ------------------------------------------------------------------------------------------------------


def test_stays_readable_and_a_second_fit_starts_clean(make_learner):
    stats = ActivationStats()
    learn = make_learner(stats)
    learn.fit(2)
    assert repr(stats) == "ActivationStats: 3 layers, 6 batches"
    learn.validate()
    learn.fit(1)
    assert repr(stats) == "ActivationStats: 3 layers, 3 batches"


def test_what_was_seen_before_an_error_stays_readable(make_learner):
    class Fail:
        def before_batch(self, learn):
            if learn.i == 2:
                raise ValueError("mine")

    stats = ActivationStats()
    learn = make_learner([stats, Fail()])
    with pytest.raises(ValueError, match="mine"):
        learn.fit(1)
    assert len(stats.layer("0").mean) == 2
    assert not any(module._forward_hooks for module in learn.model.modules())


def test_a_sandbox_gives_back_what_was_recorded(make_learner):
    stats = ActivationStats()
    learn = make_learner(stats)
    learn.fit(1)
    before = stats.layer("1")
    with learn.sandbox():
        learn.fit(3)
        assert len(stats.layer("1").mean) == 9
    for old, new in zip(before, stats.layer("1"), strict=True):
        assert torch.equal(old, new)


def test_a_sandbox_within_the_fit_gives_back_what_was_recorded(make_learner):
    class Try:
        def after_epoch(self, learn):
            if learn.dl_name == "valid" and not learn.in_sandbox:
                with learn.sandbox():
                    learn.validate()
                    assert len(stats.layer("1", "valid").mean) == 4 + 2 * learn.epoch

    stats = ActivationStats(on_valid=True)
    make_learner([stats, Try()]).fit(2)
    assert len(stats.layer("1", "valid").mean) == 4


def test_long_fits_are_kept_in_few_pieces():
    batches = list(torch.randn(500, 2, 4))
    stats = ActivationStats("0", hist_every=7)
    fit(nn.Sequential(nn.Identity(), nn.Linear(4, 1)), batches, stats)
    assert [len(block) for block in stats._blocks["0"]] == [64, 128, 256, 512]
    mean, std, hist, _ = stats.layer("0")
    torch.testing.assert_close(mean, torch.stack([batch.mean() for batch in batches]).double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(std, torch.stack([batch.std() for batch in batches]).double(), rtol=1e-5, atol=1e-7)
    assert torch.equal(hist[::7], torch.stack([b.abs().histc(40, 0, 10) for b in batches[::7]]).double())


def test_never_waits_for_the_device_and_keeps_no_graph(make_learner):
    class NoWaiting(TorchDispatchMode):
        """Refuses what would have to wait for an accelerator: reading a number, or copying to another device."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
            assert func is not torch.ops.aten._to_copy.default or "device" not in (kwargs or {}), func
            return func(*args, **(kwargs or {}))

    class Watch:
        def around_predict(self, learn, action):
            with NoWaiting():
                action()

    x = [torch.randn(300, 40)]  # 300 * 40 numbers, which are counted in the faster way
    stats = ActivationStats()
    fit(nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)), x, stats, Watch())
    assert not any(block.requires_grad for blocks in stats._blocks.values() for block in blocks)
    assert repr(stats) == "ActivationStats: 3 layers, 1 batches"


# -- reading ---------------------------------------------------------------------------------------------------


def test_to_pandas(make_learner):
    stats = ActivationStats()
    make_learner(stats).fit(2)
    frame = stats.to_pandas()
    assert list(frame.columns) == ["layer", "epoch", "dl_name", "batch", "mean", "std", "dead", "hist"]
    assert len(frame) == 18
    assert frame.attrs["never_run"] == []
    second = frame[frame["layer"] == "1"]
    np.testing.assert_array_equal(second["mean"], stats.layer("1").mean)
    np.testing.assert_array_equal(np.stack(second["hist"]), stats.layer("1").hist)
    assert second["epoch"].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4, 5, 7, 9, 13, 17, 40])
def test_every_layer_is_drawn(n_layers):
    model = nn.Sequential(*[nn.Identity() for _ in range(n_layers - 1)], nn.Linear(4, 1))
    stats = ActivationStats()
    fit(model, list(torch.randn(2, 3, 4)), stats)
    names = [f"{name} {kind}" for name, kind in stats.layers.items()]
    assert len(names) == n_layers
    for grid in (stats.color_dim(), stats.dead_chart()):
        assert [ax.get_title() for ax in grid.axes] == names
        assert all(ax.images or ax.lines for ax in grid.axes)
    means, stds = stats.plot_stats().axes
    assert [len(means.lines), len(stds.lines)] == [n_layers, n_layers]
    legend = [text.get_text() for text in stds.legend_.get_texts()]
    assert legend == names if n_layers <= 15 else [legend[0], legend[-1], len(legend)] == [names[0], names[-1], 15]


def test_plots_show_the_numbers(make_learner):
    stats = ActivationStats()
    make_learner(stats).fit(2)
    mean, std, hist, dead = stats.layer("1")
    means, stds = stats.plot_stats().axes
    np.testing.assert_array_equal(means.lines[1].get_ydata(), mean)
    np.testing.assert_array_equal(stds.lines[1].get_ydata(), std)
    np.testing.assert_allclose(stats.color_dim().axes[1].images[0].get_array(), np.log1p(hist.numpy()).T)
    np.testing.assert_array_equal(stats.dead_chart().axes[0].lines[0].get_ydata(), dead)  # of the ReLU alone


@pytest.mark.parametrize("read", [*PLOTS, "to_pandas"])
def test_read_before_a_fit_says_so(read):
    with pytest.raises(LearnerError, match="`ActivationStats` must have watched a fit before it is read"):
        getattr(ActivationStats(), read)()


def test_a_layer_read_before_a_fit_says_so():
    with pytest.raises(LearnerError, match="`ActivationStats` must have watched a fit before it is read"):
        ActivationStats().layer("0")


def test_an_unknown_layer_lists_those_there_are(make_learner):
    stats = ActivationStats()
    make_learner(stats).fit(1)
    with pytest.raises(ValueError, match="`name` must be one of '0', '1', '2', got 'head'"):
        stats.layer("head")


def test_refuses_an_interval_that_means_nothing_when_made():
    with pytest.raises(ValueError, match=r"`every` must be a number of batches, or as .* got 0"):
        ActivationStats(every=0)


@pytest.mark.parametrize("name", ["hist_every", "hist_rows"])
def test_refuses_wrong_counts_when_made(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        ActivationStats(**{name: 0})
    with pytest.raises(TypeError, match=f"`{name}` must be a whole number, got '2'"):
        ActivationStats(**{name: "2"})


def test_all_pictures_by_name_once_there_is_something_to_draw(make_learner):
    stats = ActivationStats()
    assert stats.figures() == {}
    make_learner(stats).fit(1)
    figures = stats.figures()
    assert list(figures) == ["activations", "activation_histograms", "dead_activations"]
    assert [len(figure.axes) for figure in figures.values()] == [2, 3, 1]
    for figure in figures.values():
        plt.close(figure)


def test_a_fit_goes_on_with_the_same_layers_only(tmp_path):
    tiny_learner([CheckpointCallback(tmp_path), ActivationStats()]).fit(1)
    learn = tiny_learner([CheckpointCallback(tmp_path), ActivationStats("0")])
    with pytest.raises(LearnerError, match=r"the layers to watch are .* saved of callback ActivationStats"):
        learn.fit(2, resume=True)


# -- dead and saturated ------------------------------------------------------------------------------------------------


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_only_what_can_die_or_saturate_is_drawn_as_such():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    batches = list(torch.randn(3, 8, 4) * 20)
    stats, reference = ActivationStats(hist_every=2), outputs_of("3")
    fit(model, batches, stats, reference)
    figure = stats.dead_chart()
    assert titles(figure) == ["1 ReLU", "3 Tanh: saturated"]
    expected = torch.stack([(output.abs() > 0.95).double().mean() for output in reference.hooks[0].outputs])
    expected[1] = math.nan  # no histogram was taken
    assert (expected[::2] > 0).all()
    torch.testing.assert_close(stats.saturation("3"), expected, equal_nan=True, rtol=1e-6, atol=0)
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), expected[::2], rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"`name` must be a layer whose range has ends, .*got '0', a Linear; there is \['3'\]"
    ):
        stats.saturation("0")
    chosen = ActivationStats(["0", "1"])
    fit(model, batches, chosen)
    assert titles(chosen.dead_chart()) == ["0 Linear", "1 ReLU"]  # as asked for
    lines = ActivationStats()
    fit(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1)), batches, lines)
    assert titles(lines.dead_chart()) == ["0 Linear", "1 Linear"]  # or it would be empty


def test_histograms_are_shown_as_far_as_there_is_something():
    stats = ActivationStats()
    fit(nn.Sequential(nn.Identity(), nn.Linear(4, 1)), [torch.full((2, 4), 3.1), torch.full((2, 4), 0.1)], stats)
    assert [ax.get_ylim() for ax in stats.color_dim().axes] == [(0, 3.25)] * 2
    fit(nn.Sequential(nn.Identity(), nn.Linear(4, 1)), [torch.full((2, 4), 99.0)], beyond := ActivationStats("0"))
    assert beyond.color_dim().axes[0].get_ylim() == (0, 10)


def test_several_parts_are_joined_in_order():
    """Of passes over several loaders, more batches than one block of rows has."""
    learn, parts, states = tiny_learner(None), [], []
    for n in (5, 3, 70):
        parts.append(ActivationStats(on_valid=n > 5, hist_every=2))
        learn.fit(steps=n, cbs=parts[-1])
        states.append(plain(parts[-1].state_dict(), copy=True))
    whole = ActivationStats(on_valid=True, hist_every=2)
    whole.load_state_dict(whole.join_parts(states))
    for name in parts[0].layers:
        for k, joined in enumerate(whole.layer(name)):
            assert torch.equal(joined.nan_to_num(-1), torch.cat([one.layer(name)[k] for one in parts]).nan_to_num(-1))
    frames = [one.to_pandas()[["layer", "dl_name", "batch"]] for one in parts]
    of_one = [frame[frame["layer"] == "0"] for frame in [*frames, whole.to_pandas()]]
    assert pd.concat(of_one[:-1])["dl_name"].tolist() == of_one[-1]["dl_name"].tolist()
