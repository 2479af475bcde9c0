"""Dispersion between atoms that depends on their coordination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    index_over_neighbours,
    neighbour_distances,
    neighbour_Z,
    sum_over_neighbours,
)
from graph_pes.extras import optional_package
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.periodic_table import SYMBOLS
from graph_pes.units import BOHR, HARTREE

from .base import GraphPESModel

#: Distance in Å, 40 Bohr radii, up to which neighbours are counted.
COORDINATION_CUTOFF = 40 * BOHR
#: Steepness of the function that counts neighbours, and of the weights of references.
STEEPNESS_OF_COUNT, STEEPNESS_OF_WEIGHTS = 16.0, 4.0
#: Exponent of the damping function "zero".
ALPHA = 14
#: Names of what is read of the parameters of a functional.
PARAMETERS = {"bj": ("s6", "s8", "a1", "a2"), "zero": ("s6", "s8", "rs6", "rs8")}


def coordination_numbers(r: Tensor, radii: Tensor, cutoff: float, graph: AtomicGraph) -> Tensor:
    """Smooth number of atoms that each one is bonded to, shape (N,).

    Parameters
    ----------
    r, radii
        Of each edge: the distance and the scaled sum of covalent radii, shape (E,).
    cutoff
        In the same unit.
    """
    counts = torch.sigmoid(STEEPNESS_OF_COUNT * (radii / r - 1))
    return sum_over_neighbours(torch.where(r < cutoff, counts, 0.0), graph)


class D3Dispersion(GraphPESModel):
    r"""Dispersion after Grimme, DFT-D3, between pairs of atoms.

    .. math::

        E = -\frac{1}{2} \sum_{i} \sum_{j:\, r_{ij} < r_c} \sum_{n=6,8}
            s_n \, C_n^{ij} \, t_n(r_{ij}), \qquad
        C_8^{ij} = C_6^{ij} R_{ij}^2, \qquad R_{ij}^2 = 3 Q_i Q_j

    ================================== ==========================================================
    :math:`C_6^{ij}`                   interpolated between those of reference molecules by the
                                       coordination numbers of the two atoms
    :math:`t_n`, damping ``"bj"``      :math:`1 / (r^n + (a_1 R_{ij} + a_2)^n)`
    :math:`t_n`, damping ``"zero"``    :math:`r^{-n} / (1 + 6 (s_{r,n} R^0_{ij} / r)^{\alpha_n})`,
                                       :math:`\alpha_6 = 14`, :math:`\alpha_8 = 16`
    :math:`s_n, a_n, s_{r,n}`          depend on the functional
    ================================== ==========================================================

    There is no three-body term (:math:`s_9 = 0`), as in most programs unless it is asked for. All
    is a function of the edges alone: the model can be compiled, exported and run on any number of
    processes; the tables come from the package tad-dftd3, when the model is made or loaded.

    It reaches further than a network. `AdditionModel` gives each component the edges up to its own
    cutoff; in exported models, which do not, have it in a file of its own.

    Parameters
    ----------
    functional
        Name of the density functional, ``"pbe"``, ``"r2scan"`` or ``"b3lyp"`` for instance.
    damping
        ``"bj"``, after Becke and Johnson, or ``"zero"``.
    cutoff
        In Å. The sum is truncated there; the programs of the authors do so at 31.75 Å, 60 Bohr
        radii.
    elements
        Chemical symbols; by default all that have parameters, hydrogen to lawrencium. Fewer take
        less memory.

    Raises
    ------
    ImportError
        If tad-dftd3 is not installed.
    ValueError
        For an unknown functional, damping or element.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = D3Dispersion("pbe", elements=["H", "C"])
    >>> graph = AtomicGraph.from_ase(molecule("C6H6"), cutoff=20.0)
    >>> round(1000 * model.predict_energy(graph).item())  # meV
    -298

    References
    ----------
    Grimme, Antony, Ehrlich and Krieg, doi:10.1063/1.3382344; Grimme, Ehrlich and Goerigk,
    doi:10.1002/jcc.21759.
    """

    radii: Tensor
    quotients: Tensor
    zero_radii: Tensor
    references: Tensor
    c6: Tensor
    parameters_of_damping: Tensor

    def __init__(
        self,
        functional: str = "pbe",
        damping: Literal["bj", "zero"] = "bj",
        cutoff: float = 20.0,
        elements: Sequence[str] | None = None,
    ):
        super().__init__(cutoff, implemented_properties=["local_energies"])
        if damping not in PARAMETERS:
            raise ValueError(f"damping: expected one of {list(PARAMETERS)}, got {damping!r}")
        self.damping = damping
        self.one_hot = AtomicOneHot(SYMBOLS[1:104] if elements is None else elements)
        values = _parameters(functional, damping)
        self.register_buffer("parameters_of_damping", torch.tensor(values))
        for name, table in _tables(self.one_hot.numbers).items():
            self.register_float64_buffer(name, table, persistent=False)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Half of the interactions each atom takes part in: shape (N,)."""
        distances = neighbour_distances(graph)
        r, dtype = distances / BOHR, distances.dtype
        of_atoms = self.one_hot.index_of.index_select(0, graph.Z)
        i = of_atoms.index_select(0, graph.neighbour_list[0])
        j = self.one_hot.index_of.index_select(0, neighbour_Z(graph))
        pairs = i * len(self.one_hot.elements) + j
        radii = self.radii.to(dtype)
        end = min(self.cutoff_value, COORDINATION_CUTOFF) / BOHR
        counts = coordination_numbers(r, radii[i] + radii[j], end, graph)
        c6 = self._c6(counts, of_atoms, j, graph)
        quotients = self.quotients.to(dtype)
        squared = 3 * quotients[i] * quotients[j]
        t6, t8 = self._damped_powers(r, squared, self.zero_radii.to(dtype).reshape(-1)[pairs])
        s6, s8, _, _ = self.parameters_of_damping.to(dtype).unbind()
        energies = -HARTREE * c6 * (s6 * t6 + s8 * squared * t8)
        energies = torch.where(distances < self.cutoff, energies, 0.0)
        return {"local_energies": sum_over_neighbours(energies, graph) / 2}

    def _c6(self, counts: Tensor, of_atoms: Tensor, j: Tensor, graph: AtomicGraph) -> Tensor:
        """Coefficients of the edges (E,), from the coordination numbers of the atoms (N,)."""
        U, dtype = len(self.one_hot.elements), counts.dtype
        references = self.references.index_select(0, of_atoms)  # (N, 7)
        # In double precision, and normalised in a way that is safe where an atom has many more
        # neighbours than any reference: the weights are exp(-4 (70 - 4)^2) there.
        exponents = -STEEPNESS_OF_WEIGHTS * (counts.double().unsqueeze(1) - references) ** 2
        exponents = torch.where(references < 0, -torch.inf, exponents)
        weights = torch.softmax(exponents, dim=1).to(dtype)
        # For each atom and any other element, the coefficients with its references: one product.
        places = torch.arange(U, device=j.device) == of_atoms.unsqueeze(1)
        spread = (places.to(dtype).unsqueeze(2) * weights.unsqueeze(1)).flatten(1)  # (N, U * 7)
        own = (spread @ self.c6.to(dtype)).view(-1, 7)  # (N * U, 7)
        rows = own.index_select(0, graph.neighbour_list[0] * U + j)
        return (rows * index_over_neighbours(weights, graph)).sum(dim=1)

    def _damped_powers(self, r: Tensor, squared: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
        """The functions :math:`t_6` and :math:`t_8`, of distances in Bohr radii."""
        _, _, first, second = self.parameters_of_damping.to(r.dtype).unbind()
        if self.damping == "bj":
            radius = first * squared.sqrt() + second
            return 1 / (r**6 + radius**6), 1 / (r**8 + radius**8)
        x, y = first * zero / r, second * zero / r
        return 1 / (r**6 * (1 + 6 * x**ALPHA)), 1 / (r**8 * (1 + 6 * y ** (ALPHA + 2)))


_NEEDED = "The parameters of D3 come with the package tad-dftd3"


def _parameters(functional: str, damping: str) -> list[float]:
    """Values of `PARAMETERS` for a functional."""
    database = optional_package("tad_dftd3.param", "d3", _NEEDED)
    try:
        found = database.get_functional_params(functional, damping=damping)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"functional: D3 has no parameters of {functional!r} with damping={damping!r} ({error})"
        ) from error
    return [float(found[name]) for name in PARAMETERS[damping]]


def _tables(numbers: Sequence[int]) -> dict[str, Tensor]:
    """What D3 knows of U elements, in atomic units.

    Returns
    -------
    dict[str, Tensor]
        ``radii`` (U,), covalent and scaled; ``quotients`` (U,), roots of :math:`Q_i`;
        ``zero_radii`` (U, U); the coordination numbers of up to seven ``references`` (U, 7),
        negative where there are fewer; and ``c6`` (U * 7, U * 7).
    """
    if max(numbers) >= 104:
        raise ValueError(f"elements: D3 knows those up to Lr, got {SYMBOLS[max(numbers)]}")
    radii = optional_package("tad_mctc.data.radii", "d3", _NEEDED)
    reference = optional_package("tad_dftd3.reference", "d3", _NEEDED).Reference
    r4r2 = optional_package("tad_dftd3.data", "d3", _NEEDED).R4R2
    Z, double = torch.tensor(numbers), {"dtype": torch.float64}
    tables = reference(**double)
    c6 = tables.c6[Z][:, Z]  # (U, U, 7, 7)
    return {
        "radii": radii.COV_D3(**double)[Z],
        "quotients": r4r2(**double)[Z],
        "zero_radii": radii.VDW_PAIRWISE(**double)[Z][:, Z],
        "references": tables.cn[Z],
        "c6": c6.permute(0, 2, 1, 3).reshape(7 * len(Z), 7 * len(Z)),
    }
