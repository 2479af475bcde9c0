"""Tensors of atoms by MACE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import DEFAULT_CUTOFF, AtomicGraph, PropertyKey
from graph_pes.nn.aggregation import NeighbourAggregationMode
from graph_pes.nn.equivariant import EquivariantLinear, Gate
from graph_pes.nn.irreps import Blocks, merged, o3
from graph_pes.nn.mace_interactions import DEFAULT_MLP, MLPConfig
from graph_pes.nn.mace_layers import MACERepresentation, MACESettings
from graph_pes.nn.per_element import AtomicOneHot, PerElementEmbedding
from graph_pes.nn.radial import DistanceExpansion
from graph_pes.nn.tensor_head import Method, TensorHead, TensorTarget

from .base import GraphTensorModel

if TYPE_CHECKING:
    from e3nn.o3 import Irreps


class TensorReadOut(nn.Module):
    """A tensor of each atom from the features of all layers, those of the last one gated first.

    Parameters
    ----------
    irreps
        Irreps of the features of each layer.
    target
        Which tensor, and how to make it.
    width
        Channels of each irrep after the gate.

    Raises
    ------
    ValueError
        If the last layer lacks an irrep that is needed, or the width is not positive.
    """

    def __init__(self, irreps: Sequence[Irreps], target: TensorTarget, width: int):
        super().__init__()
        if width < 1:
            raise ValueError(f"readout_width: expected at least 1, got {width}")
        wanted = [ir for _, ir in target.wanted]
        self.gate = Gate(o3().Irreps([(width, ir) for ir in wanted]))
        self.hidden = EquivariantLinear(irreps[-1], self.gate.irreps_in)
        if self.hidden.irreps_out != self.gate.irreps_in:
            raise ValueError(
                f"no products of neighbours give all of {target.wanted} in the last layer, which "
                f"has {irreps[-1]}: use a higher correlation or l_max, or another target_method"
            )
        # For each irrep, where it is among the features of each layer.
        self.sources = [
            [
                (n, [ir for _, ir in of_layer].index(ir))
                for n, of_layer in enumerate(irreps[:-1])
                if ir in of_layer
            ]
            for ir in wanted
        ]
        channels = [
            mul_ir for of_layer in irreps[:-1] for mul_ir in of_layer if mul_ir.ir in wanted
        ]
        self.head = TensorHead(merged(o3().Irreps([*channels, *self.gate.irreps_out])), target)

    def forward(self, after: Sequence[Blocks], graph: AtomicGraph) -> Tensor:
        """From blocks of each layer to tensors, shape (N, components)."""
        gated = self.gate(self.hidden(after[-1]))
        joined = [
            torch.cat([*(after[layer][index] for layer, index in sources), block], dim=-1)
            for sources, block in zip(self.sources, gated, strict=True)
        ]
        return self.head(joined, graph)


class TensorMACE(GraphTensorModel):
    """MACE that predicts a tensor of each atom.

    Ben Mahmoud et al., doi:10.1063/5.0274240. Tensors are equivariant, under reflection too,
    for which graph-pes 1 applied non-linearities and scales to single components: here, the
    features of the last layer pass a gate, and scales belong to elements and irreps.

    Parameters
    ----------
    elements, cutoff, n_radial, radial_expansion, weights_mlp, channels, hidden_irreps, l_max, \
    layers, correlation, aggregation, self_connection
        See `MACE`. The last layer makes the irreps that the tensor is read from.
    readout_width
        Channels of each irrep after the gate.
    props
        Name of the label.
    target_method
        ``"direct"``: the irreps of the tensor are read from the features. ``"tensor_product"``:
        pairs of tensors are, which are coupled.
    number_of_tps
        Number of tensors that are coupled, even; by default two for every channel.
    target_tensor_irreps
        Irreps of the tensor, whose components are in e3nn's order; by default a scalar, "0e".
    irrep_tp
        The irrep of the tensors that are coupled.
    first_layer
        See `MACE`.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = TensorMACE(["H", "O"], channels=4, target_tensor_irreps="0e + 1e + 2e")
    >>> model.predict(AtomicGraph.from_ase(molecule("H2O")), ["tensor"])["tensor"].shape
    torch.Size([3, 9])
    """

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = DEFAULT_CUTOFF,
        n_radial: int = 8,
        radial_expansion: type[DistanceExpansion] | str = "Bessel",
        weights_mlp: MLPConfig = DEFAULT_MLP,
        channels: int = 128,
        hidden_irreps: str | Sequence[str] = "0e + 1o",
        l_max: int = 3,
        layers: int = 2,
        correlation: int = 3,
        aggregation: NeighbourAggregationMode = "constant_fixed",
        self_connection: bool = True,
        readout_width: int = 16,
        props: str = "tensor",
        target_method: Method = "tensor_product",
        number_of_tps: int | None = None,
        target_tensor_irreps: str | None = None,
        irrep_tp: str = "1o",
        first_layer: Literal["mixing", "residual"] = "mixing",
    ):
        target = TensorTarget(
            props, target_method, number_of_tps, target_tensor_irreps or "0e", irrep_tp
        )
        super().__init__(cutoff, [props])
        settings = MACESettings(
            cutoff=cutoff,
            n_radial=n_radial,
            radial_expansion=radial_expansion,
            weights_mlp=weights_mlp,
            channels=channels,
            hidden_irreps=hidden_irreps,
            irreps_last=irreps_of_last_layer(target),
            l_max=l_max,
            layers=layers,
            correlation=correlation,
            aggregation=aggregation,
            self_connection=self_connection,
            first_layer=first_layer,
        )
        one_hot = AtomicOneHot(elements)
        self.representation = MACERepresentation(settings, one_hot, len(elements), one_hot.numbers)
        self.read_out = TensorReadOut(self.representation.irreps_out, target, readout_width)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Tensors of atoms, shape (N, components), under the name of the property."""
        return {self.implemented_properties[0]: self.read_out(self.representation(graph), graph)}


class ZEmbeddingTensorMACE(GraphTensorModel):
    """`TensorMACE` for any elements, as `ZEmbeddingMACE`.

    Parameters
    ----------
    z_embed_dim
        Length of the learnt vector of each element. All other arguments are those of
        `TensorMACE`.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = ZEmbeddingTensorMACE(z_embed_dim=2, channels=4, target_tensor_irreps="1e")
    >>> model.predict(AtomicGraph.from_ase(molecule("H2O")), ["tensor"])["tensor"].shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        z_embed_dim: int = 4,
        cutoff: float = DEFAULT_CUTOFF,
        n_radial: int = 8,
        radial_expansion: type[DistanceExpansion] | str = "Bessel",
        weights_mlp: MLPConfig = DEFAULT_MLP,
        channels: int = 128,
        hidden_irreps: str | Sequence[str] = "0e + 1o",
        l_max: int = 3,
        layers: int = 2,
        correlation: int = 3,
        aggregation: NeighbourAggregationMode = "constant_fixed",
        self_connection: bool = True,
        readout_width: int = 16,
        props: str = "tensor",
        target_method: Method = "tensor_product",
        number_of_tps: int | None = None,
        target_tensor_irreps: str | None = None,
        irrep_tp: str = "1o",
        first_layer: Literal["mixing", "residual"] = "mixing",
    ):
        target = TensorTarget(
            props, target_method, number_of_tps, target_tensor_irreps or "0e", irrep_tp
        )
        super().__init__(cutoff, [props])
        settings = MACESettings(
            cutoff=cutoff,
            n_radial=n_radial,
            radial_expansion=radial_expansion,
            weights_mlp=weights_mlp,
            channels=channels,
            hidden_irreps=hidden_irreps,
            irreps_last=irreps_of_last_layer(target),
            l_max=l_max,
            layers=layers,
            correlation=correlation,
            aggregation=aggregation,
            self_connection=self_connection,
            first_layer=first_layer,
        )
        describe = PerElementEmbedding(z_embed_dim)
        self.representation = MACERepresentation(settings, describe, z_embed_dim)
        self.read_out = TensorReadOut(self.representation.irreps_out, target, readout_width)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Tensors of atoms, shape (N, components), under the name of the property."""
        return {self.implemented_properties[0]: self.read_out(self.representation(graph), graph)}


def irreps_of_last_layer(target: TensorTarget) -> str:
    """What a tensor is read from, and scalars for the gate."""
    irreps = {"0e": None} | {str(ir): None for _, ir in target.wanted}
    return " + ".join(irreps)
