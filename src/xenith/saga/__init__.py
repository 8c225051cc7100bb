"""Long work as sagas: named steps with their undos, progress kept with the rows, resumed on start.

``Saga`` and ``Step`` define, ``start`` and ``cancel`` (transaction functions) ask, ``SagaEngine``
runs. Knows nothing of what the steps do.
"""

from xenith.saga.definition import Outcome, Run, Saga, Step
from xenith.saga.engine import SagaEngine
from xenith.saga.reconcilers import SagaPruning, StuckSagas
from xenith.saga.records import cancel, get, list_of_subject, retry, start

__all__ = [
    "Outcome",
    "Run",
    "Saga",
    "SagaEngine",
    "SagaPruning",
    "Step",
    "StuckSagas",
    "cancel",
    "get",
    "list_of_subject",
    "retry",
    "start",
]
