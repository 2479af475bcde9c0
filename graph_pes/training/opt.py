"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
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


def _joined(kind: str, pattern: str | None) -> str:
    return kind if pattern is None else f"{kind} {pattern}"


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
    lr_factors
        Learning rates of parts of the model, in multiples of ``lr``, by regular expressions that
        the names of parameters start with: the first one that matches counts, and what matches
        none has the rate ``lr``. Schedules, warm-up and averaging keep the ratios.
    **kwargs
        Arguments of the class.

    Raises
    ------
    ValueError
        If there is no such class, or a factor is not above zero.
    TypeError
        If it does not take these arguments.

    Examples
    --------
    >>> from graph_pes.models import PaiNN
    >>> Optimizer("AdamW", lr=1e-3, weight_decay=0.01)(PaiNN()).param_groups[0]["weight_decay"]
    0.0

    Layers near the input, which hold what is common to all structures, learn slowly:

    >>> slow = {"embedding": 0.01, "interactions.0": 0.1}
    >>> groups = Optimizer("Adam", lr=1e-3, lr_factors=slow)(PaiNN(layers=2)).param_groups
    >>> [(group["name"], group["lr"]) for group in groups]
    [('non-decayable', 0.001), ('embedding', 1e-05), ('interactions.0', 0.0001), ('normal', 0.001)]
    """

    def __init__(
        self,
        name: str | type[torch.optim.Optimizer],
        lr_factors: Mapping[str, float] | None = None,
        **kwargs: Any,
    ):
        self.optimizer_class = _find(name, torch.optim, torch.optim.Optimizer, "optimizer")
        self.kwargs, self.lr_factors = kwargs, dict(lr_factors or {})
        for pattern, factor in self.lr_factors.items():
            if not factor > 0:
                raise ValueError(
                    f"lr_factors: expected a number above 0 for {pattern!r}, got {factor}: what is "
                    "not to be trained at all can be frozen, by freeze_matching"
                )
        if self.lr_factors and self.optimizer_class is torch.optim.LBFGS:
            raise ValueError("lr_factors: LBFGS has a single learning rate")
        _check_arguments(self.optimizer_class, kwargs)
        self.optimizer_class([nn.Parameter(torch.zeros(1, 1))], **kwargs)

    def __call__(self, model: GraphPropertyModel) -> torch.optim.Optimizer:
        """The optimizer of a model.

        Raises
        ------
        ValueError
            If the model has nothing to train, or no parameter matches one of ``lr_factors``.
        """
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(f"{type(model).__name__} has no parameters to train")
        if self.optimizer_class is torch.optim.LBFGS:  # takes a single group, has no decay
            return self.optimizer_class(model.parameters(), **self.kwargs)
        optimizer = self.optimizer_class(self._groups(model), **self.kwargs)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * group["lr_factor"]
        return optimizer

    def _groups(self, model: GraphPropertyModel) -> list[dict[str, Any]]:
        """Parameters of the same decay and rate; those without decay come first."""
        exempt = {id(p) for p in model.non_decayable_parameters()}
        members: dict[tuple[bool, str | None], list[nn.Parameter]] = {
            (decays, pattern): []
            for decays in (False, True)
            for pattern in [*self.lr_factors, None]
        }
        names = []
        for name, parameter in model.named_parameters():
            pattern = next((p for p in self.lr_factors if re.match(p, name)), None)
            members[id(parameter) not in exempt, pattern].append(parameter)
            names.append(name)
        for pattern in self.lr_factors:
            if not (members[False, pattern] or members[True, pattern]):
                raise ValueError(
                    f"lr_factors: no parameter is left for {pattern!r}; the parameters are {names}"
                )
        return [
            {
                "name": (pattern or "normal") if decays else _joined("non-decayable", pattern),
                "params": parameters,
                "lr_factor": self.lr_factors.get(pattern, 1.0) if pattern else 1.0,
                **({} if decays else {"weight_decay": 0.0}),
            }
            for (decays, pattern), parameters in members.items()
            if parameters
        ]

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
