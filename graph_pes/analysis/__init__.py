"""What a model gets right and wrong: tables of errors, parity plots and dimer curves."""

from graph_pes.drivers import predict_all

from .calibration import Calibration, calibrate, calibration, calibration_figure
from .comparison import Comparison, compare
from .dimers import dimer_curve, dimer_energies
from .errors import ErrorRow, error_rows, format_error_table, write_error_table
from .parity import parity_figure, parity_plot
from .report import report
from .selection import farthest_points, most_uncertain, structure_features

__all__ = [
    "Calibration",
    "Comparison",
    "ErrorRow",
    "calibrate",
    "calibration",
    "calibration_figure",
    "compare",
    "dimer_curve",
    "dimer_energies",
    "error_rows",
    "farthest_points",
    "format_error_table",
    "most_uncertain",
    "parity_figure",
    "parity_plot",
    "predict_all",
    "report",
    "structure_features",
    "write_error_table",
]
