from .groups import add_to as add_to
