"""All checks, and the function that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import torch

from graph_pes.models.base import GraphPESModel

from .derivatives import (
    check_edge_derivatives,
    check_forces,
    check_stress,
    check_training,
    check_virial,
)
from .locality import check_beyond_cutoff, check_cutoff
from .robustness import (
    check_copies,
    check_device,
    check_dtype,
    check_files,
    check_grad_modes,
    check_precision,
    check_purity,
    check_shapes,
)
from .subject import ModelUnderTest
from .symmetries import (
    check_batch,
    check_permutation,
    check_reflection,
    check_rotation,
    check_supercell,
    check_translation,
)

if TYPE_CHECKING:
    import ase

#: Every check by name; each takes a `ModelUnderTest` and raises if the model fails it.
CHECKS: Final[Mapping[str, Callable[[ModelUnderTest], None]]] = MappingProxyType(
    {
        "shapes": check_shapes,
        "dtype": check_dtype,
        "device": check_device,
        "precision": check_precision,
        "purity": check_purity,
        "grad_modes": check_grad_modes,
        "rotation": check_rotation,
        "reflection": check_reflection,
        "translation": check_translation,
        "permutation": check_permutation,
        "supercell": check_supercell,
        "batch": check_batch,
        "forces": check_forces,
        "stress": check_stress,
        "virial": check_virial,
        "edge_derivatives": check_edge_derivatives,
        "cutoff": check_cutoff,
        "beyond_cutoff": check_beyond_cutoff,
        "training": check_training,
        "copies": check_copies,
        "files": check_files,
    }
)


def check_model(
    factory: Callable[[], GraphPESModel],
    structures: Sequence[ase.Atoms] | None = None,
    elements: Sequence[str] = ("H", "C", "O"),
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
    *,
    smooth: bool = True,
    edge_route: bool = True,
    invariant: bool = True,
    unused_parameters: Sequence[str] = (),
    checks: Iterable[str] = tuple(CHECKS),
) -> None:
    """Check that a model does what every model must do.

    Random weights will do, as long as the predictions are not all zero: energies of the order
    of 1 eV make the checks sharp.

    Forces, stress and virial that a model predicts directly (those in its
    ``implemented_properties``) need not be derivatives of its energy; all else that is checked
    holds for them too.

    Parameters
    ----------
    factory
        Makes the model; called often, with the random numbers seeded.
    structures
        What to predict; by default `standard_structures` of the ``elements``.
    elements
        Chemical symbols that the model knows.
    dtypes
        Precisions in which the model is used. Physical laws are always checked in float64.
    smooth
        False for potentials that are truncated at the cutoff.
    edge_route
        False for models that use positions other than through `neighbour_vectors`.
    invariant
        False for models that learn symmetry under rotation from data.
    unused_parameters
        Names of trainable parameters that have no effect on purpose.
    checks
        Names of the checks to run: all of `CHECKS` by default.

    Raises
    ------
    AssertionError
        Lists every check that failed, with the structure and the numbers.
    ValueError
        For the name of a check that does not exist.

    Examples
    --------
    >>> from graph_pes.models.lennard_jones import LennardJones
    >>> check_model(LennardJones, checks=["rotation", "forces"])

    One test per check, with pytest:

    .. code-block:: python

        @pytest.mark.parametrize("check", CHECKS)
        def test_my_model(check):
            check_model(MyModel, checks=[check])
    """
    names = list(checks)
    if unknown := [name for name in names if name not in CHECKS]:
        raise ValueError(f"Unknown checks {unknown}: expected some of {list(CHECKS)}")
    subject = ModelUnderTest(
        factory=factory,
        structures=tuple(structures or ()),
        elements=tuple(elements),
        dtypes=tuple(dtypes),
        smooth=smooth,
        edge_route=edge_route,
        invariant=invariant,
        unused_parameters=tuple(unused_parameters),
    )
    failures: list[str] = []
    first: Exception | None = None
    for name in names:
        try:
            CHECKS[name](subject)
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            failures.append(f"{name}: {kind}{error}")
            first = first or error
    if failures:
        raise AssertionError(
            f"{len(failures)} of {len(names)} checks failed:\n" + "\n".join(failures)
        ) from first
