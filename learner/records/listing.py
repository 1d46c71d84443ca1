"""A few named columns that print as a table: what questions about samples are answered with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from learner.data.signature import nearest
from learner.history import format_value

if TYPE_CHECKING:
    import pandas as pd

_AT_MOST = 30


class Listing:
    """Columns of equal length; `listing["loss"]` is an array, `len(listing)` their length, printed it is a table.

    Args:
        columns: by name.

    Attributes:
        columns: the same, as arrays.

    Example:
        >>> listing = Listing({"label": ["cat", "dog"], "loss": [0.5, 2.0]})
        >>> listing
        label    loss
          cat  0.5000
          dog  2.0000
        >>> listing["loss"].mean(), len(listing)
        (np.float64(1.25), 2)
    """

    def __init__(self, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
        self.columns = {name: np.asarray(values) for name, values in columns.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.columns:
            hint = nearest(str(name), self.columns)
            raise KeyError(f"`name` must be one of {', '.join(self.columns)}, got {name!r}{hint}.")
        return self.columns[name]

    def __len__(self) -> int:
        return next((len(values) for values in self.columns.values()), 0)

    def to_pandas(self) -> pd.DataFrame:
        """Return the columns as a data frame.

        Raises:
            ImportError: if pandas is not installed.
        """
        return pandas().DataFrame(self.columns)

    def __repr__(self) -> str:
        cells = [[name, *column] for name, column in self._cells().items()]
        widths = [max(map(len, column)) for column in cells]
        lines = zip(*[[c.rjust(w) for c in column] for column, w in zip(cells, widths, strict=True)], strict=True)
        return "\n".join(["  ".join(line) for line in lines] + self._rest())

    def _repr_html_(self) -> str:
        from fastcore.xml import Div, Table, Tbody, Td, Th, Thead, Tr, to_xml

        cells = self._cells()
        rows = [Tr(*[Td(cell) for cell in row]) for row in zip(*cells.values(), strict=True)]
        table = Table(Thead(Tr(*[Th(name) for name in cells])), Tbody(*rows))
        html: str = to_xml(Div(table, *self._rest()))
        return html

    def _cells(self) -> dict[str, list[str]]:
        first = {name: values[:_AT_MOST] for name, values in self.columns.items()}
        # Times as text: of nanoseconds NumPy makes plain numbers.
        shown = {name: (some.astype(str) if some.dtype.kind in "mM" else some).tolist() for name, some in first.items()}
        return {name: [format_value(value) for value in values] for name, values in shown.items()}

    def _rest(self) -> list[str]:
        return [f"... {len(self) - _AT_MOST:,} more rows"] if len(self) > _AT_MOST else []


def pandas() -> Any:
    """Return the module `pandas`.

    Raises:
        ImportError: if it is not installed; says what to install.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError("`to_pandas` needs pandas; do `pip install pandas`, or use `numpy`.") from None
    return pandas
