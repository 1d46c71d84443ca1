"""Callbacks, one file a concern. Each listens to the signals of `learner.Callback` and reads the learner's state."""

import lazy_loader

from learner.loop.extensions import announce

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

announce("lr_find", "callbacks.train.lr_find")  # `learn.lr_find()` is there once `callbacks` is imported
