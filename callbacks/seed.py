"""To come."""

from learner import Callback


class SeedCallback(Callback):
    """To come."""
