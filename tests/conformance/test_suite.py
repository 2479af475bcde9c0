"""The conformance suite can fail: each wrong model is caught by the check that is meant to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ase.build import molecule

from graph_pes.models.base import GraphPESModel
from graph_pes.models.lennard_jones import LennardJones
from graph_pes.testing import CHECKS, ModelUnderTest, check_model, standard_structures

from . import wrong_models as wrong
from .models import MODELS

CAUGHT_BY: list[tuple[Callable[[], GraphPESModel], str]] = [
    (wrong.PrefersX, "rotation"),
    (wrong.PrefersX, "reflection"),
    (wrong.Chiral, "reflection"),
    (wrong.PinnedToOrigin, "translation"),
    (wrong.CountsUnitCells, "translation"),
    (wrong.CountsUnitCells, "supercell"),
    (wrong.PrefersFirstAtom, "permutation"),
    (wrong.Intensive, "supercell"),
    (wrong.DividesEnergyPerAtom, "supercell"),
    (wrong.MixesStructures, "batch"),
    (wrong.Truncated, "cutoff"),
    (wrong.TruncatedForce, "cutoff"),
    (wrong.TruncatedAtTheLastPercent, "cutoff"),
    (wrong.SeesBeyondCutoff, "beyond_cutoff"),
    (wrong.NaNSlopeBeyondCutoff, "beyond_cutoff"),
    (wrong.DetachedPart, "forces"),
    (wrong.DetachedPart, "stress"),
    (wrong.IgnoresStrain, "stress"),
    (wrong.UsesPositions, "edge_derivatives"),
    (wrong.PinnedToOrigin, "edge_derivatives"),
    (wrong.WrongVirialSign, "virial"),
    (wrong.WrongVirialSign, "stress"),
    (wrong.SinglePrecisionInside, "forces"),
    (wrong.UnusedParameter, "training"),
    (wrong.NaNGradientOfParameter, "training"),
    (wrong.Squeezes, "shapes"),
    (wrong.NaNForOneAtom, "shapes"),
    (wrong.FailsWithoutEdges, "shapes"),
    (wrong.DefaultDtype, "dtype"),
    (wrong.DefaultDevice, "device"),
    (wrong.StaysBehind, "device"),
    (wrong.RoundsTotalEnergies, "precision"),
    (wrong.Mutates, "purity"),
    (wrong.Counts, "purity"),
    (wrong.Random, "purity"),
    (wrong.NeedsGradMode, "grad_modes"),
    (wrong.NotDetached, "grad_modes"),
    (wrong.HiddenState.fitted, "files"),
    (wrong.SharesParameters, "copies"),
]


@pytest.mark.filterwarnings("ignore:std")  # of one atom: what is wrong with that model
@pytest.mark.parametrize(
    ("factory", "check"), CAUGHT_BY, ids=[f"{f.__qualname__}-{c}" for f, c in CAUGHT_BY]
)
def test_wrong_model_is_caught(factory: Callable[[], GraphPESModel], check: str) -> None:
    with pytest.raises(AssertionError, match=f"1 of 1 checks failed:\n{check}: "):
        check_model(factory, checks=[check])


def test_every_check_catches_something() -> None:
    assert {check for _, check in CAUGHT_BY} == CHECKS.keys()


def test_correct_toy_passes() -> None:
    check_model(wrong.Toy)


def test_chiral_model_passes_rotation_only() -> None:
    check_model(wrong.Chiral, checks=["rotation", "translation", "forces", "stress"])


@pytest.mark.parametrize(
    "row", [r for r in MODELS if not r.options.get("smooth", True)], ids=lambda row: row.name
)
def test_truncated_models_are_declared_so_for_a_reason(row) -> None:
    with pytest.raises(AssertionError, match="jump of"):
        check_model(row.factory, elements=row.elements, checks=["cutoff"])


def test_error_lists_all_failures_with_structures_and_numbers() -> None:
    with pytest.raises(AssertionError) as error:
        check_model(wrong.PrefersX, checks=["shapes", "rotation", "reflection"])
    message = str(error.value)
    assert message.startswith("2 of 3 checks failed:\nrotation: ")
    assert "\nreflection: " in message
    assert "of structure 2 (" in message
    assert "pbc=FFF" in message
    assert "got " in message
    assert "expected " in message


def test_unknown_check() -> None:
    with pytest.raises(ValueError, match=r"Unknown checks \['rotations'\]"):
        check_model(LennardJones, checks=["rotations"])


def test_declared_exceptions() -> None:
    check_model(wrong.UnusedParameter, checks=["training"], unused_parameters=["forgotten"])
    check_model(wrong.UsesPositions, checks=["edge_derivatives"], edge_route=False)
    check_model(wrong.Truncated, checks=["cutoff", "forces"], smooth=False)


def test_own_structures() -> None:
    with pytest.raises(AssertionError, match=r"structure 1 \(CH4, pbc=FFF\)"):
        check_model(wrong.PrefersX, [molecule("H"), molecule("CH4")], checks=["rotation"])


def test_global_state_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_model(wrong.Toy, checks=["dtype", "rotation"])
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    assert torch.get_default_dtype() == torch.float32


def test_checks_can_be_called_one_by_one() -> None:
    CHECKS["forces"](ModelUnderTest(LennardJones, elements=("Ar",)))


def test_standard_structures() -> None:
    structures = standard_structures(("Si",))
    assert {str(atoms.pbc.sum()) for atoms in structures} == {"0", "1", "2", "3"}
    assert all(set(atoms.symbols) == {"Si"} for atoms in structures)
    again = standard_structures(("Si",))
    assert all((a.positions == b.positions).all() for a, b in zip(structures, again, strict=True))
