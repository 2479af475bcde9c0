"""ANI: a network for each element on symmetry functions of the neighbourhood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, Z_with_ghosts
from graph_pes.nn.element_networks import ElementNetworks
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.symmetry_functions import SymmetryFunctions
from graph_pes.tensors import is_traced

from .base import GraphPESModel

#: Where the first of evenly spaced shifts is, in Å.
FIRST_SHIFT = 0.8


def evenly_spaced(number: int, start: float, stop: float) -> list[float]:
    """Numbers from the start on, the last one a step before the end.

    Examples
    --------
    >>> evenly_spaced(4, 1.0, 3.0)
    [1.0, 1.5, 2.0, 2.5]
    """
    return [start + n * (stop - start) / number for n in range(number)]


class ANI(GraphPESModel):
    r"""ANI, a network for each element on symmetry functions of the neighbourhood of an atom.

    Smith, Isayev and Roitberg, doi:10.1039/C6SC05720A; with the default settings, ANI-2x, Devereux
    et al., doi:10.1021/acs.jctc.0c00121.

    .. math::

        \varepsilon_i = s_{z_i} \, \mathrm{MLP}_{z_i} (G_i)

    where :math:`G_i` are radial and angular `SymmetryFunctions`, which tell apart the elements of
    neighbours, and the activation is :math:`\mathrm{CELU}` with :math:`\alpha = 0.1`, as in ANI-2x
    (those of the first paper are Gaussians). :math:`s_z` is a learnt scale of each element, 27.2 eV
    where weights of torchani are converted, whose energies are in Hartree. Forces are continuous.

    The networks of all elements have the same widths here. In ANI-2x those of heavier elements
    are narrower: converted, they are filled up with zeros, which training leaves as they are. The
    energies of free atoms are no part of it: add a `LearnableOffset` or `FixedOffset`.

    Parameters
    ----------
    elements
        Chemical symbols of the elements that the model is for.
    cutoff, angular_cutoff
        Of radial and angular functions, in Å.
    radial_shifts, angular_shifts
        Distances that the functions are centred at, in Å, or how many of them there are: these
        are evenly spaced between 0.8 Å and the cutoff.
    sections
        Angles that the angular functions are centred at, in radians, or how many of them there
        are: these are the centres of equal parts of π.
    radial_eta, angular_eta
        Inverse squared widths of the Gaussians, in Å⁻².
    zeta
        How narrow the angular functions are: the power of :math:`(1 + \cos(\theta - \theta_t))/2`.
    hidden
        Widths of the hidden layers.

    Raises
    ------
    ValueError
        If there are no elements, if one is given twice, if the angular cutoff exceeds the other
        one, if there are no functions, or ``zeta`` is less than 1.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = ANI(elements=["H", "C"], hidden=[32, 16])
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=5.1)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = 5.1,
        angular_cutoff: float = 3.5,
        radial_shifts: int | Sequence[float] = 16,
        angular_shifts: int | Sequence[float] = 8,
        sections: int | Sequence[float] = 4,
        radial_eta: float = 19.7,
        angular_eta: float = 12.5,
        zeta: float = 14.1,
        hidden: Sequence[int] = (256, 192, 160),
    ):
        if angular_cutoff > cutoff:
            raise ValueError(
                f"ANI: expected an angular_cutoff of at most the cutoff, {cutoff} Å, got "
                f"{angular_cutoff}"
            )
        if zeta < 1:
            raise ValueError(f"ANI: expected a zeta of at least 1, got {zeta}")
        if isinstance(radial_shifts, int):
            radial_shifts = evenly_spaced(radial_shifts, FIRST_SHIFT, cutoff)
        if isinstance(angular_shifts, int):
            angular_shifts = evenly_spaced(angular_shifts, FIRST_SHIFT, angular_cutoff)
        if isinstance(sections, int):
            half = math.pi / max(2 * sections, 1)
            sections = evenly_spaced(sections, half, math.pi + half)
        if not (len(radial_shifts) and len(angular_shifts) and len(sections)):
            raise ValueError("ANI: expected at least one radial shift, angular shift and section")
        super().__init__(cutoff, ["local_energies"], three_body_cutoff=angular_cutoff)
        self.one_hot = AtomicOneHot(elements)
        self.functions = SymmetryFunctions(
            cutoff,
            angular_cutoff,
            radial_eta,
            radial_shifts,
            angular_eta,
            angular_shifts,
            zeta,
            sections,
        )
        width = self.functions.width(len(elements))
        self.networks = ElementNetworks(len(elements), [width, *hidden, 1])
        self.scaler = LocalEnergiesScaler()

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,)."""
        index_of, n = self.one_hot.index_of, len(self.one_hot.elements)
        everyone = index_of.index_select(0, Z_with_ghosts(graph))
        N, j = graph.Z.shape[0], graph.neighbour_list[1]
        own = everyone.narrow(0, 0, N).clamp(min=0)
        if is_traced(N):
            x, inputs = self.functions(graph, everyone.index_select(0, j), n), None
        else:
            # The functions of elements that are not there are zero.
            present, place = torch.unique(everyone.clamp(min=0), return_inverse=True)
            place = torch.where(everyone < 0, -1, place)
            x = self.functions(graph, place.index_select(0, j), len(present))
            inputs = self.functions.among(present, n)
        return {"local_energies": self.scaler(self.networks(x, own, inputs), graph)}
