"""What a model's `forward` takes."""

import functools

import pytest
import torch
from torch import nn

from learner.data.signature import ForwardSignature, nearest, unwrapped


def net(forward):
    return type("Net", (nn.Module,), {"forward": forward})()


@pytest.mark.parametrize(
    ("forward", "names", "required", "first", "takes_any_name"),
    [
        (lambda self: 0, [], [], None, False),
        (lambda self, x: 0, ["x"], ["x"], "x", False),
        (lambda self, a, b=None: 0, ["a", "b"], ["a"], "a", False),
        (lambda self, *, a, b=None: 0, ["a", "b"], ["a"], None, False),
        (lambda self, a, *, b: 0, ["a", "b"], ["a", "b"], "a", False),
        (lambda self, *parts: 0, [], [], None, False),
        (lambda self, **fields: 0, [], [], None, True),
        (lambda self, a, *parts, b=1, **fields: 0, ["a", "b"], ["a"], "a", True),
        (lambda self, a, /, b: 0, ["a", "b"], ["a", "b"], "a", False),
    ],
)
def test_parameters(forward, names, required, first, takes_any_name):
    takes = ForwardSignature(net(forward))
    assert (takes.names, takes.required, next(iter(takes.by_position), None), takes.takes_any_name) == (
        names,
        required,
        first,
        takes_any_name,
    )


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def test_decorated_and_replaced_forwards_are_read():
    assert ForwardSignature(net(logged(lambda self, a, b: 0))).names == ["a", "b"]
    model = nn.Linear(2, 2)
    model.forward = lambda image: image
    assert ForwardSignature(model).names == ["image"]
    model.forward = functools.partial(model.forward, image=1)
    assert ForwardSignature(model).required == []


@pytest.mark.parametrize(
    ("forward", "args", "kwargs", "misfit"),
    [
        (lambda self, a, b: 0, (1, 2), {}, None),
        (lambda self, a, b: 0, (1,), {"b": 2}, None),
        (lambda self, a, b=0: 0, (1,), {}, None),
        (lambda self, *a: 0, (1, 2, 3), {}, None),
        (lambda self, **a: 0, (), {"anything": 1}, None),
        (lambda self, a, b: 0, (1,), {}, "missing a required argument: 'b'"),
        (lambda self, a: 0, (1, 2), {}, "too many positional arguments"),
        (lambda self, a: 0, (), {"a": 1, "c": 2}, "got an unexpected keyword argument 'c'"),
        (lambda self, a, /: 0, (), {"a": 1}, "'a'"),
    ],
)
def test_fits_as_python_itself_would_say(forward, args, kwargs, misfit):
    model = net(forward)
    takes = ForwardSignature(model)
    found = takes.misfit(args, kwargs)
    assert takes.fits(args, kwargs) is (misfit is None)
    if misfit is None:
        assert found is None
        model(*args, **kwargs)
    else:
        assert misfit in found
        with pytest.raises(TypeError, match="argument"):
            model(*args, **kwargs)


@pytest.mark.parametrize(
    ("forward", "names", "asks", "by_name"),
    [
        (lambda self, a, b: 0, "a b", True, True),
        (lambda self, a, b: 0, "b a", True, True),
        (lambda self, a, b: 0, "a b c", True, False),
        (lambda self, a, b: 0, "a", False, False),
        (lambda self, a, b=0: 0, "a", True, True),
        (lambda self, a=0: 0, "b", False, False),
        (lambda self, a, **more: 0, "a c", True, True),
        (lambda self, a, **more: 0, "c", False, False),
        (lambda self, a, /, b: 0, "a b", True, False),
    ],
)
def test_names_that_it_asks_for_and_that_could_go_in(forward, names, asks, by_name):
    takes = ForwardSignature(net(forward))
    assert takes.asks_for(names.split()) is asks
    if "/" not in str(takes):
        assert takes.takes_by_name(names.split()) is by_name
        assert by_name is takes.fits((), dict.fromkeys(names.split()))


def test_what_takes_a_whole_mapping():
    def annotated(self, inputs: "dict[str, torch.Tensor]", scale: float = 1.0):
        pass

    def typed(self, inputs: dict[str, torch.Tensor]):
        pass

    def of_two(self, inputs: dict, other):
        pass

    def tensor(self, inputs: torch.Tensor):
        pass

    forwards = [lambda self, batch: 0, lambda self, batch, scale=1: 0, annotated, typed]
    assert all(ForwardSignature(net(forward)).takes_whole_mapping for forward in forwards)
    forwards = [lambda self, x: 0, lambda self, batch, other: 0, lambda self, *, batch: 0, of_two, tensor]
    assert not any(ForwardSignature(net(forward)).takes_whole_mapping for forward in forwards)


def test_str_is_what_a_person_wrote():
    def forward(self, x: "torch.Tensor", scale: float = 1.0, *, mask=None):
        pass

    assert str(ForwardSignature(net(forward))) == "(x: torch.Tensor, scale: float = 1.0, *, mask=None)"


@pytest.mark.parametrize(
    ("name", "among", "hint"),
    [
        ("labels", ["x", "label"], ", did you mean 'label'?"),
        ("attention_mask", ["atention_mask", "input_ids"], ", did you mean 'atention_mask'?"),
        ("x", ["image", "y"], ""),
        ("x", [], ""),
    ],
)
def test_nearest(name, among, hint):
    assert nearest(name, among) == hint


# -- wrappers -----------------------------------------------------------------------------------------------------


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class Positional(Wrapper):
    def forward(self, *args):
        return self.module(*args)


class Head(Wrapper):
    """Has a child of that name, and a forward of its own."""

    def forward(self, image, scale=1.0):
        return self.module(image) * scale


MODEL = net(lambda self, a, b: a + b)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        nn.DataParallel,
        Wrapper,
        Positional,
        torch.optim.swa_utils.AveragedModel,
        lambda model: torch.compile(model, backend="eager"),
        lambda model: torch.compile(Wrapper(nn.DataParallel(model)), backend="eager"),
        lambda model: Wrapper(torch.compile(model, backend="eager")),
    ],
)
def test_wrappers_are_seen_through(wrap):
    model = wrap(MODEL)
    assert type(unwrapped(model)) is type(MODEL)
    assert str(ForwardSignature(model)) == "(a, b)"


@pytest.mark.parametrize("wrap", [Head, lambda model: Wrapper(Head(model)), lambda model: nn.DataParallel(Head(model))])
def test_a_child_called_module_is_no_wrapped_model(wrap):
    assert str(ForwardSignature(wrap(MODEL))) == "(image, scale=1.0)"


def test_a_wrapper_of_what_is_no_module_is_the_model():
    model = net(lambda self, *args, **kwargs: 0)
    model.module = "a string"
    assert unwrapped(model) is model


def made_by_torch(tmp_path):
    class Net(nn.Module):
        def forward(self, image, mask):
            return image * mask

    example = (torch.ones(2, 3), torch.ones(2, 3))
    traced = torch.jit.trace(Net(), example)
    traced.save(tmp_path / "traced.pt")
    return {
        "traced": traced,
        "loaded": torch.jit.load(tmp_path / "traced.pt"),
        "exported": torch.export.export(Net(), example).module(),
    }


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["traced", "loaded", "exported"])
def test_models_that_torch_made_have_the_parameters_of_what_they_were_made_of(tmp_path, kind):
    model = made_by_torch(tmp_path)[kind]
    takes = ForwardSignature(model)
    assert takes.names == takes.required == ["image", "mask"]
    assert not takes.fits((1,))
    assert unwrapped(nn.DataParallel(model)) is model
