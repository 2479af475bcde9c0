"""What a model gets right and wrong: tables of errors, parity plots and dimer curves."""

from graph_pes.drivers import predict_all

from .comparison import Comparison, compare
from .dimers import dimer_curve, dimer_energies
from .errors import ErrorRow, error_rows, format_error_table, write_error_table
from .parity import parity_figure, parity_plot
from .report import report

__all__ = [
    "Comparison",
    "ErrorRow",
    "compare",
    "dimer_curve",
    "dimer_energies",
    "error_rows",
    "format_error_table",
    "parity_figure",
    "parity_plot",
    "predict_all",
    "report",
    "write_error_table",
]
