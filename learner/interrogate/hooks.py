"""Forward hooks that always leave: the one place in the project that knows how to hook a module."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

HookFunction = Callable[["Hook", nn.Module, tuple[Any, ...], Any], Any]


class Hook:
    """A forward hook: calls `f(hook, module, inputs, output)` each time `module` has run.

    On at once; off at the end of a `with` block, by `remove()`, or when nobody holds the hook any more. What `f`
    returns is dropped: a hook looks, it does not touch. `f` may keep what it finds as attributes of the hook.

    Args:
        module: the module to watch.
        f: called with the hook, the module, its inputs (a tuple) and its output.

    Raises:
        TypeError: if `module` is no `nn.Module` or `f` cannot be called.

    Example:
        >>> import torch
        >>> layer = nn.Linear(3, 2)
        >>> def shape(hook, module, inputs, output): hook.shape = tuple(output.shape)
        >>> with Hook(layer, shape) as hook:
        ...     _ = layer(torch.ones(4, 3))
        >>> hook.shape, len(layer._forward_hooks)
        ((4, 2), 0)
    """

    def __init__(self, module: nn.Module, f: HookFunction) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"`module` must be an nn.Module, got {module!r}.")
        if not callable(f):
            raise TypeError(f"`f` must be a function of (hook, module, inputs, output), got {f!r}.")
        self.f = f
        # The module must not keep the hook alive, or dropping the hook would never take it off.
        this = weakref.ref(self)

        def call(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if hook := this():
                hook.f(hook, module, inputs, output)

        self._handle = module.register_forward_hook(call)

    def remove(self) -> None:
        """Take the hook off; a second time does nothing."""
        self._handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self.remove()


class Hooks:
    """One `Hook` for each of several modules; off together, however the block ends.

    Args:
        modules: a model (then its direct children) or an iterable of modules.
        f: as for `Hook`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> def mean(hook, module, inputs, output): hook.mean = output.mean().item()
        >>> with Hooks(model, mean) as hooks:
        ...     _ = model(torch.zeros(1, 3))
        >>> len(hooks), [round(hook.mean, 3) >= 0 for hook in hooks][1]
        (2, True)
    """

    def __init__(self, modules: nn.Module | Iterable[nn.Module], f: HookFunction) -> None:
        self._hooks: list[Hook] = []
        try:
            for module in modules.children() if isinstance(modules, nn.Module) else modules:
                self._hooks.append(Hook(module, f))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take all hooks off."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    def __iter__(self) -> Iterator[Hook]:
        return iter(self._hooks)

    def __len__(self) -> int:
        return len(self._hooks)

    def __getitem__(self, i: int) -> Hook:
        return self._hooks[i]


class Tap:
    """Hooks at both ends of a module, which may change what goes in and what comes out.

    Args:
        module: the module to watch.
        before: called with args and kwargs before the module runs; gives others to go in, or None.
        after: called with the output after it has run; gives another, or None.
    """

    def __init__(
        self,
        module: nn.Module,
        before: Callable[[tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]] | None] | None,
        after: Callable[[Any], Any] | None,
    ) -> None:
        self._handles = []
        if before:
            self._handles.append(
                module.register_forward_pre_hook(lambda module, args, kwargs: before(args, kwargs), with_kwargs=True)
            )
        if after:
            self._handles.append(module.register_forward_hook(lambda module, inputs, output: after(output)))

    def remove(self) -> None:
        """Take both off; a second time does nothing."""
        for handle in self._handles:
            handle.remove()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run modules as they were written: what was compiled already calls no hook that is put on later.

    The fused kernels of torch's own transformers are off as well: an encoder hands its layers nested tensors for them,
    which layers with hooks cannot take.

    Source:
        Observed with torch 2.13: a hook on what was compiled fires 0 times, and nothing says so; a hook on a layer of a
        `TransformerEncoder` that is given padding under `no_grad` ends in "NestedTensorImpl doesn't support sizes".
        What was compiled stays compiled.
    """
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # If nothing is compiled, to import it takes seconds.
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)
