"""Laws of PET besides those of all models: reverse edges, weights, cutoffs of atoms."""

from __future__ import annotations

import json
from functools import partial

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given, settings

from graph_pes.atomic_graph import (
    AtomicGraph,
    as_directed,
    as_neighbour_matrix,
    neighbour_vectors,
    select_edges,
    to_batch,
)
from graph_pes.deploy.reach import layers_of
from graph_pes.interfaces.upet_weights import native_pet
from graph_pes.models import PET
from graph_pes.nn import pet_neighbours
from graph_pes.nn.pet_layers import GatedPerceptron, PostNormLayer
from graph_pes.nn.pet_neighbours import (
    LOG_ENVELOPES,
    LogBump,
    SolvedCutoffs,
    cutoff_finder,
    exchanged,
    reverse_edges,
)
from tests.conformance.models import pet, randomised
from tests.strategies import structures

from .test_orb import of_variant
from .transplant import REFERENCES, assert_agrees

ELEMENTS = ["H", "C", "O"]


def graph_of(atoms: ase.Atoms, cutoff: float = 4.0) -> AtomicGraph:
    graph = AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)
    return as_neighbour_matrix(to_batch([graph]))


def rattled(cell: tuple[int, int, int] = (1, 1, 1)) -> ase.Atoms:
    """Of few atoms, each with several images of the same neighbours, and of itself."""
    atoms = bulk("C", "fcc", a=3.3) * cell
    atoms.set_chemical_symbols((["O", "H", "C"] * len(atoms))[: len(atoms)])
    atoms.rattle(0.1, seed=1)
    return atoms


# --- original weights -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", ["default", "adaptive", "older"])
def test_agrees_with_metatrain(variant: str, dtype: torch.dtype) -> None:
    frozen = of_variant(dict(np.load(REFERENCES / "metatrain_pet.npz")), variant)
    hypers = json.loads(str(frozen["hypers"]))
    start = "weights."
    state = {
        key.removeprefix(start): torch.tensor(value)
        for key, value in frozen.items()
        if key.startswith(start)
    }
    settings = {
        "hypers": hypers,
        "atomic_types": [1, 6, 8, 14],
        "target": "energy",
        "shapes": {key.split(".")[3]: [1] for key in state if "edge_last_layers.energy.0" in key},
    }
    model = native_pet(settings, state, torch.ones(1)).to(dtype).eval()
    assert_agrees(model, frozen, {"energy", "forces", "stress"})


# --- reverse edges -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(structures(elements=tuple(ELEMENTS)))
def test_reverse_edges_lead_back(atoms: ase.Atoms) -> None:
    model, graph = pet().double(), graph_of(atoms)
    neighbours = model.neighbours(graph)
    reverse = reverse_edges(neighbours)
    real = (neighbours.geometry[..., 3] < 4.0).flatten()
    assert torch.equal(reverse.found.flatten() > 0, real)
    i, j = graph.neighbour_list[:, real]
    back = reverse.edges[real]
    assert torch.equal(graph.neighbour_list[0, back], j)
    assert torch.equal(graph.neighbour_list[1, back], i)
    vectors = neighbour_vectors(graph)
    torch.testing.assert_close(vectors[back], -vectors[real], rtol=0, atol=1e-9)
    assert torch.equal(reverse.edges[back], real.nonzero()[:, 0])


def test_exchange_and_its_derivatives() -> None:
    """Against the same by indices, also where the reverse is missing."""
    graph = graph_of(rattled((2, 1, 1)), cutoff=3.0)
    keep = torch.arange(graph.neighbour_list.shape[1]) % 7 > 0
    whole = to_batch([AtomicGraph.from_ase(rattled((2, 1, 1)), 3.0, dtype=torch.float64)])
    missing = as_neighbour_matrix(as_directed(select_edges(whole, keep)))
    for given_graph in (graph, missing):
        neighbours = pet(cutoff=3.0).double().neighbours(given_graph)
        reverse = reverse_edges(neighbours)
        x = torch.randn(*neighbours.atoms.shape, 3, dtype=torch.float64, requires_grad=True)
        expected = x.reshape(-1, 3)[reverse.edges] * reverse.found
        assert torch.equal(exchanged(x, reverse), expected.view(x.shape))
        function = partial(exchanged, reverse=reverse)
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)
    assert 0 < reverse.found.sum() < keep.sum()


def test_messages_come_from_the_same_image() -> None:
    """A cell of one atom and one of eight, where images are atoms of their own."""
    model = pet().double().eval()
    one, eight = rattled(), rattled() * (2, 2, 2)
    energies = [
        model.predict_energy(AtomicGraph.from_ase(atoms, 4.0, dtype=torch.float64)) / len(atoms)
        for atoms in (one, eight)
    ]
    torch.testing.assert_close(*energies, rtol=1e-12, atol=1e-12)


# --- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOG_ENVELOPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_envelopes(name: str, dtype: torch.dtype) -> None:
    envelope = LOG_ENVELOPES[name](0.5)
    r = torch.tensor([0.0, 3.9999, 4.0, 4.1, 4.25, 4.4, 4.5, 4.6, 1000.0], dtype=dtype)
    r.requires_grad_()
    f = envelope(r, 4.5).exp()
    x = ((r.detach().double() - 4.0) / 0.5)[3:6]
    expected = {
        "bump": (1 + torch.tanh(1 / torch.tan(torch.pi * x))) / 2,
        "cosine": (1 + torch.cos(torch.pi * x)) / 2,
    }
    torch.testing.assert_close(f[3:6].double(), expected[name], rtol=2e-6, atol=1e-7)
    assert (f[:3] == 1).all()
    assert (f[6:] == 0).all()
    (slope,) = torch.autograd.grad(f.sum(), r)
    assert slope.isfinite().all()
    assert (slope[[0, 6, 7, 8]] == 0).all()
    assert (slope[3:6] < 0).all()


def test_slope_of_the_bump() -> None:
    bump = LogBump(1.0)
    r = torch.linspace(2, 5, 31, dtype=torch.float64)
    cutoff = torch.full_like(r, 4.0, requires_grad=True)
    f, slope = bump.value_and_slope(r, cutoff)
    torch.testing.assert_close(f, bump(r, cutoff).exp())
    torch.testing.assert_close(slope, torch.autograd.grad(f.sum(), cutoff)[0])


# --- cutoffs of atoms ---------------------------------------------------------------------------


def finder(neighbours: float, cutoff: float = 6.0) -> SolvedCutoffs:
    found = cutoff_finder({"neighbours": neighbours}, cutoff)
    assert isinstance(found, SolvedCutoffs)
    return found


def test_solved_cutoffs() -> None:
    """They solve the equation, and their derivative is that of the solution."""
    generator = torch.Generator().manual_seed(0)
    distances = 1 + 6 * torch.rand(20, 40, generator=generator, dtype=torch.float64)
    distances[0] = 1000.0  # nobody near
    distances[1, 3:] = 1000.0
    solver = finder(12.0)
    r = solver(distances)
    assert r[0] == 6.0
    assert ((r > 6 / 16) & (r <= 6)).all()
    excess, _ = solver.excess(distances, r)
    torch.testing.assert_close(excess, torch.zeros_like(excess), rtol=0, atol=1e-6)
    assert torch.autograd.gradcheck(solver, distances.requires_grad_(), atol=1e-5, rtol=1e-4)


def test_more_neighbours_longer_cutoffs() -> None:
    r = graph_of(rattled((2, 2, 2)), 6.0)
    distances = pet(cutoff=6.0).double().neighbours(r).geometry[..., 3]
    for method in ("solver", "grid"):
        means = [
            cutoff_finder({"neighbours": n, "method": method}, 6.0).double()(distances).mean()
            for n in (4, 8, 16, 32)
        ]
        assert means == sorted(means)
        assert means[0] < 3
        assert means[-1] > 4


@pytest.mark.parametrize("method", ["solver", "grid"])
def test_columns_that_are_left_out_have_no_effect(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pet(cutoff=6.0, adaptive_cutoff={"neighbours": 5, "method": method}).double().eval()
    graph = AtomicGraph.from_ase(rattled((3, 2, 1)), 6.0, dtype=torch.float64)
    few = model.neighbours(as_neighbour_matrix(to_batch([graph]))).atoms.shape[1]
    found = model.predict(graph, ["energy", "forces"])
    monkeypatch.setattr(pet_neighbours, "_most", lambda kept: kept.shape[1])
    all_of_them = model.neighbours(as_neighbour_matrix(to_batch([graph]))).atoms.shape[1]
    assert few < all_of_them / 2
    for key, value in model.predict(graph, ["energy", "forces"]).items():
        torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10)


# --- how far it reaches -------------------------------------------------------------------------


@pytest.mark.parametrize("featurizer", ["feedforward", "residual"])
@pytest.mark.parametrize("transformers", [1, 2, 3])
def test_reach(featurizer: str, transformers: int) -> None:
    """It is found by trying, but for the step of an adaptive cutoff."""
    model = pet(featurizer=featurizer, transformers=transformers)
    known = model.steps
    model.steps = 1
    assert layers_of(model) == known
    adaptive = pet(
        featurizer=featurizer, transformers=transformers, adaptive_cutoff={"neighbours": 4}
    )
    assert layers_of(adaptive) == adaptive.steps == known + 1


# --- arguments --------------------------------------------------------------------------------


def test_what_arguments_change() -> None:
    graph = AtomicGraph.from_ase(molecule("CH3OH"), 4.5)
    energies = set()
    options = [
        {},
        {"featurizer": "residual"},
        {"norm_type": "layer"},
        {"order": "post"},
        {"temperature": 2.0},
        {"envelope": "cosine"},
        {"activation": "SiLU"},
        {"adaptive_cutoff": {"neighbours": 4}},
        {"node_channels": 8},
    ]
    for kwargs in options:
        torch.manual_seed(0)
        arguments = {"channels": 8, "node_channels": 12, "heads": 2, "envelope_width": 3.0}
        model = randomised(PET(ELEMENTS, **{**arguments, **kwargs}))
        energies.add(round(model.eval().predict_energy(graph).item(), 6))
    assert len(energies) == len(options)
    parts = {type(module) for module in PET(ELEMENTS, order="post", activation="SiLU").modules()}
    assert PostNormLayer in parts
    assert GatedPerceptron not in parts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm_type": "batch"}, r"norm_type to be one of \['rms', 'layer'\], got 'batch'"),
        ({"activation": "GELU"}, r"activation to be one of \['SwiGLU', 'SiLU'\], got 'GELU'"),
        ({"order": "PreLN"}, r"order to be one of \['pre', 'post'\], got 'PreLN'"),
        ({"featurizer": "x"}, r"featurizer to be one of \['feedforward', 'residual'\], got 'x'"),
        ({"envelope": "x"}, r"envelope to be one of \['bump', 'cosine'\], got 'x'"),
        ({"heads": 3}, "channels to be a multiple of heads, got 128 and 3"),
        ({"transformers": 0}, "at least one transformer and layer, got 0 and 2"),
        ({"adaptive_cutoff": {"width": 1.0}}, "adaptive_cutoff to have neighbours"),
        ({"adaptive_cutoff": {"neighbours": 4, "n": 1}}, "perhaps others of .*'n': 1"),
        ({"adaptive_cutoff": {"neighbours": 0}}, "above zero, got 0 and 1.0"),
        (
            {"adaptive_cutoff": {"neighbours": 4, "method": "x"}},
            r"\['method'\] to be one of \['grid', 'solver'\], got 'x'",
        ),
        (
            {"adaptive_cutoff": {"neighbours": 4, "method": "grid"}, "cutoff": 0.6},
            "a cutoff above 0.75 Å for method='grid' with this width, got 0.6",
        ),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"PET: expected .*{message}"):
        PET(ELEMENTS, **arguments)


def test_charges_that_are_not_known() -> None:
    model = pet(charge_and_spin=(1, 2))
    graph = AtomicGraph.from_ase(molecule("CH4"), 4.0)
    for key, value, known in (("total_charge", 2, "-1 to 1"), ("total_spin", 3, "1 to 2")):
        other = {key: torch.tensor(value)}
        with pytest.raises(ValueError, match=rf"{key}: expected {known}, got \[{value}\]"):
            model.predict_energy(graph._replace(other=other))
