from .order import ordered as ordered
from .seeded_dataset import seeded as seeded
