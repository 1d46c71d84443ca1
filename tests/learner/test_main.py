"""The demo: learns the digits and leaves a run on record; the other commands: what can be done with runs."""

import re
import sys

import pytest
from PIL import Image

from learner.__main__ import COMMANDS, main
from learner.records import Run

PICTURES = {
    *("history.png", "hardest.png"),
    *("activations.png", "activation_histograms.png", "dead_activations.png"),
}


def test_it_learns_the_digits_and_leaves_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["--epochs", "8"])
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"digits-\d{8}-\d{6}", folder.name)
    assert {file.name for file in folder.glob("figures/*")} == PICTURES
    for name in PICTURES:
        with Image.open(folder / "figures" / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("L").getcolors()) > 20  # something is drawn
    run = Run.open(folder)
    accuracy = run.scalars()["valid/accuracy"]
    assert accuracy.x == list(range(8))
    assert accuracy.values[-1] >= 0.97
    *_, last_line = capsys.readouterr().out.splitlines()
    assert f"{accuracy.values[-1]:.2%}" in last_line
    assert last_line.endswith(f"runs/{folder.name}/report.html")
    assert (folder / "report.html").is_file()


def test_the_folder_can_be_chosen_and_every_sample_is_on_record_in_every_epoch(tmp_path, capsys):
    main(["--epochs", "2", "--out", str(tmp_path / "here")])
    assert (tmp_path / "here" / "run.json").is_file()
    assert capsys.readouterr().out.rstrip().endswith(str(tmp_path / "here" / "report.html"))
    samples = Run.open(tmp_path / "here").samples
    assert [len(samples.where(split=split, epoch=1)) for split in ("train", "valid")] == [1437, 360]
    assert sorted(samples.where(split="train", epoch=0).numpy("example_id")) == list(range(1437))


def test_without_scikit_learn_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match=r"needs scikit-learn; do `pip install -e \"\.\[demo\]\"`"):
        main([])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "message"), [(["--epochs", "0"], "at least 1, got 0"), (["--what"], "--what")])
def test_wrong_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    assert "--epochs" in out
    assert "--out" in out
    assert all(f"{name}: " in out for name in COMMANDS)


@pytest.fixture
def runs(tmp_path):
    """A folder with two runs."""
    for lr in (0.1, 0.2):
        run = Run.create(tmp_path / "runs" / f"lr-{lr}", config={"lr": lr})
        run.log({"epoch": 0, "valid/loss": 1 - lr})
    return tmp_path / "runs"


def test_runs_of_a_folder_are_listed(runs, capsys):
    main(["runs", str(runs)])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "status", "created", "lr", "valid/loss"]
    assert [row.split()[0] for row in rows] == ["lr-0.1", "lr-0.2"]


def test_a_report_and_a_comparison_are_written_and_it_says_where(runs, tmp_path, capsys):
    one, other = map(str, sorted(runs.iterdir()))
    for arguments, file in (
        (["report", one], runs / "lr-0.1" / "report.html"),
        (["report", one, "--out", str(tmp_path / "page.html")], tmp_path / "page.html"),
        (["compare", one, other, "--out", str(tmp_path / "both.html")], tmp_path / "both.html"),
        (["compare", str(runs)], runs / "compare.html"),
    ):
        main(arguments)
        assert capsys.readouterr().out == f"{file}\n"
        assert file.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["runs", "nowhere"], "`folder` must be a folder with runs in it"),
        (["report", "nowhere"], "`path` must be the folder of a run"),
        (["compare", "nowhere"], "`runs` must be a folder with runs in it"),
        (["compare", "lr-0.1", "lr-0.1"], "`runs` must be different runs"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_without_a_traceback(runs, monkeypatch, command, message):
    monkeypatch.chdir(runs)
    with pytest.raises(SystemExit, match=message):
        main(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"python -m learner {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "look.py:look"], "a function must be named by its file, got 'train.py'"),
        (["nowhere.py:make", "look.py:look"], "a function must be in a file that is there"),
        (["os:getcwd", "os:getcwd", "--steps", "5"], "--steps must be optimizer steps from one to another, got '5'"),
        (["os:getcwd", "os:getcwd", "--steps", "9:-1"], "--steps must be optimizer steps from one to another"),
        (["os:getcwd", "os:getcwd", "--steps", "9:9"], "`steps` must hold a step at least, got 9 to 9"),
        (["os:getcwd", "os:getcwd"], "`path` must be a checkpoint or a folder that has some"),
        (["os:getcwd", "os:getcwd", "--processes", "0"], "2"),
    ],
)
def test_what_is_wrong_with_a_hindsight_is_said_without_a_traceback(tmp_path, arguments, message):
    learner, callbacks, *more = arguments
    with pytest.raises(SystemExit, match=message):
        main(["hindsight", learner, str(tmp_path), callbacks, *more])
