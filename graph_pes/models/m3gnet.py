"""M3GNet: messages of edges that know the angles between them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.atomic_graph import (
    DEFAULT_CUTOFF,
    AtomicGraph,
    PropertyKey,
    Z_with_ghosts,
    with_ghosts,
)
from graph_pes.nn.m3gnet_layers import Block, GatedMLP, GeometryEncoder
from graph_pes.nn.per_element import AtomicOneHot, PerElementEmbedding
from graph_pes.nn.scaling import LocalEnergiesScaler

from .base import GraphPESModel


class M3GNet(GraphPESModel):
    r"""Messages of edges that know the angles between them.

    Chen and Ong, doi:10.1038/s43588-022-00718-4, as in MatterSim (Yang et al.,
    doi:10.48550/arXiv.2405.04967). Atoms and directed edges carry C features each. In each layer,
    an edge learns from the other edges of its central atom, their lengths and the angles to them,
    as far as both are within the three-body cutoff (`ThreeBody`), and from its two atoms; atoms
    then sum messages over their edges (`Block`). A gated perceptron reads local energies from the
    atoms, which are scaled per element.

    Sizes are those of the paper. With ``M3GNet(channels=128, radial_features=4, l_max=3)`` it is
    a network of MatterSim, such as `graph_pes.interfaces.mattersim` fills with weights from a
    file. The energies of atoms that its normaliser adds are a `FixedOffset` beside it in an
    `AdditionModel`.

    Unlike the paper, and as in MatterSim, what an edge learns from others is gated by the features
    of the central atom, not of the others, and passes through SiLU without biases; so do the
    weights of messages; there are no features of whole structures. Unlike MatterSim, no triplets
    are listed: `AngularSums` are sums over spherical harmonics, which are smooth also where three
    atoms are on a line.

    Parameters
    ----------
    cutoff
        In Å.
    three_body_cutoff
        In Å, not more than the cutoff.
    channels
        C.
    layers
        Number of updates of edges and atoms.
    radial_features
        Number of radial functions, B, and of three-body functions of each degree.
    l_max
        Largest degree of the angular functions.
    elements
        Chemical symbols of the elements that the model is for; others are refused. None for any.

    Raises
    ------
    ValueError
        If the three-body cutoff is larger than the cutoff, for less than one layer, channel or
        radial function, for a negative degree, and for an unknown element.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = M3GNet(cutoff=4.0, three_body_cutoff=3.0, channels=8, layers=2)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        cutoff: float = DEFAULT_CUTOFF,
        three_body_cutoff: float = 4.0,
        channels: int = 64,
        layers: int = 3,
        radial_features: int = 3,
        l_max: int = 2,
        elements: Sequence[str] | None = None,
    ):
        super().__init__(cutoff, ["local_energies"])
        if not 0 < three_body_cutoff <= cutoff:
            raise ValueError(
                "M3GNet: expected a three_body_cutoff of at most the cutoff, "
                f"{cutoff} Å, got {three_body_cutoff} Å"
            )
        for name, value, least in (("layers", layers, 1), ("l_max", l_max, 0)):
            if value < least:
                raise ValueError(f"M3GNet: expected {name} of at least {least}, got {value}")
        functions = radial_features * (l_max + 1)
        self.geometry = GeometryEncoder(cutoff, three_body_cutoff, radial_features, l_max)
        # Nothing is computed from it: `predict` makes sure that there are no others.
        self.one_hot = None if elements is None else AtomicOneHot(elements)
        self.embedding = PerElementEmbedding(channels)
        self.edge_encoder = nn.Linear(radial_features, channels, bias=False)
        self.blocks = nn.ModuleList(
            Block(channels, radial_features, functions) for _ in range(layers)
        )
        self.read_out = GatedMLP([channels, channels, channels, 1], activate_last=False)
        self.scaler = LocalEnergiesScaler()

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies, shape (N,)."""
        geometry = self.geometry(graph)
        # Elements of ghosts are known: they need no exchange.
        nodes, everyone = self.embedding(graph.Z), self.embedding(Z_with_ghosts(graph))
        edges = F.silu(self.edge_encoder(geometry.radial))
        for n, block in enumerate(self.blocks):
            if n > 0:
                everyone = with_ghosts(nodes, graph)
            nodes, edges = block(nodes, everyone, edges, geometry)
        return {"local_energies": self.scaler(self.read_out(nodes), graph)}
