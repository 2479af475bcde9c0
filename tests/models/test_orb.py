from __future__ import annotations

import json

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given, settings
from torch import nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    keep_at_most_k_neighbours,
    neighbour_distances,
    remove_mean_and_net_torque,
    to_batch,
)
from graph_pes.interfaces.orb_weights import native_orb
from graph_pes.models import AdditionModel, FixedOffset, Orb
from graph_pes.nn.mlp import MLP
from graph_pes.periodic_table import MAX_Z
from tests.conformance.models import randomised
from tests.strategies import molecules, structures

from .transplant import (
    REFERENCES,
    Frozen,
    assert_agrees,
    frozen_structures,
    relative_errors,
)

DTYPES = [torch.float64, torch.float32]


def orb(**options: object) -> Orb:
    return randomised(Orb(3.0, channels=6, layers=2, mlp_hidden_dim=8, **options).double()).eval()


def graph_of(atoms: ase.Atoms, cutoff: float = 3.0) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


# --- original weights -----------------------------------------------------------------------


def of_variant(frozen: Frozen, variant: str) -> Frozen:
    """The structures, with weights and predictions of one variant."""
    start = f"{variant}."
    own = {k.removeprefix(start): v for k, v in frozen.items() if k.startswith(start)}
    return {**own, **{k: v for k, v in frozen.items() if k.startswith("structure.")}}


class Weights:
    """Original weights that are to be copied, each of them once."""

    def __init__(self, frozen: Frozen):
        start = "weights."
        named = {k.removeprefix(start): v for k, v in frozen.items() if k.startswith(start)}
        self.left = {name: torch.from_numpy(value) for name, value in named.items()}

    def __call__(self, name: str) -> torch.Tensor:
        return self.left.pop(name)

    def copy(self, to: torch.Tensor, *names: str) -> None:
        value = torch.cat([self(name) for name in names])
        assert to.shape == value.shape, names
        to.data[:] = value

    def layer(self, to: nn.Module, name: str) -> None:
        for kind, parameter in to.named_parameters():
            self.copy(parameter, f"{name}.{kind}")

    def mlp(self, to: MLP, name: str) -> None:
        for n, linear in enumerate(to.linear_layers):
            self.layer(linear, name.format(n))


def with_weights_of_graph_pes_1(frozen: Frozen, variant: str) -> Orb:
    model = Orb(**json.loads(str(frozen["settings"]))[variant]).double()
    weights, elements = Weights(of_variant(frozen, variant)), torch.from_numpy(frozen["elements"])
    model.embedding.embeddings.values.data[elements] = weights("_encoder.Z_embedding")
    model.scaler.per_element_scaling.values.data[elements] = weights("scaler")[:, 0]
    weights.layer(model.element_norm, "_encoder.Z_layer_norm")
    weights.copy(model.edges.radial.frequencies, "_encoder.rbf.frequencies")
    weights.mlp(model.edges.mlp, "_encoder.edge_mlp.linear_layers.{}")
    weights.layer(model.edges.norm, "_encoder.edge_layer_norm")
    for n, layer in enumerate(model.interactions):
        start = f"_gnn_layers.{n}"
        for kind in ("weight", "bias"):
            logits = (f"{start}.{end}_attn.{kind}" for end in ("send", "receive"))
            weights.copy(getattr(layer.attention.logits, kind), *logits)
        for part in ("node", "edge"):
            linears = f"{start}.{part}_mlp.0.linear_layers.{{}}"
            weights.mlp(getattr(layer, f"{part}_mlp"), linears)
            weights.layer(getattr(layer, f"{part}_norm"), f"{start}.{part}_mlp.1")
    weights.mlp(model.energy_head, "_energy_readout.linear_layers.{}")
    if model.force_head is not None:
        weights.mlp(model.force_head, "_force_readout.linear_layers.{}")
    assert not weights.left
    return model.eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", ["direct", "conservative", "softmax"])
def test_against_graph_pes_1(variant: str, dtype: torch.dtype) -> None:
    """See make_graph_pes_1_orb.py; 1.0.2 does not remove the torque of molecules."""
    frozen = dict(np.load(REFERENCES / "graph_pes_1_orb.npz"))
    model = with_weights_of_graph_pes_1(frozen, variant).to(dtype)
    expected = of_variant(frozen, variant)
    for n, (atoms, values) in enumerate(frozen_structures(expected)):
        if variant == "direct":
            forces = torch.from_numpy(values["forces"])
            without = remove_mean_and_net_torque(forces, graph_of(atoms))
            assert atoms.pbc.any() == torch.allclose(forces, without)
            expected[f"structure.{n}.forces"] = without.numpy()
    assert_agrees(model, expected, {"energy", "forces", "stress"})


def state_of_orb_models(frozen: Frozen, variant: str) -> dict[str, torch.Tensor]:
    """The state of a regressor: all elements have a row."""
    state = dict(Weights(of_variant(frozen, variant)).left)
    for name, dim in (
        ("model.atom_emb.embeddings.weight", 0),
        ("heads.energy.reference.linear.weight", 1),
    ):
        values = state[name].reshape(len(frozen["elements"]), -1)
        every = values.new_zeros(MAX_Z + 1 - dim, values.shape[1])
        every[frozen["elements"]] = values
        state[name] = every.T if dim else every
    return state


def with_weights_of_orb_models(frozen: Frozen, variant: str) -> AdditionModel:
    """The network, and reference energies of the elements."""
    arguments = json.loads(str(frozen["settings"]))[variant]
    read_out = {
        **arguments.pop("read_out"),
        "activation": arguments["activation"],
        "force_bias": True,
        "energy": "mean",
    }
    direct = not arguments["conservative"]
    arguments |= {"element_mlp": True, "direct_stress": direct, "read_out": read_out}
    network, energies = native_orb(state_of_orb_models(frozen, variant), arguments)
    return AdditionModel(network=network, offset=FixedOffset(**energies)).eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "variant", ["direct", "conservative", "softmax", "direct-omol", "conservative-omol"]
)
def test_against_orb_models(variant: str, dtype: torch.dtype) -> None:
    """See make_orb_models.py."""
    frozen = dict(np.load(REFERENCES / "orb_models.npz"))
    model = with_weights_of_orb_models(frozen, variant).to(dtype)
    assert_agrees(model, of_variant(frozen, variant), {"energy", "forces", "stress"})
    if "omol" in variant:
        model["network"].repulsion = None
        errors = relative_errors(model, of_variant(frozen, variant))
        assert min(errors.values()) > 1e-4


# --- forces ---------------------------------------------------------------------------------


@settings(max_examples=15)
@given(atoms=structures(max_atoms=6))
def test_direct_forces_add_up_to_nothing(atoms: ase.Atoms) -> None:
    forces = orb().predict_forces(graph_of(atoms))
    torch.testing.assert_close(forces.sum(0), torch.zeros(3).double(), rtol=0, atol=1e-9)


@settings(max_examples=15)
@given(atoms=molecules(max_atoms=6))
def test_direct_forces_have_no_torque(atoms: ase.Atoms) -> None:
    graph = graph_of(atoms)
    torque = torch.linalg.cross(graph.R, orb().predict_forces(graph)).sum(0)
    size = 1 + graph.R.abs().max()
    torch.testing.assert_close(torque, torch.zeros(3).double(), rtol=0, atol=1e-9 * size.item())


def test_a_direct_model_is_not_conservative() -> None:
    direct, conservative = orb(), orb(conservative=True)
    conservative.load_state_dict(direct.state_dict(), strict=False)
    graph = graph_of(molecule("CH3OH"))
    assert conservative.implemented_properties == ["local_energies"]
    torch.testing.assert_close(direct.predict_energy(graph), conservative.predict_energy(graph))
    difference = direct.predict_forces(graph) - conservative.predict_forces(graph)
    assert difference.abs().max() > 1e-3


def test_stress_of_a_direct_model() -> None:
    """Derived from the energy, or from a head; the virial follows."""
    derived, direct = orb(), orb(direct_stress=True)
    derived.load_state_dict(direct.state_dict(), strict=False)
    silicon = graph_of(bulk("Si"))
    found = [m.predict(silicon, ["stress", "virial", "forces"]) for m in (derived, direct)]
    assert (found[0]["stress"] - found[1]["stress"]).abs().max() > 1e-3
    torch.testing.assert_close(found[0]["forces"], found[1]["forces"])
    volume = bulk("Si").get_volume()
    torch.testing.assert_close(found[1]["virial"], -found[1]["stress"] * volume)
    torch.testing.assert_close(found[1]["stress"], found[1]["stress"].T)


# --- repulsion, charge and spin -------------------------------------------------------------


def only_repulsion(**options: object) -> Orb:
    model = orb(**options)
    for head in (model.energy_head, model.force_head, model.stress_head):
        for parameter in head.parameters() if head is not None else []:
            parameter.data.zero_()
    return model


def pressed() -> ase.Atoms:
    """Each atom is repelled by several others, some of them its own images."""
    atoms = bulk("C", "diamond", a=2.3)
    atoms.symbols[0] = "O"
    atoms.set_cell(atoms.cell.array + np.diag([0.3, 0, 0]) + 0.1, scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    return atoms


@pytest.mark.parametrize("kind", ["sum", "mean"])
@pytest.mark.parametrize("neighbours", [None, 3])
def test_direct_repulsion_is_a_derivative(kind: str, neighbours: int | None) -> None:
    """In a direct model too, where it is written out; of directed edges too."""
    keys = ["energy", "forces", "stress"]
    options = {"core_repulsion": kind, "max_neighbours": neighbours}
    graph = graph_of(pressed())
    written = only_repulsion(direct_stress=True, **options).predict(graph, keys)
    derived = only_repulsion(conservative=True, **options).predict(graph, keys)
    for key, value in derived.items():
        assert value.abs().max() > 0.1
        torch.testing.assert_close(written[key], value)


def test_which_repulsion() -> None:
    """The mean is the sum over the number of atoms; both end smoothly, at the cutoff at last."""
    graph = graph_of(pressed() * (2, 1, 1))
    of_all, mean = (
        only_repulsion(conservative=True, core_repulsion=kind).predict_energy(graph)
        for kind in ("sum", "mean")
    )
    torch.testing.assert_close(mean, of_all / 4)
    iodine = [ase.Atoms("I2", [[0, 0, 0], [0, 0, r]]) for r in (2.7, 2.79, 2.81, 2.9)]
    repulsion = only_repulsion(conservative=True, core_repulsion="sum")
    energies = [repulsion.predict_energy(graph_of(atoms)).item() for atoms in iodine]
    assert energies[0] > 10 * energies[1] > 0 == energies[2] == energies[3]  # xenon: 2 · 1.40 Å
    caesium = ase.Atoms("Cs2", [[0, 0, 0], [0, 0, 2.999]])  # barium: 2 · 2.15 Å
    assert 0 < repulsion.predict_energy(graph_of(caesium)).item() < 1e-6


def test_charge_and_spin_of_each_structure() -> None:
    model = randomised(
        Orb(3.0, channels=8, layers=2, mlp_hidden_dim=8, charge_and_spin=True).double()
    ).eval()
    water = molecule("H2O")
    every = [
        ase.Atoms(water, info={"total_charge": charge, "total_spin": spin})
        for charge, spin in ((0, 1), (1, 2), (0, 3), (-1, 2))
    ]
    found = model.predict_energy(to_batch([graph_of(atoms) for atoms in every]))
    assert (found[:, None] - found).abs().add(torch.eye(4)).min() > 1e-4
    for atoms, energy in zip(every, found, strict=True):
        torch.testing.assert_close(model.predict_energy(graph_of(atoms)), energy)
    torch.testing.assert_close(model.predict_energy(graph_of(water)), found[0])


# --- attention ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_does_not_overflow(dtype: torch.dtype) -> None:
    """Defect 17 of graph-pes 1."""
    model = orb(attention_gate="softmax").to(dtype)
    for interaction in model.interactions:
        interaction.attention.logits.weight.data *= 1e4
        interaction.attention.logits.bias.data += 1e4
    predicted = model.predict(graph_of(molecule("CH3OH")), ["energy", "forces", "virial"])
    assert all(value.isfinite().all() for value in predicted.values())


def test_softmax_weights_add_up_to_one() -> None:
    attention = orb(attention_gate="softmax").interactions[0].attention
    graph = to_batch([graph_of(molecule("C6H6"))])
    edges = torch.randn(graph.neighbour_list.shape[1], 6).double()
    sent, received = attention(edges, torch.ones(len(edges), 1).double(), graph)
    for weights, atoms in zip((sent, received), graph.neighbour_list, strict=True):
        total = torch.zeros(12, 1).double().index_add(0, atoms, weights)
        torch.testing.assert_close(total, torch.ones(12, 1).double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_is_continuous_where_all_neighbours_leave(dtype: torch.dtype) -> None:
    """Also in single precision, and when all of an atom's neighbours are close to the cutoff."""
    model = orb(attention_gate="softmax", conservative=True).to(dtype)
    distances = 3.0 - np.geomspace(1e-6, 3e-2, 40)
    graphs = [
        AtomicGraph.from_ase(
            ase.Atoms("OH2", [[0, 0, 0], [r, 0, 0], [0, -r + 1e-7, 0]]), 3.0, dtype=dtype
        )
        for r in distances
    ]
    alone = AtomicGraph.from_ase(ase.Atoms("OHH", np.eye(3) * 50), 3.0, dtype=dtype)
    forces = model.predict(to_batch(graphs), ["forces"])["forces"].view(len(graphs), -1)
    energies = model.predict_energy(to_batch(graphs)) - model.predict_energy(alone)
    assert forces.isfinite().all()
    assert forces[distances > 3 - 1e-3].abs().max() < 1e-4
    assert energies[distances > 3 - 1e-3].abs().max() < 1e-5
    assert forces[0].abs().max() <= forces[-1].abs().max()


def test_nearest_neighbours() -> None:
    """Messages go to them only; there are fewer in a model than in the graph it is given."""
    few, all_ = orb(max_neighbours=2, conservative=True), orb(conservative=True)
    all_.load_state_dict(few.state_dict())
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.02, seed=0)
    graph = graph_of(atoms)
    nearest = keep_at_most_k_neighbours(graph, 2)
    assert len(neighbour_distances(nearest)) == 2 * len(atoms)
    torch.testing.assert_close(few.predict_forces(graph), all_.predict_forces(nearest))
    assert (few.predict_forces(graph) - all_.predict_forces(graph)).abs().max() > 1e-3


# --- read-out -------------------------------------------------------------------------------


def test_energy_of_the_mean_is_not_additive() -> None:
    for energy, additive in (("atoms", True), ("mean", False)):
        model = orb(read_out={"energy": energy})
        parts = [molecule("H2O"), molecule("CO2")]
        both = parts[0] + ase.Atoms(parts[1].symbols, parts[1].positions + 20)
        total, *own = (model.predict_energy(graph_of(atoms)) for atoms in (both, *parts))
        assert (abs(total - sum(own)) < 1e-9) == additive


def test_default_widths() -> None:
    """Of graph-pes 1."""
    model = Orb(channels=4, mlp_layers=3, mlp_hidden_dim=5)
    shapes = [tuple(linear.weight.shape) for linear in model.energy_head.linear_layers]
    assert shapes == [(5, 4), (5, 5), (5, 5), (1, 5)]
    assert all(linear.bias is None for linear in model.force_head.linear_layers)
    other = Orb(channels=4, mlp_hidden_dim=5, read_out={"layers": 1, "hidden_dim": 6})
    shapes = [tuple(linear.weight.shape) for linear in other.force_head.linear_layers]
    assert shapes == [(6, 4), (3, 6)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_type": "batch"}, "expected norm_type to be one of .*'layer', 'rms'.*, got 'batch'"),
        ({"attention_gate": "tanh"}, "attention_gate to be 'sigmoid' or 'softmax', got 'tanh'"),
        ({"read_out": {"energy": "sum"}}, "to be 'atoms' or 'mean', got 'sum'"),
        ({"read_out": {"width": 3}}, r"unknown keys \['width'\] in read_out, expected some of"),
        ({"conservative": True, "direct_stress": True}, "stress of a conservative model is"),
        ({"max_neighbours": 0}, "expected max_neighbours of at least 1, got 0"),
        ({"core_repulsion": "zbl"}, "core_repulsion to be 'sum', 'mean' or None, got 'zbl'"),
        ({"channels": 6, "charge_and_spin": True}, "channels to be a multiple of 4 .*, got 6"),
    ],
)
def test_arguments_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"Orb: .*{message}"):
        Orb(**{"channels": 4, "mlp_hidden_dim": 4, "layers": 1, **options})
