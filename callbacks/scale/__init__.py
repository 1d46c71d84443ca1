"""Many processes that train together."""
