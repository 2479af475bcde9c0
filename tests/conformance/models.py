"""One row for every model: a name, and how to make one that is quick and of order 1 eV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graph_pes.models.addition import AdditionModel
from graph_pes.models.ani import ANI
from graph_pes.models.base import GraphPESModel
from graph_pes.models.charges import LearnedCharges
from graph_pes.models.chgnet import CHGNet
from graph_pes.models.committee import Committee
from graph_pes.models.coulomb import Coulomb, Ewald
from graph_pes.models.dispersion import D3Dispersion
from graph_pes.models.eddp import EDDP
from graph_pes.models.last_layers import LastLayerCommittee
from graph_pes.models.lennard_jones import LennardJones, LennardJonesMixture
from graph_pes.models.m3gnet import M3GNet
from graph_pes.models.mace import MACE, ZEmbeddingMACE
from graph_pes.models.morse import Morse
from graph_pes.models.nequip import NequIP, ZEmbeddingNequIP
from graph_pes.models.nonlinear_mace import NonLinearMACE
from graph_pes.models.offsets import FixedOffset, LearnableOffset
from graph_pes.models.orb import Orb
from graph_pes.models.painn import PaiNN
from graph_pes.models.pair_potential import SmoothedPairPotential
from graph_pes.models.pet import PET
from graph_pes.models.schnet import SchNet
from graph_pes.models.stillinger_weber import StillingerWeber
from graph_pes.models.tensornet import TensorNet
from graph_pes.models.unit_converter import UnitConverter
from graph_pes.models.zbl import ZBLCoreRepulsion
from graph_pes.testing.structures import standard_structures


@dataclass(frozen=True)
class Row:
    """A model, and what `graph_pes.testing.check_model` has to know about it."""

    name: str
    factory: Callable[[], GraphPESModel]
    elements: Sequence[str] = ("H", "C", "O")
    options: dict[str, Any] = field(default_factory=dict)
    #: whether atoms see only the edges that start at them and at their neighbours
    one_way: bool = True


def randomised(model: GraphPESModel, factor: float = 1.3) -> GraphPESModel:
    """With weights that are all different, and not as small as they are to begin with."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(factor).add_(0.1 * torch.randn_like(parameter))
    return model


def painn() -> GraphPESModel:
    return randomised(PaiNN(channels=8, radial_features=6, layers=2, cutoff=4.0))


def schnet() -> GraphPESModel:
    model = SchNet(cutoff=4.0, channels=8, expansion_features=10, layers=2)
    return randomised(model, factor=2.0)


def eddp() -> GraphPESModel:
    model = EDDP(
        elements=["H", "C", "O"],
        cutoff=4.0,
        features=3,
        max_power=6,
        three_body_cutoff=3.0,
        three_body_features=2,
        learnable_powers=True,
    )
    return randomised(model)


def ani() -> GraphPESModel:
    functions = {"radial_shifts": 5, "angular_shifts": 3, "sections": 2}
    broad = {"radial_eta": 4.0, "angular_eta": 3.0, "zeta": 3.5}
    model = ANI(["O", "H", "C"], 4.0, angular_cutoff=3.0, hidden=[8, 6], **functions, **broad)
    return randomised(model, factor=2.0)


def tensornet(**options: Any) -> GraphPESModel:
    settings = {"cutoff": 4.0, "radial_features": 6, "channels": 6, "layers": 2}
    return randomised(TensorNet(**{**settings, **options}))


def orb(**options: Any) -> GraphPESModel:
    # Few hidden layers and large weights: the energy depends on the neighbours.
    settings = {"channels": 8, "layers": 2, "mlp_layers": 1, "mlp_hidden_dim": 12, "l_max": 2}
    return randomised(Orb(4.0, **{**settings, **options}))


def chgnet(**options: Any) -> GraphPESModel:
    settings = {"cutoff": 4.0, "bond_cutoff": 3.0, "channels": 6, "layers": 3}
    settings |= {"radial_features": 5, "angular_features": 5, "hidden_channels": 6}
    settings |= {"read_out_layers": [6], "magnetic_moments": True}
    return randomised(CHGNet(**{**settings, **options}))


def m3gnet() -> GraphPESModel:
    return randomised(M3GNet(4.0, three_body_cutoff=3.0, channels=8, layers=2))


def pet(factor: float = 1.5, **options: Any) -> GraphPESModel:
    settings = {"cutoff": 4.0, "channels": 8, "node_channels": 12, "heads": 2, "layers": 1}
    settings |= {"hidden_channels": 8, "head_channels": 6, "envelope_width": 1.0}
    return randomised(PET(["O", "H", "C"], **{**settings, **options}), factor)


def small_mace(cls: type[MACE] | type[ZEmbeddingMACE], **arguments: Any) -> GraphPESModel:
    settings = {"cutoff": 4.0, "n_radial": 4, "channels": 4, "l_max": 2, "readout_width": 4}
    settings["weights_mlp"] = {"hidden_depth": 1, "hidden_features": 8}
    return randomised(cls(**{**settings, **arguments}), factor=0.8)


def nonlinear_mace() -> GraphPESModel:
    model = NonLinearMACE(
        ["O", "H", "C"],
        cutoff=4.0,
        n_radial=4,
        radial_widths=[8, 8],
        channels=4,
        sent_channels=(3, 2),
        l_max=2,
        readout_width=4,
        distance_transform="Agnesi",
        core_repulsion=True,
        charges=(-3, 7, 3),
        spins=(0, 6, 2),
        read_states=True,
        biased=True,
    )
    return randomised(model, factor=0.8)


def small_nequip(cls: type[NequIP] | type[ZEmbeddingNequIP], **arguments: Any) -> GraphPESModel:
    features = {"channels": 4, "l_max": 1, "use_odd_parity": True}
    settings = {"cutoff": 4.0, "layers": 2, "features": features, "radial_features": 4}
    return randomised(cls(**{**settings, **arguments}))


def with_offsets() -> GraphPESModel:
    return AdditionModel(
        network=painn(),
        core=SmoothedPairPotential(ZBLCoreRepulsion(cutoff=1.5)),
        offset=FixedOffset(H=-13.6, C=-1030.5, O=-2043.25),
    )


def in_other_units() -> GraphPESModel:
    # nm and kJ/mol, as in GROMACS
    model = SmoothedPairPotential(LennardJones(cutoff=0.45, epsilon=10.0, sigma=0.15))
    return UnitConverter(model, energy_to_eV=0.01036427, length_to_A=10.0)


def learned_charges() -> LearnedCharges:
    return LearnedCharges(painn(), initial={"H": 0.3, "C": 0.1, "O": -0.5})


CHARGES = {"H": 0.3, "C": 0.1, "O": -0.5}


def committee() -> GraphPESModel:
    depths = (0.2, 0.3, 0.35)
    return Committee([SmoothedPairPotential(Morse(4.0, D=D, a=2.0, r0=1.1)) for D in depths])


def last_layer_committee() -> GraphPESModel:
    model = LastLayerCommittee(schnet(), members=3)
    model.deviations_0.normal_()
    return model


TRUNCATED = {"smooth": False}
#: Sums over reciprocal lattice vectors, of structures that are periodic in all directions or none.
RECIPROCAL = {
    "edge_route": False,
    "structures": [
        atoms for atoms in standard_structures() if atoms.pbc.all() or not atoms.pbc.any()
    ],
}
LEARNS_ROTATION = {"invariant": False}

MODELS = [
    Row("LennardJones", lambda: LennardJones(4.0, epsilon=0.1, sigma=1.2), options=TRUNCATED),
    Row(
        "LennardJones-shifted",
        lambda: LennardJones(4.0, epsilon=0.1, sigma=1.2, shift=True),
        options=TRUNCATED,  # the energy is continuous, the force is not
    ),
    Row(
        "LennardJones-ase-smooth",
        lambda: LennardJones.from_ase(sigma=1.2, epsilon=0.1, rc=4.0, ro=3.0, smooth=True),
    ),
    Row("LennardJonesMixture", lambda: randomised(LennardJonesMixture(4.0)), options=TRUNCATED),
    Row("Morse", lambda: Morse(4.0, D=0.3, a=2.0, r0=1.1), options=TRUNCATED),
    Row("ZBLCoreRepulsion", lambda: ZBLCoreRepulsion(3.0, trainable=True), options=TRUNCATED),
    Row(
        "SmoothedPairPotential",
        lambda: SmoothedPairPotential(Morse(4.0, D=0.3, a=2.0, r0=1.1)),
    ),
    Row("StillingerWeber", StillingerWeber, elements=("Si",)),
    Row("SchNet", schnet),
    Row("PaiNN", painn),
    Row("TensorNet", tensornet),
    Row(
        "TensorNet-torchmd-net",
        lambda: tensornet(variant="torchmd-net", radial_expansion="ExpNormal"),
    ),
    Row("TensorNet-matgl", lambda: tensornet(variant="matgl", radial_expansion="SmoothBessel")),
    Row("M3GNet", m3gnet),
    Row("MACE", lambda: small_mace(MACE, elements=["O", "H", "C"])),
    Row(
        "MACE-residual",
        lambda: small_mace(
            MACE,
            elements=["O", "H", "C"],
            hidden_irreps="0e + 1o + 1e + 2e",
            layers=3,
            correlation=2,
            first_layer="residual",
            aggregation="constant_learnable",
        ),
    ),
    Row(
        "MACE-density",
        lambda: small_mace(
            MACE,
            elements=["O", "H", "C"],
            weights_mlp={"hidden_features": [8, 6]},
            aggregation="density",
        ),
    ),
    Row(
        "MACE-Agnesi",
        lambda: small_mace(
            MACE,
            elements=["O", "H", "C"],
            first_layer="residual",
            aggregation="density",
            distance_transform="Agnesi",
            core_repulsion=True,
        ),
    ),
    Row("NonLinearMACE", nonlinear_mace),
    Row("ZEmbeddingMACE", lambda: small_mace(ZEmbeddingMACE, z_embed_dim=2, hidden_irreps="0e")),
    Row("NequIP", lambda: small_nequip(NequIP, elements=["O", "H", "C"])),
    Row(
        "NequIP-direct",
        lambda: small_nequip(
            NequIP,
            elements=["O", "H", "C"],
            direct_force_predictions=True,
            features={"node_irreps": "4x0e + 3x1o + 2x2e", "edge_irreps": "0e + 1o + 2e"},
            self_interaction="linear",
            neighbour_aggregation="constant_learnable",
            layer_norm=True,
        ),
    ),
    Row(
        "NequIP-original",
        lambda: small_nequip(
            NequIP,
            elements=["O", "H", "C"],
            layers=4,  # pseudovectors matter
            self_interaction=None,
            weights_mlp={"hidden_depth": 2, "hidden_features": 8},
        ),
    ),
    Row("ZEmbeddingNequIP", lambda: small_nequip(ZEmbeddingNequIP, Z_embed_dim=3)),
    Row("EDDP", eddp),
    Row("CHGNet", chgnet, options={"unused_parameters": ["moments.weight", "moments.bias"]}),
    Row("ANI", ani),
    Row("CHGNet", chgnet, options={"unused_parameters": ["moments.weight", "moments.bias"]}),
    Row("Orb", orb, options=LEARNS_ROTATION, one_way=False),
    Row(
        "Orb-conservative",
        lambda: orb(conservative=True, core_repulsion="sum"),
        options=LEARNS_ROTATION,
        one_way=False,
    ),
    Row(
        "Orb-softmax",
        lambda: orb(
            conservative=True,
            attention_gate="softmax",
            norm_type="rms",
            edge_outer_product=False,
            element_mlp=True,
        ),
        options=LEARNS_ROTATION,
        one_way=False,
    ),
    Row(
        "Orb-direct-stress",
        lambda: orb(
            direct_stress=True,
            distance_smoothing=False,
            read_out={"energy": "mean"},
            core_repulsion="sum",
            charge_and_spin=True,
        ),
        options={**LEARNS_ROTATION, **TRUNCATED},
        one_way=False,
    ),
    Row("PET", pet, options=LEARNS_ROTATION),
    Row(
        "PET-residual",
        lambda: pet(
            factor=1.0,  # attention to weights of 1e-9 would look like a jump
            featurizer="residual",
            node_channels=8,
            norm_type="layer",
            order="post",
            activation="SiLU",
            envelope="cosine",
            charge_and_spin=(2, 3),
        ),
        options=LEARNS_ROTATION,
    ),
    Row(
        "PET-adaptive",
        lambda: pet(adaptive_cutoff={"neighbours": 4.0}, featurizer="residual", node_channels=8),
        options=LEARNS_ROTATION,
    ),
    Row(
        "PET-grid",
        lambda: pet(adaptive_cutoff={"neighbours": 4.0, "method": "grid"}, transformers=1),
        options=LEARNS_ROTATION,
    ),
    Row(
        "D3Dispersion",
        lambda: D3Dispersion(cutoff=5.0, elements=["H", "C", "O"]),
        options=TRUNCATED,
    ),
    Row("Coulomb", lambda: Coulomb(CHARGES, cutoff=5.0)),
    Row(
        "Coulomb-learned",
        lambda: Coulomb(learned_charges(), cutoff=5.0, damping=0.3),
        options={"edge_route": False},
        one_way=False,
    ),
    Row("Ewald", lambda: Ewald(CHARGES, cutoff=4.0), options=RECIPROCAL, one_way=False),
    Row("Ewald-learned", lambda: Ewald(learned_charges(), 4.0), options=RECIPROCAL, one_way=False),
    Row("FixedOffset", lambda: FixedOffset(H=-13.6, C=-1030.5, O=-2043.25)),
    Row("LearnableOffset", lambda: LearnableOffset(H=-13.6, C=-1030.5, O=-2043.25)),
    Row("AdditionModel", with_offsets),
    Row("Committee", committee),
    Row("LastLayerCommittee", last_layer_committee),
    Row("UnitConverter", in_other_units),
]
