"""Functions become methods of one instance, and leave again."""

import copy
import pickle

import pytest
import torch
from torch import nn

from learner import LearnerError
from learner.interrogate import bind


class Net(nn.Module):
    scale = 2

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("offset", torch.zeros(2))
        self.bias = nn.Parameter(torch.zeros(2))
        self.note = "mine"

    @property
    def width(self):
        return 4

    def forward(self, x):
        return self.head(self.encoder(x).relu())


def encode(self, x):
    """What goes into the head."""
    return self.encoder(x).relu()


def decode(self, h, *, scale=1):
    return self.head(h) * scale


def forward(self, x):
    return decode(self, encode(self, x)) + 1


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def x():
    return torch.randn(5, 3)


def named(name):
    """Return a plain function of this name."""

    def f(self):
        return "new"

    f.__name__ = name
    return f


def test_functions_are_methods_until_the_block_ends(net, x):
    before = dict(vars(net))
    expected = net(x)
    with bind(net, encode, decode) as bound:
        assert bound.names == ("encode", "decode")
        assert torch.equal(net.decode(net.encode(x), scale=3), expected * 3)
        assert net.encode.__self__ is net
        assert net.encode.__doc__ == "What goes into the head."
    assert vars(net) == before
    assert not hasattr(net, "encode")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_they_leave_after_an_error(net, error):
    before = dict(vars(net))
    with pytest.raises(error, match="mine"), bind(net, encode, forward, replace=True):
        raise error("mine")
    assert vars(net) == before


def test_without_a_block_they_stay_until_they_are_removed(net, x):
    before = dict(vars(net))
    bound = bind(net, encode)
    assert net.encode(x).shape == (5, 4)
    bound.remove()
    bound.remove()
    assert vars(net) == before
    net.encode = "of somebody else"
    bound.remove()
    assert net.encode == "of somebody else"
    with bound:
        pass
    assert net.encode == "of somebody else"


def test_the_class_and_other_instances_know_nothing(net, x):
    other, class_before = Net(), dict(vars(Net))
    expected = other(x)
    with bind(net, encode, forward, replace=True):
        assert not hasattr(other, "encode")
        assert dict(vars(Net)) == class_before
        assert torch.equal(other(x), expected)
        assert not hasattr(Net(), "encode")


def test_a_twin_has_methods_of_its_own(net, x):
    with bind(net, encode):
        twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.encoder.weight.zero_()
        twin.encoder.bias.fill_(3)
    assert twin.encode.__self__ is twin
    assert torch.equal(twin.encode(x), torch.full((5, 4), 3.0))
    assert not hasattr(net, "encode")


def test_the_model_pickles_and_exports_afterwards(net, x):
    expected = net(x)

    def of_a_notebook(self):
        return 1

    with bind(net, of_a_notebook, forward, replace=True):
        during = pickle.dumps(net)
    with pytest.raises(AttributeError, match="of_a_notebook"):
        pickle.loads(during)
    again = pickle.loads(pickle.dumps(net))
    assert vars(again).keys() == vars(net).keys()
    assert torch.equal(again(x), expected)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)


def test_the_state_stays_the_same(net):
    state = copy.deepcopy(net.state_dict())
    with bind(net, encode, named("head"), named("bias"), replace=True):
        during = net.state_dict()
    assert list(during) == list(net.state_dict()) == list(state)
    assert all(torch.equal(during[name], state[name]) for name in state)
    assert all(torch.equal(net.state_dict()[name], state[name]) for name in state)


def test_a_forward_is_replaced_and_put_back(net, x):
    expected = net(x)
    with bind(net, forward, replace=True):
        assert torch.equal(net(x), expected + 1)
    assert torch.equal(net(x), expected)
    own = net.forward = lambda x: x
    with bind(net, forward, replace=True):
        assert torch.equal(net(x), expected + 1)
    assert net.forward is own


@pytest.mark.parametrize("name", ["encoder", "bias", "offset", "note", "scale", "forward", "parameters"])
def test_whatever_has_the_name_is_refused_or_replaced_and_put_back(net, name):
    before, old = dict(vars(net)), getattr(net, name)
    with pytest.raises(ValueError, match=rf"names that the model has not, got '{name}'; rename it, or say `replace=T"):
        bind(net, named(name))
    assert vars(net) == before
    with bind(net, named(name), replace=True):
        assert getattr(net, name)() == "new"
    assert vars(net) == before
    assert getattr(net, name) is old or getattr(net, name) == old


@pytest.mark.parametrize("name", ["width", "__call__", "__len__"])
@pytest.mark.parametrize("replace", [False, True])
def test_a_name_that_an_instance_cannot_have_is_refused(net, name, replace):
    before = dict(vars(net))
    with pytest.raises(
        ValueError, match=rf"that Python looks up in an instance, got '{name}', which it takes from the"
    ):
        bind(net, named(name), replace=replace)
    assert vars(net) == before


def test_bound_ones_are_taken_off_in_turn(net, x):
    before, expected = dict(vars(net)), net(x)

    def twice(self, x):
        return 2 * Net.forward(self, x)

    twice.__name__ = "forward"
    outer = bind(net, forward, encode, replace=True)
    inner = bind(net, twice, replace=True)
    assert torch.equal(net(x), 2 * expected)
    with pytest.raises(LearnerError, match=r"\['forward'\] must be taken off last put on first, got replaced since"):
        outer.remove()
    assert torch.equal(net(x), 2 * expected)
    assert net.encode(x).shape == (5, 4)  # nothing was taken off
    inner.remove()
    assert torch.equal(net(x), expected + 1)
    outer.remove()
    assert vars(net) == before


def test_what_was_deleted_by_hand_is_not_missed(net):
    before = dict(vars(net))
    with bind(net, encode, named("note"), replace=True):
        del net.encode
    assert vars(net) == before


def test_what_was_bound_before_is_not_shadowed(net):
    with bind(net, encode):
        with pytest.raises(ValueError, match="names that the model has not, got 'encode'"):
            bind(net, encode)
        assert net.encode.__func__ is encode


def test_what_was_compiled_before_uses_the_new_method(net, x):
    compiled = torch.compile(net, backend="eager")
    expected = compiled(x)
    with bind(net, forward, replace=True):
        torch.testing.assert_close(compiled(x), expected + 1)
    torch.testing.assert_close(compiled(x), expected)


def method_of_a_class():
    return Net().forward


@pytest.mark.parametrize(
    "function",
    [lambda self: 1, abs, Net, method_of_a_class(), torch.relu, nn.ReLU(), "encode", None, staticmethod(encode)],
    ids=["lambda", "builtin", "class", "bound method", "torch's", "module", "name", "None", "staticmethod"],
)
@pytest.mark.parametrize("replace", [False, True])
def test_what_is_no_plain_function_is_refused(net, function, replace):
    before = dict(vars(net))
    with pytest.raises(TypeError, match=r"`functions` must be plain functions with names, got [^;]*; use `def`"):
        bind(net, encode, function, replace=replace)
    assert vars(net) == before


def test_wrong_arguments_are_refused(net):
    with pytest.raises(ValueError, match=r"`functions` must have names of their own, got 'encode' twice"):
        bind(net, encode, named("encode"))
    with pytest.raises(ValueError, match=r"`functions` must hold a function, got none"):
        bind(net)
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got <class .*Net'>; pass an instance, Net"):
        bind(Net, encode)
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got <function encode"):
        bind(encode, net)
    assert not hasattr(net, "encode")
