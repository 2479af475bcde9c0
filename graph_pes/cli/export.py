"""``graph-pes-export``: a model as a file that engines load."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal, get_args

import torch

from graph_pes.deploy import export_model
from graph_pes.deploy.matrix_products import Products
from graph_pes.models import load_model
from graph_pes.training.messages import logger

from .settings import run_command


def export(
    model: Path,
    out: Path,
    dtype: str | None = None,
    device: str = "cpu",
    mode: Literal["compiled", "portable"] = "compiled",
    table_tolerance: float | None = None,
    products: Products = "full",
) -> None:
    """Export the model in a file.

    Raises
    ------
    ExportError
        If the model can't be exported: see `graph_pes.deploy.export_model`.
    """
    loaded = load_model(model)
    precision = None if dtype is None else getattr(torch, dtype)
    metadata = export_model(
        loaded,
        out,
        dtype=precision,
        device=device,
        mode=mode,
        table_tolerance=table_tolerance,
        products=products,
    )
    logger.info("%s: %s, cutoff %g Å", out, metadata.dtype, metadata.cutoff)
    logger.info("Radial tables: %s", metadata.radial_tables)


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-export``."""
    parser = argparse.ArgumentParser(description="Export a model for engines such as LAMMPS.")
    parser.add_argument("model", type=Path, help="model.pt")
    parser.add_argument("out", type=Path, help="the file to write, model.pt2")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="default: the model's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--mode",
        choices=["compiled", "portable"],
        default="compiled",
        help="code for processors like this one's, or operations for any machine with torch",
    )
    parser.add_argument(
        "--table-tolerance",
        type=float,
        metavar="ERROR",
        help="largest relative error of energies and forces by tables that replace networks of "
        "the distance, 0 for no tables; default: 1e-6 in float32, 0 in float64",
    )
    parser.add_argument(
        "--products",
        choices=get_args(Products),
        default="full",
        help="precision of matrix products; bfloat16 is for GPUs",
    )
    arguments = parser.parse_args(argv)
    run_command(lambda: export(**vars(arguments)))


if __name__ == "__main__":
    main()
