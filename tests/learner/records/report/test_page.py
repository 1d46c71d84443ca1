"""A page lets nothing in but what it is made of."""

import base64
import hashlib
import re

from fastcore.xml import Body, NotStr, P, Span

from learner.records.report.page import page
from tests.learner.records.report.reading import EVIL, Tags


def test_a_page_lets_nothing_in_but_its_own_style_and_script():
    html = page(EVIL, Body(P(EVIL)))
    found = Tags(html)
    policy = next(meta["content"] for meta in found("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert policy.endswith("; form-action 'none'; base-uri 'none'")
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*)</{tag}>", html, re.DOTALL)[1]
        known = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{known}'" in policy
        assert len(found(tag)) == 1
    assert found("title")[0]["text"] == found("p")[0]["text"] == EVIL
    assert not re.search(r"https?://|url\(|@import|import\s*\(|fetch\(", html)


def test_what_is_no_element_is_text_whatever_its_type():
    odd = [["<b>", {"a": EVIL}], {"<i>": 1}, NotStr(EVIL), b"<u>", 0, None]
    found = Tags(page("odd", Body(*[P(Span(each, "")) for each in odd], P(NotStr(EVIL)))))
    assert {one["tag"] for one in found.found} == {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "p",
        "span",
        "script",
    }
    assert len(found("script")) == 1
    texts = [span["text"] for span in found("span")]
    assert texts[1:] == ["{'<i>': 1}", EVIL, "b'<u>'", "0", ""]
