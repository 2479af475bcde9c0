"""The errors of a model over data sets, as a table and a figure in a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.files import atomic_write
from graph_pes.models.base import GraphPropertyModel

from .comparison import Comparison, compare
from .errors import ErrorRow, error_rows, write_error_table
from .parity import parity_figure

logger = logging.getLogger(__name__)


def report(
    model: GraphPropertyModel,
    datasets: Mapping[str, Iterable[AtomicGraph]],
    folder: Path,
    batch_size: int = 5,
    groups: Mapping[str, Sequence[str | None] | None] | None = None,
) -> list[ErrorRow]:
    """Write ``errors.csv`` and ``parity.png`` to a folder, replacing older ones.

    The model is evaluated once on each structure. Without matplotlib, or without any label
    that the model predicts, no figure is drawn; a warning is logged.

    Parameters
    ----------
    model
        Evaluated where it is, in evaluation mode, and left in the mode it was in.
    datasets
        By name.
    folder
        Made if it does not exist.
    batch_size
        Number of structures to evaluate at once.
    groups
        For each data set that has them, a name per structure such as its ``config_type``:
        the table has errors of each group.

    Returns
    -------
    list[ErrorRow]
        What ``errors.csv`` holds.

    Raises
    ------
    ValueError
        If there is not one group per structure.

    Examples
    --------
    >>> import tempfile
    >>> from ase.build import molecule
    >>> from graph_pes.models import LennardJones
    >>> water = molecule("H2O")
    >>> water.info["energy"] = -14.2
    >>> folder = Path(tempfile.mkdtemp())
    >>> graphs = [AtomicGraph.from_ase(water, cutoff=5.0)]
    >>> (row,) = report(LennardJones(), {"test": graphs}, folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['errors.csv', 'parity.png']
    """
    comparisons: dict[str, list[Comparison]] = {
        name: compare(model, graphs, batch_size, (groups or {}).get(name))
        for name, graphs in datasets.items()
    }
    rows = [row for name, values in comparisons.items() for row in error_rows(name, values)]
    folder = Path(folder)
    write_error_table(folder / "errors.csv", rows)
    if not rows:
        logger.warning("no label that the model predicts in any data set: no parity plot drawn")
        return rows
    try:
        figure = parity_figure(comparisons)
    except ImportError as error:
        logger.warning("%s (no parity plot drawn)", error)
        return rows
    with atomic_write(folder / "parity.png") as temporary:
        figure.savefig(temporary, format="png", dpi=200)
    return rows
