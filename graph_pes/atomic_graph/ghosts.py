"""Atoms that belong to another process, as in a simulation that is split into domains.

The graph of an engine's domain has N atoms of its own, whose energies are wanted, and edges to
further atoms: images or ghosts, which another process owns. ``graph.Z`` and all that a model
computes belong to the N atoms; `with_ghosts` adds the rows of the others, wherever neighbours
are looked up. In all other graphs there are no ghosts, and nothing happens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial

import torch
from torch import Tensor

from graph_pes.tensors import index_sum

from .graph import GHOSTS, AtomicGraph

#: Of ghosts that are images of atoms of this process: see `images_of`.
_OWNERS: ContextVar[Tensor | None] = ContextVar("owners", default=None)


def with_ghosts(x: Tensor, graph: AtomicGraph) -> Tensor:
    """Add the rows of ghost atoms, from the processes that own them, to ``x`` (N, ...).

    Returns
    -------
    Tensor
        Shape (M, ...) for the M atoms that ``graph.neighbour_list[1]`` counts; ``x`` itself
        where there are no ghosts.
    """
    if GHOSTS not in graph.other:
        return x
    everyone = graph.other[GHOSTS]
    rows = ghost_exchange()(x.reshape(x.shape[0], -1), everyone)
    return rows.view(everyone.shape[0], *x.shape[1:])


def all_with_ghosts(tensors: Sequence[Tensor], graph: AtomicGraph) -> list[Tensor]:
    """Add the rows of ghost atoms to each of several tensors (N, ...), in one exchange."""
    if GHOSTS not in graph.other or not tensors:
        return list(tensors)
    sizes = [math.prod(x.shape[1:]) for x in tensors]
    rows = with_ghosts(torch.cat([x.flatten(1) for x in tensors], dim=1), graph)
    return [
        part.unflatten(1, x.shape[1:])
        for part, x in zip(rows.split(sizes, dim=1), tensors, strict=True)
    ]


def Z_with_ghosts(graph: AtomicGraph) -> Tensor:
    """Atomic numbers of all atoms, the ghosts among them, which need no exchange: shape (M,)."""
    return graph.other.get(GHOSTS, graph.Z)


def added_to_owners(x: Tensor, graph: AtomicGraph) -> Tensor:
    """Add the rows of ghost atoms to those of the same atoms in the processes that own them.

    What `with_ghosts` does, in reverse: for sums over the edges that lead to an atom, of which
    other processes know a part.

    Parameters
    ----------
    x
        Shape (M, ...), as returned by `with_ghosts`.

    Returns
    -------
    Tensor
        Shape (N, ...); ``x`` itself where there are no ghosts.
    """
    if GHOSTS not in graph.other:
        return x
    _register_operators()
    rows = torch.ops.graph_pes.ghost_reverse(x.reshape(x.shape[0], -1), graph.Z)
    return rows.view(graph.Z.shape[0], *x.shape[1:])


@contextmanager
def images_of(owners: Tensor) -> Iterator[None]:
    """For the time of a block, ghosts are images of atoms of this process.

    Parameters
    ----------
    owners
        Index of the atom that each of all M atoms is: shape (M,).
    """
    token = _OWNERS.set(owners)
    try:
        yield
    finally:
        _OWNERS.reset(token)


def ghost_exchange() -> torch._ops.OpOverload:
    """The operator ``graph_pes::ghost_exchange(x (N, C), like (M,)) -> (M, C)``.

    An engine with ghosts has its own implementation, which communicates; here all atoms must
    be of this process. Its derivative, ``ghost_reverse``, adds what belongs to the ghosts to
    the rows of their owners.
    """
    _register_operators()
    return torch.ops.graph_pes.ghost_exchange.default


@cache
def _register_operators() -> torch.library.Library | None:
    """Declare the operators to torch, until the object that is returned is deleted.

    Not where the plugin of an engine has done so in this process.
    """
    if hasattr(torch.ops.graph_pes, "ghost_exchange"):
        return None
    operators = torch.library.Library("graph_pes", "FRAGMENT")
    for name, adjoint in (
        ("ghost_exchange", "ghost_reverse"),
        ("ghost_reverse", "ghost_exchange"),
    ):
        operators.define(f"{name}(Tensor x, Tensor like) -> Tensor")
        operators.impl(name, partial(_in_one_process, name), "CompositeExplicitAutograd")
        torch.library.register_fake(f"graph_pes::{name}", _shape_only, lib=operators)
        torch.library.register_autograd(
            f"graph_pes::{name}",
            partial(_backward, adjoint),
            setup_context=_remember,
            lib=operators,
        )
    return operators


def _in_one_process(name: str, x: Tensor, like: Tensor) -> Tensor:
    owners = _OWNERS.get()
    if owners is not None:
        if name == "ghost_exchange":
            return x.index_select(0, owners)
        return index_sum(x, owners, like.shape[0])
    if x.shape[0] != like.shape[0]:
        raise RuntimeError(
            f"there are {abs(like.shape[0] - x.shape[0])} ghost atoms, but this process is no "
            "engine that could exchange them: load the plugin of the engine, or pass all atoms as "
            "its own"
        )
    return x.clone()


def _shape_only(x: Tensor, like: Tensor) -> Tensor:
    return x.new_empty((like.shape[0], x.shape[1]))


def _remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _backward(
    adjoint: str, ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return getattr(torch.ops.graph_pes, adjoint)(gradient.contiguous(), x), None
