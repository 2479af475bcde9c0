from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces import chgnet
from graph_pes.interfaces.chgnet import pairs_of_edges, undirected_bonds

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
    monkeypatch.setitem(__import__("sys").modules, "chgnet", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[chgnet\]'"):
        chgnet()


# --- with the package ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "tolerance"), [("0.3.0", 1e-5), ("r2scan", 2e-5)])
def test_equal(name: str, tolerance: float) -> None:
    """To a calculator that takes everything for periodic."""
    pytest.importorskip("chgnet", reason="chgnet is not installed")
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    everything = structures("Si O Na")
    everything["molecule"].set_cell([15, 15, 15])
    original = CHGNetCalculator(CHGNet.load(model_name=name, use_device="cpu"), use_device="cpu")
    everything["molecule"].pbc = True
    # Its angles are arc cosines, which have errors of their own in single precision.
    assert_equal_to_original(
        chgnet(name), original, everything, tolerance=tolerance, fully_periodic=True
    )


@pytest.mark.filterwarnings("ignore")
def test_trains_and_saves(tmp_path: Path) -> None:
    pytest.importorskip("chgnet", reason="chgnet is not installed")
    assert_usable(chgnet(), structures("Si O Na")["bulk"], tmp_path)
