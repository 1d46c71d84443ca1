"""To come."""

from learner import Callback


class CSVLoggerCallback(Callback):
    """To come."""
