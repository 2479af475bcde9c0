"""CHGNet: messages along edges, and along the angles between short ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, neighbour_vectors
from graph_pes.nn.chgnet_layers import (
    AngleExpansion,
    AngleUpdate,
    AtomConvolution,
    BondConvolution,
    bonds_of,
)
from graph_pes.nn.envelopes import PolynomialEnvelope
from graph_pes.nn.mlp import MLP
from graph_pes.nn.per_element import PerElementEmbedding
from graph_pes.nn.radial import Bessel
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.tensors import safe_norm

from .base import GraphPESModel


class CHGNet(GraphPESModel):
    r"""CHGNet, whose atoms, bonds and angles carry features that update each other.

    Deng et al., doi:10.1038/s42256-023-00716-3. Atoms start with an embedding of their element,
    edges with functions of their length, Bessel functions times an envelope, and the angles
    between bonds, the edges within ``bond_cutoff``, with a Fourier series. Then, in each layer,
    an `AtomConvolution` updates atoms by all of their edges, a `BondConvolution` updates bonds by
    the angles at both of their ends, and an `AngleUpdate` angles by their bonds; in the last
    layer, atoms alone. Linear functions of the lengths multiply all messages, so that these fade
    out towards the cutoffs. A perceptron reads the energy of each atom from its features.

    The defaults are those of the published networks 0.3.0 and r2SCAN, which
    `graph_pes.interfaces.chgnet` fills with their weights; their energies of the atoms are a
    `FixedOffset` beside it. Angles are arc tangents rather than
    arc cosines, which is the same but for rounding. Local energies are scaled per element, by
    factors that are 1 in the published networks.

    The number of bonds and angles depends on the structure, in exported programs too. Since
    bonds are updated from both of their ends, a process of an engine has to compute ghost atoms
    for itself.

    Parameters
    ----------
    cutoff
        Of edges, in Å.
    bond_cutoff
        Of edges that angles are between, in Å; at most ``cutoff``.
    channels
        C, the width of the features of atoms, bonds and angles.
    layers
        Number of atom convolutions, at least one.
    radial_features, angular_features
        Number of functions of lengths, and of angles; the latter is odd.
    hidden_channels
        Width of the hidden layers of atom and bond convolutions.
    read_out_layers
        Widths of the hidden layers of the perceptron that reads energies.
    envelope_power
        Of `PolynomialEnvelope`.
    magnetic_moments
        Whether the sizes of magnetic moments are predicted too, which are read from the atoms
        before the last layer. Their labels are a property as any other, of `PropertyLoss`.

    Raises
    ------
    ValueError
        If ``bond_cutoff`` exceeds ``cutoff``, if there are no layers, or only one for magnetic
        moments, or if the number of functions of angles is even.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = CHGNet(cutoff=4.0, channels=16, layers=2)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        cutoff: float = 6.0,
        bond_cutoff: float = 3.0,
        channels: int = 64,
        layers: int = 4,
        radial_features: int = 31,
        angular_features: int = 31,
        hidden_channels: int = 64,
        read_out_layers: Sequence[int] = (64, 64, 64),
        envelope_power: int = 8,
        magnetic_moments: bool = False,
    ):
        moments = ["magnetic_moments"] if magnetic_moments else []
        super().__init__(cutoff, implemented_properties=["local_energies", *moments])
        if bond_cutoff > cutoff or layers < 1 + len(moments):
            raise ValueError(
                "CHGNet: expected at least one layer, two for magnetic_moments, and bond_cutoff "
                f"to be at most the cutoff, {cutoff:g} Å, got {layers} and {bond_cutoff:g} Å"
            )
        self.bond_cutoff = float(bond_cutoff)
        self.embedding = PerElementEmbedding(channels)
        self.radial = nn.ModuleList(Bessel(radial_features, x) for x in (cutoff, bond_cutoff))
        self.envelopes = nn.ModuleList(
            PolynomialEnvelope(x, envelope_power) for x in (cutoff, bond_cutoff)
        )
        self.edge_embedding = nn.Linear(radial_features, channels, bias=False)
        self.edge_weights = nn.Linear(radial_features, channels, bias=False)
        self.bond_weights = nn.Linear(radial_features, channels, bias=False)
        self.angular = AngleExpansion(angular_features)
        self.angle_embedding = nn.Linear(angular_features, channels, bias=False)
        self.atom_convolutions = nn.ModuleList(
            AtomConvolution(channels, hidden_channels) for _ in range(layers)
        )
        self.bond_convolutions = nn.ModuleList(
            BondConvolution(channels, hidden_channels) for _ in range(layers - 1)
        )
        self.angle_updates = nn.ModuleList(AngleUpdate(channels) for _ in range(layers - 2))
        self.read_out_norm = nn.LayerNorm(channels)
        self.read_out = MLP([channels, *read_out_layers, 1], activation="SiLU")
        self.scaler = LocalEnergiesScaler()
        self.moments = nn.Linear(channels, 1) if magnetic_moments else None

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies and, if they are predicted, magnetic moments in μ_B: shape (N,)."""
        *before, nodes = self.nodes(graph)
        energies = self.read_out(self.read_out_norm(nodes))
        predictions = {"local_energies": self.scaler(energies, graph)}
        if self.moments is not None:
            predictions["magnetic_moments"] = self.moments(before[-1]).view(-1).abs()
        return predictions

    def nodes(self, graph: AtomicGraph) -> list[Tensor]:
        """Features of the atoms after each layer, (N, C)."""
        vectors = neighbour_vectors(graph)
        r = safe_norm(vectors)
        bonds = bonds_of(graph, vectors, r, self.bond_cutoff)
        basis = self.basis(r, 0)  # (E, B)
        edge_weights = self.edge_weights(basis)
        bond_weights = self.bond_weights(self.basis(r.index_select(0, bonds.edges), 1))
        features = self.edge_embedding(basis.index_select(0, bonds.edges))  # (B, C)
        a, b = (bonds.directions.index_select(0, x) for x in bonds.first)
        angles = self.angle_embedding(self.angular(a, b)).unsqueeze(0)  # (1, T, C)
        nodes, updates, found = self.embedding(graph.Z), None, []
        for n, convolution in enumerate(self.atom_convolutions):
            nodes = convolution(
                nodes, basis, self.edge_embedding, updates, edge_weights, bonds, graph
            )
            found.append(nodes)
            if n < len(self.bond_convolutions):
                change = self.bond_convolutions[n](nodes, features, angles, bond_weights, bonds)
                features = features + change
                updates = change if updates is None else updates + change
            if n < len(self.angle_updates):
                angles = self.angle_updates[n](nodes, features, angles, bonds)
        return found

    def basis(self, r: Tensor, which: int) -> Tensor:
        """Functions (E, B) of lengths (E,), of all edges (0) or of bonds (1)."""
        return self.radial[which](r) * self.envelopes[which](r).unsqueeze(1)
