"""Moving things: the `meta` device stands in for an accelerator, so that the tests need none."""

import collections
import dataclasses
import types
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from callbacks.device import DeviceCallback
from learner import Callback, Learner

META = torch.device("meta")
Pair = collections.namedtuple("Pair", ["x", "y"])


@dataclasses.dataclass(frozen=True)
class Sample:
    x: Tensor
    name: str = "a"
    extra: list[Tensor] = dataclasses.field(default_factory=list, init=False)


class Movable:
    """Has a `.to` that knows nothing of `non_blocking`."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> "Movable":
        return self if self.x.device == device else Movable(self.x.to(device))


def moved(batch: object, device: str = "meta") -> object:
    """Send a batch through the callback alone."""
    learn = types.SimpleNamespace(batch=batch)
    DeviceCallback(device).before_batch(learn)  # type: ignore[arg-type]
    return learn.batch


@pytest.fixture
def x() -> Tensor:
    return torch.ones(2, 3)


@pytest.fixture
def _new_parameters() -> Iterator[None]:
    """Let `Module.to` make new parameters, as it does by itself for some devices."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def test_tensor(x: Tensor) -> None:
    assert moved(x).device == META  # type: ignore[attr-defined]
    assert x.device.type == "cpu"


def test_tuple_list_dict_nested(x: Tensor) -> None:
    out = moved((x, [x, {"a": x, "b": (x,), "name": "a", "n": 3}], None))
    assert type(out) is tuple
    assert out[0].device == out[1][0].device == out[1][1]["a"].device == out[1][1]["b"][0].device == META
    assert (out[1][1]["name"], out[1][1]["n"], out[2]) == ("a", 3, None)
    assert list(out[1][1]) == ["a", "b", "name", "n"]


def test_named_tuple(x: Tensor) -> None:
    out = moved(Pair(x, 3))
    assert isinstance(out, Pair)
    assert (out.x.device, out.y) == (META, 3)


def test_subclasses_of_dict_keep_what_they_know(x: Tensor) -> None:
    given = collections.defaultdict(list, {"x": x})
    out = moved(given)
    assert isinstance(out, collections.defaultdict)
    assert out["x"].device == META
    assert out["new"] == []
    assert given["x"] is x


def test_dataclass_also_frozen_and_with_fields_that_init_does_not_take(x: Tensor) -> None:
    given = Sample(x)
    given.extra.append(x)
    out = moved(given)
    assert isinstance(out, Sample)
    assert out.x.device == out.extra[0].device == META
    assert out.name == "a"
    assert given.x is x
    assert given.extra[0] is x


def test_object_with_to(x: Tensor) -> None:
    out = moved([Movable(x)])
    assert out[0].x.device == META  # type: ignore[index]


def test_packed_sequence_is_moved_as_a_whole() -> None:
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    assert moved([packed])[0].data.device == META  # type: ignore[index]
    batch = [packed]
    assert moved(batch, "cpu") is batch


def test_what_is_there_stays_the_same_object(x: Tensor) -> None:
    given = [
        x,
        (x, x),
        [x, {"x": x, "y": (x, None)}],
        Pair(x, x),
        Sample(x),
        {"x": [x]},
        collections.defaultdict(list, {"x": x}),
        Movable(x),
        "text",
        None,
        torch.Size([1, 2]),
    ]
    for batch in given:
        assert moved(batch, "cpu") is batch


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_trains_on_the_cpu_as_without_it(make_learner: Callable[..., Learner], device: object) -> None:
    if device is None and (torch.cuda.is_available() or torch.backends.mps.is_available()):
        device = "cpu"
    plain, with_it = make_learner(), make_learner(cbs=DeviceCallback(device))  # type: ignore[arg-type]
    for learn in (plain, with_it):
        torch.manual_seed(0)
        learn.fit(2)
    for a, b in zip(plain.model.parameters(), with_it.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_picks_the_best_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, best: str) -> None:
    real = torch.empty
    asked = []

    def empty(size: int, device: torch.device) -> Tensor:
        asked.append(device)
        return real(size, device="meta")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", empty)
    DeviceCallback()
    assert asked == [torch.device(best)]


@pytest.mark.parametrize("device", ["gpu", "cuda:4096", "", 3.5, []])
def test_a_device_that_is_not_there(device: object) -> None:
    with pytest.raises(ValueError, match=r"`device` must be a device of this machine, got .*; leave it out"):
        DeviceCallback(device)  # type: ignore[arg-type]


class Where(Callback):
    """Take down where things are, at the signals in which others would use them."""

    def __init__(self) -> None:
        self.seen: dict[str, set[str]] = collections.defaultdict(set)

    def before_fit(self, learn: Learner) -> None:
        self.seen["model in before_fit"].add(next(learn.model.parameters()).device.type)

    def after_batch(self, learn: Learner) -> None:
        self.seen["model"].add(next(learn.model.parameters()).device.type)
        self.seen["batch"] |= {learn.xb.device.type, learn.yb.device.type, learn.preds.device.type}


class LossToCPU(Callback):
    """Put another loss in place, since nobody can read one from the meta device."""

    def after_batch(self, learn: Learner) -> None:
        learn.loss = torch.zeros(())


def test_moves_model_batches_and_a_loss_with_weights(make_learner: Callable[..., Learner]) -> None:
    loss_f, where = nn.CrossEntropyLoss(weight=torch.ones(3)), Where()
    learn = make_learner(cbs=[where, LossToCPU(), DeviceCallback("meta")], loss_f=loss_f)
    learn.fit(1)
    assert where.seen == {"model in before_fit": {"meta"}, "model": {"meta"}, "batch": {"meta"}}
    assert loss_f.weight.device == META


def test_validate_outside_a_fit_moves_the_model_too(make_learner: Callable[..., Learner]) -> None:
    where = Where()
    make_learner(cbs=[where, LossToCPU(), DeviceCallback("meta")]).validate()
    assert where.seen == {"model": {"meta"}, "batch": {"meta"}}


def test_buffers_alone_out_of_place_are_moved(make_learner: Callable[..., Learner]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    learn = make_learner(model=model, cbs=DeviceCallback("cpu"))
    model[1].running_mean = model[1].running_mean.to("meta")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # so it was tried
        learn.validate()


def test_optimizer_holds_the_moved_parameters(make_learner: Callable[..., Learner]) -> None:
    learn = make_learner(cbs=[LossToCPU(), DeviceCallback("meta")])
    learn.fit(1)  # the optimizer is made before `before_fit`
    held = [p for group in learn.opt.param_groups for p in group["params"]]  # type: ignore[union-attr]
    assert all(a is b for a, b in zip(held, learn.model.parameters(), strict=True))


@pytest.mark.parametrize("kwargs", [{}, {"capturable": True}, {"fused": True}])
def test_optimizer_state_of_earlier_fits_moves_along(
    make_learner: Callable[..., Learner], kwargs: dict[str, bool]
) -> None:
    learn = make_learner(opt_func=torch.optim.Adam)
    learn.fit(1)
    opt = learn.opt
    assert opt is not None
    opt.param_groups[0].update(kwargs)
    cb = DeviceCallback("meta")
    cb.before_fit(learn)
    assert {p.device for p in opt.state} == {META}
    assert all(a is b for a, b in zip(opt.state, learn.model.parameters(), strict=True))
    for state in opt.state.values():
        assert state["exp_avg"].device == state["exp_avg_sq"].device == META
        # Adam counts on the host, unless it may not look there
        assert state["step"].device.type == ("meta" if kwargs else "cpu")


def test_state_that_was_left_behind_by_a_move_by_hand(make_learner: Callable[..., Learner]) -> None:
    learn = make_learner(opt_func=lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9))
    learn.fit(1)
    opt = learn.opt
    assert opt is not None
    for state in opt.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].to("meta")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # so it was tried
        learn.fit(1, cbs=DeviceCallback("cpu"))


@pytest.mark.usefixtures("_new_parameters")
def test_nothing_is_made_anew_where_all_is_in_place(make_learner: Callable[..., Learner]) -> None:
    learn = make_learner(cbs=DeviceCallback("cpu"))
    before = list(learn.model.parameters())
    learn.fit(2)
    assert all(a is b for a, b in zip(before, learn.model.parameters(), strict=True))
