from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from graph_pes.nn.mlp import MLP, ShiftedSoftplus, parse_activation


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activate_last", [True, False])
def test_formula(bias: bool, activate_last: bool) -> None:
    mlp = MLP([3, 5, 4, 2], "Tanh", activate_last=activate_last, bias=bias)
    x = torch.randn(6, 3)
    expected = x.numpy()
    for k, layer in enumerate(mlp.linear_layers):
        expected = expected @ layer.weight.detach().numpy().T
        if bias:
            expected = expected + layer.bias.detach().numpy()
        if k < 2 or activate_last:
            expected = np.tanh(expected)
    np.testing.assert_allclose(mlp(x).detach(), expected, rtol=1e-5, atol=1e-6)
    assert all((layer.bias is not None) == bias for layer in mlp.linear_layers)


def test_one_layer_is_linear() -> None:
    mlp = MLP([3, 1])
    x = torch.randn(4, 3)
    torch.testing.assert_close(mlp(2 * x) - mlp(x), mlp(x) - mlp(0 * x))


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 4, 3)])
def test_shapes(shape: tuple[int, ...]) -> None:
    assert MLP([3, 8, 2])(torch.zeros(shape)).shape == (*shape[:-1], 2)


def test_shifted_softplus() -> None:
    x = torch.linspace(-30, 30, 13, dtype=torch.float64)
    expected = np.logaddexp(0, x.numpy()) - np.log(2)
    np.testing.assert_allclose(ShiftedSoftplus()(x), expected, rtol=1e-7, atol=1e-8)
    assert ShiftedSoftplus()(torch.zeros(1, dtype=torch.float64)).abs() < 1e-16


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CELU", nn.CELU),
        ("silu", nn.SiLU),
        ("SiLU", nn.SiLU),
        ("swish", nn.SiLU),
        ("ssp", ShiftedSoftplus),
        ("ShiftedSoftplus", ShiftedSoftplus),
        ("relu", nn.ReLU),
        ("Identity", nn.Identity),
    ],
)
def test_activations_by_name(name: str, kind: type[nn.Module]) -> None:
    assert type(parse_activation(name)) is kind


def test_activation_as_a_module() -> None:
    module = nn.LeakyReLU(0.3)
    assert MLP([1, 1], module).activation is module


@pytest.mark.parametrize("wrong", ["sillu", "functional", "Parameter", "Linear", "Module", ""])
def test_unknown_activation(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"Activation function '{wrong}' not found"):
        parse_activation(wrong)
