"""Trained models of other packages, as models like any other.

Nothing here imports another package before a model is asked for.
"""

from .ani import ani
from .chgnet import chgnet
from .mace import egret, go_mace_23, mace_model, mace_mp, mace_off, mace_omol
from .matgl import matgl_model
from .mattersim import mattersim
from .nequix import nequix
from .orb import orb_model
from .sevennet import sevennet
from .upet import upet

__all__ = [
    "ani",
    "chgnet",
    "egret",
    "go_mace_23",
    "mace_model",
    "mace_mp",
    "mace_off",
    "mace_omol",
    "matgl_model",
    "mattersim",
    "nequix",
    "orb_model",
    "sevennet",
    "upet",
]
