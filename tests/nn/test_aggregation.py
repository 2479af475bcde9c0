from __future__ import annotations

from typing import Any

import ase
import pytest
import torch
from ase.build import molecule
from hypothesis import given

from graph_pes.atomic_graph import (
    AtomicGraph,
    number_of_edges,
    number_of_neighbours,
    sum_over_neighbours,
    to_batch,
)
from graph_pes.nn.aggregation import NeighbourAggregation
from tests.strategies import structures

MODES: list[Any] = ["sum", "mean", "constant_fixed", "constant_learnable", "sqrt"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
@given(atoms=structures())
def test_formula(mode: Any, dtype: torch.dtype, atoms: ase.Atoms) -> None:
    graph = AtomicGraph.from_ase(atoms, 3.0, dtype=dtype)
    aggregation = NeighbourAggregation.parse(mode).to(dtype)
    x = torch.randn(number_of_edges(graph), 2, dtype=dtype)
    counts = number_of_neighbours(graph, include_central_atom=True).to(dtype)[:, None]
    divisor = {"mean": counts, "sqrt": counts.sqrt()}.get(mode, 1.0)
    found = aggregation(x, graph)
    assert found.dtype == dtype
    assert found.shape == (len(atoms), 2)
    torch.testing.assert_close(found, sum_over_neighbours(x, graph) / divisor)


@pytest.mark.parametrize("mode", ["constant_fixed", "constant_learnable"])
def test_pre_fit(mode: Any) -> None:
    aggregation = NeighbourAggregation.parse(mode)
    batch = to_batch([AtomicGraph.from_ase(molecule(m), 1.2) for m in ("H2O", "H")])
    aggregation.pre_fit(batch)  # four edges, four atoms
    assert aggregation.scale.item() == 1.0
    aggregation.pre_fit(to_batch([AtomicGraph.from_ase(molecule("CH4"), 1.2)]))
    assert aggregation.scale.item() == pytest.approx(8 / 5)
    aggregation.pre_fit(to_batch([AtomicGraph.from_ase(molecule("H"), 1.2)]))
    assert aggregation.scale.item() == 1.0
    assert aggregation.scale.requires_grad == (mode == "constant_learnable")


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="Unknown neighbour aggregation mode 'max'"):
        NeighbourAggregation.parse("max")  # type: ignore[arg-type]
