"""Compile the model while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from callbacks.speed.step_graph import StepGraph
from learner import Callback, Learner, LearnerError
from learner.data.batch import describe
from learner.interrogate.layers import inside
from learner.loop.naming import AROUND
from learner.loop.tell import tell

_N_USUAL = 2  # times that a training compiles: for its batches, and for a shorter last one


class CompileCallback(Callback):
    """Compile the model by `torch.compile` for the time of a fit.

    The module stays the same object with the same names, so checkpoints, averages, `learn.summary()` and what is saved
    are as without it; and it works for any module, also an `nn.Sequential` or `nn.Linear`, of which `Module.compile`
    compiles nothing. In batches that hooks look at, as those of `ActivationStats`, it runs as it is, not compiled, for
    compiled code calls no hooks; that is said once. Results differ in the last bits from those of the model as it is.

    A training compiles once, once more for a last batch that is shorter, and once for validation. Where it compiles
    again and again, since each batch has another shape, that is said once, with what to do.

    With `step=True` a whole step, from forward to the optimizer's, is recorded as one CUDA graph in each training pass
    and replayed for all batches of the shape that comes first; others, as a shorter last one, take the usual way, and
    so do the first four, of which three warm up. A replay has no Python in it: no other callback may listen or wrap
    between forward and step, predictions have no graph, gradients are not there in `after_step`, and what is no tensor,
    as the rate of a dropout that somebody changes, stays within a pass as it was recorded. The rate of the optimizer is
    a tensor for the time of the fit, so schedules act; its step must be one that a graph can hold.

    Args:
        mode: of `torch.compile`: None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs".
        dynamic: whether to compile for all shapes; None lets torch find out.
        fullgraph: whether it is an error, which names the place, if the model cannot be compiled as a whole.
        step: whether to replay whole steps as one CUDA graph, besides.

    Attributes:
        n_graphs: graphs that were compiled in this fit or the last one; a later fit of the same model needs none.
        n_replayed: steps that were replayed in this fit or the last one.

    Reads: model, training, xb; with `step=True` also yb, opt, cbs.
    Writes: with `step=True` output, preds, loss, and the rates of `opt` as tensors.

    Raises:
        TypeError, ValueError: if torch has no such mode, or an argument is of the wrong kind.
        LearnerError: when a fit begins, if the machine has no compiler, the model was compiled by hand, or there is
            another callback of this kind; with `step=True`, if the model is not on a CUDA device, a callback stands
            between forward and step, or the optimizer's step cannot be recorded.

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.compile.html,
        https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture

    Example:
        >>> CompileCallback(dynamic=True).n_graphs
        0
    """

    order = -98  # when the model is on its device

    def __init__(
        self,
        mode: str | None = None,
        dynamic: bool | None = None,
        fullgraph: bool = False,
        *,
        step: bool = False,
    ) -> None:
        for name, value in (("dynamic", dynamic), ("fullgraph", fullgraph), ("step", step)):
            if not isinstance(value, bool) and (name != "dynamic" or value is not None):
                raise TypeError(f"`{name}` must be True or False, got {value!r}.")
        modes = torch._inductor.list_mode_options()
        if mode is not None and mode not in modes:
            raise ValueError(f"`mode` must be one of {', '.join(map(repr, modes))}, or None, got {mode!r}.")
        if step and torch._inductor.list_mode_options(mode or "default").get("triton.cudagraphs"):
            raise ValueError(
                f"`mode` must not make CUDA graphs of its own with `step=True`, got {mode!r}; leave it out."
            )
        self.mode, self.dynamic, self.fullgraph = mode, dynamic, fullgraph
        self.step_graph = StepGraph() if step else None
        if step:  # handlers of this object alone: others of its class pay nothing for them
            for name in ("before_epoch", "after_fit", *AROUND):
                setattr(self, name, getattr(self.step_graph, name))
        self.n_graphs = 0
        self._n_known = 0  # graphs, when the last batch was done
        self._has_run_uncompiled = self._is_told = False
        self._shapes: list[str] = []  # of the training batches that were compiled for
        self._module: Any = None  # that is compiled
        self._compiled: tuple[Any, Any] = (None, None)  # a module, and what was made of it; kept for later fits

    @property
    def n_replayed(self) -> int:
        """Steps that were replayed in this fit or the last one."""
        return 0 if self.step_graph is None else self.step_graph.n_replayed

    def before_fit(self, learn: Learner) -> None:
        """Compile the model, as soon as it is called."""
        if sum(isinstance(cb, CompileCallback) for cb in learn.cbs) > 1:
            raise LearnerError("`cbs` must hold one CompileCallback, got several; leave all but one out.")
        module: Any = inside(learn.model)
        if module._compiled_call_impl is not None or module is not learn.model:
            raise LearnerError(
                "`model` must not be compiled already for CompileCallback to compile it, and it is; leave one of the "
                "two out."
            )
        if self.step_graph is not None:
            self.step_graph.begin_fit(learn, self)
        _require_compiler(next((p.device.type for p in module.parameters()), "cpu"))
        self.n_graphs = self._n_known = 0
        self._shapes = []
        self._module = module
        if self._compiled[0] is not module:
            call = torch.compile(
                _caller(module, self._note), backend=self._backend, dynamic=self.dynamic, fullgraph=self.fullgraph
            )
            self._compiled = module, call
        module._compiled_call_impl = self._compiled[1]

    def after_predict(self, learn: Learner) -> None:
        """Say when a training compiles again and again, and when it runs uncompiled."""
        if self._has_run_uncompiled and not self._is_told:
            self._is_told = True
            tell(
                "CompileCallback: the model runs uncompiled in batches that hooks look at, as ActivationStats does, "
                "since compiled code calls no hooks; leave them out where speed counts, or let them look at few "
                "batches (`every=50`)."
            )
        if self.n_graphs == self._n_known:
            return
        self._n_known = self.n_graphs
        if not learn.training or self._module is None:
            return
        self._shapes.append(describe(learn.xb))
        if len(self._shapes) == _N_USUAL + 1:
            warnings.warn(
                f"the model was compiled for the {len(self._shapes)}rd time in one training, for inputs "
                f"{'; '.join(dict.fromkeys(self._shapes))}. Each time takes longer than many batches: let a loader "
                f"drop a shorter last batch (`drop_last=True`), pad to a few lengths, or do "
                f"`CompileCallback(dynamic=True)`.",
                RuntimeWarning,
                stacklevel=2,
            )

    def cleanup_fit(self, learn: Learner) -> None:
        """Have the model as it is again."""
        if self._module is not None:
            self._module._compiled_call_impl, self._module = None, None
        if self.step_graph is not None:
            self.step_graph.end_fit(learn)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_module": None, "_compiled": (None, None)}  # what is compiled cannot be pickled

    def _note(self) -> None:
        self._has_run_uncompiled = True

    def _backend(self, graph: Any, inputs: Any) -> Any:
        self.n_graphs += 1
        return compile_graph(graph, inputs, self.mode, self.dynamic)


def _caller(module: Any, note: Callable[[], None]) -> Callable[..., Any]:
    # What is compiled is the frame that is called: this one, since dynamo passes over those of torch's own modules.
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():  # decided when it is compiled: compiled code does not ask
            note()
        return module._call_impl(*args, **kwargs)

    # Code of its own: dynamo counts for each code how often it was compiled, and gives up after a few modules.
    return FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)


def compile_graph(graph: Any, inputs: Any, mode: str | None, dynamic: bool | None) -> Any:
    """Compile a graph as `torch.compile(mode=mode)` does."""
    from torch._inductor.compile_fx import compile_fx

    return compile_fx(graph, inputs, config_patches=torch._inductor.list_mode_options(mode or "default", dynamic))


def _require_compiler(device: str) -> None:
    """Refuse a machine without a compiler now, not in the first batch.

    Raises:
        LearnerError: saying what to install.
    """
    if device == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise LearnerError(
                "CompileCallback must have Triton to compile for a GPU, and finds none; install `triton`."
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise LearnerError(
            f"CompileCallback must have a C++ compiler to compile for the {device}, and finds none; install g++ or "
            f"clang, or say which in the environment variable CXX."
        ) from error
