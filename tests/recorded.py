"""Compiled training whose programs Python runs: for a compiler each of them is a minute's work."""

from __future__ import annotations

import pytest

import graph_pes.deploy.compiled_training
from graph_pes.deploy.cache import training_fingerprint
from graph_pes.deploy.training_code import TrainingCode, cut, joint_program
from graph_pes.deploy.training_function import TrainingFunction

_made: dict[str, TrainingCode] = {}


@pytest.fixture
def without_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are recorded and cut, once for all tests, but not compiled."""

    def code(function: TrainingFunction, variant: str) -> TrainingCode:
        name = training_fingerprint(function.model, variant)
        if name not in _made:
            joint, layout = joint_program(function)
            _made[name] = TrainingCode(*cut(joint, layout), layout)
        return _made[name]

    monkeypatch.setattr(graph_pes.deploy.compiled_training, "cached_training_code", code)
