"""``compute graph_pes`` gives, on any number of processes, what models predict in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lammps_models import quickly_compiled
from lammps_properties import Charged
from lammps_runs import STRUCTURES, LAMMPSError, run_lammps

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.models import Committee, SchNet
from graph_pes.models.base import GraphPropertyModel
from tests.conformance.models import randomised

SUMS = ["charges", "tensor", "dipole", "total_charge"]

#: Two runs, with output of all kinds.
COMMANDS = """\
units metal
newton {newton}
atom_style atomic
box tilt large
read_data {structure}.data
{potential}
neighbor 0.5 bin
group silicon type 1
compute q all graph_pes {file} charges Si O
compute v all graph_pes cpu {file} tensor Si O
compute of_silicon silicon graph_pes {file} charges Si O
compute dipole all graph_pes {file} dipole Si O
compute total all graph_pes {file} total_charge Si O
compute part silicon graph_pes {file} total_charge Si O
compute sum all reduce sum c_q
thermo_style custom step c_total c_part c_sum c_dipole[*]
thermo_modify format float %.16g
fix mean all ave/time 1 1 1 c_dipole file mean.txt mode vector format " %.16g"
dump values all custom 1 values.dump id c_q c_v[*] c_of_silicon
dump_modify values sort id format float %.16g
run 0
run 0
print "RESULTS $(c_total:%.16g) $(c_part:%.16g) $(c_sum:%.16g) $(c_dipole[1]:%.16g) &
$(c_dipole[2]:%.16g) $(c_dipole[3]:%.16g)"
"""


@pytest.fixture(scope="session")
def sums() -> tuple[Charged, Path]:
    model = Charged(SUMS).eval()
    return model, quickly_compiled(model)


@pytest.mark.parametrize("structure", list(STRUCTURES))
def test_values(structure: str, sums: tuple[Charged, Path], data: Path) -> None:
    model, file = sums
    atoms = STRUCTURES[structure]()
    graph = AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64)
    wanted = {name: value.numpy() for name, value in model.predict(graph, SUMS).items()}
    silicon = atoms.numbers == 14
    of_silicon = wanted["charges"] * silicon
    total = [wanted["total_charge"], of_silicon.sum(), wanted["charges"].sum(), *wanted["dipole"]]
    # with a shorter cutoff, a longer one, and none at all
    potentials = {
        1: "pair_style zbl 1.0 2.0\npair_coeff 1 1 14 14\npair_coeff 2 2 8 8",
        2: "pair_style lj/cut 4.5\npair_coeff * * 0.1 1.9",
        4: "pair_style none",
    }
    for ranks, potential in potentials.items():
        newton = "off" if ranks == 2 else "on"
        commands = COMMANDS.format(
            structure=structure, file=file, potential=potential, newton=newton
        )
        printed = run_lammps(data, commands, ranks)
        (line,) = (line for line in printed.split("\n") if line.startswith("RESULTS"))
        np.testing.assert_allclose([float(x) for x in line.split()[1:]], total, atol=1e-10)
        table = np.loadtxt(data / "values.dump", skiprows=9)[:, 1:]
        columns = [wanted["charges"], *wanted["tensor"].T, of_silicon]
        np.testing.assert_allclose(table, np.stack(columns, axis=1), atol=1e-10)
        mean = np.loadtxt(data / "mean.txt", skiprows=4)[:, 1]
        np.testing.assert_allclose(mean[:3], wanted["dipole"], atol=1e-10)
    assert "dipole of" in printed
    assert ", in e" in printed


def test_of_moving_atoms(sums: tuple[Charged, Path], data: Path) -> None:
    """Atoms change processes, and lists of neighbours are made again."""
    model, file = sums
    commands = f"""\
units metal
atom_style atomic
box tilt large
read_data triclinic.data
pair_style lj/cut 3.0
pair_coeff * * 0.01 1.9
velocity all create 3000 1
fix move all nve
compute q all graph_pes {file} charges Si O
compute total all graph_pes {file} total_charge Si O
dump values all custom 50 values.dump id xu yu zu c_q
dump_modify values sort id format float %.16g
thermo_style custom step c_total
run 100
"""
    for ranks in (1, 2):
        run_lammps(data, commands, ranks)
        atoms = STRUCTURES["triclinic"]()
        table = np.loadtxt((data / "values.dump").read_text().split("\n")[-len(atoms) - 1 :])
        moved = abs(table[:, 1:4] - atoms.positions).max()
        atoms.set_positions(table[:, 1:4])
        graph = AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64)
        wanted = model.predict(graph, ["charges"])["charges"]
        np.testing.assert_allclose(table[:, 4], wanted, atol=1e-10)
        assert moved > 1


def test_of_whole_structures(data: Path) -> None:
    """What is not a sum over atoms needs a process that knows all of them."""
    model = Charged(["total_spin"]).eval()
    commands = f"""\
units metal
atom_style atomic
box tilt large
read_data triclinic.data
compute mean all graph_pes {quickly_compiled(model)} total_spin Si O
thermo_style custom step c_mean
run 0
print "RESULTS $(c_mean:%.16g)"
"""
    graph = AtomicGraph.from_ase(STRUCTURES["triclinic"](), 3.0, dtype=torch.float64)
    (line,) = (x for x in run_lammps(data, commands).split("\n") if x.startswith("RESULTS"))
    wanted = model.predict(graph, ["total_spin"])["total_spin"]
    assert float(line.split()[1]) == pytest.approx(wanted.item(), abs=1e-10)
    with pytest.raises(LAMMPSError, match="total_spin is not a sum over atoms.* one process"):
        run_lammps(data, commands, ranks=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{file} charge Si O", "predicts charges dipole tensor total_charge, not 'charge'"),
        ("{file} charges Si", "expected .* 2 chemical symbols, one for each atom type"),
        ("none.pt2 charges Si O", "can't use the model none.pt2: there is no such file"),
    ],
)
def test_wrong_arguments(
    arguments: str, message: str, sums: tuple[Charged, Path], data: Path
) -> None:
    commands = "units metal\natom_style atomic\nbox tilt large\nread_data triclinic.data\n"
    commands += f"compute q all graph_pes {arguments.format(file=sums[1])}"
    with pytest.raises(LAMMPSError, match=message):
        run_lammps(data, commands)


def test_energies_of_a_potential(
    data: Path, compiled: Callable[[str], tuple[GraphPropertyModel, Path]]
) -> None:
    """Any exported model can be observed, also one that does not move the atoms."""
    model, file = compiled("pair")
    commands = f"""\
units metal
atom_style atomic
box tilt large
read_data triclinic.data
compute e all graph_pes {file} local_energies Si O
compute sum all reduce sum c_e
thermo_style custom step c_sum
run 0
print "RESULTS $(c_sum:%.16g)"
"""
    graph = AtomicGraph.from_ase(STRUCTURES["triclinic"](), 3.5, dtype=torch.float64)
    wanted = model.predict(graph, ["energy"])["energy"].item()
    for ranks in (1, 2):
        printed = run_lammps(data, commands, ranks)
        (line,) = (x for x in printed.split("\n") if x.startswith("RESULTS"))
        assert float(line.split()[1]) == pytest.approx(wanted, abs=1e-8)


def test_a_committee(data: Path) -> None:
    """Of networks: members' forces on an atom come from all processes, whatever the group."""
    members = [SchNet(channels=4, expansion_features=5, layers=2, cutoff=3.0) for _ in range(2)]
    model = Committee([randomised(member) for member in members]).double().eval()
    graph = AtomicGraph.from_ase(STRUCTURES["triclinic"](), 3.0, dtype=torch.float64)
    keys = ["energy", "forces", "energy_uncertainty", "forces_uncertainty"]
    wanted = {key: value.numpy() for key, value in model.predict(graph, keys).items()}
    file = quickly_compiled(model)
    commands = f"""\
units metal
atom_style atomic
box tilt large
read_data triclinic.data
pair_style graph_pes
pair_coeff * * {file} Si O
group silicon type 1
compute sigma all graph_pes {file} forces_uncertainty Si O
compute of_silicon silicon graph_pes {file} forces_uncertainty Si O
compute e all graph_pes {file} local_energies_ensemble Si O
compute sum all reduce sum c_e[1] c_e[2]
variable sigma equal sqrt((c_sum[1]-c_sum[2])^2/2)
thermo_style custom step pe v_sigma
dump values all custom 1 values.dump id fx fy fz c_sigma c_of_silicon
dump_modify values sort id format float %.16g
run 0
print "RESULTS $(pe:%.16g) $(v_sigma:%.16g)"
"""
    sigma = wanted["forces_uncertainty"]
    of_silicon = sigma * (graph.Z == 14).numpy()
    columns = np.column_stack([wanted["forces"], sigma, of_silicon])
    for ranks in (1, 2):
        printed = run_lammps(data, commands, ranks)
        (line,) = (x for x in printed.split("\n") if x.startswith("RESULTS"))
        energies = [float(word) for word in line.split()[1:]]
        np.testing.assert_allclose(energies, [wanted[keys[0]], wanted[keys[2]]], atol=1e-9)
        table = np.loadtxt(data / "values.dump", skiprows=9)[:, 1:]
        np.testing.assert_allclose(table, columns, atol=1e-9)
    assert min(sigma.max(), abs(wanted["forces"]).max()) > 1e-3
