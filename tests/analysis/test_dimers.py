"""Dimer curves."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from graph_pes.analysis import dimer_curve, dimer_energies
from graph_pes.models import LennardJones, LennardJonesMixture

r = np.linspace(0.8, 6.0, 7)


@pytest.mark.parametrize("system", ["Ar", "Ar2", "ArKr", "KrAr"])
def test_energies_are_the_analytic_ones(system):
    model = LennardJones(cutoff=5.0, epsilon=0.5, sigma=1.5).double()
    epsilon, sigma = model.epsilon.item(), model.sigma.item()
    expected = np.where(r <= 5.0, 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6), 0.0)
    np.testing.assert_allclose(dimer_energies(model, system, r), expected, rtol=1e-12)


def test_both_elements_matter():
    model = LennardJonesMixture(cutoff=5.0)
    curves = [dimer_energies(model, system, r) for system in ("Si", "SiO", "O2")]
    assert not np.allclose(curves[0], curves[1])
    assert not np.allclose(curves[1], curves[2])
    np.testing.assert_allclose(curves[1], dimer_energies(model, "OSi", r), rtol=1e-6)


def test_curves_show_the_well():
    model = LennardJones(cutoff=5.0, epsilon=0.5, sigma=1.5)
    line = dimer_curve(model, "Ar", units="eV", ax=Figure().subplots(), c="red", n=300)
    x, y = line.get_data()
    assert (len(x), x[0], x[-1], y[-1]) == (300, 0.9, 5.5, 0.0)
    assert y.min() == pytest.approx(-0.5, abs=1e-3)
    assert line.get_color() == "red"
    np.testing.assert_allclose(line.axes.get_ylim(), [-0.55, 0.55], atol=1e-3)
    assert line.axes.get_ylabel() == "Dimer energy (eV)"
    assert model.training


def test_options():
    model = LennardJones(cutoff=5.0, sigma=2.0, epsilon=1.0)
    ax = Figure().subplots()
    line = dimer_curve(
        model, "Ar", set_to_zero=False, rmin=2.0, rmax=3.0, ax=ax, auto_lim=False, n=5, linewidth=3
    )
    np.testing.assert_allclose(line.get_xdata(), np.linspace(2, 3, 5))
    assert line.get_ydata()[-1] == pytest.approx(4 * ((2 / 3) ** 12 - (2 / 3) ** 6), rel=1e-5)
    assert line.get_linewidth() == 3
    repulsive = LennardJones(cutoff=1.0, sigma=2.0, epsilon=1.0)  # no well at all
    with torch.no_grad():
        assert dimer_curve(repulsive, "Ar", rmin=0.5, ax=ax).axes.get_ylim()[0] < 0


def test_bad_arguments(monkeypatch):
    model = LennardJones()
    with pytest.raises(ValueError, match=r"one or two atoms, .* got 'H2O'"):
        dimer_energies(model, "H2O", r)
    with pytest.raises(ValueError, match="rmin < rmax, got 3 and 2"):
        dimer_curve(model, "Ar", rmin=3, rmax=2, ax=Figure().subplots())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"graph-pes\[plot\]"):
        dimer_curve(model, "Ar")
