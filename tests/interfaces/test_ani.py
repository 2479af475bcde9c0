from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces import ani
from graph_pes.models import GraphPESModel

from .original import assert_equal_to_original, assert_usable, data_file, structures

INFO = "models/ani-2x_member0/ani-2x_1x.info"


def of_torchani(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model of torchani itself."""
    pytest.importorskip("torchani", reason="torchani is not installed")
    from torchani import neurochem

    info = data_file(INFO).resolve()
    monkeypatch.setattr(neurochem, "neurochem_dir", lambda: info.parent)
    return neurochem.load_model_from_info_file(info, model_index=0)


def ours(**options: Any) -> GraphPESModel:
    pytest.importorskip("torchani", reason="torchani is not installed")
    return ani(data_file(INFO), **options)


@pytest.mark.filterwarnings("ignore")
def test_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    original = of_torchani(monkeypatch).double().ase()
    model = ours(precision="float64")
    everything = structures()
    assert_equal_to_original(model, original, everything, stress=False, fully_periodic=True)


@pytest.mark.filterwarnings("ignore")
def test_ethanol() -> None:
    """As measured with torchani."""
    graph = AtomicGraph.from_ase(molecule("CH3CH2OH"), 5.1, dtype=torch.float64)
    assert ours().predict_energy(graph).item() == pytest.approx(-4217.5179, abs=5e-4)


@pytest.mark.filterwarnings("ignore")
def test_trains_and_saves(tmp_path: Path) -> None:
    assert_usable(ours(), structures()["methanol"], tmp_path)


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchani", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[ani\]'"):
        ani("some.info")
