"""What layers see is what a hand-written forward gives, and the model is left as it was."""

import contextlib
import copy
import gc
import pickle
import weakref
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear, relu
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from learner import LearnerError
from learner.errors import CancelBatchException, CancelEpochException, CancelFitException, CancelStepException
from learner.interrogate import bind, capture


def traces(model):
    """Return what a capture could leave behind, in a form that can be compared."""
    return [
        (name, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)), m.training)
        for name, m in model.named_modules()
    ]


@contextlib.contextmanager
def untouched(model):
    """Check that a model is the same after a block as before, however the block ends."""
    before, state = traces(model), copy.deepcopy(model.state_dict())
    try:
        yield
    finally:
        assert traces(model) == before
        now = model.state_dict()
        assert list(now) == list(state)
        assert all(torch.equal(now[name], state[name]) for name in state)
        assert traces(pickle.loads(pickle.dumps(model))) == before
        assert traces(copy.deepcopy(model)) == before
        assert torch.backends.mha.get_fastpath_enabled()


class Net(nn.Module):
    """An in-place activation after a layer, a tuple, a module used twice, one used by its weights, a branch."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.act = nn.ReLU(inplace=True)
        self.twice = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 5, batch_first=True, bidirectional=True)
        self.silent = nn.Linear(10, 10)
        self.rare = nn.Linear(10, 10)
        self.head = nn.Linear(10, 2)

    def hidden(self, x):
        return self.twice(self.twice(self.act(self.embed(x))))

    def forward(self, x, is_rare=False):
        h, _ = self.lstm(self.hidden(x))
        h = linear(h, self.silent.weight)
        return self.head(self.rare(h) if is_rare else h).mean(1)


def by_hand(net, x):
    """Return what the layers of `Net` give, written out without hooks."""
    seen = {"embed": linear(x, net.embed.weight, net.embed.bias)}
    seen["act"] = relu(seen["embed"])
    seen["first"] = linear(seen["act"], net.twice.weight, net.twice.bias)
    seen["twice"] = linear(seen["first"], net.twice.weight, net.twice.bias)
    seen["lstm"] = net.lstm(seen["twice"])[0]
    seen["head:in"] = linear(seen["lstm"], net.silent.weight)
    seen["head"] = linear(seen["head:in"], net.head.weight, net.head.bias)
    seen[""] = seen["head"].mean(1)
    return seen


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def x():
    return torch.randn(6, 7, 3)


@pytest.fixture
def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))


@pytest.fixture
def rows():
    return torch.randn(5, 3)


# -- what is seen ------------------------------------------------------------------------------------------------------


def test_each_layer_is_what_a_hand_written_forward_gives(net, x):
    names = ["embed", "act", "twice", "head:in", "head", "", "lstm:0", "act:in"]
    with untouched(net), capture(net, *names) as acts:
        output = net(x)
    seen = by_hand(net, x)
    expected = {**{name: seen[name] for name in names[:6]}, "lstm:0": seen["lstm"], "act:in": seen["embed"]}
    assert list(acts) == names
    for name in names:
        assert torch.equal(acts[name], expected[name]), name
    assert torch.equal(output, seen[""])


def test_what_an_in_place_layer_overwrites_is_kept(mlp, rows):
    expected = linear(rows, mlp[0].weight, mlp[0].bias)
    assert (expected < 0).any()
    with capture(mlp, "0", "1:in", "1") as acts:
        mlp(rows)
    assert torch.equal(acts["0"], expected)
    assert torch.equal(acts["1:in"], expected)
    assert torch.equal(acts["1"], expected.clamp_min(0))


@pytest.mark.parametrize("part", ["cls", "last", "flatten", "mean", lambda v: v, lambda v: v[:, 0]])
def test_what_a_pool_gives_of_a_layer_that_is_overwritten_is_kept(part):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    x = torch.randn(5, 2, 3)
    given = linear(x, model[0].weight, model[0].bias)
    with capture(model, "0", pool=part) as acts:
        model(x)
    pools = {"cls": given[:, 0], "last": given[:, 1], "flatten": given.flatten(1), "mean": given.mean(1)}
    assert torch.equal(acts["0"], part(given) if callable(part) else pools[part])


@pytest.mark.parametrize(
    ("pool", "value_of"),
    [
        (lambda v: v.detach().numpy(), torch.from_numpy),
        (lambda v: (v[:, 0], 1), lambda kept: kept[0]),
        (lambda v: {"a": v}, lambda kept: kept["a"]),
    ],
)
def test_memory_that_a_function_gives_in_another_form_is_kept(mlp, rows, pool, value_of):
    expected = linear(rows, mlp[0].weight, mlp[0].bias)
    with capture(mlp, "0", pool=pool) as acts:
        mlp(rows)
    assert torch.equal(value_of(acts["0"]), value_of(pool(expected)))


def test_a_function_that_writes_into_what_it_is_given_changes_nothing(mlp, rows):
    expected = mlp(rows)
    with capture(mlp, "0", "2:in", pool=lambda value: value.mul_(0)):
        assert torch.equal(mlp(rows), expected)


@pytest.mark.parametrize(("calls", "which"), [("last", "twice"), ("first", "first")])
def test_of_a_layer_that_runs_twice_one_call_is_kept(net, x, calls, which):
    with capture(net, "twice", calls=calls) as acts:
        net(x)
    assert torch.equal(acts["twice"], by_hand(net, x)[which])


def test_all_calls_are_lists_also_of_what_runs_once(net, x):
    with capture(net, "twice", "twice:in", "head", calls="all") as acts:
        net(x)
        net(x)
    seen = by_hand(net, x)
    expected = {
        "twice": [seen["first"], seen["twice"]],
        "twice:in": [seen["act"], seen["first"]],
        "head": [seen["head"]],
    }
    for name, values in expected.items():
        assert len(acts[name]) == len(values)
        assert all(map(torch.equal, acts[name], values))


def test_each_forward_starts_anew(net, x):
    with capture(net, "embed", "ra*", calls="first") as acts:
        net(x, is_rare=True)
        assert "rare" in acts
        for batch in (x[:2], x[2:5]):
            net(batch)
            assert torch.equal(acts["embed"], linear(batch, net.embed.weight, net.embed.bias))
            assert "rare" not in acts
    assert acts["embed"].shape == (3, 7, 4)


def test_a_module_with_two_names_is_seen_under_both(rows):
    layer = nn.Linear(3, 3)
    model = nn.ModuleDict({"a": layer, "b": layer})
    model.forward = lambda x: model["b"](model["a"](x))
    with capture(model, "a", "b", calls="all") as acts:
        model(rows)
    assert len(acts["a"]) == len(acts["b"]) == 2
    assert all(map(torch.equal, acts["a"], acts["b"]))


def test_inputs_by_position_and_by_name_are_found_however_they_are_passed():
    class Gate(nn.Module):
        def forward(self, x, gate, *, scale=1.0):
            return x * gate * scale

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = Gate()

        def forward(self, x):
            y = self.gate(x, x + 1)
            return self.gate(y, gate=x + 2, scale=torch.tensor(2.0))

    model, x = Model(), torch.randn(3)
    with capture(model, "gate:in:0", "gate:in:1", "gate:in:x", "gate:in:gate", calls="all") as acts:
        output = model(x)
    firsts, gates = [x, x * (x + 1)], [x + 1, x + 2]
    for name, values in {"0": firsts, "x": firsts, "1": gates, "gate": gates}.items():
        assert all(map(torch.equal, acts[f"gate:in:{name}"], values)), name
    assert torch.equal(output, firsts[1] * gates[1] * 2)
    with (
        capture(model, "gate:in:scale", stop=True) as acts,
        pytest.raises(LearnerError, match=r"'gate:in:scale' must be an input of the layer, as `:in:0`, got"),
    ):
        model(x)
    with capture(model, "gate:in"), pytest.raises(LearnerError, match=r"pick an element, as 'gate:in:0'"):
        model(x)
    inputs = {"gate:in:scale": lambda scale: scale}
    with capture(model, edit=inputs), pytest.raises(LearnerError, match=r"must be an input of the layer"):
        model(x)


def test_with_gradients_on_what_is_kept_is_part_of_the_graph(mlp, rows):
    with capture(mlp, "0") as acts:
        mlp(rows)
    acts["0"].sum().backward()
    assert torch.allclose(mlp[0].weight.grad, rows.sum(0).expand(4, 3))
    assert mlp[2].weight.grad is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("stop", [False, True])
def test_without_gradients_nothing_keeps_a_graph(mlp, rows, mode, stop):
    with untouched(mlp), mode(), capture(mlp, "0", stop=stop) as acts:
        mlp(rows)
    assert not acts["0"].requires_grad
    assert acts["0"].is_inference() == (mode is torch.inference_mode)
    assert torch.equal(acts["0"], linear(rows, mlp[0].weight, mlp[0].bias))


@pytest.mark.parametrize("stop", [False, True])
def test_autocast_is_seen_and_left_as_it_was(mlp, rows, stop):
    with torch.autocast("cpu", torch.bfloat16):
        expected = linear(rows, mlp[0].weight, mlp[0].bias)
        with capture(mlp, "0", pool="mean", stop=stop) as acts:
            mlp(rows)
        assert torch.is_autocast_enabled("cpu")
    assert acts["0"].dtype == torch.bfloat16
    assert torch.equal(acts["0"], expected)


def test_a_frozen_batch_norm_stays_frozen(rows):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    with untouched(model), capture(model, "1") as acts:
        model(rows)
    assert [m.training for m in model.modules()] == [True, True, False, True]
    normed = linear(rows, model[0].weight, model[0].bias) / (1 + model[1].eps) ** 0.5
    torch.testing.assert_close(acts["1"], normed)


def test_parts_of_a_model_may_be_called_by_themselves(net, x):
    with capture(net, "embed", "head", pool="mean") as acts:
        hidden = net.hidden(x[:4])
        with pytest.raises(LearnerError, match=r"'head' did not; of those asked for \['embed'\] did"):
            acts["head"]
        assert acts["embed"].shape == (4, 4)
        net(x)
        assert acts["embed"].shape == (6, 4)
        net.hidden(x[:2])  # not the number of samples that the model was called with before
    torch.testing.assert_close(acts["embed"], by_hand(net, x[:2])["embed"].mean(1))
    assert hidden.shape == (4, 7, 4)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Identity()

    def forward(self, x, attention_mask):
        return self.a(x)


def test_a_mask_of_an_earlier_forward_is_not_taken_for_a_part_that_runs_by_itself():
    model, x = Masked(), torch.randn(2, 3, 4)
    with capture(model, "a", pool="masked_mean") as acts:
        model(x, torch.tensor([[1, 1, 0], [1, 0, 0]]))
        torch.testing.assert_close(acts["a"], torch.stack([x[0, :2].mean(0), x[1, 0]]))
        with pytest.raises(LearnerError, match="must see the model called for its mask; call the model itself"):
            model.a(x)


class Saving(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        return checkpoint(self.b, self.a(x), use_reentrant=False)


def test_what_a_checkpoint_runs_again_is_not_seen_twice(rows):
    model = Saving()
    expected = torch.autograd.grad(model.b(model.a(rows)).sum(), model.a.weight)[0]
    with untouched(model), capture(model, "b.0", calls="all") as acts:
        model(rows).sum().backward()
    assert len(acts["b.0"]) == 1
    torch.testing.assert_close(model.a.weight.grad, expected)
    with capture(model, "b.2", stop=True) as acts:
        assert model(rows) is None
    with torch.no_grad():
        torch.testing.assert_close(acts["b.2"], model.b[:3](model.a(rows)))


def test_a_lazy_layer_can_be_watched_from_its_first_call(rows):
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(inplace=True))
    with capture(model, "0", "0:in") as acts:
        model(rows)
    assert torch.equal(acts["0:in"], rows)
    assert torch.equal(acts["0"], linear(rows, model[0].weight, model[0].bias))


# -- compiled and wrapped ----------------------------------------------------------------------------------------------


class Counting:
    """A backend that counts how often it is asked to compile."""

    def __init__(self):
        self.n = 0

    def __call__(self, graph, inputs):
        self.n += 1
        return graph.forward


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)

    def forward(self, x):
        return self.a(x).relu_()


class Blocks(nn.Module):  # what torch itself wrote is not compiled by `Module.compile`
    def __init__(self):
        super().__init__()
        self.b = Block()
        self.c = nn.Linear(4, 2)

    def forward(self, x):
        return self.c(self.b(x))


def compiled_whole(model, backend):
    return torch.compile(model, backend=backend)


def compiled_in_place(model, backend):
    model.compile(backend=backend)
    return model


def compiled_child(model, backend):
    model.b = torch.compile(model.b, backend=backend)
    return model


def compiled_child_in_place(model, backend):
    model.b.compile(backend=backend)
    return model


def compiled_forward(model, backend):
    model.forward = torch.compile(model.forward, backend=backend)
    return model


COMPILED = [compiled_whole, compiled_in_place, compiled_child, compiled_child_in_place, compiled_forward]


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("compile_it", COMPILED)
def test_what_was_compiled_before_is_seen_and_not_compiled_again(rows, compile_it, stop):
    torch.compiler.reset()
    backend, plain = Counting(), Blocks()
    expected = linear(rows, plain.b.a.weight, plain.b.a.bias)
    model = compile_it(plain, backend)
    output = model(rows)
    assert backend.n == 1
    before = traces(model)
    with capture(model, "b.a", stop=stop, edit={"b.a": lambda value: value + 1}) as acts:
        stopped = model(rows)
    torch.testing.assert_close(acts["b.a"], expected + 1)
    assert (stopped is None) == stop
    torch.testing.assert_close(model(rows), output)
    assert backend.n == 1
    assert traces(model) == before
    with pytest.raises(ValueError, match="mine"), capture(model, "b.a", pool=failing):
        model(rows)
    assert traces(model) == before


def failing(value):
    raise ValueError("mine")


def test_it_exports_as_before(mlp, rows):
    model = nn.Sequential(OrderedDict(a=mlp, b=nn.BatchNorm1d(2))).eval()
    expected = str(torch.export.export(model, (rows,)).graph)
    with capture(model, "a.0", "b:in", stop=True, edit={"a.0": lambda value: 0 * value}):
        model(rows)
    exported = torch.export.export(model, (rows,))
    assert str(exported.graph) == expected
    torch.testing.assert_close(exported.module()(rows), model(rows))


@pytest.mark.parametrize("name", ["module.0", "_orig_mod.module.0", "0"])
def test_names_of_wrappers_do_not_matter(mlp, rows, name):
    model = nn.DataParallel(mlp)
    assert model.device_ids == []  # there is no accelerator, or none is meant
    with untouched(mlp), capture(model, name, stop=True) as acts:
        assert model(rows) is None
    assert list(acts) == ["0"]
    assert torch.equal(acts[name], linear(rows, mlp[0].weight, mlp[0].bias))
    assert acts[name] is acts["0"]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_data_parallel_uses_one_device_in_the_block_alone(mlp, error):
    outer = nn.Sequential(OrderedDict(a=nn.DataParallel(mlp), b=nn.ReLU()))
    outer.a.device_ids = [0, 1]
    with pytest.raises(error, match="mine") if error else contextlib.nullcontext(), capture(outer, "a.0"):
        assert outer.a.device_ids == [0]
        if error:
            raise error("mine")
    assert outer.a.device_ids == [0, 1]


def test_an_averaged_model_is_seen_through(mlp, rows):
    model = torch.optim.swa_utils.AveragedModel(mlp)
    with untouched(model), capture(model, "0", "2:in", stop=True) as acts:
        model(rows)
    assert torch.equal(acts["0"], linear(rows, mlp[0].weight, mlp[0].bias))
    assert torch.equal(acts["2:in"], acts["0"].relu())


def test_a_distributed_model_is_seen_through(mlp, rows):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(mlp)
        with capture(model, "module.0", "2") as acts:
            model(rows).sum().backward()
        assert torch.equal(acts["0"], linear(rows, mlp[0].weight, mlp[0].bias))
        with capture(model, "0", stop=True):
            assert model(rows) is None
        model(rows).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert traces(mlp) == traces(copy.deepcopy(mlp))


# -- stop --------------------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """Blocks behind an `except Exception`, called in a loop."""

    def __init__(self, depth=8, width=16):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            try:
                x = block(x)
            except Exception as error:
                raise AssertionError("the model saw how it was stopped") from error
        return x


@pytest.mark.parametrize("k", [0, 3, 7])
def test_a_forward_that_is_stopped_costs_only_what_is_needed_and_gives_the_same_bits(k):
    model, x = Deep(), torch.randn(5, 16)
    with capture(model, f"blocks.{k}.0") as full:
        model(x)
    with (
        untouched(model),
        FlopCounterMode(display=False) as counter,
        capture(model, f"blocks.{k}.0", stop=True) as acts,
    ):
        assert model(x) is None
    assert counter.get_total_flops() == (k + 1) * 2 * 5 * 16 * 16
    assert torch.equal(acts[f"blocks.{k}.0"], full[f"blocks.{k}.0"])


def test_what_goes_into_a_layer_stops_before_the_layer_runs():
    model, x = Deep(), torch.randn(5, 16)
    with FlopCounterMode(display=False) as counter, capture(model, "blocks.2:in", stop=True) as acts:
        model(x)
    assert counter.get_total_flops() == 2 * 2 * 5 * 16 * 16
    assert torch.equal(acts["blocks.2:in"], model.blocks[1](model.blocks[0](x)))


@pytest.mark.parametrize(
    ("layers", "depth"), [(["blocks.3.0", "blocks.1"], 4), (["blocks.[12].1"], 3), (["blocks.*"], 8), ([3, 2], 1)]
)
def test_a_forward_stops_when_all_was_seen_in_whatever_order_it_was_asked_for(layers, depth):
    model, x = Deep(), torch.randn(5, 16)
    with capture(model, *layers) as full:
        model(x)
    with FlopCounterMode(display=False) as counter, capture(model, *layers, stop=True) as acts:
        assert model(x) is None
    assert counter.get_total_flops() == depth * 2 * 5 * 16 * 16
    assert list(acts) == list(full)
    assert all(torch.equal(acts[name], full[name]) for name in full)


def test_batches_of_one_block_are_stopped_one_by_one():
    model, x = Deep(), torch.randn(12, 16)
    kept = []
    with capture(model, "blocks.1.0", "blocks.2:in", stop=True) as acts:
        for batch in x.split(5):
            assert model(batch) is None
            kept.append(acts["blocks.1.0"])
        assert model.forward(x[:1]) is None  # without the hooks of the model itself
        assert acts["blocks.2:in"].shape == (1, 16)
        assert model.forward(x[:2]) is None
        assert acts["blocks.1.0"].shape == acts["blocks.2:in"].shape == (2, 16)
    assert [len(value) for value in kept] == [5, 5, 2]
    torch.testing.assert_close(torch.cat(kept), model.blocks[1][0](model.blocks[0](x)))
    assert model(x).shape == (12, 16)


def test_a_layer_that_a_model_does_not_reach_stops_nothing_but_is_missed(net, x):
    with capture(net, "embed", "rare", stop=True) as acts:
        assert torch.equal(net(x), by_hand(net, x)[""])
        with pytest.raises(LearnerError, match=r"'rare' did not; of those asked for \['embed'\] did"):
            acts["rare"]
        assert net(x, is_rare=True) is None
        assert acts["rare"].shape == (6, 7, 10)


def test_the_model_itself_runs_to_its_end(mlp, rows):
    with capture(mlp, "", "0", stop=True) as acts:
        output = mlp(rows)
    assert torch.equal(acts[""], output)
    with capture(mlp, ":in", "1", stop=True) as acts:
        assert mlp(rows) is None
    assert torch.equal(acts[":in"], rows)


def test_what_a_stopped_forward_gives_is_not_changed(mlp, rows):
    with (
        pytest.raises(LearnerError, match=r"`edit` must name modules that run, but \[''\] did not"),
        capture(mlp, "0", stop=True, edit={"": failing}),
    ):
        assert mlp(rows) is None


def test_a_mask_that_was_passed_by_position_is_found_also_with_stop():
    model, x = Masked(), torch.randn(2, 3, 4)
    with capture(model, "a", pool="masked_mean", stop=True) as acts:
        model(x, torch.tensor([[1, 1, 0], [1, 0, 0]]))
    torch.testing.assert_close(acts["a"], torch.stack([x[0, :2].mean(0), x[1, 0]]))


def test_a_forward_without_the_hooks_of_the_model_starts_anew_after_one_that_was_not_stopped(net, x):
    with capture(net, "embed", "rare", stop=True, calls="first") as acts:
        assert net.forward(x) is not None
        assert net.forward(x[:2], is_rare=True) is None
        assert acts["embed"].shape == (2, 7, 4)
        assert acts["rare"].shape == (2, 7, 10)


def test_in_a_method_that_is_no_forward_it_ends_the_block(net, x):
    with untouched(net), capture(net, "act", stop=True) as acts:
        net.hidden(x)
        raise AssertionError("the block went on")
    assert torch.equal(acts["act"], by_hand(net, x)["act"])


def test_a_forward_of_the_instance_is_put_back(mlp, rows):
    own = mlp.forward = lambda x: mlp[2](mlp[0](x))
    with capture(mlp, "0", stop=True):
        assert mlp(rows) is None
    assert mlp.forward is own
    assert torch.equal(mlp(rows), mlp[2](mlp[0](rows)))


def test_an_error_of_another_kind_passes_a_stop(mlp):
    with (
        untouched(mlp),
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        capture(mlp, "2", stop=True),
    ):
        mlp(torch.ones(2, 7))


# -- one capture in another --------------------------------------------------------------------------------------------


def test_captures_in_one_another_see_the_same(net, x):
    with untouched(net), capture(net, "embed", "head") as outer:
        with capture(net, "head:in", "embed") as inner:
            net(x)
        assert torch.equal(inner["embed"], outer["embed"])
        net(x[:2])
    assert len(outer["head"]) == 2
    assert torch.equal(inner["head:in"], by_hand(net, x)["head:in"])


def test_an_inner_stop_ends_the_forward_for_the_outer_as_well(mlp, rows):
    with untouched(mlp), capture(mlp, "0", "2") as outer:
        with capture(mlp, "1", stop=True):
            assert mlp(rows) is None
            assert torch.equal(outer["0"], linear(rows, mlp[0].weight, mlp[0].bias))
            with pytest.raises(LearnerError, match=r"'2' did not; of those asked for \['0'\] did"):
                outer["2"]
        assert mlp(rows).shape == (5, 2)
        assert outer["2"].shape == (5, 2)


def test_an_outer_stop_ends_the_forward_for_the_inner_as_well(mlp, rows):
    with untouched(mlp), capture(mlp, "1", stop=True) as outer, capture(mlp, "0", "2") as inner:
        assert mlp(rows) is None
        assert torch.equal(outer["1"], inner["0"].relu())
        with pytest.raises(LearnerError, match=r"'2' did not; of those asked for \['0'\] did"):
            inner["2"]


@pytest.mark.parametrize(("outer", "inner", "missed"), [("0", "2", "inner"), ("2", "0", "outer")])
def test_of_two_stops_the_earlier_one_counts(mlp, rows, outer, inner, missed):
    with untouched(mlp), capture(mlp, outer, stop=True) as a, capture(mlp, inner, stop=True) as b:
        assert mlp(rows) is None
    acts, other = (a, b) if missed == "inner" else (b, a)
    assert torch.equal(acts["0"], linear(rows, mlp[0].weight, mlp[0].bias))
    with pytest.raises(LearnerError, match=r"'2' did not; of those asked for \[\] did"):
        other["2"]


def test_an_outer_stop_goes_through_a_part_that_another_one_would_stop(rows):
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2))
    with untouched(model), capture(model, "0.0", stop=True) as outer, capture(model[0], "1", stop=True):
        assert model(rows) is None
    assert outer["0.0"].shape == (5, 4)


def test_an_outer_stop_ends_the_outer_block(net, x):
    with untouched(net), capture(net, "embed", stop=True) as outer:
        with capture(net, "act", stop=True) as inner:
            net.hidden(x)
        raise AssertionError("the outer block went on")
    assert torch.equal(outer["embed"], by_hand(net, x)["embed"])
    assert "act" in inner  # which was asked for, though it never ran


def test_a_part_of_a_model_is_stopped_by_itself(rows):
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2))
    with untouched(model), capture(model, "0.0") as outer, capture(model[0], "0", stop=True) as inner:
        assert model[0](rows) is None
    assert torch.equal(outer["0.0"], inner["0"])


def test_an_inner_edit_is_of_what_the_outer_has_put_in_place(mlp, rows):
    with (
        capture(mlp, "0", edit={"0": lambda value: value + 1}) as outer,
        capture(mlp, "0", edit={"0": lambda value: value * 2}) as inner,
    ):
        mlp(rows)
    assert torch.equal(outer["0"], linear(rows, mlp[0].weight, mlp[0].bias) + 1)
    assert torch.equal(inner["0"], outer["0"] * 2)


# -- edit --------------------------------------------------------------------------------------------------------------


def test_a_layer_is_switched_off(net, x):
    with untouched(net), capture(net, "embed", "act", edit={"embed": lambda value: 0 * value}) as acts:
        output = net(x)
    with torch.no_grad():
        net.embed.weight.zero_()
        net.embed.bias.zero_()
    assert torch.equal(acts["embed"], torch.zeros(6, 7, 4))
    torch.testing.assert_close(output, net(x))


def test_edits_give_what_a_hand_written_forward_gives(mlp, rows):
    edits = {"0": lambda value: value + 1, "2:in": lambda value: value * 3, "": lambda value: value - 1}
    with capture(mlp, "0", "1", "2:in", "", edit=edits) as acts:
        output = mlp(rows)
    h = linear(rows, mlp[0].weight, mlp[0].bias) + 1
    assert torch.equal(acts["0"], h)
    assert torch.equal(acts["1"], h.relu())
    assert torch.equal(acts["2:in"], h.relu() * 3)
    torch.testing.assert_close(output, mlp[2](h.relu() * 3) - 1)
    assert torch.equal(acts[""], output)


def test_what_another_run_gave_is_patched_in(mlp, rows):
    other = torch.randn(5, 3)
    with capture(mlp, "0") as acts:
        expected = mlp(other)
    with capture(mlp, edit={mlp[0]: lambda value: acts["0"].clone()}):
        assert torch.equal(mlp(rows), expected)
    with capture(mlp, edit={1: lambda value: acts["0"].clone()}):
        assert torch.equal(mlp(rows), expected)


def test_the_input_of_the_model_can_be_changed(mlp, rows):
    expected = mlp(rows + 1)
    with capture(mlp, ":in", edit={":in": lambda value: value + 1}) as acts:
        assert torch.equal(mlp(rows), expected)
        assert torch.equal(mlp(input=rows), expected)
    assert torch.equal(acts[":in"], rows + 1)


def test_each_layer_of_a_glob_is_changed():
    model, x = Deep(depth=3), torch.randn(5, 16)
    with capture(model, edit={"blocks.*.0": lambda value: value / 2}):
        output = model(x)
    for block in model.blocks:
        x = (block[0](x) / 2).tanh()
    torch.testing.assert_close(output, x)


def test_each_call_of_a_layer_is_changed(net, x):
    with capture(net, "twice", calls="all", edit={"twice": lambda value: value + 1}) as acts:
        net(x)
    first = by_hand(net, x)["first"] + 1
    assert torch.equal(acts["twice"][0], first)
    assert torch.equal(acts["twice"][1], linear(first, net.twice.weight, net.twice.bias) + 1)


Pair = namedtuple("Pair", ["a", "b"])


@dataclass(frozen=True)
class Data:
    a: torch.Tensor
    b: torch.Tensor


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x, x + 1)


KINDS = {
    "tuple": (lambda a, b: (a, b), lambda v: v),
    "list": (lambda a, b: [a, b], lambda v: v),
    "namedtuple": (Pair, lambda v: v),
    "dict": (lambda a, b: {"a": a, "b": b}, lambda v: list(v.values())),
    "dataclass": (Data, lambda v: [v.a, v.b]),
    "torch.max": (lambda a, b: torch.stack([a, b], 1).max(1), lambda v: v),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_element_of_what_a_layer_gives_is_changed(kind, rows):
    make, parts = KINDS[kind]
    model = nn.Sequential(Gives(make))
    first, second = parts(model(rows))
    with capture(model, "0:0", "0:1", edit={"0:1": lambda value: value * 2}) as acts:
        output = model(rows)
    assert type(output) is type(make(rows, rows))
    assert torch.equal(parts(output)[0], first)
    assert torch.equal(parts(output)[1], second * 2)
    assert torch.equal(acts["0:0"], first)
    assert torch.equal(acts["0:1"], second * 2)


@pytest.mark.parametrize("kind", ["namedtuple", "dict", "dataclass"])
def test_elements_have_names(kind, rows):
    make, parts = KINDS[kind]
    model = nn.Sequential(Gives(make))
    with capture(model, "0:a", edit={"0:b": lambda value: 0 * value}) as acts:
        output = model(rows)
    assert torch.equal(acts["0:a"], rows)
    assert torch.equal(parts(output)[1], torch.zeros(5, 3))


def test_gradients_flow_through_an_edit(mlp, rows):
    direction = torch.zeros(4, requires_grad=True)
    with capture(mlp, edit={"0": lambda value: value + direction}):
        mlp(rows).sum().backward()
    is_on = (linear(rows, mlp[0].weight, mlp[0].bias) > 0).float()
    torch.testing.assert_close(direction.grad, (is_on * mlp[2].weight.sum(0)).sum(0))
    torch.testing.assert_close(mlp[0].bias.grad, direction.grad)


def test_an_edit_that_may_not_have_happened_is_an_error(mlp, rows):
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    q = torch.randn(1, 2, 4)
    with (
        untouched(attention),
        pytest.raises(LearnerError, match=r"`edit` must name .* \['out_proj'\] did not; nothing"),
        capture(attention, edit={"out_proj": lambda value: 0 * value}),
    ):
        attention(q, q, q)
    with (
        pytest.raises(LearnerError, match=r"\['2'\] did not"),
        capture(mlp, "0", stop=True, edit={"2": lambda value: 0 * value}),
    ):
        mlp(rows)
    with (  # which is no reason to speak of edits
        pytest.raises(ValueError, match="mine"),
        capture(mlp, edit={"2": failing}),
    ):
        mlp(rows)
    with capture(attention, edit={"out_*": lambda value: 0 * value}):
        attention(q, q, q)
    with capture(mlp, edit={"2": lambda value: 0 * value}):
        pass


def test_an_error_is_not_covered_by_that_of_an_edit_that_did_not_happen(mlp, rows):
    def run():
        with capture(mlp, "0", stop=True, edit={"2": lambda value: 0 * value}):
            mlp(rows)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run()


@pytest.mark.parametrize("made", [None, 3, (torch.zeros(1),)])
@pytest.mark.parametrize("layer", ["0", "2:in"])
def test_an_edit_must_give_what_can_stand_there(mlp, rows, layer, made):
    with (
        untouched(mlp),
        pytest.raises(LearnerError, match=rf"an edit must return what .* of '{layer}'"),
        capture(mlp, edit={layer: lambda value: made}),
    ):
        mlp(rows)


def test_an_edit_must_give_what_can_stand_for_a_tuple(net, x):
    match = r"an edit must return what .* got None for \(Tensor.* of 'lstm'"
    with capture(net, edit={"lstm": lambda value: None}), pytest.raises(LearnerError, match=match):
        net(x)
    with capture(net, edit={"lstm": lambda value: (0 * value[0], None)}):
        assert torch.equal(net(x), net.head(torch.zeros(6, 10)))


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_layer_is_found_by_what_it_was_asked_for_and_by_its_name(mlp, rows):
    with capture(mlp, mlp[2], 1, "1") as acts:
        mlp(rows)
    assert list(acts) == ["2", "0", "1"]
    assert acts[mlp[2]] is acts["2"]
    assert acts[1] is acts["0"]
    assert len(acts) == 3
    assert {**acts}.keys() == acts.keys()


def test_what_is_in_it_is_what_it_goes_through(mlp, rows):
    with capture(mlp, 1, mlp[2], "**") as acts:
        assert list(acts) == ["0", "2"]  # the rest was only named by a glob
        assert 1 in acts
        assert mlp[2] in acts
        assert "2" in acts
        assert "1" not in acts
        assert "3" not in acts
        assert 2 not in acts
        mlp(rows)
        assert "1" in acts
    assert set(acts) == {"", "0", "1", "2"}


def test_reading_too_early_says_so(mlp, rows):
    with (
        capture(mlp, "0") as acts,
        pytest.raises(LearnerError, match=r"the model must run before '0' is read; call it inside the `with`"),
    ):
        acts["0"]
    mlp(rows)
    with pytest.raises(LearnerError, match=r"the model must run before '0' is read"):
        acts["0"]


def test_a_layer_that_did_not_run_is_missed_with_those_that_did(rows):
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    q = torch.randn(1, 2, 4)
    with capture(attention, "out_proj", ":0") as acts:
        attention(q, q, q)
    with pytest.raises(LearnerError, match=r"but 'out_proj' did not; of those asked for \[':0'\] did.*weights alone"):
        acts["out_proj"]
    assert acts[":0"].shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("1x", r"'1x' was not asked for, did you mean '1'\?; there is '1', '0'"),
        (2, r"2 was not asked for; there is"),
        ("*", r"'\*' was not asked for; there is '1', '0'"),
    ],
)
def test_what_was_not_asked_for_is_a_key_error(mlp, rows, key, match):
    with capture(mlp, "1", "[0]") as acts:
        mlp(rows)
    with pytest.raises(KeyError, match=match):
        acts[key]
    assert acts.get(key) is None


def test_its_representation_tells_what_there_is(mlp, rows):
    with capture(mlp, "0", "", "2:in", pool="flatten") as acts:
        assert repr(acts) == "Capture\n0: not run\n(the model): not run\n2:in: not run"
        mlp(rows)
    shapes = "0: Tensor(5, 4) float32\n(the model): Tensor(5, 2) float32\n2:in: Tensor(5, 4) float32"
    assert repr(acts) == f"Capture\n{shapes}"
    with capture(mlp, "0", calls="all") as acts:
        nn.Sequential(mlp[0], mlp[0])  # nothing runs
        mlp(rows)
    assert repr(acts) == "Capture\n0: Tensor(5, 4) float32"


def test_a_capture_can_be_entered_again_but_not_twice_at_once(mlp, rows):
    acts = capture(mlp, "0", stop=True)
    with untouched(mlp):
        with acts:
            with pytest.raises(LearnerError, match=r"must be left before it is entered again; make another"):
                acts.__enter__()
            mlp(rows)
        with acts:
            mlp(rows[:2])
    assert acts["0"].shape == (2, 4)


# -- it leaves as it came ----------------------------------------------------------------------------------------------

ENDS = [
    ValueError,
    KeyboardInterrupt,
    SystemExit,
    CancelStepException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
]


class Fails(nn.Module):
    error: type[BaseException] | None = None

    def forward(self, x):
        if self.error is not None:
            raise self.error("mine")
        return x


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("where", ["block", "model", "edit", "pool"])
@pytest.mark.parametrize("error", ENDS)
def test_an_error_passes_and_nothing_stays(rows, error, where, stop):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), Fails(), nn.DataParallel(nn.Linear(4, 2)))
    model[1].eval()

    def fail(value):
        raise error("mine")

    def run():
        edit, pool = {"1:in": fail if where == "edit" else torch.relu}, fail if where == "pool" else "mean"
        with capture(model, "0", "3.module:in", "", stop=stop, edit=edit, pool=pool):
            model[2].error = error if where == "model" else None
            model(rows)
            raise error("mine")

    with untouched(model):
        with pytest.raises(error, match="mine"):
            run()
        vars(model[2]).pop("error", None)


def test_what_the_model_was_called_with_is_let_go_also_after_an_error(mlp):
    x = torch.randn(5, 7)
    gone = weakref.ref(x)
    with capture(mlp, "0") as acts, contextlib.suppress(RuntimeError):
        mlp(x)
    del x
    gc.collect()
    assert gone() is None
    assert list(acts) == ["0"]


def test_hooks_of_others_stay(mlp, rows):
    seen = []
    handle = mlp[0].register_forward_hook(lambda *args: seen.append(len(args)))
    with capture(mlp, "0"):
        mlp(rows)
    mlp(rows)
    assert seen == [3, 3]
    handle.remove()


def test_what_hooks_of_others_change_is_seen(mlp, rows):
    handle = mlp[0].register_forward_hook(lambda module, inputs, output: output + 1)
    with capture(mlp, "0") as acts:
        mlp(rows)
    handle.remove()
    assert torch.equal(acts["0"], linear(rows, mlp[0].weight, mlp[0].bias) + 1)


def test_captures_can_be_dropped_without_the_block(mlp):
    with untouched(mlp):
        acts = capture(mlp, "0", stop=True)
        acts.__enter__()
        assert mlp[0]._forward_hooks
        acts.__exit__(None, None, None)
        acts.__exit__(None, None, None)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "kwargs", "error", "match"),
    [
        ([nn.Linear(3, 4)], {}, ValueError, "`layers` must be .* of the model, got a Linear that it has not"),
        ([4], {}, ValueError, r"`layers` must be .* got 4; there is 0 \(the model\), 1 0, 2 1, 3 2"),
        ([-1], {}, ValueError, "`layers` must be .* got -1"),
        ([True], {}, ValueError, "`layers` must be .* got True"),
        (["x*"], {}, ValueError, r"`layers` must be .* got 'x\*' \(`\*` stops at a dot"),
        (["2x"], {}, ValueError, "got '2x', did you mean '2'"),
        ([["0", "1"]], {}, ValueError, r"`layers` must be .* got \['0', '1'\]"),
        ([], {}, ValueError, "`layers` or `edit` must be given, got neither"),
        ([], {"edit": {}}, ValueError, "`layers` or `edit` must be given, got neither"),
        (["0"], {"pool": "men"}, ValueError, "`pool` must be one of .* got 'men', did you mean 'mean'"),
        (["0"], {"pool": 3}, ValueError, "`pool` must be one of .* got 3"),
        (["0"], {"calls": "both"}, ValueError, "`calls` must be one of last, first, all, got 'both'"),
        (["0"], {"calls": "all", "stop": True}, ValueError, "`stop=True` must know .* got `calls='all'`"),
        ([], {"stop": True, "edit": {"0": abs}}, ValueError, "`stop=True` must know .* got no layers"),
        (["0"], {"edit": {"5": abs}}, ValueError, "`edit` must be names, .* got '5'"),
        (["0"], {"edit": {"0": 3}}, TypeError, "`edit` must map layers to functions .* got 3 for '0'"),
        (["0"], {"edit": abs}, TypeError, "`edit` must be a mapping from layers to functions, got <built-in"),
    ],
)
def test_wrong_arguments_are_refused_at_once(mlp, layers, kwargs, error, match):
    with pytest.raises(error, match=match):
        capture(mlp, *layers, **kwargs)


@pytest.mark.parametrize(("model", "hint"), [(3, "got 3"), (nn.Linear, r"pass an instance, Linear\(...\)")])
def test_what_is_no_model_is_refused(model, hint):
    with pytest.raises(TypeError, match=rf"`model` must be an nn\.Module, .*{hint}"):
        capture(model, "0")


def test_what_is_no_tensor_needs_a_rule(net, x):
    for pool in (None, "mean"):
        with (
            untouched(net),
            capture(net, "lstm", pool=pool),
            pytest.raises(LearnerError, match=r"got \(Tensor.* of 'lstm'; pick an element, as 'lstm:0', or give"),
        ):
            net(x)
    with capture(net, "lstm:1"), pytest.raises(LearnerError, match=r"of 'lstm:1'; give a function as `pool`"):
        net(x)
    with capture(net, "lstm", pool=lambda value: value[1][0]) as acts:
        net(x)
    assert torch.equal(acts["lstm"], net.lstm(by_hand(net, x)["twice"])[1][0])


@pytest.mark.parametrize("part", ["2", "a"])
def test_an_element_that_is_not_there_is_an_error(net, x, part):
    with capture(net, f"lstm:{part}"), pytest.raises(LearnerError, match=rf"'lstm:{part}' must be an element of what"):
        net(x)
    with (
        capture(net, edit={f"head:{part}": lambda value: value}),
        pytest.raises(LearnerError, match=rf"'head:{part}' must be an element of what .* got Tensor\(6, 7, 2\)"),
    ):
        net(x)


@pytest.mark.parametrize("pool", ["cls", "last", "masked_mean"])
def test_a_pool_that_does_not_fit_is_an_error(mlp, rows, pool):
    with (
        untouched(mlp),
        capture(mlp, "0", pool=pool),
        pytest.raises(LearnerError, match=rf"`pool='{pool}'` must be given \(N, T, D\), got Tensor\(5, 4\)"),
    ):
        mlp(rows)


@pytest.mark.parametrize("n_times", [7, 6])
def test_time_before_samples_is_an_error_for_a_named_pool(n_times):
    model = nn.Sequential(nn.LSTM(3, 4))
    x = torch.randn(n_times, 6, 3)
    with capture(model, "0:0", pool="mean"), pytest.raises(LearnerError, match=r"samples along the first axis.*if the"):
        model(x)
    with capture(model, "0:0", pool=lambda value: value.mean(0)) as acts:
        model(x)
    assert torch.equal(acts["0:0"], model[0](x)[0].mean(0))


# -- any model, any choice, any fault ----------------------------------------------------------------------------------


class Branch(nn.Module):
    """Two ways that are added, as a tuple where that is wanted."""

    def __init__(self, left, right, gives_tuple):
        super().__init__()
        self.left, self.right, self.gives_tuple = left, right, gives_tuple

    def forward(self, x):
        total = first(self.left(x)) + first(self.right(x))
        return (total, x) if self.gives_tuple else total


class Chain(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.parts:
            x = first(part(x.clone()))  # an activation in place would else write into what its parent was given
        return x


class Writes(nn.Module):
    """Writes into what it is given."""

    def forward(self, x):
        return x.mul_(0.5)


def first(value):
    return value[0] if isinstance(value, tuple) else value


class FaultError(Exception):
    pass


@dataclass
class Plain:
    """The reference: what each module receives and gives, with edits and a fault, without a hook."""

    names: dict
    edits: dict
    fault: int
    n_calls: int = 0

    def __post_init__(self):
        self.seen = {}

    def run(self, module, x):
        self.n_calls += 1
        if self.n_calls == self.fault:
            raise FaultError
        mine = self.names[module]
        x = self.edited(f"{mine}:in", x)
        if isinstance(module, Branch):
            value = first(self.run(module.left, x)) + first(self.run(module.right, x))
            value = (value, x) if module.gives_tuple else value
        elif isinstance(module, Chain):
            value = x
            for part in module.parts:
                value = first(self.run(part, value))
        elif isinstance(module, Writes):
            value = x * 0.5
        elif isinstance(module, nn.ReLU):
            value = x.relu()
        else:
            value = linear(x, module.weight, module.bias)
        if isinstance(value, tuple):
            return self.edited(f"{mine}:0", value[0]), value[1]
        return self.edited(mine, value)

    def edited(self, name, value):
        value = self.edits[name](value) if name in self.edits else value
        self.seen.setdefault(name, []).append(value)
        return value


@st.composite
def models(draw, shared=None, depth=3):
    shared = shared or nn.Linear(3, 3)
    kinds = ["linear", "relu", "writes", "shared", *(["chain", "branch"] if depth else [])]
    kind = draw(st.sampled_from(kinds if depth < 3 else ["chain", "branch"]))
    inner = models(shared=shared, depth=depth - 1)
    if kind == "chain":
        return Chain(draw(st.lists(inner, min_size=1, max_size=3)))
    if kind == "branch":
        # What a branch is given must not be written into, or the other one would get something else.
        return Branch(Chain([draw(inner)]), Chain([draw(inner)]), draw(st.booleans()))
    makers = {"linear": lambda: nn.Linear(3, 3), "relu": lambda: nn.ReLU(inplace=True), "writes": Writes}
    return shared if kind == "shared" else makers[kind]()


EDITS = [lambda v: 0 * v, lambda v: v + 1, lambda v: v * -2]


@st.composite
def cases(draw):
    """A model, its modules that run, and a choice of layers, edits and faults, by the names of `Plain`."""
    torch.manual_seed(draw(st.integers(0, 10)))
    model = draw(models())
    names = {module: name for name, module in model.named_modules() if not isinstance(module, nn.ModuleList)}
    places = [f"{name}:in" for name in names.values()]
    places += [f"{name}:0" if getattr(module, "gives_tuple", False) else name for module, name in names.items()]
    wanted = draw(st.lists(st.sampled_from([*places, "**:in"]), min_size=1, max_size=4, unique=True))
    by_name = {name: module for module, name in names.items()}
    position = {name: i for i, (name, _) in enumerate(model.named_modules())}
    asked = [draw(st.sampled_from([name, by_name.get(name, name), position.get(name, name)])) for name in wanted]
    edits = draw(st.dictionaries(st.sampled_from(places), st.sampled_from(EDITS), max_size=2))
    calls = draw(st.sampled_from(["last", "first", "all"]))
    stop = calls != "all" and draw(st.booleans())
    return model, names, asked, edits, calls, stop, draw(st.sampled_from([0, 0, 1, 2, 3, 5]))


@contextlib.contextmanager
def failing_at(modules, n):
    """Have the n-th call of any module fail."""
    numbers = count(1)

    def fail(module, inputs):
        if next(numbers) == n:
            raise FaultError

    handles = [module.register_forward_pre_hook(fail) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases())
def test_any_layers_of_any_model_are_what_a_plain_forward_gives(case):
    model, names, asked, edits, calls, stop, fault = case
    x, before = torch.randn(4, 3), traces(model)
    reference, expected, output = Plain(names, edits, fault), None, None
    with contextlib.suppress(FaultError):
        expected = reference.run(model, x)
    # A stop keeps edits from happening, which is an error at the end.
    with (
        failing_at(names, fault),
        contextlib.suppress(FaultError, *([LearnerError] if stop else [])),
        capture(model, *asked, edit=edits, calls=calls, stop=stop) as acts,
    ):
        output = model(x.clone())
    assert traces(model) == before
    if output is not None:
        assert torch.equal(first(output), first(expected))
    else:
        assert stop or fault
    is_cut = stop and output is None  # then what is seen is that of one of the calls
    for name in acts:
        values = reference.seen.get(name)
        if values is None or (is_cut and fault):
            with contextlib.suppress(LearnerError) if is_cut else pytest.raises(LearnerError, match=" run"):
                acts[name]
        elif calls == "all":
            assert [v.tolist() for v in acts[name]] == [v.tolist() for v in values]
        else:
            options = values if is_cut else [values[0 if calls == "first" else -1]]
            assert any(torch.equal(acts[name], value) for value in options)


def test_a_bound_method_is_seen_without_the_model_being_called(net, x):
    def representation(self, x):
        return self.lstm(self.embed(x))[0].amax(1)

    with bind(net, representation), capture(net, "embed", "lstm:0") as acts:
        made = net.representation(x)
        with pytest.raises(KeyError, match="'head' was not asked for"):
            acts["head"]
    assert torch.equal(acts["embed"], by_hand(net, x)["embed"])
    assert torch.equal(acts["lstm:0"].amax(1), made)


# -- gradients by what was captured ------------------------------------------------------------------------------------


def grad_cam_by_hand(model, images, k):
    """Return the gradient of a class's scores by the features before the pooling, and its map."""
    features = model[:2](images)
    gradient = torch.autograd.grad(model[2:](features)[:, k].sum(), features)[0]
    return features, gradient, (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("layer", ["1", "2:in"])
def test_grad_cam_is_that_by_hand(layer, is_frozen):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(inplace=True),
        nn.Identity(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    images = torch.randn(5, 1, 8, 8)
    features, gradient, cam = grad_cam_by_hand(model, images, 2)
    model.requires_grad_(not is_frozen)
    with capture(model, layer, grad=True) as acts:
        scores = model(images)
    assert torch.equal(acts[layer], features)
    found = torch.autograd.grad(scores[:, 2].sum(), acts[layer])[0]
    assert torch.equal(found, gradient)
    assert torch.equal((found.mean((2, 3), keepdim=True) * acts[layer]).sum(1).relu(), cam)
    with capture(model, layer, grad=True) as acts:
        model(images)[:, 2].sum().backward()
    assert torch.equal(acts[layer].grad, gradient)
    assert not is_frozen or all(p.grad is None for p in model.parameters())


def test_gradients_of_all_layers_and_weights_are_as_without_a_capture(mlp, rows):
    wanted = torch.autograd.grad(mlp(rows).square().sum(), list(mlp.parameters()))
    with capture(mlp, "**", "0:in", grad=True) as acts:
        output = mlp(rows)
    found = torch.autograd.grad(output.square().sum(), [*mlp.parameters(), *(acts[name] for name in acts)])
    for one, other in zip(found, wanted, strict=False):
        torch.testing.assert_close(one, other)
    by_name = dict(zip(acts, found[len(wanted) :], strict=True))
    torch.testing.assert_close(by_name[""], 2 * output)
    hidden = mlp[:-1](rows)
    torch.testing.assert_close(
        by_name["1"], torch.autograd.grad(mlp[-1](hidden).square().sum(), hidden)[0], atol=1e-6, rtol=1e-5
    )


def test_gradients_by_one_element_and_by_each_call():
    lstm, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    with capture(lstm, ":0", grad=True) as acts:
        states, _ = lstm(x)
    states.square().sum().backward()
    torch.testing.assert_close(acts[":0"].grad, 2 * states)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x))

    model = Twice()
    with capture(model, "layer", grad=True, calls="all") as acts:
        model(x).sum().backward()
    first, second = acts["layer"]
    torch.testing.assert_close(second.grad, torch.ones(2, 5, 3))
    torch.testing.assert_close(first.grad, model.layer.weight.sum(0).expand(2, 5, 3))


def test_gradients_that_cannot_be_are_refused(mlp, rows):
    with pytest.raises(ValueError, match=r"`grad=True` needs .* got a `pool`"):
        capture(mlp, "0", grad=True, pool="mean")
    with pytest.raises(ValueError, match=r"`grad=True` needs .* got `stop=True`"):
        capture(mlp, "0", grad=True, stop=True)
    with capture(mlp, "0", grad=True), torch.no_grad(), pytest.raises(LearnerError, match=r"gradients off.* at '0'"):
        mlp(rows)
    model = nn.Sequential(nn.Embedding(5, 2))
    with capture(model, "0:in", grad=True), pytest.raises(LearnerError, match=r"needs floats.*int64 at '0:in'"):
        model(torch.zeros(3, dtype=torch.int64))


# -- one tensor and nothing else; globs --------------------------------------------------------------------------------


class Attends(nn.Module):
    """Gives the layers in it a tensor and Nones, and gets a tensor and None; a part of it never runs."""

    def __init__(self):
        super().__init__()
        self.pre, self.attention, self.lstm = nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.LSTM(4, 4)
        self.masked = Masking()

    def forward(self, x):
        x = self.pre(x)
        x = self.masked(x, None, mask=None)
        return self.lstm(self.attention(x, x, x, need_weights=False)[0])[0]


class Masking(nn.Module):
    def forward(self, x, bias, mask=None):
        return x


def test_the_one_tensor_beside_none_is_meant():
    model, x = Attends(), torch.randn(2, 3, 4)
    with capture(model, "masked:in", "attention", edit={"masked:in": lambda value: 2 * value}) as acts:
        model(x)
    doubled = 2 * model.pre(x)
    assert torch.equal(acts["masked:in"], doubled)
    torch.testing.assert_close(acts["attention"], model.attention(doubled, doubled, doubled)[0])


def test_a_glob_leaves_out_what_gives_no_single_tensor_and_what_never_runs():
    model, x = Attends(), torch.randn(2, 3, 4)
    with capture(model, "**") as acts:
        model(x)
    assert set(acts) == {"", "pre", "masked", "attention"}  # not `attention.out_proj`, not `lstm`
    assert "lstm" not in acts
    with capture(model, "lstm", "*"), pytest.raises(LearnerError, match="of 'lstm'; pick an element, as 'lstm:0'"):
        model(x)


# -- a checkpoint, scripted parts, mappings ----------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant=None):
        super().__init__()
        self.a, self.mid, self.b, self.use_reentrant = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2), use_reentrant

    def forward(self, x):
        def part(x):
            return self.mid(torch.tanh(self.a(x)))

        is_plain = self.use_reentrant is None
        return self.b(part(x) if is_plain else checkpoint(part, x, use_reentrant=self.use_reentrant))


CHECKPOINTED_EDITS = {
    "in the middle": {"a": lambda output: 3 * output},
    "at the end": {"mid": lambda output: 3 * output},
    "of what goes in": {"mid:in": lambda value: value + 1},
    "a constant": {"a": torch.zeros_like},
}


def gradients(model, loss):
    loss.backward()
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("edit", CHECKPOINTED_EDITS.values(), ids=CHECKPOINTED_EDITS)
def test_an_edit_under_a_checkpoint_is_run_again_or_refused(edit, use_reentrant):
    x = torch.randn(4, 3, requires_grad=True)
    plain, model = Checkpointed(), Checkpointed(use_reentrant)
    model.load_state_dict(plain.state_dict())
    with capture(plain, edit=edit):
        wanted = gradients(plain, plain(x).sum())
    with capture(model, edit=edit):  # the backward pass within the block: as without a checkpoint
        found = gradients(model, model(x).sum())
    for one, other in zip(found, wanted, strict=True):
        assert (one is None or not one.any()) if other is None else torch.equal(one, other)
    not_come = r"the backward pass of \['.*'\] has not come; call `backward\(\)` inside"
    with pytest.raises(LearnerError, match=not_come), capture(model, edit=edit):
        model(x)
    with torch.no_grad(), capture(model, edit=edit):
        model(x)
    with capture(model, edit={"b": lambda output: 2 * output}):  # which no checkpoint runs again
        loss = model(x).sum()
    loss.backward()


# torch's own, of what it means to drop
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_layer_is_refused_by_name_and_passed_over_by_a_glob():
    model = nn.Sequential(torch.jit.script(nn.Linear(3, 4)), nn.Linear(4, 2))
    for kwargs in ({"edit": {"0": lambda output: output}}, {}):
        with pytest.raises(TypeError, match="`layers` must be modules that run in Python, got '0', which is scripted"):
            capture(model, *([] if kwargs else ["0"]), **kwargs)
    with capture(model, "*") as acts:
        model(torch.ones(5, 3))
    assert list(acts) == ["1"]
