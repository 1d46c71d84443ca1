from .freezing import freeze as freeze
from .freezing import unfreeze as unfreeze
from .groups import add_to as add_to
from .groups import param_groups as param_groups
from .several import Optimizers as Optimizers
