"""``graph-pes-select``: structures of a file that should be labelled."""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import torch
from ase import Atoms

from graph_pes.analysis.selection import farthest_points, most_uncertain, structure_features
from graph_pes.atomic_graph import AtomicGraph
from graph_pes.drivers.predict import UNCERTAINTIES
from graph_pes.models import load_model
from graph_pes.training.messages import logger

from .settings import run_command

#: Ways to choose.
CRITERIA = ("features", *UNCERTAINTIES)


def select(
    model: Path,
    candidates: Path,
    out: Path,
    number: int,
    by: str = "features",
    known: Path | None = None,
    device: str = "cpu",
    batch_size: int = 20,
) -> list[int]:
    """Write the chosen structures, in the order of choice; their indices in the file.

    Raises
    ------
    ValueError
        If there are too few structures, or the model is not sure or unsure of anything.
    """
    loaded = load_model(model).to(device)
    structures = _read(candidates)
    graphs = [_graph(atoms, loaded.cutoff_value) for atoms in structures]
    if by == "features":
        others = [] if known is None else _read(known)
        further = [_graph(atoms, loaded.cutoff_value) for atoms in others]
        features = structure_features(loaded, [*graphs, *further], batch_size)
        chosen = farthest_points(features[: len(graphs)], number, features[len(graphs) :])
    else:
        chosen = most_uncertain(loaded, graphs, number, by, batch_size)
    ase.io.write(out, [structures[n] for n in chosen])
    logger.info("%s: %d of %d structures by %s", out, len(chosen), len(structures), by)
    return chosen


def _read(path: Path) -> list[Atoms]:
    found = ase.io.read(path, index=":")
    return found if isinstance(found, list) else [found]


def _graph(atoms: Atoms, cutoff: float) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, property_mapping={}, dtype=torch.float64)


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-select``."""
    arguments = _parser().parse_args(argv)
    run_command(lambda: select(**vars(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Choose structures to be labelled: the most unlike each other in the eyes of a "
        "model, or those that a committee is least sure of."
    )
    parser.add_argument("model", type=Path, help="model.pt")
    parser.add_argument("candidates", type=Path, help="a file that ASE can read")
    parser.add_argument("out", type=Path, help="the file to write, chosen.xyz")
    parser.add_argument("-n", "--number", type=int, required=True, help="how many to choose")
    parser.add_argument(
        "--by",
        choices=CRITERIA,
        default="features",
        help="farthest-point sampling of features (default), or the largest uncertainty",
    )
    parser.add_argument(
        "--known", type=Path, help="structures that are labelled already, to stay away from"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--batch-size", type=int, default=20, help="structures at once")
    return parser


if __name__ == "__main__":
    main()
