import struct
import warnings
import zipfile
from io import BytesIO

import pytest
import torch

from learner.checkpoint.archive import check_archive
from learner.checkpoint.pickle_scan import RefusedError


def by_torch(state) -> bytes:
    file = BytesIO()
    torch.save(state, file)
    return file.getvalue()


GOOD = by_torch({"a": torch.arange(4.0)})
ENTRIES = {e.filename: zipfile.ZipFile(BytesIO(GOOD)).read(e) for e in zipfile.ZipFile(BytesIO(GOOD)).infolist()}


def zipped(entries=None, compression=zipfile.ZIP_STORED, more=(), comment=b"") -> bytes:
    file = BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in [*(ENTRIES if entries is None else entries).items(), *more]:
            archive.writestr(name, data)
        archive.comment = comment
    return file.getvalue()


def check(data: bytes) -> None:
    check_archive(BytesIO(data), len(data))


def edited(data: bytes, magic: bytes, at: int, form: str, value: int, which: int = -1) -> bytes:
    """Overwrite a field of a header, counted from its magic number."""
    places = [i for i in range(len(data)) if data.startswith(magic, i)]
    start = places[which] + at
    new = struct.pack(form, value)
    return data[:start] + new + data[start + len(new) :]


CENTRAL, LOCAL, END, END_64, LOCATOR = b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7"


def test_what_torch_writes_passes_and_so_does_the_same_without_zip64():
    check(GOOD)
    check(zipped())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no zip archive"),
        (b"PK", "is no zip archive"),
        (b"x" * 200, "is no zip archive"),
        (GOOD[:-1], "is no zip archive"),
        (GOOD + b"x", "is no zip archive"),
        (b"x" + GOOD, "odd end"),
        (b"x" + zipped(), "odd end"),
        (zipped(comment=b"hello"), "is no zip archive"),
        (GOOD + GOOD, "odd end"),
        (zipped() + zipped(), "odd end"),
        (zipped(compression=zipfile.ZIP_DEFLATED), "compressed or encrypted"),
        (zipped(compression=zipfile.ZIP_BZIP2), "compressed or encrypted"),
        (zipped(compression=zipfile.ZIP_LZMA), "compressed or encrypted"),
        (zipped(more=[("archive/constants.pkl", b"")]), "an entry of the name 'archive/constants.pkl'"),
        (zipped(more=[("archive/../../data.pkl", b"")]), "an entry of the name"),
        (zipped(more=[("/etc/passwd", b"")]), "an entry of the name '/etc/passwd'"),
        (zipped(more=[("archive/DATA.PKL", b"")]), "an entry of the name 'archive/DATA.PKL'"),
        (zipped(more=[("archive/data/x", b"")]), "an entry of the name"),
        (zipped(more=[("archive/data/\u0661", b"")]), "an entry of the name"),
        (zipped(more=[("other/data/1", b"")]), "an entry of the name"),
        (zipped(more=[("archive/data/", b"")]), "an entry of the name"),
        (zipped(more=[("archive/data.pkl", b"N.")]), "two entries of the name 'data.pkl'"),
        (zipped().replace(b"archive/version", b"archive/vers\0on"), "an entry of the name"),
        (zipped().replace(b"archive/version", b"archive/data/1\0"), "an entry of the name"),
        (zipped({}), "must have a pickle of at most 67108864 bytes beside the tensors, has none"),
        (zipped({"archive/data/0": b"1234"}), "has none"),
        (edited(GOOD, CENTRAL, 20, "<L", 5), "compressed or encrypted"),
        (edited(edited(GOOD, CENTRAL, 20, "<L", 2**31), CENTRAL, 24, "<L", 2**31), "more than there are"),
        (edited(GOOD, CENTRAL, 42, "<L", 2**31), "more than there are"),
        (edited(GOOD, CENTRAL, 8, "<H", 1), "compressed or encrypted"),
        (edited(GOOD, CENTRAL, 10, "<H", 8), "compressed or encrypted"),
        (edited(GOOD, END_64, 24, "<Q", 2**40), "odd end"),
        (edited(edited(GOOD, END_64, 24, "<Q", 2**40), END_64, 32, "<Q", 2**40), "claims 1099511627776 entries"),
        (edited(GOOD, END_64, 48, "<Q", 0), "odd end"),
        (edited(GOOD, END_64, 40, "<Q", 2**60), "odd end"),
        (edited(GOOD, END_64, 4, "<Q", 2**60), "odd end"),
        (edited(GOOD, END_64, 16, "<L", 1), "odd end"),
        (edited(GOOD, LOCATOR, 8, "<Q", 0), "odd end"),
        (edited(GOOD, LOCATOR, 16, "<L", 2), "odd end"),
        (edited(GOOD, LOCATOR, 0, "<L", 0), "odd end"),
        (edited(GOOD, END, 4, "<H", 1), "odd end"),
        (edited(zipped(), END, 10, "<H", 3), "odd end"),
        (edited(edited(zipped(), END, 8, "<H", 3), END, 10, "<H", 3), "claims 3 entries"),
        (edited(zipped(), END, 16, "<L", 2**32 - 1), "odd end"),
        (edited(zipped(), END, 12, "<L", 0), "odd end"),
    ],
)
def test_what_is_not_to_be_believed_is_refused(data, message):
    with pytest.raises(RefusedError, match=message):
        check(data)


def test_an_entry_with_a_header_of_two_readings_is_refused():
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in ENTRIES.items():
            info = zipfile.ZipInfo(name)
            info.extra = struct.pack("<HHQ", 1, 8, 2**40) if name.endswith("data/0") else b""
            archive.writestr(info, data)
    with pytest.raises(RefusedError, match="'data/0' with an odd header"):
        check(file.getvalue())


def test_entries_that_lie_over_each_other_are_refused_by_their_sum():
    big = {**ENTRIES, "archive/data/1": b"x" * 1000, "archive/data/2": b"", "archive/data/3": b""}
    data = zipped(big)
    header = data.index(b"archive/data/1") - 30
    for which in (-1, -2):
        for at, value in ((20, 1000), (24, 1000), (42, header)):
            data = edited(data, CENTRAL, at, "<L", value, which)
    with pytest.raises(RefusedError, match="more than there are"):
        check(data)


def test_a_pickle_that_differs_from_its_sum_is_refused():
    data = edited(zipped(), CENTRAL, 16, "<L", 1, which=0)
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
        check(data)


def test_a_huge_pickle_is_refused(monkeypatch):
    monkeypatch.setattr("learner.checkpoint.archive.MAX_PICKLE", 10)
    with pytest.raises(RefusedError, match="must have a pickle of at most 10 bytes beside the tensors, has one of"):
        check(GOOD)
