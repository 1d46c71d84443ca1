"""Every notebook runs from top to bottom, and is committed with its outputs."""

import ast
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from learner import Callback, Learner

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def sources(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.notebook
@pytest.mark.serial  # kernels that start at the same time may choose the same port
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the machinery that runs notebooks, not of ours
def test_it_runs(notebook, tmp_path, monkeypatch):
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in the other tests: small networks, shared machines
    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures go into the notebook
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()


def test_it_is_committed_as_it_ran(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_it_says_nothing_of_the_machine_it_ran_on(notebook):
    text = nbformat.writes(notebook)
    assert str(Path.home()) + os.sep not in text
    assert sys.prefix not in text
    assert str(ROOT) not in text


def test_it_defines_no_library_code(notebook):
    """Classes are callbacks and learners to learn from, and small; what is worth keeping belongs into a package."""
    allowed = {cls.__name__ for cls in (Callback, Learner)} | {"Module"}
    for source in sources(notebook):
        for node in ast.walk(ast.parse("\n".join(li for li in source.splitlines() if not li.startswith(("%", "!"))))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                assert node.end_lineno - node.lineno < 25, node.name
            if isinstance(node, ast.ClassDef):
                bases = {base.attr if isinstance(base, ast.Attribute) else base.id for base in node.bases}
                assert not bases or bases & allowed, node.name
