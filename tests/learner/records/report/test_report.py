"""The report of a run: all that is on record is on the page, and in a browser the page does what it offers."""

import json
import re
import shutil
import subprocess
import sys
from html import unescape

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from pyarrow import parquet

from learner import LearnerError
from learner.records import CategoricalLabel, Run, Table
from learner.records.report.report import write_report
from tests.learner.records.report.test_page import EVIL, Tags

CLASSES = ["cat", "dog", EVIL]
N_EPOCHS = 3


def record(run, split, n, epoch, table=None, classes=CLASSES, **more):
    """Write an epoch of a split as a collector would; return its columns."""
    rng = np.random.default_rng([epoch, n])
    ids = rng.permutation(n)
    label = ids % 3
    predicted = np.where(ids % 5 == 0, (label + 1) % 3, label)
    probability = rng.random(n).astype(np.float32)
    columns = {
        "example_id": ids,
        "epoch": np.full(n, epoch),
        "split": np.full(n, split, object),
        "label": label,
        "predicted": predicted,
        "loss": -np.log(probability),
        "accuracy": (label == predicted).astype(np.float32),
        "true_probability": probability,
        "margin": rng.normal(size=n).astype(np.float32),
        **{name: make(rng, n) for name, make in more.items()},
    }
    known = {} if table is None else {"fingerprint": table.fingerprint, "table_name": table.name}
    schemas = {name: CategoricalLabel(name, classes) for name in ("label", "predicted")} if classes else {}
    with run.writer(f"{split}-{epoch:04d}", schemas=schemas, **known) as writer:
        writer.add(columns)
    return columns


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", config={"lr": 0.1, "what": EVIL}, name=f"first {EVIL}")


def make_images():
    x = np.random.default_rng(0).random((40, 8, 8)).astype(np.float32)
    return Table.from_dict({"image": list(x), "y": list(range(40))}, table_name="shapes")


@pytest.fixture
def images():
    return make_images()


@pytest.fixture(scope="module")
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
def full(whole, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(whole.path, tmp_path / "full")
    (tmp_path / "full" / "report.html").unlink()
    return Run.open(tmp_path / "full")


def read(path):
    return Tags(path.read_text())


def notes(found):
    return [one["text"] for one in found("li") if "not finite" not in one["text"] and "s0" not in one.get("class", "")]


def captions(found):
    return [one["text"] for one in found("figcaption")]


def rows_of(path, label="samples"):
    """Return the rows of a table as dicts of texts, by the texts of the headers."""
    table = re.search(rf'aria-label="?{label}"?>(.*?)</table>', path.read_text(), re.DOTALL)[1]
    names = [button["text"] for button in Tags(table)("button")]
    body = table.partition("<tbody>")[2]
    rows = [
        [cell["text"] for cell in Tags(row)("td") if "thumb" not in cell.get("class", "")]
        for row in body.split("<tr")[1:]
    ]
    return [dict(zip(names, row, strict=True)) for row in rows]


# -- what is on the page -----------------------------------------------------------------------------------------------


def test_all_that_is_on_record_is_on_the_page(whole):
    found = read(whole.path / "report.html")
    assert [one["text"] for one in found("h2")] == [
        "Curves", "Last values", "Samples of train", "Samples of valid", "Samples", "Figures", "What ran",
    ]  # fmt: skip
    pictures = ["How the samples were learned", "Loss", "What was taken for what"]
    assert captions(found) == ["loss", "lr", *pictures, "Map of embeddings", *pictures, "weights"]
    assert [one["text"] for one in found("h3")][:2] == ["Labels most likely wrong"] * 2
    assert found("h1")[0]["text"] == f"first {EVIL}"
    assert found("span", "status")[0]["text"] == "failed"
    header = " ".join(one["text"] for one in found("p", "quiet")[:3])
    for words in ("Net, 1,234 parameters", "shapes, 40 rows", f"torch {torch.__version__}", "lr 0.1", f"what {EVIL}"):
        assert words in header
    assert f"ValueError: {EVIL}" in found("div", "notes")[0]["text"]


def test_curves_of_one_metric_share_a_chart_and_the_last_values_a_row(whole):
    path = whole.path / "report.html"
    legends = [one["text"] for one in read(path)("li") if one.get("class", "")[:1] == "s"]
    assert legends == ["train 0.0000", "valid 1.0000", "0.1000"]
    assert rows_of(path, "last values") == [
        {"metric": "loss", "at": "epoch 2", "train": "0", "valid": "1", "value": ""},
        {"metric": "lr", "at": "epoch 2", "train": "", "valid": "", "value": "0.1000"},
    ]


def test_the_split_of_a_scalar_may_stand_anywhere_in_its_name(run):
    run.update(learner={"n_batches": {"night": 3}})
    for name in ("samples/train/loss", "samples/night/loss", "loss/valid", "train", "other/lr"):
        for epoch in (0, 1):
            run.log({"epoch": epoch, name: 1.0})
    assert captions(read(run.report())) == ["loss", "train", "samples/loss", "other/lr"]


def test_many_series_of_one_metric_have_several_charts(run):
    run.update(learner={"n_batches": {f"valid_{i}": 1 for i in range(8)}})
    for _ in range(2):
        run.log({f"valid_{i}/loss": i for i in range(8)})
    assert captions(read(run.report())) == ["loss", "loss"]


def test_one_number_is_no_curve(run):
    run.log({"epoch": 0, "after/loss": 0.125})
    page = read(run.report())
    assert captions(page) == []
    assert "0.125" in (run.path / "report.html").read_text()  # among the last values


def test_samples_of_the_newest_epoch_come_worst_first(whole):
    rows = rows_of(whole.path / "report.html")
    assert list(rows[0])[:5] == ["split", "example_id", "label", "predicted", "loss"]
    assert not {"epoch", "step"} & rows[0].keys()
    newest = {split: whole.samples.where(split=split, epoch=2) for split in ("train", "valid")}
    loss = {
        (split, str(i)): value
        for split, one in newest.items()
        for i, value in zip(one.numpy("example_id"), one.numpy("loss"), strict=True)
    }
    assert [(row["split"], row["example_id"]) for row in rows] == sorted(loss, key=loss.get, reverse=True)
    assert {row["label"] for row in rows} == {*CLASSES}
    assert {row["accuracy"] for row in rows} == {"0", "1"}


def test_suspects_are_those_of_the_dynamics(whole):
    from learner.records import dynamics

    found = dynamics(whole.samples_named("train")).suspects(24)
    rows = rows_of(whole.path / "report.html", "labels most likely wrong")
    assert [row["example_id"] for row in rows] == [str(i) for i in found["example_id"]]
    assert [row["reason"] for row in rows] == found["reason"].tolist()


def test_wrong_rows_are_marked(whole):
    html = (whole.path / "report.html").read_text()
    wrong = re.findall(r'<tr class="wrong">.*?data-v="(\d+)"', html)
    assert sorted(map(int, wrong)) == sorted([*range(0, 40, 5), *range(0, 20, 5)])


def test_samples_have_their_own_pictures(whole, images):
    from learner.records.report.page import thumbnail

    html = (whole.path / "report.html").read_text()
    samples = html[html.index('id="samples"') :]
    found = re.findall(r'<img src="([^"]*)"[^>]*></td><td class="text">train</td><td data-v="(\d+)"', samples)
    assert sorted(int(i) for _, i in found) == list(range(40))  # the valid ones have no table
    for source, i in found:
        assert source == thumbnail(images.rows[int(i)]["image"])


def test_samples_that_are_no_images_have_no_pictures_and_are_looked_at_once(run):
    seen = []
    table = Table.from_dict({"x": list(range(40))}).map(lambda row: (seen.append(row), row)[1])
    run.register_table(table)
    record(run, "train", 40, 0, table)
    assert not read(run.report())("td", "thumb")
    assert len(seen) == 1


def test_samples_made_at_random_leave_the_generators_alone(run, images):
    images.map(lambda row: (row["image"] + np.random.rand(), torch.rand(1)))
    run.register_table(images)
    record(run, "train", 40, 0, images)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run.report()
    assert torch.rand(1) == expected


def test_few_of_many_samples_are_listed_and_the_rest_is_counted(run):
    record(run, "train", 5000, 0, classes=None)
    record(run, "valid", 300, 0, classes=None)
    path = run.report()
    rows = rows_of(path)
    assert len(rows) == 2000
    assert sum(row["split"] == "valid" for row in rows) == 300  # a split that is small is there as a whole
    text = next(one["text"] for one in read(path)("p", "quiet") if "left out" in one["text"])
    assert text == "train: 5,000 rows, epoch 0, 3,300 of smaller loss left out; valid: 300 rows, epoch 0."
    worst = run.samples.where(split="train").top("loss", 1700)
    assert {row["example_id"] for row in rows if row["split"] == "train"} == {*map(str, worst.numpy("example_id"))}


def test_splits_that_are_large_share_the_table(run):
    for split, n in {"train": 5000, "valid": 3000}.items():
        record(run, split, n, 0, classes=None)
    splits = [row["split"] for row in rows_of(run.report())]
    assert splits.count("train") == splits.count("valid") == 1000


def test_samples_without_loss_come_by_number(run):
    run.add_metrics_data({"score": np.arange(3000) / 7, "label": ["b", "a", "c"] * 1000})
    path = run.report()
    rows = rows_of(path)
    assert [row["example_id"] for row in rows] == [str(i) for i in range(2000)]
    assert "1,000 that come later left out" in path.read_text()


def test_of_recordings_without_epochs_the_last_one_counts(run):
    run.add_metrics_data({"loss": [1.0, 2.0]})
    run.add_metrics_data({"loss": [3.0]})
    run.add_metrics_data({"score": [5.0]})  # something else
    path = run.report()
    assert [(row["split"], row["loss"], row["score"]) for row in rows_of(path)] == [
        ("metrics-0001", "3", ""), ("metrics-0002", "", "5"),
    ]  # fmt: skip
    assert "metrics-0001: 1 rows, the last of 2 recordings" in path.read_text()


def test_samples_are_called_by_their_split_where_it_is_theirs_alone(run):
    for name, split in {"step-train": "train", "step-valid": "valid", "pass-valid": "valid"}.items():
        with run.writer(f"{name}-0000") as writer:
            writer.add({"example_id": np.arange(2), "split": np.array([split] * 2), "loss": np.ones(2)})
    assert sorted({row["split"] for row in rows_of(run.report())}) == ["pass-valid", "step-valid", "train"]


def test_a_loss_that_is_not_finite_is_listed(run):
    run.add_metrics_data({"loss": [1.0, np.nan, np.inf, 2.0]})
    assert [row["loss"] for row in rows_of(run.report())] == ["inf", "2", "1", "nan"]


def test_names_and_ids_of_classes_are_not_compared(run):
    run.add_metrics_data({"label": [0, 1], "predicted": ["a", "b"]})
    assert not read(run.report())("tr", "wrong")


def test_of_many_figures_the_first_are_shown(run):
    (run.path / "figures").mkdir()
    for i in range(45):
        (run.path / "figures" / f"{i:02d}.png").write_bytes(b"png")
    found = read(run.report())
    assert captions(found) == [f"{i:02d}" for i in range(40)]
    assert "5 more are in the folder `figures`." in [one["text"] for one in found("p")]


def test_ten_thousand_samples_make_a_page_that_can_be_sent(run):
    table = Table(_Noise(10_000))
    run.register_table(table)
    record(run, "train", 10_000, 0, table)
    path = run.report()
    assert len(read(path)("img")) > 2000
    assert path.stat().st_size < 8e6  # pictures of noise, the worst there is


# -- what is not there, or not whole -----------------------------------------------------------------------------------


def test_a_run_in_which_nothing_happened(run):
    found = read(run.report())
    assert [one["text"] for one in found("h2")] == ["What ran"]
    assert not found("div", "notes")


def test_a_part_that_is_cut_short_is_named_and_the_rest_is_there(full):
    for path in (full.path / "samples" / "train-0002.parquet", full.path / "samples" / "valid-0000.parquet"):
        path.write_bytes(path.read_bytes()[:-20])
    path = full.report()
    found = read(path)
    assert sum("must be a whole Parquet file" in one for one in notes(found)) == 2
    assert "train: 40 rows, epoch 1" in path.read_text()
    assert len(rows_of(path)) == 60
    assert "How the samples were learned" in captions(found)


def test_vectors_that_are_cut_short_cost_the_map_alone(full):
    for path in (full.path / "vectors").glob("train-*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    found = read(full.report())
    assert sum(".embeddings.parquet" in one for one in notes(found)) == N_EPOCHS
    assert "Map of embeddings" not in captions(found)
    assert captions(found).count("Loss") == 2


def test_a_column_that_is_rotten_costs_what_needs_it(full):
    path = full.path / "samples" / "train-0002.parquet"
    column = parquet.read_metadata(path).row_group(0).column(8)
    assert column.path_in_schema == "margin"
    data = bytearray(path.read_bytes())
    start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(data)
    report = full.report()
    said = [one for one in notes(read(report)) if "train-0002.parquet" in one]
    assert {one.partition(":")[0] for one in said} == {"How samples of train were learned", "Rows of train"}
    assert captions(read(report)).count("Loss") == 2
    assert {*rows_of(report)[0].values()} >= {"valid"}
    assert len(rows_of(report)) == 20


def test_without_pyarrow_the_rest_is_there_and_it_is_said_once(full, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = read(full.report())
    assert sum("learner-callbacks[records]" in one for one in notes(found)) == 1
    assert captions(found) == ["loss", "lr", "weights"]


def test_scalars_that_were_edited_cost_the_curves_alone(full):
    (full.path / "scalars.jsonl").write_text("loss: 5\n")
    found = read(full.report())
    assert any("scalars.jsonl" in one for one in notes(found))
    assert "Loss" in captions(found)


def test_a_torn_last_line_of_scalars_costs_nothing(full):
    with (full.path / "scalars.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train/lo')
    found = read(full.report())
    assert captions(found)[0] == "loss"
    assert notes(found)[0].startswith("valid")  # of a legend


def test_samples_that_cannot_be_read_cost_the_pictures_alone(run, images):
    def gone(row):
        raise FileNotFoundError("image_7.png")

    images.map(gone)
    run.register_table(images)
    record(run, "train", 40, 0, images)
    path = run.report()
    assert "Pictures of shapes: image_7.png (FileNotFoundError)" in notes(read(path))
    assert len(rows_of(path)) == 40


def test_vectors_that_diverged_cost_the_map_alone(run):
    record(run, "train", 40, 0, embeddings=lambda rng, n: np.full((n, 4), np.nan))
    found = read(run.report())
    assert any(one.startswith("Map of embeddings of train: ") for one in notes(found))
    assert "Loss" in captions(found)
    assert not plt.get_fignums()


def test_a_page_is_replaced_when_the_new_one_is_whole(full, monkeypatch):
    path = full.path / "report.html"
    path.write_text("the old one")
    monkeypatch.setattr("os.replace", _fails)
    with pytest.raises(LearnerError, match=r"report\.html` must be a file that can be written, got disk full"):
        full.report()
    assert path.read_text() == "the old one"


def _fails(*paths):
    raise OSError("disk full")


def test_a_page_may_be_written_elsewhere(run, tmp_path):
    assert write_report(run, tmp_path / "page.html") == tmp_path / "page.html"
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(LearnerError, match="must be a file that can be written"):
        write_report(run, tmp_path / "nowhere" / "page.html")


def test_words_that_no_encoding_knows(run):
    for epoch in (0, 1):
        run.log({"epoch": epoch, "loss \ud800": 1.0})
    assert captions(read(run.report())) == ["loss ?"]


class _Noise:
    """Large pictures of noise, made when asked for."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i >= self.n:
            raise IndexError(i)
        return np.random.default_rng(i).integers(0, 256, (96, 96, 3), np.uint8)


# -- in a browser ------------------------------------------------------------------------------------------------------


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


def acted(browser, path, script, *options):
    """Run a script in a page after it was opened; return what `seen` is then."""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    tools = """
      const seen = {}, box = document.querySelector("#samples .sortable");
      const head = (name) => [...box.querySelectorAll("th")].find((th) => th.textContent === name);
      const field = (name) => box.querySelector(`[aria-label="Filter by ${name}"]`);
      const type = (name, text) => { field(name).value = text; field(name).dispatchEvent(new Event("input")); };
      const rows = () => [...box.querySelectorAll("tbody tr")].filter((row) => row.offsetHeight > 0);
      const column = (name) => rows().map((row) => row.cells[head(name).cellIndex].textContent);
      const sorts = () => [...box.querySelectorAll("th[aria-sort]")].map((th) => th.getAttribute("aria-sort"));
    """
    more = f"<script>{tools}{script};const out = document.createElement('pre');out.id = 'seen';"
    more += "out.textContent = JSON.stringify(seen);document.body.append(out)</script>"
    other = path.with_name("acted.html")
    other.write_text(html.replace("</html>", f"{more}</html>"))
    dom, console = browser(other, *options)
    assert not console
    return json.loads(unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)[1]))


def test_a_page_opens_without_an_error(browser, whole):
    dom, console = browser(whole.path / "report.html")
    assert not console
    assert '<html lang="en" class="js">' in dom  # its script ran, under its policy
    assert "60 of 60 rows" in dom


def test_a_page_runs_no_other_script(browser, whole):
    path = whole.path / "report.html"
    other = path.with_name("other.html")
    other.write_text(path.read_text().replace("</html>", "<script>document.title = 'taken'</script></html>"))
    dom, console = browser(other)
    assert "<title>taken" not in dom
    assert "Content Security Policy" in console[0]


def test_a_click_on_a_header_sorts(browser, whole):
    seen = acted(
        browser,
        whole.path / "report.html",
        """
        seen.first = sorts();
        for (const name of ["loss", "label", "example_id"]) {
          for (const time of [1, 2]) {
            head(name).querySelector("button").click();
            seen[name + time] = column(name);
            seen["sorts of " + name + time] = sorts();
          }
        }
        seen.tabIndex = head("loss").querySelector("button").tabIndex;
        """,
    )
    assert seen["first"] == ["none"] * 4 + ["descending"] + ["none"] * 3
    newest = whole.samples.where(epoch=2)
    for name in ("loss", "example_id"):
        values = np.sort(newest.numpy(name))
        np.testing.assert_allclose(np.array(seen[f"{name}1"], float), values, atol=6e-5)
        np.testing.assert_allclose(np.array(seen[f"{name}2"], float), values[::-1], atol=6e-5)
    assert set(seen["label1"][:3]) == {EVIL}  # of no letter first
    assert seen["label1"] == sorted(seen["label1"]) == seen["label2"][::-1]
    assert seen["sorts of label1"] == ["none", "none", "ascending", *["none"] * 5]
    assert seen["sorts of label2"] == ["none", "none", "descending", *["none"] * 5]
    assert seen["tabIndex"] == 0


def test_fields_filter_by_number_word_and_class(browser, whole):
    seen = acted(
        browser,
        whole.path / "report.html",
        """
        seen.ids = {};
        for (const text of ["> 30", "<=3", "7", "= 7", "!= 7", "5 .. 8", "nan", "> x", ""]) {
          type("example_id", text);
          seen.ids[text] = column("example_id");
          seen["invalid " + text] = field("example_id").getAttribute("aria-invalid");
        }
        type("label", "dog");
        type("split", "valid");
        seen.both = column("label").concat(column("split"));
        type("example_id", "< 10");
        seen.three = column("example_id");
        seen.count = box.querySelector("output").textContent;
        head("example_id").querySelector("button").click();
        seen.sorted = column("example_id");
        box.querySelector(".clear").click();
        seen.cleared = rows().length;
        box.querySelector(".only-wrong").click();
        seen.wrong = column("example_id").map(Number);
        """,
    )
    ids = [*range(40), *range(20)]
    asked = {
        "> 30": lambda i: i > 30, "<=3": lambda i: i <= 3, "7": lambda i: i == 7, "= 7": lambda i: i == 7,
        "!= 7": lambda i: i != 7, "5 .. 8": lambda i: 5 <= i <= 8, "nan": lambda i: False,
        "> x": lambda i: True, "": lambda i: True,
    }  # fmt: skip
    for text, test in asked.items():
        assert sorted(map(int, seen["ids"][text])) == sorted(filter(test, ids))
        assert seen[f"invalid {text}"] == ("true" if text == "> x" else None)
    dogs = [i for i in range(20) if i % 3 == 1]
    assert seen["both"] == ["dog"] * len(dogs) + ["valid"] * len(dogs)
    assert sorted(map(int, seen["three"])) == [1, 4, 7]
    assert seen["sorted"] == ["1", "4", "7"]
    assert seen["count"] == "3 of 60 rows"
    assert seen["cleared"] == 60
    assert sorted(seen["wrong"]) == sorted([*range(0, 40, 5), *range(0, 20, 5)])


def test_what_has_no_value_comes_last_and_words_are_searched(browser, run):
    words = [f"word {i}" for i in range(60)]
    values = np.where(np.arange(60) % 10 == 0, np.nan, -np.arange(60.0))
    values[5], values[6] = np.inf, -np.inf
    run.add_metrics_data({"score": values, "name": words})
    run.add_metrics_data({"name": ["Other <b>"]})
    run.add_metrics_data({"other": [1.0]})
    seen = acted(
        browser,
        run.report(),
        """
        const click = (name) => head(name).querySelector("button").click();
        click("score"); seen.up = column("score");
        click("score"); seen.down = column("score");
        click("name"); seen.words = column("name");
        click("name"); seen["words down"] = column("name");
        click("name");
        type("name", "ORD 5"); seen.found = column("name");
        type("name", "<b>"); seen.odd = column("name");
        type("name", ""); type("score", "nan"); seen.nan = rows().length;
        """,
    )
    finite = [str(-i) for i in range(60) if i % 10 and i not in (5, 6)]
    assert seen["up"][:-8] == ["-inf", *finite[::-1], "inf"]
    assert seen["down"][:-8] == ["inf", *finite, "-inf"]
    assert sorted(seen["up"][-8:]) == sorted(seen["down"][-8:]) == ["", "", *["nan"] * 6]
    assert seen["words"] == ["Other <b>", *words, ""]  # word 9 before word 10
    assert seen["words down"] == ["Other <b>", *words][::-1] + [""]
    assert seen["found"] == ["word 5", *words[50:]]
    assert seen["odd"] == ["Other <b>"]
    assert seen["nan"] == 6


@pytest.mark.parametrize(("scheme", "is_light"), [(0, False), (1, True)])
def test_a_page_is_dark_where_the_reader_wants_it(browser, whole, scheme, is_light):
    script = """
      const colors = (element) => ["color", "backgroundColor"].map((name) => getComputedStyle(element)[name]);
      seen.page = colors(document.body);
    """
    options = f"--blink-settings=preferredColorScheme={scheme}"
    text, ground = acted(browser, whole.path / "report.html", script, options)["page"]
    text, ground = (sum(map(int, re.findall(r"\d+", color)[:3])) / 765 for color in (text, ground))
    assert (ground > 0.9, text < 0.2) == (is_light, is_light)
    assert abs(ground - text) > 0.7
