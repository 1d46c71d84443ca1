"""To come."""

from learner import Callback


class ClipGradientCallback(Callback):
    """To come."""
