"""Times the original implementation of a model, as `worker.py` times graph-pes.

Runs in the environment of one original package, with ase; weights are random.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import ase
import torch
from structures import CUTOFF, benzene_dimers, silicon

#: Gives energy, forces and, where it was asked for, stress.
Predict = Callable[[], dict[str, torch.Tensor]]


def schnetpack(
    name: str, structures: Sequence[ase.Atoms], stress: bool
) -> tuple[torch.nn.Module, Predict]:
    """PaiNN and SchNet of schnetpack."""
    from torch.utils.data import dataloader

    dataloader.T_co = Any  # schnetpack 2.1.1 imports this name, which torch no longer has
    import schnetpack as spk
    from schnetpack.interfaces import AtomsConverter
    from schnetpack.transform import MatScipyNeighborList

    cutoff_fn = spk.nn.CosineCutoff(CUTOFF)
    if name == "PaiNN 128x3":
        radial = spk.nn.BesselRBF(n_rbf=20, cutoff=CUTOFF)
        network = spk.representation.PaiNN(128, 3, radial, cutoff_fn)
    else:
        radial = spk.nn.GaussianRBF(n_rbf=50, cutoff=CUTOFF)
        network = spk.representation.SchNet(128, 3, radial, cutoff_fn)
    model = spk.model.NeuralNetworkPotential(
        network,
        input_modules=[
            *([spk.atomistic.Strain()] if stress else []),
            spk.atomistic.PairwiseDistances(),
        ],
        output_modules=[
            spk.atomistic.Atomwise(128, output_key="energy"),
            spk.atomistic.Forces(calc_stress=stress),
        ],
    )
    convert = AtomsConverter(MatScipyNeighborList(CUTOFF), dtype=torch.float32, device="cpu")
    inputs = convert(list(structures))

    return model, lambda: model(dict(inputs))


def nequip(
    name: str, structures: Sequence[ase.Atoms], stress: bool
) -> tuple[torch.nn.Module, Predict]:
    """NequIP of nequip, which always computes stress where there is a cell."""
    from nequip.data import AtomicDataDict, from_ase
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state(allow_tf32=False)
    elements = ["H", "C", "Si"]
    model = NequIPGNNModel(
        seed=0,
        model_dtype="float32",
        r_max=CUTOFF,
        type_names=elements,
        num_layers=3,
        l_max=int("l=2" in name) + 1,
        parity=False,
        num_features=64,
        radial_mlp_depth=2,
        radial_mlp_width=8,
        avg_num_neighbors=28.0,
    )
    species = ChemicalSpeciesToAtomTypeMapper(elements)
    neighbours = NeighborListTransform(CUTOFF)
    data = [species(neighbours(from_ase(atoms))) for atoms in structures]
    inputs = AtomicDataDict.batched_from_list(data)

    def predict() -> dict[str, torch.Tensor]:
        found = model(dict(inputs))
        return {"energy": found["total_energy"], "forces": found["forces"]}

    return model, predict


def torchmd_net(
    name: str, structures: Sequence[ase.Atoms], stress: bool
) -> tuple[torch.nn.Module, Predict]:
    """TensorNet of TorchMD-Net, which has no stress."""
    from torchmdnet.models.model import create_model

    model = create_model(
        {
            "model": "tensornet",
            "embedding_dimension": 128,
            "num_layers": 2,
            "num_rbf": 32,
            "rbf_type": "expnorm",
            "trainable_rbf": True,
            "activation": "silu",
            "cutoff_lower": 0.0,
            "cutoff_upper": CUTOFF,
            "max_z": 20,
            "max_num_neighbors": 64,
            "equivariance_invariance_group": "O(3)",
            "precision": 32,
            "prior_model": None,
            "atom_filter": -1,
            "derivative": True,
            "output_model": "Scalar",
            "reduce_op": "sum",
        }
    )
    Z = torch.cat([torch.tensor(s.numbers) for s in structures])
    R = torch.cat([torch.tensor(s.positions) for s in structures]).float()
    batch = torch.arange(len(structures)).repeat_interleave(torch.tensor([*map(len, structures)]))
    (*_, last) = structures
    box = torch.tensor(last.cell.array).float() if last.pbc.any() else None

    def predict() -> dict[str, torch.Tensor]:
        energy, forces = model(Z, R.clone(), batch, box=box)
        return {"energy": energy, "forces": forces}

    return model, predict


def mace_torch(
    name: str, structures: Sequence[ase.Atoms], stress: bool
) -> tuple[torch.nn.Module, Predict]:
    """MACE of mace-torch, as it is trained by default."""
    import numpy as np
    from mace import data, modules  # before e3nn, which it makes work with this torch
    from mace.tools import AtomicNumberTable
    from mace.tools.torch_geometric import Batch

    o3 = modules.models.o3
    elements = [1, 6, 14]
    interaction = modules.RealAgnosticResidualInteractionBlock
    model = modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps("128x0e + 128x1o" if "L=1" in name else "128x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(elements)),
        avg_num_neighbors=28.0,
        atomic_numbers=elements,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    table = AtomicNumberTable(elements)
    graphs = [
        data.AtomicData.from_config(data.config_from_atoms(s), z_table=table, cutoff=CUTOFF)
        for s in structures
    ]
    inputs = Batch.from_data_list(graphs).to_dict()

    def predict() -> dict[str, torch.Tensor]:
        return model(dict(inputs), training=model.training, compute_stress=stress)

    return model, predict


def orb_models(
    name: str, structures: Sequence[ase.Atoms], stress: bool
) -> tuple[torch.nn.Module, Predict]:
    """Orb of orb-models; conservative models always compute stress, direct ones do not here."""
    from orb_models.forcefield.angular import SphericalHarmonics
    from orb_models.forcefield.atomic_system import SystemConfig, ase_atoms_to_atom_graphs
    from orb_models.forcefield.base import batch_graphs
    from orb_models.forcefield.conservative_regressor import ConservativeForcefieldRegressor
    from orb_models.forcefield.direct_regressor import DirectForcefieldRegressor
    from orb_models.forcefield.forcefield_heads import EnergyHead, ForceHead
    from orb_models.forcefield.gns import MoleculeGNS
    from orb_models.forcefield.rbf import BesselBasis

    network = MoleculeGNS(
        latent_dim=128,
        num_message_passing_steps=3,
        num_mlp_layers=2,
        mlp_hidden_dim=512,
        rbf_transform=BesselBasis(r_max=6.0, num_bases=8),
        angular_transform=SphericalHarmonics(3, normalize=True, normalization="component"),
        outer_product_with_cutoff=True,
        use_embedding=True,
        interaction_params={"distance_cutoff": True, "attention_gate": "sigmoid"},
        activation="silu",
    )
    head = {"latent_dim": 128, "num_mlp_layers": 2, "mlp_hidden_dim": 512, "activation": "ssp"}
    heads: dict[str, torch.nn.Module] = {"energy": EnergyHead(**head)}
    if "direct" in name:
        heads["forces"], prefix = ForceHead(**head), ""
        model = DirectForcefieldRegressor(heads=heads, model=network)
    else:
        model = ConservativeForcefieldRegressor(
            heads=heads, model=network, ensure_grad_loss_weights=False
        )
        prefix = "grad_"
    system = SystemConfig(radius=CUTOFF, max_num_neighbors=120)
    batch = batch_graphs([ase_atoms_to_atom_graphs(atoms, system) for atoms in structures])

    def predict() -> dict[str, torch.Tensor]:
        with torch.set_grad_enabled(model.training or prefix != ""):
            found = model.predict(batch.clone())
        return {"energy": found["energy"], "forces": found[f"{prefix}forces"]}

    return model, predict


Builder = Callable[[str, Sequence[ase.Atoms], bool], tuple[torch.nn.Module, Predict]]
BUILDERS: dict[str, Builder] = {
    "PaiNN 128x3": schnetpack,
    "SchNet 128x3": schnetpack,
    "TensorNet 128x2": torchmd_net,
    "NequIP 64 l=1 x3": nequip,
    "NequIP 64 l=2 x3": nequip,
    "MACE 128 L=0": mace_torch,
    "MACE 128 L=1": mace_torch,
    "Orb 128x3": orb_models,
    "Orb direct 128x3": orb_models,
}


def repeat_of(request: dict[str, Any]) -> Callable[[], object]:
    """What one repeat of a task does."""
    size, training = request["size"], request["task"].startswith("training")
    structures = benzene_dimers(size) if "dimers" in request["task"] else [silicon(size)]
    model, predict = BUILDERS[request["model"]](request["model"], structures, not training)
    if not training:
        model.eval()
        return predict

    n_atoms = sum(map(len, structures))
    forces = torch.cat([torch.tensor(s.positions * 0.01) for s in structures]).float()
    assert forces.shape == (n_atoms, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        predictions = predict()
        loss = ((predictions["energy"] + 1) ** 2).mean()
        loss = loss + ((predictions["forces"] - forces) ** 2).mean()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Serve one task."""
    request = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with redirect_stdout(sys.stderr):  # what packages print would be taken for answers
        run = repeat_of(request)
        for _ in range(3):
            run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        run()
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
