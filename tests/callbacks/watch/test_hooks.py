"""HooksCallback: where it listens, when, and that it leaves."""

import contextlib
import copy
import pickle

import pytest
import torch
from torch import nn

from callbacks import CheckpointCallback, HooksCallback
from learner import CancelBatchException, CancelEpochException, CancelFitException, LearnerError, Loaders
from tests.resuming import resumed_from_each, resumed_from_each_validation, tiny_learner


def n_hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def count(hook, module, inputs, output):
    hook.n = getattr(hook, "n", 0) + 1


def counts(watch):
    return [getattr(hook, "n", 0) for hook in watch.hooks]


class Calls:
    """A hook function that keeps which batch it was called in, of a learner set afterwards."""

    def __init__(self):
        self.seen = []

    def __call__(self, hook, module, inputs, output):
        self.seen.append((self.learn.dl_name, self.learn.epoch, self.learn.i))


@pytest.fixture
def watched(make_learner):
    """Return the batches in which the first layer was looked at, in a fit of two epochs: 3 + 2 batches each."""

    def run(**kwargs):
        calls = Calls()
        calls.learn = make_learner(HooksCallback(calls, "0", **kwargs))
        calls.learn.fit(2)
        return calls.seen

    return run


def test_by_default_all_leaves_in_training_batches_only(make_learner):
    watch = HooksCallback(count)
    learn = make_learner(watch)
    learn.fit(2)
    assert watch.layers == {"0": "Linear", "1": "ReLU", "2": "Linear"}
    assert counts(watch) == [6, 6, 6]


def test_passes(watched):
    train = [("train", epoch, i) for epoch in range(2) for i in range(3)]
    valid = [("valid", epoch, i) for epoch in range(2) for i in range(2)]
    assert watched() == train
    assert watched(on_train=False, on_valid=True) == valid
    assert watched(on_valid=True) == train[:3] + valid[:2] + train[3:] + valid[2:]


def test_every_counts_the_batches_of_the_passes_looked_at(watched):
    assert watched(every=2) == [("train", 0, 1), ("train", 1, 0), ("train", 1, 2)]
    assert watched(every="4 batches", on_valid=True) == [("valid", 0, 0), ("train", 1, 2)]
    assert watched(every=2, on_train=False, on_valid=True) == [("valid", 0, 1), ("valid", 1, 1)]
    assert watched(every="2 epochs") == [("train", 1, i) for i in range(3)]


def test_passes_of_other_loaders_by_their_role(make_learner, dls):
    calls = Calls()
    both = Loaders({"train": dls["train"], "train2": dls["train"], "valid2": dls["valid"], "infer": dls["valid"]})
    calls.learn = make_learner(HooksCallback(calls, "0", on_valid=True, every=4), dls=both)
    calls.learn.fit(1)
    assert calls.seen == [("train2", 0, 0), ("valid2", 0, 1)]


def test_a_training_loader_that_somebody_validates_is_left_alone(make_learner):
    class Busy:
        def after_epoch(self, learn):
            if learn.training:
                learn.validate("train")

    calls = Calls()
    calls.learn = make_learner([HooksCallback(calls, "0"), Busy()])
    calls.learn.fit(1)
    assert calls.seen == [("train", 0, i) for i in range(3)]


def test_a_validation_and_a_forward_of_somebody_else_within_a_fit_are_left_alone(make_learner):
    class Busy:
        def before_batch(self, learn):
            if learn.training:
                learn.validate()

        def after_predict(self, learn):
            learn.model(torch.ones(2, 4))

    calls = Calls()
    calls.learn = make_learner([HooksCallback(calls, "0"), Busy()])
    calls.learn.fit(1)
    assert calls.seen == [("train", 0, 0), ("train", 0, 1), ("train", 0, 2)]


def test_outside_a_fit_there_is_no_hook(make_learner):
    watch = HooksCallback(count, on_valid=True)
    learn = make_learner(watch)
    learn.validate()
    assert len(watch.hooks) == 0
    learn.fit(1)
    learn.validate()
    learn.get_preds()
    assert counts(watch) == [5, 5, 5]


@pytest.mark.parametrize("signal", ["before_epoch", "before_batch", "after_predict", "after_batch", "after_fit"])
@pytest.mark.parametrize(
    "reason", [CancelFitException, CancelEpochException, CancelBatchException, ValueError, KeyboardInterrupt]
)
def test_leaves_however_the_fit_ends(make_learner, signal, reason):
    def stop(self, learn):
        raise reason("mine")

    watch = HooksCallback(count)
    learn = make_learner([watch, type("Stop", (), {signal: stop})()])
    with contextlib.suppress(reason):  # a Cancel may end the fit well, or find no stage of its own
        learn.fit(1)
    assert n_hooks(learn.model) == 0
    assert not watch._is_due


def test_an_error_in_the_function_passes_and_hooks_leave(make_learner):
    def fail(hook, module, inputs, output):
        raise ValueError("mine")

    watch = HooksCallback(fail)
    learn = make_learner(watch)
    with pytest.raises(ValueError, match="mine"):
        learn.fit(1)
    assert n_hooks(learn.model) == 0
    learn.validate()  # would call `fail` if it still listened


def test_a_fit_that_another_callback_refuses_leaves_no_hook(make_learner):
    class Refuse:
        def before_fit(self, learn):
            assert n_hooks(learn.model) == 3
            raise ValueError("mine")

    learn = make_learner([HooksCallback(count), Refuse()])
    with pytest.raises(ValueError, match="mine"):
        learn.fit(1)
    assert n_hooks(learn.model) == 0


def test_a_second_fit_has_new_hooks(make_learner):
    watch = HooksCallback(count)
    learn = make_learner(watch)
    learn.fit(2)
    learn.fit(1)
    assert counts(watch) == [3, 3, 3]
    assert n_hooks(learn.model) == 0


def test_the_model_pickles_and_copies_after_the_fit(make_learner):
    learn = make_learner(HooksCallback(count))
    learn.fit(1)
    for twin in (pickle.loads(pickle.dumps(learn.model)), copy.deepcopy(learn.model)):
        assert torch.equal(twin[0].weight, learn.model[0].weight)


def test_trains_the_same_weights_as_without(make_learner, dls):
    batches = {"train": list(dls["train"])}
    double = HooksCallback(lambda hook, module, inputs, output: output * 2)
    plain, watched = make_learner(dls=batches), make_learner(double, dls=batches)
    plain.fit(2)
    watched.fit(2)
    assert torch.equal(plain.model[0].weight, watched.model[0].weight)


class Block(nn.Module):
    """No Sequential, one layer in a list, one that is used twice, one normalised by a parametrization."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4)])
        self.twin = self.layers[1]
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(4, 3))

    def forward(self, x):
        return self.head(self.twin(self.layers[1](self.layers[0](x))))


def test_leaves_of_any_model(make_learner):
    watch = HooksCallback(count)
    make_learner(watch, model=Block()).fit(1)
    assert watch.layers == {
        "layers.0": "ParametrizedLinear",
        "layers.1": "Linear",
        "head.0": "ReLU",
        "head.1": "Linear",
    }
    assert counts(watch) == [3, 6, 3, 3]


def test_a_model_that_is_one_layer(make_learner):
    watch = HooksCallback(count)
    make_learner(watch, model=nn.Linear(4, 3)).fit(1)
    assert watch.layers == {"": "Linear"}
    assert counts(watch) == [3]


def test_modules_by_object_and_by_name_each_once_and_filtered(make_learner):
    model = Block()

    def layers(**kwargs):
        watch = HooksCallback(count, **kwargs)
        make_learner(watch, model=model).fit(1)
        return list(watch.layers)

    assert layers(modules=model.head) == ["head"]
    assert layers(modules="head.1") == ["head.1"]
    assert layers(modules="head.?") == ["head.0", "head.1"]
    assert layers(modules=0) == [""]
    assert layers(modules=[0, "twin"]) == ["", "layers.1"]
    assert layers(modules=["head", model.twin, "layers.1"]) == ["head", "layers.1"]
    assert layers(mod_filter=lambda module: isinstance(module, nn.ReLU)) == ["head.0"]
    assert layers(modules=["head", "head.0"], mod_filter=lambda module: isinstance(module, nn.ReLU)) == ["head.0"]


def test_refuses_modules_that_are_not_in_the_model(make_learner):
    other = nn.Linear(4, 4)
    with pytest.raises(
        ValueError,
        match=r"`modules` must be names, .* modules of the model, got a Linear that it has not; there is .* 2 1",
    ):
        make_learner(HooksCallback(count, [other])).fit(1)
    with pytest.raises(
        ValueError, match=r"`modules` must be names, .* of the model, got 'head'; there is 0 \(the model\), 1 0"
    ):
        make_learner(HooksCallback(count, "head")).fit(1)
    assert n_hooks(other) == 0


def test_refuses_parts_of_what_a_module_gives(make_learner):
    with pytest.raises(ValueError, match="`modules` must be whole modules, got '0:in'"):
        make_learner(HooksCallback(count, "0:in")).fit(1)


@pytest.mark.parametrize("is_whole", [True, False], ids=["the model", "a part"])
def test_hears_a_model_that_was_compiled_before(make_learner, is_whole):
    """By itself a hook that is put on after a compiled call never fires, and nothing says so."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    if is_whole:
        model = torch.compile(model, backend="eager")
    else:
        model[0].compile(backend="eager")
    model(torch.zeros(2, 4))
    watch = HooksCallback(count)
    make_learner(watch, model=model).fit(1)
    assert watch.layers == {"0": "Linear", "1": "Linear"}
    assert counts(watch) == [3, 3]


def test_refuses_to_watch_nothing(make_learner):
    with pytest.raises(ValueError, match="must leave a module to watch, got none of 3"):
        make_learner(HooksCallback(count, mod_filter=lambda module: False)).fit(1)
    with pytest.raises(ValueError, match="must leave a module to watch, got none of 0"):
        make_learner(HooksCallback(count, [])).fit(1)
    with pytest.raises(ValueError, match="`on_train` or `on_valid` must be True, got neither"):
        HooksCallback(count, on_train=False)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"hookfunc": None}, TypeError, "`hookfunc` must be a function of .* got None"),
        ({"modules": [3.5]}, TypeError, r"`modules` must hold modules, names, globs or positions, got 3\.5"),
        ({"modules": True}, TypeError, "`modules` must hold modules, names, globs or positions, got True"),
        ({"mod_filter": "relu"}, TypeError, "`mod_filter` must be a function of a module, got 'relu'"),
        ({"every": 0}, ValueError, "`every` must be a number of batches, or as .* got 0"),
        ({"every": "2 rounds"}, ValueError, "`every` must be a number of batches, or as .* got '2 rounds'"),
        ({"every": 1.5}, TypeError, r"`every` must be a number of batches, or as .* got 1\.5"),
    ],
)
def test_refuses_wrong_arguments_when_made(kwargs, error, message):
    with pytest.raises(error, match=message):
        HooksCallback(**{"hookfunc": count, **kwargs})


# -- going on --------------------------------------------------------------------------------------------------


def test_a_fit_that_goes_on_has_what_the_hooks_kept(tmp_path):
    made = []

    def keep(hook, module, inputs, output):
        count(hook, module, inputs, output)
        hook.means = [*getattr(hook, "means", []), output.detach().mean()]

    def make(cbs):
        made.append(HooksCallback(keep, [0, "3"], on_valid=True))
        return tiny_learner([*cbs, made[-1]])

    _, gone_on = resumed_from_each(make, 2, tmp_path / "train")
    assert len(gone_on) == 12
    gone_on += resumed_from_each_validation(make, 2, tmp_path / "valid")
    for learn in gone_on:
        watch = next(cb for cb in learn.cbs if isinstance(cb, HooksCallback))
        assert counts(watch) == counts(made[0]) == [18, 18]
        assert [hook.means for hook in watch.hooks] == [hook.means for hook in made[0].hooks]


def test_what_is_no_plain_data_is_named_at_the_first_checkpoint(tmp_path):
    def keep(hook, module, inputs, output):
        hook.last = slice(2)

    learn = tiny_learner([CheckpointCallback(tmp_path, every=1), HooksCallback(keep, "0")])
    with pytest.raises(
        TypeError, match=r"\['HooksCallback'\]\['kept'\]\['0'\]\['last'\]` must be plain data, got slice"
    ):
        learn.fit(1)
    assert learn.n_steps == 1


def test_tensors_go_back_to_their_device(make_learner):
    def keep(hook, module, inputs, output):
        hook.n, hook.sums = 3, {"first": [1.0, torch.zeros(2, device="meta")]}

    watch = HooksCallback(keep, "0")
    make_learner(watch).fit(1)
    state = watch.state_dict()
    state["kept"]["0"]["sums"]["first"][1] = torch.zeros(2)  # as it comes from a file
    watch.hooks[0].sums, watch.hooks[0].later = None, 1
    watch.load_state_dict(state)
    assert (watch.hooks[0].n, watch.hooks[0].sums["first"][1].device.type) == (3, "meta")
    assert not hasattr(watch.hooks[0], "later")


def test_a_file_sets_nothing_of_the_hook_itself(make_learner):
    watch = HooksCallback(count, "0")
    make_learner(watch).fit(1)
    f, state = watch.hooks[0].f, watch.state_dict()
    state["kept"]["0"].update(f="os.system", remove="os.system", __class__="os.system")
    watch.load_state_dict(state)
    assert watch.hooks[0].f is f
    assert vars(watch.hooks[0]).keys() == {"f", "_handle", "n"}


def test_a_fit_goes_on_with_the_same_layers_only(tmp_path):
    tiny_learner([CheckpointCallback(tmp_path), HooksCallback(count)]).fit(1)
    learn = tiny_learner([CheckpointCallback(tmp_path), HooksCallback(count, "0")])
    with pytest.raises(LearnerError, match=r"the layers to watch are \['0'\] here, \['0', '1', '2', '3'\] saved of"):
        learn.fit(2, resume=True)


def test_a_copy_of_the_model_that_is_made_in_a_fit_is_not_taken_for_it(make_learner):
    class Teacher:
        def before_fit(self, learn):
            self.model = copy.deepcopy(learn.model)

        def around_predict(self, learn, action):
            action()
            with torch.no_grad():
                self.model(learn.xb)

    def count(hook, module, inputs, output):
        hook.n = getattr(hook, "n", 0) + 1

    watch, teacher = HooksCallback(count), Teacher()
    make_learner([watch, teacher]).fit(1)
    assert [hook.n for hook in watch.hooks] == [3, 3, 3]
    assert not any(module._forward_hooks for module in teacher.model.modules())
    pickle.dumps(teacher.model)


# torch's own, of what it means to drop
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_layers_are_refused_by_name(make_learner):
    model = nn.Sequential(torch.jit.script(nn.Linear(4, 8)), nn.Linear(8, 3))
    learn = make_learner(model=model)
    with pytest.raises(ValueError, match=r"`modules` must be modules that run in Python, got \['0'\], scripted"):
        learn.fit(1, cbs=HooksCallback(print))
    learn.fit(1, cbs=HooksCallback(lambda *_: None, "1"))
