"""In a browser the page does what it offers."""

import json
import re
from html import unescape

import numpy as np
import pytest

from tests.learner.records.report.reading import EVIL


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
    large = [2**53 + 1, 2**53 + 2, 2**53]
    run.add_metrics_data({"large": large})
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
        type("score", ""); type("large", "> 9007199254740992"); click("large"); seen.large = column("large");
        type("large", "9007199254740993"); seen.one = column("large");
        """,
    )
    finite = [str(-i) for i in range(60) if i % 10 and i not in (5, 6)]
    assert seen["up"][:-11] == ["-inf", *finite[::-1], "inf"]
    assert seen["down"][:-11] == ["inf", *finite, "-inf"]
    assert sorted(seen["up"][-11:]) == sorted(seen["down"][-11:]) == [*[""] * 5, *["nan"] * 6]
    assert seen["words"] == ["Other <b>", *words, *[""] * 4]  # word 9 before word 10
    assert seen["words down"] == ["Other <b>", *words][::-1] + [""] * 4
    assert seen["found"] == ["word 5", *words[50:]]
    assert seen["odd"] == ["Other <b>"]
    assert seen["nan"] == 6
    assert seen["large"] == ["9007199254740993", "9007199254740994"]
    assert seen["one"] == ["9007199254740993"]


def test_pictures_and_charts_are_shown_large(browser, whole):
    seen = acted(
        browser,
        whole.path / "report.html",
        """
        const dialogs = () => [...document.querySelectorAll("dialog[open]")].map((one) => {
          const shown = one.querySelector("img, svg").getBoundingClientRect();
          return [one.className, one.querySelector("img, svg").tagName.toLowerCase(), shown.width > 0.8 * innerWidth];
        });
        const press = (element) => { element.dispatchEvent(new Event("click", { bubbles: true })); };
        const shown = [".chart", ".plot img", ".paper img", ".thumb img", "figure button"];
        seen.large = shown.map((name) => {
          press(document.querySelector(name));
          const found = dialogs();
          press(document.querySelector("dialog[open]"));
          return found;
        });
        seen.after = dialogs();
        seen.labels = [...document.querySelectorAll("figure button")].map((one) => one.ariaLabel).slice(0, 2);
        """,
    )
    wanted = [["large", "svg"], ["large", "img"], ["large paper", "img"], ["large", "img"], ["large", "svg"]]
    assert seen["large"] == [[[*one, True]] for one in wanted]
    assert seen["after"] == []
    assert seen["labels"] == ["Show loss large", "Show lr large"]


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
