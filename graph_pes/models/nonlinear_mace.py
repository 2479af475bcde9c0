"""MACE with messages of pairs of elements and gates, for molecules of any charge and spin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from graph_pes.atomic_graph import DEFAULT_CUTOFF, AtomicGraph, PropertyKey
from graph_pes.nn.equivariant import EquivariantLinear
from graph_pes.nn.irreps import o3
from graph_pes.nn.mace_nonlinear_layers import NonLinearRepresentation, NonLinearSettings, States
from graph_pes.nn.scaling import LocalEnergiesScaler
from graph_pes.nn.screened_repulsion import ScreenedRepulsion

from .base import GraphPESModel
from .mace import ReadOut


class BiasedReadOut(nn.Module):
    """A number from the scalars of an atom, with two hidden layers.

    Parameters
    ----------
    channels
        Number of scalars.
    width
        Of the hidden layers.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.first = EquivariantLinear(f"{channels}x0e", f"{width}x0e")
        self.second, self.last = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """From (N, 1, C) to (N,)."""
        (x,) = self.first([x])
        return self.last(F.silu(self.second(F.silu(x)))).view(-1)


class NonLinearMACE(GraphPESModel):
    """`MACE` whose sums over neighbours pass a gate, and which knows charges and spins.

    The architecture of MACE-OMOL in mace-torch. Other than in `MACE`, the sums of every layer are
    those of `NonLinearInteraction`, whose radial networks depend on both elements; nothing else
    in the layers does, neither the symmetric contractions nor the residual connections. The total
    charge, ``graph.other["total_charge"]`` (0 if there is none), and the multiplicity,
    ``graph.other["total_spin"]`` (1), are added to the scalars before the first layer, see
    `ChargeAndSpinEmbedding`; compiled and exported models refuse others than 0 and 1.

    Parameters
    ----------
    elements, cutoff, n_radial, channels, hidden_irreps, l_max, layers, correlation, \
    readout_width, envelope_power, distance_transform, core_repulsion
        See `MACE`. There are two hidden layers where energies are read out if ``biased``.
    radial_widths
        Of the hidden layers of radial networks.
    sent_channels
        How many channels of each irrep neighbours send, in the first layer and in others;
        ``channels`` by default.
    charges, spins
        The lowest charge and multiplicity, how many of each there are, and the lengths of the
        vectors that describe them; None for none.
    read_states
        Whether energies have a part that is linear in the scalars before the first layer, which
        is not scaled.
    every_layer
        Whether energies are read from the scalars after all layers, or after the last one only.
    biased
        Whether the last read-out is a `BiasedReadOut`.

    Raises
    ------
    ValueError
        If an argument makes no sense, or an element is unknown or given twice; in predictions, if
        a charge or multiplicity is not known.

    Examples
    --------
    >>> from ase.build import molecule
    >>> model = NonLinearMACE(["H", "C"], channels=4, l_max=1, cutoff=4.0, charges=(-1, 3, 4),
    ...     spins=(1, 3, 4))
    >>> model.predict_forces(AtomicGraph.from_ase(molecule("CH4"), cutoff=4.0)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = DEFAULT_CUTOFF,
        n_radial: int = 8,
        radial_widths: Sequence[int] = (64, 64, 64),
        channels: int = 128,
        hidden_irreps: str | Sequence[str] = "0e + 1o",
        sent_channels: tuple[int, int] | None = None,
        l_max: int = 3,
        layers: int = 2,
        correlation: int = 3,
        readout_width: int = 16,
        envelope_power: int = 5,
        distance_transform: Literal["Agnesi", "Soft"] | None = None,
        core_repulsion: bool = False,
        charges: tuple[int, int, int] | None = None,
        spins: tuple[int, int, int] | None = None,
        read_states: bool = False,
        every_layer: bool = True,
        biased: bool = False,
    ):
        super().__init__(cutoff, implemented_properties=["local_energies"])
        settings = NonLinearSettings(
            cutoff=cutoff,
            n_radial=n_radial,
            radial_widths=radial_widths,
            channels=channels,
            hidden_irreps=hidden_irreps,
            sent_channels=sent_channels or (channels, channels),
            l_max=l_max,
            layers=layers,
            correlation=correlation,
            envelope_power=envelope_power,
            distance_transform=distance_transform,
            charges=None if charges is None else States(*charges),
            spins=None if spins is None else States(*spins),
        )
        self.representation = NonLinearRepresentation(settings, elements)
        read = range(layers if every_layer else 1)
        make = BiasedReadOut if biased else ReadOut
        self.read_outs = nn.ModuleList(
            make(channels, readout_width) if n == read[-1] else ReadOut(channels) for n in read
        )
        scalar = o3().Irrep("0e")
        self.scalars = [
            [ir for _, ir in irreps].index(scalar) for irreps in self.representation.irreps_out
        ][-len(read) :]
        self.scaler = LocalEnergiesScaler()
        self.state_read_out = ReadOut(channels) if read_states else None
        self.repulsion = ScreenedRepulsion(cutoff, envelope_power) if core_repulsion else None

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies, shape (N,)."""
        start, *after = self.representation(graph)
        read = after[-len(self.read_outs) :]
        energies = [
            read_out(x[scalars])
            for read_out, x, scalars in zip(self.read_outs, read, self.scalars, strict=True)
        ]
        if self.repulsion is not None:
            energies.append(self.repulsion(graph))
        local = self.scaler(sum(energies), graph)
        if self.state_read_out is not None:
            local = local + self.state_read_out(start[0])
        return {"local_energies": local}
