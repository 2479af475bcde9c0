"""Archives of metatomic predict what the models do, in metatomic's own calculator."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule

from graph_pes.deploy.metatomic import export_metatomic
from graph_pes.drivers.ase import GraphPESCalculator
from tests.conformance.models import MODELS, Row

pytest.importorskip("metatomic.torch")
from metatomic_ase import MetatomicCalculator

pytestmark = [
    # TorchScript calls itself deprecated
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # metatomic's calculator divides by the volume of a molecule
    pytest.mark.filterwarnings("ignore::RuntimeWarning:metatomic_ase"),
]

#: Every kind of network and of potential, once: recording one takes seconds.
NAMES = """LennardJones StillingerWeber SchNet PaiNN M3GNet TensorNet MACE NonLinearMACE
NequIP-direct CHGNet PET PET-grid EDDP ANI Orb-direct-stress LearnableOffset
UnitConverter""".split()


def structures(row: Row) -> list[ase.Atoms]:
    """A crystal whose cell is smaller than the cutoff, and a molecule."""
    crystal = bulk(row.elements[0], "diamond", a=3.9, cubic=True)
    crystal.set_cell(crystal.cell.array + np.triu(0.3 * np.ones((3, 3)), 1), scale_atoms=True)
    cluster = molecule("C2H6")
    for atoms in (crystal, cluster):
        atoms.rattle(0.1, seed=1)
        atoms.numbers[:] = np.resize([ase.Atom(e).number for e in row.elements], len(atoms))
    return [crystal, cluster]


@pytest.mark.parametrize(
    "row", [row for row in MODELS if row.name in NAMES], ids=lambda row: row.name
)
def test_the_same_as_our_calculator(row: Row, tmp_path: Path) -> None:
    model = row.factory().double().eval()
    path = tmp_path / "model.pt"
    export_metatomic(model, path)
    direct = {"forces", "stress"} & set(model.implemented_properties)
    calculator = MetatomicCalculator(
        path,
        check_consistency=True,
        non_conservative={0: False, 1: "forces", 2: True}[len(direct)],
    )
    for atoms in structures(row):
        atoms.calc = GraphPESCalculator(model)
        other = atoms.copy()
        other.calc = calculator
        names = ["energy", "energies", "forces", *["stress"] * bool(atoms.pbc.all())]
        for name in names:
            expected = atoms.calc.get_property(name, atoms)
            if name == "forces" and direct:  # which that calculator subtracts
                expected = expected - expected.mean(axis=0)
            np.testing.assert_allclose(
                other.calc.get_property(name, other),
                expected,
                rtol=1e-9,
                atol=1e-9,
                err_msg=name,
            )
