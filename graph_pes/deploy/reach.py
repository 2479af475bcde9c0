"""How far what is predicted for an atom reaches, and whether a model runs on parts of structures.

Both are found out by trying; models may say that they reach further.
"""

from __future__ import annotations

import copy

import torch

from graph_pes.atomic_graph.ghosts import images_of
from graph_pes.models.base import GraphPropertyModel

from .engine import EngineInputs, EngineModel, ExportError
from .trace import example_inputs

#: Groups of atoms in a chain, each within the cutoff of the next only, and atoms in a group.
GROUPS, MEMBERS = 16, 3

#: Chains that are tried: in one of them a part of a network may be without effect.
TRIALS = 3


def layers_of(model: GraphPropertyModel) -> int:
    """Steps from neighbour to neighbour that the energy of an atom reaches, at least 1.

    A model with *n* layers of messages, whose energies depend on the neighbours of neighbours and
    so on, *n* times. It is the furthest atom in a chain whose distances to its neighbours the
    predictions for the first one depend on, or what the model, or a part of it, says by its
    attribute ``steps``, if that is more. Where the whole structure is known, no more than its
    atoms and their neighbours are needed: 1.

    Raises
    ------
    ExportError
        If that is the last one, however long the chain.

    Examples
    --------
    >>> from graph_pes.models import LennardJones, SchNet
    >>> layers_of(LennardJones()), layers_of(SchNet(layers=3, channels=4))
    (1, 3)
    """
    function = EngineModel(_in_double(model))
    if function.whole_structure is not None:
        return 1
    reached = max(_reached(function, chain(function.model, seed)) for seed in range(TRIALS))
    if reached == GROUPS:
        raise ExportError(
            f"what {type(model).__name__} predicts for an atom depends on atoms "
            f"{GROUPS} cutoffs away, and may depend on the whole structure"
        )
    said = [m.steps for m in model.modules() if isinstance(m, GraphPropertyModel)]
    return max(reached, *said)


def exchanges_ghosts(model: GraphPropertyModel) -> bool:
    """Whether a model computes its own atoms alone, with further ones as ghosts.

    It does, unless it needs the whole structure, if it looks up what it knows of neighbours by
    `graph_pes.atomic_graph.index_over_neighbours`, `graph_pes.atomic_graph.neighbour_Z` or
    `graph_pes.atomic_graph.with_ghosts`.

    Examples
    --------
    >>> from graph_pes.models import SchNet
    >>> exchanges_ghosts(SchNet(layers=2, channels=4))
    True
    """
    function = EngineModel(_in_double(model))
    if function.whole_structure is not None:
        return False
    inputs = example_inputs(function.model, 7, 6)
    N = len(inputs.Z)
    to_images = N * torch.randint(
        2, inputs.neighbours.shape, generator=torch.Generator().manual_seed(0)
    )
    with_images = inputs._replace(
        neighbours=inputs.neighbours + to_images, Z=torch.cat([inputs.Z, inputs.Z])
    )
    try:
        with images_of(torch.arange(N).repeat(2)):
            found = function(*with_images)
    except (IndexError, RuntimeError):  # it looks ghosts up among its own atoms
        return False
    pairs = zip(found, function(*inputs), strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, 1e-9, 1e-9) for a, b in pairs)


def chain(model: GraphPropertyModel, seed: int) -> EngineInputs:
    """Groups of atoms, each of which has all of its own and of the next groups as neighbours."""
    generator = torch.Generator().manual_seed(seed)
    n = GROUPS * MEMBERS
    group = torch.arange(n) // MEMBERS
    R = 0.25 * torch.rand(n, 3, generator=generator, dtype=torch.float64)
    R[:, 0] += 0.5 * group
    R = R * max(model.cutoff_value, 1.0)
    inputs = example_inputs(model, n, 3 * MEMBERS, seed=seed)
    columns = torch.arange(3 * MEMBERS).expand(n, -1)
    first = (MEMBERS * (group - 1)).unsqueeze(1)
    neighbours = (first + columns).clamp(0, n - 1)
    vectors = R[neighbours] - R.unsqueeze(1)
    atoms = torch.arange(n).unsqueeze(1)
    none = (neighbours != first + columns) | (neighbours == atoms)
    vectors[none] = vectors.new_tensor([2 * model.cutoff_value + 1, 0, 0])
    neighbours = torch.where(none, atoms, neighbours)
    return inputs._replace(vectors=vectors.to(inputs.vectors.dtype), neighbours=neighbours)


def _reached(function: EngineModel, inputs: EngineInputs) -> int:
    """How many groups have edges that what is predicted for the first group depends on."""
    vectors = inputs.vectors.clone().requires_grad_()
    mask = (torch.arange(len(inputs.Z)) < MEMBERS).double()
    with torch.enable_grad():
        results = function.predictions(vectors, inputs.neighbours, inputs.Z, mask)
        first = [
            (x if name in function.of_structures else x[:MEMBERS]).reshape(-1).double()
            for name, x in results.items()
        ]
        total = torch.cat([*first, *(x**2 for x in first)]).sum()
    if not total.requires_grad:
        return 0
    (gradient,) = torch.autograd.grad(total, vectors, allow_unused=True)
    if gradient is None:
        return 0
    rows = torch.nonzero(gradient.abs().sum(dim=(1, 2)))
    return int(rows.max()) // MEMBERS + 1 if len(rows) else 0


def _in_double(model: GraphPropertyModel) -> GraphPropertyModel:
    return copy.deepcopy(model).eval().cpu().double().requires_grad_(False)
