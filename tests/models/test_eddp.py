from __future__ import annotations

import itertools
from collections.abc import Callable

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.data import atomic_numbers
from hypothesis import given, settings

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import EDDP
from graph_pes.models.eddp import geometric_powers
from tests.conformance.models import randomised
from tests.strategies import structures

from .network_reference import neighbours, perceptron
from .transplant import REFERENCES, TOLERANCES, relative_errors

ELEMENTS = ["O", "H", "C"]  # silicon, which the strategies have too, is none of them
CUTOFF, CUTOFF_3, M, M_3 = 3.0, 2.5, 3, 2


def model(learnable_powers: bool = True) -> EDDP:
    return randomised(
        EDDP(
            ELEMENTS,
            CUTOFF,
            features=M,
            max_power=5,
            mlp_width=4,
            three_body_cutoff=CUTOFF_3,
            three_body_features=M_3,
            three_body_max_power=4,
            learnable_powers=learnable_powers,
        ).double()
    ).eval()


def graph_of(atoms: ase.Atoms, cutoff: float = CUTOFF) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


# --- the equations of the paper -----------------------------------------------------------


def f(r: float, cutoff: float) -> float:
    """Equation 7."""
    return 2 * (1 - r / cutoff) if r <= cutoff else 0.0


def celu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(x))


def features(
    atoms: ase.Atoms,
    i: int,
    p: Callable[[str, str], np.ndarray],
    q: Callable[[str, str, str], tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """The features of atom i, with powers p of pairs and q of triplets of elements."""
    around = [(atoms.symbols[j], vector) for k, j, vector in neighbours(atoms, CUTOFF) if k == i]
    center = atoms.symbols[i]
    one = [float(center == element) for element in ELEMENTS]
    two = {pair: np.zeros(M) for pair in itertools.product(ELEMENTS, repeat=2)}
    three = {
        (e, *pair): np.zeros((M_3, M_3))
        for e in ELEMENTS
        for pair in itertools.combinations_with_replacement(ELEMENTS, 2)
    }
    for symbol, r_ij in around:
        if (center, symbol) in two:
            power = p(center, symbol)
            two[center, symbol] += f(np.linalg.norm(r_ij), CUTOFF) ** power
    for (a, r_ij), (b, r_ik) in itertools.combinations(around, 2):
        key = (center, *sorted((a, b), key=lambda e: ELEMENTS.index(e) if e in ELEMENTS else -1))
        if key not in three:
            continue
        legs, base = q(*key)
        f_ij, f_ik, f_jk = (f(np.linalg.norm(v), CUTOFF_3) for v in (r_ij, r_ik, r_ik - r_ij))
        for m, o in itertools.product(range(M_3), repeat=2):
            three[key][m, o] += f_ij ** legs[m] * f_ik ** legs[m] * f_jk ** base[o]
    return np.concatenate([one, *two.values(), *(x.flatten() for x in three.values())])


def expected_energies(eddp: EDDP, atoms: ase.Atoms) -> np.ndarray:
    def rows(powers: torch.nn.Module, kinds: int) -> np.ndarray:
        exponents = powers.exponents.detach().clamp(min=2).numpy()
        return np.broadcast_to(exponents, (kinds, exponents.shape[-1]))

    pairs = list(itertools.product(ELEMENTS, repeat=2))
    triplets = [
        (e, *pair)
        for e in ELEMENTS
        for pair in itertools.combinations_with_replacement(ELEMENTS, 2)
    ]
    p = dict(zip(pairs, rows(eddp.two_body, 9), strict=True))
    legs = dict(zip(triplets, rows(eddp.three_body, 18), strict=True))
    base = dict(zip(triplets, rows(eddp.opposite, 18), strict=True))
    shifts, scales = eddp.shifts.detach().numpy(), eddp.scales.detach().numpy()
    energies = []
    for i in range(len(atoms)):
        x = features(atoms, i, lambda *key: p[key], lambda *key: (legs[key], base[key]))
        energies.append(perceptron(eddp.mlp, celu, (x - shifts) / scales)[0])
    return np.array(energies)


@pytest.mark.parametrize("learnable_powers", [True, False])
@settings(max_examples=15)
@given(atoms=structures(max_atoms=6))
def test_equations_of_the_paper(learnable_powers: bool, atoms: ase.Atoms) -> None:
    eddp = model(learnable_powers)
    expected = expected_energies(eddp, atoms)
    # `predict` does not let other elements through: to `forward` they are not there.
    with torch.no_grad():
        found = eddp(to_batch([graph_of(atoms)]))["local_energies"].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * (1 + abs(expected).max()))


def test_powers_are_those_of_the_paper() -> None:
    """A geometric progression, from 2 to the largest."""
    powers = geometric_powers(5, 8.0)
    assert (powers[0], powers[-1]) == (2, pytest.approx(8))
    ratios = np.divide(powers[1:], powers[:-1])
    np.testing.assert_allclose(ratios, ratios[0])
    assert geometric_powers(1, 8.0) == [2]


# --- graph-pes 1.0.2 ----------------------------------------------------------------------


def with_weights_of_graph_pes_1(weights: dict[str, np.ndarray]) -> EDDP:
    """Our model with the weights of graph-pes 1, in our order of triplets and powers."""
    elements = weights["elements"].tolist()
    names = ("cutoff", "features", "max_power", "mlp_width", "mlp_layers")
    three = [f"three_body_{name}" for name in ("cutoff", "features", "max_power")]
    settings = {name: weights[name].item() for name in (*names, *three)}
    eddp = EDDP(elements, **settings, learnable_powers=True).double()

    theirs = [
        (e, a, b)
        for e in elements
        for a in elements
        for b in elements
        if atomic_numbers[a] <= atomic_numbers[b]
    ]
    ours = [
        (e, *pair)
        for e in elements
        for pair in itertools.combinations_with_replacement(elements, 2)
    ]
    order = [next(n for n, t in enumerate(theirs) if set_of(t) == set_of(key)) for key in ours]
    # Two atoms of one element are counted twice there.
    counted = np.repeat([2.0 if a == b else 1.0 for _, a, b in ours], int(weights[three[1]]) ** 2)

    def ordered(x: np.ndarray) -> np.ndarray:
        """Features (..., F): theirs are in the order o, m of the powers, ours m, o."""
        n_2, n_3 = len(elements) * (1 + len(elements) * eddp.two_body.exponents.shape[1]), len(ours)
        blocks = x[..., n_2:].reshape(*x.shape[:-1], n_3, *[int(weights[three[1]])] * 2)
        blocks = blocks[..., order, :, :].swapaxes(-1, -2)
        return np.concatenate([x[..., :n_2], blocks.reshape(*x.shape[:-1], -1)], axis=-1)

    def copy(to: torch.Tensor, value: np.ndarray) -> None:
        assert to.shape == value.shape
        to.data[:] = torch.from_numpy(value)

    factor = np.concatenate([np.ones(len(weights["shifts"]) - len(counted)), counted])
    copy(eddp.shifts, ordered(weights["shifts"]) / factor)
    copy(eddp.scales, ordered(weights["scales"]) / factor)
    first, *others = range(len(eddp.mlp.linear_layers))
    copy(
        eddp.mlp.linear_layers[first].weight, ordered(weights[f"mlp.linear_layers.{first}.weight"])
    )
    for n in others:
        copy(eddp.mlp.linear_layers[n].weight, weights[f"mlp.linear_layers.{n}.weight"])
    for n in (first, *others):
        copy(eddp.mlp.linear_layers[n].bias, weights[f"mlp.linear_layers.{n}.bias"])
    pairs = range(len(elements) ** 2)
    two_body = [weights[f"two_body_descriptors.{n}.expansion.exponents"] for n in pairs]
    copy(eddp.two_body.exponents, np.array(two_body))
    for ending, powers in (("central", eddp.three_body), ("neighbour", eddp.opposite)):
        key = f"three_body_descriptors.{{}}.{ending}_atom_expansion.exponents"
        copy(powers.exponents, np.array([weights[key.format(n)] for n in order]))
    return eddp.eval()


def set_of(triplet: tuple[str, str, str]) -> tuple[str, frozenset[str]]:
    return triplet[0], frozenset(triplet[1:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_against_graph_pes_1(dtype: torch.dtype) -> None:
    """Energies, forces and stresses of graph-pes 1.0.2: see make_graph_pes_1_eddp.py.

    One energy, -0.09 eV, is the small difference of local energies whose sizes add up to 2.6 eV:
    2e-5 of it is the rounding of positions to single precision.
    """
    frozen = dict(np.load(REFERENCES / "graph_pes_1_eddp.npz"))
    errors = relative_errors(with_weights_of_graph_pes_1(frozen).to(dtype), frozen)
    tolerances = dict.fromkeys(("energy", "forces", "stress"), TOLERANCES[dtype])
    if dtype == torch.float32:
        tolerances["energy"] = 2e-5
    assert set(errors) == set(tolerances)
    assert all(error < tolerances[key] for key, error in errors.items()), errors


# --- use ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["H", "H2", "O"])
def test_no_triplets(name: str) -> None:
    """Defect 8 of graph-pes 1: a crash for structures without triplets."""
    eddp = EDDP(["H", "O"], cutoff=3.0)
    graph = graph_of(molecule(name), 3.0)
    assert eddp.predict_forces(graph).isfinite().all()
    eddp.pre_fit_all_components([graph, graph])
    assert eddp.predict_forces(graph).isfinite().all()


def test_features_are_standardised_by_pre_fitting() -> None:
    """More structures than are looked at in one step; elements that are never neighbours."""
    eddp = model()
    rng = np.random.default_rng(0)
    graphs = []
    for n in range(120):
        atoms = molecule(("H2O", "CH4", "CO2")[n % 3])
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        atoms.pbc, atoms.cell = (n % 2 == 0), np.eye(3) * 8.0
        graphs.append(graph_of(atoms))
    eddp.pre_fit_all_components(graphs)
    x = eddp.features(to_batch(graphs))
    torch.testing.assert_close(eddp.shifts, x.mean(0))
    spread = x.std(0) > 1e-6
    assert spread.any()
    assert not spread.all()
    torch.testing.assert_close(eddp.scales[spread], x.std(0)[spread])
    assert (eddp.scales[~spread] == 1).all()


def test_learnt_powers_stay_smooth() -> None:
    """Powers below two, whose forces jump at the cutoff, count as two."""
    low, two = model(), model()
    two.load_state_dict(low.state_dict())
    for powers in (low.two_body, low.three_body, low.opposite):
        powers.exponents.data[:] = 1.3
    for powers in (two.two_body, two.three_body, two.opposite):
        powers.exponents.data[:] = 2.0
    graph = graph_of(molecule("CH3OH"))
    torch.testing.assert_close(low.predict_forces(graph), two.predict_forces(graph))


def test_other_elements() -> None:
    eddp, graph = EDDP(["H", "C"]), graph_of(molecule("CH3OH"), 5.0)
    for use in (eddp.predict_energy, lambda g: eddp.pre_fit_all_components([g])):
        with pytest.raises(ValueError, match=r"contains O, but the model was made for"):
            use(graph)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elements": []}, r"elements: expected a list of chemical symbols, got \[\]"),
        ({"elements": "Si"}, "elements: expected a list of chemical symbols, got 'Si'"),
        ({"elements": ["H", "C", "H"]}, "elements: expected each once, got"),
        ({"max_power": 1}, "a largest power of at least 2, got 8 and 1"),
        ({"three_body_features": 0}, "at least one feature.* got 0 and 8"),
    ],
)
def test_arguments_are_checked(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EDDP(**{"elements": ["H"], **arguments})
