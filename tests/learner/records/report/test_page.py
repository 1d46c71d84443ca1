"""A page lets nothing in but what it is made of."""

import base64
import hashlib
import re

from fastcore.xml import Body, P

from learner.records.report.page import page
from tests.learner.records.report.reading import EVIL, Tags


def test_a_page_lets_nothing_in_but_its_own_style_and_script():
    html = page(EVIL, Body(P(EVIL)))
    found = Tags(html)
    policy = next(meta["content"] for meta in found("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*)</{tag}>", html, re.DOTALL)[1]
        known = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{known}'" in policy
        assert len(found(tag)) == 1
    assert found("title")[0]["text"] == found("p")[0]["text"] == EVIL
    assert not re.search(r"https?://|url\(|@import|import\s*\(|fetch\(", html)
