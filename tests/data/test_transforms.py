"""Transforms of graphs, above all random rotations."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from hypothesis import given
from hypothesis import strategies as st

from graph_pes import AtomicGraph
from graph_pes.atomic_graph import (
    PROPERTIES,
    Property,
    neighbour_vectors,
    replace,
    to_batch,
    triplet_edges,
    with_edge_vectors,
    with_triplets,
)
from graph_pes.data import identity, random_rotation
from graph_pes.data.transforms import parse_transform, random_rotation_matrix, rotate
from tests.strategies import rotations, seeds, structures


def equal(a: torch.Tensor, b: torch.Tensor) -> None:
    scale = 1 + b.abs().max().item() if b.numel() else 1
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * scale)


@given(structures(), seeds)
def test_geometry_rotates_as_a_whole(atoms: ase.Atoms, seed: int):
    graph = AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64)
    torch.manual_seed(seed)
    Q = random_rotation_matrix()
    torch.manual_seed(seed)
    rotated = random_rotation(graph)
    equal(rotated.R, graph.R @ Q.T)
    equal(rotated.cell, graph.cell @ Q.T)
    equal(neighbour_vectors(rotated), neighbour_vectors(graph) @ Q.T)
    for field in ("Z", "neighbour_list", "neighbour_cell_offsets", "pbc"):
        assert getattr(rotated, field) is getattr(graph, field)


def cluster_or_crystal(periodic: bool) -> ase.Atoms:
    atoms = bulk("Ar", cubic=True) * (2, 1, 1) if periodic else molecule("CH3CH2OH")
    if periodic:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.1 * np.triu(np.ones((3, 3)))), True)
    atoms.rattle(0.1, seed=3)
    return atoms


@pytest.mark.parametrize("periodic", [True, False])
@given(rotation=rotations())
def test_labels_rotate_as_computed_ones_do(periodic: bool, rotation: np.ndarray):
    def labelled(atoms: ase.Atoms) -> AtomicGraph:
        atoms.calc = LennardJones(sigma=2.8, epsilon=0.3, rc=4.0, smooth=True)
        atoms.get_potential_energy()
        names = ["energy", "forces", "stress"] if periodic else ["energy", "forces"]
        return AtomicGraph.from_ase(atoms, 4.0, {k: k for k in names}, dtype=torch.float64)

    atoms = cluster_or_crystal(periodic)
    rotated_atoms = atoms.copy()
    rotated_atoms.set_positions(atoms.positions @ rotation.T)
    rotated_atoms.set_cell(atoms.cell.array @ rotation.T)
    expected = labelled(rotated_atoms)
    actual = rotate(labelled(atoms), torch.tensor(rotation))
    assert actual.properties.keys() == expected.properties.keys()
    for key, value in expected.properties.items():
        assert value.abs().max() > 1e-3
        equal(actual.properties[key], value)


@given(st.sampled_from([torch.float32, torch.float64]), rotations())
def test_every_property_rotates_by_its_rank(dtype: torch.dtype, rotation: np.ndarray):
    Q = torch.tensor(rotation)
    u, v = torch.randn(2, 4, 3, dtype=torch.float64)  # two vectors on each of four atoms
    properties, expected = {}, {}
    for key, row in PROPERTIES.items():
        a, b = (u, v) if row.per == "atom" else (u[0], v[0])
        for values, rotated in ((properties, False), (expected, True)):
            x, y = (a @ Q.T, b @ Q.T) if rotated else (a, b)
            rank = 1 if row.shape is None else len(row.shape)
            values[key] = ([(x * y).sum(-1), x, x[..., :, None] * y[..., None, :]][rank]).to(dtype)
    graph = AtomicGraph.create_with_defaults(
        Z=torch.ones(4, dtype=torch.long), R=u.to(dtype), properties=properties
    )
    result = rotate(graph, Q)
    assert len(PROPERTIES) >= 11
    for key, value in expected.items():
        torch.testing.assert_close(result.properties[key], value, rtol=1e-5, atol=1e-5)
        assert result.properties[key].dtype == dtype


def test_tensor_of_rank_two_rotates_and_of_unknown_rank_is_an_error():
    graph = AtomicGraph.from_ase(molecule("H2O"), 3.0, dtype=torch.float64)
    Q = random_rotation_matrix()
    tensor = torch.randn(3, 3, 3, dtype=torch.float64)
    rotated = rotate(replace(graph, properties={"tensor": tensor}), Q)
    equal(rotated.properties["tensor"], torch.einsum("ab,nbc,dc->nad", Q, tensor, Q))
    for shape in [(3, 6), (3, 3, 3, 3), (3, 1)]:
        with pytest.raises(ValueError, match=r"not known how 'tensor' rotates.*got the shape"):
            random_rotation(replace(graph, properties={"tensor": torch.zeros(shape)}))


def test_rotations_are_uniformly_distributed():
    n = 4000
    Q = torch.stack([random_rotation_matrix() for _ in range(n)])
    equal(Q @ Q.mT, torch.eye(3, dtype=torch.float64).expand(n, 3, 3))
    equal(torch.linalg.det(Q), torch.ones(n, dtype=torch.float64))
    # Haar measure: <Q_ij Q_kl> = δ_ik δ_jl / 3, and P(angle < x) = (x - sin x) / π
    second_moments = torch.einsum("nij,nkl->ikjl", Q, Q) / n
    eye = torch.eye(3, dtype=torch.float64)
    expected = torch.einsum("ik,jl->ikjl", eye, eye) / 3
    assert (second_moments - expected).abs().max() < 5 / n**0.5
    cosine = (Q.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    angle = torch.acos(cosine.clamp(-1, 1)).sort().values
    exact = (angle - angle.sin()) / torch.pi
    empirical = torch.arange(1, n + 1) / n
    assert (exact - empirical).abs().max() < 1.95 / n**0.5  # Kolmogorov–Smirnov, p = 0.001


def test_rotation_follows_torch_seed():
    graph = AtomicGraph.from_ase(molecule("H2O"), 3.0)
    torch.manual_seed(5)
    first, second = random_rotation(graph).R, random_rotation(graph).R
    torch.manual_seed(5)
    assert torch.equal(random_rotation(graph).R, first)
    assert not torch.equal(first, second)


def test_the_original_is_left_as_it_was():
    atoms = molecule("H2O")
    atoms.info["dipole"] = [1.0, 2.0, 3.0]
    graph = AtomicGraph.from_ase(atoms, 3.0, property_mapping={"dipole": "dipole"})
    before = graph.R.clone(), graph.properties["dipole"].clone()
    random_rotation(graph)
    assert torch.equal(graph.R, before[0])
    assert torch.equal(graph.properties["dipole"], before[1])


def test_values_in_other():
    graph = AtomicGraph.from_ase(molecule("CH4"), 3.0)
    Q = random_rotation_matrix()
    field = torch.tensor([1.0, 2.0, 3.0])
    other = {"total_charge": torch.tensor(1.0), "dipole": field, "weights": torch.rand(5)}
    rotated = rotate(replace(graph, other=other), Q).other
    torch.testing.assert_close(rotated["dipole"], Q.float() @ field)
    for key in ("total_charge", "weights"):
        assert torch.equal(rotated[key], other[key])
    with pytest.raises(ValueError, match=r"'electric_field' in graph.other.*might be a vector"):
        random_rotation(replace(graph, other={"electric_field": field}))


def test_derived_quantities_stay_consistent():
    graph = AtomicGraph.from_ase(molecule("CH4"), 3.0)
    vectors = neighbour_vectors(graph)
    graph = with_triplets(with_edge_vectors(graph, vectors), 2.0)
    Q = random_rotation_matrix()
    rotated = rotate(graph, Q)
    torch.testing.assert_close(neighbour_vectors(rotated), vectors @ Q.float().T)
    fresh = replace(rotated, other={})
    torch.testing.assert_close(neighbour_vectors(rotated), neighbour_vectors(fresh))
    assert torch.equal(triplet_edges(rotated, 2.0), triplet_edges(fresh, 2.0))


def test_unknown_labels_are_an_error_until_declared(monkeypatch: pytest.MonkeyPatch):
    graph = AtomicGraph.from_ase(molecule("CH4"), 3.0)
    value = torch.tensor([1.0, 2.0, 3.0])
    graph = replace(graph, properties={"polarisation": value})
    with pytest.raises(ValueError, match=r"'polarisation' is not a known property.*declare it"):
        random_rotation(graph)
    monkeypatch.setitem(PROPERTIES, "polarisation", Property("structure", (3,), "e Å"))
    Q = random_rotation_matrix()
    torch.testing.assert_close(rotate(graph, Q).properties["polarisation"], Q.float() @ value)


def test_batches_are_refused():
    batch = to_batch([AtomicGraph.from_ase(molecule("CH4"), 3.0)])
    with pytest.raises(ValueError, match="expected a single structure"):
        random_rotation(batch)


def test_names():
    assert parse_transform("random_rotation") is random_rotation
    assert parse_transform(None) is identity
    assert parse_transform(len) is len  # type: ignore[arg-type]
    graph = AtomicGraph.from_ase(molecule("CH4"), 3.0)
    assert identity(graph) is graph
    with pytest.raises(ValueError, match=r"'random_rotations': did you mean 'random_rotation'\?"):
        parse_transform("random_rotations")
    with pytest.raises(ValueError, match=r"unknown transform 3\. Expected one of"):
        parse_transform(3)  # type: ignore[arg-type]
