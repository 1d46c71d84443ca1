from .comparing import compare as compare
from .dynamics import dynamics as dynamics
from .interpretation import interpret as interpret
from .run import Run as Run
from .run import log as log
from .samples import Samples as Samples
from .schema import CategoricalLabel as CategoricalLabel
from .table import Table as Table
