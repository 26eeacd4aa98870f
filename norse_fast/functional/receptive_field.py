r"""Receptive fields of scale-space theory: Gaussians in space and their derivatives, and time constants for filters in time.

A spatial field is a normalised Gaussian with covariance

.. math::
    C = s\, R(\varphi) \begin{pmatrix} r^2 & 0 \\ 0 & r^{-2} \end{pmatrix} R(\varphi)^T

for a scale :math:`s`, an angle :math:`\varphi` and a ratio :math:`r`, around a centre :math:`(x, y)`, and its derivatives
along the direction :math:`\varphi` and across it, each multiplied by :math:`s`.

Source: T. Lindeberg, *Normative theory of visual receptive fields*, Heliyon 7 (2021), e05897; for events, J. Pedersen,
R. Singhal, J. Conradt, *Translation and Scale Invariance for Event-Based Object Tracking*, Neuro-Inspired Computational
Elements Conference, 2023; in time, T. Lindeberg, *Time-Causal and Time-Recursive Spatio-Temporal Receptive Fields*, Journal
of Mathematical Imaging and Vision 55 (2016), 50-88.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from .._constants import constant
from .._kernels.checks import as_floating
from ._surrogate import wide

__all__ = [
    "covariance_matrix",
    "derive_kernel",
    "gaussian_kernel",
    "spatial_parameters",
    "spatial_receptive_field",
    "spatial_receptive_fields_with_derivatives",
    "spatio_temporal_parameters",
    "temporal_scale_distribution",
]

Derivatives = int | Sequence[tuple[int, int]] | torch.Tensor

#: What the columns of a tensor of field parameters are.
COLUMNS = ("scale", "angle", "ratio", "x", "y", "dx", "dy")

#: Where fields are by default, along either side of the grid.
CENTRE = constant(0.0)[None]


def _check_centre(function: str, x: Any, y: Any) -> None:
    if x is None or y is None:
        raise TypeError(
            f"x, y: got no centre, expected two numbers or tensors; where {function} of Norse 1.1.0, which has none, was "
            "called, pass x=0.0, y=0.0."
        )


def gaussian_kernel(size: int, c: torch.Tensor, x: Any = None, y: Any = None, domain: float = 8) -> torch.Tensor:
    r"""A two-dimensional normal density on a grid.

    .. math::
        k(u) = \frac{1}{2 \pi \sqrt{\det C}} \exp\left(-\tfrac12 (u - \mu)^T C^{-1} (u - \mu)\right), \qquad \mu = (x, y)

    Args:
        size: number of grid points per side.
        c: covariance :math:`C`, ``(..., 2, 2)``, in squared units of the domain.
        x: centre along the columns of the grid, a number or ``(...)``.
        y: centre along its rows, likewise.
        domain: the grid spans -domain to domain.

    Returns:
        The density, ``(..., size, size)``, in the dtype and on the device of ``c``; rows are y, columns x.

    Raises:
        TypeError: there is no centre, as in a call for Norse 1.1.0.
        RuntimeError: a covariance is singular.

    Example:
        >>> gaussian_kernel(3, torch.eye(2), 0.0, 0.0, domain=1)
        tensor([[0.0585, 0.0965, 0.0585],
                [0.0965, 0.1592, 0.0965],
                [0.0585, 0.0965, 0.0585]])
    """
    _check_centre("gaussian_kernel", x, y)
    distance = _distance(size, c, x, y, domain)
    return torch.exp(-distance / 2) / (2 * torch.pi * torch.linalg.det(c).sqrt()[..., None, None])


def _distance(size: int, c: torch.Tensor, x: Any, y: Any, domain: float) -> torch.Tensor:
    """The squared distance of each grid point to the centre, in units of the covariance."""
    grid = torch.linspace(-domain, domain, size, dtype=c.dtype, device=c.device)
    x, y = (torch.as_tensor(centre, dtype=c.dtype, device=c.device)[..., None, None] for centre in (x, y))
    u = torch.stack(torch.broadcast_tensors(grid - x, grid[:, None] - y), dim=-1)
    return torch.einsum("...ijm,...mn,...ijn->...ij", u, torch.linalg.inv(c), u)


def _floating(values: torch.Tensor) -> torch.Tensor:
    return as_floating("parameters", values, torch.get_default_dtype())


def _tensor(value: Any) -> torch.Tensor:
    return constant(value, torch.get_default_dtype())


def covariance_matrix(sigma1: Any, sigma2: Any, phi: Any) -> torch.Tensor:
    r"""A covariance with given standard deviations along two orthogonal axes.

    .. math::
        C = R(\varphi) \begin{pmatrix} \sigma_1^2 & 0 \\ 0 & \sigma_2^2 \end{pmatrix} R(\varphi)^T

    Args:
        sigma1: standard deviation along the first axis, a number or a tensor ``(...)``.
        sigma2: standard deviation along the second axis, likewise.
        phi: angle of the first axis to the columns' direction in radians, likewise.

    Returns:
        The covariance, ``(..., 2, 2)``; of tensors with one element ``(2, 2)``, as in Norse.

    Example:
        >>> covariance_matrix(2.0, 1.0, 0.0)
        tensor([[4., 0.],
                [0., 1.]])
    """
    sigma1, sigma2, phi = (_tensor(value) for value in (sigma1, sigma2, phi))
    first, second, cos, sin = sigma1**2, sigma2**2, torch.cos(phi), torch.sin(phi)
    xx = first * cos**2 + second * sin**2
    xy = (first - second) * cos * sin
    yy = first * sin**2 + second * cos**2
    covariance = torch.stack((xx, xy, xy, yy), dim=-1).unflatten(-1, (2, 2))
    return covariance.reshape(2, 2) if covariance.numel() == 4 else covariance


def calculate_normalization(dx: int, scale: Any, gamma: float = 1) -> Any:
    r"""The factor that makes derivatives of fields of different scales comparable, :math:`s^{d (1 - \gamma) + \gamma}`.

    Source: T. Lindeberg, *Feature detection with automatic scale selection*, International Journal of Computer Vision 30
    (1998), 79-116.

    Args:
        dx: order :math:`d` of the derivative.
        scale: scale :math:`s`, a number or a tensor, positive.
        gamma: the exponent :math:`\gamma` of the normalisation, without unit; with 1, as in
            :func:`spatial_receptive_field`, the factor is the scale.

    Returns:
        The factor, a number or a tensor as ``scale``.

    Example:
        >>> calculate_normalization(1, 2.0), calculate_normalization(2, 2.0, gamma=0.5)
        (2.0, 2.8284271247461903)
    """
    return scale ** (dx * (1 - gamma) + gamma)


def derive_kernel(kernel: torch.Tensor, angle: Any) -> torch.Tensor:
    r"""Derivative along a direction, :math:`\cos\varphi\, \partial_x k + \sin\varphi\, \partial_y k`, by central differences.

    Args:
        kernel: field, ``(..., rows, columns)``, at least 2 by 2; rows are y, columns x.
        angle: direction :math:`\varphi` in radians, a number or ``(...)``.

    Returns:
        The derivative per grid point, in the shape of the field.

    Raises:
        RuntimeError: the field has fewer than two rows or columns.

    Example:
        >>> derive_kernel(torch.tensor([[0.0, 1.0, 4.0], [0.0, 1.0, 4.0]]), 0.0)
        tensor([[1., 2., 3.],
                [1., 2., 3.]])
    """
    kernel = _floating(kernel)
    angle = torch.as_tensor(angle, dtype=kernel.dtype, device=kernel.device)[..., None, None]
    along_y, along_x = torch.gradient(kernel, dim=(-2, -1))
    return angle.cos() * along_x + angle.sin() * along_y


def _fields(parameters: Sequence[torch.Tensor], size: int, domain: float) -> torch.Tensor:
    """Fields from their parameters, one tensor ``(n,)`` per column of COLUMNS."""
    # PyTorch inverts no matrices in half precision.
    scale, angle, ratio, x, y, dx, dy = map(wide, parameters)
    covariance = covariance_matrix(ratio, 1 / ratio, angle) * scale[:, None, None]
    distance = _distance(size, covariance, x, y, domain)
    # Relative to the nearest point, which may be so far away that its density is zero.
    fields = torch.exp((distance.detach().amin((-2, -1), keepdim=True) - distance) / 2)
    fields = fields / fields.sum((-2, -1), keepdim=True)
    for order, direction in ((dx, angle), (dy, angle + torch.pi / 2)):
        for taken in range(int(order.max()) if len(order) else 0):
            derived = derive_kernel(fields, direction) * calculate_normalization(1, scale)[:, None, None]
            fields = torch.where((taken < order)[:, None, None], derived, fields)
    return fields.to(parameters[0].dtype)


def spatial_receptive_field(
    scale: Any,
    angle: Any,
    ratio: Any,
    x: Any = None,
    y: Any = None,
    size: int = 0,
    dx: int = 0,
    dy: int = 0,
    domain: float = 10,
) -> torch.Tensor:
    r"""One spatial receptive field; without derivatives it sums to 1.

    Args:
        scale: scale :math:`s` of the covariance, a number or a 0-dim tensor, in squared units of the domain.
        angle: angle :math:`\varphi` of the first axis to the columns' direction in radians, likewise.
        ratio: ratio :math:`r`; the standard deviations are :math:`\sqrt{s}\, r` and :math:`\sqrt{s} / r`.
        x: centre along the columns, in units of the domain.
        y: centre along the rows.
        size: number of pixels per side.
        dx: how often the field is derived along the first axis.
        dy: how often the field is derived across it.
        domain: the pixels span -domain to domain.

    Returns:
        The field, ``(size, size)``, in the common floating dtype of the parameters; differentiable by the tensors.

    Raises:
        TypeError: there is no centre, as in a call for Norse 1.1.0, where ``size`` comes after ``ratio``.
        ValueError: ``size`` is less than 1.
        RuntimeError: the covariance is singular, or a field of one pixel is derived.

    Example:
        >>> spatial_receptive_field(1.0, 0.0, 1.0, 0.0, 0.0, size=3, domain=1)
        tensor([[0.0751, 0.1238, 0.0751],
                [0.1238, 0.2042, 0.1238],
                [0.0751, 0.1238, 0.0751]])
    """
    if all(type(value) is int for value in (x, y, size)) and size < x:
        # No pixel is that large. As size, dx and dy, the numbers make sense.
        raise TypeError(
            f"x, y, size: got {x}, {y}, {size}, which are size, dx, dy in Norse 1.1.0, expected the centre first; "
            f"pass scale, angle, ratio, 0.0, 0.0, {x}, {y}, {size}, or {float(x)}, {float(y)} where that is the centre."
        )
    _check_centre("spatial_receptive_field", x, y)
    if size < 1:
        raise ValueError(f"size: got {size}, expected a number of pixels of 1 or more; it comes after x and y.")
    tensors = [_tensor(value) for value in (scale, angle, ratio, x, y, dx, dy)]
    device = next((t.device for t in tensors if not t.is_cpu), None)
    dtype = torch.get_default_dtype()
    for t in tensors:
        dtype = torch.promote_types(dtype, t.dtype) if t.dim() or t.dtype is torch.float64 else dtype
    return _fields([t.to(device=device, dtype=dtype).reshape(1) for t in tensors], size, domain)[0]


def as_pairs(derivatives: Derivatives, scales: torch.Tensor) -> torch.Tensor:
    """Orders of derivatives as a tensor ``(D, 2)`` of the dtype and on the device of ``scales``."""
    if isinstance(derivatives, int):
        orders = torch.arange(derivatives + 1, device="cpu")
        pairs = torch.cartesian_prod(orders, orders)
        # The last pair is of a higher order than all others.
        derivatives = pairs[:-1] if derivatives else pairs
    try:
        pairs = constant(derivatives)
    except (TypeError, ValueError, RuntimeError):
        pairs = constant(0)
    if pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"derivatives: got {derivatives!r}, expected a number or pairs (dx, dy); for the field itself pass 0."
        )
    return pairs.to(scales)


def combine(values: Sequence[torch.Tensor], include_replicas: bool = False) -> torch.Tensor:
    """Which scale, angle, ratio, x and y belong together: their Cartesian product as indices, ``(n, 5)``.

    Angles make no difference to round fields, so unless ``include_replicas`` those come last and with the first angle only.
    """
    product = torch.cartesian_prod(*(torch.arange(len(v), device=v.device) for v in values))
    is_round = (values[2] == 1)[product[:, 2]]
    if include_replicas or not is_round.any():
        return product
    return torch.cat((product[~is_round], product[is_round & (product[:, 1] == 0)]))


def assemble(parameters: torch.Tensor, derivatives: torch.Tensor) -> torch.Tensor:
    """Each row of parameters with each row of derivatives, as columns side by side."""
    repeated = parameters.repeat_interleave(len(derivatives), 0)
    return torch.cat((repeated, derivatives.repeat(len(parameters), 1)), 1)


def spatial_parameters(
    scales: torch.Tensor,
    angles: torch.Tensor,
    ratios: torch.Tensor,
    derivatives: Derivatives,
    x: torch.Tensor = CENTRE,
    y: torch.Tensor = CENTRE,
    include_replicas: bool = False,
) -> torch.Tensor:
    r"""Parameters of spatial receptive fields: all combinations of the arguments.

    Args:
        scales: scales :math:`s`, ``(S,)``, in squared units of the domain.
        angles: angles :math:`\varphi` in radians, ``(A,)``.
        ratios: ratios :math:`r`, ``(R,)``.
        derivatives: pairs (dx, dy), a list or a tensor ``(D, 2)``; or a number n for all pairs with orders up to n, but not
            both n.
        x: centres along the columns, in units of the domain, ``(X,)``.
        y: centres along the rows, ``(Y,)``.
        include_replicas: whether round fields, those with a ratio of 1, are repeated for every angle; else they come last
            and with the first angle only.

    Returns:
        One row per field and the columns scale, angle, ratio, x, y, dx, dy: with replicas ``(S·A·R·X·Y·D, 7)``.
        Differentiable.

    Raises:
        TypeError: the centres are not tensors.
        ValueError: ``derivatives`` is neither a number nor pairs.

    Example:
        >>> angles, ratios = torch.tensor([0.0, 1.5]), torch.tensor([1.0, 2.0])
        >>> spatial_parameters(torch.tensor([3.0]), angles, ratios, 0)
        tensor([[3.0000, 0.0000, 2.0000, 0.0000, 0.0000, 0.0000, 0.0000],
                [3.0000, 1.5000, 2.0000, 0.0000, 0.0000, 0.0000, 0.0000],
                [3.0000, 0.0000, 1.0000, 0.0000, 0.0000, 0.0000, 0.0000]])
    """
    check_centres(x, y)
    values = [v.to(scales.device) for v in (scales, angles, ratios, x, y)]
    rows = combine(values, include_replicas)
    columns = _floating(torch.stack([v[index] for v, index in zip(values, rows.unbind(1))], 1))
    return assemble(columns, as_pairs(derivatives, columns))


def check_centres(x: Any, y: Any) -> None:
    """Raise if centres are no tensors.

    Raises:
        TypeError: they are not.
    """
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"{name}: got {type(value).__name__}, expected a tensor of centres; Norse 1.1.0 has none, so pass by keyword "
                "what comes after derivatives there."
            )


def with_centres(name: str, parameters: torch.Tensor) -> torch.Tensor:
    """Rows of field parameters; those of Norse 1.1.0, which have no centres, get the centre of the grid.

    Raises:
        ValueError: the argument has other columns.
    """
    parameters = _floating(parameters)
    if parameters.dim() == 2 and parameters.shape[1] == len(COLUMNS) - 2:
        if parameters[:, 3:].any():
            warnings.warn(
                f"{name}: got derivatives in five columns, as in Norse 1.1.0, which derives along other axes. Here dx is "
                "along the axis at the angle of the field, and dy across it, as on Norse's main branch; if that is what you "
                "mean, insert two columns of zeros, x and y, after ratio.",
                stacklevel=3,
            )
        return torch.cat((parameters[:, :3], torch.zeros_like(parameters[:, :2]), parameters[:, 3:]), 1)
    if parameters.dim() != 2 or parameters.shape[1] != len(COLUMNS):
        raise ValueError(
            f"{name}: got shape {tuple(parameters.shape)}, expected (n, {len(COLUMNS)}) with the columns "
            f"{', '.join(COLUMNS)}; spatial_parameters makes them."
        )
    return parameters


def spatial_receptive_fields_with_derivatives(combinations: torch.Tensor, size: int, domain: float = 1) -> torch.Tensor:
    """Spatial receptive fields from rows of parameters, all at once.

    Args:
        combinations: one row per field and the columns of :func:`spatial_parameters`, ``(n, 7)``; or five columns, as in
            Norse 1.1.0, without x and y, which are then 0.
        size: number of pixels per side.
        domain: the pixels span -domain to domain.

    Returns:
        The fields, ``(n, size, size)``, in the dtype and on the device of the parameters; differentiable.

    Raises:
        ValueError: the parameters have other columns.
        RuntimeError: a covariance is singular, or a field of one pixel is derived.

    Example:
        >>> combinations = spatial_parameters(torch.tensor([1.0, 2.0]), torch.tensor([0.0]), torch.tensor([1.0]), 1)
        >>> spatial_receptive_fields_with_derivatives(combinations, 9, domain=8).shape
        torch.Size([6, 9, 9])
    """
    return _fields(with_centres("combinations", combinations).unbind(1), size, domain)


def temporal_scale_distribution(
    n_scales: int, min_scale: float = 1, max_scale: float | None = None, c: float = 1.41421
) -> torch.Tensor:
    r"""Time constants that cover a range evenly on a logarithmic axis.

    .. math::
        \mu_k = \sqrt{\tau_k}, \qquad \tau_k = c^{2 (k - K)} \tau_{max}, \quad k = 1, \dots, K

    so that :math:`\tau_1` is ``min_scale`` and each :math:`\mu_k` is :math:`c` times the one before it.

    Args:
        n_scales: number of scales :math:`K`.
        min_scale: the smallest scale :math:`\tau_1`, in squared units of the result.
        max_scale: the greatest scale :math:`\tau_K`; if given, it sets :math:`c`.
        c: ratio between neighbours, greater than 1.

    Returns:
        The time constants :math:`\mu_k` in ascending order, ``(K,)``, in the default dtype.

    Example:
        >>> temporal_scale_distribution(3), temporal_scale_distribution(3, max_scale=16)
        (tensor([1.0000, 1.4142, 2.0000]), tensor([1., 2., 4.]))
    """
    if max_scale is not None:
        c = (max_scale / min_scale) ** (1 / (2 * (n_scales - 1))) if n_scales > 1 else 1.0
    return torch.sqrt(min_scale * c ** (2 * torch.arange(n_scales, dtype=torch.get_default_dtype())))


def spatio_temporal_parameters(
    scales: torch.Tensor,
    angles: torch.Tensor,
    ratios: torch.Tensor,
    derivatives: Derivatives,
    temporal_scales: torch.Tensor,
    include_replicas: bool = False,
) -> torch.Tensor:
    """Parameters of receptive fields in space and time: each row of :func:`spatial_parameters` with each temporal scale.

    Args:
        scales: as for :func:`spatial_parameters`.
        angles: likewise.
        ratios: likewise.
        derivatives: likewise.
        temporal_scales: time constants, ``(M,)``, see :func:`temporal_scale_distribution`.
        include_replicas: as for :func:`spatial_parameters`.

    Returns:
        One row per field, ``(n · M, 8)``: the columns of :func:`spatial_parameters`, and the temporal scale.

    Raises:
        ValueError: ``derivatives`` is neither a number nor pairs.

    Example:
        >>> one = torch.tensor([1.0])
        >>> spatio_temporal_parameters(one, one, one, 0, torch.tensor([5.0, 10.0]))[:, -1]
        tensor([ 5., 10.])
    """
    spatial = spatial_parameters(scales, angles, ratios, derivatives, include_replicas=include_replicas)
    return assemble(spatial, temporal_scales[:, None].to(spatial))
