"""Ridge regression of properties of structures on their composition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, number_of_structures
from graph_pes.tensors import index_sum, left_aligned_mul


@dataclass(frozen=True)
class PerElementFit:
    """Contributions of the elements to a property.

    Attributes
    ----------
    means
        Atomic number → mean contribution of one atom, shape of the property.
    variances
        Atomic number → variance of that contribution between structures.
    determined
        Whether the compositions of the structures determine the contributions one by one.
    """

    means: dict[int, Tensor]
    variances: dict[int, Tensor]
    determined: bool


def compositions(graphs: AtomicGraph) -> tuple[Tensor, Tensor]:
    """Number of atoms of each element in each structure.

    Returns
    -------
    tuple[Tensor, Tensor]
        The elements present, shape (K,), and the counts, float64, shape (S, K).
    """
    elements, which = graphs.Z.unique(return_inverse=True)
    one_hot = torch.nn.functional.one_hot(which, len(elements)).double()
    batch = graphs.batch if graphs.batch is not None else torch.zeros_like(graphs.Z)
    return elements, index_sum(one_hot, batch, number_of_structures(graphs))


def ridge(X: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Coefficients w (K, ...) that minimise ``|y - X w|² + alpha |w|²``, without intercept.

    Parameters
    ----------
    X
        Shape (S, K).
    y
        Shape (S, ...).
    """
    gram = X.T @ X + alpha * torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    return torch.linalg.solve(gram, X.T @ y.reshape(len(y), -1)).view(-1, *y.shape[1:])


def fit_per_element(
    values: Tensor,
    graphs: AtomicGraph,
    *,
    known: Mapping[int, Tensor] | None = None,
    per_atom: bool = False,
    alpha: float = 1e-5,
    min_variance: float = 0.01,
) -> PerElementFit:
    """Mean and variance of the contribution of each element to a property.

    The property of a structure is modelled as a sum over its atoms, the squared residual as
    a sum of variances. The penalty ``alpha`` decides where the data do not: with a single
    composition, contributions are in proportion to the numbers of atoms.

    Parameters
    ----------
    values
        Property of each structure (S, ...), or of each atom (N, ...); NaN where missing.
    graphs
        The batch that the values belong to.
    known
        Contributions of elements, by atomic number, that are not to be fitted: the others are
        fitted to what remains.
    per_atom
        Whether there is one value per atom.
    alpha
        The penalty.
    min_variance
        Lower limit of the variances.

    Returns
    -------
    PerElementFit
        Of the elements in the batch that are not known.

    Raises
    ------
    ValueError
        If every value is missing.
    """
    elements, counts = compositions(graphs)
    if per_atom:
        counts = (graphs.Z[:, None] == elements).double()
    values, known = values.double(), known or {}
    for Z, contribution in known.items():
        of_element = counts[:, elements == Z].sum(1)  # zero if it is not there
        values = values - left_aligned_mul(contribution.double().expand_as(values), of_element)
    unknown = torch.tensor([Z not in known for Z in elements.tolist()], device=elements.device)
    elements, counts = elements[unknown], counts[:, unknown]
    if len(elements) == 0:
        return PerElementFit({}, {}, determined=True)
    present = ~values.reshape(len(values), -1).isnan().any(-1)
    if not present.any():
        raise ValueError("fit_per_element: expected at least one value, but all are missing")
    X, y = counts[present], values[present]
    means = ridge(X, y, alpha)
    residuals = y - (X @ means.view(len(elements), -1)).view_as(y)
    variances = ridge(X, residuals**2, alpha).clamp(min=min_variance)
    Zs = elements.tolist()
    return PerElementFit(
        means=dict(zip(Zs, means, strict=True)),
        variances=dict(zip(Zs, variances, strict=True)),
        determined=bool(torch.linalg.matrix_rank(X) == len(elements)),
    )
