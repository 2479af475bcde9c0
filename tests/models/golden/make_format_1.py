"""Makes format_1.pt, a model file of format 1, and format_1.json, what the model predicts.

Run once, when format 1 was introduced; do not run again::

    python tests/models/golden/make_format_1.py tests/models/golden
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from ase.build import molecule

from graph_pes import AtomicGraph, save_model
from graph_pes.models import (
    AdditionModel,
    LearnableOffset,
    LennardJones,
    PaiNN,
    SchNet,
    UnitConverter,
    freeze_matching,
)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = AdditionModel(
        painn=PaiNN(channels=2, radial_features=3, layers=2, cutoff=3.0).double(),
        schnet=SchNet(cutoff=2.5, channels=2, expansion_features=3, layers=1, expansion="Bessel"),
        pair=UnitConverter(LennardJones.from_ase(0.1, 2.0, rc=0.3, smooth=True), 0.01036427, 10.0),
        offset=LearnableOffset(H=-13.587222780835477, C=-1029.4889999148424),
    )
    model.register_elements([1, 6, 8])
    freeze_matching(model, r"models\.painn\.embedding")
    save_model(model, folder / "format_1.pt", {"note": "golden", "epoch": 3})
    graph = AtomicGraph.from_ase(molecule("CH3CH2OH"), 3.0, dtype=torch.float64)
    predicted = model.eval().predict(graph, ["energy", "forces"])
    frozen = {key: value.tolist() for key, value in predicted.items()}
    (folder / "format_1.json").write_text(json.dumps(frozen, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
