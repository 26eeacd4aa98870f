r"""Spike functions and their surrogate derivatives.

A neuron spikes where its membrane potential exceeds the threshold, :math:`z = H(v - v_{th})`. The derivative of the
Heaviside step :math:`H` is zero almost everywhere, so training replaces it by a surrogate :math:`\sigma'`; the forward
value stays exact. Source: E. Neftci, H. Mostafa, F. Zenke, *Surrogate Gradient Learning in Spiking Neural Networks*, IEEE
Signal Processing Magazine 36 (2019), 51-63. The forms, including whether :math:`\alpha` is a slope, an amplitude or a
width, are those of Norse.

The surrogate is the derivative of a function :math:`\sigma(x, \alpha)` that stands for :math:`H` in backward, and so also
gives :math:`\alpha` a gradient: that of the spikes times :math:`\partial \sigma / \partial \alpha`. The derivative leaves a
constant open; here :math:`\sigma(0, \alpha)` is the same for all :math:`\alpha`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ._surrogate import Derivative, Given, Method, Surrogate, wide
from .heaviside import heaviside
from .superspike import SuperSpike
from .superspike import super_fn as super_fn
from .superspike import superspike_fn as superspike_fn

# `threshold` is not among them, because this module has its name.
__all__ = [
    "CircDist",
    "HeaviCirc",
    "HeaviErfc",
    "HeaviTanh",
    "Logistic",
    "Triangle",
    "circ_dist_fn",
    "heavi_circ_fn",
    "heavi_erfc_fn",
    "heavi_tanh_fn",
    "logistic_fn",
    "triangle_fn",
]

# The root of pi as the reference computes it, in float32: its float64 gradients carry that rounding too.
_SQRT_PI = 1.7724539041519165

#: Other names of surrogates.
ALIASES = {"fast_sigmoid": "super"}


def surrogate_index(method: Any) -> int | Derivative:
    """The number under which the kernels know a surrogate, or a derivative of the user's, which they do not.

    Raises:
        ValueError: there is no surrogate of that name, or it is no function.
        NotImplementedError: ``method`` is ``"adjoint"``.

    Example:
        >>> surrogate_index("super")
        0
    """
    try:
        return SURROGATES[method if method in SURROGATES else ALIASES[method]]
    except (KeyError, TypeError):
        pass
    if callable(method) and not isinstance(method, type):
        return method
    if isinstance(method, str) and method == "adjoint":
        raise NotImplementedError(
            "method: got 'adjoint', which norse_fast does not implement; use a surrogate gradient through time, for "
            "example method='super', whose backward needs almost no extra memory."
        )
    raise ValueError(
        f"method: got {method!r}, expected one of {', '.join(map(repr, [*SURROGATES, *ALIASES]))}, or a function "
        "derivative(u, alpha); the default is 'super'."
    )


def by_alpha(surrogate: int | Derivative) -> Callable[[torch.Tensor, Any], torch.Tensor] | None:
    """The derivative by alpha of the function behind a surrogate; None where there is none.

    Example:
        >>> by_alpha(0)(torch.tensor([-1.0, 0.0, 1.0]), 1.0)
        tensor([ 0.2500, -0.0000, -0.2500])
    """
    known = None if callable(surrogate) else list(_CLASSES.values())[surrogate]
    return None if known is None else known.by_k


_USE = """

    ``{0}.apply(x, k)`` takes a tensor ``x`` of distances of the membrane potential to the threshold, and a number or a tensor
    ``k``, which gets {1}; it gives spikes, 0 or 1, in the shape and dtype of ``x``.

    Example:
        >>> {0}.apply(torch.tensor([-1e9, 1e9]), 1.0)
        tensor([0., 1.])
    """


def _function(name: str, doc: str, derivative: Any, by_k: Any = None, value: Any = None) -> type[Surrogate]:
    namespace: dict[str, Any] = {
        "__doc__": doc + _USE.format(name, "no gradient" if by_k is None else "a gradient"),
        "__module__": __name__,
        "derivative": staticmethod(_precise(derivative)),
    }
    if value is not None:
        namespace["value"] = staticmethod(_precise(value))
    if by_k is not None:
        namespace["by_k"] = staticmethod(_in_float32(by_k))  # it is summed
    return type(name, (Surrogate,), namespace)


def _in_float32(function: Callable[[torch.Tensor, Any], torch.Tensor]) -> Callable[[torch.Tensor, Any], torch.Tensor]:
    """With the steepness in the precision of the distances, float32 at least; a 0-dim tensor's powers would have its own."""

    def of_same_precision(x: torch.Tensor, k: Any) -> torch.Tensor:
        x = wide(x)
        return function(x, k.to(torch.promote_types(k.dtype, x.dtype)) if isinstance(k, torch.Tensor) else k)

    return of_same_precision


def _precise(function: Callable[[torch.Tensor, Any], torch.Tensor]) -> Callable[[torch.Tensor, Any], torch.Tensor]:
    """The same, with a result in the dtype of the distances."""
    precise = _in_float32(function)
    return lambda x, k: precise(x, k).to(x.dtype)


def _circ(x: torch.Tensor, k: Any) -> torch.Tensor:
    d = k * k + x * x
    return k**3 / (d * torch.sqrt(d))


def _circ_by_k(x: torch.Tensor, k: Any) -> torch.Tensor:
    d = k * k + x * x
    return x**3 / (d * torch.sqrt(d))


def _by_slope(
    f: Callable[[torch.Tensor], torch.Tensor], slope: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor, Any], torch.Tensor]:
    """By k, the derivative of f(k x) / k with f'(0) = 1 and f odd, which is 0 where k is.

    In double precision: where k x is small, it is a small difference.
    """

    def by_k(x: torch.Tensor, k: Any) -> torch.Tensor:
        wide_x, wide_k = x.double(), k.double() if isinstance(k, torch.Tensor) else k
        u = wide_k * wide_x
        difference = (u * slope(u) - f(u)) / wide_k / wide_k
        return torch.where(torch.as_tensor(k == 0, device=x.device), 0.0, difference).to(x.dtype)

    return by_k


def _hill(x: torch.Tensor) -> torch.Tensor:
    """The area below the triangle of height and half width 1, between 0 and x."""
    x = x.clamp(-1.0, 1.0)
    return x - x * x.abs() / 2


HeaviErfc: type[Surrogate] = _function(
    "HeaviErfc",
    r"""Surrogate :math:`\sigma'(x) = 2 e^{-(k x)^2} / \sqrt{\pi}`.""",
    lambda x, k: 2.0 * torch.exp(-((k * x) ** 2)) / _SQRT_PI,
    _by_slope(
        lambda u: math.sqrt(math.pi) / _SQRT_PI * torch.special.erf(u), lambda u: 2.0 * torch.exp(-(u**2)) / _SQRT_PI
    ),
)
HeaviTanh: type[Surrogate] = _function(
    "HeaviTanh",
    r"""Surrogate :math:`\sigma'(x) = 1 - \tanh^2(k x)`.""",
    lambda x, k: 1.0 - torch.tanh(k * x) ** 2,
    _by_slope(torch.tanh, lambda u: 1.0 - torch.tanh(u) ** 2),
)
Logistic: type[Surrogate] = _function(
    "Logistic",
    r"""Stochastic spikes: :math:`P(z = 1) = \frac12 + \frac12 \tanh(k x)`, backward as :class:`HeaviTanh`.""",
    lambda x, k: 1.0 - torch.tanh(k * x) ** 2,
    value=lambda x, k: torch.bernoulli(0.5 + 0.5 * torch.tanh(k * x)),
)
HeaviCirc: type[Surrogate] = _function(
    "HeaviCirc",
    r"""Surrogate :math:`\sigma'(x) = k^3 / (k^2 + x^2)^{3/2}`.""",
    _circ,
    _circ_by_k,
)
CircDist: type[Surrogate] = _function(
    "CircDist",
    r"""Stochastic spikes: :math:`P(z = 1) = \frac12 + \frac12 x / \sqrt{x^2 + k^2}`, backward as :class:`HeaviCirc`.""",
    _circ,
    value=lambda x, k: torch.bernoulli(0.5 + 0.5 * x / torch.hypot(x, torch.as_tensor(k).to(x))),
)
Triangle: type[Surrogate] = _function(
    "Triangle",
    r"""Surrogate :math:`\sigma'(x) = k \max(0, 1 - |x|)`; here :math:`k` is the amplitude.""",
    lambda x, k: k * torch.relu(1.0 - x.abs()),
    lambda x, k: _hill(x),
)


def heavi_erfc_fn(x: torch.Tensor, k: Any) -> torch.Tensor:
    """Heaviside step with the surrogate :class:`HeaviErfc`.

    Args:
        x: distance of the membrane potential to the threshold, any shape and floating dtype.
        k: steepness of the surrogate in the inverse unit of ``x``, a number or a tensor that broadcasts.

    Returns:
        Spikes, 0 or 1, in the shape and dtype of ``x``.

    Example:
        >>> heavi_erfc_fn(torch.tensor([-1.0, 1.0]), 1.0)
        tensor([0., 1.])
    """
    return HeaviErfc.of(x, k)


def heavi_tanh_fn(x: torch.Tensor, k: Any) -> torch.Tensor:
    """Heaviside step with the surrogate :class:`HeaviTanh`.

    Args:
        x: distance of the membrane potential to the threshold, any shape and floating dtype.
        k: steepness of the surrogate in the inverse unit of ``x``, a number or a tensor that broadcasts.

    Returns:
        Spikes, 0 or 1, in the shape and dtype of ``x``.

    Example:
        >>> heavi_tanh_fn(torch.tensor([-1.0, 1.0]), 1.0)
        tensor([0., 1.])
    """
    return HeaviTanh.of(x, k)


def logistic_fn(x: torch.Tensor, k: Any) -> torch.Tensor:
    """Stochastic spikes, see :class:`Logistic`.

    Args:
        x: distance of the membrane potential to the threshold, any shape and floating dtype.
        k: steepness of the surrogate in the inverse unit of ``x``, a number or a tensor that broadcasts; it gets no gradient.

    Returns:
        Spikes, 0 or 1, in the shape and dtype of ``x``.

    Example:
        >>> logistic_fn(torch.tensor([-100.0, 100.0]), 1.0)
        tensor([0., 1.])
    """
    return Logistic.of(x, k)


def heavi_circ_fn(x: torch.Tensor, k: Any) -> torch.Tensor:
    """Heaviside step with the surrogate :class:`HeaviCirc`.

    Args:
        x: distance of the membrane potential to the threshold, any shape and floating dtype.
        k: width of the surrogate in the unit of ``x``, a number or a tensor that broadcasts.

    Returns:
        Spikes, 0 or 1, in the shape and dtype of ``x``.

    Example:
        >>> heavi_circ_fn(torch.tensor([-1.0, 1.0]), 1.0)
        tensor([0., 1.])
    """
    return HeaviCirc.of(x, k)


def circ_dist_fn(x: torch.Tensor, k: Any) -> torch.Tensor:
    """Stochastic spikes, see :class:`CircDist`.

    Args:
        x: distance of the membrane potential to the threshold, any shape and floating dtype.
        k: width of the surrogate in the unit of ``x``, a number or a tensor that broadcasts; it gets no gradient.

    Returns:
        Spikes, 0 or 1, in the shape and dtype of ``x``.

    Example:
        >>> circ_dist_fn(torch.tensor([-1e9, 1e9]), 1.0)
        tensor([0., 1.])
    """
    return CircDist.of(x, k)


def triangle_fn(x: torch.Tensor, alpha: Any = 0.3) -> torch.Tensor:
    """Heaviside step with the surrogate :class:`Triangle`.

    Args:
        x: distance of the membrane potential to the threshold, any shape and floating dtype.
        alpha: amplitude of the surrogate without unit, a number or a tensor that broadcasts.

    Returns:
        Spikes, 0 or 1, in the shape and dtype of ``x``.

    Example:
        >>> triangle_fn(torch.tensor([-1.0, 1.0]))
        tensor([0., 1.])
    """
    return Triangle.of(x, alpha)


Atan: type[Surrogate] = _function(
    "Atan",
    r"""Surrogate :math:`\sigma'(x) = k / (2 (1 + (\pi k x / 2)^2))`.""",
    lambda x, k: k / (2.0 * (1.0 + (math.pi / 2 * k * x) ** 2)),
    lambda x, k: x / (2.0 * (1.0 + (math.pi / 2 * k * x) ** 2)),
)
Sigmoid: type[Surrogate] = _function(
    "Sigmoid",
    r"""Surrogate :math:`\sigma'(x) = k s (1 - s)`, :math:`s = 1 / (1 + e^{-k x})`.""",
    lambda x, k: k * torch.sigmoid(k * x) * torch.sigmoid(-k * x),
    lambda x, k: x * torch.sigmoid(k * x) * torch.sigmoid(-k * x),
)
Rectangle: type[Surrogate] = _function(
    "Rectangle",
    r"""Surrogate :math:`\sigma'(x) = k` where :math:`|x| < 1 / (2 k)`, else 0.""",
    lambda x, k: k * (k * x.abs() < 0.5).to(x.dtype),
    lambda x, k: x * (k * x.abs() < 0.5).to(x.dtype),
)
TriangleWidth: type[Surrogate] = _function(
    "TriangleWidth",
    r"""Surrogate :math:`\sigma'(x) = k \max(0, 1 - k |x|)`; here :math:`1 / k` is the width.""",
    lambda x, k: k * torch.relu(1.0 - k * x.abs()),
    lambda x, k: x * torch.relu(1.0 - k * x.abs()),
)

_CLASSES: dict[str, type[Surrogate] | None] = {
    "super": SuperSpike,
    "triangle": Triangle,
    "tanh": HeaviTanh,
    "circ": HeaviCirc,
    "heavi_erfc": HeaviErfc,
    "heaviside": None,
    "atan": Atan,
    "sigmoid": Sigmoid,
    "rectangle": Rectangle,
    "triangle_width": TriangleWidth,
}
#: The number under which the kernels know each: its place in the list in csrc/core/surrogates.h.
SURROGATES = {name: number for number, name in enumerate(_CLASSES)}


def threshold(x: torch.Tensor, method: Method, alpha: Any) -> torch.Tensor:
    r"""Spikes :math:`z = H(x)` with a surrogate derivative.

    ============== ============================================ ============================================
    method         :math:`\sigma'(x)`                           :math:`\sigma(x)`
    ============== ============================================ ============================================
    super          :math:`1 / (\alpha |x| + 1)^2`               :math:`x / (\alpha |x| + 1)`
    triangle       :math:`\alpha \max(0, 1 - |x|)`              :math:`\alpha h(x)`
    tanh           :math:`1 - \tanh^2(\alpha x)`                :math:`\tanh(\alpha x) / \alpha`
    circ           :math:`\alpha^3 / (\alpha^2 + x^2)^{3/2}`    :math:`\alpha x / \sqrt{\alpha^2 + x^2}`
    heavi_erfc     :math:`2 e^{-(\alpha x)^2} / \sqrt{\pi}`     :math:`\mathrm{erf}(\alpha x) / \alpha`
    heaviside      none: the spikes carry no gradient           none
    atan           :math:`\alpha / (2 + (\pi \alpha x)^2 / 2)`  :math:`\arctan(\pi \alpha x / 2) / \pi`
    sigmoid        :math:`\alpha s (1 - s)`                     :math:`s = 1 / (1 + e^{-\alpha x})`
    rectangle      :math:`\alpha`, if :math:`2 \alpha |x| < 1`  :math:`\alpha x`, between -1/2 and 1/2
    triangle_width :math:`\alpha \max(0, 1 - \alpha |x|)`       :math:`h(\alpha x)`
    ============== ============================================ ============================================

    ``fast_sigmoid`` is the same as ``super``; :math:`h(x) = x - x |x| / 2`, and 1/2 or -1/2 beyond 1 or -1. :math:`\alpha`
    gets the gradient of the spikes times :math:`\partial \sigma / \partial \alpha`.

    ``method`` may also be a function: ``derivative(u, alpha)`` gives the surrogate derivative at every element of ``u``, the
    distances to the threshold, as a tensor of their shape and dtype; ``alpha`` is a tensor of that dtype. It gives no
    gradient to ``alpha``, because it does not tell :math:`\sigma`.

    The last four are not in Norse. Sources: W. Fang et al., *Deep Residual Learning in Spiking Neural Networks*, NeurIPS 2021
    (``atan``); Y. Wu et al., *Spatio-Temporal Backpropagation for Training High-Performance Spiking Neural Networks*,
    Frontiers in Neuroscience 12 (2018), 331 (``rectangle``, ``sigmoid``); S. Esser et al., *Convolutional networks for fast,
    energy-efficient neuromorphic computing*, PNAS 113 (2016), 11441-11446 (``triangle_width``).

    Args:
        x: distance of the membrane potential to the threshold, any shape, floating point.
        method: a name of the table, or a function.
        alpha: steepness, amplitude or width, a number or a tensor.

    Returns:
        Spikes, 0 or 1, in the shape and dtype of ``x``.

    Raises:
        ValueError: there is no surrogate of that name; in backward, a function gave another shape.
        TypeError: in backward, a function gave no tensor, or another dtype.
        NotImplementedError: ``method`` is ``"adjoint"``.

    Example:
        >>> x = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
        >>> z = threshold(x, "super", 2.0)
        >>> z.sum().backward()
        >>> z.tolist(), x.grad.tolist()
        ([0.0, 0.0, 1.0], [0.25, 1.0, 0.25])
        >>> z = threshold(x, lambda u, alpha: torch.exp(-alpha * u.abs()), 2.0)
    """
    surrogate = surrogate_index(method)
    if callable(surrogate):
        return Given.of(x, alpha, surrogate)
    known = list(_CLASSES.values())[surrogate]
    return heaviside(x.detach()) if known is None else known.of(x, alpha)


def sign(x: torch.Tensor, method: Method, alpha: Any) -> torch.Tensor:
    r"""Signs, :math:`2 H(x) - 1`, with twice the surrogate derivative.

    Args:
        x: as for :func:`threshold`.
        method: likewise.
        alpha: likewise.

    Returns:
        -1 or 1, in the shape and dtype of ``x``.

    Raises:
        ValueError: there is no surrogate of that name.

    Example:
        >>> sign(torch.tensor([-1.0, 1.0]), "super", 100.0)
        tensor([-1.,  1.])
    """
    return 2 * threshold(x, method, alpha) - 1
