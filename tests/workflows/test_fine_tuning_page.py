"""The configurations on the page on fine-tuning are trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ase
import ase.io
import pytest
import yaml

from graph_pes.interfaces.foreign import with_energies_of_atoms
from graph_pes.models import MultiHead, PaiNN, load_model, save_model, select_head
from graph_pes.training.config_files import merge, read_yaml
from tests.runs import train

PAGE = Path(__file__).parents[2] / "docs" / "fine-tuning.md"
PIECES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
FIRST, *OTHERS = PIECES

SHORT: dict[str, Any] = {
    "fitting": {
        "trainer_kwargs": {"max_epochs": 1, "accelerator": "cpu"},
        "loader_kwargs": {"num_workers": 0},
    },
    "general": {"progress": "logged", "root_dir": "runs"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ethanol: list[ase.Atoms]) -> Path:
    """A folder with the files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    for n, name in enumerate(["train", "valid", "replay"]):
        ase.io.write(tmp_path / f"{name}.xyz", ethanol[8 * n : 8 * n + 4])
    network = PaiNN(channels=8, layers=1, cutoff=3.0)
    foundation = with_energies_of_atoms(network, {"H": -13.0, "C": -1030.0, "O": -2043.0})
    save_model(foundation, tmp_path / "foundation.pt")
    return tmp_path


@pytest.mark.parametrize("piece", ["", *OTHERS], ids=range(len(PIECES)))
def test_a_piece(piece: str, folder: Path):
    config = merge(read_yaml(FIRST, "the page"), read_yaml(piece, "the page") or {})
    run = train(merge(config, SHORT))
    found = load_model(run / "model.pt")
    if isinstance(found, MultiHead):
        found = select_head(found, "new")
        assert list(found.models) == ["network", "offset", "head_offset"]
    else:
        assert list(found.models) == ["network", "offset", "auto_offset"]  # type: ignore[arg-type]
    loss = yaml.safe_load((run / "summary.yaml").read_text())["valid/loss/total"]
    assert 0 < loss < 100  # with the energies of the file as they are it is thousands
