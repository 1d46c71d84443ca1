"""All that a learner holds between two fits, as plain data: taken down, compared, and put into another one.

A snapshot is a dict of tensors, numbers and strings, so that a file of it can be read without running any code:

    model       state_dict of the model (without wrappers), buffers that it leaves out, train/eval and requires_grad
                flags
    loss        the same of `loss_f`, where it is a module that holds anything; else None
    optimizer   its class and the names of what it trains, to be compared; its state_dict; base rates; the values of
                what neither model nor loss holds
    loop        counters, learning rate, history, metrics
    rng         Python's, NumPy's, torch's and the loaders' random generators
    callbacks   what callbacks keep, by name
    devices     which tensors of those were not on the CPU
    shown       names of the callbacks that only show and write, which nobody has to have again

Nothing is changed before all of it was compared: it fits as a whole, or one error lists what differs. What fails even
so, as a callback that does not understand what it kept, is undone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learner.checkpoint.plain import MAX_DEPTH, plain
from learner.data.generators import generators_of, remember_rng
from learner.data.loaders import Loaders
from learner.errors import LearnerError
from learner.interrogate.layers import inside
from learner.loop.rates import BaseRates
from learner.loop.state import remember, remember_trained
from learner.loop.trainable import adopt, make_optimizer, named_parameters, other_parameters
from learner.loop.types import Learner

_N_LISTED = 10  # differences in an error
_WEIGHTS_ALONE = (
    " For the weights alone: `model.load_state_dict(learner.checkpoint.read_checkpoint(path)['model']['state'])`."
)


def snapshot(learn: Learner) -> dict[str, Any]:
    """Return all that a learner holds, as plain data; tensors are the live ones, not copies."""
    callbacks = {name: _callback_state(name, cb) for name, cb in _stateful(learn).items()}
    return {
        "model": _model_state(learn.model),
        "loss": None if (loss := _loss_module(learn)) is None else _model_state(loss),
        "optimizer": None if learn.opt is None else _optimizer_state(learn),
        "loop": counters(learn),
        "rng": rng_state(learn),
        "callbacks": callbacks,
        "devices": _devices(callbacks),
        "shown": [name for name, cb in _stateful(learn).items() if _only_shows(cb)],
    }


def differences(learn: Learner, opt: torch.optim.Optimizer | None, state: Mapping[str, Any]) -> list[str]:
    """Say what of a learner, with this optimizer, is not as the one was that a snapshot was taken of."""
    callbacks, saved = _stateful(learn), state["callbacks"]
    return [
        *_model_differences("model", learn.model, state["model"]),
        *_loss_differences(_loss_module(learn), state["loss"]),
        *_optimizer_differences(learn, opt, state),
        *(
            f"callback {name} is missing here"
            for name in saved
            if saved[name] and name not in {*callbacks, *state["shown"]}
        ),
        *(f"callback {name} is not in the file" for name, cb in callbacks.items() if _is_new(name, cb, saved)),
        *_callback_differences(callbacks, saved),
    ]


def refuse(found: Sequence[str], hint: str = "") -> None:
    """Raise one error that lists differences, if there are any, with a hint at its end.

    Raises:
        LearnerError: if so.
    """
    if found:
        more = len(found) - _N_LISTED
        listed = "; ".join(found[:_N_LISTED]) + (f"; and {more} more" if more > 0 else "")
        raise LearnerError(f"the learner must be made as the saved one was, but {listed}. Nothing was changed.{hint}")


def put_back(learn: Learner, opt: torch.optim.Optimizer | None, state: Mapping[str, Any]) -> None:
    """Put a snapshot, all but the random generators, into a learner that does not differ from it."""
    _put_back_model(learn.model, state["model"])
    if (loss := _loss_module(learn)) is not None:
        _put_back_model(loss, state["loss"])
    if opt is not None and state["optimizer"] is not None:
        _put_back_optimizer(learn, opt, state["optimizer"])
        if state["optimizer"]["rates"] is None:
            learn.opt, learn.rates = opt, None
        else:
            if learn.rates is None or learn.rates.opt is not opt:
                adopt(learn, opt, is_own=False)
            rates: BaseRates = learn.rates  # type: ignore[assignment]  # it has just been made
            rates.load_state_dict(state["optimizer"]["rates"])
            rates.end_fit()
    put_back_counters(learn, state["loop"])
    device = next((p.device for p in learn.model.parameters()), torch.device("cpu"))
    for name, cb in _stateful(learn).items():
        if name not in state["callbacks"]:
            continue
        # A copy, for it may be put back once more.
        _put_back_callback(cb, _put_on(plain(state["callbacks"][name], copy=True), state["devices"].get(name), device))


@contextmanager
def told_as_one() -> Iterator[None]:
    """Make what goes wrong with what a file holds an error of one kind.

    Raises:
        LearnerError: for any error.
    """
    try:
        yield
    except LearnerError:
        raise
    except Exception as error:
        raise LearnerError(
            f"what was saved must be what this program saves, but it could not be put back: {type(error).__name__}: "
            f"{error}. Nothing was changed."
        ) from error


@contextmanager
def all_or_nothing(learn: Learner) -> Iterator[None]:
    """Compare and put back within; what goes wrong is undone (but for a lazy model, which may have become a real one).

    Raises:
        LearnerError: for any error; besides differences there may be one of what is put back.
    """
    parts = [remember_rng(Loaders.of(learn.dls).values()), *remember_trained(learn)]
    parts += [remember(vars(cb)) for cb in learn.cbs if hasattr(cb, "__dict__")]
    former, opt, rates = counters(learn), learn.opt, learn.rates
    try:
        with told_as_one():
            yield
    except BaseException:
        for part in reversed(parts):
            part()
        put_back_counters(learn, former)
        learn.opt, learn.rates = opt, rates
        raise


def load_snapshot(learn: Learner, state: Mapping[str, Any]) -> None:
    """Put a snapshot into a learner between two fits, all of it or nothing.

    Raises:
        LearnerError: if anything does not fit; lists what, and nothing is changed.
    """
    with all_or_nothing(learn):
        opt = learn.opt
        if opt is None and state["optimizer"] is not None:
            opt = make_optimizer(learn)
        refuse(differences(learn, opt, state), _WEIGHTS_ALONE)
        put_back(learn, opt, state)
        put_back_rng(learn, state["rng"])


# -- counters ----------------------------------------------------------------------------------------------------------


def counters(learn: Learner) -> dict[str, Any]:
    """Return what a learner counts and what it measured."""
    return {
        **{name: getattr(learn, name) for name in ("n_steps", "n_skipped", "n_samples", "lr")},
        "history": learn.history.state_dict(),
        "metrics": {name: dict(values) for name, values in learn.metrics.items()},
    }


def put_back_counters(learn: Learner, saved: Mapping[str, Any]) -> None:
    """Take over what `counters` gave."""
    for name in ("n_steps", "n_skipped", "n_samples", "lr"):
        setattr(learn, name, saved[name])
    learn.history.load_state_dict(saved["history"])
    learn.metrics = {name: dict(values) for name, values in saved["metrics"].items()}


# -- the model ---------------------------------------------------------------------------------------------------------


def _model_state(model: nn.Module) -> dict[str, Any]:
    inner = inside(model)
    saved = inner.state_dict()
    return {
        "state": dict(saved),
        "other_buffers": {name: buffer for name, buffer in inner.named_buffers() if name not in saved},
        "no_buffers": _no_buffers(inner),
        "training": {name: module.training for name, module in inner.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in inner.named_parameters()},
    }


def _no_buffers(model: nn.Module) -> list[str]:
    """Return the names of buffers that are None, as a cache is before its first use."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is None
    ]


def _loss_module(learn: Learner) -> nn.Module | None:
    """Return the loss if it is a module with parameters or buffers."""
    loss = learn.loss_f
    return loss if isinstance(loss, nn.Module) and any(True for _ in (*loss.parameters(), *loss.buffers())) else None


def _loss_differences(loss: nn.Module | None, saved: Mapping[str, Any] | None) -> list[str]:
    if loss is None or saved is None:
        return (
            []
            if loss is None and saved is None
            else ["`loss_f` is a module with parameters or buffers on one side alone"]
        )
    return _model_differences("loss_f", loss, saved)


def _model_differences(what: str, model: nn.Module, saved: Mapping[str, Any]) -> list[str]:
    now = _model_state(model)
    may_be_new = {*now["no_buffers"], *saved["no_buffers"]}
    found = []
    for part in ("state", "other_buffers"):
        mine, theirs = _shapes(now[part]), _shapes(saved[part])
        for name in dict.fromkeys((*theirs, *mine)):
            here, there = mine.get(name, "missing"), theirs.get(name, "missing")
            if here not in (there, "lazy") and not ("missing" in (here, there) and name in may_be_new):
                found.append(f"{what}: {name!r} is {here} here, {there} saved")
    missing = saved["training"].keys() ^ now["training"].keys()
    return found + [f"{what}: module {name!r} is on one side alone" for name in sorted(missing)]


def _shapes(tensors: Mapping[str, Any]) -> dict[str, str]:
    return {name: _shape(value) if isinstance(value, Tensor) else "extra state" for name, value in tensors.items()}


def _shape(tensor: Tensor) -> str:
    return "lazy" if is_lazy(tensor) else f"{tensor.dtype} {tuple(tensor.shape)}"


def _put_back_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    inner = inside(model)
    _put_back_missing_buffers(inner, {**saved["other_buffers"], **saved["state"]})
    inner.load_state_dict(saved["state"])
    buffers = dict(inner.named_buffers())
    with torch.no_grad():
        for name, value in saved["other_buffers"].items():
            buffers[name].copy_(value)
    put_back_training(model, saved["training"])
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(saved["requires_grad"][name])


def _put_back_missing_buffers(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Let buffers be None, or be there, as they were."""
    device = next((p.device for p in model.parameters()), None)
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            value = saved.get(f"{prefix}.{name}" if prefix else name)
            if (buffer is None) != (value is None):
                module._buffers[name] = None if value is None else value.to(device, copy=True)


def put_back_training(model: nn.Module, saved: Mapping[str, bool]) -> None:
    """Set the train/eval flags that are given, by the name of the module; a wrapper has that of what it wraps."""
    inner = inside(model)
    for name, module in inner.named_modules():
        module.training = saved.get(name, module.training)
    model.training = inner.training


# -- the optimizer -----------------------------------------------------------------------------------------------------


def _optimizer_state(learn: Learner) -> dict[str, Any]:
    opt: Any = learn.opt
    return {
        "class": type(opt).__name__,
        "groups": _groups(learn, opt),
        "state": opt.state_dict(),
        "rates": None if learn.rates is None else learn.rates.state_dict(),
        "others": other_parameters(learn, opt),
    }


def _groups(learn: Learner, opt: Any) -> list[list[str]]:
    names = {p: name for name, p in named_parameters(learn).items()}  # of which shapes are compared elsewhere
    groups = [group["params"] for group in opt.param_groups]
    return [[names.get(p) or f"(not the model's) {_shape(p)}" for p in group] for group in groups]


def _optimizer_differences(learn: Learner, opt: Any, state: Mapping[str, Any]) -> list[str]:
    saved = state["optimizer"]
    if saved is None or opt is None:
        return []
    if type(opt).__name__ != saved["class"]:
        return [f"the optimizer is {type(opt).__name__} here, {saved['class']} saved"]
    now = _groups(learn, opt)
    if now == saved["groups"]:
        return []
    told = f"{len(now)} here, {len(saved['groups'])} saved"
    for mine, theirs in zip(now, saved["groups"], strict=False):
        if mine != theirs:
            told = f"{[name for name in mine if name not in theirs] or mine} here, "
            told += f"{[name for name in theirs if name not in mine] or theirs} saved"
            break
    return [f"the optimizer's parameter groups differ: {told}"]


def _put_back_optimizer(learn: Learner, opt: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    with torch.no_grad():
        for parameter, value in zip(other_parameters(learn, opt), saved["others"], strict=True):
            parameter.copy_(value)
    opt.load_state_dict(saved["state"])
    # It has cast state to the parameters' dtype: momenta in float32 of parameters in bfloat16 would lose their digits.
    parameters = [p for group in opt.param_groups for p in group["params"]]
    for i, values in saved["state"]["state"].items():
        now = opt.state[parameters[i]]
        for key, value in values.items():
            if isinstance(value, Tensor) and now[key].dtype != value.dtype:
                now[key] = value.to(now[key].device, copy=True)


# -- random generators -------------------------------------------------------------------------------------------------


def rng_state(learn: Learner) -> dict[str, Any]:
    """Return the state of Python's, NumPy's, torch's and the loaders' generators, as plain data."""
    version, internal, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, cached = numpy_state
    state: dict[str, Any] = {
        "python": [version, torch.tensor(internal), gauss],  # 625 numbers, which are dear to write one by one
        "numpy": [str(kind), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "loaders": {
            name: [generator.get_state() for generator in generators_of(loader)]
            for name, loader in Loaders.of(learn.dls).items()
        },
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def put_back_rng(learn: Learner, saved: Mapping[str, Any]) -> None:
    """Take over what `rng_state` gave."""
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    kind, keys, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(saved["torch"])
    for name, loader in Loaders.of(learn.dls).items():
        for generator, state in zip(generators_of(loader), saved["loaders"].get(name, []), strict=False):
            generator.set_state(state)
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["cuda"][: torch.cuda.device_count()])
    if "mps" in saved and torch.backends.mps.is_available():
        torch.mps.set_rng_state(saved["mps"])


# -- callbacks ---------------------------------------------------------------------------------------------------------


def _stateful(learn: Learner) -> dict[str, Any]:
    """Return the callbacks that keep something, by class, the second of one class with a `_2`."""
    found: dict[str, Any] = {}
    for cb in learn.cbs:
        if getattr(cb, "state", ()) or hasattr(cb, "state_dict"):
            name = first = type(cb).__name__
            number = 1
            while name in found:
                number += 1
                name = f"{first}_{number}"
            found[name] = cb
    return found


def _callback_state(name: str, cb: Any) -> Any:
    if hasattr(cb, "state_dict"):
        return cb.state_dict()
    if missing := [attribute for attribute in cb.state if not hasattr(cb, attribute)]:
        raise LearnerError(f"`state` of {name} must name attributes that it has, got {missing[0]!r}.")
    return {attribute: _value_of(getattr(cb, attribute)) for attribute in cb.state}


def _is_new(name: str, cb: Any, saved: Mapping[str, Any]) -> bool:
    """Tell whether a callback is not in a file and keeps something at this time, as not all do between two fits."""
    return name not in saved and not _only_shows(cb) and bool(_callback_state(name, cb))


def _only_shows(cb: Any) -> bool:
    """Tell whether a callback runs when all that matters to the training has; see `Callback.order`."""
    return bool(getattr(cb, "order", 0) >= 100)


def _value_of(value: Any) -> Any:
    return value.state_dict() if _has_state_dict(value) else value


def _has_state_dict(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _callback_differences(callbacks: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    """Yield what callbacks themselves find to be different, where they have a `differences(state)`."""
    for name, cb in callbacks.items():
        if name not in saved:
            continue
        if not hasattr(cb, "state_dict") and sorted(cb.state) != sorted(saved[name]):
            yield f"`state` is {sorted(cb.state)} here, {sorted(saved[name])} saved of callback {name}"
        elif hasattr(cb, "differences"):
            yield from (f"{found} of callback {name}" for found in cb.differences(saved[name]))


def _put_back_callback(cb: Any, saved: Any) -> None:
    if hasattr(cb, "load_state_dict"):
        cb.load_state_dict(saved)
        return
    for attribute in cb.state:  # no name in a file says what is set
        value, now = saved[attribute], getattr(cb, attribute, None)
        if _has_state_dict(now):
            now.load_state_dict(value)  # type: ignore[union-attr]
        else:
            setattr(cb, attribute, value)


def _devices(value: Any, depth: int = 0) -> Any:
    """Return which tensors in a nest are not on the CPU: True for one, a dict of them by key or index."""
    if isinstance(value, Tensor):
        return not value.is_cpu
    if depth > MAX_DEPTH:  # of what cannot be saved
        return {}
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {key: found for key, item in items if (found := _devices(item, depth + 1))}


def _put_on(value: Any, devices: Any, device: torch.device) -> Any:
    """Return a nest with the tensors that were not on the CPU on a device."""
    if not devices:
        return value
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _put_on(item, devices.get(key), device) for key, item in value.items()}
    return type(value)(_put_on(item, devices.get(i), device) for i, item in enumerate(value))


# -- weights alone -----------------------------------------------------------------------------------------------------


def export_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of a model, without wrappers and their prefixes, for other programs.

    Raises:
        ImportError: if the name ends in `.safetensors` and the library is not installed.
        LearnerError: if the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    state = {name: value.detach().cpu() for name, value in inside(model).state_dict().items()}
    try:
        if target.suffix == ".safetensors":
            try:
                from safetensors.torch import save_file
            except ImportError:
                raise ImportError("`safetensors` must be installed; do `pip install safetensors`.") from None
            # Tied weights share their memory, which the format refuses: each gets its own.
            save_file({name: value.clone().contiguous() for name, value in state.items()}, temporary)
        else:
            torch.save(state, temporary)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # the second is torch's, for a folder that is not there
        raise LearnerError(f"`path` must be a file that can be written, got {str(path)!r}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
