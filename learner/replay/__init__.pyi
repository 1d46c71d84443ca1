from .branch import Branch as Branch
from .changes import lr as lr
from .changes import relabelled as relabelled
from .changes import seed as seed
from .changes import without as without
from .rewind import Moment as Moment
