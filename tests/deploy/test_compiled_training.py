"""Compiled predictions for training are those of the model, and so are their gradients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import ase
import pytest
import torch
from ase.build import bulk
from torch import Tensor
from torch._prims_common import is_non_overlapping_and_dense_or_false

import graph_pes.deploy.training_code
from graph_pes import AtomicGraph, GraphPESModel
from graph_pes.atomic_graph import (
    keep_at_most_k_neighbours,
    neighbour_distances,
    neighbour_vectors,
    sum_over_neighbours,
    sum_per_structure,
    to_batch,
)
from graph_pes.atomic_graph.others import HEAD, head_number
from graph_pes.atomic_graph.properties import PROPERTIES, Property
from graph_pes.deploy import ExportError
from graph_pes.deploy.compiled_training import CompiledTraining, check_agreement
from graph_pes.deploy.training_code import cut, joint_program
from graph_pes.deploy.training_function import TrainingFunction, training_inputs
from graph_pes.models import (
    AdditionModel,
    LearnableOffset,
    Morse,
    MultiHead,
    NequIP,
    PaiNN,
    SchNet,
    freeze_matching,
    lora,
)
from graph_pes.models.base import GraphPropertyModel
from tests.conformance.models import pet, small_nequip
from tests.recorded import without_machine_code as without_machine_code

KEYS = ["energy", "forces", "virial"]

#: Recording takes many seconds: two networks, as small as they may be.
NETWORKS: dict[str, Callable[[], GraphPESModel]] = {
    "PaiNN": lambda: PaiNN(cutoff=4.0, channels=4, layers=1, radial_features=4),
    "NequIP": lambda: small_nequip(
        NequIP,
        elements=["O", "H", "C"],
        features={"channels": 2, "l_max": 1, "use_odd_parity": False},
    ),
    "PET": lambda: pet(channels=4, node_channels=6, transformers=1),
}


class Pair(GraphPESModel):
    """Lengths of bonds, of which functions are summed."""

    def __init__(self) -> None:
        super().__init__(4.0, ["local_energies"])
        self.a = torch.nn.Parameter(torch.tensor(0.7))
        self.b = torch.nn.Parameter(torch.tensor(0.9))

    def energies(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        return self.a * (4 - r) ** 2 * (r < 4)

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        r = neighbour_distances(graph)
        return {"local_energies": sum_over_neighbours(self.energies(r, graph), graph)}


class Mixing(Pair):
    """Mixes functions by rows of a transposed matrix, whose numbers are not side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.W = torch.nn.Parameter(torch.rand(3, 2))

    def energies(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        rows = (torch.cat([self.W, self.a * self.W], dim=1).T * 0.7).unbind()
        functions = [r, r**2, r.cos(), r.sin()]
        weights = sum(f[:, None] * row for f, row in zip(functions, rows, strict=True))
        return torch.tanh(weights).prod(1) * super().energies(r, graph)


class Detaching(Pair):
    """Has gradients that it hides, and some of its operations are saved for backward passes."""

    def energies(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        with torch.no_grad():
            scale = self.b.exp()
        x = (self.a * r).sin() * (-self.b * r.detach()).exp().detach()
        return scale * (x * torch.exp(-self.b * x)) * (4 - r) ** 2 * (r < 4)


class Charged(Pair):
    def energies(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        charges = graph.other["total_charge"][graph.batch][graph.neighbour_list[0]]
        weights = graph.other["weights"][graph.neighbour_list[0]]
        return charges * weights * super().energies(r, graph)


class Direct(GraphPESModel):
    """Forces and stress that are not derivatives."""

    def __init__(self) -> None:
        super().__init__(4.0, ["local_energies", "forces", "stress"])
        self.a, self.b = (torch.nn.Parameter(torch.tensor(x)) for x in (0.7, 0.9))

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        r, v = neighbour_distances(graph), neighbour_vectors(graph)
        weights = (4 - r).clamp(min=0)
        pulls = self.a * weights[:, None] * v
        stress = sum_over_neighbours(pulls[:, :, None] * v[:, None, :], graph)
        return {
            "local_energies": sum_over_neighbours(self.b * weights, graph),
            "forces": sum_over_neighbours(pulls, graph),
            "stress": sum_per_structure(stress, graph),
        }


class Undecided(Pair):
    def energies(self, r: Tensor, graph: AtomicGraph) -> Tensor:
        factor = 2 if r.sum() > 10 else 1
        return factor * super().energies(r, graph)


def structures() -> list[ase.Atoms]:
    """Crystals and a molecule, as batches of different sizes, and an atom on its own."""
    made = [
        bulk("C", "diamond", a=3.9, cubic=True),
        bulk("O", "fcc", a=3.1),
        ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]),
        ase.Atoms("C"),
    ]
    for n, atoms in enumerate(made):
        atoms.rattle(0.1, seed=n)
    return made


def batches() -> list[AtomicGraph]:
    """Of other sizes than what is recorded."""
    made = structures()
    parts = (made, made[1:], made[:1], made[-1:])
    return [
        to_batch([AtomicGraph.from_ase(s, 6.0, dtype=torch.float64) for s in part])
        for part in parts
    ]


def trained(model: torch.nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def gradients(model: torch.nn.Module, predictions: dict[str, Tensor]) -> list[Tensor]:
    total = sum(x.square().sum() for x in predictions.values())
    return list(
        torch.autograd.grad(total, trained(model), allow_unused=True, materialize_grads=True)
    )


def assert_same(compiled: CompiledTraining, batch: AtomicGraph, keys: Sequence[str]) -> None:
    model = compiled.model
    expected, found = model.predict(batch, keys), compiled.predict(batch, keys)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, check_dtype=False)
    pair = gradients(model, found), gradients(model, expected)
    torch.testing.assert_close(*pair, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_the_parameters_are_those_of_the_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are recorded, before torch cuts and compiles them."""
    monkeypatch.setattr(graph_pes.deploy.training_code, "_simplified", lambda program, *_: program)
    model = NETWORKS[name]().double().train()
    function = TrainingFunction(model, derivatives=True)
    program, layout = joint_program(function)
    tensors = [x for _, x in function.named_tensors()]
    for batch in batches():
        inputs = training_inputs(batch, torch.float64, ())
        outputs = function(*inputs)
        given = [torch.randn_like(x) for x in outputs]
        expected = torch.autograd.grad(outputs, trained(model), given, allow_unused=True)
        found = program(*layout.constants, *tensors, *inputs, *given)
        torch.testing.assert_close(found[:2], list(outputs), rtol=1e-9, atol=1e-9)
        of_tensor = dict(zip(layout.differentiated, found[2:], strict=True))
        where = [n for n, x in enumerate(tensors) if x.requires_grad]
        for n, gradient in zip(where, expected, strict=True):
            assert (gradient is None) == (n not in of_tensor)
            if gradient is not None:
                torch.testing.assert_close(of_tensor[n], gradient, rtol=1e-8, atol=1e-8)


# by torch, where its compiler is imported
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_what_is_kept_has_no_gaps() -> None:
    """Compiled code returns weights without any, and would refuse those that were recorded."""
    function = TrainingFunction(Mixing().train(), derivatives=True)
    _, backward = cut(*joint_program(function))
    taken = [node.meta["val"] for node in backward.graph.nodes if node.op == "placeholder"]
    weights = [x for x in taken if isinstance(x, Tensor) and x.shape == (3,)]
    assert weights
    for x in weights:
        assert is_non_overlapping_and_dense_or_false(x), f"{x.shape}, {x.stride()}"


# --- the programs, as Python runs them ----------------------------------------------------------


@pytest.mark.usefixtures("without_machine_code")
def test_predictions_of_batches() -> None:
    model = AdditionModel(pair=Pair(), offset=LearnableOffset(C=-2.0)).double().train()
    compiled = CompiledTraining(model)
    for batch in batches():
        assert_same(compiled, batch, KEYS)
    single = AtomicGraph.from_ase(structures()[0], 6.0, dtype=torch.float64)
    assert_same(compiled, single, ["energy", "forces", "local_energies", "stress"])
    assert [code is not None for code in compiled._code.values()] == [True]


@pytest.mark.usefixtures("without_machine_code")
def test_edges_without_a_reverse() -> None:
    """Have code of their own: SchNet's filters are else the same for both directions."""
    model = SchNet(cutoff=4.0, channels=4, expansion_features=3, layers=1).double().train()
    compiled = CompiledTraining(model)
    for batch in batches():
        assert_same(compiled, batch, KEYS)
    nearest = [
        keep_at_most_k_neighbours(AtomicGraph.from_ase(s, 6.0, dtype=torch.float64), 5)
        for s in structures()
    ]
    assert_same(compiled, to_batch(nearest), KEYS)
    assert_same(compiled, to_batch(nearest[1:]), KEYS)
    assert {variant.directed: code is not None for variant, code in compiled._code.items()} == {
        False: True,
        True: True,
    }


@pytest.mark.usefixtures("without_machine_code")
def test_direct_predictions_of_batches() -> None:
    """Of which some belong to structures, and others depend on them."""
    model = Direct().double().train()
    compiled = CompiledTraining(model)
    for batch in batches():
        assert_same(compiled, batch, ["energy", "forces"])
    crystals = [AtomicGraph.from_ase(s, 6.0, dtype=torch.float64) for s in structures()[:2]]
    assert_same(compiled, to_batch(crystals), ["stress", "forces", "virial", "energy"])
    assert [code is not None for code in compiled._code.values()] == [True]


@pytest.mark.usefixtures("without_machine_code")
def test_where_nothing_is_differentiated_the_model_predicts() -> None:
    model = Morse(4.0).double()
    compiled, batch = CompiledTraining(model), batches()[0]
    compiled.predict(batch, ["energy"])
    with torch.no_grad():
        assert not compiled.predict(batch, ["energy"])["energy"].requires_grad
    model.eval()
    assert not compiled.predict(batch, ["energy"])["energy"].requires_grad


@pytest.mark.usefixtures("without_machine_code")
def test_what_a_model_detaches_stays_detached() -> None:
    compiled = CompiledTraining(Detaching().double())
    for batch in batches():
        assert_same(compiled, batch, KEYS)
    assert None not in compiled._code.values()


@pytest.mark.usefixtures("without_machine_code")
def test_models_see_charges_and_whatever_else_a_batch_holds() -> None:
    compiled = CompiledTraining(Charged().double())
    for batch in batches()[:2]:
        S, N = batch.cell.shape[0], batch.Z.shape[0]
        charges = {"total_charge": torch.randn(S).double(), "weights": torch.randn(N).double()}
        assert_same(compiled, batch._replace(other=charges), KEYS)
    assert [code is not None for code in compiled._code.values()] == [True]


@pytest.mark.usefixtures("without_machine_code")
def test_frozen_parameters_have_no_gradient_until_they_are_trained() -> None:
    model = AdditionModel(a=Pair(), b=Pair()).double()
    compiled, batch = CompiledTraining(freeze_matching(model, "models.a")), batches()[0]
    assert_same(compiled, batch, KEYS)
    sum(x.sum() for x in compiled.predict(batch, KEYS).values()).backward()
    has_gradient = {name: p.grad is not None for name, p in model.named_parameters()}
    assert has_gradient == {name: name == "models.b.a" for name in has_gradient}
    model["a"].requires_grad_(True)
    assert_same(compiled, batch, KEYS)
    assert [len(variant.trained) for variant in compiled._code] == [2, 4]


@pytest.mark.usefixtures("without_machine_code")
def test_corrections_of_low_rank_and_heads() -> None:
    model = MultiHead(
        lora(NETWORKS["PaiNN"](), rank=1, targets=".*updates"), ["a", "b"], ".*read_out"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    compiled = CompiledTraining(model.double().train())
    for batch in batches()[:2]:
        heads = [head_number("ab"[n % 2]) for n in range(len(batch.cell))]
        assert_same(compiled, batch._replace(other={HEAD: torch.tensor(heads)}), KEYS)
    assert [code is not None for code in compiled._code.values()] == [True]
    assert any("lora_left" in n for n, p in model.named_parameters() if p.requires_grad)


# --- what goes wrong ----------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.usefixtures("without_machine_code")
def test_models_that_decide_by_values_are_trained_without(caplog: pytest.LogCaptureFixture) -> None:
    compiled = CompiledTraining(Undecided().double())
    for batch in batches()[:2]:
        assert_same(compiled, batch, KEYS)
    (warning,) = warnings_of(caplog)
    assert "must not depend on the values of tensors" in warning


@pytest.mark.usefixtures("without_machine_code")
def test_forces_that_vanish_by_symmetry_are_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    compiled = CompiledTraining(Pair().float())
    crystal = AtomicGraph.from_ase(bulk("C", "diamond", a=3.567, cubic=True), 6.0)
    compiled.predict(crystal, ["energy", "forces", "stress"])
    assert not warnings_of(caplog)


@pytest.mark.parametrize("wrong", ["energy", "forces", "a"])
def test_code_that_does_not_agree_is_noticed(wrong: str) -> None:
    model, batch = Pair().double(), batches()[0]
    check_agreement(model, model.predict(batch, KEYS), batch, KEYS)
    found = model.predict(batch, KEYS)
    if wrong == "a":
        found = {key: (x + x.detach()) / 2 for key, x in found.items()}  # half of the gradient
    else:
        found[wrong] = 1.01 * found[wrong]
    with pytest.raises(ExportError, match=f"the (gradient of )?{wrong} differs by"):
        check_agreement(model, found, batch, KEYS)


def test_without_a_compiler_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    compiled = CompiledTraining(Pair().double())
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        for batch in batches()[:2]:
            assert_same(compiled, batch, KEYS)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("Training of Pair goes on without compilation, which failed: ")
    assert "no-such-compiler" in warning
    assert "Install g++, or name another compiler in the environment variable CXX" in warning
    assert "\n" not in warning


def test_properties_of_edges_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Edges(GraphPropertyModel):
        def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
            raise NotImplementedError

        predict = forward

    monkeypatch.setitem(PROPERTIES, "bonds", Property("edge", (), ""))
    with pytest.raises(ExportError, match="Edges predicts \\['bonds'\\] of edges"):
        CompiledTraining(Edges(3.0, ["bonds"]))
