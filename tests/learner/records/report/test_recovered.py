"""What a training did when its loss jumped, on the page of a run."""

from learner.records.report.recovered import recovered
from tests.learner.records.report.reading import tags

DONE = {"epoch": 2, "i": 27, "loss": 1234.5, "usual": 0.25, "what": "the batch is left out"}


def test_each_time_is_listed_with_the_code_that_goes_there():
    info = {"checkpoints": "runs/a", "recoveries": [DONE, {**DONE, "i": 5, "loss": "NaN", "usual": "NaN"}]}
    found = tags(recovered(info)[0])
    lines = [one["text"] for one in found("li")]
    assert lines[0].startswith("batch 27 of epoch 2: loss 1234, and 0.25 before; the batch is left out.")
    assert lines[1].startswith("batch 5 of epoch 2: loss nan, and nan before; ")
    codes = [one["text"] for one in found("code")]
    assert codes[0] == "with learn.rewind('runs/a', epoch=2, i=27) as then: ..."


def test_a_run_that_never_went_back_has_none():
    assert recovered({}) == recovered({"recoveries": []}) == []
