"""To come."""

from learner import Callback


class HooksCallback(Callback):
    """To come."""
