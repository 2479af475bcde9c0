from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import compare_atoms
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from hypothesis import given

from graph_pes.atomic_graph import AtomicGraph
from tests.strategies import seeds, structures


def labelled(atoms: ase.Atoms, seed: int = 0) -> ase.Atoms:
    """With random labels in info and arrays."""
    rng = np.random.default_rng(seed)
    stress = rng.normal(size=(3, 3))
    atoms.info["energy"] = float(rng.normal())
    atoms.info["stress"] = stress + stress.T
    atoms.info["virial"] = -(stress + stress.T) * 10
    atoms.arrays["forces"] = rng.normal(size=(len(atoms), 3))
    atoms.info["total_charge"] = -1
    return atoms


LABELS = {"energy", "forces", "stress", "virial"}


@given(structures(), seeds)
def test_round_trip(atoms: ase.Atoms, seed: int) -> None:
    labelled(atoms, seed)
    back = AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64).to_ase()
    assert not compare_atoms(atoms, back, tol=1e-12, excluded_properties={"initial_magmoms"})
    assert LABELS | {"total_charge"} == back.info.keys() | (back.arrays.keys() - atoms_arrays)
    for key in ("energy", "stress", "virial", "total_charge"):
        np.testing.assert_allclose(back.info[key], atoms.info[key], rtol=1e-15)
    np.testing.assert_array_equal(back.arrays["forces"], atoms.arrays["forces"])


atoms_arrays = {"numbers", "positions"}


@given(structures(), seeds)
def test_round_trip_from_the_graph(atoms: ase.Atoms, seed: int) -> None:
    graph = AtomicGraph.from_ase(labelled(atoms, seed), 3.0)
    again = AtomicGraph.from_ase(graph.to_ase(), 3.0)
    assert torch.equal(again.R, graph.R)
    assert torch.equal(again.cell, graph.cell)
    assert again.pbc is not None
    assert torch.equal(again.pbc, graph.pbc)
    assert graph.properties.keys() == again.properties.keys() == LABELS
    for key, value in graph.properties.items():
        assert torch.equal(again.properties[key], value)
        assert again.properties[key].dtype == value.dtype


@given(structures(), seeds)
def test_the_structure_is_left_alone(atoms: ase.Atoms, seed: int) -> None:
    labelled(atoms, seed)
    before = atoms.copy()
    before.info = {k: np.copy(v) for k, v in atoms.info.items()}
    graph = AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64)
    # Nor may a change to the graph reach back into the structure.
    for tensor in (graph.R, graph.cell, *graph.properties.values()):
        tensor.add_(1.0)
    graph.Z.add_(1)
    assert not compare_atoms(before, atoms, tol=0)
    assert before.info.keys() == atoms.info.keys()
    assert before.arrays.keys() == atoms.arrays.keys()
    for key, value in before.info.items():
        np.testing.assert_array_equal(atoms.info[key], value)


def test_to_ase_shares_nothing_with_the_graph() -> None:
    graph = AtomicGraph.from_ase(labelled(molecule("H2O")), dtype=torch.float64)
    before = graph.R.clone(), graph.properties["forces"].clone()
    atoms = graph.to_ase()
    atoms.positions += 1
    atoms.arrays["forces"] += 1
    assert torch.equal(graph.R, before[0])
    assert torch.equal(graph.properties["forces"], before[1])


# --- where labels come from ---


def test_labels_of_a_calculator() -> None:
    atoms = bulk("Cu")
    voigt = np.arange(1.0, 7.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=[[0, 0, 1]], stress=voigt)
    graph = AtomicGraph.from_ase(atoms, dtype=torch.float64)
    assert graph.properties.keys() == {"energy", "forces", "stress"}
    assert graph.properties["energy"] == -1.5
    assert graph.properties["forces"].tolist() == [[0, 0, 1]]
    expected = [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    assert graph.properties["stress"].tolist() == expected


def test_a_calculator_is_not_run() -> None:
    from ase.calculators.lj import LennardJones

    atoms = molecule("H2")
    atoms.calc = LennardJones()
    assert AtomicGraph.from_ase(atoms).properties == {}


def test_calculator_before_arrays_before_info() -> None:
    atoms = molecule("H2")
    atoms.info["forces"], atoms.info["energy"] = np.full((2, 3), 1.0), 1.0
    atoms.arrays["forces"] = np.full((2, 3), 2.0)
    graph = AtomicGraph.from_ase(atoms)
    assert (graph.properties["forces"] == 2).all()
    atoms.calc = SinglePointCalculator(atoms, energy=3.0, forces=np.full((2, 3), 3.0))
    graph = AtomicGraph.from_ase(atoms)
    assert (graph.properties["forces"] == 3).all()
    assert graph.properties["energy"] == 3


def test_mapping() -> None:
    atoms = molecule("H2O")
    atoms.info["REF_energy"], atoms.arrays["dft_forces"] = -2.0, np.ones((3, 3))
    atoms.info["energy"] = 7.0  # not asked for
    mapping = {"REF_energy": "energy", "dft_forces": "forces"}
    graph = AtomicGraph.from_ase(atoms, property_mapping=mapping)
    assert graph.properties.keys() == {"energy", "forces"}
    assert graph.properties["energy"] == -2
    assert AtomicGraph.from_ase(atoms, property_mapping={}).properties == {}


def test_ethanol_data(ethanol: list[ase.Atoms]) -> None:
    graph = AtomicGraph.from_ase(
        ethanol[0],
        property_mapping={k: k for k in ("energy", "forces", "dipole", "charges")},
        dtype=torch.float64,
    )
    assert {k: tuple(v.shape) for k, v in graph.properties.items()} == {
        "energy": (),
        "forces": (9, 3),
        "dipole": (3,),
        "charges": (9,),
    }
    assert graph.properties["energy"] == ethanol[0].get_potential_energy()


def test_others() -> None:
    atoms = molecule("H2")
    atoms.info |= {"total_charge": 1, "total_spin": 0.5, "tag": 4}
    graph = AtomicGraph.from_ase(atoms)
    assert {k: v.item() for k, v in graph.other.items()} == {"total_charge": 1, "total_spin": 0.5}
    assert graph.other["total_charge"].dtype == torch.int64
    assert graph.other["total_spin"].dtype == torch.float32
    only = AtomicGraph.from_ase(atoms, others_to_include=["tag"])
    assert only.other.keys() == {"tag"}


@pytest.mark.parametrize("key", ["stress", "virial"])
def test_voigt_and_nine_components(key: str) -> None:
    """Both are in ASE's order, for stress and virial alike."""
    rng = np.random.default_rng(0)
    full = rng.normal(size=(3, 3))
    full = full + full.T
    atoms = bulk("Cu")
    for form in (full, full.flatten(), full3_to_6(full), full.tolist()):
        atoms.info[key] = form
        graph = AtomicGraph.from_ase(atoms, dtype=torch.float64)
        np.testing.assert_allclose(graph.properties[key], full, rtol=1e-15)


def full3_to_6(matrix: np.ndarray) -> np.ndarray:
    return full_3x3_to_voigt_6_stress(matrix)


# --- dtypes ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype, default_dtype) -> None:
    explicit = AtomicGraph.from_ase(labelled(bulk("Cu")), 3.0, dtype=dtype)
    default_dtype(dtype)
    implicit = AtomicGraph.from_ase(labelled(bulk("Cu")), 3.0)
    for graph in (explicit, implicit):
        assert graph.Z.dtype == graph.neighbour_list.dtype == torch.int64
        floats = (graph.R, graph.cell, graph.neighbour_cell_offsets, graph.properties["forces"])
        assert {x.dtype for x in floats} == {dtype}
        assert graph.properties["energy"].dtype == torch.float64


def test_neighbours_are_found_in_double_precision() -> None:
    """Whether a neighbour is inside the cutoff does not depend on the precision asked for."""
    r = 3.0000000001
    atoms = ase.Atoms("H2", [[0, 0, 0], [r, 0, 0]])
    for dtype in (torch.float32, torch.float64):
        assert AtomicGraph.from_ase(atoms, 3.0, dtype=dtype).neighbour_list.shape == (2, 0)


# --- bad input ---


def test_placeholders_are_no_elements() -> None:
    with pytest.raises(ValueError, match=r"from 1 \(H\) to 118 \(Og\), got 0 \(ASE's placeholder"):
        AtomicGraph.from_ase(ase.Atoms("HX", [[0, 0, 0], [0, 0, 1]]))


@pytest.mark.parametrize("value", ["x", ["a", "b"], {"a": 1}, 1j])
def test_others_that_are_no_numbers(value: object) -> None:
    atoms = molecule("H2O")
    atoms.info["total_charge"] = value
    with pytest.raises(ValueError, match="'total_charge' should be a number.*others_to_include"):
        AtomicGraph.from_ase(atoms)
    assert AtomicGraph.from_ase(atoms, others_to_include=[]).other == {}


@pytest.mark.parametrize("where", ["property_mapping", "others_to_include"])
def test_missing_label(where: str) -> None:
    argument = {"property_mapping": {"dft": "energy"}, "others_to_include": ["dft"]}[where]
    with pytest.raises(ValueError, match=r"Unable to find properties: \['dft'\].*OH2"):
        AtomicGraph.from_ase(molecule("H2O"), **{where: argument})


def test_missing_label_names_those_there_are() -> None:
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = 1.0
    with pytest.raises(ValueError, match="REF_energy"):
        AtomicGraph.from_ase(atoms, property_mapping={"energy": "energy"})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_label_that_is_not_finite(bad: float) -> None:
    atoms = molecule("H2O")
    atoms.info["energy"] = bad
    with pytest.raises(ValueError, match=r"label 'energy' \(energy\) holds a value that is NaN"):
        AtomicGraph.from_ase(atoms)
    del atoms.info["energy"]
    atoms.arrays["forces"] = np.zeros((3, 3))
    atoms.arrays["forces"][2, 1] = bad
    with pytest.raises(ValueError, match="label 'forces'"):
        AtomicGraph.from_ase(atoms)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("energy", [1.0, 2.0]),
        ("forces", np.ones((2, 3))),
        ("forces", np.ones((3, 2))),
        ("forces", np.ones(9)),
        ("forces", np.ones((3, 3, 2))),
        ("stress", np.ones(5)),
        ("stress", np.ones((3, 2))),
        ("stress", 1.0),
        ("dipole", np.ones(4)),
        ("charges", np.ones(2)),
        ("tensor", np.ones((2, 5))),
    ],
)
def test_wrong_shape(key: str, value: object) -> None:
    atoms = molecule("H2O")
    atoms.info["label"] = value
    with pytest.raises(ValueError, match=rf"label 'label' \({key}\) of a structure of 3 atoms"):
        AtomicGraph.from_ase(atoms, property_mapping={"label": key})


def test_label_that_is_a_scalar_tensor() -> None:
    atoms = molecule("H2O")
    atoms.info["label"] = 1.0
    with pytest.raises(ValueError, match="label 'label'"):
        AtomicGraph.from_ase(atoms, property_mapping={"label": "tensor"})


def test_axes_of_length_one_do_not_matter() -> None:
    atoms = molecule("H2O")
    atoms.info["energy"] = [[2.0]]
    atoms.arrays["charges"] = np.arange(3.0)[:, None]
    graph = AtomicGraph.from_ase(atoms, property_mapping={"energy": "energy", "charges": "charges"})
    assert graph.properties["energy"].shape == ()
    assert graph.properties["charges"].tolist() == [0, 1, 2]


def test_label_that_is_no_number() -> None:
    atoms = molecule("H2O")
    atoms.info["energy"] = "low"
    with pytest.raises(ValueError, match="'energy' is not a number or an array of numbers: 'low'"):
        AtomicGraph.from_ase(atoms)


def test_unknown_property() -> None:
    atoms = molecule("H2O")
    atoms.info["e"] = 1.0
    with pytest.raises(ValueError, match=r"'e' is mapped to an unknown property, 'enrgy'.*energy"):
        AtomicGraph.from_ase(atoms, property_mapping={"e": "enrgy"})


def test_batches_are_not_one_structure() -> None:
    from graph_pes.atomic_graph import to_batch

    graph = AtomicGraph.from_ase(molecule("H2O"))
    with pytest.raises(ValueError, match="expected a single structure, got a batch"):
        to_batch([graph]).to_ase()


def test_results_for_other_positions_are_no_labels() -> None:
    atoms = molecule("H2O")
    atoms.calc = LennardJones()
    atoms.get_potential_energy()
    assert "energy" in AtomicGraph.from_ase(atoms).properties
    atoms.rattle(0.1, seed=0)
    assert "energy" not in AtomicGraph.from_ase(atoms).properties


def test_labels_from_a_file_stay_with_a_structure_that_is_moved() -> None:
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.translate([1.0, 0, 0])
    assert float(AtomicGraph.from_ase(atoms).properties["energy"]) == -1.0
