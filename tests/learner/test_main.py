"""The demo: learns the digits, leaves a run on record, its pictures and report, and says where."""

import re
import sys

import pytest
from PIL import Image

from learner.__main__ import main
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
