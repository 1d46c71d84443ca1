"""Every sample on record: tables, and what was measured of their samples in a run.

- `Table`: data whose samples have numbers, and are known again;
- `CategoricalLabel`: class names of a column;
- `Run`, `log`: a folder with what ran, its scalars, samples and figures;
- `Samples`: what was measured, read from the files column by column;
- `dynamics`: how each sample was learned, and which labels are likely wrong.
"""

from learner.records.dynamics import dynamics
from learner.records.run import Run, log
from learner.records.samples import Samples
from learner.records.schema import CategoricalLabel
from learner.records.table import Table

__all__ = ["CategoricalLabel", "Run", "Samples", "Table", "dynamics", "log"]
