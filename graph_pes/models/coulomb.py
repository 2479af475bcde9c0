"""Interactions of point charges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    edges_per_graph,
    index_over_neighbours,
    neighbour_distances,
    structure_sizes,
    sum_over_neighbours,
)
from graph_pes.extras import optional_package
from graph_pes.tensors import safe_norm
from graph_pes.units import COULOMB_CONSTANT

from .addition import predictions_of_component
from .base import GraphPESModel, GraphPropertyModel
from .charges import model_of_charges


class Coulomb(GraphPESModel):
    r"""Point charges, whose interactions are damped, and shifted so that forces end at the cutoff.

    .. math::

        E = k \sum_{i<j,\, r_{ij} < r_c} q_i q_j \left[ v(r_{ij}) - v(r_c)
            - (r_{ij} - r_c) \, v'(r_c) \right]
          - k \left[ \frac{v(r_c)}{2} + \frac{\alpha}{\sqrt\pi} \right] \sum_i q_i^2,
        \qquad v(r) = \frac{\operatorname{erfc}(\alpha r)}{r}

    with :math:`k = e^2/4\pi\epsilon_0`: equations 17 and 19 of Fennell and Gezelter, as LAMMPS's
    ``coul/dsf``. It is a sum over pairs, cheap and without artefacts at the cutoff, and close to
    that of `Ewald` in condensed, neutral matter; it is not exact. With ``damping=0`` and a cutoff
    that is larger than a molecule by far, it tends to Coulomb's law.

    It also predicts ``charges`` (N,), which can be trained on.

    Parameters
    ----------
    charges
        In elementary charges by chemical symbol, or a model such as `LearnedCharges`.
    cutoff
        :math:`r_c` in Å.
    damping
        :math:`\alpha` in 1/Å.

    Examples
    --------
    >>> import ase
    >>> model = Coulomb({"Na": 1.0, "Cl": -1.0}, cutoff=50.0, damping=0.0)
    >>> pair = ase.Atoms("NaCl", [[0, 0, 0], [0, 0, 2.0]])
    >>> graph = AtomicGraph.from_ase(pair, cutoff=50.0)
    >>> model.predict_energy(graph).item() / COULOMB_CONSTANT  # -1/2 + 1/50 - 2/50^2
    -0.4808...

    References
    ----------
    Fennell and Gezelter, doi:10.1063/1.2206581.
    """

    def __init__(
        self,
        charges: Mapping[str, float] | GraphPropertyModel,
        cutoff: float = 12.0,
        damping: float = 0.2,
    ):
        super().__init__(cutoff, implemented_properties=["local_energies", "charges"])
        if not (cutoff > 0 and damping >= 0):
            raise ValueError(
                f"expected cutoff > 0 and damping >= 0, got cutoff={cutoff}, damping={damping}"
            )
        self.charges = model_of_charges(charges, cutoff)
        self.damping = damping

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies and charges, both of shape (N,)."""
        q = predictions_of_component(self.charges, graph)["charges"]
        r, alpha, end = neighbour_distances(graph), self.damping, self.cutoff_value
        at_end = math.erfc(alpha * end) / end
        slope = (
            -at_end / end - 2 * alpha / math.sqrt(math.pi) * math.exp(-((alpha * end) ** 2)) / end
        )
        v = torch.erfc(alpha * r) / r - at_end - (r - end) * slope
        v = torch.where(r < self.cutoff, v, 0.0)
        potential = sum_over_neighbours(index_over_neighbours(q, graph) * v, graph) / 2
        own = at_end / 2 + alpha / math.sqrt(math.pi)
        return {"local_energies": COULOMB_CONSTANT * q * (potential - own * q), "charges": q}


class Ewald(GraphPESModel):
    r"""Point charges and all their periodic images, by the package torch-pme.

    .. math::

        E = \frac{k}{2} \sum_{i,j} \sum_{\mathbf{n}}' \frac{q_i q_j}
            {\lvert \mathbf{r}_j - \mathbf{r}_i + \mathbf{n} \rvert}, \qquad
        k = \frac{e^2}{4\pi\epsilon_0}

    The sum over lattice vectors is split into one over neighbours and one over reciprocal
    lattice vectors, with conducting surroundings. A charged cell has a uniform background of the
    opposite charge. Of structures that are not periodic, all pairs are summed, exactly.

    It also predicts ``charges`` (N,), which can be trained on.

    It runs from Python, with the drivers for ASE, torch-sim, i-PI and `graph_pes.drivers.lammps`,
    but is not compiled or exported. `Coulomb` can be.

    Parameters
    ----------
    charges
        In elementary charges by chemical symbol, or a model such as `LearnedCharges`.
    cutoff
        Of the sum over neighbours, in Å. What it is does not matter, but for speed.
    method
        ``"ewald"``, exact to about 10⁻⁸ in double precision, or ``"pme"``, on a mesh, whose cost
        grows as :math:`N \log N`, to about 10⁻⁷ of the energy and 10⁻⁴ of forces.

    Raises
    ------
    ImportError
        If torch-pme is not installed.
    ValueError
        When it predicts a structure that is periodic in one or two directions only.

    Examples
    --------
    The energy of an ion in rock salt is minus Madelung's constant over the distance of ions:

    >>> from ase.build import bulk
    >>> salt = bulk("NaCl", "rocksalt", a=2.0)
    >>> model = Ewald({"Na": 1.0, "Cl": -1.0}).double()
    >>> graph = AtomicGraph.from_ase(salt, cutoff=6.0, dtype=torch.float64)
    >>> round(model.predict_energy(graph).item() / COULOMB_CONSTANT, 5)
    -1.74756

    References
    ----------
    Loche et al., doi:10.1063/5.0251713.
    """

    calls_package = "torch-pme"

    def __init__(
        self,
        charges: Mapping[str, float] | GraphPropertyModel,
        cutoff: float = 6.0,
        method: Literal["ewald", "pme"] = "ewald",
    ):
        super().__init__(cutoff, implemented_properties=["local_energies", "charges"])
        if not cutoff > 0:
            raise ValueError(f"expected cutoff > 0, got cutoff={cutoff}")
        if method not in ("ewald", "pme"):
            raise ValueError(f"method: expected 'ewald' or 'pme', got {method!r}")
        self.charges = model_of_charges(charges, cutoff)
        self.method = method
        self._calculator(torch.float32, torch.device("cpu"))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies and charges, both of shape (N,)."""
        q = predictions_of_component(self.charges, graph)["charges"]
        # The derivative of torch's determinants can't be of less precision than its default.
        dtype = torch.promote_types(q.dtype, torch.get_default_dtype())
        calculator = self._calculator(dtype, q.device)
        sizes = structure_sizes(graph).tolist()
        n_edges = edges_per_graph(graph).tolist()
        pbc = (graph.cell != 0).any(-1) if graph.pbc is None else graph.pbc
        parts = zip(
            q.to(dtype).split(sizes),
            graph.R.to(dtype).split(sizes),
            graph.neighbour_list.T.split(n_edges),
            neighbour_distances(graph).to(dtype).split(n_edges),
            graph.cell.to(dtype),
            strict=True,
        )
        potentials, first = [], 0
        for n, (charges, R, edges, r, cell) in enumerate(parts):
            if not _all_or_none(pbc[n], n):
                potentials.append(_of_all_pairs(charges, R))
            elif len(R) > 0:
                near = r < self.cutoff
                found = calculator(charges.unsqueeze(1), cell, R, edges - first, r, pair_mask=near)
                potentials.append(COULOMB_CONSTANT * found[:, 0])
            first += len(R)
        return {"local_energies": q * torch.cat(potentials).to(q.dtype), "charges": q}

    def _calculator(self, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """Of torch-pme; it keeps what it computes, so that each call has one of its own."""
        pme = optional_package("torchpme", "electrostatics", "Ewald needs the package torch-pme")
        smearing = self.cutoff_value / 6
        with torch.device("cpu"):  # whose values it reads
            potential = pme.CoulombPotential(smearing)
            if self.method == "ewald":
                made = pme.EwaldCalculator(potential, smearing / 2, full_neighbor_list=True)
            else:
                made = pme.PMECalculator(
                    potential, smearing / 4, interpolation_nodes=6, full_neighbor_list=True
                )
        return made.to(device=device, dtype=dtype)


def _all_or_none(pbc: Tensor, n: int) -> bool:
    """Whether a structure is periodic.

    Raises
    ------
    ValueError
        If it is in some directions only.
    """
    if pbc.all():
        return True
    if pbc.any():
        raise ValueError(
            f"Ewald: structure {n} is periodic in some directions only, pbc={pbc.tolist()}: "
            "expected all or none. Make it periodic in all, with vacuum between its images"
        )
    return False


def _of_all_pairs(q: Tensor, R: Tensor) -> Tensor:
    """Half of the potential at each charge, in eV/e, of all others: shape (N,)."""
    same = torch.eye(len(R), dtype=torch.bool, device=R.device)
    vectors = R.unsqueeze(0) - R.unsqueeze(1)
    inverse = 1 / torch.where(same, 1.0, safe_norm(vectors))
    return COULOMB_CONSTANT / 2 * torch.where(same, 0.0, inverse) @ q
