"""Data sets, files and batches of labelled structures."""

from .ase_database import ASEDatabase
from .datasets import ASEToGraphDataset, ConcatDataset, DatasetCollection, GraphDataset
from .files import file_dataset
from .load_atoms import load_atoms_dataset
from .loader import GraphDataLoader
from .transforms import identity, random_rotation

# These are the names that configuration files know.
__all__ = [
    "ASEDatabase",
    "ASEToGraphDataset",
    "ConcatDataset",
    "DatasetCollection",
    "GraphDataLoader",
    "GraphDataset",
    "file_dataset",
    "identity",
    "load_atoms_dataset",
    "random_rotation",
]
