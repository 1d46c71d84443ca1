"""Hooks leave, however their block ends."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from learner import Hook, Hooks
from learner.interrogate.hooks import Tap, uncompiled


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def look(hook, module, inputs, output):
    hook.seen = (module, inputs, output)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_calls_with_hook_module_inputs_and_output(model):
    x = torch.ones(5, 3)
    with Hook(model[0], look) as hook:
        model(x)
    module, inputs, output = hook.seen
    assert module is model[0]
    assert len(inputs) == 1
    assert inputs[0] is x
    torch.testing.assert_close(output, x @ model[0].weight.T + model[0].bias)


def test_is_on_without_a_block_until_removed_and_twice_does_nothing(model):
    hook = Hook(model[1], look)
    assert n_hooks(model) == 1
    hook.remove()
    hook.remove()
    assert n_hooks(model) == 0
    model(torch.ones(1, 3))
    assert not hasattr(hook, "seen")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("make", [lambda model: Hook(model[0], look), lambda model: Hooks(model, look)])
def test_an_error_in_the_block_takes_hooks_off_and_passes(model, make, error):
    def use():
        with make(model):
            assert n_hooks(model) > 0
            raise error("mine")

    with pytest.raises(error, match="mine"):
        use()
    assert n_hooks(model) == 0


def test_an_error_in_the_function_passes_and_takes_hooks_off(model):
    def fail(hook, module, inputs, output):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), Hooks(model, fail):
        model(torch.ones(1, 3))
    assert n_hooks(model) == 0


def test_what_the_function_returns_is_dropped(model):
    x = torch.ones(2, 3)
    expected = model(x)
    with Hooks(model, lambda hook, module, inputs, output: output + 1):
        assert torch.equal(model(x), expected)


def test_dropping_the_object_takes_it_off(model):
    hook = Hook(model[0], look)
    gone = weakref.ref(hook)
    del hook
    gc.collect()
    assert gone() is None
    assert n_hooks(model) == 0


def test_dropping_hooks_takes_all_off(model):
    hooks = Hooks(model, look)
    assert n_hooks(model) == 3
    del hooks
    gc.collect()
    assert n_hooks(model) == 0


def test_leaves_other_hooks_alone(model):
    handle = model[0].register_forward_hook(lambda *_: None)
    with Hooks(model, look):
        assert n_hooks(model) == 4
    assert n_hooks(model) == 1
    handle.remove()


def test_the_model_pickles_and_copies_afterwards(model):
    x = torch.ones(2, 3)
    with Hooks(model, lambda hook, module, inputs, output: None):
        model(x)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert n_hooks(twin) == 0
        assert torch.equal(twin(x), model(x))


def test_a_module_that_is_none_takes_off_those_before_it(model):
    with pytest.raises(TypeError, match=r"`module` must be an nn\.Module, got None"):
        Hooks([model[0], None, model[2]], look)
    assert n_hooks(model) == 0


def test_an_iterable_that_fails_takes_off_those_before_it(model):
    def modules():
        yield model[0]
        raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        Hooks(modules(), look)
    assert n_hooks(model) == 0


def test_hooks_of_a_model_are_on_its_direct_children():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 2))
    with Hooks(model, look) as hooks:
        model(torch.ones(1, 3))
    assert len(hooks) == 2
    assert [hook.seen[0] for hook in hooks] == [model[0], model[1]]
    assert hooks[1].seen[0] is model[1]


def test_refuses_what_is_no_function(model):
    with pytest.raises(TypeError, match=r"`f` must be a function of .*, got 3"):
        Hook(model, 3)
    assert n_hooks(model) == 0


# -- both ends of a module ---------------------------------------------------------------------------------------------


def test_a_tap_may_change_what_goes_in_and_what_comes_out(model):
    x = torch.ones(5, 3)
    tap = Tap(model[1], lambda args, kwargs: ((args[0] + 1,), kwargs), lambda output: output * 2)
    assert torch.equal(model(x), model[2](2 * (model[0](x) + 1).relu()))
    tap.remove()
    tap.remove()
    assert torch.equal(model(x), model[2](model[0](x).relu()))


def test_a_tap_may_look_at_one_end_alone(model):
    seen = []
    taps = [Tap(model[0], lambda args, kwargs: seen.append("in"), None), Tap(model[0], None, seen.append)]
    x = torch.ones(5, 3)
    model(x)
    assert seen[0] == "in"
    assert torch.equal(seen[1], model[0](x))
    for tap in taps:
        tap.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Net(nn.Module):
    """Of a class of its own: torch does not compile its own layers and containers by themselves."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) * 2


@pytest.mark.parametrize("is_part", [False, True])
def test_uncompiled_lets_hooks_hear_what_was_compiled_before(is_part):
    net = Net()
    model = nn.Sequential(net) if is_part else net
    net.compile(backend="eager")
    x = torch.ones(5, 3)
    model(x)
    seen = []
    with Hook(net.layer, lambda *args: seen.append(args)):
        model(x)
        assert seen == []  # this is why
        with uncompiled():
            model(x)
    assert len(seen) == 1


def test_uncompiled_ends_with_its_block(model):
    n_graphs = []

    def backend(graph, inputs):
        n_graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), uncompiled():
        compiled(torch.ones(5, 2))
    assert n_graphs == []
    compiled(torch.ones(5, 3))
    assert len(n_graphs) == 1


def test_uncompiled_draws_in_no_compiler():
    script = (
        "import sys; from learner.interrogate.hooks import uncompiled\n"
        "with uncompiled(): print('torch._dynamo' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


# -- copies, threads, scripted modules ---------------------------------------------------------------------------------


def n_entries(model):
    return sum(len(vars(m)[table]) for m in model.modules() for table in vars(m) if table.startswith("_forward"))


def test_a_deep_copy_has_none_of_the_hooks_but_those_of_others(model):
    model[1].register_forward_hook(print_nothing)
    seen = []
    taps = [Tap(model[0], lambda args, kwargs: seen.append("in"), seen.append), Tap(model, None, seen.append)]
    with Hooks(model, lambda *args: seen.append("hook")):
        twin = copy.deepcopy(model)
        twins = copy.deepcopy({"a": [model[0]], "b": model})  # as parts of something else, twice
        assert n_entries(model) > n_entries(twin) == 1
        for copied in (twin, twins["b"], pickle.loads(pickle.dumps(twin))):
            copied(torch.ones(1, 3))
            assert n_entries(copied) == 1
        assert n_entries(twins["a"][0]) == 0
        assert twins["a"][0] is twins["b"][0]
        assert seen == []
        model(torch.ones(1, 3))  # which is watched as before
        assert [event for event in seen if isinstance(event, str)] == ["in", *["hook"] * 3]
    for tap in taps:
        tap.remove()
    assert n_entries(model) == 1


def print_nothing(module, inputs, output):
    """Be a hook of somebody else, which can be pickled."""


def test_a_watched_module_says_how_it_can_be_pickled(model):
    cure = r"without the hooks.*save its `state_dict\(\)`, or a `copy.deepcopy` of it"
    with Hook(model[0], look), pytest.raises(TypeError, match=cure):
        pickle.dumps(model)
    pickle.dumps(model)


# torch's own, of what it means to drop
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [lambda m: Hook(m, look), lambda m: Hooks([m], look), lambda m: Tap(m, None, print)])
def test_what_is_scripted_or_traced_is_refused(make):
    for module in (torch.jit.script(nn.Linear(3, 2)), torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3))):
        with pytest.raises(TypeError, match="must be a module that runs in Python, got a scripted or traced Linear"):
            make(module)


def is_as_usual():
    stance = torch._dynamo.eval_frame._stance.stance if "torch._dynamo" in sys.modules else "default"
    return torch.backends.mha.get_fastpath_enabled() and stance == "default"


def test_uncompiled_is_put_back_by_the_last_one_in_whatever_order_they_leave():
    import torch._dynamo.eval_frame

    blocks = [uncompiled() for _ in range(3)]
    for block in blocks:
        block.__enter__()
    for block in blocks:
        assert not is_as_usual()
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
        block.__exit__(None, None, None)
    assert is_as_usual()


def test_uncompiled_is_put_back_by_the_last_of_many_threads():
    start, n_wrong = threading.Barrier(4), []

    def use():
        start.wait()
        for _ in range(300):
            with uncompiled():
                n_wrong.extend([1] * torch.backends.mha.get_fastpath_enabled())

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert n_wrong == []
    assert is_as_usual()
