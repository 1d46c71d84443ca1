"""To come."""

from learner import Callback


class LambdaCallback(Callback):
    """To come."""
