"""Models; the names in ``__all__`` are those that configuration files may use."""

from .addition import AdditionModel, TensorAdditionModel
from .base import GraphPESModel, GraphPropertyModel, GraphTensorModel
from .freeze import freeze, freeze_all_except, freeze_any_matching, freeze_matching
from .io import load_model, load_model_component, save_model
from .offsets import (
    EnergyOffset,
    FixedOffset,
    FixedTensorOffset,
    LearnableOffset,
    LearnableTensorOffset,
)
from .painn import PaiNN
from .schnet import SchNet
from .unit_converter import UnitConverter

ALL_PES_MODELS: list[type[GraphPESModel]] = [
    EnergyOffset,
    FixedOffset,
    LearnableOffset,
    PaiNN,
    SchNet,
]

__all__ = [
    "ALL_PES_MODELS",
    "AdditionModel",
    "EnergyOffset",
    "FixedOffset",
    "FixedTensorOffset",
    "GraphPESModel",
    "GraphPropertyModel",
    "GraphTensorModel",
    "LearnableOffset",
    "LearnableTensorOffset",
    "PaiNN",
    "SchNet",
    "TensorAdditionModel",
    "UnitConverter",
    "freeze",
    "freeze_all_except",
    "freeze_any_matching",
    "freeze_matching",
    "load_model",
    "load_model_component",
    "save_model",
]
