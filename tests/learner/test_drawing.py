"""Every plot method there is gives one picture in a notebook, wherever in a cell it stands."""

import ast
import pickle
from pathlib import Path

import nbformat
import pytest
from matplotlib import pyplot as plt
from nbclient import NotebookClient

from learner.drawing import Drawing, new_figure, subplots

ROOT = Path(__file__).parents[2]
FILES = sorted(file for package in ("learner", "callbacks") for file in (ROOT / package).rglob("*.py"))

SETUP = """
import tempfile, warnings
import torch
from torch import nn
from callbacks import *
from learner import Learner, Loaders
from learner.interrogate import representation_map
from learner.records import Table, dynamics
warnings.simplefilter("ignore")
torch.manual_seed(0)
images, labels = torch.rand(40, 8, 8), torch.arange(40) % 2
table = Table.from_dict({"image": list(images), "label": labels.tolist()}).map(lambda row: (row["image"], row["label"]))
stats, gradients = ActivationStats(), GradientStats()
validate, recorder = ValidateCallback(every=1), RecorderCallback(lr=lambda learn: learn.opt.param_groups[0]["lr"])
collect = CollectCallback([ClassificationMetricsCollector(["a", "b"]), EmbeddingsMetricsCollector(["1"])])
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 2))
dls = Loaders.from_datasets(train=table, valid=table, batch_size=10)
learn = Learner(model, dls, nn.functional.cross_entropy, cbs=[stats, gradients, validate, recorder, collect])
learn.fit(2)
train = collect.samples.where(split="train")
found = dynamics(train)
with learn.timed() as timings:
    learn.validate()
read = learn.interpret("valid", classes=["a", "b"])
points = torch.rand(40, 1)
line = Loaders.from_arrays(train=(points, 2 * points), valid=(points, 2 * points), batch_size=10)
keep = CheckpointCallback(tempfile.mkdtemp())
other = Learner(nn.Linear(1, 1), line, nn.functional.mse_loss)
other.fit(2, cbs=keep)
residuals = other.interpret("valid")
futures = other.branch(keep.path, step=4, n_steps=2, change=lambda learn: None, cbs=keep)
"""

# What to ask of the notebook above; each method that returns a figure is here.
CALLS = {
    "ActivationStats.color_dim": "stats.color_dim()",
    "ActivationStats.dead_chart": "stats.dead_chart()",
    "ActivationStats.plot_stats": "stats.plot_stats()",
    "Branch.plot": "futures.plot()",
    "Calibration.plot": "read.calibration.plot()",
    "ClassInterpretation.plot": "read.plot()",
    "ClassInterpretation.plot_confusion": "read.plot_confusion()",
    "Dynamics.plot": "found.plot()",
    "Dynamics.plot_suspects": "found.plot_suspects(2)",
    "GradientStats.color_dim": "gradients.color_dim()",
    "GradientStats.dead_chart": "gradients.dead_chart()",
    "GradientStats.plot_stats": "gradients.plot_stats()",
    "History.plot": "learn.history.plot()",
    "Interpretation.plot_top_losses": "read.plot_top_losses(2)",
    "LRFinderResult.plot": "learn.lr_find(plot=False).plot()",
    "RecorderCallback.plot": "recorder.plot()",
    "RegressionInterpretation.plot": "residuals.plot()",
    "RepresentationMap.plot": "representation_map(images.flatten(1)).plot()",
    "Samples.plot_confusion": "train.plot_confusion()",
    "Samples.plot_histogram": "train.plot_histogram()",
    "Samples.plot_map": 'train.plot_map("embeddings_1")',
    "Samples.plot_worst": "train.plot_worst(2)",
    "Samples.show": "train.show(2)",
    "Timings.plot": "timings.plot()",
    "ValidateCallback.plot": "validate.plot()",
}


def test_every_method_that_returns_a_figure_is_listed():
    found = {
        f"{cls.name}.{method.name}"
        for file in FILES
        for cls in ast.walk(ast.parse(file.read_text()))
        if isinstance(cls, ast.ClassDef) and not cls.name.startswith("_")
        for method in cls.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and method.returns
        if "Figure" in ast.unparse(method.returns).split(" | ")
    }
    assert found == CALLS.keys()


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "drawing.py"], ids=lambda file: file.stem)
def test_figures_are_made_in_one_place(file):
    made = {"plt.figure", "plt.subplots", "plt.subplot_mosaic", "pyplot.figure", "pyplot.subplots"}
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    assert not made & {*calls}


@pytest.mark.notebook
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the machinery that runs notebooks, not of ours
def test_each_gives_one_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    middle = "learn.history.plot()\nfirst = stats.plot_stats()\ngradients.plot_stats()"
    cells = [SETUP, *CALLS.values(), "learn.history.plot();", middle, "first", "from IPython.display import display"]
    cells += ["figure = learn.history.plot()\ndisplay(figure)\nfigure"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    n_pictures = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in notebook.cells[1:]]
    assert dict(zip(CALLS, n_pictures, strict=False)) == dict.fromkeys(CALLS, 1)
    assert n_pictures[len(CALLS) :] == [1, 3, 1, 0, 2]  # asked for twice, it is shown twice


def test_a_figure_stays_open_where_there_is_no_notebook_and_can_be_pickled():
    figure, axes = subplots(1, 2, figsize=(4, 2))
    assert isinstance(figure, Drawing)
    assert len(axes) == 2
    assert figure._repr_mimebundle_(include=None, exclude=None) == {}
    assert figure.number in plt.get_fignums()
    assert isinstance(pickle.loads(pickle.dumps(figure)), Drawing)
    other = new_figure(layout="constrained")
    assert isinstance(other, Drawing)
    plt.close("all")
