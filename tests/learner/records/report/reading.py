"""What the tests of the report share: a run is recorded, and its page read as a browser would."""

import base64
import re
from html import unescape
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
from fastcore.xml import to_xml
from PIL import Image

from learner.records import CategoricalLabel, Table

EVIL = "<script>alert('x')</script>\"&"
CLASSES = ["cat", "dog", EVIL]
N_EPOCHS = 3
_CELL = re.compile(r"<td([^>]*)>(.*?)</td>", re.DOTALL)


class Tags(HTMLParser):
    """All tags with their attributes and the text directly in them, in order."""

    def __init__(self, html):
        super().__init__()
        self.found, self._open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append({"tag": tag, "text": "", **dict(attrs)})
        self._open.append(self.found[-1])

    def handle_endtag(self, tag):
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self._open[-1]["text"] += data

    def __call__(self, tag, cls=None):
        return [one for one in self.found if one["tag"] == tag and (cls is None or cls in one.get("class", "").split())]


def tags(element):
    return Tags(to_xml(element, indent=False))


def pixels(source):
    return np.asarray(Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))))


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


def make_images():
    x = np.random.default_rng(0).random((40, 8, 8)).astype(np.float32)
    return Table.from_dict({"image": list(x), "y": list(range(40))}, table_name="shapes")


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
        [unescape(text) for attributes, text in _CELL.findall(row) if "thumb" not in attributes]
        for row in body.split("<tr")[1:]
    ]
    return [dict(zip(names, row, strict=True)) for row in rows]
