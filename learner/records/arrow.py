"""Columns between NumPy and Arrow, the form in which the files hold them; and where pyarrow is found.

Class ids are written as an Arrow dictionary, so that every reader sees the names. The names stand in the schema too,
under the key of the `datasets` library: so they are known before a row is read, and of an empty file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from learner.records.schema import CategoricalLabel, checked_ids

KEY = b"huggingface"


def pyarrow() -> Any:
    """Return the module `pyarrow`.

    Raises:
        ImportError: if it is not installed; says what to install.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError('`pyarrow` must be installed; do `pip install "learner-callbacks[records]"`.') from error
    return pyarrow


def to_arrow(columns: Mapping[str, np.ndarray], schemas: Mapping[str, CategoricalLabel] | None = None) -> Any:
    """Return columns as an Arrow table.

    Args:
        columns: by name; numbers, bools or strings in one dimension, numbers or bools in two.
        schemas: class names of the columns of class ids; of other columns they are passed over.

    Shapes: a column is (n_rows,) or (n_rows, width); (n_rows, width) becomes a fixed-size list.

    Raises:
        TypeError: if a column holds something else.
        ValueError: if a column has more dimensions, or a class id has no name.

    Example:
        >>> table = to_arrow({"label": np.array([1, 0])}, {"label": CategoricalLabel("label", ["cat", "dog"])})
        >>> table.to_pylist()
        [{'label': 'dog'}, {'label': 'cat'}]
    """
    pa = pyarrow()
    labels = {name: _encodable(label) for name, label in (schemas or {}).items() if name in columns}
    arrays = {
        name: _to_dictionary(name, column, labels[name]) if name in labels else _to_array(name, column)
        for name, column in columns.items()
    }
    # `id` is a field of datasets' ClassLabel for a name of one's own.
    features = {
        name: {"names": list(label.classes), "id": label.name, "_type": "ClassLabel"} for name, label in labels.items()
    }
    metadata = {KEY: json.dumps({"info": {"features": features}})} if features else None
    return pa.table(arrays, metadata=metadata)


def _to_array(name: str, column: np.ndarray) -> Any:
    pa = pyarrow()
    column = np.asarray(column)
    if column.ndim not in (1, 2) or (column.ndim == 2 and not column.shape[1]):
        raise ValueError(
            f"`{name}` must have a value or a row of values per sample, got shape {column.shape}; flatten the others."
        )
    column = np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("="))
    if column.ndim == 2 and column.dtype.kind in "biuf":
        return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])
    if column.ndim == 1 and column.dtype.kind in "biufMm":
        return pa.array(column)
    if column.ndim == 1 and (column.dtype.kind == "U" or all(issubclass(kind, str) for kind in set(map(type, column)))):
        return _strings(column)
    raise TypeError(
        f"`{name}` must hold numbers, bools or strings, got {column.dtype} of shape {column.shape}; convert it."
    )


def _strings(texts: Any) -> Any:
    pa = pyarrow()
    try:
        return pa.array(texts, pa.string())
    except UnicodeError:  # names of files may hold bytes that are no text
        return pa.array([None if text is None else encodable(text) for text in texts], pa.string())


def encodable(text: str) -> str:
    r"""Return a text as UTF-8 can hold it: what is no character, as of the name of a file, as `\udcff`.

    Example:
        >>> encodable("caf\udce9.png")
        'caf\\udce9.png'
    """
    return text.encode(errors="backslashreplace").decode()


def _encodable(label: CategoricalLabel) -> CategoricalLabel:
    classes = tuple(map(encodable, label.classes))
    return label if classes == label.classes else CategoricalLabel(label.name, classes)


def _to_dictionary(name: str, column: np.ndarray, label: CategoricalLabel) -> Any:
    pa = pyarrow()
    ids = checked_ids(name, np.asarray(column), label)
    width = next(width for width in (np.int8, np.int16, np.int32) if len(label.classes) <= np.iinfo(width).max)
    return pa.DictionaryArray.from_arrays(pa.array(ids.astype(width)), pa.array(label.classes, pa.string()))


def schemas_of(table: Any) -> dict[str, CategoricalLabel]:
    """Return the class names of an Arrow table: from its schema, else from its dictionaries of strings.

    Args:
        table: a `pa.Table`; for a file, `pq.read_schema(path).empty_table()` reads no rows.

    Example:
        >>> label = CategoricalLabel("animal", ["cat", "dog"])
        >>> schemas_of(to_arrow({"label": np.array([1])}, {"label": label})) == {"label": label}
        True
    """
    pa = pyarrow()
    features = _features((table.schema.metadata or {}).get(KEY, b"{}"))
    found: dict[str, CategoricalLabel] = {}
    for name in table.column_names:
        feature = features.get(name)
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names"):
            found[name] = CategoricalLabel(feature.get("id") or name, feature["names"])
        elif _is_categorical(pa, table[name]) and (classes := _classes(table[name])):
            found[name] = CategoricalLabel(name, classes)
    return found


def _features(text: bytes) -> dict[str, Any]:
    """Return what the `datasets` library says of columns; nothing if it is damaged or of another form."""
    try:
        found = json.loads(text)["info"]["features"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_categorical(pa: Any, column: Any) -> bool:
    if not pa.types.is_dictionary(column.type):
        return False
    kind = column.type.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _classes(column: Any) -> list[str]:
    chunks = column.unify_dictionaries().chunks
    return chunks[0].dictionary.to_pylist() if chunks else []


def to_numpy(column: Any, label: CategoricalLabel | None = None) -> np.ndarray:
    """Return an Arrow column as an array; of one chunk of plain numbers it is a view.

    Class names become class ids again, missing ones -1. Lists of one length become a second dimension, lists of
    different lengths an array of arrays. Strings become an array of objects.

    Args:
        column: a `pa.ChunkedArray` or `pa.Array`.
        label: the names whose places are the ids; without it, the column's own dictionary is.

    Example:
        >>> table = to_arrow({"x": np.array([[1.0, 2.0], [3.0, 4.0]], np.float16)})
        >>> to_numpy(table["x"]).shape, to_numpy(table["x"]).dtype
        ((2, 2), dtype('float16'))
    """
    pa = pyarrow()
    if not isinstance(column, pa.ChunkedArray):
        column = pa.chunked_array([column])
    if pa.types.is_dictionary(column.type):
        return _ids(pa, column, label)
    if _is_list(pa, column.type):
        return _rows(pa, column)
    values: np.ndarray = column.to_numpy()
    return values


def _ids(pa: Any, column: Any, label: CategoricalLabel | None) -> np.ndarray:
    if not _is_categorical(pa, column):
        return to_numpy(column.cast(column.type.value_type))
    column = column.unify_dictionaries()
    parts = [chunk.indices.fill_null(-1).to_numpy().astype(np.int64) for chunk in column.chunks]
    ids: np.ndarray = np.concatenate([np.zeros(0, np.int64), *parts])
    classes = _classes(column)
    if label is None or tuple(classes) == label.classes:
        return ids
    place = {name: i for i, name in enumerate(label.classes)}
    if unknown := sorted(set(classes) - place.keys()):
        raise ValueError(f"`{label.name}` must hold names of its CategoricalLabel, got {unknown[0]!r}; add it there.")
    return np.array([*(place[name] for name in classes), -1], np.int64).take(ids)


def _is_list(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _rows(pa: Any, column: Any) -> np.ndarray:
    """Return lists as a second dimension, a view where there is one chunk; ragged or nested ones as objects."""
    width, is_nested = _width(pa, column), _is_list(pa, column.type.value_type)
    if width and not column.null_count and not is_nested:
        parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
        if not parts:
            return np.zeros((0, width), column.type.value_type.to_pandas_dtype())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
    rows = np.empty(len(column), object)
    for i, row in enumerate(column.to_pylist()):
        rows[i] = row if row is None or is_nested else np.array(row)
    return rows


def _width(pa: Any, column: Any) -> int | None:
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    lengths = {length for chunk in column.chunks for length in chunk.value_lengths().unique().to_pylist()}
    return lengths.pop() if len(lengths) == 1 else None
