from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from hypothesis import assume, given
from hypothesis import strategies as st

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import (
    AdditionModel,
    FixedOffset,
    FixedTensorOffset,
    LearnableOffset,
    LearnableTensorOffset,
    PaiNN,
    load_model,
    save_model,
)
from tests.strategies import seeds, structures

ENERGIES = {"H": -13.587222780835477, "C": -1029.4889999148424, "O": -2042.978100012345}
PENALTY = 1e-5


def labelled(atoms: ase.Atoms, energy: float | None = None) -> AtomicGraph:
    graph = AtomicGraph.from_ase(atoms, cutoff=2.0)
    if energy is not None:
        graph.properties["energy"] = torch.tensor(energy, dtype=torch.float64)
    return graph


def sum_of_energies(atoms: ase.Atoms) -> float:
    return sum(ENERGIES[symbol] for symbol in atoms.symbols)


def offsets_of(model: LearnableOffset | FixedOffset) -> dict[str, float]:
    return {symbol: model.offsets[symbol].item() for symbol in model.elements_seen}


# --- predictions --------------------------------------------------------------------------


@given(atoms=structures(elements=("H", "C", "O")))
def test_energy(atoms: ase.Atoms) -> None:
    predicted = FixedOffset(**ENERGIES).predict(labelled(atoms), ["energy", "forces", "virial"])
    assert predicted["energy"].item() == pytest.approx(sum_of_energies(atoms), abs=1e-9)
    assert not predicted["forces"].any()
    assert not predicted["virial"].any()


def test_other_elements_have_none() -> None:
    assert FixedOffset(H=-1.0).predict_energy(labelled(molecule("CH4"))).item() == -4.0
    assert LearnableOffset().predict_energy(labelled(molecule("CH4"))).item() == 0.0


def test_which_are_trained() -> None:
    assert [p.requires_grad for p in FixedOffset(H=1.0).parameters()] == [False]
    assert [p.requires_grad for p in LearnableOffset(H=1.0).parameters()] == [True]
    model = LearnableOffset()
    assert model.non_decayable_parameters() == [model.offsets.values]


@pytest.mark.parametrize("offset", [FixedOffset, LearnableOffset])
def test_unknown_element(offset) -> None:
    with pytest.raises(ValueError, match=r"Unknown element: .* got 'Hx': did you mean 'H'"):
        offset(Hx=1.0)


def test_repr() -> None:
    assert "H=-1, O=-3.5, trainable=False" in repr(FixedOffset(H=-1.0, O=-3.5))
    assert "trainable=True" in repr(LearnableOffset(H=-1.0))


# --- precision ----------------------------------------------------------------------------


def copies(model, folder: Path):
    save_model(model, folder / "model.pt")
    return {
        "itself": model,
        "cast": deepcopy(model).to(torch.float32),
        "twice": deepcopy(model).to(torch.float32).to(torch.float64),
        "half": deepcopy(model).half(),
        "copied": deepcopy(model),
        "loaded": load_model(folder / "model.pt"),
        "cast and loaded": load_model(folder / "model.pt").to(torch.float32),
    }


@pytest.mark.parametrize("offset", [FixedOffset, LearnableOffset])
def test_offsets_stay_in_double_precision(offset, tmp_path: Path) -> None:
    for name, model in copies(offset(**ENERGIES), tmp_path).items():
        assert offsets_of(model) == ENERGIES, name
        assert model.offsets.values.dtype == torch.float64, name
        assert isinstance(model, offset)


def test_elements_seen_by_copies(tmp_path: Path) -> None:
    model = LearnableOffset(H=-13.6)
    assert model.elements_seen == ["H"]
    model.pre_fit_all_components([labelled(molecule("CO2"), -5000.0)])
    for name, copy in copies(model, tmp_path).items():
        assert copy.elements_seen == ["H", "C", "O"], name


def test_optimiser_steps_are_not_rounded() -> None:
    model = LearnableOffset(**ENERGIES).to(torch.float32)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-9)
    model.predict_energy(labelled(molecule("H2"))).backward()
    optimiser.step()
    assert model.offsets["H"].item() == pytest.approx(ENERGIES["H"] - 2e-9, abs=1e-14)


def test_gradients_follow_the_precision_of_offsets() -> None:
    """A model that is cast between a backward pass and a step of an optimiser."""
    model = LearnableOffset(**ENERGIES)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.5)
    model.predict_energy(labelled(molecule("H2"))).backward()
    model.to(torch.float32)
    optimiser.step()
    assert model.offsets["H"].item() == pytest.approx(ENERGIES["H"] - 0.5, abs=1e-7)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_large_energies_are_not_rounded(mode: str) -> None:
    """1e5 eV, which single precision would round to 0.008 eV."""
    atoms = molecule("C60")
    atoms.symbols[::2] = "O"
    graph = labelled(atoms)
    network = PaiNN(channels=8, layers=1, cutoff=2.0)
    model = AdditionModel(network=network, offset=FixedOffset(**ENERGIES)).to(torch.float32)
    model.train(mode == "train")
    expected = network.predict_local_energies(graph).double().sum().item() + sum_of_energies(atoms)
    for found in (model.predict_energy(graph), *model.predict_energy(to_batch([graph, graph]))):
        assert abs(found.item()) > 9e4
        assert found.item() == pytest.approx(expected, abs=1e-9)


# --- fits ---------------------------------------------------------------------------------


def random_molecules(seed: int, n: int = 12) -> list[ase.Atoms]:
    rng = np.random.default_rng(seed)
    return [
        ase.Atoms(rng.choice(["H", "C", "O"], size=size), rng.uniform(0, 9, (size, 3)))
        for size in rng.integers(1, 9, n)
    ]


@given(seed=seeds)
def test_fit_against_least_squares(seed: int) -> None:
    molecules = random_molecules(seed)
    counts = np.array([[m.symbols.count(s) for s in ENERGIES] for m in molecules])
    energies = np.array([sum_of_energies(m) for m in molecules])
    energies += np.random.default_rng(seed).normal(0, 2, len(energies))
    expected, _, rank, singular_values = np.linalg.lstsq(counts, energies)
    assume(rank == 3)
    model = LearnableOffset()
    model.pre_fit_all_components(list(map(labelled, molecules, energies)))
    found = np.array([model.offsets[s].item() for s in ENERGIES])
    # The penalty shrinks coefficients, by no more than this.
    bias = PENALTY / (PENALTY + singular_values[-1] ** 2) * np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) <= bias + 1e-8


@given(n=st.integers(1, 5))
def test_single_composition(n: int) -> None:
    """Offsets can't be told apart, but energies are reproduced."""
    graphs = [labelled(molecule("CH3CH2OH"), -4213.7) for _ in range(n)]
    model = LearnableOffset()
    model.pre_fit_all_components(graphs)
    shrinking = 4213.7 * PENALTY / (n * (6**2 + 2**2 + 1))
    assert model.predict_energy(graphs[0]).item() == pytest.approx(-4213.7, abs=1.01 * shrinking)


def test_given_offsets_are_kept_and_the_others_fitted_to_the_rest() -> None:
    graphs = [labelled(molecule("CH4"), ENERGIES["C"] + 4 * ENERGIES["H"])] * 3
    model = LearnableOffset(H=ENERGIES["H"], O=-1.0)
    model.pre_fit_all_components(graphs)
    assert model.offsets["H"].item() == ENERGIES["H"]
    assert model.offsets["O"].item() == -1.0
    assert model.offsets["C"].item() == pytest.approx(ENERGIES["C"], abs=0.01)


def test_all_offsets_given(caplog: pytest.LogCaptureFixture) -> None:
    model = LearnableOffset(**ENERGIES)
    with caplog.at_level(logging.INFO, logger="graph_pes"):
        model.pre_fit_all_components([labelled(molecule("CO2"), 3.0)])
    assert offsets_of(model) == ENERGIES
    assert caplog.text == ""


def test_given_offsets_of_copies(tmp_path: Path) -> None:
    for name, model in copies(LearnableOffset(H=-3.0), tmp_path).items():
        model.pre_fit_all_components([labelled(molecule("H2"), -31.0)])
        assert offsets_of(model) == {"H": -3.0}, name


def test_fixed_offsets_are_not_fitted() -> None:
    model = FixedOffset(H=-1.0)
    model.pre_fit_all_components([labelled(molecule("CH4"), -40.0)])
    assert offsets_of(model) == {"H": -1.0, "C": 0.0}


def test_some_energies_are_missing() -> None:
    molecules = [molecule(name) for name in ("H2", "O2", "H2O", "OH")]
    graphs = [labelled(m, sum_of_energies(m)) for m in molecules]
    graphs[2:2] = [labelled(molecule("H2O2"))]
    model = LearnableOffset()
    model.pre_fit_all_components(graphs)
    assert offsets_of(model) == pytest.approx(
        {symbol: ENERGIES[symbol] for symbol in ("H", "O")}, abs=0.01
    )


def test_all_energies_are_missing(caplog: pytest.LogCaptureFixture) -> None:
    model = LearnableOffset(H=-2.0)
    model.pre_fit_all_components([labelled(molecule("CH4"))])
    assert "No energies in the training data: the offsets of LearnableOffset keep" in caplog.text
    assert offsets_of(model) == {"H": -2.0, "C": 0.0}


def test_fit_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="graph_pes"):
        LearnableOffset(H=-1.0).pre_fit_all_components([labelled(molecule("CH4"), -40.0)])
    assert "Energy offsets fitted to the training data (eV): C: -35.9996." in caplog.text


# --- tensors ------------------------------------------------------------------------------


def with_tensor(atoms: ase.Atoms, values: dict[str, list[float]]) -> AtomicGraph:
    graph = labelled(atoms)
    graph.properties["tensor"] = torch.tensor([values[s] for s in atoms.symbols])
    return graph


def test_fixed_tensors() -> None:
    model = FixedTensorOffset(H=[1.0, 2.0, 3.0], O=[0.0, 0.0, -1.0])
    tensor = model.predict(labelled(molecule("H2O")))["tensor"]
    assert tensor.tolist() == [[0, 0, -1], [1, 2, 3], [1, 2, 3]]
    assert model.predict(labelled(ase.Atoms("H")))["tensor"].shape == (1, 3)


def test_tensors_of_one_component() -> None:
    for values in ({"H": [2.0]}, {"H": 2.0}):
        tensor = FixedTensorOffset(**values).predict(
            labelled(ase.Atoms("HO", [[0, 0, 0], [0, 0, 1]]))
        )["tensor"]
        assert tensor.tolist() == [[2.0], [0.0]]


def test_initial_tensors_are_respected() -> None:
    model = LearnableTensorOffset(2, H=[1.0, -2.0])
    expected = [[0.0, 0.0], [1.0, -2.0], [1.0, -2.0]]
    assert model.predict(labelled(molecule("H2O")))["tensor"].tolist() == expected


def test_fit_of_tensors(tmp_path: Path) -> None:
    values = {"H": [9.0, 9.0], "O": [0.5, -1.5], "C": [3.0, 4.0]}
    graphs = [with_tensor(molecule(name), values) for name in ("H2O", "CH4", "CO2")]
    model = LearnableTensorOffset(2, H=[1.0, -2.0])
    model.pre_fit_all_components(graphs)
    for name, copy in copies(model, tmp_path).items():
        assert copy.offsets["H"].tolist() == [1.0, -2.0], name
        assert copy.offsets["O"].tolist() == pytest.approx([0.5, -1.5], abs=1e-4)
        assert copy.offsets["C"].tolist() == pytest.approx([3.0, 4.0], abs=1e-4)
        assert copy.offsets.values.dtype == torch.float64
        assert copy.elements_seen == ["H", "C", "O"]


def test_tensors_are_missing(caplog: pytest.LogCaptureFixture) -> None:
    model = LearnableTensorOffset(3)
    model.pre_fit_all_components([labelled(molecule("H2O"))])
    assert "No tensors in the training data" in caplog.text


def test_mistakes_in_tensors() -> None:
    with pytest.raises(ValueError, match=r"expected values of one length, got lengths \[2, 3\]"):
        FixedTensorOffset(H=[1.0, 2.0, 3.0], O=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"expected values of one length, got lengths \[\]"):
        FixedTensorOffset()
    with pytest.raises(ValueError, match=r"value for H should have shape \(3,\), but has \(2,\)"):
        LearnableTensorOffset(3, H=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"Unknown element: .* got 'Ox'"):
        LearnableTensorOffset(1, Ox=[1.0])
