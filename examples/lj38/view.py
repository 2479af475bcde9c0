"""Structures of the cluster beside their collective variables, in chemiscope.

    pip install chemiscope
    python examples/lj38/view.py md.traj lj38.json.gz

writes a file for https://chemiscope.org, of every frame or of at most 500.
"""

import sys

import chemiscope
import torch
from ase.io import read
from collective_variables import CUTOFF, Steinhardt, histogram

from graph_pes.atomic_graph import AtomicGraph, to_batch


def main(trajectory: str, out: str) -> None:
    """Evaluate the variables of the frames, and write them."""
    frames = read(trajectory, ":")
    frames = frames[:: len(frames) // 500 + 1]
    batch = to_batch([AtomicGraph.from_ase(atoms, CUTOFF) for atoms in frames])
    with torch.no_grad():
        values = torch.cat([histogram(batch), Steinhardt()(batch)], dim=1).numpy()
    for atoms in frames:
        atoms.calc = None
    properties = dict(zip(("n6", "n8", "q4", "q6"), values.T, strict=True))
    settings = chemiscope.quick_settings(x="n6", y="n8", map_color="q6")
    chemiscope.write_input(
        out,
        structures=frames,
        properties={name: {"target": "structure", "values": x} for name, x in properties.items()},
        settings=settings,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
