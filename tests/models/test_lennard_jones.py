from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.calculators.lj import LennardJones as ASELennardJones
from hypothesis import given
from hypothesis import strategies as st

from graph_pes import AtomicGraph
from graph_pes.models.lennard_jones import (
    LennardJones,
    LennardJonesMixture,
    SquaredOnsetLennardJones,
    lennard_jones,
)

from ..strategies import ELEMENTS, periodic_structures, seeds, structures
from .pair_reference import assert_equals_reference

Pairs = tuple[np.ndarray, np.ndarray]


def numpy_lj(r: np.ndarray, sigma: np.ndarray | float, epsilon: np.ndarray | float) -> Pairs:
    V = 4 * epsilon * (sigma**12 / r**12 - sigma**6 / r**6)
    dV = 4 * epsilon * (-12 * sigma**12 / r**13 + 6 * sigma**6 / r**7)
    return V, dV


@pytest.fixture(autouse=True)
def _float64(default_dtype) -> None:
    default_dtype(torch.float64)


# --- one kind of atom ------------------------------------------------------------------------


def test_well() -> None:
    sigma, epsilon = torch.tensor(3.4), torch.tensor(0.0104)
    r = torch.tensor([3.4, 3.4 * 2 ** (1 / 6)], requires_grad=True)
    V = lennard_jones(r, sigma, epsilon)
    torch.testing.assert_close(V, torch.tensor([0.0, -0.0104]), atol=1e-16, rtol=1e-12)
    (slope,) = torch.autograd.grad(V.sum(), r)
    assert abs(slope[1]) < 1e-14


@given(
    atoms=structures() | periodic_structures(),
    sigma=st.floats(0.5, 1.5),
    epsilon=st.floats(0.01, 2.0),
    rc=st.none() | st.floats(2.0, 5.0),
    ro=st.none() | st.floats(0.5, 1.9),
    smooth=st.booleans(),
)
def test_from_ase_equals_ase(
    atoms: ase.Atoms,
    sigma: float,
    epsilon: float,
    rc: float | None,
    ro: float | None,
    smooth: bool,
) -> None:
    ro = ro if rc is not None else None  # ASE takes any onset, ours must be below the cutoff
    arguments = {"sigma": sigma, "epsilon": epsilon, "rc": rc, "ro": ro, "smooth": smooth}
    atoms.calc = ASELennardJones(**arguments)
    model = LennardJones.from_ase(**arguments).eval()
    graph = AtomicGraph.from_ase(atoms, model.cutoff_value, property_mapping={})
    largest = max(
        1.0, np.abs(atoms.get_forces()).max(), np.abs(atoms.get_potential_energies()).max()
    )

    def assert_close(found: torch.Tensor, expected: np.ndarray | float) -> None:
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10 * largest)

    assert_close(model.predict_energy(graph), atoms.get_potential_energy())
    assert_close(model.predict_local_energies(graph), atoms.get_potential_energies())
    assert_close(model.predict_forces(graph), atoms.get_forces())
    if atoms.cell.rank == 3:
        assert_close(model.predict_stress(graph), atoms.get_stress(voigt=False))


def test_from_ase_gives_the_kind_of_potential_that_ase_means() -> None:
    shifted, smooth = LennardJones.from_ase(sigma=2.0), LennardJones.from_ase(rc=9.0, smooth=True)
    assert isinstance(shifted, LennardJones)
    assert shifted.shift
    assert shifted.cutoff_value == 6.0
    assert isinstance(smooth, SquaredOnsetLennardJones)
    assert not smooth.potential.shift
    assert smooth.envelope.onset == pytest.approx((0.66 * 9.0) ** 2)


@given(atoms=structures())
def test_truncated_without_a_shift(atoms: ase.Atoms) -> None:
    model = LennardJones(3.5, epsilon=0.3, sigma=1.1)
    assert_equals_reference(model, atoms, lambda r, Z_i, Z_j: numpy_lj(r, 1.1, 0.3))


def test_the_shift_follows_the_parameters() -> None:
    model = LennardJones(cutoff=2.0, shift=True)
    with torch.no_grad():
        model._log_sigma.add_(0.3)
        model._log_epsilon.add_(0.5)
    assert abs(model.interaction(torch.tensor([2.0])).item()) < 1e-15


def test_parameters_are_those_given() -> None:
    model = LennardJones(epsilon=1, sigma=2)
    assert (model.epsilon.item(), model.sigma.item()) == pytest.approx((1, 2), rel=1e-15)
    assert repr(model) == "LennardJones(cutoff=5, epsilon=1, sigma=2, shift=False)"


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"sigma": -1.0}])
def test_parameters_must_be_positive(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"expected {name} > 0"):
        LennardJones(**wrong)


@pytest.mark.parametrize("ro", [-1.0, 3.0, 4.0])
def test_the_onset_must_be_within_the_cutoff(ro: float) -> None:
    with pytest.raises(ValueError, match=r"0 <= smoothing_onset < cutoff"):
        LennardJones.from_ase(ro=ro, smooth=True)


# --- mixtures --------------------------------------------------------------------------------


def random_mixture(seed: int, modulate_distances: bool = True) -> LennardJonesMixture:
    """With every value different, the factors of i-j and j-i as well."""
    generator = torch.Generator().manual_seed(seed)
    model = LennardJonesMixture(4.0, modulate_distances=modulate_distances)
    with torch.no_grad():
        for parameter, low, high in (
            (model.sigma, 0.5, 1.5),
            (model.epsilon, 0.1, 1.0),
            (model.zeta, 0.5, 1.5),
            *([(model.nu, 0.8, 1.2)] if model.nu is not None else []),
        ):
            parameter.values.uniform_(low, high, generator=generator)
    return model


def numpy_mixture(model: LennardJonesMixture, Z_i: np.ndarray, Z_j: np.ndarray) -> Pairs:
    """σ and ε of pairs, one by one."""
    values = {key: p.detach().numpy() for key, p in model.named_parameters()}
    sigma, epsilon = np.zeros(len(Z_i)), np.zeros(len(Z_i))
    for n, (i, j) in enumerate(zip(Z_i, Z_j, strict=True)):
        s, e = values["sigma.values"], values["epsilon.values"]
        if i == j:
            sigma[n], epsilon[n] = s[i], e[i]
        else:
            nu = values.get("nu.values", np.ones((119, 119)))
            zeta = values["zeta.values"]
            sigma[n] = (nu[i, j] + nu[j, i]) / 2 * (s[i] + s[j]) / 2
            epsilon[n] = (zeta[i, j] + zeta[j, i]) / 2 * np.sqrt(e[i] * e[j])
    return sigma, epsilon


@given(atoms=structures(), seed=seeds, modulate_distances=st.booleans())
def test_mixture_equals_the_mixing_rules(
    atoms: ase.Atoms, seed: int, modulate_distances: bool
) -> None:
    model = random_mixture(seed, modulate_distances)
    assert_equals_reference(
        model, atoms, lambda r, Z_i, Z_j: numpy_lj(r, *numpy_mixture(model, Z_i, Z_j))
    )


@given(atoms=structures(elements=("Si",)), seed=seeds)
def test_one_element_ignores_the_factors(atoms: ase.Atoms, seed: int) -> None:
    mixture = random_mixture(seed)
    sigma, epsilon = mixture.sigma["Si"].item(), mixture.epsilon["Si"].item()
    single = LennardJones(4.0, epsilon, sigma)
    graph = AtomicGraph.from_ase(atoms, 4.0)
    torch.testing.assert_close(
        mixture.predict_energy(graph), single.predict_energy(graph), rtol=1e-11, atol=1e-12
    )


@given(seed=seeds, r=st.floats(0.8, 3.9))
def test_both_orders_of_a_pair_have_the_same_energy(seed: int, r: float) -> None:
    model, distances = random_mixture(seed), torch.full((16,), r)
    Z = torch.tensor([ase.data.atomic_numbers[e] for e in ELEMENTS])
    Z_i, Z_j = torch.cartesian_prod(Z, Z).T
    forth, back = model.interaction(distances, Z_i, Z_j), model.interaction(distances, Z_j, Z_i)
    torch.testing.assert_close(forth, back, rtol=1e-13, atol=0)


def test_factors_of_pairs_are_set_by_symbols() -> None:
    model = LennardJonesMixture()
    model.sigma["Ne"] = model.sigma["Ar"] = 3.0
    for pair in (("Ne", "Ar"), ("Ar", "Ne")):
        model.nu[pair] = 1.1  # type: ignore[index]
    zero = model.interaction(torch.tensor([3.3]), torch.tensor([10]), torch.tensor([18]))
    assert abs(zero.item()) < 1e-14
    assert model.elements_seen == ["Ne", "Ar"]


def test_an_element_may_have_no_interaction() -> None:
    model = LennardJonesMixture()
    model.epsilon["H"] = 0.0
    graph = AtomicGraph.from_ase(ase.Atoms("H2O", [[0, 0, 0], [1.5, 0, 0], [0.7, 0.5, 0]]), 5.0)
    energy = model.predict_energy(graph)
    energy.backward()
    assert energy == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_potential_stays_physical() -> None:
    model, r = LennardJonesMixture(), torch.tensor([1.0])
    model.sigma["H"], model.epsilon["H"], model.epsilon["C"] = -1.0, 0.1, -0.5
    H, C = torch.tensor([1]), torch.tensor([6])
    expected, _ = numpy_lj(np.array([1.0]), 0.2, 0.1)
    np.testing.assert_allclose(model.interaction(r, H, H).detach(), expected, rtol=1e-12)
    assert model.interaction(r, H, C).item() == model.interaction(r, C, C).item() == 0


def test_mixture_starts_from_covalent_radii() -> None:
    model = LennardJonesMixture()
    assert model.sigma["Si"].item() == pytest.approx(0.9 * 1.11)
    assert model.epsilon["Si"].item() == pytest.approx(0.1)
    assert LennardJonesMixture(modulate_distances=False).nu is None
