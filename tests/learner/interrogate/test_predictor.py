"""A model by itself: called with a batch, it gives the output and the layers that were asked for."""

import copy
import pickle
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from learner import Learner, LearnerError, Predictor, PredictorOutput

X, X2, Y = torch.zeros(5, 2), torch.ones(5, 2), torch.arange(5)
Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_inp": True}, ValueError, "`n_inp` must be a whole number"),
        ({"target_key": 1}, TypeError, "`target_key` must be the name of a field, got 1; use `target_fn`"),
        ({"target_fn": "y"}, TypeError, "`target_fn` must be a function of a batch, got 'y'"),
        ({"preprocess_fn": 3}, TypeError, "`preprocess_fn` must be a function of a batch, got 3"),
        ({"unpack_dicts": "yes"}, TypeError, "`unpack_dicts` must be True or False, got 'yes'"),
        ({"unpack_lists": 1}, TypeError, "`unpack_lists` must be True or False, got 1"),
        ({"disable_preprocess": "no"}, TypeError, "`disable_preprocess` must be True or False, got 'no'"),
        ({"preprocess_fn": len, "disable_preprocess": True}, ValueError, "`preprocess_fn` must be left out with"),
        ({"target_key": "y", "target_fn": len}, ValueError, "`target_key` and `target_fn` must not both be given"),
        ({"unpack_dicts": True, "unpack_lists": True}, ValueError, "`unpack_dicts` and `unpack_lists` must not both"),
        ({"layers": 3}, TypeError, r"`layers` must be a sequence of layers, got 3; pass \(3,\)"),
        ({"layers": "0"}, TypeError, r"`layers` must be a sequence .*got '0'; pass \('0',\)"),
        ({"layers": None}, TypeError, "`layers` must be a sequence of layers, got None"),
        (
            {"layers": (9,)},
            ValueError,
            r"`layers` must be names, globs, positions or modules of the model, got 9; there is 0 \(the model\)",
        ),
        ({"layers": (0, -1)}, ValueError, "`layers` must be names, globs, positions or modules of the model, got -1"),
        ({"layers": (True,)}, ValueError, "`layers` must be names, globs, positions or modules of the model, got True"),
        (
            {"layers": ("head",)},
            ValueError,
            "`layers` must be names, globs, positions or modules of the model, got 'head'; there is",
        ),
    ],
)
def test_what_it_cannot_be_told(options, error, message):
    with pytest.raises(error, match=message):
        Predictor(nn.Linear(1, 1), **options)


def test_settings_are_by_keyword_alone():
    with pytest.raises(TypeError, match="positional"):
        Predictor(nn.Linear(1, 1), True)


# -- by itself: what is documented of it elsewhere, to the letter -------------------------------------------------


class KeywordArgs(nn.Module):
    def forward(self, arg_1=None, arg_2=None):
        return arg_1 + arg_2


class PositionalArgs(nn.Module):
    def forward(self, arg_1, arg_2):
        return arg_1 + arg_2


class SingleArgument(nn.Module):
    def forward(self, arg):
        arg_1, arg_2 = arg
        return arg_1 + arg_2


class Table:
    """Two columns of whole numbers, a row a dict or what `map` makes of it."""

    def __init__(self, map=dict):
        self.map = map

    def __len__(self):
        return 10

    def __getitem__(self, i):
        if i >= 10:
            raise IndexError
        return self.map({"arg_1": i, "arg_2": 10 + i})


def first_batch(map=dict):
    return next(iter(DataLoader(Table(map), batch_size=2)))


def as_tuple(batch):
    return batch["arg_1"], batch["arg_2"]


def as_dict(batch):
    return {"arg_1": batch[0], "arg_2": batch[1]}


PRINTED = "PredictorOutput(forward=tensor([10, 12]), hidden_layers={}, metadata=None)"
DICT, LIST = first_batch(), first_batch(as_tuple)
DOCUMENTED = {
    "dict, keywords": (KeywordArgs, DICT, {"unpack_dicts": True}),
    "dict, positional": (PositionalArgs, DICT, {"unpack_lists": True, "preprocess_fn": as_tuple}),
    "dict, one argument": (SingleArgument, DICT, {"preprocess_fn": as_tuple}),
    "list, keywords": (KeywordArgs, LIST, {"unpack_dicts": True, "preprocess_fn": as_dict}),
    "list, positional": (PositionalArgs, LIST, {"unpack_lists": True, "disable_preprocess": True}),
    "list, one argument": (SingleArgument, LIST, {"disable_preprocess": True}),
}


@pytest.mark.parametrize(("model", "batch", "options"), DOCUMENTED.values(), ids=DOCUMENTED.keys())
def test_the_documented_examples_print_what_they_say(model, batch, options):
    output = Predictor(model(), **options)(batch)
    assert repr(output) == PRINTED
    assert type(output) is PredictorOutput
    assert output._fields == ("forward", "hidden_layers", "metadata")


def test_the_batches_of_the_examples_are_those_of_the_default_collate_function():
    assert repr(DICT) == "{'arg_1': tensor([0, 1]), 'arg_2': tensor([10, 11])}"
    assert repr(LIST) == "[tensor([0, 1]), tensor([10, 11])]"


@pytest.mark.parametrize("model", [KeywordArgs, PositionalArgs])
@pytest.mark.parametrize("batch", [DICT, dict(reversed(DICT.items())), OrderedDict(DICT)])
def test_in_a_learner_mappings_need_no_setting_at_all(model, batch):
    dls = {"train": [batch], "infer": [batch, batch]}
    preds, targets = Learner(model(), dls).get_preds("infer")
    assert preds.tolist() == [10, 12, 10, 12]
    assert targets is None


def test_in_a_learner_they_train_with_no_setting_at_all():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.0))

        def forward(self, arg_1, arg_2):
            return self.scale * (arg_1 + arg_2)

    table = Table(lambda row: {**row, "goal": 2.0 * (row["arg_1"] + row["arg_2"])})
    learn = Learner(Scaled(), {"train": DataLoader(table, batch_size=2)}, mse_loss, lr=1e-3)
    learn.fit(5)
    assert learn.model.scale.item() == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("options", [options for _, _, options in DOCUMENTED.values()], ids=DOCUMENTED.keys())
def test_settings_mean_the_same_in_a_learner(options):
    model, batch = next((model, batch) for model, batch, given in DOCUMENTED.values() if given is options)
    model = model()
    learn = Learner(model, {"infer": [batch]}, predictor=Predictor(model, **options))
    assert learn.get_preds("infer")[0].tolist() == [10, 12]


# -- by itself: the defaults --------------------------------------------------------------------------------------


class Echo(nn.Module):
    """Return what it was called with."""

    def forward(self, *args, **kwargs):
        return args, kwargs


@pytest.mark.parametrize(
    ("batch", "options", "args", "kwargs"),
    [
        ([X, Y], {}, (X,), {}),
        ((X, Y), {}, (X,), {}),
        ((X, X2, Y), {}, (X,), {}),
        ((X,), {}, (X,), {}),
        (Pair(X, Y), {}, (X,), {}),
        (((X, X2), Y), {}, ((X, X2),), {}),
        (X, {}, (X,), {}),
        ((X, X2, Y), {"n_inp": 1}, (X,), {}),
        ((X, X2, Y), {"n_inp": 2}, (X, X2), {}),
        ([X, X2], {"n_inp": 2}, (X, X2), {}),
        ((X, Y), {"disable_preprocess": True}, ((X, Y),), {}),
        ((X, Y), {"unpack_lists": True, "disable_preprocess": True}, (X, Y), {}),
        ((X, Y), {"preprocess_fn": lambda batch: batch[1]}, (Y,), {}),
        ((X, Y), {"preprocess_fn": lambda batch: batch[::-1], "unpack_lists": True}, (Y, X), {}),
        ((X, Y), {"preprocess_fn": lambda batch: {"a": batch[1]}, "unpack_dicts": True}, (), {"a": Y}),
        ({"a": X, "b": Y}, {"unpack_dicts": True}, (), {"a": X, "b": Y}),
        (OrderedDict(a=X), {"unpack_dicts": True}, (), {"a": X}),
        ((X, Y), {"unpack_lists": False}, (X,), {}),
    ],
)
def test_by_itself_it_goes_preprocess_unpack_call(batch, options, args, kwargs):
    forward = Predictor(Echo(), **options)(batch).forward
    assert forward[0] == args  # the same tensors: tuples compare by identity first
    assert forward[1].keys() == kwargs.keys()
    assert all(forward[1][name] is kwargs[name] for name in kwargs)


@pytest.mark.parametrize(
    "batch", [{"a": X}, OrderedDict(a=X), object(), "text", torch.tensor(3)], ids=lambda batch: type(batch).__name__
)
@pytest.mark.parametrize("options", [{}, {"unpack_dicts": False}, {"disable_preprocess": True}])
def test_by_itself_it_passes_anything_but_a_list_as_it_is(batch, options):
    assert Predictor(Echo(), **options)(batch).forward[0][0] is batch


def test_the_output_is_untouched():
    output = {"logits": X, "loss": None}

    class Gives(nn.Module):
        def forward(self, x):
            return output

    assert Predictor(Gives())(X).forward is output


def test_several_outputs_are_not_mistaken_for_one_another():
    predictor = Predictor(KeywordArgs(), unpack_dicts=True)
    one, two = predictor(DICT), predictor({name: 2 * value for name, value in DICT.items()})
    assert (one.forward.tolist(), two.forward.tolist()) == ([10, 12], [20, 24])
    assert one.hidden_layers is not two.hidden_layers


@pytest.mark.parametrize(
    ("model", "batch", "options", "message"),
    [
        (PositionalArgs, LIST, {}, r"Tensor\(2,\) int64.*forward takes \(arg_1, arg_2\)"),
        (KeywordArgs, {"arg_3": X}, {"unpack_dicts": True}, r"'arg_3'.*forward takes \(arg_1=None, arg_2=None\)"),
        (PositionalArgs, {"arg_1": X}, {"unpack_dicts": True}, r"'arg_2'.*'arg_1': Tensor\(5, 2\).*forward takes"),
        (PositionalArgs, [X, X, X], {"unpack_lists": True}, r"too many.*forward takes \(arg_1, arg_2\)"),
        (
            KeywordArgs,
            LIST,
            {"unpack_dicts": True},
            r"`unpack_dicts=True` must have a mapping.*\[Tensor\(2,\) int64, T",
        ),
        (KeywordArgs, X, {"unpack_dicts": True}, r"`unpack_dicts=True` must have a mapping to unpack, got Tensor"),
        (PositionalArgs, DICT, {"unpack_lists": True}, r"`unpack_lists=True` must have a tuple or list.*'arg_1'"),
        (
            PositionalArgs,
            X,
            {"unpack_lists": True},
            r"`unpack_lists=True` must have a tuple or list.*got Tensor\(5, 2\)",
        ),
        (SingleArgument, DICT, {"preprocess_fn": lambda batch: None}, r"`preprocess_fn` must return .*None"),
        (SingleArgument, (), {}, r"a batch must hold at least 1 element.*got \(\)"),
        (SingleArgument, [], {}, r"a batch must hold at least 1 element.*got \[\]"),
        (PositionalArgs, LIST, {"n_inp": 3}, r"at least 3 elements.*got \[Tensor.*`n_inp`"),
    ],
)
def test_by_itself_a_batch_that_does_not_fit_gets_one_message(model, batch, options, message):
    with pytest.raises(LearnerError, match=message) as caught:
        Predictor(model(), **options)(batch)
    assert caught.value.__cause__ is None


def test_device():
    model = nn.Linear(2, 3)
    predictor = Predictor(model, device="meta", unpack_dicts=True)
    assert model.weight.device.type == "meta"
    assert predictor({"input": X}).forward.device.type == "meta"
    assert Predictor(nn.Linear(2, 3), device=torch.device("meta"))((X, Y)).forward.shape == (5, 3)


# -- hidden layers ------------------------------------------------------------------------------------------------


class Fails(nn.Module):
    """Fail on what is negative."""

    def forward(self, x):
        if (x < 0).all():
            raise FloatingPointError("negative")
        return x


def network():
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(inplace=True), Fails(), nn.Linear(4, 3))


@pytest.fixture
def registrations(monkeypatch):
    """Count the forward hooks that are put on."""
    made, original = [], nn.Module.register_forward_hook

    def register(module, *args, **kwargs):
        made.append(module)
        return original(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "register_forward_hook", register)
    return made


def n_hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_layers_by_position_and_by_name():
    """0 is the model itself; 1 the first Linear, and what is kept is from before the ReLU that writes in place."""
    torch.manual_seed(0)
    model, x = network(), torch.randn(5, 2)
    output = Predictor(model, layers=(0, 2, "0", "3"))(x)
    first = model[0](x)
    assert list(output.hidden_layers) == [0, 2, "0", "3"]
    torch.testing.assert_close(output.hidden_layers["0"], first)
    torch.testing.assert_close(output.hidden_layers[2], first.relu())
    assert torch.equal(output.hidden_layers[0], output.forward)
    assert torch.equal(output.hidden_layers["3"], model(x))
    assert (output.hidden_layers["0"] < 0).any()
    assert n_hooks(model) == 0


def test_layers_by_dotted_name():
    model = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(2, 4)), head=nn.Linear(4, 3)))
    output = Predictor(model, layers=("body.0", ""))((X, Y))
    assert torch.equal(output.hidden_layers["body.0"], model.body[0](X))
    assert torch.equal(output.hidden_layers[""], output.forward)


def test_without_with_hooks_they_come_and_go_with_each_call(registrations):
    model = network()
    predictor = Predictor(model, layers=(0, 2))
    predictor(X2)
    once = len(registrations)
    for n in (2, 3):
        predictor(X2)
        assert len(registrations) == n * once > 0
        assert n_hooks(model) == 0


def test_with_hooks_puts_them_on_once(registrations):
    model = network()
    predictor = Predictor(model, layers=(0, 2))
    with predictor.with_hooks() as again:
        assert again is predictor
        outputs = [predictor(X2)]
        once = len(registrations)
        outputs += [predictor(X2 * i) for i in (2, 3)]
        assert n_hooks(model) == len(registrations) == once
    assert n_hooks(model) == 0
    for i, output in zip((1, 2, 3), outputs, strict=True):
        assert torch.equal(output.hidden_layers[0], model(X2 * i))
        assert torch.equal(output.forward, output.hidden_layers[0])


def test_hooks_may_be_put_on_again_and_within():
    model = network()
    predictor = Predictor(model, layers=(0,))
    for _ in range(2):
        with predictor.with_hooks():
            with predictor.with_hooks():
                assert list(predictor(X2).hidden_layers) == [0]
            assert n_hooks(model) > 0
            assert list(predictor(X2).hidden_layers) == [0]
        assert n_hooks(model) == 0


def test_a_layer_under_two_names_has_one_hook(registrations):
    model = network()
    output = Predictor(model, layers=(1, "0"))(X2)
    assert output.hidden_layers[1] is output.hidden_layers["0"]
    assert registrations.count(model[0]) == 1


def test_without_layers_there_are_no_hooks(registrations):
    predictor = Predictor(network())
    with predictor.with_hooks():
        assert predictor(X2).hidden_layers == predictor(X2).hidden_layers == {}
    assert registrations == []


@pytest.mark.parametrize("is_inside", [True, False])
def test_no_hook_is_left_after_an_error(is_inside):
    model = nn.Sequential(Fails(), nn.Linear(2, 3))
    predictor = Predictor(model, layers=(0, 1, 2))
    if is_inside:
        with pytest.raises(FloatingPointError, match="negative"), predictor.with_hooks():
            predictor(-X2)
    else:
        with pytest.raises(FloatingPointError, match="negative"):
            predictor(-X2)
    assert n_hooks(model) == 0
    assert predictor(X2).hidden_layers[0].shape == (5, 3)


def test_the_model_and_the_predictor_pickle_and_copy_afterwards():
    model = network()
    predictor = Predictor(model, layers=(0, 2))
    with predictor.with_hooks():
        output = predictor(X2)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(again(X2), output.forward)
        assert n_hooks(again) == 0
    again = copy.deepcopy(predictor)
    assert torch.equal(again(X2).hidden_layers[0], output.forward)
    assert again.model is not model
    assert n_hooks(model) == 0


def test_what_was_found_in_one_call_is_not_given_in_the_next():
    """A layer that a later batch does not reach has no output of an earlier one."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, x):
            return self.left(x) if x.sum() > 0 else self.right(x)

    predictor = Predictor(Branches(), layers=("left", ""))
    with predictor.with_hooks():
        predictor(X2)
        with pytest.raises(
            LearnerError, match=r"must be modules that run, but 'left' did not; of those asked for \[''\] did"
        ):
            predictor(-X2)


def test_layers_that_give_tuples_are_kept_as_they_are():
    lstm = nn.LSTM(2, 4, batch_first=True)
    output = Predictor(lstm, layers=(0,))(torch.randn(3, 5, 2))
    outputs, (h, c) = output.hidden_layers[0]
    assert torch.equal(outputs, output.forward[0])
    assert torch.equal(h, output.forward[1][0])
    assert c.shape == (1, 3, 4)


def test_tuples_are_kept_as_they_were_before_the_next_layer_writes_into_them():
    class Both(nn.Module):
        def forward(self, x):
            return x + 1, x - 1

    class WritesInto(nn.Module):
        def forward(self, pair):
            return pair[0].zero_()

    output = Predictor(nn.Sequential(Both(), WritesInto()), layers=("0",))(X2)
    assert torch.equal(output.hidden_layers["0"][0], X2 + 1)


def test_a_layer_that_is_called_twice_gives_its_last_output():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(self.layer(x))

    output = Predictor(Twice(), layers=("layer",))(X2)
    assert torch.equal(output.hidden_layers["layer"], output.forward)


def test_a_compiled_model_gives_its_layers():
    """By itself a hook that is put on after a compiled call never fires, and nothing says so."""
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
    compiled = torch.compile(model, backend="eager")
    compiled(X2)
    layers = Predictor(compiled, layers=(0, 2, "0"))(X2).hidden_layers
    assert torch.equal(layers[0], layers[2])  # positions are those of the model itself
    assert torch.equal(layers["0"], model[0](X2))
    assert n_hooks(compiled) == 0


# -- more layers -----------------------------------------------------------------------------------------------------


def test_more_layers_make_another_predictor_of_the_same_model():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    predictor = Predictor(model, unpack_lists=True, layers=("0",))
    more = predictor.with_layers([3, "?"])
    assert more.model is model
    given = more([X2])  # told how by the first one
    assert list(given.hidden_layers) == ["0", 3, "1", "2"]
    assert torch.equal(given.hidden_layers[3], given.forward)
    assert torch.equal(given.hidden_layers["0"], model[0](X2))
    assert list(predictor([X2]).hidden_layers) == ["0"]
    assert list(predictor.with_layers(()).with_layers([1])([X2]).hidden_layers) == ["0", 1]


@pytest.mark.parametrize(("layers", "error"), [(["fc"], ValueError), ("0", TypeError)])
def test_more_layers_must_be_there(layers, error):
    with pytest.raises(error, match="`layers` must be"):
        Predictor(nn.Linear(2, 1)).with_layers(layers)


def test_more_layers_while_hooks_are_on():
    model = network()
    predictor = Predictor(model, layers=("0",))
    with predictor.with_hooks():
        more = predictor.with_layers(["3"])(X2).hidden_layers
        assert list(predictor(X2).hidden_layers) == ["0"]
    assert list(more) == ["0", "3"]
    assert torch.equal(more["3"], model(X2))
    assert n_hooks(model) == 0


def test_a_glob_leaves_out_what_never_runs_and_takes_the_one_tensor():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    hidden = Predictor(model, layers=["0.**"])(torch.randn(4, 5, 8)).hidden_layers
    assert "0.self_attn.out_proj" not in hidden  # used by its weights alone
    assert hidden["0.self_attn"].shape == (4, 5, 8)  # of (tensor, None)
    with pytest.raises(LearnerError, match=r"`layers` must be modules that run, but '0.self_attn\.out_proj' did not"):
        Predictor(model, layers=["0.self_attn.out_proj"])(torch.randn(4, 5, 8))
