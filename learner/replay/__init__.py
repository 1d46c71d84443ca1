"""Go back to any batch of a run that kept checkpoints, look, change something, and go on.

- `without`, `relabelled`, `lr`, `seed`: changes for `learn.branch` and `RecoverCallback`.
- `parallel_hindsight`: `learn.hindsight` in several processes at once. `save_recorded`, `load_recorded`: what callbacks
  have recorded, in a file and back.
- `Moment`: what `learn.rewind` gives. `Branch`: what `learn.branch` returns.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
