"""What is fitted to the training data before training begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import AdditionModel, LearnableOffset, MultiHead
from graph_pes.models.base import GraphPESModel
from graph_pes.nn.regression import fit_per_element
from graph_pes.periodic_table import SYMBOLS

from .messages import logger


def with_auto_offset(
    model: GraphPESModel, graphs: Sequence[AtomicGraph], batch_size: int = 32
) -> GraphPESModel:
    """The model plus energies of atoms that bring it to the reference of the data.

    For fine-tuning a model to data of another level of theory. The offsets are the ridge
    regression of (label - prediction) on the composition.

    Parameters
    ----------
    model
        The model.
    graphs
        Labelled with energies.
    batch_size
        How many structures are predicted at once.

    Returns
    -------
    GraphPESModel
        A sum of the components of the model and ``auto_offset``; or the model itself, where
        no offset exceeds 1e-4 eV, or where heads have offsets of their own, which are fitted.

    Raises
    ------
    ValueError
        If no structure has an energy.
    """
    labelled = [g for g in graphs if "energy" in g.properties]
    if not labelled:
        raise ValueError("auto_fit_reference_energies: the training data have no energies")
    was_training = model.training
    model.eval()
    batches = [to_batch(labelled[n : n + batch_size]) for n in range(0, len(labelled), batch_size)]
    predicted = torch.cat([model.predict_energy(b.to(model.device)).cpu() for b in batches])
    model.train(was_training)
    batch = to_batch(labelled)
    if heads := [module for module in model.modules() if isinstance(module, MultiHead)]:
        heads[0].fit_offsets(batch.properties["energy"] - predicted, batch)
        logger.info("Offsets fitted between each head and its data: %s", heads[0].offsets)
        return model
    means = fit_per_element(batch.properties["energy"] - predicted, batch).means
    if all(abs(float(mean)) < 1e-4 for mean in means.values()):
        logger.info("The reference energies of the model are those of the data: no offset added.")
        return model
    offset = LearnableOffset(**{SYMBOLS[Z]: float(mean) for Z, mean in means.items()})
    logger.info("Offset fitted between the model and the data: %s", offset)
    if isinstance(model, AdditionModel) and "auto_offset" not in model.models:
        parts: dict[str, GraphPESModel] = dict(model.models.items())  # type: ignore[arg-type]
        return AdditionModel(**parts, auto_offset=offset)
    return AdditionModel(base=model, auto_offset=offset)
