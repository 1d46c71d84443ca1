"""GradientStats against hand-written loops with torch.linalg.norm."""

import gc
import itertools
import math
import warnings
import weakref

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import AccumulateCallback, CheckpointCallback, ClipGradientCallback, GradientStats, LambdaCallback
from learner import CancelStepException, Learner, LearnerError
from learner.checkpoint.plain import plain
from tests.resuming import tiny_learner

PLOTS = ("plot_stats", "color_dim", "dead_chart")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


class Planted(nn.Module):
    """Parameters whose gradients in a batch are what was said: a dictionary of tensors, of those that are used."""

    def __init__(self, parameters, gradients):
        super().__init__()
        for name, value in parameters.items():
            self.register_parameter(name, value if isinstance(value, nn.Parameter) else nn.Parameter(value))
        self.gradients = gradients

    def forward(self, i):
        used = [(self.get_parameter(name), g) for name, g in self.gradients[int(i)].items()]
        return sum((p * g.conj()).sum().real.double() for p, g in used)


def plant(stats, gradients, *cbs, opt_func=torch.optim.SGD, lr=1.0, **parameters):
    """Make a step for each of the gradients, which are by name, and return the learner."""
    batches = list(torch.arange(len(gradients))[:, None])
    learn = Learner(Planted(parameters, gradients), {"train": batches}, lambda p: p, lr, opt_func, [stats, *cbs])
    learn.fit(1)
    return learn


def fit(model, x, *cbs, n_epochs=1, lr=0.1):
    """Train on batches `x`, whatever the model returns, and return the learner."""
    learn = Learner(model, {"train": list(x)}, lambda preds: preds.square().mean(), lr=lr, cbs=list(cbs))
    learn.fit(n_epochs)
    return learn


def measure(model, opt, rows):
    """Make a step by hand, and add to `rows` by name what there is to say of it."""
    before = {name: p.detach().double() for name, p in model.named_parameters()}
    gradients = {name: p.grad.double() for name, p in model.named_parameters()}
    opt.step()
    for name, p in model.named_parameters():
        old, change = before[name], p.detach().double() - before[name]
        row = vector_norm(gradients[name]), vector_norm(old), vector_norm(change) / vector_norm(old)
        rows.setdefault(name, []).append(torch.stack(row))


def assert_equal_to(stats, rows):
    assert stats.names == list(rows)
    for name, expected in rows.items():
        got = torch.stack(stats.parameter(name)[:3], dim=1)
        torch.testing.assert_close(got, torch.stack(expected), rtol=1e-5, atol=0)  # float32 has 7 digits


# -- numbers ---------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD with momentum": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True),
    "AdamW": lambda params, lr: torch.optim.AdamW(params, lr=lr / 10, weight_decay=0.1),
    "fused AdamW": lambda params, lr: torch.optim.AdamW(params, lr=lr / 10, fused=True),
    "one by one": lambda params, lr: torch.optim.Adagrad(params, lr=lr / 10, foreach=False),
    "maximize": lambda params, lr: torch.optim.RMSprop(params, lr=lr / 100, maximize=True),
}


@pytest.mark.parametrize("opt_func", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_equal_to_a_loop_by_hand(make_learner, opt_func):
    stats, rows = GradientStats(), {}
    learn, model = make_learner(stats, opt_func=opt_func), make_learner().model
    torch.manual_seed(1)
    learn.fit(2)
    opt = opt_func(model.parameters(), lr=0.1)
    torch.manual_seed(1)
    for _ in range(2):
        for x, y in learn.dls["train"]:
            cross_entropy(model(x), y).backward()
            measure(model, opt, rows)
            opt.zero_grad()
    assert len(rows["0.weight"]) == 6
    assert_equal_to(stats, rows)
    for p, q in zip(learn.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)  # and training is as without


def test_equal_to_a_loop_by_hand_with_accumulation_and_clipping(make_learner):
    stats, rows, batches, norms = GradientStats(), {}, [], []
    watch = LambdaCallback(after_loss=lambda learn: batches.append(learn.batch) if learn.training else None)
    make_learner([stats, ClipGradientCallback(0.3), AccumulateCallback(2), watch]).fit(2)
    model = make_learner().model
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for window in (batches[:2], batches[2:3], batches[3:5], batches[5:]):
        x, y = (torch.cat(parts) for parts in zip(*window, strict=True))
        cross_entropy(model(x), y).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.3))
        measure(model, opt, rows)
        opt.zero_grad()
    assert max(norms) > 0.3  # something was clipped
    assert_equal_to(stats, rows)
    frame = stats.to_pandas()
    first = frame[frame["parameter"] == "0.weight"]
    assert first["step"].tolist() == [0, 1, 2, 3]
    assert first["batch"].tolist() == [1, 2, 1, 2]  # every other step is for what was left at the end of a pass


def test_a_parameter_of_zeros():
    stats = GradientStats()
    one, zero = torch.ones(2), torch.zeros(2)
    plant(stats, [{"p": zero}, {"p": one}, {"p": one}, {"p": zero}], p=torch.zeros(2))
    update = stats.parameter("p").update
    assert update[0].isnan()  # it was nothing, and stayed there
    assert update[1:].tolist() == [math.inf, 1.0, 0.0]
    for plot in PLOTS:
        getattr(stats, plot)().canvas.draw()


def test_histogram_has_a_bin_for_each_power_of_two():
    smallest = float(np.nextafter(np.float32(0), np.float32(1)))
    below, half = float(np.nextafter(np.float32(1), np.float32(0))), 2.0**-30
    values = [0.0, -0.0, smallest, 1e-12, half, -half, 1.99 * half, below, 1.0, -1.5, 1023.9, 1024.0, -1e30, math.inf]
    values += torch.randn(500).mul(10).exp().mul(1e-4).tolist()
    g = torch.tensor(values)
    stats = GradientStats()
    plant(stats, [{"p": g}], p=torch.ones(len(g)))
    _, exponents = np.frexp(np.abs(g[g != 0].numpy()))
    exponents[np.isinf(g[g != 0].numpy())] = 99
    expected = np.bincount(np.clip(exponents - 1 + 30, 0, 39), minlength=40)
    np.testing.assert_array_equal(stats.parameter("p").hist[0], expected)
    assert stats.parameter("p").dead.tolist() == [2 / len(g)]


def test_histograms_of_several_parameters_are_kept_apart():
    gradients = [{name: torch.randn(*shape) * (torch.rand(*shape) > 0.3) for name, shape in SHAPES.items()}] * 2
    stats = GradientStats()
    plant(stats, gradients, **{name: torch.ones(*shape) for name, shape in SHAPES.items()})
    for name, g in gradients[0].items():
        alone = GradientStats()
        plant(alone, [{"p": g}], p=torch.ones_like(g))
        for i in range(2):
            assert torch.equal(stats.parameter(name).hist[i], alone.parameter("p").hist[0])
        assert stats.parameter(name).dead[1] == (g == 0).double().mean()
        assert stats.parameter(name).hist[0].sum() == (g != 0).sum()


SHAPES = {"a": (7, 3), "b": (1,), "c": (2, 3, 4, 5)}


def test_what_is_no_number_is_not_alive():
    stats = GradientStats()
    plant(stats, [{"p": torch.tensor([0.0, math.nan, 1.0])}, {"p": torch.zeros(3)}], p=torch.ones(3))
    got = stats.parameter("p")
    assert got.grad_norm.isnan().tolist() == [True, False]
    assert got.dead.isnan().tolist() == [True, False]
    assert got.hist[0].nonzero().flatten().tolist() == [30, 39]
    assert got.update.isnan().all()
    for plot in PLOTS:
        getattr(stats, plot)().canvas.draw()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    p, g = (torch.randn(1000) * 30).to(dtype), (torch.randn(1000) * 3000).to(dtype)  # a norm beyond float16
    stats = GradientStats()
    learn = plant(stats, [{"p": g}], p=p.clone(), lr=1e-3)
    got, old = stats.parameter("p"), p.double()
    torch.testing.assert_close(got.grad_norm[0], vector_norm(g.double()), rtol=1e-6, atol=0)
    torch.testing.assert_close(got.param_norm[0], vector_norm(old), rtol=1e-6, atol=0)
    change = vector_norm(learn.model.p.detach().double() - old)
    torch.testing.assert_close(got.update[0], change / vector_norm(old), rtol=1e-6, atol=0)
    assert learn.model.p.dtype == dtype


def test_double_precision_stays_double_beside_single():
    p, q = torch.randn(50, dtype=torch.float64), torch.randn(50)
    stats = GradientStats()
    learn = plant(stats, [{"p": p * 3, "q": q}, {"q": q}, {"p": p, "q": q}], p=p.clone(), q=q.clone(), lr=1e-9)
    got = stats.parameter("p")
    torch.testing.assert_close(got.grad_norm, torch.stack([3 * vector_norm(p), vector_norm(p)]), rtol=1e-14, atol=0)
    torch.testing.assert_close(got.update.sum(), torch.tensor(4e-9).double(), rtol=1e-6, atol=0)
    assert stats.parameter("q").grad_norm.shape == (3,)
    assert learn.model.p.dtype == torch.float64


def test_complex_numbers_count_as_pairs():
    p, g = torch.randn(20, dtype=torch.complex64), torch.randn(20, dtype=torch.complex64)
    stats = GradientStats()
    plant(stats, [{"p": g}], p=p.clone(), lr=0.1)
    got = stats.parameter("p")
    torch.testing.assert_close(got.grad_norm[0].float(), vector_norm(g))
    torch.testing.assert_close(got.update[0].float(), 0.1 * vector_norm(g) / vector_norm(p))
    assert got.hist.sum() == 40


def test_sparse_gradients_are_as_dense_ones():
    ids, pairs = torch.randint(0, 10, (3, 8)), []  # with some twice, whose gradients add up
    for is_sparse in (True, False):
        torch.manual_seed(0)
        stats = GradientStats()
        fit(nn.Embedding(20, 3, sparse=is_sparse), ids, stats)
        pairs.append(stats.parameter("weight"))
    for sparse, dense in zip(*pairs, strict=True):
        torch.testing.assert_close(sparse, dense)
    assert pairs[0].dead.min() >= 0.5


@pytest.mark.parametrize("turned", [lambda p: p.to(memory_format=torch.channels_last), lambda p: p[:, ::2]])
def test_any_layout_in_memory(turned):
    p, g = torch.randn(4, 6, 3, 3), torch.randn(4, 6, 3, 3)
    stats = GradientStats()
    plant(stats, [{"p": turned(g)}], p=turned(p.clone()), q=torch.ones(2), lr=0.1)
    got, old = stats.parameter("p"), turned(p).double()
    torch.testing.assert_close(got.param_norm[0], vector_norm(old))
    torch.testing.assert_close(got.update[0], 0.1 * vector_norm(turned(g).double()) / vector_norm(old))


def test_a_parameter_without_numbers():
    stats = GradientStats()
    plant(stats, [{"p": torch.empty(0, 3), "q": torch.ones(2)}], p=torch.empty(0, 3), q=torch.ones(2))
    got = stats.parameter("p")
    assert (got.grad_norm.item(), got.param_norm.item()) == (0, 0)
    assert got.dead.isnan().all()
    assert stats.parameter("q").hist[0].sum() == 2


# -- which steps and parameters --------------------------------------------------------------------------------


def test_parameters_without_a_gradient_are_not_there():
    one, two = torch.ones(2), torch.full((3,), 2.0)
    stats = GradientStats()
    frozen = nn.Parameter(torch.ones(4), requires_grad=False)
    gradients = [{"a": one, "b": two}, {"b": 2 * two}, {"a": 3 * one}, {"a": one, "b": two}]
    plant(stats, gradients, a=torch.ones(2), b=torch.ones(3), unused=torch.ones(1), frozen=frozen)
    assert stats.names == ["a", "b", "unused", "frozen"]
    assert stats.without_gradient == ["unused", "frozen"]
    assert repr(stats) == "GradientStats: 4 parameters, 4 steps; without gradient: unused, frozen"
    for name, expected in {"a": [one, 3 * one, one], "b": [two, 2 * two, two]}.items():
        got, expected = stats.parameter(name), torch.stack(expected)
        torch.testing.assert_close(got.grad_norm.float(), vector_norm(expected, dim=1))
        steps = expected.flip(0).flip(0)
        before = torch.cat([torch.ones(1, steps.shape[1]), 1 - steps.cumsum(dim=0)[:-1]])
        torch.testing.assert_close(got.param_norm.float(), vector_norm(before, dim=1))
        assert got.hist.sum(dim=1).tolist() == [len(expected[0])] * 3
    assert stats.parameter("unused").hist.shape == (0, 40)
    frame = stats.to_pandas()
    assert frame.attrs["without_gradient"] == ["unused", "frozen"]
    assert frame[frame["parameter"] == "a"]["step"].tolist() == [0, 2, 3]
    for plot in PLOTS:
        figure = getattr(stats, plot)()
        figure.canvas.draw()
        titles = {ax.get_title() for ax in figure.axes}
        titles |= {text.get_text() for ax in figure.axes if ax.legend_ for text in ax.legend_.get_texts()}
        assert {"a", "b", "unused (no gradient)"} <= titles  # one that should be trained and is not
        assert "frozen (no gradient)" not in titles  # or a frozen backbone would fill the page


def test_only_frozen_ones_are_drawn_if_there_are_no_others():
    stats = GradientStats("frozen")
    frozen = nn.Parameter(torch.ones(4), requires_grad=False)
    plant(stats, [{"p": torch.ones(2)}], p=torch.ones(2), frozen=frozen)
    assert repr(stats) == "GradientStats: 1 parameters, 0 steps"
    assert stats.without_gradient == ["frozen"]
    assert len(stats.to_pandas()) == 0
    for plot in PLOTS:
        getattr(stats, plot)().canvas.draw()
    assert stats.dead_chart().axes[0].get_title() == "frozen (no gradient)"


def test_many_without_a_gradient_are_not_all_listed():
    stats = GradientStats()
    unused = {f"u{i}": torch.ones(1) for i in range(9)}
    plant(stats, [{"p": torch.ones(2)}], p=torch.ones(2), **unused)
    assert repr(stats).endswith("; without gradient: u0, u1, u2, u3, u4 and 4 more")


def test_one_that_is_unfrozen_in_the_middle_is_recorded_from_then_on(make_learner):
    stats = GradientStats()
    learn = make_learner(stats)
    learn.model[0].requires_grad_(False)
    learn.add_cb(LambdaCallback(before_epoch=lambda learn: learn.model[0].requires_grad_(learn.epoch > 0)))
    learn.fit(2)
    assert [len(stats.parameter(name).update) for name in stats.names] == [3, 3, 6, 6]
    assert stats.without_gradient == []
    assert "0.weight" in [ax.get_title() for ax in stats.dead_chart().axes]


def test_one_that_the_optimizer_does_not_hold_does_not_move(make_learner):
    stats, models = GradientStats(), []
    learn = make_learner(stats, opt_func=lambda params, lr: torch.optim.SGD(models[0][2].parameters(), lr=lr))
    models.append(learn.model)
    with pytest.warns(RuntimeWarning, match="`opt_func` leaves out 0.weight, 0.bias"):
        learn.fit(1)
    assert stats.parameter("0.weight").grad_norm.min() > 0
    assert stats.parameter("0.weight").update.tolist() == [0, 0, 0]
    assert stats.parameter("2.weight").update.min() > 0


def test_shared_parameters_are_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    stats = GradientStats()
    fit(Tied(), torch.randn(2, 8, 4), stats)
    assert stats.names == ["a.weight", "a.bias", "b.bias"]
    assert len(stats.parameter("a.weight").update) == 2


def test_lazy_parameters_are_there_once_they_are_made():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules are a new feature", UserWarning)
        model = nn.Sequential(nn.LazyLinear(3), nn.LazyLinear(2))
    stats = GradientStats()
    fit(model, torch.randn(2, 8, 5), stats)
    assert stats.without_gradient == []
    assert stats.parameter("0.weight").hist.sum(dim=1).tolist() == [15, 15]
    assert stats.parameter("1.weight").param_norm.min() > 0


def test_steps_that_are_not_made_are_not_recorded(make_learner):
    class Skip:
        def after_backward(self, learn):
            if learn.i == 1:
                raise CancelStepException

    stats = GradientStats()
    make_learner([stats, Skip()]).fit(1)
    assert stats.to_pandas()["batch"].unique().tolist() == [0, 2]


def test_a_step_that_is_given_up_leaves_no_half_row():
    def step(learn):
        if learn.i == 1:
            raise CancelStepException
        if learn.i == 3:
            raise ValueError("mine")
        learn.opt.step()

    stats = GradientStats()
    with pytest.raises(ValueError, match="mine"):
        plant(stats, [{"p": torch.ones(4)}] * 4, LambdaCallback(step=step), p=torch.ones(4), lr=0.1)
    got = stats.parameter("p")
    assert got.grad_norm.tolist() == [2, 2]  # what was not used for a step is gone
    torch.testing.assert_close(got.param_norm, torch.tensor([2, 1.8]).double())
    torch.testing.assert_close(got.update, torch.tensor([0.2 / 2, 0.2 / 1.8]).double())
    assert got.hist.sum(dim=1).tolist() == [4, 4]


def test_nothing_comes_between_it_and_the_optimizer():
    def double(learn, action):
        learn.model.p.grad.mul_(2)
        action()

    last = LambdaCallback(around_step=double)
    last.order = 99
    stats = GradientStats()
    plant(stats, [{"p": torch.ones(4)}], last, p=torch.ones(4))
    assert stats.parameter("p").grad_norm.tolist() == [4.0]


def test_an_optimizer_that_needs_a_closure(make_learner):
    class Closure:
        def step(self, learn):
            def closure():
                learn.opt.zero_grad()
                loss = cross_entropy(learn.model(learn.xb), learn.yb)
                loss.backward()
                return loss

            learn.opt.step(closure)

    def look(learn):
        norms.append(vector_norm(learn.model[0].weight.grad))
        befores.append(learn.model[0].weight.detach().clone())

    norms, befores, stats = [], [], GradientStats()
    watch = LambdaCallback(after_backward=look)
    learn = make_learner([stats, Closure(), watch], opt_func=torch.optim.LBFGS)
    learn.fit(1)
    befores.append(learn.model[0].weight.detach())
    got = stats.parameter("0.weight")
    torch.testing.assert_close(got.grad_norm.float(), torch.stack(norms))
    moves = [vector_norm(after - before) / vector_norm(before) for before, after in itertools.pairwise(befores)]
    torch.testing.assert_close(got.update.float(), torch.stack(moves))


def test_several_steps_in_a_batch(make_learner):
    class Twice:
        def after_batch(self, learn):
            if learn.training:
                cross_entropy(learn.model(learn.xb), learn.yb).backward()
                learn.update()

    stats = GradientStats("0.bias")
    make_learner([stats, Twice()]).fit(1)
    assert stats.to_pandas()["batch"].tolist() == [0, 0, 1, 1, 2, 2]
    assert stats.to_pandas()["step"].tolist() == list(range(6))


def test_every_counts_the_batches_with_a_step():
    def steps(every, *cbs):
        stats = GradientStats(every=every)
        gradients = [{"p": torch.ones(2)}] * 12
        plant(stats, gradients, *cbs, p=torch.ones(2))
        assert len(stats.parameter("p").update) == len(stats.to_pandas())
        return stats.to_pandas()["batch"].tolist()

    assert steps(None) == list(range(12))
    assert steps(5) == [4, 9]
    assert steps(2, AccumulateCallback(3)) == [5, 11]
    assert steps("2 epochs") == []


def test_every_measures_the_same_as_always(make_learner):
    whole, some = GradientStats(), GradientStats(every=2)
    make_learner([whole, some]).fit(2)
    for all_numbers, numbers in zip(whole.parameter("2.weight"), some.parameter("2.weight"), strict=True):
        assert torch.equal(numbers, all_numbers[1::2])


def test_histograms_of_every_nth_recorded_step(make_learner):
    whole, some = GradientStats(), GradientStats(every=2, hist_every=2)
    make_learner([whole, some]).fit(4)
    expected, got = whole.parameter("0.weight"), some.parameter("0.weight")
    assert torch.equal(got.update, expected.update[1::2])
    assert got.dead.isfinite().tolist() == [True, False] * 3
    assert torch.equal(got.hist[::2], expected.hist[1::4])
    assert got.hist[1::2].isnan().all()
    hists = some.to_pandas()["hist"][:6]
    assert [hist is None for hist in hists] == [False, True] * 3
    assert list(some.dead_chart().axes[0].lines[0].get_xdata()) == [0, 2, 4]


def test_parameters_may_be_chosen(make_learner):
    def names(*args):
        stats = GradientStats(*args)
        learn = make_learner(stats)
        learn.fit(1)
        assert all(len(stats.parameter(name).update) == 3 for name in stats.names)
        return stats.names

    assert names() == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert names("*.weight") == ["0.weight", "2.weight"]
    assert names(["2", "0.bias"]) == ["0.bias", "2.weight", "2.bias"]
    assert names(None, lambda p: p.ndim > 1) == ["0.weight", "2.weight"]


# -- life ------------------------------------------------------------------------------------------------------


def test_stays_readable_and_a_second_fit_starts_clean(make_learner):
    stats = GradientStats()
    learn = make_learner(stats)
    assert repr(stats) == "GradientStats: 0 parameters, 0 steps"
    learn.fit(2)
    assert repr(stats) == "GradientStats: 4 parameters, 6 steps"
    learn.validate()
    learn.fit(1)
    assert repr(stats) == "GradientStats: 4 parameters, 3 steps"
    assert stats.to_pandas()["step"].max() == 8  # the learner's own


def test_what_was_seen_before_an_error_stays_readable(make_learner):
    class Fail:
        def before_batch(self, learn):
            if learn.i == 2:
                raise ValueError("mine")

    stats = GradientStats()
    learn = make_learner([stats, Fail()])
    with pytest.raises(ValueError, match="mine"):
        learn.fit(1)
    assert len(stats.parameter("0.bias").update) == 2


@pytest.mark.parametrize("read", [lambda stats: None, lambda stats: stats.plot_stats()])
def test_lets_go_of_the_model_when_the_fit_ends(read):
    stats = GradientStats()
    learn = fit(nn.Linear(4, 1), torch.randn(2, 8, 4), stats)
    read(stats)
    gone = weakref.ref(learn.model.weight)
    del learn
    gc.collect()
    assert gone() is None
    assert len(stats.parameter("weight").update) == 2


def test_a_sandbox_gives_back_what_was_recorded(make_learner):
    stats = GradientStats()
    learn = make_learner(stats)
    learn.fit(1)
    before = stats.parameter("0.weight")
    with learn.sandbox():
        learn.fit(3)
        assert len(stats.parameter("0.weight").update) == 9
    for old, new in zip(before, stats.parameter("0.weight"), strict=True):
        assert torch.equal(old, new)


def test_a_sandbox_within_the_fit_gives_back_what_was_recorded(make_learner):
    class Try:
        def after_batch(self, learn):
            if learn.training and learn.i == 1 and not learn.in_sandbox:
                with learn.sandbox():
                    cross_entropy(learn.model(learn.xb), learn.yb).backward()
                    learn.update()
                    assert len(stats.parameter("0.weight").update) == 3

    stats, plain = GradientStats(), GradientStats()
    make_learner([stats, Try()]).fit(1)
    make_learner(plain).fit(1)
    for got, expected in zip(stats.parameter("0.weight"), plain.parameter("0.weight"), strict=True):
        assert torch.equal(got, expected)


def test_long_fits_are_kept_in_few_pieces():
    gradients = [{"p": torch.full((3,), float(i))} for i in range(500)]
    stats = GradientStats(hist_every=7)
    plant(stats, gradients, p=torch.ones(3), lr=1e-3)
    assert [len(block) for block in stats._blocks] == [64, 128, 256, 512]
    assert [len(block) for block in stats._hist_blocks] == [64, 128]
    got = stats.parameter("p")
    torch.testing.assert_close(got.grad_norm, torch.arange(500).double() * math.sqrt(3))
    assert got.dead[:15:7].tolist() == [1, 0, 0]
    assert got.hist[::7].sum(dim=1).tolist() == [0, *[3] * 71]


def test_keeps_nothing_but_numbers_and_never_waits_for_the_device(make_learner, monkeypatch):
    waits = []

    class NoWaiting(TorchDispatchMode):
        """Notes what would have to wait for an accelerator: reading a number, or copying to another device."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = str(func)
            if "_local_scalar" in name or "nonzero" in name or "bincount" in name or "device" in (kwargs or {}):
                waits.append(name)
            return func(*args, **(kwargs or {}))

    class Watch:
        order = 99.5  # around GradientStats alone, and the step of SGD

        def around_step(self, learn, action):
            with NoWaiting():
                action()

    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "cpu", "numpy"):
        real = getattr(Tensor, name)

        def spy(self, *args, _real=real, _name=name, **kwargs):
            if learn.is_in_batch:
                waits.append(_name)
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, spy)
    stats = GradientStats()
    x = torch.randn(3, 8, 4, dtype=torch.float64)
    learn = Learner(
        nn.Linear(4, 2).double(), {"train": list(x)}, lambda p: p.square().mean(), lr=0.1, cbs=[stats, Watch()]
    )
    learn.fit(1)
    made = [name for name in waits if "empty" in name or "new_" in name]  # room for the copy and for rows, once
    during = [name for name in waits if name not in made]
    assert not during
    assert len(made) <= 6
    assert not any(block.requires_grad for block in stats._blocks)


def test_refuses_parameters_on_several_devices():
    stats = GradientStats()
    model = nn.ModuleDict({"here": nn.Linear(4, 1), "there": nn.Linear(4, 1, device="meta")})
    learn = Learner(model, {"train": [torch.randn(8, 4)]}, lambda p: p.mean(), cbs=stats)

    def predict(learn):
        model["there"](learn.xb.to("meta")).mean().backward()
        learn.preds = model["here"](learn.xb)

    with pytest.raises(LearnerError, match="the parameters to watch must be on one device, got cpu, meta; choose"):
        learn.fit(1, cbs=LambdaCallback(predict=predict))


# -- reading ---------------------------------------------------------------------------------------------------


def test_to_pandas(make_learner):
    stats = GradientStats()
    make_learner(stats).fit(2)
    frame = stats.to_pandas()
    names = "parameter epoch dl_name batch step grad_norm param_norm update dead hist"
    assert list(frame.columns) == names.split()
    assert len(frame) == 24
    assert frame.attrs["without_gradient"] == []
    mine = frame[frame["parameter"] == "2.weight"]
    for name in ("grad_norm", "param_norm", "update", "dead"):
        np.testing.assert_array_equal(mine[name], getattr(stats.parameter("2.weight"), name))
    np.testing.assert_array_equal(np.stack(mine["hist"]), stats.parameter("2.weight").hist)
    assert mine["epoch"].tolist() == [0, 0, 0, 1, 1, 1]
    assert set(mine["dl_name"]) == {"train"}


def test_plots_show_the_numbers(make_learner):
    stats = GradientStats()
    make_learner(stats).fit(2)
    got = stats.parameter("0.bias")
    axes = stats.plot_stats().axes
    assert [ax.get_title() for ax in axes] == ["norm of the gradient", "norm of the parameter", "relative update"]
    for ax, values in zip(axes, got[:3], strict=True):
        np.testing.assert_array_equal(ax.lines[1].get_ydata(), values)
        assert ax.get_yscale() == "log"
    assert list(axes[2].lines[-1].get_ydata()) == [1e-3, 1e-3]
    assert [text.get_text() for text in axes[2].legend_.get_texts()] == stats.names
    image = stats.color_dim().axes[1].images[0]
    np.testing.assert_allclose(image.get_array(), np.log1p(got.hist.numpy()).T)
    np.testing.assert_array_equal(stats.dead_chart().axes[1].lines[0].get_ydata(), got.dead)


def test_histograms_are_drawn_where_there_is_something_on_an_axis_of_decades():
    stats = GradientStats()
    plant(stats, [{"p": torch.tensor([0.0, 0.011, 1.5])}], p=torch.ones(3))
    (ax,) = stats.color_dim().axes
    np.testing.assert_allclose(10 ** np.array(ax.get_ylim()), [2**-7, 2])  # the bins of the two, in full
    np.testing.assert_allclose(10 ** np.array(ax.images[0].get_extent()[2:]), [2**-30, 2**10])


@pytest.mark.parametrize("read", [*PLOTS, "to_pandas"])
def test_read_before_a_fit_says_so(read):
    with pytest.raises(LearnerError, match="`GradientStats` must have watched a fit before it is read; call"):
        getattr(GradientStats(), read)()


def test_a_parameter_read_before_a_fit_says_so():
    with pytest.raises(LearnerError, match="`GradientStats` must have watched a fit before it is read; call"):
        GradientStats().parameter("0.weight")


def test_an_unknown_parameter_lists_those_there_are(make_learner):
    stats = GradientStats("*.weight")
    make_learner(stats).fit(1)
    with pytest.raises(ValueError, match=r"`name` must be one of '0.weight', '2.weight', got '0.bias'"):
        stats.parameter("0.bias")


def test_refuses_wrong_arguments_when_made():
    with pytest.raises(TypeError, match=r"`parameters` must hold parameters, .* got 1.5"):
        GradientStats([1.5])
    with pytest.raises(TypeError, match="`param_filter` must be a function of a parameter, got 'bias'"):
        GradientStats(None, "bias")
    with pytest.raises(ValueError, match=r"`every` must be a number of batches, or as .* got 0"):
        GradientStats(every=0)
    with pytest.raises(ValueError, match="`hist_every` must be at least 1, got 0"):
        GradientStats(hist_every=0)


def test_refuses_what_is_not_in_the_model_when_a_fit_begins(make_learner):
    with pytest.raises(ValueError, match=r"`parameters` must be .* got 'head'.*; there is 0.weight, 0.bias"):
        make_learner(GradientStats("head")).fit(1)


def test_all_pictures_by_name_once_there_is_something_to_draw(make_learner):
    stats = GradientStats()
    assert stats.figures() == {}
    make_learner(stats).fit(1)
    figures = stats.figures()
    assert list(figures) == ["gradients", "gradient_histograms", "dead_gradients"]
    for figure in figures.values():
        assert figure.axes
        plt.close(figure)


def test_a_fit_goes_on_with_the_same_parameters_only(tmp_path):
    tiny_learner([CheckpointCallback(tmp_path), GradientStats()]).fit(1)
    learn = tiny_learner([CheckpointCallback(tmp_path), GradientStats("0")])
    with pytest.raises(LearnerError, match=r"the parameters to watch are .* saved of callback GradientStats"):
        learn.fit(2, resume=True)


def test_several_parts_are_joined_in_order_with_their_histograms():
    """Of an odd number of steps each, of which every second one has a histogram."""
    learn, parts, states = tiny_learner(None), [], []
    for n in (5, 3, 70):
        parts.append(GradientStats(hist_every=2))
        learn.fit(steps=n, cbs=parts[-1])
        states.append(plain(parts[-1].state_dict(), copy=True))
    whole = GradientStats(hist_every=2)
    whole.load_state_dict(whole.join_parts(states))
    for name in parts[0].names:
        for k, joined in enumerate(whole.parameter(name)):
            assert torch.equal(
                joined.nan_to_num(-1), torch.cat([one.parameter(name)[k] for one in parts]).nan_to_num(-1)
            )
    again = GradientStats(hist_every=2)
    again.load_state_dict(plain(whole.state_dict(), copy=True))
    assert torch.equal(again.parameter(name).hist.nan_to_num(-1), whole.parameter(name).hist.nan_to_num(-1))
