"""Networks of orb-models, in an environment that has it: ``pip install graph-pes[orb]``."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import graph_pes.interfaces.orb
from graph_pes.deploy import ExportError, export_model
from graph_pes.drivers import GraphPESCalculator
from graph_pes.interfaces import orb_model
from graph_pes.interfaces.downloads import DownloadError
from graph_pes.interfaces.foreign import UnsupportedModelError
from graph_pes.interfaces.orb import MODELS, from_orb_models
from graph_pes.models import AdditionModel, Orb
from tests.models.test_orb import of_variant, state_of_orb_models
from tests.models.transplant import REFERENCES, assert_agrees

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


def randomise_normalisers(model: Any) -> None:
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(0.5 + torch.rand(()))
        if name.endswith("running_mean") and "forces" not in name:
            buffer.add_(torch.randn(()))


def calculator(model: Any) -> Any:
    from orb_models.forcefield.calculator import ORBCalculator

    return ORBCalculator(model, device="cpu")


def fully_periodic_or_not() -> dict:
    """What orb-models accepts, and structures in which cores repel each other."""
    pressed, ring = bulk("Na", "bcc", a=3.1, cubic=True) * 2, molecule("C6H6")
    pressed.symbols[1] = "Cl"
    ring.positions *= 0.7
    for atoms in (pressed, ring):
        atoms.rattle(0.05, seed=0)
    found = {**structures(), "pressed": pressed, "ring": ring}
    return {name: atoms for name, atoms in found.items() if atoms.pbc.all() or not atoms.pbc.any()}


def without_repulsion(model: AdditionModel) -> AdditionModel:
    network = model["network"]
    same = Orb(**{**network.constructor_arguments, "core_repulsion": None})
    same.load_state_dict(network.state_dict())
    return AdditionModel(network=same, offset=model["offset"]).to(model.dtype).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "neighbours"), [("conservative", 120), ("direct", 20)])
def test_equal(kind: str, neighbours: int, dtype: torch.dtype, native: bool, default_dtype) -> None:
    default_dtype(dtype)
    original = random_orb(kind, dtype, neighbours)
    randomise_normalisers(original)
    model = from_orb_models(original, native=native)
    assert model.dtype == dtype
    assert_equal_to_original(model, calculator(original), fully_periodic_or_not())
    if native:
        bare = without_repulsion(model)
        with pytest.raises(AssertionError):
            assert_equal_to_original(bare, calculator(original), fully_periodic_or_not())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("kind", ["conservative", "direct"])
def test_charge_and_spin(kind: str, native: bool, default_dtype) -> None:
    default_dtype(torch.float64)
    original = random_orb(kind, torch.float64, has_charge_spin_cond=True, has_stress=False)
    model, calc = from_orb_models(original, native=native), calculator(original)
    atoms = structures()["methanol"]
    energies = set()
    for charge, spin in ((0, 1), (1, 2), (-2, 3), (1, 0)):
        atoms.info.update(total_charge=charge, total_spin=spin, charge=charge, spin=spin)
        assert_equal_to_original(model, calc, {"methanol": atoms}, stress=False)
        energies.add(round(float(calc.results["energy"]), 6))
    assert len(energies) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("kind", ["conservative", "direct"])
def test_trains_and_saves(kind: str, native: bool, tmp_path: Path) -> None:
    model = from_orb_models(random_orb(kind, torch.float32), native=native)
    assert_usable(model, structures()["methanol"], tmp_path)
    if not native:
        with pytest.raises(ExportError, match="OrbModel calls the package orb-models"):
            export_model(model, tmp_path / "model.pt2")
        return
    assert export_model(model, tmp_path / "model.pt2", mode="portable").whole_structure
    calculator = GraphPESCalculator(tmp_path / "model.pt2")
    for atoms in structures().values():
        atoms.calc = model.eval().ase_calculator()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        assert calculator.get_potential_energy(atoms) == pytest.approx(energy, rel=1e-5)
        scale = np.abs(forces).max()
        np.testing.assert_allclose(calculator.get_forces(atoms), forces, rtol=0, atol=1e-5 * scale)


@pytest.mark.filterwarnings("ignore")
def test_other_networks() -> None:
    original = random_orb("direct", torch.float32)
    original.heads["forces"].normalizer.bn.running_mean.fill_(0.1)
    with pytest.raises(UnsupportedModelError, match="expected a mean of zero, got 0.1"):
        from_orb_models(original, native=True)
    original.model.gnn_stacks[0]._attention_gate = "softmax"
    with pytest.raises(UnsupportedModelError, match="architecture of Orb-v3"):
        from_orb_models(original)


# --- files ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a file is taken from, whatever the model."""
    path = tmp_path / "weights.ckpt"
    monkeypatch.setattr(graph_pes.interfaces.orb, "downloaded", lambda url: path)
    return path


@pytest.mark.parametrize("kind", ["direct", "conservative"])
def test_native_needs_no_package(
    kind: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of weights, of which predictions are known, is read, saved, and loaded again."""
    frozen = dict(np.load(REFERENCES / "orb_models.npz"))
    variant = f"{kind}-omol"
    torch.save(state_of_orb_models(frozen, variant), file)
    monkeypatch.setitem(sys.modules, "orb_models", None)
    name = "orb-v3-conservative-omol" if kind == "conservative" else "orb-v3-direct-20-omat"
    model = orb_model(name, native=True)
    assert model.dtype == torch.float64
    assert_agrees(model, of_variant(frozen, variant), {"energy", "forces", "stress"})
    assert_usable(model, structures()["methanol"], tmp_path)
    model = orb_model(name, precision="float32", native=True)
    assert model.dtype == torch.float32
    assert_agrees(model, of_variant(frozen, variant), {"energy", "forces", "stress"})


def test_files_of_something_else(file: Path) -> None:
    frozen = dict(np.load(REFERENCES / "orb_models.npz"))
    state = state_of_orb_models(frozen, "conservative-omol")
    torch.save({"state": state}, file)
    with pytest.raises(UnsupportedModelError, match="expected the weights of Orb-v3"):
        orb_model("orb-v3-conservative-omol", native=True)
    torch.save({**state, "model.more": torch.zeros(1)}, file)
    with pytest.raises(UnsupportedModelError, match=r"our Orb lacks \['model.more'\]"):
        orb_model("orb-v3-conservative-omol", native=True)
    torch.save(state, file)
    with pytest.raises(UnsupportedModelError, match="which have heads.forces.mlp.NN-0.weight"):
        orb_model("orb-v3-direct-omol", native=True)
    state["model.gnn_stacks.0._send_attn.weight"] = torch.zeros(1, 7)
    torch.save(state, file)
    with pytest.raises(
        UnsupportedModelError, match=r"send_attn.weight: expected shape \(1, 8\), got \(1, 7\)"
    ):
        orb_model("orb-v3-conservative-omol", native=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["orb-v3-direct-20-omat", "orb-v3-conservative-omol"])
@pytest.mark.parametrize("native", [False, True])
def test_file_of_weights(name: str, native: bool, file: Path) -> None:
    """The published architecture, with random weights, in the format of the published files."""
    pytest.importorskip("orb_models", reason="orb-models is not installed")
    from orb_models.forcefield import pretrained

    make = pretrained.ORB_PRETRAINED_MODELS[name]
    kind = name.split("-")[2]
    options = {"has_charge_spin_cond": True, "has_stress": False} if "omol" in name else {}
    original = getattr(pretrained, f"orb_v3_{kind}_architecture")(device="cpu", **options)
    torch.save(original.state_dict(), file)
    before = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    model = orb_model(name, native=native)
    assert (torch.get_float32_matmul_precision(), torch.get_default_dtype()) == before
    assert model["network"].max_neighbours == (20 if "-20-" in name else 120)
    atoms = structures()["methanol"]
    atoms.info.update(total_charge=1, total_spin=2, charge=1, spin=2)
    original = make(str(file), device="cpu", precision="float32-highest", compile=False)
    torch.set_float32_matmul_precision(before[0])
    assert_equal_to_original(model, calculator(original), {"methanol": atoms})


def test_where_files_are() -> None:
    pytest.importorskip("orb_models", reason="orb-models is not installed")
    from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

    known = {
        name: inspect.signature(make).parameters["weights_path"].default
        for name, make in ORB_PRETRAINED_MODELS.items()
        if name.startswith("orb-v3-")
    }
    assert known == MODELS


def test_unknown_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="model: expected one of .* got 'orb-v9'"):
        orb_model("orb-v9")
    monkeypatch.setitem(sys.modules, "orb_models", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[orb\]'"):
        orb_model()
    monkeypatch.setenv("GRAPH_PES_OFFLINE", "1")
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match="orb-v3-direct-20-omat"):
        orb_model(native=True)
    monkeypatch.delitem(sys.modules, "orb_models")
    pytest.importorskip("orb_models", reason="orb-models is not installed")
    with pytest.raises(DownloadError, match="orb-v3-direct-20-omat"):
        orb_model()
