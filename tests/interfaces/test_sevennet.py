"""Models of SevenNet: ours against frozen numbers, and, where sevenn is installed, against it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces import sevennet
from graph_pes.interfaces.foreign import UnsupportedModelError, with_energies_of_atoms
from graph_pes.interfaces.sevennet import native_sevennet
from graph_pes.models import GraphPESModel
from graph_pes.nn.irreps import clebsch_gordan
from tests.models.transplant import REFERENCES, Frozen, relative_errors

from .original import assert_equal_to_original, assert_usable, structures

MODELS = ["xplor", "polynomial"]


def frozen_model(frozen: Frozen, name: str, **changes: object) -> tuple[GraphPESModel, Frozen]:
    """Our model with the weights of a small one of sevenn's, and what that predicted."""
    own = {k.removeprefix(f"{name}."): v for k, v in frozen.items() if k.startswith(f"{name}.")}
    settings = json.loads(str(own.pop("settings")))
    settings["_type_map"] = dict(settings["_type_map"])
    W = {k: torch.from_numpy(v) for k, v in own.items() if not k.startswith("structure.")}
    symbols = settings["chemical_species"]
    energies = dict(zip(symbols, W.pop("rescale_atomic_energy.shift").tolist(), strict=True))
    network = native_sevennet({**settings, **changes}, W)
    predicted = {k: v for k, v in {**frozen, **own}.items() if k.startswith("structure.")}
    return with_energies_of_atoms(network, energies), predicted


@pytest.mark.parametrize("name", MODELS)
def test_native_against_frozen(name: str) -> None:
    """See make_sevennet.py."""
    frozen = dict(np.load(REFERENCES / "sevennet.npz"))
    model, predicted = frozen_model(frozen, name)
    assert model.dtype == torch.float64
    errors = relative_errors(model, predicted)
    assert set(errors) == {"energy", "forces", "stress"}
    assert max(errors.values()) < 1e-9, errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_parity": True}, "no is_parity=True: use native=False"),
        ({"readout_as_fcn": True}, "no readout_as_fcn=True"),
        ({"irreps_manual": ["4x0e", "4x0e", "4x0e+3x1e", "4x0e"]}, "our NequIP has features"),
        ({"self_connection_type": ["linear", "nequip"]}, "self_connection_type: expected one"),
    ],
)
def test_unsupported(changes: dict, message: str) -> None:
    frozen = dict(np.load(REFERENCES / "sevennet.npz"))
    with pytest.raises(UnsupportedModelError, match=message):
        frozen_model(frozen, "xplor", **changes)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sevenn", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[sevennet\]'"):
        sevennet()


# --- with the package ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_equal(native: bool) -> None:
    pytest.importorskip("sevenn", reason="sevenn is not installed")
    from sevenn.calculator import SevenNetCalculator

    model = sevennet("7net-0", native=native)
    original = SevenNetCalculator("7net-0", device="cpu")
    assert_equal_to_original(model, original, structures("Si O Na"))


@pytest.mark.filterwarnings("ignore")
def test_data_sets() -> None:
    pytest.importorskip("sevenn", reason="sevenn is not installed")
    from sevenn.calculator import SevenNetCalculator

    atoms = structures("Si O Na")["bulk"]
    for modal in ("PBE", "R2SCAN"):
        model = sevennet("7net-mf-0", modal=modal)
        original = SevenNetCalculator("7net-mf-0", modal=modal, device="cpu")
        assert_equal_to_original(model, original, {"bulk": atoms})
    with pytest.raises(ValueError, match="modal: expected one of .*'PBE', 'R2SCAN'.* got None"):
        sevennet("7net-mf-0")
    with pytest.raises(UnsupportedModelError, match="use_modality=True"):
        sevennet("7net-mf-0", modal="PBE", native=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_trains_and_saves(tmp_path: Path, native: bool) -> None:
    pytest.importorskip("sevenn", reason="sevenn is not installed")
    model = sevennet("7net-0", native=native)
    assert_usable(model, structures("Si O Na")["molecule"], tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_double_precision() -> None:
    """Of the coupling coefficients that are in the file, in single precision, we take the signs."""
    pytest.importorskip("sevenn", reason="sevenn is not installed")
    theirs, ours = (sevennet("7net-0", precision="float64", native=n) for n in (False, True))
    for name, buffer in theirs.named_buffers():
        if "_w3j_" in name:
            exact = clebsch_gordan(*(int(l) for l in name.split("_")[-3:]))
            buffer.copy_(exact * (buffer * exact).sum().sign())
    for atoms in structures("Si O Na").values():
        graph = AtomicGraph.from_ase(atoms, 5.0, dtype=torch.float64)
        expected = theirs.predict(graph, ["energy", "forces"])
        for key, value in ours.predict(graph, ["energy", "forces"]).items():
            size = max(1.0, float(expected[key].abs().max()))
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-8 * size)
