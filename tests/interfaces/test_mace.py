"""MACE models of mace-torch, in an environment that has it: ``pip install graph-pes[mace]``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces import mace_model, mace_mp
from graph_pes.interfaces.downloads import DownloadError
from graph_pes.interfaces.foreign import UnsupportedModelError
from graph_pes.interfaces.mace import from_mace_torch
from graph_pes.nn import mace_layers

from .original import assert_equal_to_original, assert_usable, data_file, structures

PRECISIONS = ["float64", "float32"]


#: Parameters that hardly matter before they are trained.
SMALL_AT_FIRST = ("_embedding.weight", "_fn.net", "_weights.net", "beta", ".bias")


def random_mace(folder: Path, dtype: torch.dtype = torch.float64, **changes: Any) -> Path:
    """A small model with random weights, as mace-torch saves it."""
    pytest.importorskip("mace", reason="mace-torch is not installed")
    from mace import modules

    o3 = modules.models.o3
    names = {
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
        "hidden_irreps": "3x0e + 3x1o",
        "MLP_irreps": "4x0e",
        "heads": ["Default"],
        **changes,
    }
    heads = len(names["heads"])
    for key in {"interaction_cls", "interaction_cls_first", "readout_cls"} & names.keys():
        names[key] = getattr(modules.blocks, names[key])
    for key in {"hidden_irreps", "MLP_irreps", "edge_irreps"} & names.keys():
        names[key] = o3.Irreps(names[key])
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        arguments = {
            "r_max": 3.4,
            "num_bessel": 4,
            "num_polynomial_cutoff": 6,
            "max_ell": 2,
            "num_interactions": 2,
            "num_elements": 3,
            "atomic_energies": np.array([[-13.6, -1030.5, -2043.3]] * heads),
            "avg_num_neighbors": 5.3,
            "atomic_numbers": [1, 6, 8],
            "correlation": 3,
            "gate": torch.nn.functional.silu,
            "radial_MLP": [8, 8],
            "atomic_inter_scale": [0.7, 0.9][:heads] if heads > 1 else 0.7,
            "atomic_inter_shift": [0.2, -0.1][:heads] if heads > 1 else 0.2,
        }
        model = modules.ScaleShiftMACE(**{**arguments, **names})
        for key, parameter in model.named_parameters():
            if any(part in key for part in SMALL_AT_FIRST):
                parameter.data.add_(0.4 * torch.randn_like(parameter))
    finally:
        torch.set_default_dtype(torch.float32)
    path = folder / "mace.model"
    torch.save(model, path)
    return path


def calculator(path: Path, **options: Any) -> Any:
    from mace.calculators import MACECalculator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MACECalculator(str(path), device="cpu", **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("first", ["RealAgnosticInteractionBlock", None])
def test_equal(tmp_path: Path, precision: str, native: bool, first: str | None) -> None:
    changes = {} if first is None else {"interaction_cls_first": first}
    path = random_mace(tmp_path, getattr(torch, precision), **changes)
    model = mace_model(path, native=native)
    assert model.dtype == getattr(torch, precision)
    original = calculator(path, default_dtype=precision)
    assert_equal_to_original(model, original, structures())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("head", ["first", "second"])
def test_heads(tmp_path: Path, native: bool, head: str) -> None:
    path = random_mace(tmp_path, heads=["first", "second"], hidden_irreps="3x0e")
    original = calculator(path, default_dtype="float64", head=head)
    model = mace_model(path, head=head, native=native)
    assert_equal_to_original(model, original, structures())
    with pytest.raises(ValueError, match="head: expected one of .*'first', 'second'"):
        mace_model(path, head="third", native=native)


#: Parts of the later MACE-MP models, and of MACE-OMOL.
LATER: dict[str, dict[str, Any]] = {
    "0b": {
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
    "soft": {"distance_transform": "Soft", "pair_repulsion": True, "radial_MLP": [8, 4, 6]},
    "density": {
        "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticDensityResidualInteractionBlock",
    },
    "0b3": {
        "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
    "omol": {
        "interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock",
        "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
        "apply_cutoff": False,
        "use_agnostic_product": True,
        "embedding_specs": {
            "total_charge": {
                "type": "categorical",
                "per": "graph",
                "num_classes": 11,
                "emb_dim": 4,
                "offset": 5,
            },
            "total_spin": {
                "type": "categorical",
                "per": "graph",
                "num_classes": 7,
                "emb_dim": 4,
            },
        },
        "use_embedding_readout": True,
    },
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", LATER)
def test_later_parts(tmp_path: Path, kind: str) -> None:
    path = random_mace(tmp_path, **LATER[kind])
    model = mace_model(path)
    original = calculator(path, default_dtype="float64")
    assert_equal_to_original(model, original, structures())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("kind", LATER)
def test_later_parts_natively(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    default_dtype: Callable[[torch.dtype], None],
    kind: str,
    few: bool,
    precision: str,
) -> None:
    """With few elements, the first layer is computed in another way."""
    if not few:
        monkeypatch.setattr(mace_layers, "FEW_ELEMENTS", 2)
    path = random_mace(tmp_path, getattr(torch, precision), **LATER[kind])
    model = mace_model(path, native=True)
    assert model.dtype == getattr(torch, precision)
    # The repulsion of mace-torch is as precise as torch is by default, and in single precision
    # the cancellations in its envelope leave errors of 3e-5.
    default_dtype(torch.float64)
    assert_equal_to_original(model, calculator(path, default_dtype="float64"), structures())


@pytest.mark.filterwarnings("ignore")
def test_repulsion_that_is_cut_off(tmp_path: Path) -> None:
    numbers = [1, 6, 55]
    path = random_mace(tmp_path, pair_repulsion=True, atomic_numbers=numbers)
    with pytest.raises(UnsupportedModelError, match=r"cut off at 3.4 Å, but goes on to 4.88 Å"):
        mace_model(path, native=True)


@pytest.mark.filterwarnings("ignore")
def test_repulsion_with_other_constants(tmp_path: Path) -> None:
    path = random_mace(tmp_path, pair_repulsion=True)
    network = torch.load(path, weights_only=False)
    network.pair_repulsion_fn.a_exp.fill_(0.23)
    with pytest.raises(UnsupportedModelError, match="expected a_exp = 0.3, got 0.23"):
        from_mace_torch(network, native=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [
        {"edge_irreps": "2x0e + 2x1o"},
        {"edge_irreps": "2x0e + 2x1o", "use_edge_irreps_first": True},
        {"use_last_readout_only": True, "embedding_specs": None, "use_embedding_readout": False},
        {"heads": ["first", "second"], "readout_cls": "NonLinearBiasReadoutBlock"},
    ],
    ids=str,
)
def test_other_parts_of_omol(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = random_mace(tmp_path, **{**LATER["omol"], **changes})
    head = changes.get("heads", ["Default"])[-1]
    original = calculator(path, default_dtype="float64", head=head)
    assert_equal_to_original(mace_model(path, native=True), original, structures())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_agnostic_product": False}, "our MACE has no use_agnostic_product=False"),
        ({"apply_cutoff": True}, "our MACE has no apply_cutoff=True"),
        ({"edge_irreps": "2x0e + 2x1o + 2x2e"}, r"expected those of 3x0e\+3x1o.* got .*2e"),
        (
            {"interaction_cls": "RealAgnosticResidualInteractionBlock"},
            "our MACE has no interaction_cls='RealAgnosticResidualInteractionBlock'",
        ),
    ],
    ids=str,
)
def test_parts_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = random_mace(tmp_path, **{**LATER["omol"], **changes})
    with pytest.raises(UnsupportedModelError, match=message):
        mace_model(path, native=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_charge_and_spin(tmp_path: Path, native: bool) -> None:
    path = random_mace(tmp_path, **LATER["omol"])
    model = mace_model(path, native=native)
    original = calculator(path, default_dtype="float64")
    atoms = structures()["methanol"]
    energies = []
    for charge, spin in ((0, 1), (1, 2), (-2, 3)):
        atoms.info.update(total_charge=charge, total_spin=spin, charge=charge, spin=spin)
        graph = AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=torch.float64)
        energies.append(model.predict_energy(graph).item())
        original.calculate(atoms, ["energy", "forces"], ["positions"])
        assert energies[-1] == pytest.approx(original.results["energy"], abs=1e-8)
        forces = model.predict_forces(graph).numpy()
        np.testing.assert_allclose(forces, original.results["forces"], rtol=0, atol=1e-8)
    assert len({round(energy, 6) for energy in energies}) == 3
    if native:
        atoms.info["total_charge"] = 9
        with pytest.raises(ValueError, match=r"total_charge: expected -5 to 5, got \[9\]"):
            model.predict_energy(AtomicGraph.from_ase(atoms, model.cutoff_value))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("native", "kind"), [(False, ""), (True, ""), (True, "0b3"), (True, "omol")]
)
def test_trains_and_saves(tmp_path: Path, native: bool, kind: str) -> None:
    path = random_mace(tmp_path, **LATER[kind] if kind else {})
    model = mace_model(path, precision="float32", native=native)
    assert_usable(model, structures()["methanol"], tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_real_weights(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of solvent molecules: errors as measured with mace-torch itself."""
    pytest.importorskip("mace", reason="mace-torch is not installed")
    from ase.io import read

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    folder = data_file("models/mace_tutorial_xtb")
    model = mace_model(folder / "model_swa.model", native=native)
    frames = read(folder / "solvent_test.xyz.gz", ":20")
    original = calculator(folder / "model_swa.model", default_dtype="float32")
    everything = {str(n): atoms for n, atoms in enumerate(frames[:4])}
    assert_equal_to_original(model, original, everything, stress=False)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="model: expected one of .*'small'.* got 'tiny'"):
        mace_mp("tiny")


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPH_PES_OFFLINE", "1")
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match="2023-12-03-mace-128-L1_epoch-199.model on a machine"):
        mace_mp("medium")


def test_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mace", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[mace\]'.* e3nn 0.4.4"):
        mace_model(tmp_path / "some.model")
