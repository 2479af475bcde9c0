"""MACE: many-body features of atoms, made by symmetric products and passed on as messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.atomic_graph import DEFAULT_CUTOFF, AtomicGraph, PropertyKey
from graph_pes.nn.equivariant import EquivariantLinear
from graph_pes.nn.irreps import o3
from graph_pes.nn.mace_interactions import DEFAULT_MLP, MACEAggregation, MLPConfig
from graph_pes.nn.mace_layers import MACERepresentation, MACESettings
from graph_pes.nn.per_element import AtomicOneHot, PerElementEmbedding
from graph_pes.nn.radial import DistanceExpansion
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.screened_repulsion import ScreenedRepulsion

from .base import GraphPESModel


class ReadOut(nn.Module):
    """A number from the scalars of an atom: linear, or with a hidden layer.

    Parameters
    ----------
    channels
        Number of scalars.
    width
        Of the hidden layer, if there is one.

    Raises
    ------
    ValueError
        If the width is not positive.
    """

    def __init__(self, channels: int, width: int | None = None):
        super().__init__()
        if width is not None and width < 1:
            raise ValueError(f"readout_width: expected at least 1, got {width}")
        sizes = [channels, 1] if width is None else [channels, width, 1]
        self.layers = nn.ModuleList(
            EquivariantLinear(f"{n}x0e", f"{m}x0e") for n, m in pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """From (N, 1, C) to (N,)."""
        first, *others = self.layers
        (x,) = first([x])
        for layer in others:
            (x,) = layer([F.silu(x)])
        return x.view(-1)


class EnergyMACE(GraphPESModel):
    """Local energies from the features of all layers: what `MACE` and `ZEmbeddingMACE` share."""

    def __init__(
        self,
        representation: MACERepresentation,
        channels: int,
        readout_width: int,
        repulsion: ScreenedRepulsion | None = None,
    ):
        super().__init__(representation.cutoff, implemented_properties=["local_energies"])
        self.representation = representation
        layers = len(representation.layers)
        self.read_outs = nn.ModuleList(
            ReadOut(channels, readout_width if n == layers - 1 else None) for n in range(layers)
        )
        scalar = o3().Irrep("0e")
        self.scalars = [
            [ir for _, ir in irreps].index(scalar) for irreps in representation.irreps_out
        ]
        self.repulsion = repulsion
        self.scaler = LocalEnergiesScaler()

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies, shape (N,)."""
        after = self.representation(graph)
        energies = [
            read_out(x[scalars])
            for read_out, x, scalars in zip(self.read_outs, after, self.scalars, strict=True)
        ]
        if self.repulsion is not None:
            energies.append(self.repulsion(graph))
        return {"local_energies": self.scaler(sum(energies), graph)}


class MACE(EnergyMACE):
    r"""Equivariant message passing with many-body messages.

    Batatia, Kovács, Simm, Ortner and Csányi, doi:10.48550/arXiv.2206.07697. In every layer,
    features of neighbours, C channels of each irrep, are summed with weights that depend on
    distance and direction,

    .. math::

        A_{i, l m, c} = \frac{1}{\lambda} \sum_{c'} W^{(l)}_{c' c} \sum_{j \in \mathcal{N}_i}
        \sum_{p = (l_1, l_2, l)} R_{p c'}(r_{ij})
        \left( h_{j, l_1, c'} \otimes Y_{l_2}(\hat{\mathbf{r}}_{ij}) \right)_{l m} ,

    and products of up to :math:`\nu` of these sums, `SymmetricContraction`, make many-body
    features of the atom, whose weights depend on its element. A linear map of them, and one of
    the previous features of the atom, with weights of its element too, add up to its features
    in the next layer. Local energies are linear in the scalars after each layer but the last,
    where a network with one hidden layer reads them; they are scaled per element. The last layer
    makes scalars only.

    As in graph-pes 1, the sums of the first layer are mixed by a matrix of the element of the
    atom, as in ``RealAgnosticInteractionBlock`` of mace-torch, and the frequencies of the
    radial basis are trained. The present default of mace-torch is a residual connection in the
    first layer in place of this: ``first_layer="residual"``. The later foundation models, Batatia
    et al., doi:10.1063/5.0297006, have ``aggregation="density"``, ``distance_transform="Agnesi"``
    and ``core_repulsion=True``. The residual connection bypasses
    the linear map, as in mace-torch; in graph-pes 1 it did not, which is the same set of
    functions. Only independent couplings have weights: any weights of the redundant ones of
    both packages are weights of these.

    Parameters
    ----------
    elements
        Chemical symbols of the elements that the model is for. Others are an error.
    cutoff
        In Å.
    n_radial
        Number of radial functions.
    radial_expansion
        The radial basis, a `DistanceExpansion` class or its name.
    weights_mlp
        Of the networks that turn radial functions into :math:`R`, any of ``hidden_depth``
        (default 3), ``hidden_features`` (64, or a list of widths) and ``activation``
        (``"SiLU"``).
    channels
        C.
    hidden_irreps
        Kinds of features between layers: ``"0e"``, ``"0e + 1o"``, ``["0e", "1o", "2e"]`` ...
    l_max
        The highest degree of spherical harmonics, and of the sums A.
    layers
        Number of layers.
    correlation
        :math:`\nu`, 1 to 4: messages are of body order :math:`\nu + 1`.
    aggregation
        :math:`\lambda`: ``"constant_fixed"`` for the mean number of neighbours in the training
        data; see `NeighbourAggregation`. ``"density"`` for `NeighbourDensity`, which depends on
        the atom.
    self_connection
        Whether there are residual connections.
    readout_width
        Width of the hidden layer after the last layer.
    first_layer
        ``"mixing"`` or ``"residual"``, see above.
    envelope_power
        Of the `PolynomialEnvelope` that takes messages to zero at the cutoff.
    distance_transform
        ``"Agnesi"`` or ``"Soft"``: radial functions are those of distances in units of the
        covalent radii of the two atoms, see `AgnesiTransform` and `SoftTransform`. Such models
        are compiled without tables of radial functions.
    core_repulsion
        Whether `ScreenedRepulsion` is added to local energies, before they are scaled.

    Raises
    ------
    ValueError
        If an argument makes no sense, or an element is unknown or given twice.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = MACE(elements=["H", "C"], channels=8, l_max=2, cutoff=4.0)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
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
        aggregation: MACEAggregation = "constant_fixed",
        self_connection: bool = True,
        readout_width: int = 16,
        first_layer: Literal["mixing", "residual"] = "mixing",
        envelope_power: int = 5,
        distance_transform: Literal["Agnesi", "Soft"] | None = None,
        core_repulsion: bool = False,
    ):
        settings = MACESettings(
            cutoff=cutoff,
            n_radial=n_radial,
            radial_expansion=radial_expansion,
            weights_mlp=weights_mlp,
            channels=channels,
            hidden_irreps=hidden_irreps,
            irreps_last="0e",
            l_max=l_max,
            layers=layers,
            correlation=correlation,
            aggregation=aggregation,
            self_connection=self_connection,
            first_layer=first_layer,
            envelope_power=envelope_power,
            distance_transform=distance_transform,
        )
        one_hot = AtomicOneHot(elements)
        representation = MACERepresentation(settings, one_hot, len(elements), one_hot.numbers)
        repulsion = ScreenedRepulsion(cutoff, envelope_power) if core_repulsion else None
        super().__init__(representation, channels, readout_width, repulsion)


class ZEmbeddingMACE(EnergyMACE):
    """`MACE` for any elements, which it knows by vectors of a few numbers.

    What is linear in the unit vector of an element there, is linear in a learnt vector of it
    here: the mixing of the first layer, the residual connections and the contractions.

    Parameters
    ----------
    z_embed_dim
        Length of the vectors. All other arguments are those of `MACE`.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = ZEmbeddingMACE(z_embed_dim=2, channels=8, l_max=2, cutoff=4.0)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
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
        aggregation: MACEAggregation = "constant_fixed",
        self_connection: bool = True,
        readout_width: int = 16,
        first_layer: Literal["mixing", "residual"] = "mixing",
        envelope_power: int = 5,
    ):
        settings = MACESettings(
            cutoff=cutoff,
            n_radial=n_radial,
            radial_expansion=radial_expansion,
            weights_mlp=weights_mlp,
            channels=channels,
            hidden_irreps=hidden_irreps,
            irreps_last="0e",
            l_max=l_max,
            layers=layers,
            correlation=correlation,
            aggregation=aggregation,
            self_connection=self_connection,
            first_layer=first_layer,
            envelope_power=envelope_power,
        )
        describe = PerElementEmbedding(z_embed_dim)
        representation = MACERepresentation(settings, describe, z_embed_dim)
        super().__init__(representation, channels, readout_width)
