"""Building blocks of models; the names in ``__all__`` are those that configurations may use."""

from .aggregation import (
    MeanNeighbours,
    NeighbourAggregation,
    ScaledSumNeighbours,
    SumNeighbours,
    VariancePreservingSumNeighbours,
)
from .envelopes import CosineEnvelope, Envelope, PolynomialEnvelope, SmoothOnsetEnvelope
from .mlp import MLP, ShiftedSoftplus
from .per_element import (
    AtomicOneHot,
    PerElementEmbedding,
    PerElementParameter,
    count_used_parameters,
)
from .radial import (
    Bessel,
    DistanceExpansion,
    ExpNormal,
    ExponentialRBF,
    GaussianSmearing,
    SinExpansion,
    SmoothBessel,
)
from .scaling import LocalEnergiesScaler

__all__ = [
    "AtomicOneHot",
    "Bessel",
    "CosineEnvelope",
    "DistanceExpansion",
    "Envelope",
    "ExpNormal",
    "ExponentialRBF",
    "GaussianSmearing",
    "LocalEnergiesScaler",
    "MLP",
    "MeanNeighbours",
    "NeighbourAggregation",
    "PerElementEmbedding",
    "PerElementParameter",
    "PolynomialEnvelope",
    "ScaledSumNeighbours",
    "ShiftedSoftplus",
    "SinExpansion",
    "SmoothBessel",
    "SmoothOnsetEnvelope",
    "SumNeighbours",
    "VariancePreservingSumNeighbours",
    "count_used_parameters",
]
