"""Predictions plotted against labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from graph_pes.atomic_graph import (
    PROPERTIES,
    AtomicGraph,
    PropertyKey,
    divide_per_atom,
    to_batch,
)
from graph_pes.drivers import GraphPESCalculator, predict_all
from graph_pes.models.base import GraphPropertyModel

from .axes import COLOURS, given_or_current, new_figure, tidy
from .comparison import Comparison
from .errors import display_unit, three_digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Transform = Callable[[Tensor, AtomicGraph], Tensor]


def parity_plot(
    model: GraphPropertyModel | GraphPESCalculator,
    structures: Iterable[AtomicGraph] | Iterable[Atoms],
    property: PropertyKey = "energy",
    transform: Transform | None = None,
    units: str | None = None,
    ax: Axes | None = None,
    batch_size: int = 5,
    **scatter_kwargs: Any,
) -> Axes:
    """Plot the predictions of a model against the labels of some structures.

    Parameters
    ----------
    model
        A model, or a calculator of one.
    structures
        Graphs or ASE structures. Those that lack the label are left out.
    property
        Such as ``"forces"``, or ``"energy_per_atom"``.
    transform
        Applied to labels and predictions: a function of values and of the batch of all
        structures, such as `divide_per_atom`.
    units
        Unit of the values, for the labels of the axes.
    ax
        Where to plot; by default on the current axes.
    batch_size
        Number of structures to evaluate at once.
    **scatter_kwargs
        Passed to ``Axes.scatter``, such as ``label`` and ``c``.

    Raises
    ------
    ValueError
        If no structure has the label.
    ImportError
        If matplotlib is missing.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from matplotlib.figure import Figure
    >>> from graph_pes.models import LennardJones
    >>> water = molecule("H2O")
    >>> water.info["energy"] = -14.2
    >>> ax = parity_plot(LennardJones(), [water], units="eV", ax=Figure().subplots())
    >>> ax.get_xlabel()
    'True energy (eV)'
    """
    ax = given_or_current(ax)
    model = model.model if isinstance(model, GraphPESCalculator) else model
    if property == "energy_per_atom":
        property, transform = "energy", transform or divide_per_atom
    reference, predicted = _pairs(model, structures, property, transform, batch_size)
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.collections import PathCollection

    options = normalize_kwargs(scatter_kwargs, PathCollection)
    ax.scatter(reference, predicted, **{"linewidth": 0, "clip_on": False, **options})
    ax.axline((reference[0], reference[0]), slope=1, c="k", ls="--", lw=1)
    name = property.replace("_", " ") + (f" ({units})" if units else "")
    ax.set_xlabel(f"True {name}")
    ax.set_ylabel(f"Predicted {name}")
    ax.set_aspect("equal", "datalim")
    limits = [*ax.get_xlim(), *ax.get_ylim()]
    ax.set_xlim(min(limits), max(limits))
    ax.set_ylim(min(limits), max(limits))
    tidy(ax, outward=10)
    return ax


def _pairs(
    model: GraphPropertyModel,
    structures: Iterable[AtomicGraph] | Iterable[Atoms],
    property: PropertyKey,
    transform: Transform | None,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions, shape (K,) each, transformed."""
    graphs = [
        AtomicGraph.from_ase(s, model.cutoff_value, dtype=torch.float64)
        if isinstance(s, Atoms)
        else s
        for s in structures
    ]
    graphs = [g for g in graphs if property in g.properties]
    predictions = predict_all(model, graphs, [property], batch_size)
    both = [(g, p[property]) for g, p in zip(graphs, predictions, strict=True) if property in p]
    if not both:
        raise ValueError(f"none of the structures has the label {property!r}: nothing to plot")
    batch = to_batch([graph for graph, _ in both])
    per_atom = property in PROPERTIES and PROPERTIES[property].per == "atom"
    values = [value for _, value in both]
    predicted = torch.cat(values) if per_atom else torch.stack(values)
    pair = (batch.properties[property], predicted)
    if transform is not None:
        pair = (transform(pair[0], batch), transform(pair[1], batch))
    x, y = (value.detach().cpu().double().reshape(-1).numpy() for value in pair)
    return x, y


def parity_figure(comparisons: Mapping[str, Sequence[Comparison]]) -> Figure:
    """One panel per property, with predictions and, below them, their errors.

    The figure belongs to no window, and no setting of matplotlib is changed. Write it with
    ``figure.savefig(path)``.

    Parameters
    ----------
    comparisons
        By the name of the data set: see `compare`.

    Raises
    ------
    ValueError
        If there is nothing to plot.
    ImportError
        If matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> figure = parity_figure({"test": [Comparison("forces", "eV/Å", x, 1.1 * x)]})
    >>> len(figure.axes)
    2
    """
    properties = list(dict.fromkeys(c.property for cs in comparisons.values() for c in cs))
    if not properties:
        raise ValueError("nothing to plot: no structure has a label that the model predicts")
    figure = new_figure(3.5 * len(properties), 4.65)
    axes = figure.subplots(2, len(properties), height_ratios=[3, 1], sharex="col", squeeze=False)
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(comparisons)}
    for property, (above, below) in zip(properties, axes.T, strict=True):
        named = {name: c for name, cs in comparisons.items() for c in cs if c.property == property}
        _draw_values(above, below, named, colours)
        _label_axes(above, below, next(iter(named.values())), _origin(named))
    figure.align_ylabels(axes)
    return figure


def _draw_values(
    above: Axes, below: Axes, comparisons: Mapping[str, Comparison], colours: Mapping[str, str]
) -> None:
    """Predictions above, errors below; all finite values are within the limits."""
    origin = _origin(comparisons)
    _, factor = display_unit(next(iter(comparisons.values())).unit)
    all_values, all_errors = [], []
    for name, comparison in comparisons.items():
        x, y = comparison.reference.ravel() - origin, comparison.predicted.ravel() - origin
        errors = factor * (y - x)
        mae, rmse = np.abs(errors).mean(), np.sqrt((errors**2).mean())
        # Large errors go to the back, so that they do not hide the small ones.
        style = {
            **_marker_style(len(x), colours[name]),
            "zorder": 2 + np.nan_to_num(1 / (1 + rmse)),
        }
        above.plot(x, y, label=f"{name}: {three_digits(mae)} / {three_digits(rmse)}", **style)
        below.plot(x, errors, **style)
        all_values += [x, y]
        all_errors.append(errors)
    low, high = _limits(np.concatenate(all_values))
    above.set(xlim=(low, high), ylim=(low, high), box_aspect=1)
    largest = max(map(abs, _limits(np.concatenate(all_errors))))
    below.set_ylim(-largest, largest)
    above.axline((low, low), slope=1, c="0.6", lw=0.8, zorder=1)
    below.axhline(0, c="0.6", lw=0.8, zorder=1)


def _label_axes(above: Axes, below: Axes, comparison: Comparison, origin: float) -> None:
    """Names, units, ticks and legend."""
    error_unit, _ = display_unit(comparison.unit)
    unit, error_unit = (
        u.replace("^2", "²").replace("^3", "³") for u in (comparison.unit, error_unit)
    )
    shift = f" {'−' if origin > 0 else '+'} {abs(origin):g}" if origin else ""
    name = comparison.property.removesuffix("_per_atom").replace("_", " ") + shift
    above.set_ylabel(f"predicted {name} ({unit})", fontsize=9)
    below.set_xlabel(f"reference {name} ({unit})", fontsize=9)
    below.set_ylabel(f"error ({error_unit})", fontsize=9)
    tidy(above)
    tidy(below, n_ticks=(5, 3))
    for ax in (above, below):
        ax.tick_params(labelsize=8)
    legend = above.legend(
        title=f"MAE / RMSE ({error_unit})",
        loc="upper left",
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
        handletextpad=0.2,
        borderaxespad=0.2,
    )
    for line in legend.get_lines():
        line.set(markersize=5, alpha=1.0)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Range of the finite values, with a margin."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return -1.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _origin(comparisons: Mapping[str, Comparison]) -> float:
    """What to subtract from values so that ticks stay short: 0 if they are not far from 0."""
    values = np.concatenate([c.reference.ravel() for c in comparisons.values()])
    centre, width = float(np.median(values)), float(np.ptp(values))
    if width == 0 or abs(centre) < 10 * width:
        return 0.0
    return round(centre, -int(np.floor(np.log10(width))))


def _marker_style(count: int, colour: str) -> dict[str, Any]:
    """Smaller and more transparent points where there are many."""
    crowd = np.clip(np.log10(max(count, 1)) - 1.5, 0, 4)  # 30 points or fewer: 0
    return {
        "ls": "",
        "marker": "o",
        "mew": 0,
        "ms": 4.5 - 0.75 * crowd,
        "alpha": 0.9 - 0.15 * crowd,
        "c": colour,
        "rasterized": True,
    }
