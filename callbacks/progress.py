"""To come."""

from learner import Callback


class ProgressCallback(Callback):
    """To come."""
