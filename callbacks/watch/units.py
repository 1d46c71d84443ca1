"""How units of a layer stop learning: they die where an activation is flat at zero, and saturate where it has ends."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

_NEAR_THE_END = 0.95  # of the way from the middle of a range to its ends; a tanh has a tenth of its slope there

_FLAT_AT_ZERO = (
    nn.ReLU,
    nn.ReLU6,
    nn.Threshold,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Hardswish,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
)


def can_die(module: nn.Module) -> bool:
    """Return whether the units of a module can die: output about zero for every input.

    This is known of torch's own activations; any other module without parameters may be such an activation.

    Example:
        >>> can_die(nn.ReLU()), can_die(nn.LeakyReLU()), can_die(nn.Linear(3, 2))
        (True, False, False)
    """
    if type(module) in _FLAT_AT_ZERO:
        return True
    is_of_torch = type(module).__module__.startswith("torch.")
    return not is_of_torch and next(module.parameters(), None) is None


def saturates(module: nn.Module) -> bool:
    """Return whether `saturated` knows the range of a module's output."""
    return type(module) in _SATURATED


def saturated(module: nn.Module, output: Tensor) -> Tensor:
    """Return the fraction of an activation's output at the ends of its range, without waiting for the device.

    The ends are the last 5 percent of the way from the middle: above 0.95 for `Tanh`, below 0.025 and above 0.975 for
    `Sigmoid`. Of `Softmax` it is the fraction of distributions with a probability above 0.95.

    Example:
        >>> import torch
        >>> saturated(nn.Tanh(), torch.tensor([-0.99, 0.0, 0.5, 0.96]))
        tensor(0.5000)
    """
    return _SATURATED[type(module)](module, output).float().mean()


def _within(low: float, high: float) -> Callable[[nn.Module, Tensor], Tensor]:
    middle, reach = (low + high) / 2, _NEAR_THE_END * (high - low) / 2
    return lambda module, output: (output - middle).abs() > reach


def _of_hardtanh(module: nn.Hardtanh, output: Tensor) -> Tensor:
    return _within(module.min_val, module.max_val)(module, output)


def _of_softmax(module: nn.Softmax, output: Tensor) -> Tensor:
    return output.amax(-1 if module.dim is None else module.dim) > _NEAR_THE_END


_SATURATED: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Tanh: _within(-1, 1),
    nn.Softsign: _within(-1, 1),
    nn.Sigmoid: _within(0, 1),
    nn.Hardsigmoid: _within(0, 1),
    nn.Hardtanh: _of_hardtanh,
    nn.Softmax: _of_softmax,
    nn.Softmax2d: lambda module, output: output.amax(-3) > _NEAR_THE_END,
}
