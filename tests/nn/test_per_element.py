from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from graph_pes.nn.per_element import (
    AtomicOneHot,
    PerElementEmbedding,
    PerElementParameter,
    count_used_parameters,
)
from graph_pes.periodic_table import MAX_Z


def test_values_by_symbol_and_number() -> None:
    parameter = PerElementParameter.from_symbols({"H": 1.5, "Og": -2})
    assert parameter["H"] == parameter[1] == 1.5
    assert parameter[118] == -2
    assert parameter["He"] == 0
    assert parameter(torch.tensor([118, 2, 1, 1])).tolist() == [-2, 0, 1.5, 1.5]
    assert parameter.registered_elements == [1, 118]


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
@pytest.mark.parametrize("Z_shape", [(0,), (5,), (2, 3)])
def test_shapes(shape: tuple[int, ...], Z_shape: tuple[int, ...]) -> None:
    parameter = PerElementParameter(torch.randn(MAX_Z + 1, *shape))
    Z = torch.randint(1, 100, Z_shape)
    assert torch.equal(parameter(Z), parameter.values[Z])


def test_pairs() -> None:
    values = torch.randn(MAX_Z + 1, MAX_Z + 1, 2)
    parameter = PerElementParameter(values, index_dims=2)
    Z_i, Z_j = torch.randint(1, 100, (7,)), torch.randint(1, 100, (7,))
    assert torch.equal(parameter(Z_i, Z_j), values[Z_i, Z_j])
    parameter["H", 8] = [1.0, 2.0]
    assert parameter["H", "O"].tolist() == [1, 2]
    assert parameter.registered_elements == [1, 8]


# --- bad input ---


def test_unknown_symbol() -> None:
    with pytest.raises(ValueError, match=r"got 'si': did you mean 'Si'"):
        PerElementParameter.from_symbols({"si": 1.0})


@pytest.mark.parametrize("value", [[1.0, 2.0, 3.0], [], torch.zeros(2, 2)])
def test_value_of_the_wrong_shape(value: object) -> None:
    parameter = PerElementParameter.full((2,), 0.0)
    with pytest.raises(ValueError, match=r"the value for C should have shape \(2,\), but has"):
        parameter["C"] = value  # type: ignore[assignment]
    assert parameter.registered_elements == []


@pytest.mark.parametrize(("shape", "index_dims"), [((118,), 1), ((119, 5), 2), ((3,), 1)])
def test_table_of_the_wrong_shape(shape: tuple[int, ...], index_dims: int) -> None:
    with pytest.raises(ValueError, match="of length 119, got shape"):
        PerElementParameter(torch.zeros(shape), index_dims)


# --- state ---


def test_registered_elements_survive_copies_and_files() -> None:
    """Defect 15 of graph-pes 1: they were lost."""
    parameter = PerElementParameter.from_symbols({"H": 1.0, "Si": 2.0})
    assert deepcopy(parameter).registered_elements == [1, 14]
    other = PerElementParameter.full((), 0.0)
    other.load_state_dict(parameter.state_dict())
    assert other.registered_elements == [1, 14]
    assert torch.equal(other.values, parameter.values)


def test_a_copy_is_independent() -> None:
    parameter = PerElementParameter.from_symbols({"H": 1.0}, float64=True)
    copy = deepcopy(parameter)
    copy["C"] = 5.0
    assert parameter.registered_elements == [1]
    assert parameter["C"] == 0
    assert copy.float().values.dtype == torch.float64


@pytest.mark.parametrize("cast", ["float", "half", "bfloat16", "double"])
def test_double_precision_is_kept(cast: str) -> None:
    value = -2043.123456789
    parameter = PerElementParameter.from_symbols({"O": value}, float64=True)
    model = torch.nn.Sequential(parameter, torch.nn.Linear(1, 1))
    getattr(model, cast)()
    assert parameter.values.dtype == torch.float64
    assert parameter["O"].item() == value
    assert model[1].weight.dtype == getattr(torch, {"double": "float64"}.get(cast, cast))
    model.to(torch.float32)
    assert parameter["O"].item() == value
    model.to("cpu", torch.float16)
    assert parameter["O"].item() == value


def test_casts_keep_the_parameter_object() -> None:
    """An optimizer made before a cast still trains the same parameter."""
    parameter = PerElementParameter.from_symbols({"O": 1.0}, float64=True)
    before = parameter.values
    parameter.float()
    assert parameter.values is before
    assert isinstance(parameter.values, torch.nn.Parameter)


def test_others_are_cast() -> None:
    assert PerElementParameter.full((), 0.0).half().values.dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_follows_the_default_dtype_at_construction(dtype: torch.dtype, default_dtype) -> None:
    default_dtype(dtype)
    assert PerElementParameter.full((), 0.0).values.dtype == dtype
    assert PerElementParameter.full((), 0.0, float64=True).values.dtype == torch.float64
    assert PerElementEmbedding(3)(torch.tensor([1])).dtype == dtype


# --- derivatives ---


@pytest.mark.parametrize("index_dims", [1, 2])
def test_gradients_through_the_gather(index_dims: int) -> None:
    shape = (MAX_Z + 1,) * index_dims
    parameter = PerElementParameter(torch.randn(*shape, 2, dtype=torch.float64), index_dims)
    Zs = [torch.tensor([1, 8, 1, 6])] * index_dims
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    (force,) = torch.autograd.grad((x * parameter(*Zs)).square().sum(), x, create_graph=True)
    (gradient,) = torch.autograd.grad(force.sum(), parameter.values)
    # force = 2 x p²: its derivative is 4 x p
    expected = torch.zeros_like(gradient)
    expected.index_put_(tuple(Zs), 4 * x.detach() * parameter(*Zs).detach(), accumulate=True)
    torch.testing.assert_close(gradient, expected)


def test_only_elements_present_are_trained() -> None:
    embedding = PerElementEmbedding(4)
    embedding(torch.tensor([6, 1])).sum().backward()
    gradient = embedding.embeddings.values.grad
    assert gradient is not None
    assert gradient.any(-1).nonzero()[:, 0].tolist() == [1, 6]


def test_not_trained_on_demand() -> None:
    assert not PerElementParameter.full((), 1.0, requires_grad=False).values.requires_grad


# --- counts and text ---


def test_number_used() -> None:
    assert PerElementParameter.from_symbols({"H": [1, 2], "O": [3, 4]}, (2,)).number_used() == 4
    pairs = PerElementParameter.full((), 0.0, index_dims=2)
    pairs.register_elements([1, 6, 8])
    assert pairs.number_used() == 9


def test_count_used_parameters() -> None:
    fixed = PerElementParameter.from_symbols({"H": 1.0}, requires_grad=False)
    trained = PerElementParameter.from_symbols({"H": [1.0] * 3, "C": [0.0] * 3}, (3,))
    module = torch.nn.ModuleList([fixed, trained, torch.nn.Linear(4, 2)])
    assert count_used_parameters(module) == (1 + 6 + 10, 6 + 10)


def test_repr() -> None:
    parameter = PerElementParameter.from_symbols({"O": -1.25, "H": 0.5}, requires_grad=False)
    assert repr(parameter) == "PerElementParameter(H=0.5, O=-1.25, trainable=False)"
    empty = PerElementParameter.full((3,), 0.0)
    assert repr(empty) == "PerElementParameter(shape=(119, 3), trainable=True)"


# --- one-hot ---


def test_one_hot() -> None:
    one_hot = AtomicOneHot(["C", "H"])
    assert one_hot(torch.tensor([1, 6, 8])).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert one_hot(torch.zeros(0, dtype=torch.long)).shape == (0, 2)
    # Indices are integers, whatever the model is cast to.
    assert one_hot.half()(torch.tensor([1])).dtype == torch.int64


def test_one_hot_names_unknown_elements() -> None:
    one_hot = AtomicOneHot(["O", "H"])
    one_hot.check(torch.tensor([1, 8, 8]))
    with pytest.raises(ValueError, match=r"contains C, Fe, but .* elements=\['O', 'H'\]"):
        one_hot.check(torch.tensor([1, 26, 6, 8]))
