"""Axes to draw on, without touching the settings of matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Told apart also with a colour-vision deficiency (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def require_matplotlib() -> None:
    """Make sure that figures can be drawn.

    Raises
    ------
    ImportError
        If matplotlib is missing, naming the extra that brings it.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'graph-pes[plot]'") from error


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that belongs to no window."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def given_or_current(ax: Axes | None) -> Axes:
    """The axes themselves, or pyplot's current ones."""
    require_matplotlib()
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()


def tidy(ax: Axes, outward: float = 0.0, n_ticks: tuple[int, int] = (5, 5)) -> None:
    """Only the left and bottom spines, moved outward by some points, and at most so many ticks."""
    from matplotlib.ticker import MaxNLocator

    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_position(("outward", outward))
    ax.xaxis.set_major_locator(MaxNLocator(n_ticks[0]))
    ax.yaxis.set_major_locator(MaxNLocator(n_ticks[1]))
