from __future__ import annotations

from pathlib import Path

import pytest

import graph_pes
from graph_pes.spelling import nearest


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("Adm", ": did you mean 'Adam'?"),
        ("ADAMW", ": did you mean 'AdamW'?"),
        ("", "."),
        ("something else", "."),
    ],
)
def test_nearest(word: str, hint: str) -> None:
    assert nearest(word, ["Adam", "AdamW", "SGD"]) == hint


def test_nothing_known() -> None:
    assert nearest("Adam", []) == "."


def test_hints_are_made_in_one_place() -> None:
    package = Path(graph_pes.__file__).parent
    using = [p.name for p in package.rglob("*.py") if "difflib" in p.read_text(encoding="utf-8")]
    assert using == ["spelling.py"]
