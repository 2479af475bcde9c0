"""Uncertainties of committees beside the errors that they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from graph_pes.atomic_graph import PROPERTIES, AtomicGraph, PropertyKey
from graph_pes.drivers.predict import predict_all
from graph_pes.models.base import GraphPESModel
from graph_pes.models.committee import Committee
from graph_pes.models.last_layers import LastLayerCommittee

from .axes import COLOURS, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Points in each step of the curve of a calibration plot, at least, and steps at most.
PER_STEP, STEPS = 10, 12


@dataclass(frozen=True)
class Calibration:
    """Predicted uncertainties and errors of one property over a data set.

    Attributes
    ----------
    property
        ``energy``, of structures, or ``forces``, of atoms.
    unit
        Of both.
    sigma
        Predicted uncertainties, shape (K,).
    error
        Errors of energies, or lengths of the errors of forces, none negative: shape (K,).
    """

    property: PropertyKey
    unit: str
    sigma: np.ndarray
    error: np.ndarray

    def factor(self) -> float:
        r"""What the uncertainties would have to be multiplied by.

        :math:`\sqrt{\langle \Delta^2 / \sigma^2 \rangle}`, the most likely factor for errors
        :math:`\Delta` that are normally distributed with width :math:`\sigma`; 1 is perfect.

        Raises
        ------
        ValueError
            If an uncertainty is zero.
        """
        if not (self.sigma > 0).all():
            raise ValueError(
                f"{int((self.sigma == 0).sum())} uncertainties of {self.property} are zero: the "
                "members of the committee are equal, or do not see these structures"
            )
        return float(np.sqrt(np.mean((self.error / self.sigma) ** 2)))

    def correlation(self) -> float:
        """Rank correlation (Spearman) of uncertainties and errors: 1 is perfect, 0 is chance."""
        a, b = (np.argsort(np.argsort(x)) for x in (self.sigma, self.error))
        middle = (len(a) - 1) / 2
        return float(((a - middle) * (b - middle)).sum() / ((a - middle) ** 2).sum())


def calibration(
    model: GraphPESModel, graphs: Iterable[AtomicGraph], batch_size: int = 5
) -> list[Calibration]:
    """Compare the uncertainties that a committee predicts with the errors that it makes.

    Parameters
    ----------
    model
        A committee, or a sum with one.
    graphs
        Structures with labels, that it was not trained on.
    batch_size
        Number of structures to evaluate at once.

    Returns
    -------
    list[Calibration]
        Of the energy and of forces, as far as there are labels.

    Raises
    ------
    ValueError
        If the model is no committee, or there are neither energies nor forces.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from graph_pes.models import Morse
    >>> water = molecule("H2O")
    >>> water.info["energy"] = -14.2
    >>> committee = Committee([Morse(D=0.1), Morse(D=0.2)])
    >>> (energy,) = calibration(committee, [AtomicGraph.from_ase(water, cutoff=5.0)])
    >>> energy.property, energy.sigma.shape
    ('energy', (1,))
    """
    if "energy_uncertainty" not in model.predictable_properties:
        raise ValueError(
            f"expected a committee, which predicts uncertainties, got a {type(model).__name__}"
        )
    graphs = list(graphs)
    results = []
    for key in ("energy", "forces"):
        labelled = [graph for graph in graphs if key in graph.properties]
        if labelled:
            found = predict_all(model, labelled, [key, f"{key}_uncertainty"], batch_size)
            rows = [
                ((p[key] - g.properties[key].cpu()).reshape(-1, 3 if key == "forces" else 1), p)
                for g, p in zip(labelled, found, strict=True)
            ]
            sigma = torch.cat([p[f"{key}_uncertainty"].reshape(-1).double() for _, p in rows])
            error = torch.cat([difference.double().norm(dim=1) for difference, _ in rows])
            unit = PROPERTIES[key].unit
            results.append(Calibration(key, unit, sigma.numpy(), error.numpy()))
    if not results:
        raise ValueError("expected structures with energies or forces, got none")
    return results


def calibrate(
    model: Committee | LastLayerCommittee,
    graphs: Iterable[AtomicGraph],
    property: PropertyKey = "forces",
    batch_size: int = 5,
) -> float:
    """Set the scale of a committee so that its uncertainties are as large as its errors.

    The scale is saved with the model, and is part of its uncertainties everywhere.

    Parameters
    ----------
    model
        A committee.
    graphs
        Validation structures, with labels, that it was not trained on.
    property
        Whose errors are fitted: ``"forces"`` or ``"energy"``.
    batch_size
        Number of structures to evaluate at once.

    Returns
    -------
    float
        The scale.

    Raises
    ------
    TypeError
        If the model is no committee.
    ValueError
        If the structures lack the labels, or an uncertainty is zero.
    """
    if not isinstance(model, Committee | LastLayerCommittee):
        raise TypeError(f"calibrate: expected a committee, got a {type(model).__name__}")
    found = {c.property: c for c in calibration(model, graphs, batch_size)}
    if property not in found:
        raise ValueError(f"calibrate: expected structures with {property!r}, got {list(found)}")
    with torch.no_grad():
        model.scale.mul_(found[property].factor())
    return float(model.scale)


def calibration_figure(calibrations: Mapping[str, Sequence[Calibration]]) -> Figure:
    """Errors against predicted uncertainties: one panel per property, on logarithmic axes.

    Points are structures or atoms; the curve is the root mean square error of those with similar
    uncertainties, which is on the diagonal if these are right.

    Parameters
    ----------
    calibrations
        By the name of the data set: see `calibration`.

    Raises
    ------
    ValueError
        If there is nothing to plot.
    ImportError
        If matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> sigma = np.random.default_rng(0).uniform(0.1, 1, 200)
    >>> error = np.abs(sigma * np.random.default_rng(1).normal(size=200))
    >>> figure = calibration_figure({"test": [Calibration("energy", "eV", sigma, error)]})
    >>> figure.axes[0].get_xlabel()
    'predicted uncertainty of the energy (eV)'
    """
    properties = list(dict.fromkeys(c.property for cs in calibrations.values() for c in cs))
    if not properties:
        raise ValueError("nothing to plot: there is no calibration")
    figure = new_figure(3.8 * len(properties), 3.8)
    axes = figure.subplots(1, len(properties), squeeze=False)[0]
    for ax, property in zip(axes, properties, strict=True):
        _draw(ax, {k: c for k, cs in calibrations.items() for c in cs if c.property == property})
    return figure


def _draw(ax: Axes, calibrations: Mapping[str, Calibration]) -> None:
    """One panel."""
    for n, (name, calibration) in enumerate(calibrations.items()):
        colour = COLOURS[n % len(COLOURS)]
        positive = (calibration.sigma > 0) & (calibration.error > 0)
        sigma, error = calibration.sigma[positive], calibration.error[positive]
        size = float(np.clip(200 / max(len(sigma), 1) ** 0.6, 1, 12))
        ax.scatter(sigma, error, s=size, c=colour, alpha=0.25, linewidth=0, rasterized=True)
        steps = int(np.clip(len(sigma) // PER_STEP, 1, STEPS))
        groups = np.array_split(np.argsort(sigma), steps)
        curve = [
            [np.sqrt(np.mean(values[group] ** 2)) for group in groups] for values in (sigma, error)
        ]
        label = f"{name}: error / uncertainty {calibration.factor():.2f}"
        ax.plot(*curve, "o-", c=colour, ms=4, mec="w", mew=0.5, label=label)
    tidy(ax)
    ax.set(xscale="log", yscale="log")
    ax.axline((1, 1), (2, 2), c="k", ls="--", lw=1, zorder=1)
    first = next(iter(calibrations.values()))
    of = {"energy": "of the energy", "forces": "of a force"}[first.property]
    ax.set_xlabel(f"predicted uncertainty {of} ({first.unit})", fontsize=9)
    ax.set_ylabel(f"error {of} ({first.unit})", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
