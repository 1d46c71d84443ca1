"""A callback-driven training learner for PyTorch."""

import lazy_loader

__version__ = "0.2.0"  # the one place: the build reads it here

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
