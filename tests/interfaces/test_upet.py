"""UPET, in an environment that has it: ``pip install graph-pes[upet]``."""

from __future__ import annotations

import gzip
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces import upet
from graph_pes.interfaces.downloads import DownloadError
from graph_pes.interfaces.foreign import UnsupportedModelError
from graph_pes.interfaces.upet import from_metatrain, settings_of
from graph_pes.interfaces.upet_weights import native_pet
from graph_pes.models import PET, load_model, save_model

from .original import assert_equal_to_original, assert_usable, structures

SIZES = {
    "d_pet": 8,
    "d_head": 6,
    "d_node": 10,
    "d_feedforward": 12,
    "num_heads": 2,
    "num_attention_layers": 1,
}
TYPES = [1, 6, 8]


def random_pet(dtype: torch.dtype, **hypers: Any) -> Any:
    """A small network of the published architecture, with random weights."""
    pytest.importorskip("upet", reason="upet is not installed")
    from metatrain.pet import PET
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info

    torch.manual_seed(0)
    target = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"})
    info = DatasetInfo(length_unit="Angstrom", atomic_types=TYPES, targets={"energy": target})
    model = PET({**get_default_hypers("pet")["model"], **SIZES, **hypers}, info)
    with torch.no_grad():
        for parameter in model.backend.parameters():
            parameter.mul_(1.5).add_(0.2 * torch.randn_like(parameter))
    composition, scaler = model.additive_models[0], model.scaler
    composition.model.weights["energy"].block().values[:] = torch.tensor([[-3.0], [-8.5], [-7.2]])
    scaler.model.scales["energy"].block().values[:] = 1.7
    store(composition, "energy_composition_buffer", composition.model.weights["energy"])
    for kind, values in (("", scaler.model.scales), ("_per_target", scaler.model.scales)):
        store(scaler, f"energy{kind}_scaler_buffer", values["energy"])
    return model.to(dtype).eval()


def store(module: Any, name: str, values: Any) -> None:
    """Put values where checkpoints have them."""
    import metatensor.torch

    assert name in dict(module.named_buffers())
    setattr(module, name, metatensor.torch.save_buffer(values))


def saved(model: Any, folder: Path) -> Path:
    """A checkpoint as metatrain writes it."""
    checkpoint = {**model.get_checkpoint(), "epoch": 0, "best_epoch": 0}
    torch.save(checkpoint, folder / "pet-test-s-v1.0.0.ckpt")
    return folder / "pet-test-s-v1.0.0.ckpt"


def calculator(path: Path, dtype: torch.dtype) -> Any:
    from upet.calculator import UPETCalculator

    return UPETCalculator(checkpoint_path=path, dtype=dtype, device="cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "hypers",
    [
        {},
        {"num_neighbors_adaptive": 4, "featurizer_type": "residual"},
        {"num_neighbors_adaptive": 5, "adaptive_cutoff_method": "grid", "cutoff": 6.0},
        {"cutoff_function": "Cosine", "transformer_type": "PostLN", "normalization": "LayerNorm"},
        {
            "d_node": SIZES["d_pet"],
            "activation": "SiLU",
            "featurizer_type": "residual",
            "num_attention_layers": 2,
            "num_gnn_layers": 3,
            "attention_temperature": 0.7,
        },
        {"d_node": SIZES["d_pet"], "transformer_type": "PostLN", "num_gnn_layers": 1},
    ],
    ids=["default", "adaptive", "grid", "older", "atoms-replaced", "one-transformer"],
)
def test_equal(hypers: dict, dtype: torch.dtype, native: bool, tmp_path: Path) -> None:
    path = saved(random_pet(dtype, **hypers), tmp_path)
    model = upet(path, native=native)
    assert model.dtype == dtype
    assert isinstance(model["network"], PET) == native
    assert_equal_to_original(model, calculator(path, dtype), structures())


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_all_versions(tmp_path: Path) -> None:
    """Those that metatrain tests itself with, of structures that are not near its training."""
    metatrain = pytest.importorskip("metatrain", reason="upet is not installed")
    from metatrain.utils.io import load_model as load_original

    folder = Path(metatrain.__file__).parent / "pet" / "tests" / "checkpoints"
    files = {file.name.split("_")[0]: file for file in sorted(folder.glob("*.ckpt.gz"))}
    if not files:
        pytest.skip("metatrain is installed without its tests")
    orders = set()
    for file in files.values():
        path = tmp_path / file.stem
        path.write_bytes(gzip.decompress(file.read_bytes()))
        original = load_original(path)
        original.dataset_info.length_unit = "angstrom"  # which they do not say
        wrapped, native = (
            from_metatrain(original, precision="float64", native=native) for native in (False, True)
        )
        orders.add(original.hypers["transformer_type"])
        for atoms in structures().values():
            graph = AtomicGraph.from_ase(atoms, native.cutoff_value, dtype=torch.float64)
            expected = wrapped.predict(graph, ["energy", "forces"])
            for key, found in native.predict(graph, ["energy", "forces"]).items():
                torch.testing.assert_close(found, expected[key], rtol=1e-10, atol=1e-10)
    assert len(files) < 16 or orders == {"PreLN", "PostLN"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_charge_and_spin(native: bool, tmp_path: Path) -> None:
    path = saved(random_pet(torch.float64, system_conditioning=True), tmp_path)
    model, calc = upet(path, native=native), calculator(path, torch.float64)
    atoms, energies = structures()["methanol"], set()
    for charge, spin in ((0, 1), (1, 2), (-2, 3)):
        atoms.info.update(total_charge=charge, total_spin=spin)
        atoms.info.update(charge=charge, spin_multiplicity=spin)
        assert_equal_to_original(model, calc, {"methanol": atoms})
        energies.add(round(float(calc.results["energy"]), 6))
    assert len(energies) == 3
    if native:
        atoms.info.update(total_charge=11)
        with pytest.raises(ValueError, match=r"total_charge: expected -10 to 10, got \[11\]"):
            model.predict_energy(AtomicGraph.from_ase(atoms, 4.5, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_without_neighbours(native: bool) -> None:
    model = from_metatrain(random_pet(torch.float64), native=native)
    apart = structures()["methanol"]
    apart.positions *= 20
    graph = AtomicGraph.from_ase(apart, 4.5, dtype=torch.float64)
    one_by_one = [
        AtomicGraph.from_ase(atoms, 4.5, dtype=torch.float64)
        for atoms in (apart[[n]] for n in range(len(apart)))
    ]
    energies = [float(model.predict_energy(one)) for one in one_by_one]
    assert abs(float(model.predict_energy(graph)) - sum(energies)) < 1e-9
    assert (model.predict_forces(graph) == 0).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_trains_and_saves(native: bool, tmp_path: Path) -> None:
    model = from_metatrain(random_pet(torch.float32, num_neighbors_adaptive=4), native=native)
    assert_usable(model, structures()["methanol"], tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_native_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_metatrain(random_pet(torch.float64, system_conditioning=True), native=True)
    save_model(model, tmp_path / "model.pt")
    for package in ("metatrain", "metatomic", "metatensor", "upet"):
        monkeypatch.setitem(sys.modules, package, None)
    again = load_model(tmp_path / "model.pt").eval()
    graph = AtomicGraph.from_ase(structures()["bulk"], 4.5, dtype=torch.float64)
    assert torch.equal(again.predict_forces(graph), model.predict_forces(graph))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("normalization", "BatchNorm"),
        ("activation", "GELU"),
        ("transformer_type", "MidLN"),
        ("featurizer_type", "recurrent"),
        ("cutoff_function", "Polynomial"),
        ("adaptive_cutoff_method", "sorted"),
    ],
)
def test_settings_that_ours_has_not(setting: str, value: str) -> None:
    original = random_pet(torch.float32, num_neighbors_adaptive=4)
    original.hypers[setting] = value
    with pytest.raises(UnsupportedModelError, match=f"our PET has no {setting}='{value}'"):
        from_metatrain(original, native=True)


@pytest.mark.filterwarnings("ignore")
def test_weights_that_ours_has_not() -> None:
    original = random_pet(torch.float32)
    settings, state = settings_of(original), dict(original.backend.state_dict())
    scales = torch.ones(1)
    native_pet(settings, state, scales)
    with pytest.raises(UnsupportedModelError, match=r"our PET lacks \['more'\] of this model"):
        native_pet(settings, {**state, "more": scales}, scales)
    wrong = {"gnn_layers.0.trans.layers.0.norm_mlp.weight": scales}
    with pytest.raises(UnsupportedModelError, match=r"norm_mlp.weight: expected shape \(8,\), got"):
        native_pet(settings, {**state, **wrong}, scales)
    del state["edge_embedder.weight"]
    with pytest.raises(UnsupportedModelError, match="a PET, which have edge_embedder.weight"):
        native_pet(settings, state, scales)
    with pytest.raises(UnsupportedModelError, match=r"one number per atom, got shapes \{'x': \[3"):
        native_pet({**settings, "shapes": {"x": [3]}}, state, scales)


@pytest.mark.filterwarnings("ignore")
def test_unsupported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"without other terms, got .* \['ZBL'\]"):
        from_metatrain(random_pet(torch.float32, zbl=True))
    with pytest.raises(ValueError, match=r"target: expected one of \['energy'\], got 'energy/pbe'"):
        from_metatrain(random_pet(torch.float32), target="energy/pbe")
    with pytest.raises(UnsupportedModelError, match="expected a PET of metatrain, got a Linear"):
        from_metatrain(torch.nn.Linear(1, 1))


@pytest.mark.filterwarnings("ignore")
def test_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, urls = random_pet(torch.float32), []
    path = saved(model, tmp_path)

    def downloaded(url: str) -> Path:
        urls.append(url)
        return path

    monkeypatch.setattr(import_module("graph_pes.interfaces.upet"), "downloaded", downloaded)
    everything = {"methanol": structures()["methanol"]}
    assert_equal_to_original(upet("pet-mad-s-v1.6.0"), calculator(path, torch.float32), everything)
    assert urls[0].endswith("/models/pet-mad-s-v1.6.0.ckpt")


def test_unknown_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="model: expected a file, or a name .* got 'pet-mad'"):
        upet("pet-mad")
    monkeypatch.setitem(__import__("sys").modules, "metatrain", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[upet\]'"):
        upet()
    monkeypatch.undo()
    pytest.importorskip("metatrain", reason="upet is not installed")
    monkeypatch.setenv("GRAPH_PES_OFFLINE", "1")
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"pet-mad-s-v1.6.0\.ckpt"):
        upet()
