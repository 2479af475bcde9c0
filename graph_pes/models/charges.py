"""Charges of atoms: given for each element, or learnt from their surroundings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    structure_sizes,
    sum_per_structure,
    values_of_structures,
)
from graph_pes.nn.per_element import PerElementParameter

from .addition import predictions_of_component
from .base import GraphPESModel, GraphPropertyModel, GraphTensorModel

#: Charge, in e, per eV of what a network predicts, so that the charges it begins with are small.
CHARGE_PER_EV = 0.1


class FixedCharges(GraphTensorModel):
    """Charges that depend on the element alone and are not trained.

    Parameters
    ----------
    **charges
        In elementary charges by chemical symbol; zero for the other elements.
    """

    def __init__(self, **charges: float):
        super().__init__(cutoff=0.0, implemented_properties=["charges"])
        self.charges = PerElementParameter.from_symbols(charges, requires_grad=False)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Charges of atoms, shape (N,)."""
        return {"charges": self.charges(graph.Z)}


class LearnedCharges(GraphTensorModel):
    r"""Charges that a network predicts, and that add up to that of the structure.

    .. math::

        q_i = \tilde{q}_i + \frac{1}{N} \Big( Q - \sum_j \tilde{q}_j \Big), \qquad
        \tilde{q}_i = q_{Z_i} + 0.1 \, \varepsilon_i

    ===================== =======================================================================
    :math:`\varepsilon_i` what the network predicts for the atom, a function of its surroundings
    :math:`q_{Z}`         a charge for each element, which is trained
    :math:`Q`             ``graph.other["total_charge"]``, zero if there is none, of the structure
                          of N atoms
    ===================== =======================================================================

    Since the correction depends on all atoms of the structure, so do the charges: they can't be
    computed for a part of it, and in programs for LAMMPS they add up to zero.

    They are trained through the energies of `Coulomb` or `Ewald`, or on labels ``charges``, or
    both.

    Parameters
    ----------
    network
        Any model of energies, whose local energies are taken for charges. It is not pre-fitted to
        energies.
    initial
        Of :math:`q_Z`, by chemical symbol; zero for the other elements.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from graph_pes.models import PaiNN
    >>> model = LearnedCharges(PaiNN(channels=8, layers=1), initial={"O": -0.8, "H": 0.4})
    >>> graph = AtomicGraph.from_ase(molecule("H2O"), cutoff=5.0)
    >>> abs(model.predict(graph, ["charges"])["charges"].sum().item()) < 1e-6
    True
    """

    needs_whole_structure = "its charges are made to add up to the charge of the structure"

    def __init__(self, network: GraphPESModel, initial: Mapping[str, float] | None = None):
        super().__init__(network.cutoff_value, implemented_properties=["charges"])
        self.network = network
        self.of_elements = PerElementParameter.from_symbols(initial or {})
        # The scales in it are not those of energies.
        for module in network.modules():
            if isinstance(module, GraphPropertyModel):
                module._has_been_pre_fit.fill_(True)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Charges of atoms, shape (N,)."""
        assert graph.batch is not None
        energies = predictions_of_component(self.network, graph)["local_energies"]
        own = self.of_elements(graph.Z)
        charges = own + CHARGE_PER_EV * energies.to(own.dtype)
        wanted = values_of_structures(graph, "total_charge", 0.0, own.dtype)
        missing = wanted - sum_per_structure(charges, graph)
        per_atom = missing / structure_sizes(graph).clamp(min=1)
        return {"charges": charges + per_atom.index_select(0, graph.batch)}

    def non_decayable_parameters(self) -> list[torch.nn.Parameter]:
        """Charges of elements must not decay to zero."""
        return [*super().non_decayable_parameters(), self.of_elements.values]


def model_of_charges(
    charges: Mapping[str, float] | GraphPropertyModel, cutoff: float
) -> GraphPropertyModel:
    """Charges given by chemical symbol as a model, or a model of charges as it is.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If it needs longer edges than there will be.
    """
    if isinstance(charges, Mapping):
        return FixedCharges(**charges)
    if not isinstance(charges, GraphPropertyModel) or (
        "charges" not in charges.implemented_properties
    ):
        raise TypeError(
            "charges: expected numbers by chemical symbol, or a model that predicts charges, such "
            f"as LearnedCharges, got {type(charges).__name__}"
        )
    if charges.cutoff_value > cutoff:
        raise ValueError(
            f"cutoff: expected at least that of the charges, {charges.cutoff_value:g} Å, got "
            f"{cutoff:g}"
        )
    return charges
