"""Pieces of networks in NumPy, one atom and one neighbour at a time: slow, and easy to check."""

from __future__ import annotations

from collections.abc import Iterator

import ase
import numpy as np
from ase.neighborlist import neighbor_list
from torch import nn

from graph_pes.nn.mlp import MLP


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    """A linear layer with the weights of ours."""
    y = layer.weight.detach().numpy() @ x
    return y if layer.bias is None else y + layer.bias.detach().numpy()


def perceptron(mlp: MLP, activation, x: np.ndarray) -> np.ndarray:
    """Linear layers with the activation between, but not after, them."""
    *hidden, last = mlp.linear_layers
    for layer in hidden:
        x = activation(linear(layer, x))
    return linear(last, x)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def shifted_softplus(x: np.ndarray) -> np.ndarray:
    return np.log(0.5 * np.exp(x) + 0.5)


def neighbours(atoms: ase.Atoms, cutoff: float) -> Iterator[tuple[int, int, np.ndarray]]:
    """Central atom, neighbour, and the vector between them, as ASE finds them."""
    yield from zip(*neighbor_list("ijD", atoms, cutoff), strict=True)
