"""TensorNets of MatGL: see also tests/models/test_tensornet.py, which has frozen numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graph_pes.interfaces import matgl_model
from graph_pes.interfaces.foreign import UnsupportedModelError
from graph_pes.interfaces.matgl import MatGLTensorNet, from_description, native_tensornet

from .original import assert_equal_to_original, assert_usable, data_file, structures

NAME = "models/matgl/TensorNet-MatPES-PBE-v2025.1-PES"


def test_native_needs_no_matgl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are tensors and JSON."""
    folder = data_file(NAME)
    monkeypatch.setitem(__import__("sys").modules, "matgl", None)
    model = matgl_model(folder, native=True)
    assert model.predictable_properties >= {"energy", "forces", "stress"}
    commands = r"pip install 'graph-pes\[matgl\]' and pip install --no-deps matgl==2.0.4, best in"
    with pytest.raises(ImportError, match=commands):
        matgl_model(folder)


def test_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later:
        __version__ = "4.1.2"

    monkeypatch.setitem(__import__("sys").modules, "matgl", Later)
    with pytest.raises(ImportError, match="matgl 4.1.2 is installed, but only 2.0.4 is known to"):
        MatGLTensorNet({"cutoff": 5.0, "element_types": ["H"]})


def test_unsupported() -> None:
    with pytest.raises(UnsupportedModelError, match="no rbf_type='Gaussian'"):
        native_tensornet({"rbf_type": "Gaussian"}, {})
    other: Any = {"kwargs": {"model": {"@class": "CHGNet"}, "calc_repuls": False}}
    with pytest.raises(UnsupportedModelError, match="expected a TensorNet .* got a CHGNet"):
        from_description({"@class": "Potential", **other}, {})
    with pytest.raises(ValueError, match="model: expected one of .*TensorNet-MatPES-PBE"):
        matgl_model("M3GNet")


# --- with the package ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_equal(native: bool) -> None:
    pytest.importorskip("matgl", reason="matgl is not installed")
    folder = data_file(NAME)
    from matgl.apps._pes_pyg import Potential
    from matgl.ext._ase_pyg import PESCalculator

    potential = Potential.load(folder)
    original = PESCalculator(potential, stress_unit="eV/A3", use_voigt=True)
    model = matgl_model(folder, native=native)
    # MatGL takes what is not periodic in all directions for a molecule.
    assert_equal_to_original(model, original, structures("Si O Na"), fully_periodic=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_trains_and_saves(tmp_path: Path, native: bool) -> None:
    pytest.importorskip("matgl", reason="matgl is not installed")
    model = matgl_model(data_file(NAME), native=native)
    assert_usable(model, structures("Si O Na")["molecule"], tmp_path)
