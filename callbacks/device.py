"""To come."""

from learner import Callback


class DeviceCallback(Callback):
    """To come."""
