"""The site: it is built without a warning, no link of it leads nowhere, and its table names every callback."""

import importlib.util
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import callbacks
from learner import Callback

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(file.stem for file in (ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site as a developer does."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(out / "doctrees")]
    run = subprocess.run([*command, "docs", str(out / "html")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return out / "html"


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if tag == "a" and "href" in found else []
        self.loads += [found[name] for name in ("src", "href") if name in found and tag in ("script", "link", "img")]


def test_it_is_built_without_a_warning_and_no_link_leads_nowhere(site):
    pages = {file: Page(file) for file in site.rglob("*.html")}
    assert len(pages) > 40
    dead = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            there = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if parts.scheme or not there.is_relative_to(site):
                continue
            is_place = not parts.fragment or there not in pages or unquote(parts.fragment) in pages[there].places
            dead += [] if there.is_file() and is_place else [(str(file.relative_to(site)), link)]
    assert dead == []


def test_it_loads_nothing_from_elsewhere_and_is_searched_without_a_server(site):
    for file in site.rglob("*.html"):
        loads = [link for link in Page(file).loads if not link.startswith("data:")]
        assert [link for link in loads if urlsplit(link).netloc] == [], file
        assert [link for link in loads if not (file.parent / urlsplit(link).path).exists()] == [], file
    assert (site / "searchindex.js").read_text().startswith("Search.setIndex(")
    assert "TensorBoardCallback".lower() in (site / "searchindex.js").read_text().lower()


def test_every_page_and_every_public_name_is_there(site):
    everything = "".join(file.read_text() for file in (site / "reference").glob("*.html"))
    for door in ("learner", "callbacks", "learner.optim", "learner.interrogate", "learner.records", "learner.data"):
        for name in importlib.import_module(door).__all__:
            assert f'id="{door}.{name}"' in everything, f"{door}.{name}"


def extension(name: str):
    """Return a module of the site's own extensions."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_every_callback_and_says_what_the_code_does():
    rows = {row.name: row for row in extension("callback_table").rows()}
    classes = {name: getattr(callbacks, name) for name in callbacks.__all__}
    assert rows.keys() == {name for name, cls in classes.items() if inspect.isclass(cls) and issubclass(cls, Callback)}
    clip = rows["ClipGradientCallback"]
    assert (clip.room, clip.order, clip.arguments) == ("train", "-40", "max_norm")
    assert "opt" in clip.reads
    assert "weight" in rows["LossWeightCallback"].writes
    assert rows["LambdaCallback"].room == ""
    assert all(row.does for row in rows.values())


def test_docstrings_are_written_anew_for_sphinx():
    docstrings = extension("docstrings")
    table = ["before", "", "| a | b |", "|---|--:|", "| `x` | 1 |", "", "after"]
    assert [line for line in docstrings.with_tables(table) if line] == [
        "before",
        ".. list-table::",
        "   :header-rows: 1",
        "   * - a",
        "     - b",
        "   * - `x`",
        "     - 1",
        "after",
    ]
    assert docstrings.with_tables(["the |loss| of it"]) == [r"the \|loss\| of it"]
    assert docstrings.with_lists(["text:", "- one", "- two"]) == ["text:", "", "- one", "- two"]
    assert docstrings.with_code(["Do:", "", "    call()"]) == ["Do::", "", "    call()"]


def test_pages_of_the_repository_keep_the_links_that_the_site_has():
    text = extension("repository_page").page_text("CHANGELOG.md")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert targets
    assert all((ROOT / "docs" / target).is_file() for target in targets)


def test_links_to_files_of_the_repository_lead_to_the_pages_that_show_them():
    linked = extension("repository_page").linked
    docs = ROOT / "docs"
    for link, on_the_site in {
        "[a GAN](../../examples/gan.py)": "[a GAN](../examples/gan.md)",
        "[measured](../../benchmarks/README.md#measured)": "[measured](../benchmarks.md#measured)",
        "[the loop](../../learner/learner.py)": "the loop",
        "[text](text.md#a)": "[text](text.md#a)",
        "[torch](https://pytorch.org)": "[torch](https://pytorch.org)",
    }.items():
        assert linked(link, docs / "recipes", docs / "recipes") == on_the_site


def test_each_example_has_a_page_with_its_picture_and_code(site):
    assert sorted(file.stem for file in (site / "examples").glob("*.html")) == EXAMPLES
    for name in EXAMPLES:
        text = (site / "examples" / f"{name}.html").read_text()
        assert f"_images/{name}.png" in text
        assert "make_learner" in text
        assert f'href="examples/{name}.html"' in (site / "examples.html").read_text()


@pytest.mark.parametrize(
    ("page", "path"),
    {"contributing": "CONTRIBUTING.md", "benchmarks": "benchmarks/README.md", "guarantees": "tests/faults.md"}.items(),
)
def test_a_page_of_the_repository_is_in_its_order(site, page, path):
    file = ROOT / path
    begins = re.search(r"^\w+ \w+ \w+", file.read_text(), flags=re.MULTILINE)[0]
    heading = re.search(r"^## (.*)$", file.read_text(), flags=re.MULTILINE)[1]
    text = (site / f"{page}.html").read_text()
    assert 0 < text.index(begins) < text.index(f"<h2>{heading}")
