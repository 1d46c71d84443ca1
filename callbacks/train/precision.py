"""Mixed precision: the model in half precision, all around it in float32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler, is_autocast_available

from callbacks.train.accumulate import AccumulateCallback
from callbacks.train.clip import ClipGradientCallback
from learner import Callback, CancelStepException, Learner, LearnerError
from learner.data.moving import HALF, in_float32
from learner.data.numbers import real_number
from learner.loop.closure import refuse_closure
from learner.loop.trainable import named_parameters

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_OTHER_NAMES = {"bfloat16": "bf16", "bf16-mixed": "bf16", "float16": "fp16", "half": "fp16", "16-mixed": "fp16"}
_INIT_SCALE = 2.0**16
_LOWEST_SCALE = 2.0**-24  # a gradient that overflows float16 even so was above 10^12


class MixedPrecisionCallback(Callback):
    """Run the model in half precision by `torch.autocast`, and keep weights, predictions, loss and history in float32.

    Predictions are cast before anybody sees them, so loss, metrics and records are computed in float32, in training, in
    validation and in `get_preds`; a loss that the model makes itself is cast as well. `learn.output` stays as the model
    gave it.

    "bf16" has the range of float32 and needs nothing more. "fp16" has not: the loss is multiplied by a scale before the
    backward pass, and the gradients are divided by it as soon as they are whole, so clipping, statistics and callbacks
    of order above -45 see true gradients; `learn.loss` is never scaled. A step whose gradients are infinite or NaN is
    skipped: these callbacks do not hear of it, its gradients are dropped, `learn.n_skipped` counts it and the scale is
    halved. After 2000 steps in a row without one the scale is doubled. This takes one look at the device for each step;
    "bf16" takes none. A learner that has trained keeps its scale in the next fit, as its optimizer keeps momentum.

    Callbacks of order below -45 see scaled gradients in `after_backward`. Gradients of parameters that the
    optimizer leaves out stay scaled.

    Args:
        dtype: "bf16" or "fp16"; "bf16" is the better one where the hardware has it.
        init_scale: what "fp16" multiplies the loss by at first.

    Attributes:
        dtype: of `torch`.

    Reads: model, opt, training, n_steps, n_skipped.
    Writes: preds, loss.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind, or goes with the other `dtype`.
        LearnerError: at the start of a pass, beside another of its kind, or if torch has no autocast for the device of
            the model. With "fp16" also at the start of a fit, if trained parameters are in half precision, or the
            optimizer needs a closure; in a batch, if a step has no gradient at all, or was put off after its gradients
            had been unscaled; at the end of a training pass, if gradients are finite at no scale.

    Source:
        Micikevicius et al., Mixed Precision Training (2018), section 3;
        https://docs.pytorch.org/docs/stable/amp.html

    Example:
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 16)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=4)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=MixedPrecisionCallback("bf16"))
        >>> learn.fit(10)
        >>> learn.get_preds(dls["train"])[0].dtype, learn.model.weight.dtype
        (torch.float32, torch.float32)
    """

    order = -45
    after = (AccumulateCallback,)
    before = (ClipGradientCallback,)

    def __init__(self, dtype: Literal["bf16", "fp16"] = "bf16", init_scale: float = _INIT_SCALE) -> None:
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            meant = _OTHER_NAMES.get(str(dtype).removeprefix("torch."))
            hint = f"; do {meant!r}" if meant else ""
            raise ValueError(f"`dtype` must be 'bf16' or 'fp16', got {dtype!r}{hint}.")
        self.dtype = _DTYPES[dtype]
        self._is_scaled = self.dtype is torch.float16
        self._init_scale = _checked_scale(init_scale)
        if not self._is_scaled and self._init_scale != _INIT_SCALE:
            raise ValueError(f"`init_scale` must be left out with 'bf16', which needs no scale, got {init_scale!r}.")
        self._state = self._first_state()
        self._scaler: GradScaler | None = None  # there during a training pass
        self._autocast: torch.autocast | None = None  # of the pass
        self._unscaled_at = -1  # steps, made or skipped, when gradients were last unscaled
        if self._is_scaled:  # else nobody calls them: a wrapper that only passes on would cost as much as one that acts
            vars(self).update(around_backward=self._scale_loss, after_backward=self._unscale_gradients)

    @property
    def scale(self) -> float:
        """What the loss is multiplied by: 1.0 with "bf16"; else reading it waits for the device."""
        return float(self.state_dict().get("scale", 1.0))

    # -- forward -----------------------------------------------------------------------------------------------

    def before_epoch(self, learn: Learner) -> None:
        """Find the device, since passes outside of a fit have no `before_fit`; make the scaler of a training pass."""
        if sum(isinstance(cb, MixedPrecisionCallback) for cb in learn.cbs) > 1:
            raise LearnerError("`cbs` must hold one MixedPrecisionCallback, got several; leave all but one out.")
        device = _device_of(learn.model)
        if not is_autocast_available(device.type):
            raise LearnerError(
                f"`model` must be on a device that torch has autocast for to run in mixed precision, got "
                f"{device.type!r}; move it, or leave MixedPrecisionCallback out."
            )
        self._autocast = torch.autocast(device.type, self.dtype)
        if self._is_scaled and learn.training:
            self._scaler = GradScaler(device.type, self._init_scale)
            self._scaler.load_state_dict(self._state)
            # Makes the scale, which a step of gradients from a checkpoint needs before there is a loss.
            self._scaler.scale(torch.zeros((), device=device))

    def around_predict(self, learn: Learner, action: Callable[[], None]) -> None:
        """Run the model in half precision; nobody is to go on with its predictions in it."""
        # Left after each batch, since until then autocast keeps the weights that it has cast. There is none yet where
        # a batch is run outside of any pass.
        with self._autocast or torch.autocast(_device_of(learn.model).type, self.dtype):
            action()
        learn.preds = in_float32(learn.preds)

    def after_loss(self, learn: Learner) -> None:
        """Cast a loss that the model has made; one of float32 predictions is in float32."""
        if learn.loss.dtype in HALF:
            learn.loss = learn.loss.float()

    # -- scaled gradients --------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        """Refuse what cannot be scaled; start clean in a learner that has not trained."""
        if not self._is_scaled:
            return
        who = f"{type(self).__name__}('fp16')"
        refuse_closure(learn, who, ", where nobody would unscale the gradients ('bf16' needs no scale)")
        if self.every is not None:
            raise LearnerError(f"`every` of {who} must be None, got {self.every!r}: all gradients must be scaled.")
        for name, parameter in named_parameters(learn).items():
            if parameter.requires_grad and parameter.dtype in HALF:
                raise LearnerError(
                    f"`model` must have float32 parameters to be trained with {who}, got {parameter.dtype} in "
                    f"{name!r}; leave out `.half()` or `.bfloat16()`: autocast casts for itself."
                )
        if not learn.n_steps + learn.n_skipped:
            self._state = self._first_state()

    def _scale_loss(self, learn: Learner, action: Callable[[], None]) -> None:
        """Scale the loss for the backward pass alone; this is `around_backward`."""
        if self._scaler is None:
            raise LearnerError(
                f"{type(self).__name__}('fp16') must be there when a training pass begins, got one that was added to "
                f"{learn.dl_name!r} later; add it before."
            )
        if self._unscaled_at == learn.n_steps + learn.n_skipped and _has_gradient(learn):
            raise LearnerError(
                f"a step must be put off before {type(self).__name__}('fp16') unscales the gradients, got one that was "
                f"put off later, whose gradients scaled ones would join; give who puts it off an order below "
                f"{self.order}."
            )
        loss = learn.loss
        learn.loss = self._scaler.scale(loss)
        try:
            action()
        finally:
            learn.loss = loss

    def _unscale_gradients(self, learn: Learner) -> None:
        """Unscale the gradients of a whole step, and skip it if they are not finite; this is `after_backward`."""
        if not _has_gradient(learn):
            raise LearnerError(
                f"a step with {type(self).__name__}('fp16') must have a gradient, got none in all of `learn.opt`; "
                f"does the loss depend on the parameters that it trains?"
            )
        scaler: Any = self._scaler  # there while training
        stand_in = _StandIn(learn.opt.param_groups)  # type: ignore[union-attr]  # there is one while training
        learn.job.before_norm()  # all have to find their gradients finite
        scaler.step(stand_in)
        scaler.update()
        if not stand_in.was_stepped:
            raise CancelStepException
        self._unscaled_at = learn.n_steps + learn.n_skipped

    def after_epoch(self, learn: Learner) -> None:
        """Say that no scale will do, else the weights would stay as they are for good."""
        if self._scaler is not None and learn.training and self.scale < _LOWEST_SCALE:
            raise LearnerError(
                f"the gradients must be finite at some scale of the loss, got infinite or NaN ones down to a scale of "
                f"{self.scale:.1g} in epoch {learn.epoch}, loader {learn.dl_name!r}; lower the learning rate, look for "
                f"a loss that is not finite, or use 'bf16'."
            )

    def cleanup_epoch(self, learn: Learner) -> None:
        """Keep the scale as plain data; the scaler holds tensors, and may hold what an error has left."""
        if learn.training:
            self._state, self._scaler = self.state_dict(), None

    # -- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, and for how many steps it has held; empty for "bf16", which has none."""
        return dict(self._state) if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a scale."""
        self._state = dict(state)
        if self._scaler is not None:
            self._scaler.load_state_dict(self._state)

    def differences(self, state: dict[str, Any]) -> list[str]:
        """Say whether a checkpoint is of the other `dtype`."""
        saved = "fp16" if state else "bf16"
        return [] if _DTYPES[saved] is self.dtype else [f"`dtype` is {self.dtype} here, {_DTYPES[saved]} saved"]

    def _first_state(self) -> dict[str, Any]:
        return GradScaler("cpu", self._init_scale).state_dict() if self._is_scaled else {}


class _StandIn:
    """What a scaler takes for an optimizer: its gradients are unscaled, its step only says that they are finite.

    So the outcome is known before the clip looks, the step stays the learner's, with all that wraps it, and a fused
    optimizer, which would skip on the device where nobody can see it, does not.
    """

    def __init__(self, param_groups: list[dict[str, Any]]) -> None:
        self.param_groups = param_groups
        self.was_stepped = False

    def step(self) -> None:
        self.was_stepped = True


def _has_gradient(learn: Learner) -> bool:
    groups = learn.opt.param_groups  # type: ignore[union-attr]  # there is one while training
    return any(p.grad is not None for group in groups for p in group["params"])


def _device_of(model: nn.Module) -> torch.device:
    """Return the device that a model is on; a model without any tensor counts as on the CPU."""
    tensor: Tensor | None = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _checked_scale(scale: float) -> float:
    if not 0 < real_number(scale, "init_scale") <= torch.finfo(torch.float32).max:
        raise ValueError(f"`init_scale` must be above 0 and finite in float32, got {scale!r}; do 2**16.")
    return float(scale)
