"""Where things are: a test file per module, one door per package, imports in one direction, light to import."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import callbacks
import learner
from learner import Callback

ROOT = Path(__file__).parents[1]
PACKAGES = {"learner": learner, "callbacks": callbacks}
MODULES = sorted(
    file.relative_to(ROOT)
    for package in PACKAGES
    for file in (ROOT / package).rglob("*.py")
    if file.name not in ("__init__.py", "types.py")  # a door; a name for annotations
)


def module_of(file: Path):
    return importlib.import_module(".".join(file.with_suffix("").parts))


def imported_names(file: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere, also inside functions."""
    nodes = list(ast.walk(ast.parse((ROOT / file).read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def top_level_imports(file: Path) -> set[str]:
    body = ast.parse((ROOT / file).read_text()).body
    return {alias.name.split(".")[0] for node in body if isinstance(node, ast.Import) for alias in node.names} | {
        (node.module or ".").split(".")[0] for node in body if isinstance(node, ast.ImportFrom)
    }


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_every_module_has_a_test_file_of_its_name(file):
    assert (ROOT / "tests" / file.parent / f"test_{file.stem.strip('_')}.py").is_file()


DOORS = [*PACKAGES, "learner/checkpoint", "learner/data", "learner/interrogate", "learner/records"]


@pytest.mark.parametrize("package", DOORS)
def test_the_door_is_sorted_complete_and_real(package):
    door = importlib.import_module(package.replace("/", "."))
    assert door.__all__ == sorted(door.__all__)
    stub = ast.parse((ROOT / package / "__init__.pyi").read_text())
    named = [alias.name for node in stub.body for alias in node.names]
    assert sorted(named) == door.__all__
    assert all(alias.asname == alias.name for node in stub.body for alias in node.names)  # for type checkers: exported
    assert all(hasattr(door, name) for name in named)


def test_every_callback_there_is_can_be_imported_from_callbacks():
    defined = {
        name
        for file in MODULES
        if file.parts[0] == "callbacks"
        for name, value in vars(module_of(file)).items()
        if inspect.isclass(value) and issubclass(value, Callback) and value.__module__.startswith("callbacks.")
        if not name.startswith("_")
    }
    assert defined - {"Monitor"} <= set(callbacks.__all__)  # a base of those that follow a metric


@pytest.mark.parametrize("file", [file for file in MODULES if file.parts[0] == "learner"], ids=str)
def test_the_learner_knows_no_concrete_callback(file):
    if file.stem != "__main__":  # the demo, the front door
        assert "callbacks" not in imported_names(file)


@pytest.mark.parametrize("file", [*MODULES, *(Path(package, "__init__.py") for package in PACKAGES)], ids=str)
def test_what_is_always_imported_is_always_installed(file):
    allowed = {"torch", "numpy", "fastcore", "tqdm", "lazy_loader", "learner", "callbacks", *sys.stdlib_module_names}
    assert top_level_imports(file) <= allowed


@pytest.mark.parametrize("package", [*PACKAGES, "learner.interrogate"])
def test_importing_draws_in_nothing_heavy(package):
    heavy = ["matplotlib", "pandas", "sklearn", "torchmetrics", "torcheval", "IPython", "scipy", "transformers", "umap"]
    script = f"import sys, torch; before = set(sys.modules); import {package}; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in run.stdout.split()} & set(heavy)


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_every_public_thing_says_what_it_does(file):
    module = module_of(file)
    assert module.__doc__
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
        if inspect.isclass(value):
            for key, method in vars(value).items():
                assert key.startswith("_") or not inspect.isfunction(method) or method.__doc__, f"{name}.{key}"


@pytest.mark.parametrize("package", PACKAGES)
def test_it_is_typed(package):
    assert (ROOT / package / "py.typed").is_file()
