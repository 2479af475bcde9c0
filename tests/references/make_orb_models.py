"""Weights, energies, forces and stresses of small Orb-v3 networks, in double precision.

Run in an environment of its own, with ``pip install torch==2.13.0 orb-models==0.5.5``::

    python tests/references/make_orb_models.py tests/references/orb_models.npz

The cutoff of 6 Å is fixed there. Confidences are left out.
"""

from __future__ import annotations

import json
import sys

import ase
import numpy as np
import torch
from ase.build import bulk
from orb_models.forcefield.angular import SphericalHarmonics
from orb_models.forcefield.atomic_system import SystemConfig, ase_atoms_to_atom_graphs
from orb_models.forcefield.conservative_regressor import ConservativeForcefieldRegressor
from orb_models.forcefield.direct_regressor import DirectForcefieldRegressor
from orb_models.forcefield.forcefield_heads import EnergyHead, ForceHead, StressHead
from orb_models.forcefield.gns import MoleculeGNS
from orb_models.forcefield.nn_util import ChargeSpinConditioner
from orb_models.forcefield.rbf import BesselBasis
from structures import structures

ELEMENTS = [1, 6, 8, 14]
#: How the networks differ; the names are those of the arguments of ours.
VARIANTS = {
    "direct": {
        "conservative": False,
        "norm_type": "rms",
        "attention_gate": "sigmoid",
        "activation": "silu",
        "max_neighbours": 120,
    },
    "conservative": {
        "conservative": True,
        "norm_type": "rms",
        "attention_gate": "sigmoid",
        "activation": "silu",
        "max_neighbours": 20,
    },
    "softmax": {
        "conservative": True,
        "norm_type": "layer",
        "attention_gate": "softmax",
        "activation": "gelu",
        "max_neighbours": 120,
    },
    # As published: with the repulsion of cores; and as those called omol, with charge and spin.
    "direct-omol": {
        "conservative": False,
        "norm_type": "rms",
        "attention_gate": "sigmoid",
        "activation": "silu",
        "max_neighbours": 20,
        "channels": 8,
        "core_repulsion": "sum",
        "charge_and_spin": True,
    },
    "conservative-omol": {
        "conservative": True,
        "norm_type": "rms",
        "attention_gate": "sigmoid",
        "activation": "silu",
        "max_neighbours": 120,
        "channels": 8,
        "core_repulsion": "mean",
        "charge_and_spin": True,
    },
}
#: Such that forces are not small differences of large numbers.
SEEDS = {"direct": 5, "conservative": 3, "softmax": 3, "direct-omol": 5, "conservative-omol": 2}
SIZES = {
    "channels": 6,
    "layers": 2,
    "radial_features": 4,
    "l_max": 3,
    "mlp_layers": 2,
    "mlp_hidden_dim": 7,
}


def network(
    channels: int, norm_type: str, attention_gate: str, activation: str, charge_and_spin: bool
) -> MoleculeGNS:
    return MoleculeGNS(
        latent_dim=channels,
        num_message_passing_steps=SIZES["layers"],
        num_mlp_layers=SIZES["mlp_layers"],
        mlp_hidden_dim=SIZES["mlp_hidden_dim"],
        rbf_transform=BesselBasis(r_max=6.0, num_bases=SIZES["radial_features"]),
        angular_transform=SphericalHarmonics(
            lmax=SIZES["l_max"], normalize=True, normalization="component"
        ),
        outer_product_with_cutoff=True,
        use_embedding=True,
        interaction_params={"distance_cutoff": True, "attention_gate": attention_gate},
        node_feature_names=["feat"],
        edge_feature_names=["feat"],
        conditioner=ChargeSpinConditioner(channels) if charge_and_spin else None,
        activation=activation,
        mlp_norm=f"{norm_type}_norm",
    )


def make(variant: str) -> torch.nn.Module:
    options = {"channels": SIZES["channels"], "charge_and_spin": False, **VARIANTS[variant]}
    del options["max_neighbours"]
    repulsion = options.pop("core_repulsion", None) is not None
    activation, conservative = options["activation"], options.pop("conservative")
    base = network(**options)
    sizes = {"latent_dim": options["channels"], "num_mlp_layers": 1, "mlp_hidden_dim": 5}
    heads = {"energy": EnergyHead(**sizes, activation=activation)}
    if conservative:
        model = ConservativeForcefieldRegressor(
            heads=heads, model=base, ensure_grad_loss_weights=False, pair_repulsion=repulsion
        )
    else:
        heads["forces"] = ForceHead(**sizes, activation=activation)
        heads["stress"] = StressHead(**sizes, activation=activation)
        model = DirectForcefieldRegressor(heads=heads, model=base, pair_repulsion=repulsion)
    return model.double().eval()


def randomise(model: torch.nn.Module) -> None:
    """Weights and normalisers that are all different."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "reference" not in name:
                parameter.mul_(2.0).add_(0.3 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(0.5 + torch.rand(()).item())
            # A mean of the forces would be a net force.
            if name.endswith("running_mean") and "forces" not in name:
                buffer.fill_(torch.randn(()).item())


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The state under the names there, of the elements that are used."""
    skipped = ("_decoder", "num_batches_tracked", "grad_", "r_max", "prefactor")
    state = {
        name: value.numpy()
        for name, value in model.state_dict().items()
        if not any(part in name for part in skipped)
    }
    for name in ("model.atom_emb.embeddings.weight", "heads.energy.reference.linear.weight"):
        state[name] = state[name][ELEMENTS]
    return state


def predicted(model: torch.nn.Module, atoms: ase.Atoms, neighbours: int) -> dict[str, np.ndarray]:
    system = SystemConfig(radius=6.0, max_num_neighbors=neighbours)
    graph = ase_atoms_to_atom_graphs(
        atoms, system, wrap=False, device=torch.device("cpu"), output_dtype=torch.float64
    )
    found = {
        name.removeprefix("grad_"): value.detach().numpy()
        for name, value in model.predict(graph).items()
    }
    values = {"energy": found["energy"].reshape(()), "forces": found["forces"]}
    if atoms.pbc.all():
        xx, yy, zz, yz, xz, xy = found["stress"].reshape(6)
        values["stress"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return values


def pressed() -> ase.Atoms:
    """A crystal in which cores repel each other."""
    atoms = bulk("Si", a=4.2, cubic=True)
    atoms.set_cell(atoms.cell.array + [[0, 0.3, 0], [0, 0, 0.2], [0.1, 0, 0]], scale_atoms=True)
    atoms.symbols[::3] = "C"
    atoms.rattle(0.1, seed=0)
    return atoms


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    # It takes all directions as periodic, or none.
    used = [atoms for atoms in structures() if atoms.pbc.all() or not atoms.pbc.any()]
    used.append(pressed())
    for n, atoms in enumerate(used):
        atoms.info.update(charge=n % 3 - 1, spin=1 + n % 2)
    settings = {
        name: {**SIZES, **options, "cutoff": 6.0, "read_out": {"layers": 1, "hidden_dim": 5}}
        for name, options in VARIANTS.items()
    }
    frozen = {"settings": np.array(json.dumps(settings)), "elements": np.array(ELEMENTS)}
    for n, atoms in enumerate(used):
        frozen |= {
            f"structure.{n}.Z": atoms.numbers,
            f"structure.{n}.R": atoms.positions,
            f"structure.{n}.cell": atoms.cell.array,
            f"structure.{n}.pbc": atoms.pbc,
            f"structure.{n}.total_charge": np.array(atoms.info["charge"]),
            f"structure.{n}.total_spin": np.array(atoms.info["spin"]),
        }
    for variant, options in VARIANTS.items():
        torch.manual_seed(SEEDS[variant])
        model = make(variant)
        randomise(model)
        frozen |= {f"{variant}.weights.{k}": v for k, v in weights_of(model).items()}
        for n, atoms in enumerate(used):
            for key, value in predicted(model, atoms, options["max_neighbours"]).items():
                frozen[f"{variant}.structure.{n}.{key}"] = value
    np.savez_compressed(path, **frozen)


if __name__ == "__main__":
    main(sys.argv[1])
