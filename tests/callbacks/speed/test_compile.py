"""The model is compiled while it trains, whatever it is, and is as it was afterwards."""

import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import ActivationStats, BestModelCallback, CompileCallback, EMACallback, MixedPrecisionCallback
from callbacks.speed import compile as module
from learner import Callback, Learner, LearnerError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        return self.layer(x).tanh()


class Stops(nn.Module):
    """Cannot be compiled as a whole."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        y = self.layer(x)
        torch._dynamo.graph_break()
        return y * 2


MODELS = {
    "own class": Net,
    "nn.Linear": lambda: nn.Linear(4, 1),
    "nn.Sequential": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)),
}


@pytest.fixture(autouse=True)
def counting(monkeypatch):
    """Run graphs as they are: what is compiled is looked at, not the compiler."""
    torch._dynamo.reset()
    monkeypatch.setattr(module, "compile_graph", lambda graph, *_: graph.forward)
    yield
    torch._dynamo.reset()


def batches(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [(x, x.sum(1, keepdim=True)) for x in (torch.randn(n, 4, generator=generator) for n in sizes)]


def trained(cbs, make=Net, train=(8, 8), valid=(), n=3):
    torch.manual_seed(0)
    dls = {"train": batches(*train), **({"valid": batches(*valid)} if valid else {})}
    learn = Learner(make(), dls, mse_loss, 0.1, cbs=cbs)
    learn.fit(n)
    return learn


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_any_model_is_compiled_and_trains_as_it_would(make):
    learn = trained(cb := CompileCallback(), make)
    plain = trained(None, make)
    assert cb.n_graphs == 1
    assert learn.history.to_dict() == plain.history.to_dict()
    assert all(map(torch.equal, learn.model.state_dict().values(), plain.model.state_dict().values()))
    assert list(learn.model.state_dict()) == list(plain.model.state_dict())


@pytest.mark.parametrize(
    ("train", "valid", "n_graphs"),
    [((8, 8), (), 1), ((8, 5), (), 2), ((8, 8), (8,), 2), ((8, 5), (8,), 3)],
    ids=["even", "short last batch", "with validation", "both"],
)
@pytest.mark.parametrize("n", [3, 10])
def test_how_often_it_compiles(train, valid, n_graphs, n):
    trained(cb := CompileCallback(), train=train, valid=valid, n=n)
    assert cb.n_graphs == n_graphs


def test_it_compiles_once_in_half_precision_too():
    trained([cb := CompileCallback(), MixedPrecisionCallback("bf16")], valid=(8,))
    assert cb.n_graphs == 2


@pytest.mark.filterwarnings("ignore:.*recompile.*")
def test_a_training_that_compiles_again_and_again_is_said_once():
    class Statics(Net):
        def forward(self, x):
            return super().forward(x) * (1 if len(x) % 2 else 2) + int(len(x) > 6)  # depends on the length

    with pytest.warns(RuntimeWarning, match=r"compiled for the 3rd time in one training, .*drop_last=True") as caught:
        trained(CompileCallback(dynamic=False), Statics, train=(2, 3, 4, 5, 6))
    assert len(caught) == 1


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_as_it_was_however_the_fit_ends(error):
    class Fail(Callback):
        def after_batch(self, learn):
            assert learn.model._compiled_call_impl is not None
            if error:
                raise error

    learn = Learner(Net(), {"train": batches(8)}, mse_loss, cbs=[CompileCallback(), Fail()])
    if error:
        with pytest.raises(error):
            learn.fit(1)
    else:
        learn.fit(1)
    assert learn.model._compiled_call_impl is None


def test_with_an_average_the_best_model_and_hooks(tmp_path):
    cbs = [CompileCallback(), EMACallback(0.5), BestModelCallback(restore=True), ActivationStats()]
    plain = trained([EMACallback(0.5), BestModelCallback(restore=True)], valid=(8,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn = trained(cbs, valid=(8,))
    assert learn.history.to_dict() == plain.history.to_dict()
    learn.save(tmp_path / "learn.pt")


@pytest.mark.parametrize("every", [None, 2])
def test_batches_that_run_uncompiled_for_hooks_are_told_of_once(capsys, every):
    stats = ActivationStats(every=every)
    trained([cb := CompileCallback(), stats], train=(8,) * 4)
    assert cb.n_graphs == (0 if every is None else 1)
    assert capsys.readouterr().out.count("the model runs uncompiled in batches that hooks look at") == 1
    trained(CompileCallback(), train=(8, 5), valid=(8,))
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch, which looks at it where a graph is broken
def test_what_cannot_be_compiled_as_a_whole_names_the_place():
    learn = Learner(Stops(), {"train": batches(8)}, mse_loss)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"test_compile\.py"):
        learn.fit(1, cbs=CompileCallback(fullgraph=True))
    assert trained(cb := CompileCallback(), Stops).n_steps == 6
    assert cb.n_graphs == 2  # in two parts


def test_a_machine_without_a_compiler_says_so_before_the_first_batch():
    learn = Learner(Net(), {"train": batches(8)}, mse_loss, cbs=CompileCallback())
    error = pytest.raises(LearnerError, match=r"must have a C\+\+ compiler .* install g\+\+ or clang")
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}), error:
        learn.fit(1)
    assert learn.n_steps == 0


def test_what_is_compiled_already():
    model = Net()
    model.compile(backend="eager")
    with pytest.raises(LearnerError, match="must not be compiled already"):
        Learner(model, {"train": batches(8)}, mse_loss).fit(1, cbs=CompileCallback())
    with pytest.raises(LearnerError, match="must hold one CompileCallback"):
        trained([CompileCallback(), CompileCallback()])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mode": "fast"}, "`mode` must be one of .*'reduce-overhead'.*, got 'fast'"),
        ({"dynamic": 1}, "`dynamic` must be True or False, got 1"),
        ({"fullgraph": None}, "`fullgraph` must be True or False, got None"),
    ],
)
def test_bad_arguments(options, error):
    with pytest.raises((TypeError, ValueError), match=error):
        CompileCallback(**options)


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:`isinstance")  # of torch's own compiler
def test_the_compiler_of_torch_gives_the_same_within_rounding(monkeypatch):
    monkeypatch.undo()
    compiled, plain = trained(CompileCallback()), trained(None)
    torch.testing.assert_close(compiled.model.state_dict(), plain.model.state_dict())


def test_many_models_in_one_program_are_each_compiled():
    n_graphs = []
    for _ in range(torch._dynamo.config.recompile_limit + 3):
        trained(cb := CompileCallback(), n=1)
        n_graphs.append(cb.n_graphs)
    assert set(n_graphs) == {1}


def test_a_later_fit_of_the_same_model_compiles_nothing_anew():
    learn = trained(cb := CompileCallback(), n=1)
    assert cb.n_graphs == 1
    for _ in range(3):
        learn.fit(1)
        assert cb.n_graphs == 0
        assert learn.model._compiled_call_impl is None
    learn.remove_cb(cb)
    other = Learner(Net(), {"train": batches(8)}, mse_loss, cbs=cb)
    other.fit(1)
    assert cb.n_graphs == 1
    pickle.loads(pickle.dumps(cb))
