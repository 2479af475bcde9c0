"""Functions of structures as collective variables that PLUMED evaluates in Python.

A kernel of PLUMED calls a module of yours by its action ``PYCVINTERFACE``, which comes with the
package hillclimber: ``pip install --no-deps hillclimber``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, trim_edges

from .reuse import ReusableNeighbourList


class PlumedVariables:
    """What a module has to offer to PLUMED.

    .. code-block:: python

        variables = PlumedVariables(function, ["a", "b"], cutoff=5.0)  # in variables.py
        plumedInit, calculate = variables.components, variables

    .. code-block:: text

        cv: PYCVINTERFACE ATOMS=1-38 IMPORT=variables CALCULATE=calculate
        PRINT ARG=cv.py-a,cv.py-b FILE=COLVAR

    Parameters
    ----------
    function
        From a batch of structures to values (S,) or (S, K), as for
        `graph_pes.deploy.export_cv`.
    names
        Of the K values.
    cutoff
        Up to which distance the graph has edges, in Å; PLUMED has to count in Å as well:
        ``UNITS LENGTH=A``.
    numbers
        Atomic numbers, where the function depends on them; by default all are 1.
    periodic
        Whether the structure is repeated by the box that PLUMED knows, or is a cluster.
    skin
        In Å; neighbours are listed to the cutoff plus a skin, and found again when need be.
    """

    def __init__(
        self,
        function: Callable[[AtomicGraph], Tensor],
        names: Sequence[str],
        cutoff: float,
        numbers: Sequence[int] | None = None,
        periodic: bool = False,
        skin: float = 1.0,
    ):
        self.function, self.names = function, list(names)
        self.cutoff, self.skin = cutoff, skin
        self.numbers, self.periodic = numbers, periodic
        self._neighbours: ReusableNeighbourList | None = None

    @property
    def components(self) -> dict[str, Any]:
        """What PLUMED calls ``plumedInit``."""
        each = {"derivative": True, "period": None}
        return {"COMPONENTS": {name: dict(each) for name in self.names}}

    def __call__(self, action: Any) -> dict[str, tuple[float, np.ndarray, np.ndarray]]:
        """Values, and derivatives with respect to positions and to the box."""
        box = np.array(action.getPbc().getBox()) if self.periodic else np.zeros((3, 3))
        values, slopes, virials = self.evaluate(np.array(action.getPositions()), box)
        return {
            name: (float(values[k]), slopes[k], virials[k]) for k, name in enumerate(self.names)
        }

    def evaluate(
        self, positions: np.ndarray, box: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values (K,), derivatives (K, N, 3), and minus those by a strain, (K, 3, 3).

        Parameters
        ----------
        positions
            In Å, shape (N, 3).
        box
            Lattice vectors in Å, shape (3, 3); not used for a cluster.

        Raises
        ------
        ValueError
            If positions are NaN or infinite, or there are not as many values as names.
        """
        if not np.isfinite(positions).all():
            raise ValueError("collective variables: positions are NaN or infinite")
        graph = self._without_edges(positions, box)
        if self._neighbours is None or not self._neighbours.is_complete_for(graph):
            self._neighbours = ReusableNeighbourList.build(graph, self.cutoff, self.skin)
        R = graph.R.clone().requires_grad_()
        strain = torch.eye(3, dtype=torch.float64, requires_grad=True)
        strained = self._neighbours.applied_to(graph._replace(R=R @ strain))
        strained = strained._replace(cell=strained.cell @ strain)
        values = self.function(trim_edges(strained, self.cutoff)).reshape(-1)
        if len(values) != len(self.names):
            raise ValueError(
                f"collective variables: expected {len(self.names)} values, for {self.names}, the "
                f"function returned {len(values)}"
            )
        derivatives = [
            torch.autograd.grad(value, (R, strain), retain_graph=True, materialize_grads=True)
            for value in values
        ]
        slopes, strains = (torch.stack(x).numpy() for x in zip(*derivatives, strict=True))
        return values.detach().numpy(), slopes, -strains

    def _without_edges(self, positions: np.ndarray, box: np.ndarray) -> AtomicGraph:
        """The structure as a graph, in double precision."""
        numbers = [1] * len(positions) if self.numbers is None else self.numbers
        return AtomicGraph.create_with_defaults(
            Z=torch.tensor(numbers, dtype=torch.long),
            R=torch.tensor(positions, dtype=torch.float64),
            cell=torch.tensor(box * self.periodic, dtype=torch.float64),
            pbc=torch.tensor([self.periodic] * 3),
        )
