from __future__ import annotations

from copy import deepcopy

import ase
import pytest
import torch
from ase.build import bulk, molecule
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    neighbour_distances,
    neighbour_vectors,
    number_of_edges,
    sum_over_neighbours,
    to_batch,
)
from graph_pes.models.base import (
    GraphPESModel,
    GraphPropertyModel,
    GraphTensorModel,
    in_precision_of,
)
from graph_pes.models.stillinger_weber import StillingerWeber
from graph_pes.nn.per_element import PerElementParameter
from tests.conformance.wrong_models import Toy


def graph_of(atoms: ase.Atoms, cutoff: float = 3.0, **labels: object) -> AtomicGraph:
    atoms = atoms.copy()
    atoms.info.update(labels)
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


@pytest.fixture
def model() -> Toy:
    return Toy().double().eval()


EVERYTHING = ["energy", "forces", "local_energies", "stress", "virial"]


# --- shapes ---


def test_shapes_of_one_structure(model: Toy) -> None:
    found = model.predict(graph_of(bulk("NaCl", "rocksalt", a=4.0)), EVERYTHING)
    shapes = {key: tuple(x.shape) for key, x in found.items()}
    assert shapes == {
        "energy": (),
        "forces": (2, 3),
        "local_energies": (2,),
        "stress": (3, 3),
        "virial": (3, 3),
    }


@pytest.mark.parametrize("n", [1, 3])
def test_shapes_of_a_batch(model: Toy, n: int) -> None:
    """Defects 6 and 7 of graph-pes 1: one atom, in a batch of one, has all its dimensions."""
    found = model.predict(to_batch([graph_of(bulk("Cu"))] * n), EVERYTHING)
    shapes = {key: tuple(x.shape) for key, x in found.items()}
    assert shapes == {
        "energy": (n,),
        "forces": (n, 3),
        "local_energies": (n,),
        "stress": (n, 3, 3),
        "virial": (n, 3, 3),
    }


def test_shorthands(model: Toy) -> None:
    graph = graph_of(bulk("Cu"))
    expected = model.predict(graph, EVERYTHING)
    for key, value in expected.items():
        assert torch.equal(getattr(model, f"predict_{key}")(graph), value)
    every = model.get_all_PES_predictions(graph)
    assert every.keys() == set(EVERYTHING)
    assert all(torch.equal(every[key], value) for key, value in expected.items())


def test_everything_that_can_be_predicted(model: Toy) -> None:
    without_stress = {"energy", "forces", "local_energies"}
    chain = ase.Atoms("H", cell=[1, 0, 0], pbc=(True, False, False))
    assert model.get_all_PES_predictions(graph_of(molecule("H2O"))).keys() == without_stress
    assert model.get_all_PES_predictions(graph_of(chain)).keys() == without_stress
    mixed = to_batch([graph_of(bulk("Cu")), graph_of(molecule("H2O"))])
    assert model.get_all_PES_predictions(mixed).keys() == without_stress


# --- errors ---


def test_unknown_property(model: Toy) -> None:
    with pytest.raises(ValueError, match=r"Toy can't predict \['dipole'\]: it predicts \['energy'"):
        model.predict(graph_of(molecule("H2O")), ["energy", "dipole"])


def test_stress_without_a_cell(model: Toy) -> None:
    message = "Can't predict stress: the structure has no cell"
    with pytest.raises(ValueError, match=message):
        model.predict_stress(graph_of(molecule("H2O")))


def test_stress_of_a_mixed_batch_names_the_structure(model: Toy) -> None:
    """Defect 16 of graph-pes 1: it was infinite, or NaN."""
    batch = to_batch([graph_of(bulk("Cu")), graph_of(molecule("H2O"))])
    with pytest.raises(ValueError, match="structure 1 of the batch has no cell"):
        model.predict(batch, ["energy", "stress"])
    virial = model.predict_virial(batch)
    torch.testing.assert_close(virial[0], model.predict_virial(graph_of(bulk("Cu"))))
    torch.testing.assert_close(virial[1], model.predict_virial(graph_of(molecule("H2O"))))


@pytest.mark.parametrize("batched", [True, False])
def test_graph_with_too_few_edges(model: Toy, batched: bool) -> None:
    graph = graph_of(molecule("H2O"), cutoff=2.0)
    with pytest.raises(ValueError, match=r"up to 3 Å are needed.*up to 2 Å.*cutoff=3"):
        model.predict_energy(to_batch([graph]) if batched else graph)


def test_local_energies_are_obligatory() -> None:
    class NoEnergies(GraphPESModel):
        def __init__(self) -> None:
            super().__init__(3.0, implemented_properties=["forces"])

        def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"'local_energies' prediction.*\['forces'\]"):
        NoEnergies()


def test_forward_is_obligatory() -> None:
    class NoForward(GraphPESModel):
        def __init__(self) -> None:
            super().__init__(3.0, implemented_properties=["local_energies"])

    with pytest.raises(TypeError, match="abstract"):
        NoForward()


# --- what forward gets ---


class Spy(GraphPESModel):
    """Keeps the graph it was given."""

    def __init__(self, cutoff: float = 2.0):
        super().__init__(cutoff, ["local_energies"])
        self.weight = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        self.seen = graph
        r = neighbour_distances(graph)
        return {"local_energies": self.weight * sum_over_neighbours(r, graph)}


def test_graphs_are_trimmed_batches_in_the_precision_of_the_model() -> None:
    spy = Spy()
    spy.predict_forces(graph_of(molecule("CH4"), cutoff=5.0))
    assert spy.seen.cell.shape == (1, 3, 3)
    assert spy.seen.batch is not None
    assert number_of_edges(spy.seen) == number_of_edges(graph_of(molecule("CH4"), cutoff=2.0))
    dtypes = {x.dtype for x in (spy.seen.R, spy.seen.cell, neighbour_vectors(spy.seen))}
    assert dtypes == {torch.float32}


def test_vectors_are_computed_before_rounding() -> None:
    """Far from the origin, single precision would lose the distance."""
    far = ase.Atoms("H2", [[1e6, 0, 0], [1e6 + 0.75, 0, 0]])
    spy = Spy()
    spy.predict_forces(AtomicGraph.from_ase(far, 2.0, dtype=torch.float64))
    assert neighbour_distances(spy.seen).tolist() == [0.75, 0.75]


def test_labels_do_not_get_in_the_way(model: Toy) -> None:
    graph = graph_of(molecule("H2O"), energy=1.0)
    assert model.predict_energy(graph) != 1.0
    unknown = graph._replace(properties={"no such property": torch.zeros(7)})
    assert model.predict_energy(unknown) == model.predict_energy(graph)


@pytest.mark.parametrize("Z", [0, 119, -1])
@pytest.mark.parametrize("batched", [True, False])
def test_numbers_that_are_no_elements(model: Toy, Z: int, batched: bool) -> None:
    graph = graph_of(molecule("H2O"))
    graph = graph._replace(Z=torch.tensor([1, Z, 8]))
    graph = to_batch([graph]) if batched else graph
    with pytest.raises(ValueError, match=rf"from 1 \(H\) to 118 \(Og\), got {Z}"):
        model.predict_energy(graph)
    with pytest.raises(ValueError, match=rf"got {Z}"):
        AtomicTensor().predict(graph)


def test_others_that_are_no_tensors(model: Toy) -> None:
    graph = graph_of(molecule("H2O"))._replace(other={"total_charge": "x"})
    with pytest.raises(ValueError, match="'total_charge' .* should be a tensor, but is 'x'"):
        model.predict_energy(graph)


# --- grad modes ---


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [True, False])
def test_predictions_in_any_grad_mode(model: Toy, mode, training: bool) -> None:
    graph = graph_of(bulk("Cu"))
    expected = model.predict(graph, EVERYTHING)
    model.train(training)
    with mode():
        found = model.predict(graph_of(bulk("Cu")), EVERYTHING)
        energy = model.predict_energy(graph)
    for key, value in expected.items():
        torch.testing.assert_close(found[key].detach(), value, rtol=0, atol=0)
    assert energy.requires_grad == (training and mode is torch.enable_grad)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_triplets_found_in_inference_mode(mode) -> None:
    model = StillingerWeber().double().eval()
    atoms = bulk("Si").repeat(2)
    atoms.rattle(0.1, seed=0)
    expected = model.predict_forces(graph_of(atoms, model.cutoff_value))
    with mode():
        graph = graph_of(atoms, model.cutoff_value)
        batch = to_batch([graph], three_body_cutoff=model.cutoff_value)
        torch.testing.assert_close(model.predict_forces(batch), expected, rtol=0, atol=1e-12)


class Charged(Toy):
    """Its energy depends on an entry of ``graph.other`` (of a single structure)."""

    def embed(self, density: Tensor) -> Tensor:
        return super().embed(density) * self.charge

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        self.charge = graph.other["total_charge"]
        return super().forward(graph)


@pytest.mark.parametrize("batched", [True, False])
def test_other_inputs_made_in_inference_mode(batched: bool) -> None:
    model = Charged().double().eval()
    water = molecule("H2O")
    water.info["total_charge"] = 2.0
    expected = model.predict_forces(graph_of(water))
    with torch.inference_mode():
        graph = graph_of(water)
        found = model.predict_forces(to_batch([graph]) if batched else graph)
    assert torch.equal(found, expected)


def test_training_mode_keeps_the_graph(model: Toy) -> None:
    graph = graph_of(bulk("Cu"))
    found = model.train().predict(graph, EVERYTHING)
    for key in ("energy", "local_energies", "stress", "virial"):
        (gradient,) = torch.autograd.grad(found[key].sum(), model.a, retain_graph=True)
        assert gradient != 0
    found = model.eval().predict(graph, EVERYTHING)
    assert not any(x.requires_grad for x in found.values())


# --- derivatives with respect to the positions of someone else ---


def finite_difference(f, x: Tensor, step: float = 1e-5) -> Tensor:
    """The derivative of f (K,) with respect to each component of x (M, 3): shape (K, 3M)."""
    columns = []
    for n in range(x.numel()):
        change = torch.zeros(x.numel(), dtype=x.dtype)
        change[n] = step
        change = change.view_as(x)
        columns.append((f(x + change) - f(x - change)).flatten() / (2 * step))
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_hessian_with_respect_to_given_positions(model: Toy, training: bool, batched: bool) -> None:
    graph = graph_of(molecule("CH4"))
    graph = to_batch([graph, graph_of(molecule("H2O"))]) if batched else graph
    size = graph.R.numel()

    def energy(R: Tensor) -> Tensor:
        return model.predict(graph._replace(R=R), ["energy"])["energy"].sum()

    def forces(R: Tensor) -> Tensor:
        return model.predict(graph._replace(R=R), ["energy", "forces"])["forces"]

    expected = -finite_difference(forces, graph.R)
    assert expected.abs().max() > 0.1
    model.train(training)
    hessian = torch.autograd.functional.hessian(energy, graph.R).view(size, size)
    torch.testing.assert_close(hessian, expected, rtol=1e-6, atol=1e-6)
    jacobian = torch.autograd.functional.jacobian(forces, graph.R).view(size, size)
    torch.testing.assert_close(-jacobian, expected, rtol=1e-6, atol=1e-6)


def test_gradients_reach_what_positions_were_computed_from(model: Toy) -> None:
    """Stress and forces too, which are derivatives themselves."""
    graph = graph_of(bulk("Cu"))
    graph = graph._replace(R=graph.R + torch.tensor([[0.1, 0.2, -0.1]]))
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def stress(factor: Tensor) -> Tensor:
        scaled = graph._replace(R=graph.R * factor, cell=graph.cell * factor)
        return model.predict(scaled, ["forces", "stress"])["stress"]

    (slope,) = torch.autograd.grad(stress(scale)[0, 0], scale)
    h = torch.tensor(1e-5, dtype=torch.float64)
    expected = (stress(1 + h) - stress(1 - h))[0, 0] / (2 * h)
    assert abs(expected) > 0.01
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_positions_that_need_a_gradient_where_none_is_taken(model: Toy, mode) -> None:
    graph = graph_of(bulk("Cu"))
    expected = model.predict(graph, EVERYTHING)
    graph.R.requires_grad_()
    with mode():
        found = model.predict(graph, EVERYTHING)
    for key, value in expected.items():
        assert not found[key].requires_grad
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)
    assert graph.R.grad is None


# --- direct predictions ---


class Direct(GraphPESModel):
    """Predicts forces, and stress or virial, that are not derivatives of its energy."""

    def __init__(self, tensor: str):
        super().__init__(2.0, ["local_energies", "energy", "forces", tensor])
        self.tensor = tensor

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        ones = torch.ones(len(graph.Z))
        S = len(graph.cell)
        return {
            "local_energies": ones,
            "energy": torch.full((S,), 7.0),
            "forces": ones[:, None].expand(-1, 3),
            self.tensor: torch.eye(3).expand(S, 3, 3),
        }


def test_direct_predictions_come_first() -> None:
    graph = graph_of(bulk("Cu"))
    volume = bulk("Cu").get_volume()
    found = Direct("stress").predict(graph, EVERYTHING)
    assert found["energy"] == 7
    assert found["energy"].dtype == torch.float64
    assert found["forces"].tolist() == [[1, 1, 1]]
    assert found["stress"].tolist() == torch.eye(3).tolist()
    torch.testing.assert_close(found["virial"].double(), -volume * torch.eye(3).double())
    found = Direct("virial").predict(graph, EVERYTHING)
    assert found["virial"].tolist() == torch.eye(3).tolist()
    torch.testing.assert_close(found["stress"].double(), -torch.eye(3).double() / volume)


class AtomicTensor(GraphTensorModel):
    def __init__(self) -> None:
        super().__init__(cutoff=3.0)
        self.weight = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        v = neighbour_vectors(graph)
        return {"tensor": self.weight * sum_over_neighbours(v[:, :, None] * v[:, None], graph)}


def test_tensor_models() -> None:
    model = AtomicTensor()
    found = model.predict(graph_of(molecule("H2O")))
    assert found["tensor"].shape == (3, 3, 3)
    assert found["tensor"].requires_grad
    batch = to_batch([graph_of(molecule("H2O"))] * 2)
    assert model.eval().predict(batch)["tensor"].shape == (6, 3, 3)
    assert not model.predict(batch)["tensor"].requires_grad
    moving = batch._replace(R=batch.R.clone().requires_grad_())
    (gradient,) = torch.autograd.grad(model.predict(moving)["tensor"].norm(), moving.R)
    assert gradient.abs().max() > 0
    with pytest.raises(ValueError, match=r"can't predict \['energy'\]: it predicts \['tensor'\]"):
        model.predict(batch, ["energy"])


# --- pre-fitting ---


class Fits(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[AtomicGraph] = []
        self.values = PerElementParameter.full((), 0.0)

    def pre_fit(self, graphs: AtomicGraph) -> None:
        self.batches.append(graphs)

    def non_decayable_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.values.parameters())


class Prefitted(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.part = Fits()


def test_pre_fit_once() -> None:
    model = Prefitted()
    model.pre_fit_all_components([graph_of(molecule("H2O"), 5.0), graph_of(molecule("CH4"), 4.0)])
    assert len(model.part.batches) == 1
    (batch,) = model.part.batches
    assert batch.cutoff == 3.0
    assert neighbour_distances(batch).max() <= 3.0
    assert model.elements_seen == ["H", "C", "O"]
    model.pre_fit_all_components([graph_of(bulk("Si"))])
    assert len(model.part.batches) == 1  # a trained model stays as it was
    assert model.elements_seen == ["H", "C", "O", "Si"]


def test_pre_fit_survives_copies_and_state() -> None:
    model = Prefitted()
    model.pre_fit_all_components([graph_of(molecule("H2O"))])
    again = Prefitted()
    again.load_state_dict(model.state_dict())
    for other in (deepcopy(model), again):
        calls = len(other.part.batches)
        assert other.elements_seen == ["H", "O"]
        other.pre_fit_all_components([graph_of(molecule("H2O"))])
        assert len(other.part.batches) == calls


def test_pre_fit_to_nothing() -> None:
    with pytest.raises(ValueError, match="expected at least one graph, got none"):
        Toy().pre_fit_all_components([])


def test_parameters_that_must_not_decay() -> None:
    model = Prefitted()
    assert model.non_decayable_parameters() == [model.part.values.values]


# --- what a model knows of itself ---


def test_cutoffs_keep_their_precision() -> None:
    model = Toy(cutoff=5.3)
    for _ in range(2):
        model.half().float()
        assert model.cutoff.dtype == model.three_body_cutoff.dtype == torch.float64
        assert model.cutoff_value == 5.3
    assert model.cutoff.shape == model.three_body_cutoff.shape == ()


def test_dtype_is_that_of_the_parameters() -> None:
    assert Toy().dtype == torch.float32
    assert Toy().double().dtype == torch.float64

    class NoParameters(GraphPESModel):
        def __init__(self) -> None:
            super().__init__(0.0, ["local_energies"])

        def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
            return {"local_energies": 0.0 * graph.R[:, 0]}

    model = NoParameters()
    assert model.dtype is None
    graph = graph_of(molecule("H2O"))
    assert in_precision_of(model, graph) is graph
    assert model.predict_forces(graph).dtype == torch.float64


def test_device_and_properties() -> None:
    model = Toy()
    assert model.device == torch.device("cpu")
    assert model.implemented_properties == ["local_energies"]
    assert model.predictable_properties == set(EVERYTHING)


def test_arguments_are_recorded() -> None:
    class Many(Toy):
        def __init__(self, a: int, *more: float, b: str = "x", **rest: object):
            super().__init__(cutoff=a)

    assert Toy().constructor_arguments == {"cutoff": 3.0}
    assert Toy(2.0).constructor_arguments == {"cutoff": 2.0}
    assert Many(3, 4.0, c=5).constructor_arguments == {
        "a": 3,
        "more": (4.0,),
        "b": "x",
        "rest": {"c": 5},
    }
    assert deepcopy(Toy(2.0)).constructor_arguments == {"cutoff": 2.0}
    assert "constructor_arguments" not in Toy().state_dict()


def test_extra_state() -> None:
    class WithState(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = 0.0

        @property
        def extra_state(self) -> object:
            return {"temperature": self.temperature}

        @extra_state.setter
        def extra_state(self, state: dict[str, float]) -> None:
            self.temperature = state["temperature"]

    model, other = WithState(), WithState()
    model.temperature = 300.0
    other.load_state_dict(model.state_dict())
    assert other.temperature == 300


def test_base_classes_are_abstract() -> None:
    for base in (GraphPropertyModel, GraphPESModel, GraphTensorModel):
        with pytest.raises(TypeError, match="abstract"):
            base(3.0, ["local_energies"])  # type: ignore[abstract]
