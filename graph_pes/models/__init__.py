"""Models; the names in ``__all__`` are those that configuration files may use."""

from .addition import AdditionModel, TensorAdditionModel
from .ani import ANI
from .base import GraphPESModel, GraphPropertyModel, GraphTensorModel
from .charges import FixedCharges, LearnedCharges
from .chgnet import CHGNet
from .committee import Committee
from .coulomb import Coulomb, Ewald
from .dispersion import D3Dispersion
from .eddp import EDDP
from .freeze import freeze, freeze_all_except, freeze_any_matching, freeze_matching
from .io import load_model, load_model_component, save_model
from .last_layers import LastLayerCommittee
from .lennard_jones import LennardJones, LennardJonesMixture
from .lora import lora, merged
from .m3gnet import M3GNet
from .mace import MACE, ZEmbeddingMACE
from .morse import Morse
from .multi_head import MultiHead, select_head
from .nequip import NequIP, TensorNequIP, ZEmbeddingNequIP, ZEmbeddingTensorNequIP
from .nonlinear_mace import NonLinearMACE
from .offsets import (
    EnergyOffset,
    FixedOffset,
    FixedTensorOffset,
    LearnableOffset,
    LearnableTensorOffset,
)
from .orb import Orb
from .painn import PaiNN
from .pair_potential import PairPotential, SmoothedPairPotential
from .pet import PET
from .schnet import SchNet
from .stillinger_weber import StillingerWeber
from .tensor_mace import TensorMACE, ZEmbeddingTensorMACE
from .tensornet import TensorNet
from .unit_converter import UnitConverter
from .zbl import ZBLCoreRepulsion

ALL_PES_MODELS: list[type[GraphPESModel]] = [
    CHGNet,
    ANI,
    Coulomb,
    D3Dispersion,
    EDDP,
    Ewald,
    FixedOffset,
    LearnableOffset,
    LennardJones,
    LennardJonesMixture,
    M3GNet,
    MACE,
    Morse,
    NequIP,
    NonLinearMACE,
    PET,
    Orb,
    PaiNN,
    SchNet,
    SmoothedPairPotential,
    StillingerWeber,
    TensorNet,
    ZBLCoreRepulsion,
    ZEmbeddingMACE,
    ZEmbeddingNequIP,
]

__all__ = [
    "ALL_PES_MODELS",
    "ANI",
    "AdditionModel",
    "CHGNet",
    "Coulomb",
    "D3Dispersion",
    "Committee",
    "EDDP",
    "EnergyOffset",
    "Ewald",
    "FixedCharges",
    "FixedOffset",
    "FixedTensorOffset",
    "GraphPESModel",
    "GraphPropertyModel",
    "GraphTensorModel",
    "LastLayerCommittee",
    "LearnableOffset",
    "LearnableTensorOffset",
    "LearnedCharges",
    "LennardJones",
    "LennardJonesMixture",
    "M3GNet",
    "MACE",
    "Morse",
    "MultiHead",
    "NequIP",
    "NonLinearMACE",
    "PET",
    "Orb",
    "PaiNN",
    "PairPotential",
    "SchNet",
    "SmoothedPairPotential",
    "StillingerWeber",
    "TensorAdditionModel",
    "TensorMACE",
    "TensorNequIP",
    "TensorNet",
    "UnitConverter",
    "ZBLCoreRepulsion",
    "ZEmbeddingMACE",
    "ZEmbeddingNequIP",
    "ZEmbeddingTensorMACE",
    "ZEmbeddingTensorNequIP",
    "freeze",
    "freeze_all_except",
    "freeze_any_matching",
    "freeze_matching",
    "load_model",
    "load_model_component",
    "lora",
    "merged",
    "save_model",
    "select_head",
]
