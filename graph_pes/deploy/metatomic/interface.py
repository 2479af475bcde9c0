"""What metatomic calls: systems in, blocks of values with labels out.

TorchScript compiles this file, so that it is written in the part of Python that it knows. It needs
the packages of the extra ``metatomic``.
"""

# TorchScript and metatomic read annotations, which have to be types: no `annotations` import.
from typing import Dict, List, Optional, Tuple  # noqa: UP035

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput, NeighborListOptions, System
from torch import Tensor


class Interface(torch.nn.Module):
    """A model as metatomic wants it.

    Parameters
    ----------
    program
        Takes `graph_pes.deploy.metatomic.program.BatchInputs`, gives a list of tensors.
    cutoff
        In Å.
    names
        What metatomic calls these outputs.
    per_atom
        Which of them belong to atoms; the others belong to structures.
    shapes
        Components of a value, and at last the number of properties.
    inputs
        Units of what is needed to know of a structure: ``charge``, ``spin_multiplicity``.
    min_columns
        The fewest columns of a neighbour matrix; 0 for lists of edges in its place.
    """

    names: List[str]  # noqa: UP006
    per_atom: List[bool]  # noqa: UP006
    shapes: List[List[int]]  # noqa: UP006
    inputs: Dict[str, str]  # noqa: UP006

    def __init__(
        self,
        program: torch.jit.ScriptModule,
        cutoff: float,
        names: List[str],  # noqa: UP006
        per_atom: List[bool],  # noqa: UP006
        shapes: List[List[int]],  # noqa: UP006
        inputs: Dict[str, str],  # noqa: UP006
        min_columns: int,
    ):
        super().__init__()
        self.program = program
        self.names, self.per_atom, self.shapes = names, per_atom, shapes
        self.inputs = inputs
        self.min_columns = min_columns
        self.cutoff = cutoff
        self.neighbours = NeighborListOptions(max(cutoff, 1.0), full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        """All neighbours of each atom, up to the cutoff."""
        return [self.neighbours] if self.cutoff > 0 else []

    def requested_inputs(self) -> Dict[str, ModelOutput]:  # noqa: UP006
        """Charges and spins of structures, if the model depends on them."""
        requested: Dict[str, ModelOutput] = {}  # noqa: UP006
        for name, unit in self.inputs.items():
            requested[name] = ModelOutput(unit=unit, sample_kind="system")
        return requested

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels],  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """See ``metatomic.torch.ModelInterface``."""
        results: Dict[str, TensorMap] = {}  # noqa: UP006
        if len(systems) == 0 or len(outputs) == 0:
            return results
        dtype = systems[0].positions.dtype
        ends, batch = self.sizes(systems)
        values = self.evaluate(systems, ends, batch)
        rows = torch.arange(batch.shape[0], device=batch.device)
        samples = torch.stack([batch, rows - (ends - self.counts(ends))[batch]], dim=1)
        if selected_atoms is not None:
            samples = selected_atoms.values.to(torch.int64)
            rows = (ends - self.counts(ends))[samples[:, 0]] + samples[:, 1]
        for n, name in enumerate(self.names):
            if name in outputs:
                of_atoms = outputs[name].sample_kind == "atom"
                selected = selected_atoms is not None
                results[name] = self.block(
                    n, values[n], rows, samples, of_atoms, len(systems), selected, dtype
                )
        return results

    def counts(self, ends: Tensor) -> Tensor:
        """How many atoms each system has, shape (S,)."""
        return torch.diff(ends, prepend=torch.zeros_like(ends[:1]))

    def sizes(self, systems: List[System]) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """Where the atoms of each system end (S,), and the system of each atom (N,)."""
        device = systems[0].positions.device
        counts: List[int] = []  # noqa: UP006
        for system in systems:
            counts.append(len(system))
        sizes = torch.tensor(counts, dtype=torch.int64, device=device)
        numbers = torch.arange(len(counts), device=device)
        return torch.cumsum(sizes, 0), torch.repeat_interleave(numbers, sizes)

    def evaluate(self, systems: List[System], ends: Tensor, batch: Tensor) -> List[Tensor]:  # noqa: UP006
        """Run the program, or else give nothing for no atoms."""
        R = torch.cat([system.positions for system in systems])
        cell = torch.stack([system.cell for system in systems])
        if R.shape[0] == 0:
            return self.nothing(R, len(systems))
        if not bool(torch.isfinite(R).all()) or not bool(torch.isfinite(cell).all()):
            raise ValueError("graph-pes: positions or cells of the structure are NaN or infinite")
        vectors, neighbours = self.edges(systems, ends)
        charge, multiplicity = torch.zeros_like(R[:1, 0]), torch.ones_like(R[:1, 0])
        charges: List[Tensor] = []  # noqa: UP006
        multiplicities: List[Tensor] = []  # noqa: UP006
        for system in systems:
            charges.append(self.data_of(system, "charge", charge))
            multiplicities.append(self.data_of(system, "spin_multiplicity", multiplicity))
        found: List[Tensor] = self.program(  # noqa: UP006
            vectors,
            neighbours,
            torch.cat([system.types for system in systems]).to(torch.int64),
            R,
            cell,
            torch.stack([system.pbc for system in systems]),
            batch,
            ends,
            torch.cat(charges),
            torch.cat(multiplicities),
        )
        # Engines differentiate values, also those that do not depend on positions.
        nothing = 0 * (R.sum() + vectors.sum())
        return [value + nothing for value in found]

    def nothing(self, R: Tensor, n_systems: int) -> List[Tensor]:  # noqa: UP006
        """Values of systems without atoms."""
        found: List[Tensor] = []  # noqa: UP006
        for n, per_atom in enumerate(self.per_atom):
            found.append(R.new_zeros([0 if per_atom else n_systems] + self.shapes[n]))
        return found

    def data_of(self, system: System, name: str, default: Tensor) -> Tensor:
        """What an engine says of a system, shape (1,), where it was asked for."""
        if name not in self.inputs:
            return default
        return system.get_data(name).block().values.reshape(-1).to(default.dtype)

    def edges(self, systems: List[System], ends: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """Vectors and neighbours: see `graph_pes.deploy.metatomic.program.BatchInputs`."""
        edges: List[Tensor] = []  # noqa: UP006
        first: List[Tensor] = []  # noqa: UP006
        second: List[Tensor] = []  # noqa: UP006
        begin = 0
        for system in systems:
            edges.append(system.positions[:0])
            first.append(ends[:0])
            second.append(ends[:0])
            if self.cutoff > 0:
                block = system.get_neighbor_list(self.neighbours)
                edges.append(block.values.reshape(-1, 3))
                first.append(block.samples.column("first_atom").to(torch.int64) + begin)
                second.append(block.samples.column("second_atom").to(torch.int64) + begin)
            begin += len(system)
        i, order = torch.sort(torch.cat(first), stable=True)
        j, vectors = torch.cat(second)[order], torch.cat(edges)[order]
        if self.min_columns == 0:
            return vectors, torch.stack([i, j])
        return self.neighbour_matrix(vectors, i, j, begin)

    def neighbour_matrix(
        self, vectors: Tensor, i: Tensor, j: Tensor, n_atoms: int
    ) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """Vectors (N, D, 3) and neighbours (N, D) from sorted edges (E, 3)."""
        atoms = torch.arange(n_atoms, device=i.device)
        counts = torch.zeros_like(atoms).index_add(0, i, torch.ones_like(i))
        D = max(self.min_columns, int(counts.max()))
        starts = torch.cumsum(counts, 0) - counts
        place = i * D + torch.arange(i.shape[0], device=i.device) - starts[i]
        beyond = torch.zeros(n_atoms * D, 3, dtype=vectors.dtype, device=i.device)
        beyond[:, 0] = self.cutoff + 1
        neighbours = atoms.unsqueeze(1).expand(n_atoms, D).reshape(-1).index_copy(0, place, j)
        return (
            beyond.index_copy(0, place, vectors).reshape(n_atoms, D, 3),
            neighbours.reshape(n_atoms, D),
        )

    def block(
        self,
        n: int,
        value: Tensor,
        rows: Tensor,
        samples: Tensor,
        of_atoms: bool,
        n_systems: int,
        selected: bool,
        dtype: torch.dtype,
    ) -> TensorMap:
        """One output, of the atoms or systems that were asked for; values of atoms are summed.

        Sums are in the precision of the model's energies, which is double.
        """
        shape, device = self.shapes[n], value.device
        labels = ["system", "atom"] if of_atoms else ["system"]
        if self.per_atom[n]:
            value = value.index_select(0, rows)
        if not of_atoms:
            present = torch.arange(n_systems, device=device)
            if selected:
                present = torch.unique(samples[:, 0])
            if self.per_atom[n]:
                sums = value.new_zeros([n_systems] + list(value.shape[1:]))
                value = sums.index_add(0, samples[:, 0], value)
            value = value.index_select(0, present)
            samples = present.unsqueeze(1)
        components: List[Labels] = []  # noqa: UP006
        n_components = len(shape) - 1
        for c in range(n_components):
            name = "xyz" if n_components == 1 else "xyz_" + str(c + 1)
            axis = torch.arange(shape[c], device=device).reshape(-1, 1)
            components.append(Labels([name], axis))
        properties = torch.arange(shape[len(shape) - 1], device=device).reshape(-1, 1)
        name = self.property_name(self.names[n])
        block = TensorBlock(
            values=value.reshape([samples.shape[0]] + shape).to(dtype),
            samples=Labels(labels, samples.to(torch.int32)),
            components=components,
            properties=Labels([name], properties),
        )
        return TensorMap(
            Labels(["_"], torch.zeros(1, 1, dtype=torch.int32, device=device)), [block]
        )

    def property_name(self, output: str) -> str:
        """What the standard calls the last axis of an output."""
        if output.startswith("energy"):
            return "energy"
        return output.split("::")[-1]
