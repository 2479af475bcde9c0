"""``graph-pes-export``: a model as a file that engines load."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from graph_pes.deploy import export_model
from graph_pes.deploy.matrix_products import Products
from graph_pes.deploy.metatomic import Description, export_metatomic
from graph_pes.models import load_model, select_head
from graph_pes.models.base import GraphPropertyModel
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
    head: str | None = None,
) -> None:
    """Export the model as a program for LAMMPS and Python.

    Raises
    ------
    ExportError
        If the model can't be exported: see `graph_pes.deploy.export_model`.
    """
    loaded = _loaded(model, head)
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


def export_archive(
    model: Path,
    out: Path,
    dtype: str | None = None,
    device: str | None = None,
    head: str | None = None,
    **description: Any,
) -> None:
    """Export the model as an archive of metatomic.

    Raises
    ------
    ExportError
        If the model can't be exported: see `graph_pes.deploy.metatomic.export_metatomic`.
    """
    export_metatomic(
        _loaded(model, head),
        out,
        dtype=None if dtype is None else getattr(torch, dtype),
        devices=("cuda", "cpu") if device is None else (device,),
        description=Description(**description),
    )
    logger.info("%s: an archive for metatomic", out)


def _loaded(path: Path, head: str | None) -> GraphPropertyModel:
    """The model of a file; of one head of it, if there are several."""
    model = load_model(path)
    return model if head is None else select_head(model, head)


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-export``."""
    arguments = vars(_parser().parse_args(argv))
    common = {key: arguments[key] for key in ("model", "out", "dtype", "head")}
    if arguments["format"] == "metatomic":
        references = {"model": arguments["reference"]} if arguments["reference"] else {}
        texts = {key: arguments[key] for key in ("name", "description")}
        authors = {"authors": arguments["author"], "references": references}
        run_command(
            lambda: export_archive(**common, device=arguments["device"], **texts, **authors)
        )
        return
    portable = "portable" in (arguments["format"], arguments["mode"])
    run_command(
        lambda: export(
            **common,
            device=arguments["device"] or "cpu",
            mode="portable" if portable else "compiled",
            table_tolerance=arguments["table_tolerance"],
            products=arguments["products"],
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Export a model for engines such as LAMMPS.")
    parser.add_argument("model", type=Path, help="model.pt")
    parser.add_argument("out", type=Path, help="the file to write, model.pt2")
    parser.add_argument(
        "--format",
        choices=["pt2", "portable", "metatomic"],
        default="pt2",
        help="pt2 for LAMMPS and Python; portable, the same as --mode portable; or an archive, "
        "model.pt, for the engines of metatomic",
    )
    parser.add_argument("--head", help="of a model with several heads, the one to export")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="default: the model's")
    parser.add_argument("--device", help="cpu (default) or cuda; archives run on both by default")
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
    written = parser.add_argument_group("written into archives of metatomic")
    written.add_argument("--name", default="", help="of the model")
    written.add_argument("--description", default="", help="of the model")
    written.add_argument("--author", action="append", default=[], help="may be repeated")
    written.add_argument("--reference", action="append", default=[], help="may be repeated")
    parser.add_argument(
        "--products",
        choices=get_args(Products),
        default="full",
        help="precision of matrix products; bfloat16 is for GPUs",
    )
    return parser


if __name__ == "__main__":
    main()
