"""Every model passes every check of the public conformance suite."""

from __future__ import annotations

import inspect

import ase
import pytest
import torch
from ase.build import molecule

import graph_pes.models
from graph_pes.atomic_graph import AtomicGraph, as_directed, select_edges
from graph_pes.models.addition import AdditionModel
from graph_pes.models.base import GraphPESModel
from graph_pes.models.lennard_jones import LennardJones
from graph_pes.models.multi_head import MultiHead, select_head
from graph_pes.testing import CHECKS, ModelUnderTest, check_model
from graph_pes.testing.subject import graph_for

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


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
def test_directed_edges(row: Row) -> None:
    """What a model saves by treating both directions of an edge as one changes nothing.

    Nor does it rely on both being there where the graph says that they may be missing: the
    local energy of an atom depends on the edges that start at it, and at its neighbours (and in
    models that say so on those that end at it).
    """
    structures = row.options.get("structures", ())
    subject = ModelUnderTest(row.factory, structures, elements=row.elements)
    model = subject.model()
    for _, atoms in subject.named_structures():
        graph = graph_for(model, atoms)
        expected = model.predict(graph, ["forces", "local_energies"])
        found = model.predict(as_directed(graph), ["forces", "local_energies"])
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9)
    if not row.one_way:
        return
    # A cut through all edges that start at the last atom: the pair H-H is seen by one end only.
    pair = graph_for(model, ase.Atoms([row.elements[0]] * 2, [[0, 0, 0], [0.9, 0, 0]]))
    one_way = as_directed(select_edges(pair, pair.neighbour_list[0] == 0))
    lone = graph_for(model, ase.Atoms([row.elements[0]]))
    energies = model.predict_local_energies(one_way)
    torch.testing.assert_close(energies[1], model.predict_local_energies(lone)[0])


def test_every_model_has_a_row() -> None:
    """Base classes apart, and what has several heads, of which one is chosen to predict."""
    made = {type(row.factory()) for row in MODELS}
    public = [getattr(graph_pes.models, name) for name in graph_pes.models.__all__]
    models = {c for c in public if isinstance(c, type) and issubclass(c, GraphPESModel)}
    concrete = {
        cls
        for cls in models
        if not inspect.isabstract(cls) and not any(cls in other.__mro__[1:] for other in models)
    }
    assert concrete - made == {MultiHead}


def test_a_head_of_several() -> None:
    check_model(lambda: select_head(MultiHead(painn(), heads=["a", "b"]), "b"))
