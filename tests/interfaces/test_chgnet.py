from __future__ import annotations

import sys
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.interfaces import chgnet
from graph_pes.interfaces.chgnet import pairs_of_edges, undirected_bonds
from graph_pes.interfaces.foreign import UnsupportedModelError
from graph_pes.models import CHGNet
from graph_pes.periodic_table import SYMBOLS

from .original import assert_equal_to_original, assert_usable, structures


def test_bonds_have_two_directions() -> None:
    """Also those between images of one atom."""
    for atoms in (bulk("Si"), bulk("Cu"), *structures("Si O Na").values()):
        graph = AtomicGraph.from_ase(atoms, 5.0, dtype=torch.float64)
        bonds = undirected_bonds(graph)
        assert (torch.bincount(bonds.of_edges) == 2).all()
        i, j = graph.neighbour_list
        offsets = graph.neighbour_cell_offsets
        for bond in range(len(bonds.first)):
            one, other = (bonds.of_edges == bond).nonzero()[:, 0].tolist()
            assert (i[one], j[one]) == (j[other], i[other])
            assert (offsets[one] == -offsets[other]).all()
            assert bonds.first[bond] in (one, other)


def test_pairs_of_edges() -> None:
    rng = np.random.default_rng(0)
    i = torch.from_numpy(np.sort(rng.integers(0, 4, 15)))
    chosen = torch.from_numpy(rng.random(15) < 0.6)
    expected = {
        (a, b)
        for a in range(15)
        for b in range(15)
        if a != b and i[a] == i[b] and chosen[a] and chosen[b]
    }
    first, second = pairs_of_edges(i, chosen)
    assert len(first) == len(expected)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_unknown_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="model: expected one of .*'0.3.0'.* got '1.0'"):
        chgnet("1.0")
    monkeypatch.setitem(sys.modules, "chgnet", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[chgnet\]'"):
        chgnet()


# --- with the package ---------------------------------------------------------------------


def everything_periodic() -> dict[str, ase.Atoms]:
    """What a calculator takes that takes everything for periodic."""
    found = structures("Si O Na")
    found["molecule"].set_cell([15, 15, 15])
    found["molecule"].pbc = True
    # Atoms that have bonds with their own images.
    found["images"] = bulk("Cu", "fcc", a=3.7)
    found["images"].set_cell(found["images"].cell.array + np.diag([0.1, 0.2, 0.3]))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("name", "tolerance"), [("0.3.0", 1e-5), ("r2scan", 2e-5)])
def test_equal(name: str, tolerance: float, native: bool) -> None:
    pytest.importorskip("chgnet", reason="chgnet is not installed")
    from chgnet.model import CHGNet as Original
    from chgnet.model.dynamics import CHGNetCalculator

    network = Original.load(model_name=name, use_device="cpu")
    original = CHGNetCalculator(network, use_device="cpu")
    # Its angles are arc cosines, which have errors of their own in single precision.
    assert_equal_to_original(
        chgnet(name, native=native),
        original,
        everything_periodic(),
        tolerance=tolerance,
        fully_periodic=True,
    )


@pytest.mark.filterwarnings("ignore")
def test_magnetic_moments() -> None:
    pytest.importorskip("chgnet", reason="chgnet is not installed")
    from chgnet.model.dynamics import CHGNetCalculator

    atoms = bulk("FeO", "rocksalt", a=4.3)
    atoms.rattle(0.1, seed=0)
    model, calculator = chgnet(native=True), CHGNetCalculator(use_device="cpu")
    calculator.calculate(atoms, ["energy"], task="efsm")
    graph = AtomicGraph.from_ase(atoms, model.cutoff_value)
    found = model.predict(graph, ["magnetic_moments"])["magnetic_moments"]
    assert found[0] > 3 > 1 > found[1]
    np.testing.assert_allclose(found.numpy(), calculator.results["magmoms"], atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["0.3.0", "r2scan"])
def test_native_in_double_precision(name: str) -> None:
    """As the network of the package with our graphs: its own are in single precision."""
    pytest.importorskip("chgnet", reason="chgnet is not installed")
    properties = ["energy", "forces", "stress"]
    graphs = [
        AtomicGraph.from_ase(atoms, 6.0, dtype=torch.float64)
        for atoms in everything_periodic().values()
        if atoms.pbc.all()
    ]
    network, native = (chgnet(name, "float64", native=x) for x in (False, True))
    assert isinstance(native["network"], CHGNet)
    assert native["network"].elements_seen == list(SYMBOLS[1:95])
    expected = network.predict(to_batch(graphs), properties)
    for key, value in native.predict(to_batch(graphs), properties).items():
        assert (value - expected[key]).abs().max() < 1e-8 * expected[key].abs().max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_trains_and_saves(native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("chgnet", reason="chgnet is not installed")
    model = chgnet(native=native)
    if native:  # which does without the package from then on
        monkeypatch.setitem(sys.modules, "chgnet", None)
    assert_usable(model, structures("Si O Na")["bulk"], tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_other_networks() -> None:
    pytest.importorskip("chgnet", reason="chgnet is not installed")
    with pytest.raises(UnsupportedModelError, match="has no gMLP_norm=None, only 'layer'"):
        chgnet("0.2.0", native=True)
