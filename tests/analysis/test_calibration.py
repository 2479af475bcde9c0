"""Uncertainties beside errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule

from graph_pes.analysis import Calibration, calibrate, calibration, calibration_figure
from graph_pes.atomic_graph import AtomicGraph
from graph_pes.models import AdditionModel, Committee, FixedOffset, Morse


def committee() -> Committee:
    return Committee([Morse(5.0, D=D, a=1.5) for D in (0.1, 0.12, 0.15)]).double().eval()


def labelled() -> list[AtomicGraph]:
    """Structures, whose labels are those of another model."""
    truth, graphs = Morse(5.0, D=0.16, a=1.6).double().eval(), []
    for n, name in enumerate(("H2O", "CH4", "C2H6")):
        atoms = molecule(name)
        atoms.rattle(0.1, seed=n)
        graph = AtomicGraph.from_ase(atoms, 5.0, dtype=torch.float64)
        graphs.append(graph._replace(properties=truth.predict(graph, ["energy", "forces"])))
    return graphs


def test_uncertainties_and_errors() -> None:
    model, graphs = committee(), labelled()
    energy, forces = calibration(model, graphs)
    for n, graph in enumerate(graphs):
        found = model.predict(graph, ["energy", "energy_uncertainty"])
        assert energy.sigma[n] == pytest.approx(float(found["energy_uncertainty"]))
        error = float(found["energy"] - graph.properties["energy"])
        assert energy.error[n] == pytest.approx(abs(error))
    found = model.predict(graphs[-1], ["forces", "forces_uncertainty"])
    np.testing.assert_allclose(forces.sigma[-8:], found["forces_uncertainty"])
    wanted = (found["forces"] - graphs[-1].properties["forces"]).norm(dim=1)
    np.testing.assert_allclose(forces.error[-8:], wanted)


@pytest.mark.parametrize("key", ["energy", "forces"])
def test_calibrated(key: str) -> None:
    model = committee()
    scale = calibrate(model, labelled(), key)
    after = {c.property: c for c in calibration(model, labelled())}[key]
    assert after.factor() == pytest.approx(1)
    assert scale == float(model.scale) != 1
    assert calibrate(model, labelled(), key) == pytest.approx(scale)


def test_the_factor_of_normal_errors() -> None:
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.01, 1, 20000)
    found = Calibration("energy", "eV", sigma, np.abs(3 * sigma * rng.normal(size=20000)))
    assert found.factor() == pytest.approx(3, rel=0.03)
    assert 0.4 < found.correlation() < 0.8
    assert Calibration("energy", "eV", sigma, sigma**2).correlation() == pytest.approx(1)


def test_figure() -> None:
    figure = calibration_figure({"validation": calibration(committee(), labelled())})
    assert [ax.get_xscale() for ax in figure.axes] == ["log", "log"]
    figure.draw_without_rendering()


def test_wrong_arguments() -> None:
    unlabelled = [graph._replace(properties={}) for graph in labelled()]
    with pytest.raises(ValueError, match="expected a committee"):
        calibration(Morse(), labelled())
    with pytest.raises(ValueError, match="with energies or forces"):
        calibration(committee(), unlabelled)
    with pytest.raises(TypeError, match="got a AdditionModel"):
        calibrate(AdditionModel(a=committee(), b=FixedOffset(H=1.0)), labelled())
    energies = [g._replace(properties={"energy": g.properties["energy"]}) for g in labelled()]
    with pytest.raises(ValueError, match="with 'forces', got .'energy'"):
        calibrate(committee(), energies)
    equal = Committee([Morse(5.0), Morse(5.0)])
    with pytest.raises(ValueError, match="uncertainties of energy are zero"):
        calibrate(equal, labelled(), "energy")
    with pytest.raises(ValueError, match="nothing to plot"):
        calibration_figure({})
