"""Models as files that other programs load."""

from .cache import compiled
from .engine import ExportError
from .export import export_model
from .exported import ExportedModel, Metadata

__all__ = ["ExportError", "ExportedModel", "Metadata", "compiled", "export_model"]
