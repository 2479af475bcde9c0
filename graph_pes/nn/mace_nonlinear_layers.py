"""Layers of MACE-OMOL: features of atoms that know the charge and the spin of their structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.atomic_graph import AtomicGraph, as_neighbour_matrix, values_of_structures
from graph_pes.tensors import is_traced

from .edges import edges_of
from .envelopes import PolynomialEnvelope
from .folded_polynomials import sorted_kinds
from .irreps import Blocks, o3, parse_irreps
from .mace_layers import MACELayer, parse_hidden_irreps, radial_basis, radial_functions
from .mace_nonlinear import NonLinearInteraction
from .per_element import AtomicOneHot, PerElementEmbedding
from .spherical_harmonics import SphericalHarmonics

if TYPE_CHECKING:
    from e3nn.o3 import Irreps


@dataclass(frozen=True)
class States:
    """Which charges or multiplicities a model knows, and how it describes them.

    Attributes
    ----------
    lowest
        The first of them.
    number
        How many there are.
    width
        Length of the vector of each.
    """

    lowest: int
    number: int
    width: int


class ChargeAndSpinEmbedding(nn.Module):
    r"""What charge and spin of a structure add to the scalars of its atoms.

    .. math::

        \mathbf{h}_i \leftarrow \mathbf{h}_i + \mathrm{SiLU} \left( W (\mathbf{q}_Q \oplus
        \mathbf{s}_S) \right)

    with learnt vectors of each total charge Q and multiplicity S.

    Parameters
    ----------
    channels
        Number of scalars.
    charges, spins
        Those that are known.
    """

    def __init__(self, channels: int, charges: States, spins: States):
        super().__init__()
        self.known = {"total_charge": charges, "total_spin": spins}
        self.vectors = nn.ModuleDict(
            {key: nn.Embedding(known.number, known.width) for key, known in self.known.items()}
        )
        self.linear = nn.Linear(charges.width + spins.width, channels, bias=False)

    def forward(self, graph: AtomicGraph, dtype: torch.dtype) -> Tensor:
        """Shape (N, channels).

        Raises
        ------
        ValueError
            For a charge or multiplicity that is not known.
        """
        parts = []
        for (key, known), default in zip(self.known.items(), (0.0, 1.0), strict=True):
            index = values_of_structures(graph, key, default, dtype).long() - known.lowest
            if not is_traced(graph.Z.shape[0]) and bool(
                ((index < 0) | (index >= known.number)).any()
            ):
                raise ValueError(
                    f"{key}: expected {known.lowest} to {known.lowest + known.number - 1}, got "
                    f"{(index + known.lowest).tolist()}"
                )
            parts.append(self.vectors[key](index))
        found = F.silu(self.linear(torch.cat(parts, dim=1)))  # (S, channels)
        if graph.batch is None:
            return found.expand(graph.Z.shape[0], -1)
        return found.index_select(0, graph.batch)


@dataclass(frozen=True)
class NonLinearSettings:
    """What the layers are made of; see `graph_pes.models.NonLinearMACE` for the meaning of each."""

    cutoff: float
    n_radial: int
    radial_widths: Sequence[int]
    channels: int
    hidden_irreps: str | Sequence[str]
    sent_channels: tuple[int, int]
    l_max: int
    layers: int
    correlation: int
    envelope_power: int
    distance_transform: Literal["Agnesi", "Soft"] | None
    charges: States | None
    spins: States | None


class NonLinearRepresentation(nn.Module):
    """Features of each atom before the first, and after every layer.

    Parameters
    ----------
    settings
        Of the layers.
    elements
        Chemical symbols of the elements that it is for.

    Attributes
    ----------
    irreps_out
        Irreps of the features after every layer.
    """

    def __init__(self, settings: NonLinearSettings, elements: Sequence[str]):
        super().__init__()
        s = settings
        if s.layers < 1:
            raise ValueError(f"layers: expected at least one, got {s.layers}")
        if (s.charges is None) != (s.spins is None):
            raise ValueError("expected charges and spins, or neither")
        self.cutoff = float(s.cutoff)
        self.describe = AtomicOneHot(elements)
        self.embedding = PerElementEmbedding(s.channels)
        self.states = (
            ChargeAndSpinEmbedding(s.channels, s.charges, s.spins)
            if s.charges is not None and s.spins is not None
            else None
        )
        self.radial = radial_basis("Bessel", s.n_radial, s.cutoff, s.distance_transform)
        self.envelope = PolynomialEnvelope(s.cutoff, p=s.envelope_power)
        self.harmonics = SphericalHarmonics(range(s.l_max + 1))
        hidden = o3().Irreps([(s.channels, ir) for ir in parse_hidden_irreps(s.hidden_irreps)])
        last = irreps = parse_irreps(f"{s.channels}x0e")
        self.layers = nn.ModuleList()
        self.irreps_out: list[Irreps] = []
        for n in range(s.layers):
            sent = o3().Irreps([(s.sent_channels[min(n, 1)], ir) for _, ir in irreps])
            args = (irreps, sent, s.channels, s.l_max, s.n_radial, s.radial_widths)
            layer = MACELayer(
                NonLinearInteraction(*args),
                irreps,
                last if n == s.layers - 1 else hidden,
                s.correlation,
                attributes=1,
                mixing=False,
                residual=True,
            )
            self.layers.append(layer)
            irreps = layer.irreps_out
            self.irreps_out.append(irreps)

    def forward(self, graph: AtomicGraph) -> list[Blocks]:
        """Blocks of features (N, 2l + 1, C) before and after the layers."""
        graph = as_neighbour_matrix(graph)
        basis = partial(radial_functions, self.radial, graph)
        edges = edges_of(graph, self.harmonics, basis, self.envelope)
        dtype = edges.envelope.dtype
        # Nothing in the layers but the radial functions depends on the element.
        attributes = self.describe(graph.Z).sum(1, keepdim=True).to(dtype)
        traced = is_traced(graph.Z.shape[0])
        kinds = None if self.training or traced else sorted_kinds(torch.zeros_like(graph.Z))
        scalars = self.embedding(graph.Z)
        if self.states is not None:
            scalars = scalars + self.states(graph, dtype)
        after = [[scalars.unsqueeze(1)]]
        for layer in self.layers:
            after.append(layer(after[-1], attributes, kinds, edges, graph))
        return after
