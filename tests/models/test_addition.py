from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import ase
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    neighbour_distances,
    neighbour_vectors,
    sum_over_neighbours,
    to_batch,
)
from graph_pes.models import (
    AdditionModel,
    FixedOffset,
    FixedTensorOffset,
    GraphPESModel,
    GraphTensorModel,
    LearnableOffset,
    LennardJones,
    Morse,
    PaiNN,
    SchNet,
    SmoothedPairPotential,
    StillingerWeber,
    TensorAdditionModel,
    ZBLCoreRepulsion,
)
from tests.conformance.models import randomised
from tests.strategies import periodic_structures, structure_lists

ELEMENTS = ("H", "C", "O")
PREDICTIONS = ["energy", "forces", "virial", "local_energies"]


def components() -> dict[str, GraphPESModel]:
    """Of different cutoffs and precisions."""
    torch.manual_seed(1)
    return {
        "network": randomised(PaiNN(channels=4, layers=2, cutoff=3.5)).double(),
        "single": randomised(SchNet(cutoff=2.5, channels=4, expansion_features=5, layers=1)),
        "core": SmoothedPairPotential(ZBLCoreRepulsion(cutoff=1.2)).double(),
        "truncated": LennardJones(cutoff=3.0, sigma=1.1),
        "offset": FixedOffset(H=-13.6, C=-1030.5),
    }


def graph_of(atoms: ase.Atoms, cutoff: float = 4.0) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


def assert_sum(
    model: AdditionModel,
    graph: AtomicGraph,
    properties: Sequence[str] = PREDICTIONS,
    tolerance: float = 2e-6,  # where parts are in single precision
) -> None:
    """The sum of models predicts the sum of what they predict one by one."""
    parts = [part.predict(graph, properties) for part in model.models.values()]
    for key, found in model.predict(graph, properties).items():
        expected = sum(part[key].double() for part in parts)
        assert found.shape == expected.shape
        scale = max(part[key].abs().max().item() for part in parts)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * (1 + scale))


@given(structures=structure_lists(elements=ELEMENTS))
def test_sum_of_predictions(structures: list[ase.Atoms]) -> None:
    model = AdditionModel(**components()).eval()
    graphs = [graph_of(atoms) for atoms in structures]
    assert_sum(model, graphs[0])
    assert_sum(model, to_batch(graphs))


@given(atoms=periodic_structures(elements=ELEMENTS, max_atoms=4))
def test_sum_of_stresses(atoms: ase.Atoms) -> None:
    model, graph = AdditionModel(**components()).eval(), graph_of(atoms)
    assert_sum(model, graph, ["stress", "virial"])
    assert_sum(model, to_batch([graph, graph]), ["stress", "virial"])


@given(structures=structure_lists(elements=ELEMENTS))
def test_exact_in_double_precision(structures: list[ase.Atoms]) -> None:
    model = AdditionModel(**components()).double().eval()
    graph = to_batch([graph_of(atoms) for atoms in structures])
    assert_sum(model, graph, tolerance=1e-12)


def test_training_gradients_are_those_of_the_parts() -> None:
    models = {"a": Morse(3.0), "b": SchNet(2.5, channels=4, layers=1).double()}
    graph = graph_of(molecule("CH4"))

    def loss(predicted: dict[str, Tensor]) -> Tensor:
        return predicted["energy"].square() + predicted["forces"].square().sum()

    loss(AdditionModel(**models).predict(graph, ["energy", "forces"])).backward()
    found = {(n, k): p.grad for n, m in models.items() for k, p in m.named_parameters()}
    models = deepcopy(models)
    for model in models.values():
        model.zero_grad()
    parts = [m.predict(graph, ["energy", "forces"]) for m in models.values()]
    loss({key: sum(part[key].double() for part in parts) for key in parts[0]}).backward()
    for name, model in models.items():
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(found[name, key], parameter.grad, rtol=1e-5, atol=1e-5)


# --- precision ----------------------------------------------------------------------------


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_precision_is_that_of_the_parts(
    default: torch.dtype, default_dtype: Callable[[torch.dtype], None]
) -> None:
    single, double = Morse(3.0), Morse(3.0).double()
    default_dtype(default)
    graph = AtomicGraph.from_ase(molecule("CH4"), 3.0)
    offset = FixedOffset(H=1.0)
    for model, dtype in (
        (AdditionModel(a=single), torch.float32),
        (AdditionModel(a=single, offset=offset), torch.float32),
        (AdditionModel(a=single, b=double), torch.float64),
        (AdditionModel(b=double, a=single, offset=offset), torch.float64),
        (AdditionModel(sum=AdditionModel(a=single, b=double)), torch.float64),
    ):
        predicted = model.eval().predict(graph, PREDICTIONS)
        assert model.dtype == dtype
        assert {k: v.dtype for k, v in predicted.items()} == {
            "energy": torch.float64,
            "local_energies": torch.float64,
            "forces": dtype,
            "virial": dtype,
        }
    assert AdditionModel(offset=offset).dtype is None


class Spy(GraphPESModel):
    """Remembers the graph that it is given."""

    def __init__(self, cutoff: float, dtype: torch.dtype):
        super().__init__(cutoff, ["local_energies"])
        self.k = torch.nn.Parameter(torch.tensor(1.0, dtype=dtype))

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        self.seen = graph
        r = neighbour_distances(graph)
        return {"local_energies": sum_over_neighbours(self.k * r, graph)}


def test_each_part_gets_edges_and_precision_of_its_own() -> None:
    parts = {
        "far": Spy(4.0, torch.float64),
        "near": Spy(2.8, torch.float32),
        "halfway": Spy(3.0, torch.float64),
    }
    atoms = bulk("Cu", a=3.6)
    for graph in (graph_of(atoms, 5.0), to_batch([graph_of(atoms, 5.0)])):
        AdditionModel(**parts).predict(graph, ["forces", "stress"])
        for part in parts.values():
            lengths = neighbour_vectors(part.seen).norm(dim=-1)
            expected = graph_of(atoms, part.cutoff_value).neighbour_list.shape[1]
            assert part.seen.cutoff == part.cutoff_value
            assert lengths.max() <= part.cutoff_value
            assert len(lengths) == expected
            assert part.seen.R.dtype == lengths.dtype == part.k.dtype


def test_cutoffs() -> None:
    model = AdditionModel(a=Morse(3.0), b=StillingerWeber(), offset=LearnableOffset())
    assert model.cutoff_value == StillingerWeber().cutoff_value
    assert model.three_body_cutoff == StillingerWeber().three_body_cutoff
    assert AdditionModel(offset=LearnableOffset()).cutoff_value == 0


# --- derivatives --------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_one_backward_pass(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    grad = torch.autograd.grad

    def counted(*args, **kwargs):
        calls.append(args)
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    inner = AdditionModel(a=Morse(2.0), b=Morse(3.0))
    model = AdditionModel(inner=inner, **components()).train(training)
    model.predict(graph_of(bulk("Cu")), ["energy", "forces", "stress", "virial"])
    assert len(calls) == 1
    model.eval().predict_energy(graph_of(bulk("Cu")))
    assert len(calls) == 1


class Direct(GraphPESModel):
    """Predicts some properties directly, each of a value of its own."""

    def __init__(self, properties: Sequence[str], value: float = 1.0, cutoff: float = 3.0):
        super().__init__(cutoff, ["local_energies", *properties])
        self.value = value

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        S = graph.cell.shape[0]
        shapes = {"energy": (S,), "forces": graph.R.shape, "stress": (S, 3, 3)}
        shapes |= {"charges": graph.Z.shape, "local_energies": graph.Z.shape}
        return {key: torch.full(shapes[key], self.value) for key in self.implemented_properties}


def test_direct_predictions_and_an_offset() -> None:
    model = AdditionModel(direct=Direct(["forces"]), offset=FixedOffset(H=-2.0))
    assert sorted(model.implemented_properties) == ["forces", "local_energies"]
    predicted = model.predict(graph_of(molecule("H2")), ["energy", "forces"])
    assert predicted["energy"].item() == -2.0
    assert predicted["forces"].tolist() == [[1.0] * 3] * 2


def test_direct_predictions_of_all_parts() -> None:
    model = AdditionModel(a=Direct(["forces", "stress"]), b=Direct(["stress", "forces"], 2.0))
    predicted = model.predict(graph_of(bulk("Cu")), ["forces", "stress", "virial"])
    assert predicted["forces"].tolist() == [[3.0] * 3]
    assert predicted["stress"].tolist() == [[3.0] * 3] * 3


@pytest.mark.parametrize(
    "parts",
    [
        {"direct": Direct(["forces"]), "morse": Morse()},
        {"direct": Direct(["forces"]), "other": Direct(["stress"])},
        {"direct": Direct(["forces", "stress"]), "other": Direct(["forces"])},
    ],
)
def test_direct_and_derived_forces_do_not_add_up(parts: dict[str, GraphPESModel]) -> None:
    with pytest.raises(ValueError, match="the same of forces, stress and virial directly, but"):
        AdditionModel(**parts)


def test_energies_that_are_not_sums_of_local_ones() -> None:
    graph = graph_of(molecule("H2"))
    model = AdditionModel(direct=Direct(["energy"], 5.0), offset=FixedOffset(H=-2.0))
    assert model.predict_energy(graph).item() == 5.0 - 4.0
    assert model.predict_energy(to_batch([graph, graph])).tolist() == [1.0, 1.0]
    spring = Spy(3.0, torch.float64)
    model = AdditionModel(direct=Direct(["energy"], 5.0), spring=spring)
    expected = spring.predict(graph, ["energy", "forces"])
    found = model.predict(graph, ["energy", "forces"])
    torch.testing.assert_close(found["energy"], expected["energy"] + 5.0)
    torch.testing.assert_close(found["forces"], expected["forces"])


def test_properties_that_some_parts_predict() -> None:
    model = AdditionModel(a=Direct(["charges"]), b=Direct(["charges"], 2.0), c=Morse())
    graph = graph_of(molecule("H2"), 5.0)
    assert model.predict(graph, ["charges"])["charges"].tolist() == [3.0, 3.0]


# --- parts by name ------------------------------------------------------------------------


def test_names() -> None:
    a, b = Morse(), FixedOffset()
    model = AdditionModel(a=a, b=b)
    assert model["a"] is a
    assert list(model.models) == ["a", "b"]
    with pytest.raises(KeyError, match=r"'c': expected one of the components \['a', 'b'\]"):
        model["c"]


@pytest.mark.parametrize("kind", [AdditionModel, TensorAdditionModel])
def test_wrong_parts(kind: type) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: expected at least one model, got none"):
        kind()
    with pytest.raises(TypeError, match=r"expected 'head' to be a Graph.*Model, got Linear"):
        kind(head=torch.nn.Linear(1, 1))
    for name in ("a.b", "", "double", "values", "forward"):
        with pytest.raises(ValueError, match=f"a component can't be named '{name}'"):
            kind(**{name: Morse()})
    other = FixedTensorOffset(H=[1.0]) if kind is AdditionModel else Morse()
    with pytest.raises(TypeError, match=f"expected 'other' to be .*, got {type(other).__name__}"):
        kind(other=other)


def test_sums_of_sums() -> None:
    parts = components()
    first = {"first": AdditionModel(**dict(list(parts.items())[:2]))}
    nested = AdditionModel(**first, **dict(list(parts.items())[2:])).eval()
    graph = graph_of(molecule("CH3CH2OH"))
    assert nested["first"]["network"] is parts["network"]
    assert_sum(nested, graph)
    flat = AdditionModel(**parts).eval().predict(graph, PREDICTIONS)
    for key, value in nested.predict(graph, PREDICTIONS).items():
        torch.testing.assert_close(value, flat[key], rtol=1e-12, atol=1e-12)


def test_repr() -> None:
    lines = repr(AdditionModel(pair=Morse(), offset=FixedOffset(H=-1.0))).splitlines()
    assert lines[0] == "AdditionModel("
    assert "(pair): Morse(cutoff=5, D=0.1, a=5, r0=1.5)" in lines[2]


# --- pre-fitting --------------------------------------------------------------------------


class Counting(Morse):
    def pre_fit(self, graphs: AtomicGraph) -> None:
        self.fits = getattr(self, "fits", 0) + 1
        self.seen = graphs


def training_graphs() -> list[AtomicGraph]:
    graphs = [graph_of(molecule(name)) for name in ("H2", "CH4", "CO2")]
    for graph, energy in zip(graphs, (-30.0, -1090.0, -5000.0), strict=True):
        graph.properties["energy"] = torch.tensor(energy, dtype=torch.float64)
    return graphs


def test_every_part_is_pre_fitted_once() -> None:
    shared, inner = Counting(2.0), Counting(3.0)
    nested = AdditionModel(inner=inner, offset=LearnableOffset())
    model = AdditionModel(a=shared, b=shared, nested=nested)
    for _ in range(2):
        model.pre_fit_all_components(training_graphs())
    assert (shared.fits, inner.fits) == (1, 1)
    assert inner.seen.ptr.tolist() == [0, 2, 7, 10]
    assert model.elements_seen == ["H", "C", "O"]
    assert nested["offset"].offsets["C"].item() != 0


def test_parts_are_pre_fitted_to_neighbours_within_their_own_cutoff() -> None:
    """The mean number of neighbours, for instance, is not that within the cutoff of the sum."""
    part, whole = Counting(1.2), Counting(3.0)
    AdditionModel(part=part, whole=whole).pre_fit_all_components(training_graphs())
    assert neighbour_distances(whole.seen).max() > 1.2
    near = neighbour_distances(whole.seen) <= 1.2
    assert near.any()
    torch.testing.assert_close(part.seen.neighbour_list, whole.seen.neighbour_list[:, near])


def test_parts_that_were_pre_fitted_stay_as_they_are() -> None:
    trained = AdditionModel(network=PaiNN(channels=4, layers=1, cutoff=3.0), morse=Counting(3.0))
    trained.pre_fit_all_components(training_graphs())
    before = deepcopy(trained.state_dict())
    model = AdditionModel(trained=trained, offset=LearnableOffset())
    graphs = training_graphs()
    graphs[1].properties["energy"] += 1234.5
    model.pre_fit_all_components(graphs)
    assert trained["morse"].fits == 1
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name]) if isinstance(value, Tensor) else True, name
    assert model["offset"].offsets["C"].item() != 0


def test_parameters_that_must_not_decay_are_listed_once() -> None:
    offset, network = LearnableOffset(), PaiNN(channels=4, layers=1)
    model = AdditionModel(sum=AdditionModel(network=network), offset=offset)
    exempt = model.non_decayable_parameters()
    scales = network.scaler.per_element_scaling.values
    assert {id(p) for p in exempt} == {id(offset.offsets.values), id(scales)}
    assert len(exempt) == 2


# --- tensors ------------------------------------------------------------------------------


class SumOfVectors(GraphTensorModel):
    def __init__(self, cutoff: float, dtype: torch.dtype):
        super().__init__(cutoff)
        self.k = torch.nn.Parameter(torch.tensor(1.5, dtype=dtype))

    def forward(self, graph: AtomicGraph) -> dict[str, Tensor]:
        return {"tensor": sum_over_neighbours(self.k * neighbour_vectors(graph), graph)}


@given(structures=structure_lists(elements=("H", "O"), max_size=3))
def test_tensors(structures: list[ase.Atoms]) -> None:
    parts = {
        "far": SumOfVectors(3.0, torch.float64),
        "near": SumOfVectors(2.0, torch.float32),
        "offset": FixedTensorOffset(H=[1.0, 2.0, 3.0]),
    }
    model = TensorAdditionModel(**parts).eval()
    assert model.cutoff_value == 3.0
    assert model.dtype == torch.float64
    assert model["near"] is parts["near"]
    graphs = [graph_of(atoms) for atoms in structures]
    for graph in (graphs[0], to_batch(graphs)):
        expected = sum(m.eval().predict(graph)["tensor"].double() for m in parts.values())
        found = model.predict(graph)["tensor"]
        assert found.shape == (len(graph.Z), 3)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(KeyError, match="'mid': expected one of the components"):
        model["mid"]
