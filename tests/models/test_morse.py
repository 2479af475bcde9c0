from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graph_pes import AtomicGraph
from graph_pes.atomic_graph import to_batch
from graph_pes.models.addition import AdditionModel
from graph_pes.models.lennard_jones import LennardJones
from graph_pes.models.morse import Morse

from ..strategies import structures
from .pair_reference import assert_equals_reference


@pytest.fixture(autouse=True)
def _float64(default_dtype) -> None:
    default_dtype(torch.float64)


@given(
    atoms=structures(),
    D=st.floats(0.01, 5.0),
    a=st.floats(0.5, 3.0),
    r0=st.floats(0.5, 3.0),
)
def test_equals_numpy(atoms: ase.Atoms, D: float, a: float, r0: float) -> None:
    def interaction(r: np.ndarray, *_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.exp(-a * (r - r0))
        return D * (1 - x) ** 2, 2 * D * a * x * (1 - x)

    assert_equals_reference(Morse(4.0, D, a, r0), atoms, interaction)


def test_well() -> None:
    model = Morse(D=2.0, a=3.0, r0=1.2)
    r = torch.tensor([1.2, 30.0], requires_grad=True)
    V = model.interaction(r)
    (slope,) = torch.autograd.grad(V.sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    torch.testing.assert_close(V, torch.tensor([0.0, 2.0]), atol=1e-14, rtol=1e-14)
    torch.testing.assert_close(slope, torch.zeros(2), atol=1e-14, rtol=0)
    torch.testing.assert_close(curvature[0], torch.tensor(2 * 2.0 * 3.0**2))


def test_truncated_at_the_cutoff() -> None:
    """The energy counts from the bottom of the well: it drops by D at the cutoff."""
    model = Morse(cutoff=4.0, D=0.1, a=5.0)

    def energy(distance: float) -> float:
        graph = AtomicGraph.from_ase(ase.Atoms("H2", [[0, 0, 0], [0, 0, distance]]), 5.0)
        return model.predict_energy(graph).item()

    assert energy(4.0) == 0
    assert energy(4.0 - 1e-9) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("name", ["D", "a", "r0"])
def test_parameters_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected {name} > 0, got {name}=-1"):
        Morse(**{name: -1.0})


# --- pre-fit ---------------------------------------------------------------------------------


def chain(*gaps: float) -> AtomicGraph:
    x = np.concatenate([[0.0], np.cumsum(gaps)])
    return AtomicGraph.from_ase(ase.Atoms(f"H{len(x)}", [[v, 0, 0] for v in x]), 4.0)


def test_pre_fit_takes_the_first_decile_of_distances() -> None:
    model, graphs = Morse(cutoff=4.0), [chain(1.0, 2.0), chain(1.5), chain(1.2, 1.4)]
    parameter = model._log_r0
    model.pre_fit_all_components(graphs)
    distances = np.repeat([1.0, 2.0, 3.0, 1.5, 1.2, 1.4, 2.6], 2)
    assert model.r0.item() == pytest.approx(np.quantile(distances, 0.1) + 0.1, rel=1e-12)
    # An optimiser that already holds the parameter still trains the one in use.
    assert model._log_r0 is parameter
    assert parameter.requires_grad


def test_pre_fit_counts_pairs_within_its_own_cutoff() -> None:
    morse = Morse(cutoff=2.5)
    model = AdditionModel(morse=morse, longer=LennardJones(cutoff=4.0))
    model.pre_fit_all_components([chain(2.0, 3.0), chain(*[3.5] * 30)])
    assert morse.r0.item() == pytest.approx(2.1, rel=1e-12)


def test_pre_fit_without_pairs_changes_nothing() -> None:
    model = Morse(r0=1.7)
    model.pre_fit(to_batch([chain()]))
    assert model.r0.item() == pytest.approx(1.7, rel=1e-12)
