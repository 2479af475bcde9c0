from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from hypothesis import given, settings
from numpy.polynomial.legendre import legval
from scipy.special import spherical_jn

from graph_pes.atomic_graph import (
    AtomicGraph,
    as_neighbour_matrix,
    neighbour_distances,
    neighbour_vectors,
    triplet_edges,
)
from graph_pes.nn.m3gnet_layers import (
    AngularSums,
    GatedMLP,
    PairNetwork,
    SphericalBessel,
    spherical_bessel,
    spherical_bessel_zeros,
)
from tests.strategies import structures

L_MAX, N, CUTOFF, SHORT = 3, 4, 4.0, 3.0


@pytest.fixture(autouse=True)
def _double(default_dtype) -> None:
    default_dtype(torch.float64)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-13), (torch.float32, 3e-7)])
def test_spherical_bessel_functions_and_slopes(dtype: torch.dtype, error: float) -> None:
    x = torch.linspace(0, 20, 1001, dtype=dtype).unsqueeze(1).requires_grad_()
    for l in range(7):
        values = spherical_bessel(x, torch.tensor([l]))
        (slopes,) = torch.autograd.grad(values.sum(), x)
        at = x.detach().double().numpy()
        assert abs(values.detach().numpy() - spherical_jn(l, at)).max() < error
        assert abs(slopes.numpy() - spherical_jn(l, at, derivative=True)).max() < 10 * error


def test_zeros() -> None:
    zeros = spherical_bessel_zeros(5, 6)
    assert zeros.shape == (6, 6)
    for l, of_degree in enumerate(zeros.numpy()):
        assert abs(spherical_jn(l, of_degree)).max() < 1e-14
        # none is left out: between two of them the sign changes once
        between = np.linspace(0.01, of_degree[-1] + 0.1, 5000)
        assert (np.diff(np.sign(spherical_jn(l, between))) != 0).sum() == 6


def test_bessel_functions_are_orthonormal_in_a_ball() -> None:
    basis = SphericalBessel(L_MAX, N, CUTOFF)
    nodes, weights = np.polynomial.legendre.leggauss(80)
    r = torch.tensor(CUTOFF * (nodes + 1) / 2)
    values = basis(r).unflatten(1, (L_MAX + 1, N))
    measure = torch.tensor(CUTOFF * weights / 2) * r**2
    overlaps = torch.einsum("rln,rlm,r->lnm", values, values, measure)
    torch.testing.assert_close(overlaps, torch.eye(N).expand_as(overlaps), rtol=0, atol=1e-12)
    assert basis(torch.tensor([CUTOFF])).abs().max() < 1e-14


def test_constants_do_not_depend_on_the_default_precision(default_dtype) -> None:
    expected = AngularSums(CUTOFF, SHORT, L_MAX, N)
    default_dtype(torch.float32)
    found = AngularSums(CUTOFF, SHORT, L_MAX, N).to(torch.float32).double()
    graph = AtomicGraph.from_ase(molecule("CH3OH"), CUTOFF, dtype=torch.float64)
    vectors, r = neighbour_vectors(graph), neighbour_distances(graph).unsqueeze(1)
    assert (found(graph, vectors, r) == expected(graph, vectors, r)).all()


def sums_over_triplets(graph: AtomicGraph) -> np.ndarray:
    """What `AngularSums` are defined as."""
    basis = SphericalBessel(L_MAX, N, CUTOFF)
    r = neighbour_distances(graph)
    directions = (neighbour_vectors(graph) / r.unsqueeze(1)).numpy()
    x = (r / SHORT).clamp(max=1).numpy()
    envelope = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
    phi = basis(r).numpy() * envelope[:, None]
    sums = np.zeros((len(r), (L_MAX + 1) * N))
    for ij, ik in triplet_edges(graph, CUTOFF).T.tolist():
        cosine = directions[ij] @ directions[ik]
        Y = [
            np.sqrt((2 * l + 1) / (4 * np.pi)) * legval(cosine, np.eye(L_MAX + 1)[l])
            for l in range(L_MAX + 1)
        ]
        sums[ij] += envelope[ij] * phi[ik] * np.repeat(Y, N)
    return sums


@settings(max_examples=15, deadline=None)
@given(structures())
def test_angular_sums_are_sums_over_triplets(atoms: ase.Atoms) -> None:
    graph = AtomicGraph.from_ase(atoms, CUTOFF, dtype=torch.float64)
    module = AngularSums(CUTOFF, SHORT, L_MAX, N)
    expected = sums_over_triplets(graph)
    found = module(graph, neighbour_vectors(graph), neighbour_distances(graph).unsqueeze(1))
    scale = max(abs(expected).max(initial=0), 1e-3)
    assert abs(found.numpy() - expected).max(initial=0) < 1e-12 * scale
    matrix = as_neighbour_matrix(graph)
    r = neighbour_distances(matrix)
    found = module(matrix, neighbour_vectors(matrix), r.unsqueeze(1))
    assert (found[r >= SHORT] == 0).all()
    total = np.abs(expected).sum()
    assert abs(found.abs().sum().item() - total) < 1e-10 * max(total, 1e-3)


def test_gated_perceptron() -> None:
    x = torch.randn(5, 3)
    for activate_last in (True, False):
        mlp = GatedMLP([3, 4, 2], activate_last=activate_last)
        (W_g, W_s), (b_g, b_s) = mlp.first.weight.chunk(2), mlp.first.bias.chunk(2)
        g = mlp.values(torch.nn.functional.silu(x @ W_g.T + b_g))
        s = mlp.gates(torch.nn.functional.silu(x @ W_s.T + b_s))
        expected = (torch.nn.functional.silu(g) if activate_last else g) * s.sigmoid()
        torch.testing.assert_close(mlp(x), expected)
    assert all(p.dim() == 2 for p in GatedMLP([3, 4], bias=False).parameters())


def test_pairs_go_through_the_same_perceptron() -> None:
    """In the order: central atom, neighbour, edge."""
    graph = AtomicGraph.from_ase(molecule("CH3OH"), CUTOFF)
    nodes, edges = torch.randn(len(graph.Z), 4), torch.randn(graph.neighbour_list.shape[1], 4)
    network = PairNetwork(4)
    i, j = graph.neighbour_list
    expected = network(torch.cat([nodes[i], nodes[j], edges], dim=1))
    torch.testing.assert_close(network.of_edges(nodes, nodes, edges, graph), expected)
