"""To come."""

from learner import Callback


class AccumulateCallback(Callback):
    """To come."""
