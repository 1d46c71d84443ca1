"""To come."""

from learner import Callback


class ActivationStats(Callback):
    """To come."""
