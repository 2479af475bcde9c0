from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graph_pes import AtomicGraph
from graph_pes.atomic_graph import neighbour_distances, select_edges, to_batch
from graph_pes.models.io import load_model, save_model
from graph_pes.models.lennard_jones import LennardJones, LennardJonesMixture
from graph_pes.models.morse import Morse
from graph_pes.models.pair_potential import PairPotential, SmoothedPairPotential, logarithm_of
from graph_pes.models.zbl import ZBLCoreRepulsion

from ..strategies import structures
from .pair_reference import assert_equals_reference

MODELS = {
    "LennardJones": lambda: LennardJones(4.0, sigma=1.3),
    "shifted": lambda: LennardJones(4.0, sigma=1.3, shift=True),
    "from_ase, smooth": lambda: LennardJones.from_ase(sigma=1.3, smooth=True),
    "LennardJonesMixture": lambda: LennardJonesMixture(4.0),
    "LennardJonesMixture, no nu": lambda: LennardJonesMixture(4.0, modulate_distances=False),
    "Morse": lambda: Morse(4.0, a=2.0),
    "ZBLCoreRepulsion": lambda: ZBLCoreRepulsion(4.0),
    "ZBLCoreRepulsion, trained": lambda: ZBLCoreRepulsion(4.0, trainable=True),
    "SmoothedPairPotential": lambda: SmoothedPairPotential(Morse(4.0, a=2.0)),
}
every_model = pytest.mark.parametrize("name", MODELS)


class Ionic(PairPotential):
    """An interaction that depends on everything, and not in the least zero at the cutoff."""

    def __init__(self, cutoff: float = 4.0):
        super().__init__(cutoff)
        self.k = torch.nn.Parameter(torch.tensor(1.0))

    def interaction(self, r: Tensor, Z_i: Tensor, Z_j: Tensor) -> Tensor:
        return self.k * Z_i * Z_j / r


def ionic(r: np.ndarray, Z_i: np.ndarray, Z_j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return Z_i * Z_j / r, -Z_i * Z_j / r**2


class Column(Ionic):
    def interaction(self, r: Tensor, Z_i: Tensor, Z_j: Tensor) -> Tensor:
        return super().interaction(r, Z_i, Z_j)[:, None]


def dimer(distance: float, symbols: str = "H2", cutoff: float = 4.0) -> AtomicGraph:
    atoms = ase.Atoms(symbols, [[0, 0, 0], [distance, 0, 0]])
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


# --- the sum ---------------------------------------------------------------------------------


@given(atoms=structures(), cutoff=st.floats(1.0, 5.0))
def test_sums_half_of_each_interaction_over_neighbours(atoms: ase.Atoms, cutoff: float) -> None:
    assert_equals_reference(Ionic(cutoff).double(), atoms, ionic)


@given(atoms=structures(min_atoms=2))
def test_interactions_may_have_a_trailing_dimension(atoms: ase.Atoms) -> None:
    graph = AtomicGraph.from_ase(atoms, 4.0)
    for g in (graph, dimer(1.0), dimer(9.0)):
        torch.testing.assert_close(Column().predict_energy(g), Ionic().predict_energy(g))


@pytest.mark.parametrize("model", [Ionic(), SmoothedPairPotential(Ionic())])
@given(atoms=structures())
def test_longer_edges_contribute_exactly_nothing(model: PairPotential, atoms: ase.Atoms) -> None:
    long = to_batch([AtomicGraph.from_ase(atoms, 6.5)])
    short = select_edges(long, neighbour_distances(long) < 4.0)
    assert torch.equal(model(short)["local_energies"], model(long)["local_energies"])


def test_an_edge_at_the_cutoff_contributes_exactly_nothing() -> None:
    model, graph = Ionic(4.0).double(), dimer(4.0, cutoff=5.0)
    assert graph.neighbour_list.shape[1] == 2
    assert model.predict_energy(graph) == 0
    assert torch.equal(model.predict_forces(graph), torch.zeros(2, 3, dtype=torch.float64))
    assert model.predict_energy(dimer(np.nextafter(4.0, 0))) > 0.2


def test_interaction_is_abstract() -> None:
    with pytest.raises(TypeError, match="interaction"):
        PairPotential(4.0)  # type: ignore[abstract]


# --- smoothing -------------------------------------------------------------------------------


def smoothing(r: float, onset: float, cutoff: float) -> float:
    if r < onset:
        return 1.0
    if r >= cutoff:
        return 0.0
    return (cutoff - r) ** 2 * (cutoff + 2 * r - 3 * onset) / (cutoff - onset) ** 3


@given(r=st.floats(0.5, 5.0), onset=st.none() | st.floats(0, 3.9))
def test_smoothed_is_the_envelope_times_the_wrapped(r: float, onset: float | None) -> None:
    model = SmoothedPairPotential(Ionic(4.0), onset).double()
    expected = smoothing(r, 2 * 4.0 / 3 if onset is None else onset, 4.0) / r if r < 4 else 0.0
    found = model.predict_energy(dimer(r, cutoff=6.0)).item()
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_smoothing_removes_the_jump_at_the_cutoff() -> None:
    bare = Morse(cutoff=4.0, D=0.1).double()
    smooth = SmoothedPairPotential(bare)
    inside = dimer(4.0 - 1e-6)
    assert bare.predict_energy(inside).item() == pytest.approx(0.1, rel=1e-4)
    assert 0 < smooth.predict_energy(inside).item() < 1e-12
    assert smooth.predict_forces(inside).abs().max() < 1e-6
    at_onset = dimer(8 / 3 - 1e-9), dimer(8 / 3 + 1e-9)
    before, after = (smooth.predict_forces(g) for g in at_onset)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-8)


def test_smoothed_takes_the_cutoff_of_the_wrapped() -> None:
    assert SmoothedPairPotential(LennardJones(3.3)).cutoff_value == 3.3


@pytest.mark.parametrize("onset", [4.0, 5.0])
def test_an_onset_beyond_the_cutoff_is_an_error(onset: float) -> None:
    with pytest.raises(ValueError, match="Onset must be less than cutoff"):
        SmoothedPairPotential(LennardJones(4.0), onset)


def test_pre_fit_reaches_the_wrapped_potential() -> None:
    model = SmoothedPairPotential(Morse(4.0))
    model.pre_fit_all_components([dimer(2.0)])
    assert model.potential.r0.item() == pytest.approx(2.1, rel=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_positive_quantities_must_be_positive(value: float) -> None:
    with pytest.raises(ValueError, match=r"expected sigma > 0, got sigma="):
        logarithm_of("sigma", value)


# --- every pair potential --------------------------------------------------------------------


@every_model
@given(data=st.data())
def test_a_batch_is_a_loop(name: str, data: st.DataObject) -> None:
    model = MODELS[name]().double()
    graphs = [
        AtomicGraph.from_ase(data.draw(structures(max_atoms=5)), 5.0, dtype=torch.float64)
        for _ in range(3)
    ]
    keys = ["energy", "forces", "virial"]
    together = model.predict(to_batch(graphs), keys)
    alone = [model.predict(g, keys) for g in graphs]
    scale = max(1.0, together["virial"].abs().max().item())
    for key, join in (("energy", torch.stack), ("virial", torch.stack), ("forces", torch.cat)):
        joined = join([x[key] for x in alone])
        torch.testing.assert_close(together[key], joined, rtol=1e-11, atol=1e-12 * scale)


@every_model
@pytest.mark.parametrize("n_atoms", [1, 2])
def test_atoms_without_neighbours_have_no_energy(name: str, n_atoms: int) -> None:
    atoms = ase.Atoms(f"C{n_atoms}", [[30.0 * n, 0, 0] for n in range(n_atoms)])
    graph = AtomicGraph.from_ase(atoms, 5.0)
    predictions = MODELS[name]().predict(graph, ["local_energies", "forces", "virial"])
    assert torch.equal(predictions["local_energies"], torch.zeros(n_atoms))
    assert torch.equal(predictions["forces"], torch.zeros(n_atoms, 3))
    assert torch.equal(predictions["virial"], torch.zeros(3, 3))


@every_model
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_model(
    name: str, dtype: torch.dtype, default: torch.dtype, default_dtype
) -> None:
    model = MODELS[name]().to(dtype)
    graph = AtomicGraph.from_ase(ase.Atoms("CO", [[0, 0, 0], [0.8, 0.5, 0.7]]), 5.0)
    default_dtype(default)
    predictions = model.predict(graph, ["local_energies", "energy", "forces"])
    assert predictions["local_energies"].dtype == predictions["forces"].dtype == dtype
    assert predictions["energy"].dtype == torch.float64
    torch.testing.assert_close(
        predictions["energy"], MODELS[name]().double().predict_energy(graph), rtol=1e-5, atol=1e-5
    )


@every_model
def test_all_parameters_get_gradients_from_energy_and_forces(name: str) -> None:
    model = MODELS[name]()
    graph = AtomicGraph.from_ase(
        ase.Atoms("COC", [[0, 0, 0], [0.8, 0.9, 0.7], [2.9, 0.1, 0.3]]), 5.0
    )
    predictions = model.predict(graph, ["energy", "forces"])
    for loss in (predictions["energy"], predictions["forces"].square().sum()):
        model.zero_grad()
        loss.backward(retain_graph=True)
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 0, key


@every_model
def test_saved_and_loaded(name: str, tmp_path) -> None:
    model, graph = MODELS[name](), dimer(1.7, "CO")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    save_model(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    assert torch.equal(model.predict_energy(graph), loaded.predict_energy(graph))
