"""Go back to any batch of a run that kept checkpoints, look, change something, and go on. Start at `rewind.py`."""
