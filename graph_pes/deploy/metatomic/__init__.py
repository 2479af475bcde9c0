"""Archives for the engines that metatomic serves, and collective variables for PLUMED."""

from .collective_variables import export_cv
from .export import Description, export_metatomic

__all__ = ["Description", "export_cv", "export_metatomic"]
