"""Everything on one device. `meta` stands for one that is not the CPU: it moves, and needs no hardware."""

import pytest
import torch
from torch import nn

from callbacks import DeviceCallback
from learner import Callback, Learner

META = torch.device("meta")


class Note(Callback):
    """Write down on which devices others find things, and put a loss there that the host can read."""

    order = -99  # right after the device callback

    def __init__(self):
        self.places = set()

    def note(self, what, *tensors):
        self.places |= {f"{what} on {tensor.device}" for tensor in tensors}

    def before_fit(self, learn):
        self.note("model at the start", *learn.model.parameters())

    def before_batch(self, learn):
        self.note("inputs", *learn.batch)
        self.note("model", *learn.model.parameters(), *learn.model.buffers())

    def after_loss(self, learn):
        self.note("predictions", learn.preds)
        learn.loss = torch.zeros((), requires_grad=True)


def momentum(params, lr):
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


def held_by(opt):
    return [p for group in opt.param_groups for p in group["params"]]


def are_same_objects(these, those):
    return all(a is b for a, b in zip(these, those, strict=True))


@pytest.fixture
def _makes_new_parameters():
    """Have `Module.to` make new parameters always, as it does by itself for some devices."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


# -- which device ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "expected"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_without_a_name_it_is_the_fastest_kind_there_is(monkeypatch, has_cuda, has_mps, expected):
    tried = []

    def empty(size, device):  # an empty tensor is how the callback finds out whether a device is there
        tried.append(torch.device(device).type)
        return torch.zeros(size)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    monkeypatch.setattr(torch, "empty", empty)
    DeviceCallback()
    assert tried == [expected]


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_may_be_named_or_given(device):
    assert DeviceCallback(device).device == torch.device("cpu")


@pytest.mark.parametrize("device", ["graphics card", "cuda:999", "", 1.5, [], object()])
def test_a_device_that_this_machine_has_not_is_refused_at_once(device):
    with pytest.raises(ValueError, match=r"`device` must be a device of this machine, got .+: .+; leave it out"):
        DeviceCallback(device)


# -- what moves --------------------------------------------------------------------------------------------------------


def test_in_a_fit_all_is_there_before_others_look(make_learner):
    note = Note()
    loss_f = nn.CrossEntropyLoss(weight=torch.ones(3))
    make_learner(cbs=[note, DeviceCallback("meta")], loss_f=loss_f).fit(1)
    assert note.places == {"model at the start on meta", "model on meta", "inputs on meta", "predictions on meta"}
    assert loss_f.weight.device == META


def test_a_validation_needs_no_fit_before_it(make_learner):
    note = Note()
    make_learner(cbs=[note, DeviceCallback("meta")]).validate()
    assert note.places == {"model on meta", "inputs on meta", "predictions on meta"}


def test_batches_of_any_make_move(make_learner):
    x, y = torch.ones(2, 4), torch.zeros(2, dtype=torch.int64)
    learn = make_learner(dls={"infer": [[{"input": x}, (y, "text")]]})
    learn.batch = batch = next(iter(learn.dls["infer"]))
    DeviceCallback("meta").before_batch(learn)
    assert [learn.batch[0]["input"].device, learn.batch[1][0].device, learn.batch[1][1]] == [META, META, "text"]
    learn.batch = batch
    DeviceCallback("cpu").before_batch(learn)
    assert learn.batch is batch


def test_a_buffer_alone_in_the_wrong_place_is_seen(make_learner):
    learn = make_learner(model=nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), cbs=DeviceCallback("cpu"))
    learn.model[1].running_var = learn.model[1].running_var.to("meta")
    # There is no way back from meta: that torch says so shows that it was asked.
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        learn.validate()


# -- optimizers --------------------------------------------------------------------------------------------------------


def test_the_optimizer_trains_the_parameters_that_the_model_has_now(make_learner):
    learn = make_learner(cbs=[Note(), DeviceCallback("meta")])
    learn.fit(1)
    assert {p.device for p in held_by(learn.opt)} == {META}
    assert are_same_objects(held_by(learn.opt), learn.model.parameters())


def test_momentum_of_an_earlier_fit_comes_along(make_learner):
    learn = make_learner(opt_func=momentum)
    learn.fit(1)
    DeviceCallback("meta").before_fit(learn)
    assert are_same_objects(learn.opt.state, learn.model.parameters())
    assert {values["momentum_buffer"].device for values in learn.opt.state.values()} == {META}


@pytest.mark.parametrize(("setting", "place"), [(None, "cpu"), ("capturable", "meta"), ("fused", "meta")])
def test_adam_counts_steps_on_the_host_unless_it_must_not_look_there(make_learner, setting, place):
    learn = make_learner(opt_func=torch.optim.Adam)
    learn.fit(1)
    if setting:
        learn.opt.param_groups[0][setting] = True
    DeviceCallback("meta").before_fit(learn)
    for values in learn.opt.state.values():
        assert values["exp_avg"].device == values["exp_avg_sq"].device == META
        assert values["step"].device.type == place


def test_state_left_behind_by_a_model_moved_by_hand_is_fetched(make_learner):
    learn = make_learner(opt_func=momentum)
    learn.fit(1)
    for values in learn.opt.state.values():
        values["momentum_buffer"] = values["momentum_buffer"].to("meta")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor") as caught:
        learn.fit(1, cbs=DeviceCallback("cpu"))
    assert "in DeviceCallback.before_fit" in caught.value.__notes__[0]


# -- where all is in place already -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_makes_new_parameters")
def test_nothing_is_made_anew(make_learner):
    learn = make_learner(cbs=DeviceCallback("cpu"), opt_func=momentum)
    before = list(learn.model.parameters())
    learn.fit(2)
    assert are_same_objects(before, learn.model.parameters())


def test_the_cpu_trains_bit_for_bit_as_a_loop_by_hand(make_learner, dls):
    learn: Learner = make_learner(cbs=DeviceCallback("cpu"), opt_func=momentum)
    by_hand = make_learner().model
    torch.manual_seed(0)
    learn.fit(2)
    torch.manual_seed(0)
    opt = momentum(by_hand.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in dls["train"]:
            nn.functional.cross_entropy(by_hand(x), y).backward()
            opt.step()
            opt.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(learn.model.parameters(), by_hand.parameters(), strict=True))
