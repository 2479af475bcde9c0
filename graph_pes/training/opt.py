"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from graph_pes.models.base import GraphPropertyModel
from graph_pes.spelling import nearest


def _find(name: str | type, module: Any, base: type, kind: str) -> type:
    known = [
        key
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    ]
    found = name if isinstance(name, type) else vars(module).get(name if name in known else "")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(
            f"unknown {kind} {name!r}{nearest(str(name), known)} Expected the name of one in "
            f"{module.__name__}, or a class"
        )
    return found


def _check_arguments(cls: type, arguments: Iterable[str]) -> None:
    """Refuse arguments that a class does not take, naming the nearest that it does.

    Raises
    ------
    TypeError
        If there is one.
    """
    parameters = list(inspect.signature(cls.__init__).parameters.values())[2:]  # type: ignore[misc]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for name in arguments:
        if name not in known:
            raise TypeError(
                f"{cls.__name__} takes no argument {name!r}{nearest(name, known)} "
                f"Known arguments: {known}"
            )


class Optimizer:
    """Makes an optimizer for a model.

    Parameters that weight decay would spoil (energies of atoms, scales) are exempt from it.

    Parameters
    ----------
    name
        Name of a class in ``torch.optim``, or a class.
    **kwargs
        Its arguments.

    Raises
    ------
    ValueError
        If there is no such class.
    TypeError
        If it does not take these arguments.

    Examples
    --------
    >>> from graph_pes.models import PaiNN
    >>> Optimizer("AdamW", lr=1e-3, weight_decay=0.01)(PaiNN()).param_groups[0]["weight_decay"]
    0.0
    """

    def __init__(self, name: str | type[torch.optim.Optimizer], **kwargs: Any):
        self.optimizer_class = _find(name, torch.optim, torch.optim.Optimizer, "optimizer")
        self.kwargs = kwargs
        _check_arguments(self.optimizer_class, kwargs)
        self.optimizer_class([nn.Parameter(torch.zeros(1, 1))], **kwargs)

    def __call__(self, model: GraphPropertyModel) -> torch.optim.Optimizer:
        """The optimizer of a model.

        Raises
        ------
        ValueError
            If the model has nothing to train.
        """
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(f"{type(model).__name__} has no parameters to train")
        if self.optimizer_class is torch.optim.LBFGS:  # takes a single group, has no decay
            return self.optimizer_class(model.parameters(), **self.kwargs)
        exempt = {id(p) for p in model.non_decayable_parameters()}
        groups: list[dict[str, Any]] = [
            {
                "name": "non-decayable",
                "params": [p for p in model.parameters() if id(p) in exempt],
                "weight_decay": 0.0,
            },
            {"name": "normal", "params": [p for p in model.parameters() if id(p) not in exempt]},
        ]
        groups = [group for group in groups if group["params"]]
        return self.optimizer_class(groups, **self.kwargs)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.kwargs.items())
        return f"Optimizer({self.optimizer_class.__name__}, {arguments})"


class LRScheduler:
    """Makes a learning-rate schedule for an optimizer.

    Parameters
    ----------
    name
        Name of a class in ``torch.optim.lr_scheduler``, or a class.
    **kwargs
        Its arguments.

    Raises
    ------
    ValueError
        If there is no such class.
    TypeError
        If it does not take these arguments.
    """

    def __init__(self, name: str | type[torch.optim.lr_scheduler.LRScheduler], **kwargs: Any):
        self.scheduler_class = _find(
            name,
            torch.optim.lr_scheduler,
            torch.optim.lr_scheduler.LRScheduler,
            "learning-rate scheduler",
        )
        self.kwargs = kwargs
        _check_arguments(self.scheduler_class, kwargs)
        self(torch.optim.Adam([nn.Parameter(torch.zeros(1, 1))]))

    def __call__(self, optimizer: torch.optim.Optimizer) -> Any:
        """The schedule of an optimizer."""
        return self.scheduler_class(optimizer, **self.kwargs)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.kwargs.items())
        return f"LRScheduler({self.scheduler_class.__name__}, {arguments})"
