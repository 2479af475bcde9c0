"""Dynamics that end where a committee is unsure."""

from __future__ import annotations

import logging
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

from graph_pes.drivers import StopWhenUncertain
from graph_pes.models import Committee, LennardJones


def dynamics() -> VelocityVerlet:
    """Two atoms that fly towards each other, where the members differ."""
    members = [LennardJones(6.0, epsilon=0.01, sigma=sigma) for sigma in (3.3, 3.4)]
    atoms = ase.Atoms("Ar2", positions=[[0, 0, 0], [4.2, 0, 0]])
    atoms.set_velocities([[0.03, 0, 0], [-0.03, 0, 0]])
    atoms.calc = Committee(members).ase_calculator()
    return VelocityVerlet(atoms, timestep=2 * units.fs)


@pytest.mark.parametrize("key", ["forces_uncertainty", "energy_uncertainty"])
def test_ends_and_saves_the_structure(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    md, sigmas = dynamics(), []
    stop = StopWhenUncertain(md, 0.005, key, tmp_path / "uncertain.xyz")
    md.attach(lambda: sigmas.append(np.max(md.atoms.calc.results[key])))
    md.attach(stop)
    with caplog.at_level(logging.WARNING, "graph_pes"):
        md.run(120)
    assert 0 < md.nsteps < 120
    assert sigmas[-1] > 0.005 >= max(sigmas[:-1])
    assert len(sigmas) == md.nsteps + 1
    (saved,) = ase.io.read(tmp_path / "uncertain.xyz", index=":")
    np.testing.assert_allclose(saved.positions, md.atoms.positions, atol=1e-7)
    assert stop.structure is not None
    values = saved.arrays if key == "forces_uncertainty" else saved.info
    assert np.max(values[key]) == pytest.approx(sigmas[-1], rel=1e-6)
    (record,) = caplog.records
    assert f"Stopped at step {md.nsteps}: {key}" in record.getMessage()
    assert "above the threshold of 0.005 eV" in record.getMessage()
    assert "uncertain.xyz" in record.getMessage()


def test_goes_on_while_sure(tmp_path: Path) -> None:
    md = dynamics()
    stop = StopWhenUncertain(md, 1e6, path=tmp_path / "uncertain.xyz")
    md.attach(stop, interval=2)
    md.run(10)
    assert md.nsteps == 10
    assert stop.structure is None
    assert not list(tmp_path.iterdir())


def test_wrong_arguments() -> None:
    md = dynamics()
    with pytest.raises(ValueError, match="threshold above 0, got 0"):
        StopWhenUncertain(md, 0.0)
    md.atoms.calc = LennardJones().ase_calculator()
    with pytest.raises(ValueError, match="calculator of a committee"):
        StopWhenUncertain(md, 0.1)
