from .order import ordered as ordered
from .order import seeded as seeded
