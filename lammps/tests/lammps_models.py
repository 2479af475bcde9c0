"""The smallest models of each architecture: to compile one takes many seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, neighbour_distances
from graph_pes.deploy.cache import compiled_file
from graph_pes.models import (
    ANI,
    EDDP,
    MACE,
    PET,
    AdditionModel,
    CHGNet,
    FixedOffset,
    GraphPESModel,
    LennardJones,
    M3GNet,
    NequIP,
    Orb,
    PaiNN,
    SchNet,
    SmoothedPairPotential,
    StillingerWeber,
    TensorNet,
)
from graph_pes.models.base import GraphPropertyModel
from tests.conformance.models import randomised
from tests.direct_forces import DirectForces

#: For a compiler that is to be quick: it does not optimise, nor look for what it could join.
QUICK = {"aot_inductor.debug_compile": True, "cpp.simdlen": 1, "max_fusion_size": 1}

ELEMENTS = ["Si", "O"]
CUTOFF = 3.5
FEATURES = {"channels": [4, 2], "l_max": 1, "use_odd_parity": False}


def pair() -> GraphPESModel:
    return LennardJones(CUTOFF, epsilon=0.1, sigma=1.9)


def sum_of_models() -> GraphPESModel:
    """Of networks, three-body potentials, and energies of atoms; a core keeps atoms apart."""
    return AdditionModel(
        network=randomised(PaiNN(channels=4, radial_features=5, layers=2, cutoff=CUTOFF)),
        three_body=randomised(EDDP(ELEMENTS, CUTOFF, features=3, three_body_cutoff=2.5)),
        silicon=StillingerWeber(sigma=1.7),
        core=SmoothedPairPotential(LennardJones(CUTOFF, epsilon=0.5, sigma=1.9)),
        offset=FixedOffset(Si=-100.0, O=-200.0),
    )


class WithoutHook(GraphPESModel):
    """Looks its neighbours up by itself, as models of users may: ghosts must be computed."""

    def __init__(self) -> None:
        super().__init__(3.0, ["local_energies"])
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        """Local energies after three layers."""
        i, j = graph.neighbour_list
        near = (1 - (neighbour_distances(graph) / self.cutoff).clamp(max=1) ** 2) ** 3
        x = graph.Z.to(near) / 10
        for _ in range(3):
            x = x + torch.tanh(torch.zeros_like(x).index_add(0, i, near * x[j] * self.weight))
        return {"local_energies": x}


FACTORIES: dict[str, Callable[[], GraphPESModel]] = {
    "NequIP": lambda: NequIP(ELEMENTS, cutoff=CUTOFF, layers=2, features=FEATURES),
    "MACE": lambda: MACE(
        ELEMENTS,
        cutoff=CUTOFF,
        channels=2,
        hidden_irreps="0e",
        l_max=1,
        layers=2,
        correlation=2,
        weights_mlp={"hidden_depth": 1},
    ),
    "M3GNet": lambda: M3GNet(CUTOFF, three_body_cutoff=3.0, channels=4, layers=2),
    "sum": sum_of_models,
    "TensorNet": lambda: TensorNet(CUTOFF, radial_features=4, channels=4, layers=1),
    "Orb": lambda: Orb(CUTOFF, conservative=True, channels=6, layers=2, mlp_hidden_dim=8),
    "Orb-direct": lambda: Orb(
        CUTOFF,
        channels=6,
        layers=1,
        mlp_hidden_dim=8,
        read_out={"energy": "mean"},
        direct_stress=True,
        core_repulsion="sum",
        max_neighbours=9,
    ),
    "CHGNet": lambda: CHGNet(
        CUTOFF,
        bond_cutoff=2.8,
        channels=4,
        layers=3,
        radial_features=4,
        angular_features=3,
        hidden_channels=4,
        read_out_layers=[4],
    ),
    "ANI": lambda: ANI(
        ELEMENTS, CUTOFF, 3.0, radial_shifts=4, angular_shifts=3, sections=2, hidden=[6, 4]
    ),
    "PET": lambda: PET(
        ELEMENTS,
        CUTOFF,
        channels=4,
        node_channels=6,
        transformers=1,
        layers=1,
        heads=2,
        hidden_channels=4,
        head_channels=4,
        adaptive_cutoff={"neighbours": 6, "method": "grid"},
    ),
    "SchNet": lambda: SchNet(channels=6, expansion_features=8, layers=3, cutoff=CUTOFF),
    "pair": pair,
    "without-hook": WithoutHook,
    "direct-forces": DirectForces,
}


def make_model(name: str) -> GraphPESModel:
    """The same weights, in double precision, each time."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = FACTORIES[name]()
    finally:
        torch.set_default_dtype(default)
    if name not in ("sum", "pair", "without-hook", "direct-forces"):
        randomised(model, factor={"M3GNet": 2.0, "MACE": 1.0}.get(name, 1.3))
    return model.eval()


def quickly_compiled(model: GraphPropertyModel) -> Path:
    """The file of a model, whose code is as slow as it was quick to make."""
    with torch._inductor.config.patch(QUICK):
        return compiled_file(model)
