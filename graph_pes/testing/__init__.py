"""A conformance suite for potential-energy surfaces: run it on every new model."""

from .structures import (
    StructureKind,
    random_orthogonal_matrix,
    random_structure,
    standard_structures,
)
from .subject import ModelUnderTest
from .suite import CHECKS, check_model

__all__ = [
    "CHECKS",
    "ModelUnderTest",
    "StructureKind",
    "check_model",
    "random_orthogonal_matrix",
    "random_structure",
    "standard_structures",
]
