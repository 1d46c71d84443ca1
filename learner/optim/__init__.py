"""Optimizers as a user makes them, and what of a model they train.

- `param_groups`: an `opt_func` with groups by the names of parameters: rates, weight decay.
- `Optimizers`: several optimizers as one.
- `freeze`, `unfreeze`: which parameters train, by the names of layers.
- `add_to`: give an optimizer parameters that came after it was made, and keep what it remembers of the others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
