"""What the documents say is so: their code runs, their links lead somewhere, their drawing of the loop is the loop."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import callbacks
import learner
from callbacks import LambdaCallback
from learner import Callback, Learner
from learner.callback import SIGNALS
from learner.loop.naming import ACTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMING_FROM = "docs/coming_from.md"
PROCESSES = "docs/guides/processes.md"
PICTURES = ROOT / "docs" / "pictures"
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
MADE = {"_build", "examples"}  # folders of docs/ that are there where the site was built
PAGES = [path.relative_to(ROOT) for path in sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [str(page) for page in PAGES if page.parts[1] not in MADE]
WITH_CODE = [page for page in PAGES if "```python" in (ROOT / page).read_text()]
TRAINING_ONLY = "training loaders only"


def blocks(language: str, text: str = README) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def trace_of_a_run(n_epochs: int) -> list[str]:
    """Return every signal and action of a real fit, one batch to a pass, in the order in which they came."""
    trace: list[str] = []

    def around(action):
        def record(learn, act):
            trace.append(action)
            act()

        return record

    cbs = [
        LambdaCallback(**{signal: lambda learn, signal=signal: trace.append(signal) for signal in SIGNALS}),
        LambdaCallback(**{f"around_{action}": around(action) for action in ACTIONS}),
    ]
    batch = (torch.ones(2, 1), torch.ones(2, 1))
    dls = {"train": [batch], "valid": [batch]}
    Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss, cbs=cbs).fit(n_epochs)
    return trace


def test_the_drawing_of_the_loop_is_what_happens():
    drawings = [block for block in blocks("text") if "before_fit" in block]
    assert len(drawings) == 1
    names = [
        (name, TRAINING_ONLY in line)
        for line in drawings[0].splitlines()
        for name in re.findall(r"[\w.]+", line)
        if name in (*SIGNALS, *ACTIONS)
    ]
    before, *inner, after, cleanup = names
    train = [name for name, _ in inner]
    valid = [name for name, is_training_only in inner if not is_training_only]
    assert trace_of_a_run(2) == [before[0], *(train + valid) * 2, after[0], cleanup[0]]


def test_the_drawing_leaves_nothing_out():
    assert set(trace_of_a_run(1)) == {*SIGNALS, *ACTIONS}


@pytest.mark.parametrize("document", [*WITH_CODE, "README.md"])
def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys, document):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "document"}
    for block in blocks("python", (ROOT / document).read_text()):
        exec(compile(block, str(ROOT / document), "exec"), namespace)


def test_the_script_for_several_processes_is_that_of_one(tmp_path):
    """The one of the document, as it is started there: alone, and by torchrun; both leave the same weights."""
    script = tmp_path / "train.py"
    script.write_text(blocks("python", (ROOT / PROCESSES).read_text())[0])
    trained = []
    for name, command in {
        "one": [],
        "two": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        subprocess.run(
            [sys.executable, *command, script],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )
        trained.append(torch.load(folder / "weights.pt", weights_only=True))
    one, two = trained
    assert all(torch.allclose(two[name], weight, atol=1e-5) for name, weight in one.items())


@pytest.mark.parametrize("document", PAGES)
def test_no_code_of_a_page_is_left_out_of_the_tests(document):
    text = (ROOT / document).read_text()
    others = re.findall(r"^```(?:text|bash|\{[\w-]+\}[^\n]*)\n.*?^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert text.count("```") == 2 * (len(blocks("python", text)) + len(others))


def test_every_example_is_in_the_index_with_its_picture():
    index = (ROOT / "docs/examples.md").read_text()
    found = re.findall(
        r"^## \[(\w+)\.py\]\(\.\./examples/\1\.py\)\n\n!\[.+\]\(pictures/\1\.png\)$", index, re.MULTILINE
    )
    assert sorted(found) == EXAMPLES


def test_each_picture_is_of_an_example_and_small():
    assert sorted(path.stem for path in PICTURES.glob("*")) == EXAMPLES
    assert max(path.stat().st_size for path in PICTURES.glob("*")) < 40_000


def test_every_callback_is_in_the_table_of_the_readme():
    table = README.partition("## Callbacks, by question")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    there = {name: getattr(callbacks, name) for name in callbacks.__all__}
    assert {name for name, one in there.items() if isinstance(one, type) and issubclass(one, Callback)} <= named
    assert named <= there.keys()


def test_what_a_name_from_elsewhere_is_here_is_here():
    learn = Learner(torch.nn.Linear(1, 1), {"train": [(torch.ones(2, 1),) * 2]}, torch.nn.functional.mse_loss)
    rows = re.findall(r"^\|.*\| (.*) \|$", (ROOT / COMING_FROM).read_text(), flags=re.MULTILINE)
    code = " ".join(span for cell in rows for span in re.findall("`([^`]+)`", cell))
    attributes = set(re.findall(r"\blearn\.(\w+)", code))
    names = set(re.findall(r"\b\w+(?:Callback|Stats|Exception)\b|\bLoaders\b|\bLearner\b", code))
    assert len(attributes) > 15
    assert len(names) > 15
    assert [name for name in attributes if not hasattr(learn, name)] == []
    assert [name for name in names if not hasattr(callbacks, name) and not hasattr(learner, name)] == []


def test_the_version_is_the_same_everywhere():
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1]
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)[1]
    assert {newest, cited} - {"Unreleased"} == {learner.__version__}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES])
def test_links_lead_somewhere(document):
    text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)  # no code
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert ((ROOT / document).parent / target).exists(), target


def test_the_map_in_contributing_shows_every_room_and_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    drawing = re.search(r"## Where things are\n+```text\n(.*?)```", text, flags=re.DOTALL).group(1)
    drawn, package = set(), ""
    for indent, name in re.findall(r"^( *)([\w./]+) ", drawing, flags=re.MULTILINE):
        package = package if indent else name
        drawn.add(f"{package}{name}" if indent else name)
    rooms = {
        f"{top}/{door.parent.name}/" for top in ("learner", "callbacks") for door in ROOT.glob(f"{top}/*/__init__.py")
    }
    assert rooms <= drawn
    for path in drawn | set(re.findall(r"`((?:learner|callbacks|tests)/[\w./]*)`", text)):
        assert (ROOT / path).exists(), path


def test_ci_runs_the_test_command_of_the_readme():
    commands = [line for block in blocks("bash") for line in block.splitlines() if "pytest" in line]
    assert len(commands) == 1
    install, checks = commands[0].split(" && ", 1)
    ci = (ROOT / ".ci" / "run").read_text()
    assert install.removeprefix("pip install ") in ci
    assert checks in ci
