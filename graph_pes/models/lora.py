"""Low-rank adaptation, for fine-tuning with few parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from graph_pes.nn.low_rank import (
    LowRank,
    correct,
    has_corrections,
    linear_matrices,
    merge_corrections,
)

from .freeze import Model, freeze, names_matching


def lora(
    model: Model,
    rank: int = 8,
    alpha: float = 8.0,
    targets: str | Sequence[str] = ".*",
) -> Model:
    r"""Freeze a model, and train corrections of low rank to the matrices of its linear layers.

    .. math::  W + \frac{\alpha}{r} \, U V

    for U with r columns, which are zero at first, and V with r rows. Hu et al.,
    doi:10.48550/arXiv.2106.09685. Matrices are those of ``torch.nn.Linear`` and of our
    equivariant layers, which have one for each irrep (and each element, where they depend on it),
    so that a corrected model has the symmetries of the original.

    Corrections are for training: files that are saved or exported hold the sums, `merged`.
    ``freeze_all_except`` with the pattern ``".*lora_"``, and others, trains further parameters.

    Parameters
    ----------
    model
        The model, which is changed and returned.
    rank
        r; lower for matrices with fewer rows or columns.
    alpha
        :math:`\alpha`, by which corrections are the larger for the same steps of U and V.
    targets
        Regular expressions that the names of the matrices to correct start with.

    Raises
    ------
    ValueError
        If the rank is not positive, no matrix matches one of the patterns, or the model has
        corrections already.

    Examples
    --------
    >>> from graph_pes.models import PaiNN
    >>> model = lora(PaiNN(channels=32, layers=2), rank=2, targets=[".*read_out", ".*updates"])
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    1377
    """
    if rank < 1:
        raise ValueError(f"lora: expected a rank of at least 1, got {rank}")
    if has_corrections(model):
        raise ValueError("lora: the model has corrections of low rank already")
    matrices = linear_matrices(model)
    if not matrices:
        raise ValueError(f"lora: {type(model).__name__} has no linear layers")
    chosen = names_matching(matrices, targets, "matrix")
    freeze(model)
    for name, (module, key) in matrices.items():
        if name in chosen:
            correct(module, key, LowRank(getattr(module, key), rank, alpha / rank))
    return model


def merged(model: Model) -> Model:
    """The model with all corrections of `lora` added to the matrices, and nothing left of them.

    Parameters
    ----------
    model
        It is not changed; without corrections, it is returned itself. What `lora` has frozen
        stays frozen.

    Examples
    --------
    >>> from graph_pes.models import PaiNN
    >>> sum(p.numel() for p in merged(lora(PaiNN())).parameters()) == sum(
    ...     p.numel() for p in PaiNN().parameters()
    ... )
    True
    """
    if not has_corrections(model):
        return model
    whole = copy.deepcopy(model)
    merge_corrections(whole)
    return whole
