"""Every architecture gives in LAMMPS, on any number of processes, what it gives in ASE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from lammps_models import FACTORIES
from lammps_runs import (
    STRUCTURES,
    LAMMPSError,
    Results,
    read_results,
    run_lammps,
    single_points,
    write_data,
)

from graph_pes.models import GraphPESModel

TOLERANCE = 1e-8  # eV and Å

#: What the log says of ghosts on several processes.
GHOSTS = {
    "pair": "ghosts exchange 0 numbers in 0 messages",
    "without-hook": "ghosts are computed, up to 9.5 away",
    "CHGNet": "ghosts are computed, up to 11 away",
    "PET": "ghosts are computed, up to 11 away",
}


@pytest.mark.parametrize("name", [name for name in FACTORIES if "direct" not in name])
def test_agrees_with_ase(
    name: str,
    data: Path,
    compiled: Callable[[str], tuple[GraphPESModel, Path]],
    expected: Callable[[GraphPESModel, str], Results],
) -> None:
    """In a cell smaller than the ghost shell, and in a slab where processes have no atoms."""
    model, file = compiled(name)
    potential = f"pair_style graph_pes\npair_coeff * * {file} Si O"
    wanted = {structure: expected(model, structure) for structure in STRUCTURES}
    assert all(abs(wanted[structure].forces).max() > 0.01 for structure in STRUCTURES)
    for ranks, newton in ((1, "off"), (1, "on"), (2, "off"), (4, "on")):
        printed = run_lammps(data, single_points(potential, newton=newton), ranks)
        how = "ghosts are images" if ranks == 1 else GHOSTS.get(name, "ghosts exchange")
        assert how in printed
        for structure in STRUCTURES:
            found = read_results(data, structure, printed)
            found.assert_equal(wanted[structure], TOLERANCE)


def test_direct_forces(
    data: Path,
    compiled: Callable[[str], tuple[GraphPESModel, Path]],
) -> None:
    """They are used as they are; there is no pressure, which LAMMPS is told."""
    model, file = compiled("direct-forces")
    potential = f"pair_style graph_pes\npair_coeff * * {file} Si O"
    for ranks in (1, 2):
        printed = run_lammps(data, single_points(potential), ranks)
        assert "predicts forces directly: pressures are not a number" in printed
        for structure, make in STRUCTURES.items():
            found = read_results(data, structure, printed)
            atoms = make()
            atoms.calc = model.ase_calculator()
            np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=TOLERANCE)
            assert abs(found.energy - atoms.get_potential_energy()) < TOLERANCE
            assert np.isnan(found.virial).all()


def test_whole_structures(
    data: Path,
    compiled: Callable[[str], tuple[GraphPESModel, Path]],
) -> None:
    """One process knows all of them: direct forces, and a direct stress, also of molecules."""
    model, file = compiled("Orb-direct")
    potential = f"pair_style graph_pes\npair_coeff * * {file} Si O"
    with pytest.raises(LAMMPSError, match="depend on the whole structure, .* use one process"):
        run_lammps(data, single_points(potential), ranks=2)
    printed = run_lammps(data, single_points(potential))
    assert "pressures are not a number" not in printed
    calculator = model.ase_calculator()
    for structure, make in STRUCTURES.items():
        found, atoms = read_results(data, structure, printed), make()
        atoms.calc = calculator
        np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(
            found.energies, atoms.get_potential_energies(), rtol=0, atol=TOLERANCE
        )
        virial = -atoms.get_volume() * atoms.get_stress()[[0, 1, 2, 5, 4, 3]]
        np.testing.assert_allclose(found.virial, virial, rtol=0, atol=TOLERANCE)
        assert np.isnan(found.virials).all()
    atoms = molecule("H2O", cell=[8, 9, 10])
    atoms.symbols = ["O", "Si", "Si"]
    atoms.center()
    write_data(data / "molecule.data", atoms)
    commands = single_points(potential, ["molecule"])
    printed = run_lammps(data, commands.replace("newton on", "newton on\nboundary f f f"))
    assert "pressures are not a number" in printed
    found = read_results(data, "molecule", printed)
    atoms.calc = calculator
    assert abs(found.energy - atoms.get_potential_energy()) < TOLERANCE
    np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=TOLERANCE)
    torque = np.cross(atoms.positions, found.forces).sum(0)
    np.testing.assert_allclose(torque, 0, atol=1e-6)


def test_computes_of_whole_structures(
    data: Path,
    compiled: Callable[[str], tuple[GraphPESModel, Path]],
) -> None:
    model, file = compiled("Orb-direct")
    potential = f"pair_style graph_pes\npair_coeff * * {file} Si O"
    stress = (
        f"{potential}\ngroup first id 1 2\n"
        f"compute stress {{}} graph_pes {file} stress Si O\n"
        "fix stress all print 1 'STRESS $(c_stress[1]:%.16g) $(c_stress[2]:%.16g)'"
    )
    printed = run_lammps(data, single_points(stress.format("all"), ["triclinic"]))
    found = printed.split("STRESS ")[-1].split("\n")[0].split()
    atoms = STRUCTURES["triclinic"]()
    atoms.calc = model.ase_calculator()
    wanted = atoms.get_stress(voigt=False)
    np.testing.assert_allclose([float(x) for x in found], wanted[0, :2], rtol=0, atol=TOLERANCE)
    with pytest.raises(LAMMPSError, match="stress belongs to the whole structure: use the group"):
        run_lammps(data, single_points(stress.format("first"), ["triclinic"]))
