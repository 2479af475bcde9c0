from __future__ import annotations

import json
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given, settings

from graph_pes.atomic_graph import (
    AtomicGraph,
    as_neighbour_matrix,
    neighbour_distances,
    neighbour_vectors,
    select_edges,
    to_batch,
)
from graph_pes.deploy import ExportedModel, export_model
from graph_pes.deploy.reach import exchanges_ghosts, layers_of
from graph_pes.interfaces.chgnet_weights import arguments_of, native_chgnet
from graph_pes.interfaces.foreign import UnsupportedModelError
from graph_pes.models import CHGNet
from graph_pes.nn.chgnet_layers import SHORTENED, AngleExpansion, Bonds, bonds_of
from tests.conformance.models import chgnet, randomised
from tests.strategies import structures

from .transplant import REFERENCES, Frozen, assert_agrees, frozen_structures, relative_errors


def graph_of(atoms: ase.Atoms, cutoff: float = 4.0) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


def bonds(graph: AtomicGraph, cutoff: float) -> Bonds:
    return bonds_of(graph, neighbour_vectors(graph), neighbour_distances(graph), cutoff)


# --- original weights -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return dict(np.load(REFERENCES / "chgnet.npz"))


def from_frozen(frozen: Frozen) -> CHGNet:
    start = "weights."
    state = {k.removeprefix(start): v for k, v in frozen.items() if k.startswith(start)}
    state = {key: torch.from_numpy(value) for key, value in state.items()}
    return native_chgnet(json.loads(str(frozen["settings"])), state).eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_chgnet(dtype: torch.dtype, frozen: Frozen) -> None:
    model = from_frozen(frozen)
    assert_agrees(model.to(dtype), frozen, {"energy", "forces", "stress"})


def test_magnetic_moments_equal_those_of_chgnet(frozen: Frozen) -> None:
    model = from_frozen(frozen)
    for atoms, expected in frozen_structures(frozen):
        graph = graph_of(atoms, model.cutoff_value)
        found = model.predict(graph, ["magnetic_moments"])["magnetic_moments"].numpy()
        np.testing.assert_allclose(found, expected["magnetic_moments"], rtol=1e-9)


@pytest.mark.parametrize("part", ["bond_convolutions.2", "angle_updates.1", "angular"])
def test_every_part_counts(part: str, frozen: Frozen) -> None:
    model = from_frozen(frozen)
    with torch.no_grad():
        for parameter in model.get_submodule(part).parameters():
            parameter.mul_(1.1)
    assert max(relative_errors(model, frozen).values()) > 1e-5


def test_structures_have_atoms_that_are_their_own_neighbours(frozen: Frozen) -> None:
    images = 0
    for atoms, _ in frozen_structures(frozen):
        graph = graph_of(atoms, 2.8)
        images += int((graph.neighbour_list[0] == graph.neighbour_list[1]).sum())
    assert images > 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_conv": 1}, "got n_conv=1"),
        ({"mlp_out_bias": True}, "has no mlp_out_bias=True, only False"),
        ({"gMLP_norm": None}, "has no gMLP_norm=None, only 'layer'"),
        ({"bond_fea_dim": 5}, r"one value of atom_fea_dim, bond_fea_dim, angle_fea_dim, got \[6,"),
    ],
)
def test_other_settings_are_refused(change: dict, message: str, frozen: Frozen) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        arguments_of({**json.loads(str(frozen["settings"])), **change})


# --- bonds and angles -----------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(structures())
def test_bonds_know_their_reverse(atoms: ase.Atoms) -> None:
    """Also those between images of one atom, and in a neighbour matrix."""
    graph = graph_of(atoms)
    for form in (graph, as_neighbour_matrix(graph)):
        found = bonds(form, 3.0)
        near = neighbour_distances(form) < 3.0
        assert found.edges.tolist() == near.nonzero()[:, 0].tolist()
        assert found.forwards.tolist() == list(range(len(found.edges)))
        assert sorted(found.backwards.tolist()) == list(range(len(found.edges)))
        i, j = form.neighbour_list[:, found.edges]
        offsets = form.neighbour_cell_offsets[found.edges]
        assert (i[found.backwards] == j).all()
        assert (j[found.backwards] == i).all()
        assert (offsets[found.backwards] == -offsets).all()


def test_bonds_without_a_reverse() -> None:
    graph = graph_of(bulk("Si", cubic=True), 3.0)
    keep = torch.ones(graph.neighbour_list.shape[1], dtype=torch.bool)
    keep[0] = False
    assert len(bonds(select_edges(graph, keep), 3.0).forwards) == int(keep.sum()) - 1


@settings(deadline=None, max_examples=20)
@given(structures())
def test_angles_are_ordered_pairs_of_bonds(atoms: ase.Atoms) -> None:
    graph = graph_of(atoms)
    found = bonds(graph, 2.5)
    i = graph.neighbour_list[0, found.edges].tolist()
    pairs = {(a, b) for a in range(len(i)) for b in range(len(i)) if a != b and i[a] == i[b]}
    one, other = torch.stack([found.first, found.second], dim=2).tolist()
    assert {(a, b) for a, b in one + other} == pairs
    assert len(one + other) == len(pairs)
    assert other == [[b, a] for a, b in one]


def test_functions_of_angles() -> None:
    expansion = AngleExpansion(7).double()
    u, v = torch.nn.functional.normalize(torch.randn(2, 50, 3, dtype=torch.float64), dim=2)
    angle = torch.acos(SHORTENED * (u * v).sum(1)).unsqueeze(1)
    n = torch.arange(1, 4)
    expected = torch.cat(
        [torch.full_like(angle, 0.5**0.5), (n * angle).sin(), (n * angle).cos()], 1
    )
    torch.testing.assert_close(expansion(u, v), expected / torch.pi**0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bonds_in_line(dtype: torch.dtype) -> None:
    """Forces, and their derivatives in training, are finite; atoms stay on the axis."""
    model = randomised(CHGNet(cutoff=4.0, channels=6, layers=3, radial_features=5)).to(dtype)
    atoms = ase.Atoms("OCO", [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
    graph = AtomicGraph.from_ase(atoms, 4.0, dtype=dtype)
    forces = model.train().predict_forces(graph)
    scale = forces.detach().abs().max()
    assert scale > 0
    assert forces[:, :2].detach().abs().max() < 1e-4 * scale
    (forces**2).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


def test_angles_matter() -> None:
    """The ends of the two molecules do not see each other."""
    model = randomised(CHGNet(cutoff=2.0, bond_cutoff=2.0, channels=6, layers=2)).double().eval()
    bent = [
        ase.Atoms("OC2", [[0, 0, 0], [1.5, 0, 0], [1.5 * np.cos(x), 1.5 * np.sin(x), 0]])
        for x in (np.deg2rad(100), np.deg2rad(140))
    ]
    a, b = (model.predict_energy(graph_of(atoms, 2.0)) for atoms in bent)
    assert abs(a - b) > 1e-6


# --- the model ------------------------------------------------------------------------------


def test_neighbour_matrix() -> None:
    model = chgnet().double().eval()
    atoms = [bulk("C", cubic=True), bulk("Cu", "fcc", a=2.9), ase.Atoms("O")]
    batch = to_batch([graph_of(x) for x in atoms])
    expected = model.predict(batch, ["energy", "forces"])
    found = model.predict(as_neighbour_matrix(batch), ["energy", "forces"])
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


def test_exported_for_any_number_of_bonds_and_angles(tmp_path: Path) -> None:
    """None, one, or more of each, in a program that was recorded with many."""
    torch.manual_seed(0)
    model = randomised(chgnet(bond_cutoff=2.5, layers=2)).double().eval()
    export_model(model, tmp_path / "model.pt2", mode="portable")
    exported = ExportedModel(tmp_path / "model.pt2")
    made = {
        (0, 0): ase.Atoms("OC", [[0, 0, 0], [3.1, 0, 0]]),
        (2, 0): ase.Atoms("OC", [[0, 0, 0], [2, 0, 0]]),
        (4, 1): ase.Atoms("OCO", [[0, 0, 0], [1.8, 0.2, 0], [3.6, 0, 0]]),
        (6, 3): ase.Atoms("OCO", [[0, 0, 0], [1.8, 0.2, 0], [1.4, 1.6, 0]]),
        (12, 66): bulk("C", "fcc", a=3.4),
    }
    for sizes, atoms in made.items():
        atoms.rattle(0.02, seed=0)
        graph = graph_of(atoms)
        found = bonds(graph, 2.5)
        assert (len(found.edges), found.first.shape[1]) == sizes
        predictions = exported.predict(graph, ["energy", "forces", "virial"])
        for key, value in model.predict(graph, ["energy", "forces", "virial"]).items():
            torch.testing.assert_close(predictions[key], value, msg=f"{key}, {sizes}")


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_reach(layers: int) -> None:
    """Ghosts are computed, since bonds are updated from both ends."""
    model = randomised(CHGNet(cutoff=4.0, bond_cutoff=3.0, channels=4, layers=layers))
    assert layers_of(model) == layers
    assert not exchanges_ghosts(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bond_cutoff": 7.0}, "at most the cutoff, 6 Å, got 4 and 7 Å"),
        ({"layers": 0}, "at least one layer"),
        ({"layers": 1, "magnetic_moments": True}, "two for magnetic_moments"),
        ({"angular_features": 4}, "expected an odd number of angular_features, got 4"),
    ],
)
def test_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CHGNet(**arguments)
