"""To come."""

from learner import Callback


class RecorderCallback(Callback):
    """To come."""
