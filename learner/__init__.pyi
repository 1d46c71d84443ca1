from .callback import Callback as Callback
from .data.limit import BatchLimit as BatchLimit
from .data.loaders import Loaders as Loaders
from .errors import CancelBatchException as CancelBatchException
from .errors import CancelEpochException as CancelEpochException
from .errors import CancelFitException as CancelFitException
from .errors import CancelStepException as CancelStepException
from .errors import LearnerError as LearnerError
from .errors import PostponeStepException as PostponeStepException
from .interrogate.hooks import Hook as Hook
from .interrogate.hooks import Hooks as Hooks
from .interrogate.predictor import Predictor as Predictor
from .interrogate.predictor import PredictorOutput as PredictorOutput
from .learner import Learner as Learner

__version__: str
