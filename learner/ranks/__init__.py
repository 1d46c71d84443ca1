"""The processes that train together, as `callbacks.DistributedCallback` and `callbacks.ShardCallback` use them.

- `launch`: call a function in several processes of this machine, from a notebook or a script.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
