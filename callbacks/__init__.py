"""Callbacks, one file a concern. Each listens to the signals of `learner.Callback` and reads the learner's state."""

import lazy_loader

from learner.loop.extensions import announce

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Methods of a learner that are there once `callbacks` is imported.
announce("lr_find", "callbacks.train.lr_find")
announce("batch_size_find", "callbacks.speed.batch_size")
announce("interpret", "callbacks.samples.interpret")
