"""Energies of two atoms as a function of their distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.drivers import predict_all
from graph_pes.models.base import GraphPESModel

from .axes import given_or_current, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def dimer_energies(model: GraphPESModel, system: str, distances: np.ndarray) -> np.ndarray:
    """Energies of two atoms at given distances.

    Parameters
    ----------
    model
        The model.
    system
        One or two elements, such as ``"Cu"``, ``"O2"`` or ``"SiO"``.
    distances
        In Å, shape (K,).

    Returns
    -------
    np.ndarray
        In eV, shape (K,).

    Raises
    ------
    ValueError
        If ``system`` is neither one atom nor two.

    Examples
    --------
    >>> from graph_pes.models import LennardJones
    >>> r = np.array([1.0, 2 ** (1 / 6), 10.0])
    >>> dimer_energies(LennardJones(epsilon=0.5, sigma=1.0), "OH", r).round(3) + 0.0
    array([ 0. , -0.5,  0. ])
    """
    atoms = Atoms(system)
    if len(atoms) == 1:
        atoms += atoms
    if len(atoms) != 2:
        raise ValueError(f"expected one or two atoms, such as 'Cu' or 'SiO', got {system!r}")

    def dimer(r: float) -> AtomicGraph:
        atoms.positions = [[0, 0, 0], [r, 0, 0]]
        return AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=torch.float64)

    predictions = predict_all(model, map(dimer, distances), ["energy"], batch_size=256)
    return np.array([p["energy"].item() for p in predictions])


def dimer_curve(
    model: GraphPESModel,
    system: str,
    units: str | None = None,
    set_to_zero: bool = True,
    rmin: float = 0.9,
    rmax: float | None = None,
    ax: Axes | None = None,
    auto_lim: bool = True,
    n: int = 200,
    **plot_kwargs: Any,
) -> Line2D:
    """Plot the energy of two atoms against their distance.

    Parameters
    ----------
    model
        The model.
    system
        One or two elements, such as ``"Cu"``, ``"O2"`` or ``"SiO"``.
    units
        Unit of the energy, for the label of the axis.
    set_to_zero
        Subtract the energy at ``rmax``.
    rmin, rmax
        Range of distances in Å; by default up to 0.5 Å beyond the cutoff.
    ax
        Where to plot; by default on the current axes.
    auto_lim
        Choose limits that show the well rather than the repulsion.
    n
        Number of distances.
    **plot_kwargs
        Passed to ``Axes.plot``.

    Raises
    ------
    ValueError
        If ``system`` is neither one atom nor two, or ``rmin`` is not below ``rmax``.
    ImportError
        If matplotlib is missing.

    Examples
    --------
    >>> from graph_pes.models import Morse
    >>> from matplotlib.figure import Figure
    >>> line = dimer_curve(Morse(), "SiO", units="eV", ax=Figure().subplots())
    >>> line.get_xdata().shape
    (200,)
    """
    ax = given_or_current(ax)
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    rmax = model.cutoff_value + 0.5 if rmax is None else rmax
    if not 0 < rmin < rmax:
        raise ValueError(f"expected 0 < rmin < rmax, got {rmin} and {rmax} Å")
    distances = np.linspace(rmin, rmax, n)
    energies = dimer_energies(model, system, distances)
    if set_to_zero:
        energies = energies - energies[-1]
    options = {"linewidth": 1, "color": "k", **normalize_kwargs(plot_kwargs, Line2D)}
    (line,) = ax.plot(distances, energies, **options)
    if auto_lim:
        depth = energies[-1] - energies.min()
        height = 1.1 * (depth if depth > 0 else 0.1)
        ax.set_ylim(energies[-1] - height, energies[-1] + height)
        in_view = distances[energies < energies[-1] + height]
        ax.set_xlim(in_view[0] - 0.2, rmax + 0.2)
    ax.set_xlabel("r (Å)")
    ax.set_ylabel(f"Dimer energy ({units})" if units else "Dimer energy")
    tidy(ax, outward=10)
    return line
