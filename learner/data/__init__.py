"""From a loader to what goes into the model; to users, loaders whose order and noise are a function of position.

- `ordered`: a loader whose order, and the noise of whose dataset, follow from a seed, the epoch and the position;
- `seeded`: a dataset whose noise follows from a seed, the epoch and the sample.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
