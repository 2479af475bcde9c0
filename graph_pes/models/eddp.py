"""Ephemeral data derived potentials: a small network on two- and three-body features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    DEFAULT_CUTOFF,
    AtomicGraph,
    PropertyKey,
    is_neighbour_matrix,
    neighbour_pairs,
    neighbour_vectors,
    neighbour_Z,
    number_of_atoms,
    number_of_structures,
    select_edges,
)
from graph_pes.nn.mlp import MLP
from graph_pes.nn.per_element import AtomicOneHot, KnownElements
from graph_pes.tensors import index_sum, safe_norm

from .base import GraphPESModel, in_precision_of

#: Structures per step of pre-fitting: bounds the memory that triplets take.
_STRUCTURES_AT_ONCE = 50


def hat(r: Tensor, cutoff: float) -> Tensor:
    r"""The function :math:`f(r) = 2 (1 - r / r_c)`, and 0 beyond the cutoff.

    Parameters
    ----------
    r
        Distances in Å, any shape.
    cutoff
        :math:`r_c` in Å.

    Examples
    --------
    >>> hat(torch.tensor([0.0, 1.0, 4.0]), cutoff=2.0)
    tensor([2., 1., 0.])
    """
    return (2 * (1 - r / cutoff)).clamp(min=0)


def geometric_powers(features: int, max_power: float) -> list[float]:
    r"""Powers :math:`p_m` in geometric progression, from 2 to the largest.

    Examples
    --------
    >>> geometric_powers(3, 8.0)
    [2.0, 4.0, 8.0]
    """
    return [2 * (max_power / 2) ** (m / max(features - 1, 1)) for m in range(features)]


def triangles(graph: AtomicGraph, vectors: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of edges from the same atom, all three of whose atoms are within the cutoff.

    Parameters
    ----------
    graph
        One structure or a batch.
    vectors
        Of its edges, in Å, shape (E, 3).
    cutoff
        In Å.

    Returns
    -------
    tuple[Tensor, Tensor, Tensor]
        Indices ij < ik of the edges, shape (T,), and the vectors from atoms j to k, (T, 3).
        Those of a neighbour matrix include triplets that are too large.
    """
    ij, ik = neighbour_pairs(graph, cutoff)
    v_jk = vectors.index_select(0, ik) - vectors.index_select(0, ij)
    if is_neighbour_matrix(graph):
        return ij, ik, v_jk
    within = (safe_norm(v_jk.detach()) < cutoff).nonzero()[:, 0]
    return ij.index_select(0, within), ik.index_select(0, within), v_jk.index_select(0, within)


class Powers(nn.Module):
    r"""Raises values to powers :math:`p_m \ge 2`.

    Parameters
    ----------
    features
        Number of powers, M.
    max_power
        The largest of them.
    kinds
        Number of sets of powers, K, if they are learnt.
    learnable
        Whether the powers are trained, each kind of pair or triplet having its own.

    Raises
    ------
    ValueError
        If there are no powers, or the largest is less than 2.
    """

    exponents: Tensor

    def __init__(self, features: int, max_power: float, kinds: int, learnable: bool):
        super().__init__()
        if features < 1 or max_power < 2:
            raise ValueError(
                "EDDP: expected at least one feature, and a largest power of at least 2, got "
                f"{features} and {max_power}"
            )
        self.learnable = learnable
        exponents = torch.tensor(
            geometric_powers(features, max_power), dtype=torch.get_default_dtype()
        )
        if learnable:
            self.exponents = nn.Parameter(exponents.repeat(kinds, 1))  # (K, M)
        else:
            self.register_buffer("exponents", exponents)

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        """From values (T,), none negative, of given kinds (T,) to their powers (T, M)."""
        # The slope of lower powers does not vanish at the cutoff.
        exponents = self.exponents.clamp(min=2)
        if self.learnable:
            exponents = exponents.index_select(0, kind)
        return x.unsqueeze(-1) ** exponents

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.exponents.shape[-1]}, learnable={self.learnable}"


def structures_of(batch: AtomicGraph, start: int, stop: int) -> AtomicGraph:
    """The batch of some of the structures of a batch, without labels."""
    assert batch.batch is not None
    assert batch.ptr is not None
    first, last = batch.ptr[start], batch.ptr[min(stop, number_of_structures(batch))]
    i = batch.neighbour_list[0]
    part = select_edges(batch, (i >= first) & (i < last))
    return part._replace(
        Z=batch.Z[first:last],
        R=batch.R[first:last],
        cell=batch.cell[start:stop],
        neighbour_list=part.neighbour_list - first,
        properties={},
        batch=batch.batch[first:last] - start,
        ptr=batch.ptr[start : stop + 1] - first,
        pbc=None if batch.pbc is None else batch.pbc[start:stop],
    )


class EDDP(GraphPESModel):
    r"""Ephemeral data derived potential.

    Pickard, doi:10.1103/PhysRevB.106.014102. A multi-layer perceptron maps one-, two- and
    three-body features of the environment of an atom to its energy,

    .. math::

        \varepsilon_i = \mathrm{MLP}\left( F^{(1)}_i \oplus F^{(2)}_i \oplus F^{(3)}_i \right)

    .. math::

        F^{(2)}_{i,m} &= \sum_j f(r_{ij})^{p_m}, \qquad
        f(r) = \begin{cases} 2 (1 - r / r_c) & r \le r_c \\ 0 & r > r_c \end{cases} \\
        F^{(3)}_{i,mo} &= \sum_j \sum_{k > j} f(r_{ij})^{p_m} f(r_{ik})^{p_m} f(r_{jk})^{q_o}

    :math:`F^{(1)}_i` says which element the atom is. There are separate features :math:`F^{(2)}`
    for each pair of elements, and :math:`F^{(3)}` for each element of the central atom and
    unordered pair of elements of the others. The powers are in geometric progression from 2 to
    the largest. Features are shifted and scaled before they enter the network, by amounts that
    are set to their means and standard deviations before training, and then trained too.

    As in graph-pes 1, and unlike the paper, the distance between the two neighbours may have
    powers of its own if they are learnt, and one network does for all elements. Unlike graph-pes
    1, every pair of neighbours counts once, also if they are of the same element (there it counts
    twice, which is undone by the scale of the feature).

    Parameters
    ----------
    elements
        Chemical symbols of the elements that the model is for.
    cutoff
        :math:`r_c` of the two-body features, in Å.
    features
        Number of powers of the two-body features, M.
    max_power
        Largest power of the two-body features.
    mlp_width, mlp_layers
        Width and number of the hidden layers.
    activation
        Of the network.
    three_body_cutoff, three_body_features, three_body_max_power
        The same for the three-body features; by default as for the two-body ones.
    learnable_powers
        Whether the powers are trained, for each kind of pair and triplet separately; they stay
        at least 2, so that forces are continuous at the cutoff.

    Raises
    ------
    ValueError
        If there are no elements, if one is given twice, or if a largest power is less than 2.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = EDDP(elements=["H", "C"], cutoff=4.0, features=4)
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
    """

    pair_of: Tensor

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = DEFAULT_CUTOFF,
        features: int = 8,
        max_power: float = 8,
        mlp_width: int = 16,
        mlp_layers: int = 1,
        activation: str = "CELU",
        three_body_cutoff: float | None = None,
        three_body_features: int | None = None,
        three_body_max_power: float | None = None,
        learnable_powers: bool = False,
    ):
        cutoff_3 = cutoff if three_body_cutoff is None else three_body_cutoff
        features_3 = features if three_body_features is None else three_body_features
        max_power_3 = max_power if three_body_max_power is None else three_body_max_power
        super().__init__(max(cutoff, cutoff_3), ["local_energies"], three_body_cutoff=cutoff_3)
        self.range_2, self.range_3 = float(cutoff), float(cutoff_3)
        self.one_hot, self.known_elements = AtomicOneHot(elements), KnownElements()
        n = len(elements)
        self.n_pairs = n * (n + 1) // 2
        pairs = torch.triu_indices(n, n)
        pair_of = torch.empty(n, n, dtype=torch.long)
        pair_of[pairs[0], pairs[1]] = pair_of[pairs[1], pairs[0]] = torch.arange(self.n_pairs)
        self.register_buffer("pair_of", pair_of)

        n_triplets = n * self.n_pairs
        self.two_body = Powers(features, max_power, n * n, learnable_powers)
        self.three_body = Powers(features_3, max_power_3, n_triplets, learnable_powers)
        self.opposite = Powers(features_3, max_power_3, n_triplets, learnable_powers)
        width = n + n * n * features + n_triplets * features_3**2
        self.shifts = nn.Parameter(torch.zeros(width))
        self.scales = nn.Parameter(torch.ones(width))
        self.mlp = MLP([width, *[mlp_width] * mlp_layers, 1], activation=activation)

    def extra_repr(self) -> str:  # noqa: D102
        return f"cutoff={self.range_2:g}, three_body_cutoff={self.range_3:g}"

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies, shape (N,)."""
        features = (self.features(graph) - self.shifts) / self.scales
        return {"local_energies": self.mlp(features).view(-1)}

    @torch.no_grad()
    def pre_fit(self, graphs: AtomicGraph) -> None:
        """Shift and scale by the means and standard deviations of the features."""
        self.one_hot.check(graphs.Z)
        graphs = in_precision_of(self, graphs)
        starts = range(0, number_of_structures(graphs), _STRUCTURES_AT_ONCE)
        parts = (structures_of(graphs, start, start + _STRUCTURES_AT_ONCE) for start in starts)
        features = torch.cat([self.features(part) for part in parts])
        self.shifts.copy_(features.mean(0))
        if features.shape[0] > 1:
            deviations = features.std(0)
            self.scales.copy_(torch.where(deviations < 1e-6, 1.0, deviations))

    def features(self, graph: AtomicGraph) -> Tensor:
        """One-, two- and three-body features of each atom, shape (N, F)."""
        vectors = neighbour_vectors(graph)
        one_hot = self.one_hot(graph.Z).to(vectors.dtype)  # (N, n)
        sums = (self.two_body_features(graph, vectors), self.three_body_features(graph, vectors))
        # An atom has the features of its element; those of other elements are zero.
        separate = [(one_hot.unsqueeze(2) * x.unsqueeze(1)).flatten(1) for x in sums]
        return torch.cat([one_hot, *separate], dim=1)

    def two_body_features(self, graph: AtomicGraph, vectors: Tensor) -> Tensor:
        """Sums over the neighbours of each element: shape (N, n M)."""
        i, N, n = graph.neighbour_list[0], number_of_atoms(graph), len(self.one_hot.elements)
        f, e_i, e_j = self.edges(graph, vectors, self.range_2)
        powers = self.two_body(f, e_i * n + e_j)  # (E, M)
        return index_sum(powers, i * n + e_j, N * n).view(N, -1)

    def three_body_features(self, graph: AtomicGraph, vectors: Tensor) -> Tensor:
        """Sums over the neighbours of each pair of elements: shape (N, n (n + 1) / 2 M²)."""
        i, N, cutoff = graph.neighbour_list[0], number_of_atoms(graph), self.range_3
        f, e_i, e_j = self.edges(graph, vectors, cutoff)
        ij, ik, v_jk = triangles(graph, vectors, cutoff)
        pair = self.pair_of[e_j.index_select(0, ij), e_j.index_select(0, ik)]  # (T,)
        kind = e_i.index_select(0, ij) * self.n_pairs + pair
        legs = self.three_body(f.index_select(0, ij) * f.index_select(0, ik), kind)  # (T, M)
        base = self.opposite(hat(safe_norm(v_jk), cutoff), kind)  # (T, M)
        products = (legs.unsqueeze(2) * base.unsqueeze(1)).flatten(1)  # (T, M²)
        index = i.index_select(0, ij) * self.n_pairs + pair
        return index_sum(products, index, N * self.n_pairs).view(N, -1)

    def edges(
        self, graph: AtomicGraph, vectors: Tensor, cutoff: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The function f of each edge (E,), and the elements, as indices, of its atoms."""
        index_of = self.one_hot.index_of
        e_i = index_of[graph.Z].index_select(0, graph.neighbour_list[0])
        e_j = index_of[neighbour_Z(graph)]
        # Neighbours of other elements than those of the model do not count.
        f = hat(safe_norm(vectors), cutoff) * (e_j >= 0)
        return f, e_i.clamp(min=0), e_j.clamp(min=0)
