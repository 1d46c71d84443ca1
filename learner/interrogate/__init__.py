"""Look inside a model: see and change what layers give, add methods to it, compare representations.

- `capture`: what layers receive and give, and edits of it;
- `bind`: new methods for one instance;
- `cosine`, `cka`: how alike two representations are;
- `neighbours`, `neighbour_overlap`: who is near whom, and how that moves;
- `representation_map`: a picture of a representation.
"""

from learner.interrogate.bind import bind
from learner.interrogate.capture import capture
from learner.interrogate.maps import representation_map
from learner.interrogate.neighbours import neighbour_overlap, neighbours
from learner.interrogate.similarity import cka, cosine

__all__ = ["bind", "capture", "cka", "cosine", "neighbour_overlap", "neighbours", "representation_map"]
