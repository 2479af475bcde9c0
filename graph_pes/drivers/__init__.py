"""Models inside other Python loops: over many structures, and as ASE calculators."""

from .ase import GraphPESCalculator
from .predict import check_elements, evaluation_mode, iterate_predictions, predict_all
from .reuse import ReusableNeighbourList, reference_length_covered
from .stopping import StopWhenUncertain

__all__ = [
    "GraphPESCalculator",
    "ReusableNeighbourList",
    "StopWhenUncertain",
    "check_elements",
    "evaluation_mode",
    "iterate_predictions",
    "predict_all",
    "reference_length_covered",
]
