"""To come."""

from learner import Callback


class LRFinderCallback(Callback):
    """To come."""
