"""TensorNet: messages of 3×3 matrices."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from graph_pes.atomic_graph import (
    DEFAULT_CUTOFF,
    AtomicGraph,
    PropertyKey,
    neighbour_vectors,
    neighbour_Z,
    undirected_edges,
)
from graph_pes.nn.cartesian import vectors_of
from graph_pes.nn.envelopes import CosineEnvelope
from graph_pes.nn.radial import DistanceExpansion, ExponentialRBF, get_distance_expansion
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.tensornet_layers import (
    VARIANTS,
    Edges,
    Embedding,
    Group,
    Interaction,
    ReadOut,
)
from graph_pes.tensors import safe_norm

from .base import GraphPESModel


class TensorNet(GraphPESModel):
    r"""Messages of 3×3 matrices.

    Simeon and de Fabritiis, doi:10.48550/arXiv.2306.06482. Each atom carries C matrices, sums of
    a scalar (I), an antisymmetric (A) and a symmetric traceless part (S), which are multiplied
    with those of its neighbours. Local energies are read from the norms of the parts, and scaled
    per element.

    ``variant`` names the implementation whose details are followed:

    ================== ============================================================
    ``"graph-pes"``    graph-pes 1: the default
    ``"torchmd-net"``  TorchMD-Net, of the authors of the paper: messages are mixed matrices,
                       every atom is a neighbour of its own, pairs of elements have a bias,
                       filters are a layer deeper, energies are read by narrower layers. Its
                       radial functions are `ExpNormal`.
    ``"matgl"``        MatGL: as TorchMD-Net, but no atom is a neighbour of its own, and a gated
                       network reads the energies. Its foundation models have `SmoothBessel`.
    ================== ============================================================

    From random weights, learning rates of Adam should be 1e-3, the default, or less. Matrices enter
    each layer as :math:`X / (\|X\|^2 + 1)`, so that those beyond norm 1 vanish the more, the larger
    they are: the first steps with a higher rate can throw them there, and forces are zero from then
    on. With 128 channels and energies and forces of a molecule, all variants did so with 1e-2, and
    ``"matgl"`` with `SmoothBessel` with 3e-3 too. Its gates can close besides, which leaves no
    gradient either. MatGL's own network does the same with 1e-2. Warming the learning rate up and
    clipping gradients helped in some runs only; weights after Glorot and another scale of the
    energies did not.

    Unlike graph-pes 1, all layers share the radial functions of ``radial_expansion``, whose
    parameters are trained. There, each layer has its own, and only the embedding has those that
    were asked for.

    Parameters
    ----------
    cutoff
        In Å.
    radial_features
        Number of radial basis functions, B.
    radial_expansion
        The radial basis: a `DistanceExpansion` class or its name.
    channels
        C.
    layers
        Number of interactions.
    direct_force_predictions
        Read forces from the antisymmetric parts, rather than take the derivative of the energy.
    group
        The symmetries of what is predicted: ``"O(3)"``, or ``"SO(3)"`` to tell a structure from
        its mirror image.
    variant
        See above.
    charged
        Whether products depend on the total charge of a structure, taken from
        ``graph.other["total_charge"]`` (zero if there is none) in units of e.

    Raises
    ------
    ValueError
        If there is no such group or variant.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = TensorNet(channels=8, layers=1, cutoff=4.0)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        cutoff: float = DEFAULT_CUTOFF,
        radial_features: int = 32,
        radial_expansion: type[DistanceExpansion] | str = ExponentialRBF,
        channels: int = 32,
        layers: int = 2,
        direct_force_predictions: bool = False,
        group: Group = "O(3)",
        variant: Literal["graph-pes", "torchmd-net", "matgl"] = "graph-pes",
        charged: bool = False,
    ):
        properties = ["local_energies"] + (["forces"] if direct_force_predictions else [])
        super().__init__(cutoff, implemented_properties=properties)
        for name, value, known in (
            ("group", group, ["O(3)", "SO(3)"]),
            ("variant", variant, list(VARIANTS)),
        ):
            if value not in known:
                raise ValueError(f"TensorNet: expected {name} to be one of {known}, got {value!r}")
        choices = VARIANTS[variant]
        self.charged = charged
        self.radial = get_distance_expansion(radial_expansion)(radial_features, cutoff)
        self.envelope = CosineEnvelope(cutoff)
        self.embedding = Embedding(channels, radial_features, choices)
        self.interactions = nn.ModuleList(
            Interaction(channels, radial_features, group, choices) for _ in range(layers)
        )
        self.read_out = ReadOut(channels, choices)
        self.force_read_out = (
            nn.Linear(channels, 1, bias=False) if direct_force_predictions else None
        )
        self.scaler = LocalEnergiesScaler()

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,) and, if they are predicted directly, forces (N, 3)."""
        edges, charges = self._edges(graph), self._charges(graph)
        x = self.embedding(edges)
        for interaction in self.interactions:
            x = interaction(x, edges, charges)
        predictions = {"local_energies": self.scaler(self.read_out(x), graph)}
        if self.force_read_out is not None:
            predictions["forces"] = self.force_read_out(vectors_of(x)).squeeze(2)
        return predictions

    def _edges(self, graph: AtomicGraph) -> Edges:
        """The geometry, once for all layers; one edge of each pair, where both are there."""
        per_edge = (neighbour_vectors(graph), *graph.neighbour_list, neighbour_Z(graph))
        pairs = undirected_edges(graph)
        if pairs is not None:
            per_edge = tuple(x.index_select(0, pairs) for x in per_edge)
        vectors, i, j, Z_j = per_edge
        r = safe_norm(vectors).unsqueeze(1)  # (P, 1)
        return Edges(
            graph=graph,
            i=i,
            j=j,
            Z_j=Z_j,
            symmetric=pairs is not None,
            directions=vectors / r,
            basis=self.radial(r),
            envelope=self.envelope(r),
            at_zero=self.radial(vectors.new_zeros(1, 1)),
        )

    def _charges(self, graph: AtomicGraph) -> Tensor | None:
        """The total charge of the structure of each atom, shape (N,), if it matters."""
        if not self.charged or "total_charge" not in graph.other:
            return None
        charge = graph.other["total_charge"].to(neighbour_vectors(graph).dtype).reshape(-1)
        return charge.expand(graph.Z.shape[0]) if graph.batch is None else charge[graph.batch]
