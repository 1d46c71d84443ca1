"""Forward hooks that always leave: the one place in the project that knows how to hook a module."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

HookFunction = Callable[["Hook", nn.Module, tuple[Any, ...], Any], Any]

# Where torch keeps the hooks that are put on here, and how each is called.
_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")


def can_be_hooked(module: nn.Module) -> bool:
    """Tell whether hooks can be put on a module: not on scripted and traced ones, which run without Python.

    Example:
        >>> can_be_hooked(nn.Linear(3, 2))
        True
    """
    return not isinstance(module, torch.jit.ScriptModule)


def after_copy(memo: dict[int, Any], module_id: int, f: Callable[[nn.Module], None]) -> None:
    """Call `f` with the copy of a module when the `copy.deepcopy` that makes it is done.

    Args:
        memo: what `__deepcopy__` is given.
        module_id: the `id` of the module that is copied.
        f: called with its copy.
    """
    if (twin := memo.get(module_id)) is not None:
        end = _EndOfCopy(partial(f, twin))
        memo[id(end)] = end


class _EndOfCopy:
    """Dropped with the memo of a `deepcopy`, when that is done."""

    def __init__(self, f: Callable[[], None]) -> None:
        self._f = f

    def __del__(self) -> None:
        self._f()


class _Listener:
    """What is put into a module's tables of hooks: a callable that a deep copy of the module is made without.

    A copy is not the module that is watched: what it gives would be recorded as given by that one, for ever.
    """

    key: int | None = None  # in the tables

    def __init__(self, module: nn.Module) -> None:
        self._module_id = id(module)  # not the module, which holds this

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        after_copy(memo, self._module_id, self._erase)
        return _ignore

    def _erase(self, module: nn.Module) -> None:
        for table in _TABLES:
            vars(module)[table].pop(self.key, None)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a module must be pickled without the hooks that watch it, got one that is watched just now; save its "
            "`state_dict()`, or a `copy.deepcopy` of it."
        )


def _ignore(*args: Any) -> None:
    """Stand in for a hook until it is erased."""


class _OfHook(_Listener):
    """Calls the function of a hook; must not keep the hook alive, or dropping it would never take it off."""

    def __init__(self, module: nn.Module, hook: Hook) -> None:
        super().__init__(module)
        self._hook = weakref.ref(hook)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if hook := self._hook():
            hook.f(hook, module, inputs, output)


class _Before(_Listener):
    """Calls what is to happen before a module runs."""

    def __init__(self, module: nn.Module, f: Callable[..., Any]) -> None:
        super().__init__(module)
        self._f = f

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._f(args, kwargs)


class _After(_Before):
    """Calls what is to happen after a module has run."""

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return self._f(output)


class Hook:
    """A forward hook: calls `f(hook, module, inputs, output)` each time `module` has run.

    On at once; off at the end of a `with` block, by `remove()`, or when nobody holds the hook any more. What `f`
    returns is dropped: a hook looks, it does not touch. `f` may keep what it finds as attributes of the hook. A
    `copy.deepcopy` of the module has no hook; a module that has one cannot be pickled.

    Args:
        module: the module to watch.
        f: called with the hook, the module, its inputs (a tuple) and its output.

    Raises:
        TypeError: if `module` is not an `nn.Module`, or a scripted one, or if `f` cannot be called.

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
        _require_hookable(module)
        self.f = f
        listener = _OfHook(module, self)
        self._handle = module.register_forward_hook(listener)
        listener.key = self._handle.id

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
        _require_hookable(module)
        self._handles = []
        if before:
            listener = _Before(module, before)
            self._handles.append(module.register_forward_pre_hook(listener, with_kwargs=True))
            listener.key = self._handles[-1].id
        if after:
            listener = _After(module, after)
            self._handles.append(module.register_forward_hook(listener))
            listener.key = self._handles[-1].id

    def remove(self) -> None:
        """Take both off; a second time does nothing."""
        for handle in self._handles:
            handle.remove()


def _require_hookable(module: nn.Module) -> None:
    if not can_be_hooked(module):
        name = getattr(module, "original_name", type(module).__name__)
        raise TypeError(
            f"`module` must be a module that runs in Python, got a scripted or traced {name}, on which no hook can be "
            f"put; watch the module around it, or use the module that was scripted."
        )


class _Uncompiled(AbstractContextManager[None]):
    """Settings of the process that several need at once, in any order and any thread: the last one puts them back."""

    def __init__(self) -> None:
        self._lock, self._n_users = Lock(), 0
        self._was_fused = True
        self._stance: AbstractContextManager[Any] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_users:
                self._was_fused = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            # If nothing is compiled, to import it takes seconds; it may come while somebody is in here.
            if self._stance is None and "torch._dynamo" in sys.modules:
                self._stance = torch.compiler.set_stance("force_eager")
            self._n_users += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:
            self._n_users -= 1
            if self._n_users:
                return
            torch.backends.mha.set_fastpath_enabled(self._was_fused)
            if self._stance is not None:
                self._stance.__exit__(None, None, None)
                self._stance = None


_UNCOMPILED = _Uncompiled()


def uncompiled() -> AbstractContextManager[None]:
    """Run modules as they were written: what was compiled already calls no hook that is put on later.

    The fused kernels of torch's own transformers are off as well: an encoder hands its layers nested tensors for them,
    which layers with hooks cannot take. Both are settings of the process, so that other threads run uncompiled too for
    as long as one of them is in here.

    Source:
        Observed with torch 2.13: a hook on what was compiled fires 0 times, and nothing says so; a hook on a layer of a
        `TransformerEncoder` that is given padding under `no_grad` ends in "NestedTensorImpl doesn't support sizes".
        What was compiled stays compiled.
    """
    return _UNCOMPILED
