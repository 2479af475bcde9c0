"""A multi-layer perceptron for each element, all of the same widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.tensors import is_traced

#: The activation is CELU with this bound from below.
CELU_ALPHA = 0.1

#: Traced, atoms come in blocks of the same element: of at least so many atoms, and, besides those
#: that are not full, at most so many blocks.
MIN_BLOCK, MAX_BLOCKS = 8, 32


class ElementNetworks(nn.Module):
    """Multi-layer perceptrons with CELU, of which each atom passes through that of its element.

    Parameters
    ----------
    elements
        Number of elements, n.
    widths
        Of the layers, from the input to the output.

    Attributes
    ----------
    weights, biases
        Of each layer: shapes (n, input, output) and (n, 1, output).

    Examples
    --------
    >>> networks = ElementNetworks(2, [10, 8, 1])
    >>> networks(torch.rand(5, 10), torch.tensor([0, 1, 1, 0, 1])).shape
    torch.Size([5, 1])
    """

    def __init__(self, elements: int, widths: Sequence[int]):
        super().__init__()
        self.n_elements, self.widths = elements, list(widths)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in pairwise(widths):
            bound = 1 / math.sqrt(n_in)  # as in nn.Linear
            self.weights.append(torch.empty(elements, n_in, n_out).uniform_(-bound, bound))
            self.biases.append(torch.empty(elements, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor, elements: Tensor, inputs: Tensor | None = None) -> Tensor:
        """From inputs (N, widths[0]) of atoms of given elements (N,) to (N, widths[-1]).

        Of inputs that are not zero for any atom, ``x`` may hold a part only: ``inputs`` are their
        numbers then.
        """
        if is_traced(x.shape[0]):
            return self.in_blocks(x, elements)
        counts = torch.bincount(elements, minlength=self.n_elements).tolist()
        order = torch.argsort(elements, stable=True)
        found = [x.new_zeros(0, self.widths[-1])]
        for n, part in enumerate(x.index_select(0, order).split(counts)):
            if counts[n] > 0:
                first, *others = (W[n] for W in self.weights)
                first = first if inputs is None else first.index_select(0, inputs)
                found.append(perceptron(part, [first, *others], [b[n] for b in self.biases]))
        result = torch.cat(found)
        return torch.empty_like(result).index_copy(0, order, result)

    def in_blocks(self, x: Tensor, elements: Tensor) -> Tensor:
        """The same without knowing how many atoms there are of each element.

        Each block of atoms is of one element, and multiplied by the weights of this element.
        There are enough blocks for any composition, which takes far less time than all networks
        for all atoms.
        """
        N, n = x.shape[0], self.n_elements
        size = MIN_BLOCK + N // MAX_BLOCKS
        n_blocks = N // size + n
        one_hot = (elements.unsqueeze(1) == torch.arange(n, device=x.device)).long()
        so_far = torch.cumsum(one_hot, dim=0)  # (N, n)
        rank = (so_far * one_hot).sum(1) - 1  # among the atoms of the same element
        ends = torch.cumsum((one_hot.sum(0) + size - 1) // size, dim=0)  # blocks of elements
        first = torch.cat([ends.new_zeros(1), ends[:-1]])
        place = (first.index_select(0, elements) + rank // size, rank % size)
        block = torch.arange(n_blocks, device=x.device)
        of_block = (block.unsqueeze(1) >= ends).sum(1).clamp(max=n - 1)
        blocks = x.new_zeros(n_blocks, size, x.shape[1]).index_put(place, x)
        weights, biases = (
            [of_layer.index_select(0, of_block) for of_layer in layers]
            for layers in (self.weights, self.biases)
        )
        return perceptron(blocks, weights, biases)[place]

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.n_elements} x {self.widths}"


def perceptron(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Layers with CELU between them, of matrices or stacks of matrices."""
    for n, (W, b) in enumerate(zip(weights, biases, strict=True)):
        x = (F.celu(x, CELU_ALPHA) if n > 0 else x) @ W + b
    return x
