"""What ran, at the head and at the end of a page."""

import torch

from tests.learner.records.report.reading import EVIL, read


def test_the_header_says_in_a_few_lines_what_ran(whole):
    found = read(whole.path / "report.html")
    assert found("h1")[0]["text"] == f"first {EVIL}"
    assert found("span", "status")[0]["text"] == "failed"
    header = " ".join(one["text"] for one in found("p", "quiet")[:3])
    for words in ("Net, 1,234 parameters", "shapes, 40 rows", f"torch {torch.__version__}", "lr 0.1", f"what {EVIL}"):
        assert words in header
    assert f"ValueError: {EVIL}" in found("div", "notes")[0]["text"]
