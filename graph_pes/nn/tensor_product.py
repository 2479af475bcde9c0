r"""Sums over neighbours of tensor products with spherical harmonics: the hot part of models.

.. math::

    m_{i, p, m_3, c} = \sum_j \sum_{m_1 m_2} C^{(p)}_{m_1 m_2 m_3} \,
    w_{p c}(r_{ij}) \, h_{j, m_1, c} \, Y_{m_2}(\hat{\mathbf{r}}_{ij}),
    \qquad w_{p c}(r) = \sum_q \phi_q(r) V_{q, p c}

for each *path* p, a triple of irreps of h, of Y and of the result. Written as batched matrix
products: with :math:`K_{j m_1, m_3} = \sum_{m_2} C_{m_1 m_2 m_3} Y_{m_2}`, which has no
channels, the sum over j and :math:`m_1` is the product of a matrix :math:`(m_3, D m_1)` with
one of shape :math:`(D m_1, c)` for every atom, and contracts before anything of the size of
edges times channels leaves the cache: atoms go through in chunks, and the backward pass
computes again what it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graph_pes.tensors import gradient_is_wanted, index_sum, is_traced

from .equivariant import checked_unique
from .float64 import Float64Tensors
from .fused_messages import FusedMessages
from .irreps import Blocks, parse_irreps
from .paths import Paths, find_paths
from .written_products import written_out, written_terms

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

#: How many weights the edges of a chunk of atoms have; those of one path stay in the cache.
CHUNK = 1 << 19


class NeighbourTensorProduct(Float64Tensors):
    r"""Messages of neighbours, weighted by functions of distance, summed over neighbours.

    Normalised as ``e3nn.o3.TensorProduct`` with instructions "uvu": a path multiplies by
    :math:`\sqrt{2 l_3 + 1}` times the 3j symbol. Harmonics of degree 0 must be 1.

    Parameters
    ----------
    irreps_in
        Irreps of the features of neighbours, each occurring once.
    harmonics
        Irreps of the spherical harmonics, of one channel each.
    irreps_out
        Irreps that are wanted, channels do not matter. ``self.irreps_out`` are those that can
        be made, sorted, with one channel for every channel of every path to them.

    Attributes
    ----------
    paths
        What is coupled with what. The weights of an edge, ``n_weights`` in all, are in the
        order of the paths: by irrep of the result, then of the features, then of the harmonics.
    """

    couplings: Tensor
    # Kernels that take the place of ours, where nothing is traced: see `use_cuequivariance`.
    fused: FusedMessages | None = None

    def __init__(self, irreps_in: str | Irreps, harmonics: str | Irreps, irreps_out: str | Irreps):
        super().__init__()
        self.irreps_in = checked_unique(parse_irreps(irreps_in))
        self.harmonics = parse_irreps(harmonics)
        wanted = parse_irreps(irreps_out)
        self.paths, self.irreps_out = find_paths(self.irreps_in, self.harmonics, wanted)
        self.n_weights = self.paths.width
        coefficients = [coupling.coefficients() for coupling in self.paths.couplings]
        self.terms = written_terms([coefficients[path.coupling] for path in self.paths.paths])
        self.sizes = [C.numel() for C in coefficients]
        self.register_float64_buffer(
            "couplings", torch.cat([C.flatten() for C in coefficients]), persistent=False
        )

    def forward(
        self, x: Sequence[Tensor], Y: Tensor, phi: Tensor, V: Tensor, neighbours: Tensor
    ) -> Blocks:
        """Sum the messages to each of N atoms.

        Parameters
        ----------
        x
            Blocks of the features of all atoms.
        Y
            Spherical harmonics of edges, shape (N D, components).
        phi
            Radial functions of edges, shape (N D, Q), zero at the cutoff.
        V
            Their mixture into weights, shape (Q, n_weights).
        neighbours
            The neighbours of each atom, shape (N, D).
        """
        coefficients = [
            matrix.view(2 * c.l2 + 1, -1)  # (m2, m1 m3)
            for c, matrix in zip(
                self.paths.couplings,
                self.couplings.to(Y.dtype).split(self.sizes),
                strict=True,
            )
        ]
        if is_traced(neighbours.shape[0]) and self.terms is not None:
            return written_out(self.paths, self.terms, x, Y, phi, V, neighbours)
        if self.fused is not None and not is_traced(neighbours.shape[0]):
            return self.fused(x, Y, phi, V, neighbours)
        # Products with V, in backward passes too, are fastest in this layout.
        V = V.contiguous()
        return list(_Messages.apply(self.paths, coefficients, neighbours, Y, phi, V, *x))

    def of_species(
        self,
        x: Tensor,
        species: Tensor,
        Y: Tensor,
        phi: Tensor,
        V: Tensor,
        neighbours: Tensor,
    ) -> Blocks:
        """Sum the messages of atoms whose features are scalars that only depend on the species.

        The same as `forward`, but sums over the neighbours of each species come before anything
        that has channels: nothing has the size of edges times channels.

        Parameters
        ----------
        x
            Features of K species, the only block of ``irreps_in``, shape (K, C).
        species
            The species of each atom as unit vectors, shape (N, K).
        Y, phi, V, neighbours
            As in `forward`.
        """
        N, D = neighbours.shape
        of_neighbours = species.index_select(0, neighbours.reshape(-1))  # (N D, K)
        pairs = (of_neighbours.unsqueeze(2) * phi.unsqueeze(1)).view(N, D, -1)  # (N, D, K Q)
        sums = torch.bmm(Y.view(N, D, -1).transpose(1, 2), pairs)  # (N, components, K Q)
        of_harmonic = sums.split(self.paths.harmonics, dim=1)
        blocks: list[list[Tensor]] = [[] for _ in self.paths.targets]
        for p, V_p in zip(self.paths.paths, V.split(self.paths.widths, dim=1), strict=True):
            mixture = (x.unsqueeze(1) * V_p).flatten(0, 1)  # (K Q, C)
            rows = of_harmonic[p.harmonic].reshape(-1, mixture.shape[0])  # one large product
            blocks[p.target].append((rows @ mixture).unflatten(0, (N, -1)))
        return [b[0] if len(b) == 1 else torch.cat(b, dim=2) for b in blocks]

    def extra_repr(self) -> str:  # noqa: D102
        n = len(self.paths.paths)
        return f"{self.irreps_in} x {self.harmonics} -> {self.irreps_out}, {n} paths"


def use_cuequivariance(model: nn.Module, use: bool = True) -> int:
    """Let cuEquivariance evaluate the tensor products of a model, where that is not compiled.

    Their kernels are made for GPUs; on a CPU the results are the same, and slow. What is saved of
    the model stays the same, compiled and exported programs have kernels of their own.

    Parameters
    ----------
    model
        It is changed.
    use
        False for our own implementation again.

    Returns
    -------
    int
        The number of products: none in models without, such as PaiNN, and in the first layers of
        those that know the elements they are for.

    Raises
    ------
    ImportError
        If cuequivariance-torch is not installed.
    ValueError
        If features have different numbers of channels.
    """
    products = [m for m in model.modules() if isinstance(m, NeighbourTensorProduct)]
    for product in products:
        product.fused = FusedMessages(product.irreps_in, product.paths) if use else None
    return len(products)


def _chunks(paths: Paths, neighbours: Tensor) -> Iterator[slice]:
    """Groups of atoms, whose weights take ``CHUNK`` numbers."""
    N, D = neighbours.shape
    if is_traced(N) or is_traced(D):
        yield slice(0, N)
        return
    size = max(1, CHUNK // max(1, D * paths.width))
    for start in range(0, N, size):
        yield slice(start, min(N, start + size))


class _Messages(torch.autograd.Function):
    """See `NeighbourTensorProduct`; can be differentiated twice."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        paths: Paths,
        coefficients: Sequence[Tensor],
        neighbours: Tensor,
        Y: Tensor,
        phi: Tensor,
        V: Tensor,
        *x: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.paths, ctx.coefficients = paths, coefficients
        ctx.save_for_backward(neighbours, Y, phi, V, *x)
        N, D = neighbours.shape
        result = tuple(phi.new_empty(N, *shape) for shape in paths.targets)
        for atoms in _chunks(paths, neighbours):
            j, n = neighbours[atoms].reshape(-1), atoms.stop - atoms.start
            edges = slice(atoms.start * D, atoms.stop * D)
            h = [block.index_select(0, j) for block in x]  # (n D, 2 l1 + 1, C)
            K = paths.matrices(Y[edges], coefficients, n)
            for p, V_p in zip(paths.paths, V.split(paths.widths, dim=1), strict=True):
                X = h[p.source] * (phi[edges] @ V_p).unsqueeze(1)
                result[p.target][atoms, :, p.into] = _summed(X, K[p.coupling], n)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        neighbours, Y, phi, V, *x = ctx.saved_tensors
        wanted = _Wanted(V=gradient_is_wanted(V), x=[gradient_is_wanted(block) for block in x])
        if torch.is_grad_enabled():  # to be differentiated again: all at once
            j = neighbours.reshape(-1)
            gY, gphi, gV, gh = _backward(ctx, wanted, j, Y, phi, V, x, gradients)
            gx = [
                None if g is None else index_sum(g, j, block.shape[0])
                for g, block in zip(gh, x, strict=True)
            ]
            return None, None, None, gY, gphi, gV, *gx
        gY, gphi = torch.empty_like(Y), torch.empty_like(phi)
        gV = torch.zeros_like(V) if wanted.V else None
        gx = [
            torch.zeros_like(block) if want else None
            for block, want in zip(x, wanted.x, strict=True)
        ]
        D = neighbours.shape[1]
        for atoms in _chunks(ctx.paths, neighbours):
            j, edges = neighbours[atoms].reshape(-1), slice(atoms.start * D, atoms.stop * D)
            g = [gradient[atoms] for gradient in gradients]
            gY[edges], gphi[edges], more_gV, gh = _backward(
                ctx, wanted, j, Y[edges], phi[edges], V, x, g
            )
            if gV is not None and more_gV is not None:
                gV += more_gV
            for total, part in zip(gx, gh, strict=True):
                if total is not None and part is not None:
                    total.flatten(1).index_add_(0, j, part.flatten(1))
        return None, None, None, gY, gphi, gV, *gx


@dataclass(frozen=True)
class _Wanted:
    """Which gradients are needed, apart from those with respect to the geometry."""

    V: bool
    x: list[bool]


def _summed(X: Tensor, K: Tensor | None, n: int) -> Tensor:
    """Sum over the neighbours of n atoms of products with K: from (n D, 2 l1 + 1, C)."""
    if K is None:
        return X.view(n, -1, *X.shape[1:]).sum(1)
    return torch.bmm(K.transpose(1, 2), X.view(n, -1, X.shape[2]))


def _backward(
    ctx: Any,
    wanted: _Wanted,
    j: Tensor,
    Y: Tensor,
    phi: Tensor,
    V: Tensor,
    x: Sequence[Tensor],
    gradients: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor | None]]:
    """Gradients of the edges to neighbours j: with respect to Y, phi, V and features (n D, ...)."""
    paths: Paths = ctx.paths
    n = gradients[0].shape[0]
    D = j.shape[0] // n
    h = [block.index_select(0, j) for block in x]
    K = paths.matrices(Y, ctx.coefficients, n)
    gK: list[Tensor | None] = [None] * len(K)
    gh: list[Tensor | None] = [None] * len(h)
    gphi: Tensor | None = None
    gV: list[Tensor] = []
    parts = [iter(g.split(paths.channels_to(n), dim=2)) for n, g in enumerate(gradients)]
    for p, V_p in zip(paths.paths, V.split(paths.widths, dim=1), strict=True):
        h_p, w_p, g = h[p.source], phi @ V_p, next(parts[p.target])
        K_p = K[p.coupling]
        if K_p is None:
            gX = g.unsqueeze(1).expand(n, D, *g.shape[1:]).reshape(h_p.shape)
        else:
            gX = torch.bmm(K_p, g).view_as(h_p)
            products = torch.bmm(
                (h_p * w_p.unsqueeze(1)).view(n, -1, p.channels), g.transpose(1, 2)
            )
            gK[p.coupling] = _sum(gK[p.coupling], products)
        gw = _sum_of_products(gX, h_p)
        # In this order, the product of a long and a narrow matrix is several times faster.
        gphi = _sum(gphi, V_p @ gw.T)
        if wanted.V:
            gV.append(phi.T @ gw)
        if wanted.x[p.source]:
            gh[p.source] = _add_product(gh[p.source], gX, w_p.unsqueeze(1))
    gY: list[Tensor | None] = [None] * len(paths.harmonics)
    for c, C, g_c in zip(paths.couplings, ctx.coefficients, gK, strict=True):
        if g_c is not None:
            flat = g_c.view(Y.shape[0], -1)
            gY[c.harmonic] = _sum(gY[c.harmonic], flat @ C.T if c.l1 > 0 else flat)
    of_harmonics = [
        Y.new_zeros(Y.shape[0], size) if g is None else g
        for size, g in zip(paths.harmonics, gY, strict=True)
    ]
    assert gphi is not None
    return torch.cat(of_harmonics, dim=1), gphi.T, torch.cat(gV, dim=1) if wanted.V else None, gh


def _sum_of_products(x: Tensor, y: Tensor) -> Tensor:
    """Sum over components of products of two blocks (n D, 2 l + 1, C)."""
    if torch.is_grad_enabled():  # slices would be costly to differentiate
        return (x * y).sum(1)
    total = x[:, 0] * y[:, 0]
    for m in range(1, x.shape[1]):
        total.addcmul_(x[:, m], y[:, m])
    return total


def _sum(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    if total is None:
        return a * b
    # In place where nothing is differentiated again.
    return torch.addcmul(total, a, b) if torch.is_grad_enabled() else total.addcmul_(a, b)
