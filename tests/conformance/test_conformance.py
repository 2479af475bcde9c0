"""Every model passes every check of the public conformance suite."""

from __future__ import annotations

import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.models.addition import AdditionModel
from graph_pes.models.lennard_jones import LennardJones
from graph_pes.testing import CHECKS, check_model

from .models import MODELS, Row, painn


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
def test_model(row: Row, check: str) -> None:
    check_model(row.factory, elements=row.elements, checks=[check], **row.options)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_each_part_of_a_sum_keeps_its_precision(default: torch.dtype, default_dtype) -> None:
    """Defect 13 of graph-pes 1: the precision of a sum was torch's default."""
    network, pairs = painn().float(), LennardJones(4.0).double()
    model = AdditionModel(network=network, pairs=pairs).eval()
    default_dtype(default)
    assert (network.dtype, pairs.dtype, model.dtype) == (
        torch.float32,
        torch.float64,
        torch.float64,
    )
    graph = AtomicGraph.from_ase(molecule("CH3OH"), 4.0, dtype=torch.float64)
    found = model.predict(graph, ["energy", "forces"])
    parts = [part.predict(graph, ["energy", "forces"]) for part in (network.eval(), pairs.eval())]
    assert parts[0]["forces"].dtype == torch.float32
    for key, value in found.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, sum(p[key].double() for p in parts), rtol=0, atol=1e-6)
