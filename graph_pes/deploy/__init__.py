"""Models as files that other programs load."""

from .cache import compiled
from .engine import ExportError
from .export import export_model
from .exported import ExportedModel, Metadata
from .metatomic import export_cv, export_metatomic

__all__ = [
    "ExportError",
    "ExportedModel",
    "Metadata",
    "compiled",
    "export_cv",
    "export_metatomic",
    "export_model",
]
