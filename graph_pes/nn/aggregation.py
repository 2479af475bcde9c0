"""Ways to add up the messages of neighbours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    number_of_atoms,
    number_of_edges,
    number_of_neighbours,
    sum_over_neighbours,
)
from graph_pes.tensors import left_aligned_div

NeighbourAggregationMode = Literal["sum", "mean", "constant_fixed", "constant_learnable", "sqrt"]


class NeighbourAggregation(nn.Module, ABC):
    """Maps edge properties (E, ...) to atomic properties (N, ...): sums, normalised."""

    @abstractmethod
    def normalised(self, total: Tensor, graph: AtomicGraph) -> Tensor:
        """Normalise sums over neighbours, shape (N, ...)."""

    def forward(self, x: Tensor, graph: AtomicGraph) -> Tensor:
        """Aggregate ``x`` (E, ...) over the neighbours of each atom: result (N, ...)."""
        return self.normalised(sum_over_neighbours(x, graph), graph)

    @staticmethod
    def parse(mode: NeighbourAggregationMode) -> NeighbourAggregation:
        """The aggregation of a given name.

        Raises
        ------
        ValueError
            If there is none of that name.
        """
        known: dict[str, Callable[[], NeighbourAggregation]] = {
            "sum": SumNeighbours,
            "mean": MeanNeighbours,
            "constant_fixed": lambda: ScaledSumNeighbours(learnable=False),
            "constant_learnable": lambda: ScaledSumNeighbours(learnable=True),
            "sqrt": VariancePreservingSumNeighbours,
        }
        if mode not in known:
            raise ValueError(
                f"Unknown neighbour aggregation mode {mode!r}: expected one of {list(known)}"
            )
        return known[mode]()


class SumNeighbours(NeighbourAggregation):
    """Plain sum."""

    def normalised(self, total: Tensor, graph: AtomicGraph) -> Tensor:  # noqa: D102
        return total


class MeanNeighbours(NeighbourAggregation):
    """Sum divided by the number of neighbours plus one."""

    def normalised(self, total: Tensor, graph: AtomicGraph) -> Tensor:  # noqa: D102
        return left_aligned_div(total, number_of_neighbours(graph))


class ScaledSumNeighbours(NeighbourAggregation):
    """Sum divided by a constant: the mean number of neighbours in the training data.

    Parameters
    ----------
    learnable
        Whether the constant is trained.
    """

    def __init__(self, learnable: bool = False):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0), requires_grad=learnable)

    def normalised(self, total: Tensor, graph: AtomicGraph) -> Tensor:  # noqa: D102
        return total / self.scale

    @torch.no_grad()
    def pre_fit(self, graphs: AtomicGraph) -> None:
        """Set the constant to the mean number of neighbours; 1 if no atom has any."""
        mean = number_of_edges(graphs) / number_of_atoms(graphs)
        self.scale.fill_(mean if mean > 0 else 1.0)


class VariancePreservingSumNeighbours(NeighbourAggregation):
    """Sum divided by the square root of the number of neighbours plus one."""

    def normalised(self, total: Tensor, graph: AtomicGraph) -> Tensor:  # noqa: D102
        counts = number_of_neighbours(graph).to(total.dtype)
        return left_aligned_div(total, counts.sqrt())
