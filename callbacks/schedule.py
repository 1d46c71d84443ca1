"""To come."""

from learner import Callback


class SchedulerCallback(Callback):
    """To come."""
