"""Parity plots."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase.build import molecule
from matplotlib.figure import Figure

from graph_pes.analysis import Comparison, compare, parity_figure, parity_plot
from graph_pes.atomic_graph import divide_per_atom, replace
from graph_pes.drivers import GraphPESCalculator


def points(ax) -> np.ndarray:
    (collection,) = ax.collections
    return np.asarray(collection.get_offsets())


def forces(n: int = 20, noise: float = 0.1) -> Comparison:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 3))
    return Comparison("forces", "eV/Å", x, x + noise * rng.normal(size=x.shape))


# --- a single plot -----------------------------------------------------------------------


def test_plots_show_labels_and_predictions(labelled):
    ax = parity_plot(
        labelled.model, labelled.graphs, "forces", units="eV/Å", ax=Figure().subplots()
    )
    expected = np.concatenate([g.properties["forces"].numpy().ravel() for g in labelled.graphs])
    errors = np.concatenate(labelled.force_errors).ravel()
    np.testing.assert_allclose(points(ax)[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(points(ax)[:, 1] - expected, errors, atol=1e-9)
    assert ax.get_xlabel() == "True forces (eV/Å)"
    assert ax.get_ylabel() == "Predicted forces (eV/Å)"
    assert ax.get_xlim() == ax.get_ylim()
    assert len(ax.lines) == 1


def test_energies_per_atom_two_ways_from_a_calculator_and_structures(labelled):
    calculator = GraphPESCalculator(labelled.model)
    structures = [g.to_ase() for g in labelled.graphs]
    drawn = [
        points(parity_plot(*arguments, ax=Figure().subplots(), **options))
        for arguments, options in (
            ((labelled.model, labelled.graphs, "energy_per_atom"), {}),
            ((calculator, structures, "energy", divide_per_atom), {"label": "x", "c": "r"}),
        )
    ]
    np.testing.assert_allclose(drawn[0][:, 1] - drawn[0][:, 0], labelled.energy_errors, atol=1e-9)
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-9)


def test_structures_without_the_label_are_left_out(labelled):
    graphs = [replace(labelled.graphs[0], properties={}), *labelled.graphs[1:]]
    ax = parity_plot(labelled.model, graphs, ax=Figure().subplots())
    assert len(points(ax)) == 3
    ax = parity_plot(labelled.model, graphs, "stress", ax=Figure().subplots())
    assert len(points(ax)) == 2 * 9
    with pytest.raises(ValueError, match="none of the structures has the label 'energy'"):
        parity_plot(labelled.model, graphs[:1], ax=Figure().subplots())


def test_styles_can_be_chosen_by_any_name(labelled):
    ax = parity_plot(
        labelled.model, labelled.graphs, ax=Figure().subplots(), lw=2, color="red", clip_on=True
    )
    assert ax.collections[0].get_linewidths() == [2]
    assert ax.collections[0].get_clip_on()


# --- the figure --------------------------------------------------------------------------


def test_one_panel_per_property_and_one_colour_per_data_set(labelled):
    comparisons = compare(labelled.model, labelled.graphs)
    figure = parity_figure({"train": comparisons, "test": comparisons[:1]})
    above, below = figure.axes[:3], figure.axes[3:]
    energy = above[0]
    assert "reference energy" in below[0].get_xlabel()
    assert below[1].get_xlabel() == "reference forces (eV/Å)"
    assert below[2].get_xlabel() == "reference stress (eV/Å³)"
    texts = [t.get_text() for t in energy.get_legend().get_texts()]
    mae, rmse = (
        1000 * np.abs(labelled.energy_errors).mean(),
        1000 * np.sqrt((labelled.energy_errors**2).mean()),
    )
    assert texts == [f"train: {mae:.0f} / {rmse:.0f}", f"test: {mae:.0f} / {rmse:.0f}"]
    assert energy.get_legend().get_title().get_text() == "MAE / RMSE (meV/atom)"
    colours = [line.get_color() for line in energy.lines[:2]]
    assert len(set(colours)) == 2
    for ax in above:
        assert ax.get_xlim() == ax.get_ylim()
        assert ax.lines[0].get_color() == colours[0]


def test_everything_is_within_the_axes_and_small_errors_lie_on_top():
    bad = Comparison("forces", "eV/Å", np.zeros((1, 3)), np.array([[50.0, -80.0, 1.0]]))
    figure = parity_figure({"good": [forces(noise=0.01)], "bad": [bad]})
    above, below = figure.axes
    for ax, scale in ((above, 1), (below, 1000)):
        low, high = ax.get_ylim()
        assert low < -80 * scale < 50 * scale < high
        assert ax.lines[0].get_zorder() > ax.lines[1].get_zorder()


def test_large_energies_are_shifted_and_the_axis_says_by_how_much():
    x = -467.35 + 0.05 * np.random.default_rng(0).normal(size=(30, 1))
    figure = parity_figure({"x": [Comparison("energy_per_atom", "eV/atom", x, x + 0.001)]})
    above, below = figure.axes
    assert below.get_xlabel() == "reference energy + 467.4 (eV/atom)"
    np.testing.assert_allclose(above.lines[0].get_xdata(), x[:, 0] + 467.4, atol=1e-9)
    np.testing.assert_allclose(below.lines[0].get_ydata(), 1.0, atol=1e-6)
    (text,) = above.get_legend().get_texts()
    assert text.get_text() == "x: 1.00 / 1.00"


@pytest.mark.parametrize(
    "comparison",
    [
        Comparison("energy", "eV", np.ones((1, 1)), np.ones((1, 1))),
        Comparison("energy", "eV", np.zeros((1, 1)), np.zeros((1, 1))),
        Comparison("energy", "eV", np.ones((2, 1)), np.full((2, 1), np.nan)),
        Comparison("energy", "eV", np.zeros((2, 1)), np.array([[1.0], [np.inf]])),
        Comparison("forces", "eV/Å", np.full((5, 3), -1e4), np.full((5, 3), 1e4)),
        forces(20_000),
    ],
    ids=["one", "zero", "nan", "infinite", "constant", "many"],
)
def test_unusual_values_can_be_drawn(comparison, tmp_path):
    parity_figure({"x": [comparison]}).savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_plot():
    with pytest.raises(ValueError, match="nothing to plot"):
        parity_figure({"train": []})


# --- matplotlib --------------------------------------------------------------------------

SCRIPT = """
import sys
import graph_pes.analysis as analysis
assert not any(name.split(".")[0] == "matplotlib" for name in sys.modules)
import matplotlib, numpy as np
def settings():  # reading rcParams["backend"] in the usual way would choose one
    return {key: matplotlib.rcParams._get(key) for key in matplotlib.rcParams}
before = settings()
x = np.ones((2, 3))
figure = analysis.parity_figure({"x": [analysis.Comparison("forces", "eV/Å", x, 2 * x)]})
figure.savefig(sys.argv[1], format="png")
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
"""


def test_figures_change_nothing_of_matplotlib(tmp_path):
    """No backend is chosen, no setting changed, no figure left in pyplot."""
    path = tmp_path / "figure.png"
    subprocess.run([sys.executable, "-c", SCRIPT, str(path)], check=True)
    assert path.stat().st_size > 1000


def test_the_current_axes_are_the_default(labelled):
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    try:
        ax = plt.figure().subplots()
        assert parity_plot(labelled.model, labelled.graphs) is ax
    finally:
        plt.close("all")
        matplotlib.use(before)


def test_what_is_missing_is_named(labelled, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"graph-pes\[plot\]"):
        parity_figure({"x": [forces()]})
    with pytest.raises(ImportError, match=r"graph-pes\[plot\]"):
        parity_plot(labelled.model, [molecule("H2O")])
