"""Run: a folder that holds all that was recorded, opens again, and says what is wrong when it does not."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from learner import LearnerError
from learner.records.run import Run, log
from learner.records.samples import Samples
from learner.records.scalars import Series
from learner.records.schema import CategoricalLabel
from learner.records.table import Table
from tests.learner.records.recorded import full_disk

ROOT = Path(__file__).parents[3]
LABEL = CategoricalLabel("label", ["cat", "dog"])


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "first", config={"lr": 0.1})


@pytest.fixture
def table():
    return Table.from_dict({"x": [0.0, 1.0, 2.0]}, "three")


def files(run) -> list[str]:
    return sorted(
        str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"
    )


# -- make and find -----------------------------------------------------------------------------------------------------


def test_a_run_says_what_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    run = Run.create("runs/first", config={"lr": 0.1, "betas": (0.9, 0.99)}, name="the first")
    assert run.path == tmp_path / "runs" / "first"
    assert files(run) == ["run.json"]
    info = json.loads((run.path / "run.json").read_text())
    assert list(info) == [
        *("format", "name", "created", "status", "config"),
        *("command", "versions", "git", "seed", "tables"),
    ]
    assert info == run.info == Run.open(run.path).info
    assert (info["name"], info["status"], info["seed"]) == ("the first", "created", 5)
    assert info["versions"]["torch"] == torch.__version__
    assert run.config == Run.open("runs/first").config == {"lr": 0.1, "betas": [0.9, 0.99]}
    assert repr(run) == f"Run('the first', created, in {str(run.path)!r})"
    assert Run.create("runs/second").info["name"] == "second"


def test_what_is_given_out_is_a_copy(run):
    run.config["lr"] = run.info["name"] = 3
    run.info["config"]["lr"] = 3
    assert (run.config, run.info["name"]) == ({"lr": 0.1}, "first")


def test_a_folder_that_holds_something_is_refused_and_left_alone(run, tmp_path):
    for path in (run.path, tmp_path, run.path / "run.json"):
        before = run.info
        with pytest.raises(
            FileExistsError, match=r"`path` must be a new folder or an empty one.*do `Run.open\(path\)`"
        ):
            Run.create(path)
        assert Run.open(run.path).info == before
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty").info["name"] == "empty"


def test_a_folder_of_a_run_that_was_killed_when_it_was_made_is_empty(tmp_path):
    for left in (".lock", "run.json.1-0123456789abcdef.tmp"):
        (tmp_path / left).write_text('{"form')
    assert files(Run.create(tmp_path)) == ["run.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": [1]}, "`config` must be a mapping, got"),
        ({"config": {"opt": torch.optim.SGD}}, r"`config\['opt'\]` must be a number, a string"),
        ({"name": 3}, "`name` must be a string, got 3"),
    ],
)
def test_what_cannot_be_kept_makes_no_folder(tmp_path, options, message):
    with pytest.raises(TypeError, match=message):
        Run.create(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LearnerError, match=r"file/new` must be a file that can be written, got .*Not a directory"):
        Run.create(tmp_path / "file" / "new")


def test_no_run_to_open_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must be the folder of a run, got '.*none', which is none"):
        Run.open(tmp_path / "none")
    with pytest.raises(LearnerError, match=r"`path` must be the folder of a run, got .* whose run.json is not there"):
        Run.open(tmp_path)


def test_a_run_that_cannot_be_written_can_be_read(run):
    """Where files cannot be replaced or extended: one clear error each, and nothing is lost."""
    run.log({"loss": 1.0})
    before = run.info
    for write in (
        lambda: run.update(status="running"),
        lambda: run.log({"loss": 2.0}),
        lambda: run.add_metrics_data({"loss": [1.0]}),
        lambda: run.add_figure("a", plt.figure()),
    ):
        with full_disk(), pytest.raises(LearnerError, match="must be a file that can be written, got"):
            write()
        assert run.info == before
        assert not list(run.path.rglob("*.tmp"))
    plt.close("all")
    again = Run.open(run.path)
    assert (again.info["status"], again.scalars()["loss"].values) == ("created", [1.0])


def test_one_writes_at_a_time(run):
    """Others of this program and of another are told who; what they would have lost or overwritten is not begun."""
    script = """if True:
        import sys
        from learner import LearnerError
        from learner.records import Run
        run = Run.open(sys.argv[1])
        for write in (lambda: run.log({"a": 1}), lambda: run.update(a=1), lambda: run.writer("x"), run.__enter__):
            try:
                write()
                print("written")
            except LearnerError as error:
                print(error)
    """
    command = [sys.executable, "-c", script, str(run.path)]
    other = Run.open(run.path)
    with run, run:
        run.log({"loss": 1.0})
        with pytest.raises(LearnerError, match="is being written to by another part of this program"):
            other.log({"loss": 2.0})
        shutil.copytree(run.path, run.path.parent / "copy")  # opens the lock's file, and closes it
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        assert [f"is being written to by process {os.getpid()} on" in line for line in told] == [True] * 4
        assert len(other.logged()) == 1  # reading needs no lock
    other.log({"loss": 2.0})
    other.update(note="of the other")
    run.update(status="running")
    assert (run.info["note"], len(run.logged())) == ("of the other", 2)


def test_tables_of_two_who_take_turns_are_both_known(run):
    other = Run.open(run.path)
    run.register_table(Table([1, 2], "mine"))
    other.register_table(Table([3], "theirs"))
    assert [table["name"] for table in Run.open(run.path).info["tables"].values()] == ["mine", "theirs"]


def test_what_a_killed_process_left_half_written_goes_with_the_next_writing(run):
    fill(run, "a")
    for left in ("run.json", "samples/a.parquet", "vectors/a.x.parquet", "report.html"):
        (run.path / f"{left}.1-0123456789abcdef.tmp").write_bytes(b"PAR1")
    other = run.path / "samples" / "mine.tmp"
    other.touch()
    Run.open(run.path).log({"loss": 1.0})
    left = [path.name for path in run.path.rglob("*.tmp")]
    assert sorted(left) == ["mine.tmp", "report.html.1-0123456789abcdef.tmp"]  # a report may be being written


def test_links_of_a_stranger_lead_nowhere(run, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("my own key")
    fill(run, "mine")
    (tmp_path / "samples").mkdir()
    (run.path / "samples" / "theirs.parquet").symlink_to(next((run.path / "samples").glob("*")))
    for name in ("run.json.tmp", "scalars.jsonl"):
        (run.path / name).symlink_to(keys)
    (run.path / "figures").symlink_to(tmp_path / "samples")
    run.update(note="a")
    with pytest.raises(LearnerError, match="it is a link, which is not followed"):
        run.log({"a": 1})
    with pytest.raises(LearnerError, match="it is a link to another folder"):
        run.add_figure("a", plt.figure())
    plt.close("all")
    assert len(run.samples) == 3
    (run.path / ".lock").unlink()
    (run.path / ".lock").symlink_to(keys)
    with pytest.raises(LearnerError, match="must be a file that can be written"):
        run.update(note="b")
    assert keys.read_text() == "my own key"
    assert list((tmp_path / "samples").iterdir()) == []


def test_a_run_that_is_odd_does_not_take_the_others_down(run):
    """Nor is any waited for."""
    folder = run.path.parent
    for name in ("pipe", "folder", "text", "scalars"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe" / "run.json")
    (folder / "folder" / "run.json").mkdir()
    (folder / "text" / "run.json").write_text('{"format": 1, "config": 3}')
    Run.create(folder / "other")
    os.mkfifo(folder / "other" / "scalars.jsonl")
    found = Run.list(folder)
    broken = dict(zip(found["run"], found["status"], strict=True))
    assert broken == {"pipe": "broken", "folder": "broken", "text": "broken", "other": "broken", "first": "created"}


def test_update_keeps_the_rest(run):
    run.update(status="running", learner={"model": "Linear"})
    run.update(status="finished")
    info = Run.open(run.path).info
    assert (info["status"], info["learner"], info["config"]) == ("finished", {"model": "Linear"}, {"lr": 0.1})
    with pytest.raises(TypeError, match="`status` must be a number, a string"):
        run.update(status=object())
    assert run.info == info


def test_list_is_a_table_of_runs_with_what_they_were_and_came_to(tmp_path):
    for i, name in enumerate(["b", "a", "c"]):
        run = Run.create(tmp_path / name, config={"lr": 0.1 * i, "sizes": [1, 2], "status": "no"})
        run.log({"epoch": 0, "valid/loss": 5.0})
        run.log({"epoch": 1, "valid/loss": i / 4})
        run.update(created=f"2025-01-0{i + 1}")
    Run.create(tmp_path / "d", config={"decay": 0.5})
    run.update(status="finished")
    (tmp_path / "no run").mkdir()
    (tmp_path / "no run either").touch()
    rows = Run.list(tmp_path)
    assert rows["run"].tolist() == ["b", "a", "c", "d"]  # as they were made
    assert rows["status"].tolist() == ["created", "created", "finished", "created"]
    assert rows["lr"].tolist() == [0.0, 0.1, 0.2, None]
    assert rows["decay"].tolist() == [None, None, None, 0.5]
    assert rows["valid/loss"].tolist() == [0.0, 0.25, 0.5, None]
    assert "sizes" not in rows.columns
    lines = repr(rows).splitlines()
    assert lines[0].split() == ["run", "status", "created", "lr", "valid/loss", "decay"]
    assert len(lines) == 5


def test_list_shows_what_is_broken(tmp_path):
    Run.create(tmp_path / "whole")
    for name in ("cut", "gone", "torn scalars"):
        Run.create(tmp_path / name).log({"loss": 1.0})
    (tmp_path / "cut" / "run.json").write_text('{"format": 1,')
    (tmp_path / "gone" / "run.json").unlink()
    (tmp_path / "torn scalars" / "scalars.jsonl").write_text("what\nis\nthis\n")
    rows = Run.list(tmp_path)
    told = dict(zip(rows["run"].tolist(), rows["status"].tolist(), strict=True))
    assert told == {"cut": "broken", "gone": "broken", "torn scalars": "broken", "whole": "created"}


def test_list_of_no_runs(tmp_path):
    assert repr(Run.list(tmp_path)).split() == ["run", "status", "created"]
    with pytest.raises(FileNotFoundError, match=r"`folder` must be a folder with runs in it, got '.*none'"):
        Run.list(tmp_path / "none")


# -- the active run ----------------------------------------------------------------------------------------------------


def test_the_innermost_run_is_active(tmp_path):
    a, b = Run.create(tmp_path / "a"), Run.create(tmp_path / "b")
    assert Run.active() is None
    with a as entered:
        assert entered is a
        log({"loss": 1})
        with b:
            log({"loss": 2})
            with a:
                log({"loss": 3})
            assert Run.active() is b
        log({"loss": 4})
        log({"loss": 5}, run=b)
    assert Run.active() is None
    assert a.scalars()["loss"].values == [1, 3, 4]
    assert b.scalars()["loss"].values == [2, 5]


def test_a_block_that_fails_is_left(run):
    with pytest.raises(KeyError, match="on purpose"), run:
        raise KeyError("on purpose")
    assert Run.active() is None


def test_blocks_that_cross_do_not_leave_each_other(tmp_path):
    """As the run of a fit in a notebook, where a block was opened before and closed within."""
    a, b = Run.create(tmp_path / "a"), Run.create(tmp_path / "b")
    a.__enter__()
    b.__enter__()
    a.__exit__(None, None, None)
    assert Run.active() is b
    b.__exit__(None, None, None)
    assert Run.active() is None


def test_a_thread_has_active_runs_of_its_own(run):
    seen = []
    with run:
        thread = threading.Thread(target=lambda: seen.append(Run.active()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_log_with_no_run_says_what_to_do():
    with pytest.raises(LearnerError, match=r"`log` must have a run to write to, .*do `with Run.create\(path\):`"):
        log({"loss": 1.0})


# -- scalars -----------------------------------------------------------------------------------------------------------


def test_the_same_names_extend_the_series_also_when_opened_again(run):
    with run:
        log({"epoch": 0, "loss": 0.5, "accuracy": 0.9})
        log({"epoch": 1, "loss": torch.tensor(0.25), "accuracy": 0.91})
    again = Run.open(run.path)
    again.log({"epoch": 10, "loss": 0.125})
    expected = {
        "loss": Series("epoch", [0, 1, 10], [0.5, 0.25, 0.125]),
        "accuracy": Series("epoch", [0, 1], [0.9, 0.91]),
    }
    assert run.scalars() == again.scalars() == expected
    assert run.logged()[2] == {"epoch": 10, "loss": 0.125}
    assert (run.path / "scalars.jsonl").read_text().count("\n") == 3


def test_a_killed_process_leaves_all_it_logged(tmp_path):
    script = """if True:
        import os, signal, sys
        from learner.records.run import Run, log
        with Run.create(sys.argv[1]):
            for i in range(10):
                log({"epoch": i, "loss": i / 3})
                if i == 6:
                    os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], cwd=ROOT, check=False)
    assert process.returncode == -9
    assert Run.open(tmp_path / "run").scalars()["loss"] == Series("epoch", list(range(7)), [i / 3 for i in range(7)])


# -- samples -----------------------------------------------------------------------------------------------------------


def fill(run, name, n=3, **options):
    with run.writer(name, **options) as writer:
        writer.add({"example_id": np.arange(n), "loss": np.arange(n) / 2, "vector": np.ones((n, 2))})


def test_samples_are_those_of_all_whole_parts(run, table):
    assert len(run.samples) == 0
    fill(run, "valid-0001")
    fill(run, "train-0000", n=2, fingerprint=table.fingerprint)
    (run.path / "samples" / "valid-0002.parquet.tmp").write_bytes(b"PAR1")
    assert run.samples.numpy("example_id").tolist() == [0, 1, 0, 1, 2]
    assert Run.open(run.path).samples.numpy("vector").shape == (5, 2)


def test_a_part_that_is_cut_short_is_named_and_the_others_stay(run):
    fill(run, "a")
    fill(run, "b")
    path = run.path / "samples" / "b.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LearnerError, match=r"samples/b.parquet` must be a whole Parquet file"):
        run.samples.numpy("loss")
    assert run.samples.intact().numpy("loss").tolist() == [0, 0.5, 1]
    assert run.samples_named("a").numpy("loss").tolist() == [0, 0.5, 1]


def test_samples_named(run):
    with pytest.raises(ValueError, match="`name` must be of samples on record, and there are none, got 'train'"):
        run.samples_named("train")
    for name, n in (("train-0000", 1), ("train-0001", 2), ("train2-0000", 3), ("cleantrain-0000", 4), ("train set", 5)):
        fill(run, name, n)
    assert [len(run.samples_named(name)) for name in ("train", "train-0001", "train2", "train set")] == [3, 2, 3, 5]
    with pytest.raises(ValueError, match="on record, cleantrain, train, train2, train_set, got 'valid'"):
        run.samples_named("valid")


def test_tables_are_put_down_once_each_and_show_their_samples(run, table):
    other = Table.from_dict({"x": [1.0]}, "three")
    for each in (table, other, table):
        run.register_table(each)
    expected = {table.fingerprint: {"name": "three", "n_rows": 3}, other.fingerprint: {"name": "three", "n_rows": 1}}
    assert run.info["tables"] == Run.open(run.path).info["tables"] == expected
    fill(run, "a", fingerprint=table.fingerprint)
    assert run.samples.table is table
    assert run.samples_named("a").table is table
    assert Run.open(run.path).samples.table is None
    with pytest.raises(TypeError, match=r"`table` must be a Table, got list; do `Table\(dataset\)`"):
        run.register_table([1, 2])


def test_metrics_by_row(run, table):
    run.register_table(table)  # which they are not of
    samples = run.add_metrics_data(
        {"loss": [0.5, 0.4, 0.3], "accuracy": torch.tensor([1, 0, 1]), "word": ["a", "b", "c"]}
    )
    assert isinstance(samples, Samples)
    assert samples.numpy("example_id").tolist() == [0, 1, 2]
    assert samples.numpy("loss").tolist() == [0.5, 0.4, 0.3]
    assert samples.numpy("accuracy").tolist() == [1, 0, 1]
    assert samples.numpy("word").tolist() == ["a", "b", "c"]
    assert (samples.fingerprint, samples.table) == (None, None)
    run.add_metrics_data({"loss": [0.1]})
    assert files(run) == ["run.json", "samples/metrics-0000.parquet", "samples/metrics-0001.parquet"]
    assert len(run.samples_named("metrics")) == 4


def test_metrics_of_the_samples_of_a_table(run, table):
    samples = run.add_metrics_data(
        {"predicted_label": [0, 1, 0]}, input_table=table, override_column_schemas={"predicted_label": LABEL}
    )
    assert samples.table is table
    assert samples.fingerprint == table.fingerprint
    assert samples.to_pandas()["predicted_label"].tolist() == ["cat", "dog", "cat"]
    assert list(run.info["tables"]) == [table.fingerprint]


def test_metrics_by_example_id_repeat_and_leave_out(run, table):
    metrics = {"example_id": [0, 0, 2, 2, 2, 0], "iou": [0.9, 0.8, 0.6, 0.5, 0.3, 0.2]}
    samples = run.add_metrics_data(metrics, input_table=table)
    assert samples.numpy("example_id").tolist() == metrics["example_id"]
    assert samples.by("example_id")["iou"].tolist() == pytest.approx([1.9 / 3, 1.4 / 3])
    assert run.add_metrics_data({"example_id": [7], "iou": [0.5]}).numpy("example_id").tolist() == [7]


def test_metrics_of_any_dataset_and_vectors(run):
    data = torch.utils.data.TensorDataset(torch.arange(4))
    vectors = torch.randn(4, 3, requires_grad=True)
    samples = run.add_metrics_data({"vector": vectors, "half": vectors[:, 0].bfloat16()}, input_table=data)
    assert np.array_equal(samples.numpy("vector"), vectors.detach().numpy())
    assert np.array_equal(samples.numpy("half"), vectors[:, 0].bfloat16().float().detach().numpy())
    assert samples.table[3] == (torch.tensor(3),)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ([1, 2], TypeError, "`columns` must be a mapping from names to columns"),
        ({}, TypeError, "`columns` must be a mapping from names to columns"),
        ({"a": [1, 2]}, ValueError, "a row for each of the 3 samples of table 'three', got 2; add `example_id`"),
        ({"a": [1, 2, 3], "b": [1]}, ValueError, "`columns` must have one entry per row each, got 3 of 'a', 1 of 'b'"),
        ({"example_id": [0, 3], "a": [1, 2]}, ValueError, "`example_id` must be .* of table 'three', 0 to 2, got 3"),
        ({"example_id": [-1], "a": [1]}, ValueError, "`example_id` must be .* 0 to 2, got -1"),
        ({"example_id": [0.5], "a": [1]}, TypeError, "`example_id` must hold a whole number per row"),
        ({"a": [[1], [1, 2], [3]]}, ValueError, "`a` must have equally many values in each row, got a ragged list"),
        ({"a": [1, None, 2]}, TypeError, "`a` must hold numbers, bools or strings"),
        ({"a": [1, 2, 3], "label": [0, 1, 2]}, ValueError, "`label` must hold class ids from 0 to 1, got 2"),
        ({"a": [1, 2, 3]}, ValueError, "`override_column_schemas` must be of columns, a, got 'label'"),
    ],
)
def test_metrics_that_do_not_fit_are_refused_and_leave_nothing(run, table, columns, error, message):
    schemas = {"label": LABEL} if "label" in columns or "override" in message else None
    with pytest.raises(error, match=message):
        run.add_metrics_data(columns, input_table=table, override_column_schemas=schemas)
    assert files(run) == ["run.json"]
    assert run.info["tables"] == {}


# -- figures and the report --------------------------------------------------------------------------------------------


def test_a_figure_is_kept_as_a_picture(run):
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([1, 2])
    path = run.add_figure("loss over time", figure)
    assert path == run.path / "figures" / "loss_over_time.png"
    assert matplotlib.image.imread(path).ndim == 3
    before = path.read_bytes()
    ax.plot([3, 2])
    run.add_figure("loss over time", figure)
    assert path.read_bytes() != before
    assert files(run) == ["figures/loss_over_time.png", "run.json"]
    with pytest.raises(TypeError, match=r"`figure` must be a figure of matplotlib, got Axes; of axes, `ax\.figure`"):
        run.add_figure("loss", ax)
    plt.close(figure)


def test_the_report_is_written_where_it_is_asked_for(run, tmp_path, monkeypatch):
    written = []
    module = ModuleType("learner.records.report.report")
    module.write_report = lambda *args: written.append(args)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert run.report() == run.path / "report.html"
    assert run.report(str(tmp_path / "page.html")) == tmp_path / "page.html"
    assert written == [(run, run.path / "report.html"), (run, tmp_path / "page.html")]


def test_a_run_needs_no_pyarrow_for_scalars(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with Run.create(tmp_path / "run") as run:
        log({"loss": 1.0})
    assert run.scalars()["loss"].values == [1.0]
    with pytest.raises(ImportError, match="`pyarrow` must be installed"):
        run.add_metrics_data({"loss": [1.0]})
