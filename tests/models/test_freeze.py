from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from graph_pes.models import (
    AdditionModel,
    FixedOffset,
    LearnableOffset,
    PaiNN,
    SmoothedPairPotential,
    ZBLCoreRepulsion,
    freeze,
    freeze_all_except,
    freeze_any_matching,
    freeze_matching,
    load_model,
    save_model,
)


def model() -> AdditionModel:
    return AdditionModel(painn=PaiNN(channels=4, layers=2), offset=LearnableOffset(H=-1.0))


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def names_with(*starts: str) -> set[str]:
    return {name for name, _ in model().named_parameters() if name.startswith(starts)}


def test_freeze() -> None:
    frozen = model()
    assert freeze(frozen) is frozen
    assert trained(frozen) == set()
    assert trained(freeze(SmoothedPairPotential(ZBLCoreRepulsion()))) == set()  # no parameters


def test_freeze_matching() -> None:
    frozen = model()
    assert freeze_matching(frozen, r"models\.painn\.interactions\.0") is frozen
    assert trained(frozen) == names_with("models") - names_with("models.painn.interactions.0")


def test_patterns_match_from_the_start_of_a_name() -> None:
    with pytest.raises(ValueError, match="no parameter matches 'painn'; the names are"):
        freeze_matching(model(), "painn")
    assert trained(freeze_matching(model(), ".*painn")) == names_with("models.offset")


def test_freeze_any_matching() -> None:
    frozen = model()
    assert freeze_any_matching(frozen, ["models.offset", "models.painn.up"]) is frozen
    assert trained(frozen) == names_with("models.painn") - names_with("models.painn.updates")
    assert trained(freeze_any_matching(model(), "models.painn")) == names_with("models.offset")


@pytest.mark.parametrize("pattern", ["models.painn.read_out", ["models.painn.read_out"]])
def test_freeze_all_except(pattern: str | list[str]) -> None:
    frozen = model()
    assert freeze_all_except(frozen, pattern) is frozen
    assert trained(frozen) == names_with("models.painn.read_out")


def test_freeze_all_except_several() -> None:
    kept = ["models.painn.read_out", "models.offset"]
    assert trained(freeze_all_except(model(), kept)) == names_with(*kept)


def test_what_is_excepted_is_trained_again() -> None:
    second_stage = freeze_all_except(freeze(model()), ".*offset")
    assert trained(second_stage) == names_with("models.offset")


@pytest.mark.parametrize("function", [freeze_any_matching, freeze_all_except])
def test_nothing_is_frozen_where_a_pattern_does_not_match(function) -> None:
    unchanged = model()
    with pytest.raises(ValueError, match=r"no parameter matches 'typo'; .*models\.painn\.read_out"):
        function(unchanged, ["models.painn", "typo"])
    assert trained(unchanged) == names_with("models")


def test_frozen_parameters_stay_frozen_in_files(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_model(freeze_all_except(model(), "models.painn.read_out"), path)
    assert trained(load_model(path)) == names_with("models.painn.read_out")
    save_model(AdditionModel(fixed=FixedOffset(H=1.0), learnt=LearnableOffset()), path)
    assert trained(load_model(path)) == {"models.learnt.offsets.values"}


def test_gradients_skip_frozen_parameters(tmp_path: Path) -> None:
    from ase.build import molecule

    from graph_pes.atomic_graph import AtomicGraph

    frozen = freeze_matching(model(), "models.painn.embedding")
    frozen.predict_forces(AtomicGraph.from_ase(molecule("CH4"))).square().sum().backward()
    assert frozen["painn"].embedding.embeddings.values.grad is None
    assert frozen["painn"].updates[0].UV.weight.grad.abs().sum() > 0
