"""Networks of orb-models, in an environment that has it: ``pip install graph-pes[orb]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import graph_pes.interfaces.orb
from graph_pes.deploy import ExportError, export_model
from graph_pes.interfaces import orb_model
from graph_pes.interfaces.downloads import DownloadError
from graph_pes.interfaces.orb import from_orb_models

from .original import assert_equal_to_original, assert_usable, structures

SIZES = {
    "latent_dim": 8,
    "base_mlp_hidden_dim": 12,
    "head_mlp_hidden_dim": 6,
    "num_message_passing_steps": 2,
}


def random_orb(kind: str, dtype: torch.dtype, neighbours: int = 20, **options: Any) -> Any:
    """A small network of the published architecture, with random weights."""
    pytest.importorskip("orb_models", reason="orb-models is not installed")
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.atomic_system import SystemConfig

    torch.manual_seed(0)
    make = getattr(pretrained, f"orb_v3_{kind}_architecture")
    config = SystemConfig(radius=6.0, max_num_neighbors=neighbours)
    model = make(**SIZES, device="cpu", system_config=config, **options).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "reference" not in name:
                parameter.mul_(2.0).add_(0.2 * torch.randn_like(parameter))
    return model


def calculator(model: Any) -> Any:
    from orb_models.forcefield.calculator import ORBCalculator

    return ORBCalculator(model, device="cpu")


def fully_periodic_or_not() -> dict:
    """What orb-models accepts."""
    return {
        name: atoms
        for name, atoms in structures().items()
        if atoms.pbc.all() or not atoms.pbc.any()
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "neighbours"), [("conservative", 120), ("direct", 20)])
def test_equal(kind: str, neighbours: int, dtype: torch.dtype, default_dtype) -> None:
    default_dtype(dtype)
    original = random_orb(kind, dtype, neighbours)
    model = from_orb_models(original)
    assert model.dtype == dtype
    assert_equal_to_original(model, calculator(original), fully_periodic_or_not())


@pytest.mark.filterwarnings("ignore")
def test_charge_and_spin(default_dtype) -> None:
    default_dtype(torch.float64)
    original = random_orb(
        "conservative", torch.float64, has_charge_spin_cond=True, has_stress=False
    )
    model, calc = from_orb_models(original), calculator(original)
    atoms = structures()["methanol"]
    energies = set()
    for charge, spin in ((0, 1), (1, 2), (-2, 3)):
        atoms.info.update(total_charge=charge, total_spin=spin, charge=charge, spin=spin)
        assert_equal_to_original(model, calc, {"methanol": atoms}, stress=False)
        energies.add(round(float(calc.results["energy"]), 6))
    assert len(energies) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["conservative", "direct"])
def test_trains_and_saves(kind: str, tmp_path: Path) -> None:
    model = from_orb_models(random_orb(kind, torch.float32))
    assert_usable(model, structures()["methanol"], tmp_path)
    with pytest.raises(ExportError, match="OrbModel needs the whole structure"):
        export_model(model, tmp_path / "model.pt2")


@pytest.mark.filterwarnings("ignore")
def test_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published architecture, with random weights, in the format of the published files."""
    pytest.importorskip("orb_models", reason="orb-models is not installed")
    from orb_models.forcefield import pretrained

    original = pretrained.orb_v3_direct_architecture(device="cpu")
    torch.save(original.state_dict(), tmp_path / "weights.ckpt")
    urls = []
    monkeypatch.setattr(
        graph_pes.interfaces.orb,
        "downloaded",
        lambda url: urls.append(url) or tmp_path / "weights.ckpt",
    )
    before = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    model = orb_model()
    assert (torch.get_float32_matmul_precision(), torch.get_default_dtype()) == before
    assert "orb-v3-direct-20-omat" in urls[0]
    assert model["network"].max_neighbours == 20
    everything = {"methanol": structures()["methanol"]}
    original.eval()
    original._system_config = pretrained.SystemConfig(radius=6.0, max_num_neighbors=20)
    assert_equal_to_original(model, calculator(original), everything)


def test_unknown_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="model: expected one of .* got 'orb-v9'"):
        orb_model("orb-v9")
    monkeypatch.setitem(__import__("sys").modules, "orb_models", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[orb\]'"):
        orb_model()
    monkeypatch.undo()
    pytest.importorskip("orb_models", reason="orb-models is not installed")
    monkeypatch.setenv("GRAPH_PES_OFFLINE", "1")
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match="orb-v3-direct-20-omat"):
        orb_model()
