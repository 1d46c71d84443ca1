"""Every sample on record: tables, and what was measured of their samples in a run.

- `Table`: data whose samples have numbers, and are known again;
- `CategoricalLabel`: class names of a column;
- `Run`, `log`: a folder with what ran, its scalars, samples and figures;
- `Samples`: what was measured, read from the files column by column;
- `dynamics`: how each sample was learned, and which labels are likely wrong;
- `compare`: several runs on a page;
- `interpret`: where a model is wrong, how often, and how sure of that.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
