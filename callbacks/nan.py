"""To come."""

from learner import Callback


class TerminateOnNaNCallback(Callback):
    """To come."""
