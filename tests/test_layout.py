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
from tests.imports import Import, Tree

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


DOORS = [
    *PACKAGES,
    *(f"learner/{room}" for room in ("checkpoint", "data", "interrogate", "optim", "ranks", "records", "replay")),
]


@pytest.mark.parametrize("package", DOORS)
def test_the_door_is_sorted_complete_and_real(package):
    door = importlib.import_module(package.replace("/", "."))
    assert door.__all__ == sorted(door.__all__)
    stub = ast.parse((ROOT / package / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    named = [alias.name for node in imports for alias in node.names]
    assert sorted(named) == door.__all__
    assert all(alias.asname == alias.name for node in imports for alias in node.names)  # for type checkers: exported
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
    assert defined - {"Monitor", "PositionTransform", "WeightAverage"} <= set(callbacks.__all__)  # bases of others


@pytest.mark.parametrize("file", [file for file in MODULES if file.parts[0] == "learner"], ids=str)
def test_the_learner_knows_no_concrete_callback(file):
    if file.stem != "__main__":  # the demo, the front door
        assert "callbacks" not in imported_names(file)


@pytest.mark.parametrize("file", [*MODULES, *(Path(package, "__init__.py") for package in PACKAGES)], ids=str)
def test_what_is_always_imported_is_always_installed(file):
    allowed = {"torch", "numpy", "fastcore", "tqdm", "lazy_loader", "learner", "callbacks", *sys.stdlib_module_names}
    if file == Path("learner/drawing.py"):  # imported only by what draws
        allowed.add("matplotlib")
    assert top_level_imports(file) <= allowed


HEAVY = {
    *("matplotlib", "pandas", "pyarrow", "sklearn", "scipy", "umap", "IPython", "transformers"),
    *("torchmetrics", "torcheval", "fastcore.xml", "tensorboard", "wandb", "mlflow", "trackio", "safetensors"),
    *("onnx", "onnxruntime", "onnxscript"),
}


def test_no_door_and_no_public_name_draws_in_anything_heavy():
    """One process imports each public name in turn; what the first to draw in a heavy package is called is printed."""
    script = f"""
import sys, torch
from importlib import import_module
before = set(sys.modules)
def report(what):
    new = set(sys.modules) - before
    print(what, *(new | {{name.split(".")[0] for name in new}}) & {HEAVY})
for package in {[door.replace("/", ".") for door in DOORS]}:
    door = import_module(package)
    report(package)
    for name in door.__all__:
        getattr(door, name)
        report(f"{{package}}.{{name}}")
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) > len(callbacks.__all__) + len(learner.__all__)
    assert [line for line in lines if " " in line] == []


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


# What may import what inside `learner`: each file or room, and those that it stands on. A room may import itself.
FLOORS = {
    "errors": (),
    "drawing": (),
    "history": ("drawing", "errors"),
    "data": ("errors",),
    "interrogate": ("data", "drawing", "errors"),
    "optim": ("interrogate", "data", "errors"),
    "callback": ("loop.naming", "loop.types"),
    "ranks": ("data", "errors"),
    "loop": ("ranks", "callback", "interrogate", "optim", "data", "drawing", "history", "errors"),
    "checkpoint": ("ranks", "loop", "callback", "interrogate", "optim", "data", "history", "errors"),
    "records": ("ranks.job", "checkpoint.atomic", "checkpoint.lock", "data", "history", "drawing", "errors"),
    "inference": (
        *("checkpoint.atomic", "checkpoint.export", "checkpoint.shards", "loop", "callback", "interrogate", "data"),
        *("history", "errors"),
    ),
    "replay": (
        *("checkpoint", "records.ids", "loop", "callback", "interrogate", "optim", "data", "history", "drawing"),
        "errors",
    ),
    "learner": (
        *("replay", "inference", "checkpoint", "loop", "ranks", "callback", "interrogate", "optim", "data", "history"),
        "errors",
    ),
}
FRONT_DOORS = ("learner", "learner.__main__")  # the names that users import; the demo


def is_inside(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def rises(one: Import, floors: dict[str, tuple[str, ...]]) -> bool:
    """Return whether an import goes against the floors, annotations included: those have `learner.loop.types`."""
    if one.source in FRONT_DOORS:
        return False
    room = one.source.split(".")[1]
    below = tuple(f"learner.{each}" for each in (room, *floors[room]))
    names_the_class = one.source == "learner.loop.types" and one.target == "learner.learner" and not one.at_run_time
    return not is_inside(one.target, below) and not names_the_class


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ROOT, tuple(PACKAGES))


def test_every_room_of_the_learner_has_a_floor(tree):
    rooms = {module.split(".")[1] for module in tree.files if is_inside(module, ("learner",)) and "." in module}
    assert rooms - {"__main__"} <= set(FLOORS)


def test_no_import_rises(tree):
    inside = [one for one in tree.imports if is_inside(one.source, ("learner",))]
    assert len(inside) > 100
    assert [str(one) for one in inside if rises(one, FLOORS)] == []


def test_no_modules_import_one_another_in_a_circle(tree):
    assert tree.circle() == []


def test_private_names_do_not_cross_files():
    assert Tree(ROOT, (*PACKAGES, "tests", "benchmarks", "examples")).private_names() == []


@pytest.fixture
def made_up(tmp_path):
    """Make a tree of files, `learner/` and a path to its text."""

    def make(**texts: str) -> Tree:
        for file in ("__init__", "data/__init__", "loop/__init__", "data/batch", "loop/types", "learner"):
            path = tmp_path / "learner" / f"{file}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts.get(file.replace("/", "_"), ""))
        return Tree(tmp_path, ("learner",))

    return make


@pytest.mark.parametrize(
    "text",
    [
        "from learner.loop.types import Learner",
        "from learner.loop import types",
        "import learner.loop.types",
        "def f():\n    from learner.loop.types import Learner",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from learner.learner import Learner",
        "from learner import Learner",
    ],
)
def test_an_import_that_rises_is_found(made_up, text):
    (one,) = made_up(data_batch=text).imports
    assert str(one).startswith(f"learner/data/batch.py:{len(text.splitlines())}: learner.data.batch imports learner")
    assert rises(one, FLOORS)


def test_only_the_types_of_the_loop_name_the_class_above_and_not_at_run_time(made_up):
    for_annotations = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from learner.learner import Learner"
    assert [rises(one, FLOORS) for one in made_up(loop_types=for_annotations).imports] == [False]
    assert [rises(one, FLOORS) for one in made_up(loop_types="from learner.learner import Learner").imports] == [True]


def test_a_circle_is_found(made_up):
    down = "from learner.data.batch import x"
    assert made_up(learner=down).circle() == []
    circle = made_up(learner=down, data_batch="def f():\n    import learner.learner as l").circle()
    assert set(circle) == {"learner.learner", "learner.data.batch"}
    annotation = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import learner.learner"
    assert made_up(learner=down, data_batch=annotation).circle() == []


@pytest.mark.parametrize(
    "text",
    [
        "from learner.data.batch import _x",
        "from learner.data.batch import _x as x",
        "import learner.data.batch\nlearner.data.batch._x",
        "import learner.data.batch as b\nb._x()",
        "from learner.data import batch\ndef f():\n    return batch._x",
    ],
)
def test_a_private_name_that_crosses_files_is_found(made_up, text):
    (found,) = made_up(learner=text).private_names()
    assert found.startswith(f"learner/learner.py:{len(text.splitlines())}: learner.learner ")
    assert "_x" in found


def test_own_private_names_and_those_of_objects_are_no_ones_business(made_up):
    text = "from learner.data import batch\nbatch.__name__, batch.x._y, self._z, _own"
    assert made_up(learner=text).private_names() == []
