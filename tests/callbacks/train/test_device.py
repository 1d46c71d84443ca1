"""Everything on one device. `meta` stands for one that is not the CPU: it moves, and needs no hardware."""

import pytest
import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from callbacks import CollectCallback, DeviceCallback, EpochLengthCallback, LambdaCallback
from learner import Callback, Learner, LearnerError, Loaders
from learner.data.moving import mapped, tensors_of
from learner.data.seeded_dataset import seeded
from tests.loaders import SIZE, BeginsTwice, Noisy, WithState, collate, loader
from tests.resuming import assert_equal_runs, resumed_from_each, seed_all, stopped_and_resumed, uninterrupted

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


# -- copied ahead ------------------------------------------------------------------------------------------------------


def empty(value):
    return torch.zeros_like(value) if isinstance(value, torch.Tensor) else mapped(value, empty)


class Copies:
    """Copies that hold nothing before they are waited for."""

    def __init__(self, device, move):
        self.move, self.events = move, []

    def begin(self, batch):
        self.events.append("begin")
        whole = self.move(batch)
        return whole, mapped(whole, empty)

    def finish(self, begun):
        whole, copy = begun
        self.events.append("finish")
        for part, value in zip(tensors_of(copy), tensors_of(whole), strict=True):
            part.copy_(value)
        return copy


@pytest.fixture
def copies(monkeypatch):
    """Have copies beside the computation on the CPU; return those that were made."""
    made = []

    def copies_to(device, move):
        made.append(Copies(device, move))
        return made[-1]

    monkeypatch.setattr("callbacks.train.device.copies_to", copies_to)
    return made


def torchdatas(dataset=None, collate_fn=collate, n_workers=0):
    options = {"num_workers": n_workers, "collate_fn": collate_fn}
    return StatefulDataLoader(dataset or Noisy(), batch_size=SIZE, shuffle=True, **options)


LOADERS = {
    "shuffled": lambda: loader(shuffle=True),
    "a list": lambda: list(loader()),
    "with a state": WithState,
    "one that begins twice": BeginsTwice,
    "torchdata's": torchdatas,
}


def prefetching(cbs, make=WithState, prefetch=1):
    seed_all(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))
    device = DeviceCallback("cpu", prefetch=prefetch)
    return Learner(model, {"train": make(), "valid": WithState()}, nn.functional.cross_entropy, cbs=[*cbs, device])


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_a_fit_that_copies_ahead_goes_on_from_each_of_its_batches(copies, make, tmp_path):
    whole, gone_on = resumed_from_each(lambda cbs: prefetching(cbs, make), 2, tmp_path)
    assert len(gone_on) >= 6
    for learn in gone_on:
        assert_equal_runs(learn, whole)
    assert copies[0].events[:4] == ["begin", "begin", "finish", "begin"]


def test_a_loader_of_torchdata_with_a_worker_goes_on_where_it_was(copies, tmp_path):
    def labelled(samples):
        x = torch.stack(samples)
        return x, x[:, 0].long() % 2

    def make(cbs):
        return prefetching(cbs, lambda: torchdatas(seeded(Noisy(), 0), labelled, n_workers=1))

    whole = uninterrupted(make, 2, tmp_path / "whole")
    assert_equal_runs(stopped_and_resumed(make, 2, 1, tmp_path / "gone on"), whole)


def test_several_loaders_side_by_side_go_on_from_each_batch(copies, tmp_path):
    def make(cbs):
        seed_all(0)
        dls = {"train": Loaders.zipped(a=WithState(), b=loader(shuffle=True))}
        flat = LambdaCallback(before_batch=lambda learn: setattr(learn, "batch", joined(learn.batch)))
        return Learner(
            nn.Linear(4, 2), dls, nn.functional.cross_entropy, cbs=[*cbs, DeviceCallback("cpu", prefetch=1), flat]
        )

    def joined(batch):
        return tuple(torch.cat(parts) for parts in zip(batch["a"], batch["b"], strict=True))

    whole, gone_on = resumed_from_each(make, 2, tmp_path)
    for learn in gone_on:
        assert_equal_runs(learn, whole)


def test_rounds_of_a_loader_go_on_with_the_batch_that_was_fetched_before_they_ended(copies, tmp_path):
    def make(cbs, prefetch=1, train=WithState):
        return prefetching([*cbs, EpochLengthCallback(train=2)], train, prefetch)

    whole, gone_on = resumed_from_each(make, 3, tmp_path / "stateful")
    for learn in gone_on:
        assert_equal_runs(learn, whole)
    shuffled = LOADERS["shuffled"]
    one = uninterrupted(lambda cbs: make(cbs, 2, shuffled), 3, tmp_path / "ahead")
    copies.clear()
    other = uninterrupted(lambda cbs: make(cbs, None, shuffled), 3, tmp_path / "plain")
    assert not copies
    assert torch.equal(one.model[0].weight, other.model[0].weight)


def test_batches_of_a_position_are_those_that_come_without(copies, tmp_path):
    ahead = uninterrupted(lambda cbs: prefetching(cbs, LOADERS["shuffled"], 2), 2, tmp_path / "ahead")
    plain = uninterrupted(lambda cbs: prefetching(cbs, LOADERS["shuffled"], None), 2, tmp_path / "plain")
    assert torch.equal(ahead.model[0].weight, plain.model[0].weight)


def test_an_error_of_the_loader_comes_at_its_own_batch(copies, make_learner):
    class Fails:
        def __iter__(self):
            yield from [(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))] * 2
            raise OSError("on purpose")

    learn = make_learner(dls={"train": Fails()}, cbs=DeviceCallback("cpu", prefetch=1))
    with pytest.raises(OSError, match="on purpose") as caught:
        learn.fit(1)
    assert learn.n_steps == 2
    assert "batch 2" in caught.value.__notes__[0]


def test_an_empty_loader_is_told_as_without(copies, make_learner):
    for batches, reason in (([], "it is empty"), (iter([]), "it is an iterator that is used up")):
        with pytest.raises(LearnerError, match=f"loader 'train' must give at least one batch, got none .*: {reason}"):
            make_learner(dls={"train": batches}, cbs=DeviceCallback("cpu", prefetch=1)).fit(1)


def test_samples_are_known_while_their_batches_are_copied_ahead(copies):
    x, y = torch.arange(10.0)[:, None].expand(10, 4).clone(), torch.arange(10) % 3
    dls = Loaders.from_arrays(train=(x, y), batch_size=4)
    collect = CollectCallback(lambda batch, output: {"number": batch[0][:, 0]})
    Learner(nn.Linear(4, 3), dls, nn.functional.cross_entropy, cbs=[collect, DeviceCallback("cpu", prefetch=2)]).fit(2)
    assert collect.samples.numpy("number").tolist() == collect.samples.numpy("example_id").tolist()
    assert len(collect.samples) == 20


def test_without_an_accelerator_nothing_is_copied_ahead(make_learner):
    loaders = []
    look = LambdaCallback(after_epoch=lambda learn: loaders.append(learn.dl is learn.dls[learn.dl_name]))
    make_learner(cbs=[DeviceCallback("cpu", prefetch=1), look]).fit(1)
    assert loaders == [True, True]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prefetch": 0}, ValueError, "`prefetch` must be a whole number of batches, at least 1, got 0"),
        ({"prefetch": -1}, ValueError, "`prefetch` must be a whole number of batches, at least 1, got -1"),
        ({"prefetch": True}, ValueError, "`prefetch` must be a whole number of batches, at least 1, got True"),
        ({"prefetch": 1.0}, TypeError, "`prefetch` must be a whole number of batches, at least 1, got 1.0"),
        ({"channels_last": 1}, TypeError, "`channels_last` must be True or False, got 1"),
    ],
)
def test_options_of_the_wrong_kind(options, error, message):
    with pytest.raises(error, match=message):
        DeviceCallback("cpu", **options)


# -- memory format -----------------------------------------------------------------------------------------------------


def test_channels_last_is_the_format_of_weights_and_pictures_and_changes_no_value(copies):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([0, 1, 1, 0])
    learners = []
    for options in ({}, {"channels_last": True}, {"channels_last": True, "prefetch": 1}):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        seen = []
        look = LambdaCallback(
            after_loss=lambda learn, seen=seen: seen.append(
                [t.is_contiguous(memory_format=torch.channels_last) for t in (learn.xb, learn.model[0].weight)]
            )
        )
        cbs = [DeviceCallback("cpu", **options), look]
        learners.append(
            Learner(model, {"train": [(x, y)] * 2, "valid": [(x, y)]}, nn.functional.cross_entropy, cbs=cbs)
        )
        learners[-1].fit(2)
        assert seen == [[bool(options)] * 2] * 6
    for learn in learners[1:]:
        torch.testing.assert_close(learn.model[0].weight, learners[0].model[0].weight, rtol=0, atol=1e-6)  # float32


def test_channels_last_of_a_model_without_pictures_is_refused(make_learner):
    with pytest.raises(LearnerError, match="`channels_last` must be asked for a model of pictures"):
        make_learner(cbs=DeviceCallback("cpu", channels_last=True)).fit(1)
