"""Models of other packages are fine-tuned by configuration, where the packages are installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graph_pes.models import load_model, select_head
from tests.runs import config, train

from .original import data_file
from .test_mace import random_mace

WAYS = {
    "frozen": "{+freeze_all_except: {model: MODEL, pattern: '.*read_?out'}}",
    "heads": "{+MultiHead: {model: MODEL, heads: [new, old]}}",
}


def fine_tuned(model: str, data_files: Path, folder: Path, *more: str) -> Path:
    head = "null" if "MultiHead" not in model else "new"
    data = [
        f"data/{name}={{path: {data_files}/{name}.xyz, head: {head}}}"
        for name in ("train", "valid")
    ]
    energies = "fitting/auto_fit_reference_energies=true"
    run = train(config(data_files, folder, f"model={model}", *data, energies, *more))
    found = load_model(run / "model.pt")
    if head == "new":
        select_head(found, "new")
    assert all(torch.isfinite(p).all() for p in found.parameters())
    return run


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", ["true", "false"])
@pytest.mark.parametrize("way", WAYS)
def test_mace(way: str, native: str, data_files: Path, tmp_path: Path):
    path = random_mace(tmp_path, torch.float32)
    made = f"{{+mace_model: {{path: {path}, native: {native}}}}}"
    fine_tuned(WAYS[way].replace("MODEL", made), data_files, tmp_path)


def test_tensornet(data_files: Path, tmp_path: Path):
    """Published weights; without corrections there would be 0.8 million parameters."""
    folder = data_file("models/matgl/TensorNet-MatPES-PBE-v2025.1-PES")
    made = f"{{+matgl_model: {{model: {folder}, native: true}}}}"
    step = "fitting/trainer_kwargs={max_epochs: 1, limit_train_batches: 1, accelerator: cpu}"
    model = f"{{+lora: {{model: {made}, rank: 1}}}}"
    run = fine_tuned(model, data_files, tmp_path, step)
    errors = (run / "summary.yaml").read_text()
    value = next(
        line for line in errors.splitlines() if line.startswith("valid/metrics/forces_rmse")
    )
    assert float(value.split()[1]) < 0.6  # eV/Å, of 1.1
