"""Constant contributions of the elements: energies of free atoms, and their like for tensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey
from graph_pes.nn.per_element import PerElementParameter
from graph_pes.nn.regression import fit_per_element
from graph_pes.periodic_table import SYMBOLS

from .base import GraphPESModel, GraphTensorModel

logger = logging.getLogger("graph_pes")


class EnergyOffset(GraphPESModel):
    """An energy for each atom that depends on its element alone, held in double precision.

    Parameters
    ----------
    offsets
        Energies in eV by chemical symbol; zero for the others.
    trainable
        Whether they are trained.

    Raises
    ------
    ValueError
        For an unknown symbol.
    """

    def __init__(self, offsets: Mapping[str, float], trainable: bool):
        super().__init__(cutoff=0.0, implemented_properties=["local_energies"])
        self.offsets = PerElementParameter.from_symbols(
            offsets, requires_grad=trainable, float64=True
        )

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies, shape (N,), float64."""
        return {"local_energies": self.offsets(graph.Z)}

    def non_decayable_parameters(self) -> list[nn.Parameter]:
        """Energies of atoms must not decay to zero."""
        return [self.offsets.values]


class FixedOffset(EnergyOffset):
    """Energies of free atoms that are known and not trained.

    Parameters
    ----------
    **final_values
        Energies in eV by chemical symbol.

    Examples
    --------
    >>> from ase.build import molecule
    >>> graph = AtomicGraph.from_ase(molecule("H2O"), cutoff=2.0)
    >>> FixedOffset(H=-1.0, O=-3.0).predict_energy(graph)
    tensor(-5., dtype=torch.float64)
    """

    def __init__(self, **final_values: float):
        super().__init__(final_values, trainable=False)


class LearnableOffset(EnergyOffset):
    """Energies of free atoms that are fitted to the training energies, then trained.

    Parameters
    ----------
    **initial_values
        Energies in eV of elements that are not to be fitted before training: the others are
        fitted to what remains of the training energies.
    """

    def __init__(self, **initial_values: float):
        super().__init__(initial_values, trainable=True)
        self.given = frozenset(self.offsets.registered_elements)

    @torch.no_grad()
    def pre_fit(self, graphs: AtomicGraph) -> None:
        """Ridge regression of the energies of a batch on the composition."""
        if "energy" not in graphs.properties:
            logger.warning(
                "No energies in the training data: the offsets of %s keep their initial values.",
                type(self).__name__,
            )
            return
        known = {Z: self.offsets[Z] for Z in self.given}
        fit = fit_per_element(graphs.properties["energy"], graphs, known=known)
        for Z, mean in fit.means.items():
            self.offsets[Z] = mean
        if fit.means:
            logger.info(
                "Energy offsets fitted to the training data (eV): %s. Energies of free atoms are "
                "not exact with these%s: use FixedOffset where you know them.",
                ", ".join(f"{SYMBOLS[Z]}: {self.offsets[Z]:.4f}" for Z in fit.means),
                "" if fit.determined else " (the compositions do not tell the elements apart)",
            )


class TensorOffset(GraphTensorModel):
    """A tensor for each atom that depends on its element alone, held in double precision.

    Parameters
    ----------
    length
        Number of components.
    offsets
        Components by chemical symbol; zero for the other elements.
    trainable
        Whether they are trained.
    """

    def __init__(self, length: int, offsets: Mapping[str, Sequence[float]], trainable: bool):
        super().__init__(cutoff=0.0)
        self.offsets = PerElementParameter.from_symbols(
            offsets, (length,), requires_grad=trainable, float64=True
        )

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """The tensor of each atom, shape (N, length), float64."""
        return {"tensor": self.offsets(graph.Z)}

    def non_decayable_parameters(self) -> list[nn.Parameter]:
        """Offsets must not decay to zero."""
        return [self.offsets.values]


class FixedTensorOffset(TensorOffset):
    """Tensors of the elements that are known and not trained.

    Parameters
    ----------
    **final_values
        Components by chemical symbol, a list for each.

    Raises
    ------
    ValueError
        If there are none, if their lengths differ, or for an unknown symbol.
    """

    def __init__(self, **final_values: Sequence[float]):
        lengths = {torch.as_tensor(value).numel() for value in final_values.values()}
        if len(lengths) != 1:
            raise ValueError(
                f"FixedTensorOffset: expected values of one length, got lengths {sorted(lengths)}"
            )
        super().__init__(lengths.pop(), final_values, trainable=False)


class LearnableTensorOffset(TensorOffset):
    """Tensors of the elements that are fitted to the training data, then trained.

    Parameters
    ----------
    length
        Number of components.
    **initial_values
        Components of elements that are not to be fitted before training.
    """

    def __init__(self, length: int, **initial_values: Sequence[float]):
        super().__init__(length, initial_values, trainable=True)
        self.given = frozenset(self.offsets.registered_elements)

    @torch.no_grad()
    def pre_fit(self, graphs: AtomicGraph) -> None:
        """Mean of the tensors of the atoms of each element in a batch."""
        if "tensor" not in graphs.properties:
            logger.warning(
                "No tensors in the training data: the offsets of %s keep their initial values.",
                type(self).__name__,
            )
            return
        fit = fit_per_element(graphs.properties["tensor"], graphs, per_atom=True)
        for Z in fit.means.keys() - self.given:
            self.offsets[Z] = fit.means[Z]
