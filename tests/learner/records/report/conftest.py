"""Runs with something on record, and a browser."""

import shutil
import subprocess

import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from learner.records import Run
from tests.learner.records.report.reading import EVIL, N_EPOCHS, make_images, record


@pytest.fixture
def unrendered(monkeypatch):
    """Have figures made, but not turned into pixels, which takes most of the time of a page; `whole` has its pixels."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: file.write(b"png"))


@pytest.fixture
def run(tmp_path, unrendered):
    return Run.create(tmp_path / "run", config={"lr": 0.1, "what": EVIL}, name=f"first {EVIL}")


@pytest.fixture
def images():
    return make_images()


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run with all there is, only to be read: 40 and 20 samples, three epochs, vectors, scalars, a figure."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "whole", config={"lr": 0.1, "what": EVIL}, name=f"first {EVIL}")
    table = make_images()
    run.register_table(table)
    for epoch in range(N_EPOCHS):
        run.log({"epoch": epoch, "lr": 0.1, "train/loss": 2.0 - epoch, "valid/loss": 3.0 - epoch})
        record(run, "train", 40, epoch, table, embeddings=lambda rng, n: rng.normal(size=(n, 4)))
        record(run, "valid", 20, epoch)
    figure = plt.figure()
    run.add_figure("weights", figure)
    plt.close(figure)
    run.update(status="failed", error=f"ValueError: {EVIL}", learner={"model": "Net", "n_parameters": 1234})
    assert run.report() == run.path / "report.html"
    assert not plt.get_fignums()
    return run


@pytest.fixture
def full(whole, tmp_path, unrendered):
    """A copy of it, to be damaged."""
    shutil.copytree(whole.path, tmp_path / "full")
    (tmp_path / "full" / "report.html").unlink()
    return Run.open(tmp_path / "full")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Give a function that opens a page in a headless browser: what is there then, and what its console said."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs a browser: chromium or google-chrome")

    def open_page(path, *options):
        command = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--enable-logging=stderr",
            "--virtual-time-budget=3000", "--dump-dom", *options, path.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page
