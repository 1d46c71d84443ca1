"""How long four trainings are for their user, here and elsewhere: `python benchmarks/lengths.py`.

Counts what says how a step goes and drives the training, in Python's statements and in tokens: in each file of
`benchmarks/peers/`, the body of the function of a framework; for this library, with the callback of the example.
Models, data and imports are not counted, nor is what is only logged. A framework that is installed also trains, and the
table says how far its weights end from those of the example at most.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import inspect
import io
import logging
import math
import sys
import tempfile
import textwrap
import tokenize
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from learner import Callback, Learner

# How many epochs each trains for; with fastai all but the first epoch of a GAN begin with a step of the generator.
TRAININGS = {"gan": 1, "wgan_gp": 1, "bptt": 2, "actor_critic": 2}
FRAMEWORKS = {"ours": "torch", "fastai": "fastai", "lightning": "lightning", "ignite": "pytorch-ignite"}
TOKENS = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)


class Uncounted(ast.NodeTransformer):
    """Take out imports, docstrings, what is only logged, and `__init__`, which says what a model consists of."""

    def visit(self, node: ast.AST) -> Any:
        is_init = isinstance(node, ast.FunctionDef) and node.name == "__init__"
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_log = isinstance(node, ast.Expr) and ast.unparse(node).startswith("learn.log(")
        return None if is_init or is_import or is_text or is_log else self.generic_visit(node)


def own_part(name: str, framework: str) -> ast.Module:
    """Return what a user of a framework writes for a training."""
    peers, example = importlib.import_module(f"benchmarks.peers.{name}"), importlib.import_module(f"examples.{name}")
    callbacks = callbacks_of(example) if framework == "ours" else []
    body = [statement for code in callbacks for statement in parsed(code).body]
    function = parsed(getattr(peers, framework)).body[0]
    assert isinstance(function, ast.FunctionDef)
    tree: ast.Module = Uncounted().visit(ast.Module([*body, *function.body], []))
    return tree


def callbacks_of(example: ModuleType) -> list[type]:
    classes = [value for value in vars(example).values() if inspect.isclass(value) and issubclass(value, Callback)]
    return [cls for cls in classes if cls.__module__ == example.__name__]


def parsed(code: Callable[..., Any]) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(code)))


def length(tree: ast.Module) -> tuple[int, int]:
    """Return the number of statements and of tokens; layout does not matter."""
    tokens = tokenize.generate_tokens(io.StringIO(ast.unparse(tree)).readline)
    return sum(isinstance(node, ast.stmt) for node in ast.walk(tree)), sum(token.type in TOKENS for token in tokens)


def weights_after(name: str, train: Callable[[Any], object]) -> torch.Tensor:
    """Train what the example trains, from the same seed each time; return its weights."""
    learn = importlib.import_module(f"examples.{name}").make_learner()
    torch.manual_seed(1)
    train(learn)
    return nn.utils.parameters_to_vector(learn.model.parameters())


def difference(name: str, framework: str) -> float:
    """Return how far two weights are apart at most, one trained by the example, one by a framework; NaN: not run."""
    n_epochs, train = TRAININGS[name], getattr(importlib.import_module(f"benchmarks.peers.{name}"), framework)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        expected = weights_after(name, lambda learn: learn.fit(n_epochs))
        try:
            found = weights_after(name, lambda learn: train(**wanted(train, learn, n_epochs)))
        except ImportError as error:
            print(f"{framework}: not installed ({error})", file=sys.stderr)
            return math.nan
    return float((found - expected).abs().max())


def wanted(train: Callable[..., Any], learn: Learner, n_epochs: int) -> dict[str, Any]:
    """Return what a function of `benchmarks/peers/` names: the model or its parts, the loader, how many epochs."""
    parts = dict(learn.model.items()) if isinstance(learn.model, nn.ModuleDict) else {}
    given = {**parts, "model": learn.model, "loader": learn.dls["train"], "n_epochs": n_epochs}
    return {name: given[name] for name in inspect.signature(train).parameters}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(", ".join(f"{package} {version(package)}" for package in FRAMEWORKS.values()))
    print(
        f"\n| statements (tokens) | {' | '.join(FRAMEWORKS)} | farthest weight |\n|---|{'--:|' * (len(FRAMEWORKS) + 1)}"
    )
    for name in TRAININGS:
        lengths = ["{} ({})".format(*length(own_part(name, framework))) for framework in FRAMEWORKS]
        apart = [difference(name, framework) for framework in FRAMEWORKS]
        print(f"| `{name}` | {' | '.join(lengths)} | {', '.join(f'{each:.1g}' for each in apart)} |", flush=True)


if __name__ == "__main__":
    main()
