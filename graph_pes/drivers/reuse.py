r"""Neighbour lists that serve several geometries in a row.

A list built up to a longer distance than needed stays complete while atoms, and the cell,
have changed little. See `reference_length_covered` for the exact condition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, neighbour_list, to_batch, with_triplets
from graph_pes.atomic_graph.graph import TRIPLET_CUTOFF, TRIPLET_EDGES


def reference_length_covered(
    R: Tensor, cell: Tensor, reference_R: Tensor, reference_cell: Tensor, pbc: Tensor, cutoff: float
) -> float:
    r"""How far a list must have reached to hold all pairs that are now within a cutoff.

    With lattice vectors as rows, :math:`F = C_0^{-1} C` takes the reference cell to the
    present one, and :math:`u_i = R_i - R^0_i F - c` is what the atoms moved besides (any
    common shift :math:`c` may be taken out; here it is the mean). A list of all pairs up to

    .. math::

        r_0 = \frac{r_c + 2 \max_i |u_i|}{\sigma_\text{min}(F)}

    in the reference is complete. *Proof:* a pair with lattice translation :math:`S` has
    :math:`d_0 = R^0_j + S C_0 - R^0_i` before and :math:`d = d_0 F + u_j - u_i` now. Hence
    :math:`\sigma_\text{min}(F) |d_0| \le |d_0 F| \le |d| + 2 \max |u| \le r_c + 2 \max |u|`. ∎

    Only periodic directions count: :math:`F = 1 + P_0^+ (P - P_0)` for their lattice vectors
    :math:`P`, which leaves vectors that are normal to all of :math:`P_0` as they are. It
    equals :math:`C_0^{-1} C` if all three directions are periodic.

    Parameters
    ----------
    R, reference_R
        Positions in Å, shape (N, 3), N ≥ 1.
    cell, reference_cell
        Lattice vectors as rows, in Å, shape (3, 3).
    pbc
        Periodic directions, shape (3,).
    cutoff
        :math:`r_c` in Å.

    Returns
    -------
    float
        :math:`r_0` in Å; infinite or NaN where no list is long enough.

    Examples
    --------
    One of two atoms moved by 0.2 Å:

    >>> R0, R = torch.zeros(2, 3), torch.tensor([[0.0, 0, 0], [0.2, 0, 0]])
    >>> cell, pbc = torch.zeros(3, 3), torch.tensor([False] * 3)
    >>> round(reference_length_covered(R, cell, R0, cell, pbc, cutoff=5.0), 6)
    5.2
    """
    u = R.double() - reference_R.double()
    stretch = 1.0
    if not torch.equal(cell, reference_cell):
        P, P0 = cell[pbc].double(), reference_cell[pbc].double()
        change = torch.linalg.pinv(P0) @ (P - P0)  # F - 1
        u = u - reference_R.double() @ change
        F = torch.eye(3, dtype=u.dtype) + change
        stretch = float(torch.linalg.svdvals(F)[-1])
    u = u - u.mean(0)
    furthest = float((u * u).sum(-1).max()) ** 0.5
    return (cutoff + 2 * furthest) / stretch if stretch > 0 else math.inf


@dataclass(frozen=True)
class ReusableNeighbourList:
    """The neighbours in one structure, for use in others that differ little from it.

    Attributes
    ----------
    reference
        The structure that the list was built for.
    batch
        The same as a batch of one with edges up to ``cutoff + skin``, and triplets of edges
        up to ``three_body_cutoff + skin`` if there is such a cutoff.
    cutoff
        The distance in Å up to which neighbours are needed.
    skin
        How much further the list goes, in Å.
    three_body_cutoff
        The distance in Å up to which triplets are needed; 0 if they are not.

    Examples
    --------
    >>> from ase.build import bulk
    >>> graph = AtomicGraph.from_ase(bulk("Cu"), cutoff=0.0)
    >>> neighbours = ReusableNeighbourList.build(graph, cutoff=3.0, skin=1.0)
    >>> slightly_strained = graph._replace(cell=1.05 * graph.cell)
    >>> neighbours.is_complete_for(slightly_strained)
    True
    >>> neighbours.applied_to(slightly_strained)
    AtomicGraphBatch(structures=1, atoms=1, edges=18, has_cell=True, cutoff=4.0)
    """

    reference: AtomicGraph
    batch: AtomicGraph
    cutoff: float
    skin: float
    three_body_cutoff: float

    @classmethod
    def build(
        cls,
        graph: AtomicGraph,
        cutoff: float,
        skin: float,
        three_body_cutoff: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> ReusableNeighbourList:
        """Find the neighbours in a structure.

        Parameters
        ----------
        graph
            One structure, on the CPU; its edges are not used.
        cutoff, skin, three_body_cutoff
            As above.
        device
            Where the list is kept.
        """
        assert graph.pbc is not None
        edges, offsets = neighbour_list(graph.R, graph.cell, graph.pbc, cutoff + skin)
        listed = graph._replace(
            neighbour_list=edges, neighbour_cell_offsets=offsets, cutoff=cutoff + skin
        )
        batch = to_batch([listed]).to(device)
        if three_body_cutoff > 0:
            batch = with_triplets(batch, three_body_cutoff + skin)
        return cls(graph, batch, cutoff, skin, three_body_cutoff)

    @property
    def device(self) -> torch.device:
        """Where the list is kept."""
        return self.batch.R.device

    def is_complete_for(self, graph: AtomicGraph) -> bool:
        """Whether no pair within the cutoff is missing for another structure.

        Always false without a skin.
        """
        old = self.reference
        assert old.pbc is not None
        assert graph.pbc is not None
        same = torch.equal(old.Z, graph.Z) and torch.equal(old.pbc, graph.pbc)
        if self.skin <= 0 or not same:
            return False
        geometry = (graph.R, graph.cell, old.R, old.cell, old.pbc)
        # Under expansion (smallest stretch above 1) the shorter cutoff is the stricter one.
        cutoffs = [c for c in (self.cutoff, self.three_body_cutoff) if c > 0]
        return all(reference_length_covered(*geometry, c) <= c + self.skin for c in cutoffs)

    def applied_to(self, graph: AtomicGraph) -> AtomicGraph:
        """Another structure with the listed edges, as a batch of one on the list's device.

        All edges up to the cutoff are there. The batch claims ``cutoff + skin``, so that
        models drop the longer ones, some of which may be missing.
        """
        new = to_batch([graph]).to(self.device)
        other = dict(new.other)
        for key in {TRIPLET_EDGES, TRIPLET_CUTOFF} & self.batch.other.keys():
            other[key] = self.batch.other[key]
        return new._replace(
            neighbour_list=self.batch.neighbour_list,
            neighbour_cell_offsets=self.batch.neighbour_cell_offsets,
            cutoff=self.batch.cutoff,
            other=other,
        )
