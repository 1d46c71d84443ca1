"""A training in a file, and back; to users, `read_checkpoint`: what a file holds, without running any code."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
