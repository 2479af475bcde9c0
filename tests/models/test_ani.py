from __future__ import annotations

import itertools
import math

import ase
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import ANI
from graph_pes.nn.element_networks import ElementNetworks, perceptron
from tests.conformance.models import randomised
from tests.strategies import structures

from .network_reference import neighbours

ELEMENTS = ["O", "H", "C"]  # silicon, which the strategies have too, is none of them
CUTOFF, ANGULAR_CUTOFF = 3.0, 2.5
RADIAL_ETA, ANGULAR_ETA, ZETA = 3.0, 2.0, 3.3
RADIAL_SHIFTS, ANGULAR_SHIFTS, SECTIONS = [0.9, 1.7, 2.2], [1.0, 1.8], [0.5, 1.1, 2.9]


def model() -> ANI:
    ani = ANI(
        ELEMENTS,
        CUTOFF,
        ANGULAR_CUTOFF,
        radial_shifts=RADIAL_SHIFTS,
        angular_shifts=ANGULAR_SHIFTS,
        sections=SECTIONS,
        radial_eta=RADIAL_ETA,
        angular_eta=ANGULAR_ETA,
        zeta=ZETA,
        hidden=[5, 4],
    )
    return randomised(ani.double()).eval()


def graph_of(atoms: ase.Atoms, cutoff: float = CUTOFF) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


# --- the equations of the paper ---------------------------------------------------------------


def f(r: float, cutoff: float) -> float:
    """Equation 2."""
    return 0.5 * math.cos(math.pi * r / cutoff) + 0.5 if r <= cutoff else 0.0


def symmetry_functions(atoms: ase.Atoms, i: int) -> np.ndarray:
    """Equations 3 and 4, with the factors of NeuroChem."""
    around = [(atoms.symbols[j], vector) for k, j, vector in neighbours(atoms, CUTOFF) if k == i]
    radial = {element: np.zeros(len(RADIAL_SHIFTS)) for element in ELEMENTS}
    shape = (len(ANGULAR_SHIFTS), len(SECTIONS))
    pairs = itertools.combinations_with_replacement(ELEMENTS, 2)
    angular = {pair: np.zeros(shape) for pair in pairs}
    for symbol, vector in around:
        r = np.linalg.norm(vector)
        if symbol in radial:
            gaussians = np.exp(-RADIAL_ETA * (r - np.array(RADIAL_SHIFTS)) ** 2)
            radial[symbol] += 0.25 * gaussians * f(r, CUTOFF)
    for (a, r_ij), (b, r_ik) in itertools.combinations(around, 2):
        if a not in ELEMENTS or b not in ELEMENTS:
            continue
        pair = tuple(sorted((a, b), key=ELEMENTS.index))
        x, y = np.linalg.norm(r_ij), np.linalg.norm(r_ik)
        theta = math.acos(0.95 * (r_ij @ r_ik) / (x * y))
        of_angle = ((1 + np.cos(theta - np.array(SECTIONS))) / 2) ** ZETA
        gaussians = np.exp(-ANGULAR_ETA * ((x + y) / 2 - np.array(ANGULAR_SHIFTS)) ** 2)
        cutoffs = f(x, ANGULAR_CUTOFF) * f(y, ANGULAR_CUTOFF)
        angular[pair] += 2 * cutoffs * np.outer(gaussians, of_angle)
    return np.concatenate([*radial.values(), *(x.ravel() for x in angular.values())])


def expected_energies(ani: ANI, atoms: ase.Atoms) -> np.ndarray:
    energies = []
    for i, symbol in enumerate(atoms.symbols):
        n, x = ELEMENTS.index(symbol), symmetry_functions(atoms, i)
        layers = list(zip(ani.networks.weights, ani.networks.biases, strict=True))
        for k, (W, b) in enumerate(layers):
            x = x @ W[n].detach().numpy() + b[n, 0].detach().numpy()
            if k < len(layers) - 1:
                x = np.where(x > 0, x, 0.1 * np.expm1(x / 0.1))
        scale = ani.scaler.per_element_scaling[symbol]
        energies.append(x.item() * scale.item())
    return np.array(energies)


@settings(max_examples=15)
@given(atoms=structures(max_atoms=6, elements=("O", "H", "C")))
def test_equations_of_the_paper(atoms: ase.Atoms) -> None:
    ani = model()
    expected = expected_energies(ani, atoms)
    found = ani.predict_local_energies(graph_of(atoms)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * (1 + abs(expected).max()))


def test_shifts_and_sections_of_ani_2x() -> None:
    functions = ANI(["H"]).functions
    steps = 0.8 + 0.26875 * np.arange(16), 0.8 + 0.3375 * np.arange(8)
    np.testing.assert_allclose(functions.radial_shifts, steps[0])
    np.testing.assert_allclose(functions.angular_shifts, steps[1])
    angles = torch.atan2(functions.sines, functions.cosines)
    np.testing.assert_allclose(angles, [0.39269908, 1.1780972, 1.9634954, 2.7488936], rtol=1e-7)
    assert ANI(["H", "C", "N", "O", "S", "F", "Cl"]).networks.widths[0] == 1008


# --- networks ---------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.integers(0, 4), max_size=3), st.integers(0, 130), st.integers(0, 99))
def test_blocks_of_atoms_are_the_same_as_atoms(few: list[int], N: int, seed: int) -> None:
    """Whatever elements there are, and how many atoms of each."""
    torch.manual_seed(seed)
    networks = ElementNetworks(5, [3, 4, 2]).double()
    elements = torch.tensor(few or [0, 1, 2, 3, 4])[torch.randint(len(few) or 5, (N,))]
    x = torch.randn(N, 3, dtype=torch.float64)
    layers = [
        perceptron(
            row.unsqueeze(0), [W[n] for W in networks.weights], [b[n] for b in networks.biases]
        )
        for row, n in zip(x, elements, strict=True)
    ]
    expected = torch.cat(layers) if layers else x.new_zeros(0, 2)
    torch.testing.assert_close(networks(x, elements), expected)
    torch.testing.assert_close(networks.in_blocks(x, elements), expected)


# --- use --------------------------------------------------------------------------------------


def test_derivatives_are_finite_where_atoms_are_in_line() -> None:
    line = ase.Atoms("OHC", [[0, 0, 0], [1.1, 0, 0], [2.2, 0, 0]])
    graph = graph_of(line)
    graph = graph._replace(R=graph.R.requires_grad_())
    forces = model().predict_forces(graph)
    (hessian,) = torch.autograd.grad(forces[0, 1], graph.R)
    assert forces.isfinite().all()
    assert forces[:, 1:].abs().max() < 1e-12
    assert hessian.isfinite().all()
    assert hessian.abs().max() > 0


def test_other_elements() -> None:
    """They are refused; `forward` takes them for neighbours that are not there."""
    atoms = ase.Atoms("OHCSi", [[0, 0, 0], [1.1, 0, 0], [0, 1.3, 0], [0, 0, 1.5]])
    ani = model()
    with pytest.raises(ValueError, match=r"contains Si, but the model was made for"):
        ani.predict_energy(graph_of(atoms))
    with torch.no_grad():
        energies = ani(to_batch([graph_of(atoms)]))["local_energies"][:3]
    torch.testing.assert_close(energies, ani.predict_local_energies(graph_of(atoms[:3])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"angular_cutoff": 5.2}, "an angular_cutoff of at most the cutoff, 5.1 Å, got 5.2"),
        ({"zeta": 0.5}, "a zeta of at least 1, got 0.5"),
        ({"sections": 0}, "at least one radial shift, angular shift and section"),
        ({"radial_shifts": []}, "at least one radial shift, angular shift and section"),
        ({"elements": ["H", "H"]}, "expected each once"),
    ],
)
def test_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANI(**{"elements": ["H"], **arguments})
