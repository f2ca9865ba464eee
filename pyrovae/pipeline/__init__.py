"""From settings to a run folder and what is done with it: the body of each command."""

from pyrovae.config import Architecture, Data, Evaluating, Training
from pyrovae.pipeline.again import diagnose_again, evaluate_again, reload, write_samples
from pyrovae.pipeline.comparison import compare_runs
from pyrovae.pipeline.estimators import compare, compare_by_training
from pyrovae.pipeline.fit import Result, run
from pyrovae.pipeline.prepare import Run, build, conditions, load_data

__all__ = [
    "Architecture",
    "Data",
    "Evaluating",
    "Result",
    "Run",
    "Training",
    "build",
    "compare",
    "compare_by_training",
    "compare_runs",
    "conditions",
    "diagnose_again",
    "evaluate_again",
    "load_data",
    "reload",
    "run",
    "write_samples",
]
