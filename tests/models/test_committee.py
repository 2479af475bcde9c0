"""Committees: means and spreads of what their members predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase
import pytest
import torch
from ase.build import molecule
from hypothesis import given
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy.engine import EngineModel, engine_inputs, forces_from
from graph_pes.models import (
    AdditionModel,
    Committee,
    FixedOffset,
    GraphPESModel,
    LennardJones,
    Morse,
    PaiNN,
    UnitConverter,
    load_model,
    save_model,
)
from graph_pes.models.derivatives import spread_of
from tests.conformance.models import MODELS, Row, orb
from tests.strategies import structure_lists

MEMBERS = 3
SPREADS = ["energy_ensemble", "energy_uncertainty", "forces_uncertainty"]


def committee(factory: Callable[[], GraphPESModel]) -> Committee:
    torch.manual_seed(0)
    members = [factory().double() for _ in range(MEMBERS)]
    return Committee(members).eval()


def networks() -> Committee:
    def network() -> GraphPESModel:
        return AdditionModel(
            network=PaiNN(channels=4, layers=1, radial_features=4, cutoff=3.5),
            offset=FixedOffset(H=-13.6, C=-1030.5, O=-2043.25),
        )

    return committee(network)


def graph_of(atoms: ase.Atoms, cutoff: float = 5.0) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


def assert_statistics(model: Committee, graph: AtomicGraph, factor: float = 1.0) -> None:
    """Means and standard deviations of the predictions of the members, one by one."""
    keys = ["energy", "local_energies", "forces", "virial"]
    found = model.predict(graph, [*keys, *SPREADS])
    of_each = [member.predict(graph, keys) for member in model.models]
    values = {key: torch.stack([p[key].double() for p in of_each]) for key in keys}
    expected = {key: x.mean(0) for key, x in values.items()}
    expected["energy_uncertainty"] = factor * values["energy"].std(0)
    expected["forces_uncertainty"] = factor * values["forces"].var(0).sum(-1).sqrt()
    expected["energy_ensemble"] = (
        expected["energy"] + factor * (values["energy"] - expected["energy"])
    ).movedim(0, -1)
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value, rtol=1e-9, atol=1e-9, msg=key)


@given(structure_lists(elements=("H", "C", "O")))
def test_mean_and_spread(batch: list[ase.Atoms]) -> None:
    assert_statistics(networks(), to_batch([graph_of(atoms) for atoms in batch]))


@pytest.mark.parametrize(
    "row", [row for row in MODELS if "Committee" not in row.name], ids=lambda row: row.name
)
def test_of_any_model(row: Row) -> None:
    model = committee(row.factory)
    cluster = molecule("C2H6")
    cluster.set_chemical_symbols([row.elements[n % len(row.elements)] for n in range(8)])
    assert_statistics(model, to_batch([graph_of(cluster), graph_of(cluster[:3])]))


def test_as_engines_call_it() -> None:
    model = networks()
    graph = to_batch([graph_of(molecule(name)) for name in ("CH3OH", "H2O")])
    inputs = engine_inputs(graph, torch.float64)
    function = EngineModel(model)
    found = dict(zip(function.outputs, function(*inputs), strict=True))
    found["forces"] = forces_from(inputs, found["gradients"])
    keys = ["forces", "forces_uncertainty", "local_energies_ensemble"]
    for key, value in model.predict(graph, keys).items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9)


def test_scaled() -> None:
    model = networks()
    model.scale.fill_(2.5)
    assert_statistics(model, graph_of(molecule("CH3OH")), factor=2.5)


@pytest.mark.parametrize("direct_stress", [False, True])
def test_direct_forces_and_energies_of_whole_structures(direct_stress: bool) -> None:
    options = {"direct_stress": True, "read_out": {"energy": "mean"}} if direct_stress else {}
    model = committee(lambda: orb(**options))
    model.scale.fill_(2.0)
    assert_statistics(model, graph_of(molecule("CH3OH")), factor=2.0)


def test_one_structure_and_batch_shapes() -> None:
    model, graph = networks(), graph_of(molecule("H2O"))
    single = model.predict(graph, SPREADS)
    assert [tuple(single[key].shape) for key in SPREADS] == [(MEMBERS,), (), (3,)]
    batch = model.predict(to_batch([graph, graph]), SPREADS)
    assert [tuple(batch[key].shape) for key in SPREADS] == [(2, MEMBERS), (2,), (6,)]


def test_uncertainties_can_be_differentiated() -> None:
    """As a bias towards what is unknown, or training to them, needs."""
    model, atoms = networks(), molecule("CH3OH")

    def sigma(R: Tensor) -> Tensor:
        graph = graph_of(atoms)._replace(R=R)
        found = model.predict(graph, ["energy_uncertainty", "forces_uncertainty"])
        return found["energy_uncertainty"] + found["forces_uncertainty"].sum()

    R = graph_of(atoms).R.requires_grad_()
    assert torch.autograd.gradcheck(sigma, (R,), atol=1e-6)


def test_members_that_agree() -> None:
    """No spread, and no NaN as its derivative."""
    member = PaiNN(channels=4, layers=1, cutoff=3.5)
    model = Committee([member, member])
    graph = graph_of(molecule("H2O"))
    found = model.predict(graph, SPREADS)
    found["energy_uncertainty"].backward(retain_graph=True)
    found["forces_uncertainty"].sum().backward()
    assert not found["energy_uncertainty"].any()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert spread_of(torch.zeros(4, 2, 3)).tolist() == [0.0] * 4


def test_in_a_sum() -> None:
    """What is not a committee adds to each member."""
    model, core = networks(), LennardJones(3.0, epsilon=0.1, sigma=1.1).double()
    graph = graph_of(molecule("CH3OH"))
    keys = ["energy", "forces", *SPREADS]
    found = AdditionModel(committee=model, core=core).eval().predict(graph, keys)
    parts = [model.predict(graph, keys), core.eval().predict(graph, ["energy", "forces"])]
    torch.testing.assert_close(found["forces"], parts[0]["forces"] + parts[1]["forces"])
    torch.testing.assert_close(
        found["energy_ensemble"], parts[0]["energy_ensemble"] + parts[1]["energy"]
    )
    for key in SPREADS[1:]:
        torch.testing.assert_close(found[key], parts[0][key])


def test_in_other_units() -> None:
    kcal, graph = 0.0433641, graph_of(molecule("CH3OH"))
    model = committee(lambda: Morse(D=float(torch.rand(())), a=1.5))
    found = UnitConverter(model, kcal, 1.0).eval().predict(graph, SPREADS)
    for key, value in model.predict(graph, SPREADS).items():
        torch.testing.assert_close(found[key], kcal * value)


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = networks()
    model.scale.fill_(1.7)
    save_model(model, tmp_path / "model.pt")
    graph = graph_of(molecule("CH3OH"))
    loaded = load_model(tmp_path / "model.pt").eval()
    for key, value in model.predict(graph, SPREADS).items():
        assert torch.equal(loaded.predict(graph, SPREADS)[key], value)


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ([Morse()], ValueError, "at least two models, got 1"),
        ([Morse(), "model.pt"], TypeError, "member 1 to be a GraphPESModel, got str"),
        ([Morse(), orb()], ValueError, "must predict the same properties"),
        ([Committee([Morse(), Morse()])] * 2, ValueError, "a member can't be a committee"),
    ],
)
def test_what_is_no_committee(models: list, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Committee(models)


def test_models_without_members_have_no_uncertainty() -> None:
    with pytest.raises(ValueError, match="can't predict .'energy_uncertainty'"):
        Morse().predict(graph_of(molecule("H2O")), ["energy_uncertainty"])
