"""Every architecture gives in LAMMPS, on any number of processes, what it gives in ASE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lammps_models import FACTORIES
from lammps_runs import STRUCTURES, Results, read_results, run_lammps, single_points

from graph_pes.models import GraphPESModel

TOLERANCE = 1e-8  # eV and Å

#: What the log says of ghosts on several processes.
GHOSTS = {
    "pair": "ghosts exchange 0 numbers in 0 messages",
    "without-hook": "ghosts are computed, up to 9.5 away",
}


@pytest.mark.parametrize("name", [name for name in FACTORIES if name != "direct-forces"])
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
    import numpy as np

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
