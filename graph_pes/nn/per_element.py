"""Values per chemical element, as parameters, embeddings and one-hot vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.periodic_table import MAX_Z, SYMBOLS, atomic_number, symbols_of

from .float64 import Float64Tensors

Element: TypeAlias = int | str


class KnownElements(nn.Module):
    """Which elements a model was given values for, or was fitted to.

    Part of the state, so that a saved or copied model still knows them.

    Examples
    --------
    >>> known = KnownElements()
    >>> known.register_elements([8, 1])
    >>> known.registered_elements
    [1, 8]
    """

    registered: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("registered", torch.zeros(MAX_Z + 1, dtype=torch.bool))

    def register_elements(self, Zs: Iterable[int]) -> None:
        """Note that these elements are known, given by atomic number."""
        for Z in Zs:
            self.registered[Z] = True

    @property
    def registered_elements(self) -> list[int]:
        """Atomic numbers of the elements that are known."""
        return self.registered.nonzero()[:, 0].tolist()

    def extra_repr(self) -> str:  # noqa: D102
        return ", ".join(symbols_of(self.registered_elements))


class PerElementParameter(Float64Tensors, KnownElements):
    """One value per element, or per pair of elements, up to atomic number 118.

    ``parameter(Z)`` gathers values for a tensor of atomic numbers, ``parameter["Si"]`` and
    ``parameter[14]``, or ``parameter["Si", "O"]`` for pairs, read and write single ones.

    Parameters
    ----------
    values
        Shape (119, ...), or (119, 119, ...) for pairs of elements.
    index_dims
        1 for elements, 2 for pairs.
    requires_grad
        Whether the values are trained.
    float64
        Keep the values in double precision when the model is cast.

    Examples
    --------
    >>> charge = PerElementParameter.full((), 0.0)
    >>> charge["O"] = -2.0
    >>> charge(torch.tensor([8, 1]))
    tensor([-2.,  0.], grad_fn=<ViewBackward0>)
    >>> charge.registered_elements
    [8]
    """

    values: nn.Parameter

    def __init__(
        self,
        values: Tensor,
        index_dims: int = 1,
        requires_grad: bool = True,
        float64: bool = False,
    ):
        super().__init__()
        if values.shape[:index_dims] != (MAX_Z + 1,) * index_dims:
            raise ValueError(
                f"PerElementParameter: expected the first {index_dims} dimension(s) of length "
                f"{MAX_Z + 1}, got shape {tuple(values.shape)}"
            )
        if float64:
            self.register_float64_parameter("values", values, requires_grad)
        else:
            self.values = nn.Parameter(values, requires_grad=requires_grad)
        self.index_dims = index_dims

    @classmethod
    def full(
        cls,
        shape: tuple[int, ...],
        value: float,
        index_dims: int = 1,
        requires_grad: bool = True,
        float64: bool = False,
    ) -> PerElementParameter:
        """The same value for every element."""
        dtype = torch.float64 if float64 else None
        values = torch.full((MAX_Z + 1,) * index_dims + shape, float(value), dtype=dtype)
        return cls(values, index_dims, requires_grad, float64)

    @classmethod
    def from_symbols(
        cls,
        values: Mapping[str, float | Sequence[float]],
        shape: tuple[int, ...] = (),
        requires_grad: bool = True,
        float64: bool = False,
    ) -> PerElementParameter:
        """Values given by chemical symbol, zero for all other elements.

        Raises
        ------
        ValueError
            For an unknown symbol, or a value of the wrong shape.
        """
        parameter = cls.full(shape, 0.0, 1, requires_grad, float64)
        for symbol, value in values.items():
            parameter[symbol] = value
        return parameter

    def forward(self, Z: Tensor, *more: Tensor) -> Tensor:
        """Values of the elements ``Z`` (K,), or of pairs ``Z_i, Z_j``: shape (K, ...)."""
        index = Z
        for other in more:
            index = index * (MAX_Z + 1) + other
        table = self.values.reshape((MAX_Z + 1) ** self.index_dims, -1)
        return F.embedding(index, table).view(*Z.shape, *self.values.shape[self.index_dims :])

    def __getitem__(self, element: Element | tuple[Element, Element]) -> Tensor:
        return self.values[self._index(element)]

    def __setitem__(
        self,
        element: Element | tuple[Element, Element],
        value: float | Sequence[float] | Tensor,
    ) -> None:
        Zs = self._index(element)
        new = torch.as_tensor(value, dtype=self.values.dtype, device=self.values.device)
        if new.numel() != self.values[Zs].numel():
            raise ValueError(
                f"the value for {'-'.join(SYMBOLS[Z] for Z in Zs)} should have shape "
                f"{tuple(self.values[Zs].shape)}, but has {tuple(new.shape)}"
            )
        with torch.no_grad():
            self.values[Zs] = new.reshape(self.values[Zs].shape)
        self.register_elements(Zs)

    @staticmethod
    def _index(element: Element | tuple[Element, Element]) -> tuple[int, ...]:
        elements = element if isinstance(element, tuple) else (element,)
        return tuple(atomic_number(e) if isinstance(e, str) else e for e in elements)

    def number_used(self) -> int:
        """Number of values that belong to registered elements."""
        per_entry = self.values[(0,) * self.index_dims].numel()
        return int(self.registered.sum()) ** self.index_dims * per_entry

    def extra_repr(self) -> str:
        """Values of the registered elements, for ``print``."""
        if self.index_dims > 1 or self.values[0].numel() > 1 or not self.registered.any():
            return f"shape={tuple(self.values.shape)}, trainable={self.values.requires_grad}"
        return (
            ", ".join(f"{SYMBOLS[Z]}={self.values[Z].item():.6g}" for Z in self.registered_elements)
            + f", trainable={self.values.requires_grad}"
        )


class PerElementEmbedding(nn.Module):
    """A learnt vector per element.

    Parameters
    ----------
    dim
        Length of the vectors.

    Raises
    ------
    ValueError
        If the length is not positive.
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim < 1:
            raise ValueError(f"expected at least one channel for each element, got {dim}")
        self.embeddings = PerElementParameter(torch.randn(MAX_Z + 1, dim))

    def forward(self, Z: Tensor) -> Tensor:
        """Vectors of the elements ``Z`` (N,): shape (N, dim)."""
        return self.embeddings(Z)


class AtomicOneHot(nn.Module):
    """Elements as unit vectors.

    Parameters
    ----------
    elements
        Chemical symbols, in the order of the components.

    Raises
    ------
    ValueError
        If there are none, or if one is unknown or given twice.

    Examples
    --------
    >>> AtomicOneHot(["O", "H"])(torch.tensor([1, 8]))
    tensor([[0, 1],
            [1, 0]])
    """

    index_of: Tensor

    def __init__(self, elements: Sequence[str]):
        super().__init__()
        if isinstance(elements, str) or len(elements) == 0:
            raise ValueError(f"elements: expected a list of chemical symbols, got {elements!r}")
        self.elements = list(elements)
        if len(set(self.elements)) < len(self.elements):
            raise ValueError(f"elements: expected each once, got {self.elements}")
        self.numbers = [atomic_number(symbol) for symbol in self.elements]
        index_of = torch.full((MAX_Z + 1,), -1)
        index_of[self.numbers] = torch.arange(len(self.numbers))
        self.register_buffer("index_of", index_of)

    def forward(self, Z: Tensor) -> Tensor:
        """Unit vectors of the elements ``Z`` (N,): integers of shape (N, len(elements)).

        An element that was not declared has a vector of zeros.
        """
        index = self.index_of[Z]
        return (index[:, None] == torch.arange(len(self.elements), device=Z.device)).long()

    def check(self, Z: Tensor) -> None:
        """Make sure that all atoms are of the declared elements.

        Raises
        ------
        ValueError
            Naming those that are not.
        """
        unknown = Z[self.index_of[Z] < 0]
        if unknown.numel() > 0:
            raise ValueError(
                f"the structure contains {', '.join(symbols_of(unknown.tolist()))}, but the model "
                f"was made for elements={self.elements}"
            )

    def extra_repr(self) -> str:  # noqa: D102
        return ", ".join(self.elements)


def count_used_parameters(module: nn.Module) -> tuple[int, int]:
    """Number of parameters, and of trained ones, counting registered elements only."""
    total = learnable = 0
    per_element = {
        id(m.values): m.number_used()
        for m in module.modules()
        if isinstance(m, PerElementParameter)
    }
    for parameter in module.parameters():
        n = per_element.get(id(parameter), parameter.numel())
        total += n
        learnable += n if parameter.requires_grad else 0
    return total, learnable
