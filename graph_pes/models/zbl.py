"""The universal repulsion of nuclei at short distances."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import DEFAULT_CUTOFF
from graph_pes.units import BOHR, COULOMB_CONSTANT

from .pair_potential import PairPotential

#: Coefficients and (dimensionless) decay rates of the universal screening function.
SCREENING_FUNCTION = (
    (0.18175, 3.19980),
    (0.50986, 0.94229),
    (0.28022, 0.40290),
    (0.02817, 0.20162),
)
#: Universal screening length, 0.46850 Å, in Bohr radii; and the power of the charges in it.
SCREENING_PRE_FACTOR = 0.46850 / BOHR
SCREENING_EXPONENT = 0.23


def zbl(r: Tensor, Z_i: Tensor, Z_j: Tensor, pre_factor: Tensor, exponent: Tensor) -> Tensor:
    """Energy of the screened nuclear repulsion of Ziegler, Biersack and Littmark.

    Parameters
    ----------
    r
        Distances in Å, shape (E,).
    Z_i, Z_j
        Atomic numbers, integers of shape (E,).
    pre_factor, exponent
        Of the screening length: see `ZBLCoreRepulsion`. Shape ().

    Returns
    -------
    Tensor
        In eV, shape (E,), in the dtype of ``r``.
    """
    q_i, q_j = Z_i.to(r.dtype), Z_j.to(r.dtype)
    x = r * (q_i**exponent + q_j**exponent) / (pre_factor * BOHR)
    screening = sum(c * torch.exp(-decay * x) for c, decay in SCREENING_FUNCTION)
    return COULOMB_CONSTANT * q_i * q_j / r * screening


class ZBLCoreRepulsion(PairPotential):
    r"""Screened repulsion of nuclei, after Ziegler, Biersack and Littmark.

    .. math::

        V(r, Z_i, Z_j) = \frac{e^2}{4\pi\epsilon_0} \, \frac{Z_i Z_j}{r} \,
            \phi\left(\frac{r}{a_{ij}}\right), \qquad
        a_{ij} = \frac{\lambda_p a_0}{Z_i^{\lambda_e} + Z_j^{\lambda_e}}

    .. math::

        \phi(x) = 0.18175 e^{-3.19980 x} + 0.50986 e^{-0.94229 x}
                + 0.28022 e^{-0.40290 x} + 0.02817 e^{-0.20162 x}

    ======================================== ================================================
    :math:`Z_i, Z_j`                         charges of the nuclei
    :math:`a_0`, :math:`e^2/4\pi\epsilon_0`  Bohr radius, Coulomb constant (CODATA 2018)
    :math:`\lambda_p`                        0.88534, such that :math:`\lambda_p a_0` is the
                                             published 0.46850 Å
    :math:`\lambda_e`                        0.23
    ======================================== ================================================

    The constants are the published ones, as in LAMMPS's ``pair_style zbl``. (graph-pes 1.0
    has rounded ones, 0.8854 and coefficients with :math:`\phi(0) = 1.00007`.)

    The potential is truncated at the cutoff, where it is not zero: 4 meV between two carbon
    atoms at 5 Å, 0.12 eV at 3 Å. Wrap it in `SmoothedPairPotential` where that matters, in
    molecular dynamics say.

    Parameters
    ----------
    cutoff
        In Å.
    trainable
        Whether :math:`\lambda_p` and :math:`\lambda_e` are trained.

    Examples
    --------
    >>> carbon = torch.tensor([6])
    >>> ZBLCoreRepulsion().interaction(torch.tensor([0.5]), carbon, carbon)
    tensor([119.9...])

    References
    ----------
    Ziegler, Biersack and Littmark, *The Stopping and Range of Ions in Solids* (Pergamon, 1985);
    Ziegler and Biersack, doi:10.1007/978-1-4615-8103-1_3.
    """

    pre_factor: Tensor
    exponent: Tensor

    def __init__(self, cutoff: float = DEFAULT_CUTOFF, trainable: bool = False):
        super().__init__(cutoff)
        constants = {"pre_factor": SCREENING_PRE_FACTOR, "exponent": SCREENING_EXPONENT}
        for name, value in constants.items():
            tensor = torch.tensor(value, dtype=torch.get_default_dtype())
            if trainable:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def interaction(self, r: Tensor, Z_i: Tensor, Z_j: Tensor) -> Tensor:
        """Energy of pairs (E,) in eV."""
        return zbl(r, Z_i, Z_j, self.pre_factor, self.exponent)
