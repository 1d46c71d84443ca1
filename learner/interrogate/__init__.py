"""Look inside a model: see and change what layers give, add methods to it, compare representations.

- `capture`: what layers receive and give, and edits of it;
- `bind`: new methods for one instance;
- `cosine`, `cka`: how alike two representations are;
- `neighbours`, `neighbour_overlap`: who is near whom, and how that moves;
- `representation_map`: a picture of a representation.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
