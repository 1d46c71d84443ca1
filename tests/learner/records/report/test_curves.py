"""The scalars of a run on its page."""

from tests.learner.records.report.reading import captions, notes, read, rows_of


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
