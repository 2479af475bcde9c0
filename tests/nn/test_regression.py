from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.nn.regression import compositions, fit_per_element, ridge
from graph_pes.nn.scaling import LocalEnergiesScaler

ENERGIES = {"H": -13.6, "C": -1030.0, "O": -2043.0}
NAMES = ("H2O", "CH4", "CO2", "H2", "CH3OH", "O", "H")


def batch_of(names: tuple[str, ...] = NAMES) -> tuple[AtomicGraph, torch.Tensor]:
    """Molecules, and energies that are exactly sums over atoms."""
    molecules = [molecule(name) for name in names]
    energies = [sum(ENERGIES[s] for s in m.symbols) for m in molecules]
    graphs = [AtomicGraph.from_ase(m, 2.0) for m in molecules]
    return to_batch(graphs), torch.tensor(energies, dtype=torch.float64)


def test_compositions() -> None:
    elements, counts = compositions(batch_of(("H2O", "CH4"))[0])
    assert elements.tolist() == [1, 6, 8]
    assert counts.tolist() == [[2, 0, 1], [4, 1, 0]]
    single = AtomicGraph.from_ase(molecule("H2O"))
    assert compositions(single)[1].tolist() == [[2, 1]]


@pytest.mark.parametrize("columns", [(), (3,)])
def test_ridge_against_the_augmented_problem(columns: tuple[int, ...]) -> None:
    """A penalty is the same as extra rows of data that say that the coefficients are zero."""
    rng = np.random.default_rng(0)
    X, y, alpha = rng.normal(size=(9, 4)), rng.normal(size=(9, *columns)), 0.3
    more_X = np.concatenate([X, np.sqrt(alpha) * np.eye(4)])
    more_y = np.concatenate([y, np.zeros((4, *columns))])
    expected = np.linalg.lstsq(more_X, more_y)[0]
    found = ridge(torch.from_numpy(X), torch.from_numpy(y), alpha)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_exact_sums_are_found() -> None:
    batch, energies = batch_of()
    fit = fit_per_element(energies, batch)
    # to within what the penalty pulls them towards zero
    assert {Z: v.item() for Z, v in fit.means.items()} == pytest.approx(
        {1: -13.6, 6: -1030, 8: -2043}, abs=0.01
    )
    assert all(v == 0.01 for v in fit.variances.values())


def test_missing_values_are_left_out() -> None:
    batch, energies = batch_of()
    complete = fit_per_element(*reversed(batch_of(NAMES[1:])))
    energies[0] = torch.nan
    masked = fit_per_element(energies, batch)
    for Z, mean in complete.means.items():
        torch.testing.assert_close(masked.means[Z], mean)
    with pytest.raises(ValueError, match="expected at least one value, but all are missing"):
        fit_per_element(torch.full((7,), torch.nan), batch)


def test_undetermined_compositions() -> None:
    assert fit_per_element(*reversed(batch_of(("H2O", "H2")))).determined
    batch, energies = batch_of(("H2O", "H2O"))
    fit = fit_per_element(energies, batch)
    assert not fit.determined
    # The smallest contributions that fit: in proportion to the numbers of atoms.
    assert fit.means[1] / fit.means[8] == pytest.approx(2)
    assert 2 * fit.means[1] + fit.means[8] == pytest.approx(energies[0].item())


@pytest.mark.parametrize("columns", [(), (2,)])
def test_known_contributions(columns: tuple[int, ...]) -> None:
    """Two molecules do not determine three elements, but they do determine two."""
    batch, energies = batch_of(("H2O", "CH4"))
    values = energies.view(-1, *(1 for _ in columns)).expand(-1, *columns)
    known = {1: torch.full(columns, ENERGIES["H"]), 3: torch.full(columns, 7.0)}
    fit = fit_per_element(values, batch, known=known)
    assert fit.means.keys() == fit.variances.keys() == {6, 8}
    for Z, symbol in ((6, "C"), (8, "O")):
        expected = torch.full(columns, ENERGIES[symbol], dtype=torch.float64)
        torch.testing.assert_close(fit.means[Z], expected, rtol=2e-5, atol=0)
    known |= {6: torch.zeros(columns), 8: torch.zeros(columns)}
    assert fit_per_element(values, batch, known=known).means == {}


def test_atomic_values() -> None:
    batch, _ = batch_of(("H2O", "CH4"))
    values = batch.Z[:, None] * torch.tensor([1.0, -2.0])
    fit = fit_per_element(values, batch, per_atom=True)
    assert fit.means[8].tolist() == pytest.approx([8, -16], rel=1e-4)
    assert fit.means[1].tolist() == pytest.approx([1, -2], rel=1e-4)


def test_scaler() -> None:
    batch, energies = batch_of()
    noisy = energies + 3 * torch.randn(len(energies), dtype=torch.float64)
    batch.properties["energy"] = noisy
    scaler = LocalEnergiesScaler()
    raw = torch.randn(len(batch.Z))
    assert torch.equal(scaler(raw, batch), raw)
    scaler.pre_fit(batch)
    expected = fit_per_element(noisy, batch).variances
    for Z, variance in expected.items():
        assert scaler.per_element_scaling[Z].item() == pytest.approx(variance.sqrt().item())
    assert scaler.per_element_scaling.registered_elements == [1, 6, 8]
    torch.testing.assert_close(
        scaler(raw[:, None], batch), raw * scaler.per_element_scaling(batch.Z)
    )
    assert scaler.non_decayable_parameters() == [scaler.per_element_scaling.values]


def test_scaler_without_energies() -> None:
    scaler = LocalEnergiesScaler()
    scaler.pre_fit(batch_of()[0])
    assert scaler.per_element_scaling.registered_elements == []


def test_scaler_of_one_atom() -> None:
    graph = AtomicGraph.from_ase(molecule("H"))
    assert LocalEnergiesScaler()(torch.ones(1, 1), graph).shape == (1,)
