"""Receptive fields as layers; the fields themselves are in :mod:`norse_fast.functional.receptive_field`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree

from .._constants import constant
from .._kernels.checks import as_dense
from ..functional.leaky_integrator_box import LIBoxParameters
from ..functional.receptive_field import (
    CENTRE,
    COLUMNS,
    Derivatives,
    as_pairs,
    assemble,
    check_centres,
    combine,
    spatial_receptive_fields_with_derivatives,
    temporal_scale_distribution,
    with_centres,
)
from ..functional.receptive_field import spatial_parameters as spatial_parameters
from ._parameters import start_by_itself
from .leaky_integrator_box import LIBoxCell
from .snn import SNNCell as SNNCell

__all__ = [
    "ParameterizedSpatialReceptiveField2d",
    "SampledSpatialReceptiveField2d",
    "SpatialReceptiveField2d",
    "TemporalReceptiveField",
]

_QUANTITIES = ("scales", "angles", "ratios", "x", "y")
# Scale and ratio must stay positive, so they may be learned as logarithms.
_POSITIVE = constant([name in ("scale", "ratio") for name in COLUMNS])


class _SpatialReceptiveField2d(torch.nn.Module):
    """A convolution with fields that are computed from parameters, at every call where any of them is learned."""

    def __init__(self, in_channels: int, size: int, aggregate: bool, domain: float, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.size = size
        self.aggregate = aggregate
        self.domain = domain
        self.kwargs = kwargs

    def _store(self, name: str, value: torch.Tensor, learned: bool, log: bool = False) -> None:
        """Keep a value as a parameter, or its logarithm as ``log_name``; or, if it is not learned, on the right device."""
        if learned and log:
            name, value = f"log_{name}", self._log(value)
        if learned:
            self.register_parameter(name, torch.nn.Parameter(value.detach().clone()))
        else:
            self.register_buffer(name, value.detach().clone(), persistent=False)

    def _log(self, value: torch.Tensor) -> torch.Tensor:
        return value.log()

    def _exp(self, logarithm: torch.Tensor) -> torch.Tensor:
        return logarithm.exp()

    def __getattr__(self, name: str) -> Any:
        # What is stored as a logarithm is computed when it is read.
        logarithm = self.__dict__.get("_parameters", {}).get(f"log_{name}")
        return super().__getattr__(name) if logarithm is None else self._exp(logarithm)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As of any module; what Norse 1.1.0 saved, which knows neither centres nor logarithms, is converted."""
        own = dict(self.named_parameters(recurse=False))
        saved = {key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
        if own and saved and not any(name.startswith("log_") or name in ("x", "y") for name in saved):
            for name in saved:
                value = state_dict[prefix + name]
                if name == "rf_parameters":
                    value = state_dict[prefix + name] = with_centres(prefix + name, value)
                if f"log_{name}" in own:
                    del state_dict[prefix + name]
                    name = f"log_{name}"
                    state_dict[prefix + name] = self._log(value)
                if name in own and own[name].shape != value.shape:
                    args[-1].append(
                        f"{prefix}{name}: got {len(value)} values, expected {len(own[name])}, one for each field. Where the "
                        "ratio is 1, or derivatives are given as a number, Norse 1.1.0 has more fields than its main branch; "
                        "docs/from_1_1_0.md shows how to load them."
                    )
            for name in ("x", "y"):
                if name in own:
                    state_dict[prefix + name] = own[name].detach()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _finish(self) -> None:
        """To be called at the end of the constructor."""
        learned = next(self.parameters(), None) is not None
        self.register_buffer("_fixed_weights", None if learned else self._weights(), persistent=False)

    def _weights(self) -> torch.Tensor:
        fields = spatial_receptive_fields_with_derivatives(self.rf_parameters, self.size, self.domain)
        if self.aggregate:
            return fields.unsqueeze(1).expand(-1, self.in_channels, -1, -1)
        return fields.repeat(self.in_channels, 1, 1).unsqueeze(1)

    @property
    def weights(self) -> torch.Tensor:
        """The kernels of the convolution."""
        return self._weights() if self._fixed_weights is None else self._fixed_weights

    @property
    def out_channels(self) -> int:
        """Number of output channels: one per field, times the input channels without ``aggregate``."""
        return len(self.rf_parameters) * (1 if self.aggregate else self.in_channels)

    def extra_repr(self) -> str:
        """Channels, size and domain."""
        return (
            f"in_channels={self.in_channels}, out_channels={self.out_channels}, size={self.size}, "
            f"aggregate={self.aggregate}, domain={self.domain}"
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve pictures ``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``."""
        kwargs = self.kwargs if self.aggregate else {"groups": self.in_channels, **self.kwargs}
        return torch.nn.functional.conv2d(x, self.weights, **kwargs)

    if TYPE_CHECKING:

        def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class SpatialReceptiveField2d(_SpatialReceptiveField2d):
    """A convolution with spatial receptive fields, given by their parameters.

    Args:
        in_channels: channels of the input.
        size: height and width of the fields in pixels.
        rf_parameters: one row per field, ``(n, 7)``, see :func:`norse_fast.functional.receptive_field.spatial_parameters`;
            or five columns, as in Norse 1.1.0, without x and y, which are then 0.
        aggregate: whether each field sums over the input channels, for n output channels; else it is applied to each, for
            ``in_channels · n`` of them, those of the first input channel first.
        domain: the pixels span -domain to domain.
        optimize_fields: whether the parameters are learned.
        optimize_log: whether the logarithms of scales and ratios are, which keeps them positive; the parameter is then
            ``log_rf_parameters``, else ``rf_parameters``. The columns of derivatives get no gradient.
        **kwargs: arguments of ``torch.nn.functional.conv2d``, for example ``stride`` or ``padding``.

    Raises:
        ValueError: the parameters have other columns.

    Example:
        >>> layer = SpatialReceptiveField2d(2, 9, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]))
        >>> layer.weights.shape, layer(torch.ones(1, 2, 10, 10)).shape
        (torch.Size([1, 2, 9, 9]), torch.Size([1, 1, 2, 2]))
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        rf_parameters: torch.Tensor,
        aggregate: bool = True,
        domain: float = 8,
        optimize_fields: bool = True,
        optimize_log: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, size, aggregate, domain, kwargs)
        rf_parameters = with_centres("rf_parameters", rf_parameters)
        self.optimize_fields = optimize_fields
        self.optimize_log = optimize_log
        if optimize_fields and optimize_log:
            self._store("log_rf_parameters", self._log(rf_parameters), True)
        else:
            self._store("rf_parameters", rf_parameters, optimize_fields)
        self._finish()

    def _log(self, value: torch.Tensor) -> torch.Tensor:
        return torch.where(_POSITIVE.to(value.device), value.log(), value)

    def _exp(self, logarithm: torch.Tensor) -> torch.Tensor:
        positive = _POSITIVE.to(logarithm.device)
        # Without the inner choice, a great angle or centre would have an infinite exponential and no gradient.
        return torch.where(positive, torch.where(positive, logarithm, 0).exp(), logarithm)


class _CombinedReceptiveField2d(_SpatialReceptiveField2d):
    """Fields from five quantities, each learned or not; ``_shared`` says whether fields share their values."""

    _shared: bool

    def __init__(
        self,
        in_channels: int,
        size: int,
        scales: torch.Tensor,
        angles: torch.Tensor,
        ratios: torch.Tensor,
        derivatives: Derivatives,
        x: torch.Tensor = CENTRE,
        y: torch.Tensor = CENTRE,
        optimize_scales: bool = True,
        optimize_angles: bool = True,
        optimize_ratios: bool = True,
        optimize_x: bool = True,
        optimize_y: bool = True,
        optimize_log: bool = True,
        aggregate: bool = True,
        domain: float = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, size, aggregate, domain, kwargs)
        check_centres(x, y)
        scales = scales if scales.is_floating_point() else scales.to(torch.get_default_dtype())
        self.optimize_log = optimize_log
        values = [v.to(scales) for v in (scales, angles, ratios, x, y)]
        pairs = as_pairs(derivatives, scales)
        table = assemble(combine(values).to(pairs), pairs)
        rows = table[:, : len(_QUANTITIES)].long()
        if not self._shared:
            values = [v[index] for v, index in zip(values, rows.unbind(1))]
            rows = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
        learned = (optimize_scales, optimize_angles, optimize_ratios, optimize_x, optimize_y)
        for name, value, learn in zip(_QUANTITIES, values, learned):
            self._store(name, value, learn, optimize_log and name in ("scales", "ratios"))
        self.register_buffer("_rows", rows, persistent=False)
        self.register_buffer("_derivatives", table[:, len(_QUANTITIES) :], persistent=False)
        self._finish()

    @property
    def rf_parameters(self) -> torch.Tensor:
        """One row of parameters per field, ``(n, 7)``."""
        columns = [getattr(self, name)[index] for name, index in zip(_QUANTITIES, self._rows.unbind(1))]
        return torch.cat((torch.stack(columns, 1), self._derivatives), 1)


class SampledSpatialReceptiveField2d(_CombinedReceptiveField2d):
    """A convolution with spatial receptive fields of all combinations of scales, angles, ratios, centres and derivatives.

    What is learned are the values that are combined, so each is shared by many fields;
    :class:`ParameterizedSpatialReceptiveField2d` learns those of each field. Which combinations there are is decided in the
    constructor: fields that start round, with a ratio of 1, come once and not for every angle. Fields are computed at every
    call, unless nothing is learned.

    Args:
        in_channels: channels of the input.
        size: height and width of the fields in pixels.
        scales: scales, ``(S,)``, in squared units of the domain.
        angles: angles in radians, ``(A,)``.
        ratios: ratios, ``(R,)``.
        derivatives: as for :func:`norse_fast.functional.receptive_field.spatial_parameters`.
        x: centres along the columns, in units of the domain, ``(X,)``.
        y: centres along the rows, ``(Y,)``.
        optimize_scales, optimize_angles, optimize_ratios, optimize_x, optimize_y: whether these are learned.
        optimize_log: whether the logarithms of scales and ratios are learned, which keeps them positive; the parameters are
            then ``log_scales`` and ``log_ratios``, else ``scales`` and ``ratios``.
        aggregate, domain: as for :class:`SpatialReceptiveField2d`.
        **kwargs: arguments of ``torch.nn.functional.conv2d``.

    Raises:
        TypeError: the centres are not tensors.
        ValueError: ``derivatives`` is neither a number nor pairs.

    Example:
        >>> scales, angles, ratios = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0])
        >>> layer = SampledSpatialReceptiveField2d(1, 9, scales, angles, ratios, 0, optimize_angles=False)
        >>> layer(torch.ones(1, 1, 9, 9)).shape
        torch.Size([1, 6, 1, 1])
        >>> {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
        {'log_scales': (2,), 'log_ratios': (2,), 'x': (1,), 'y': (1,)}
    """

    _shared = True


class ParameterizedSpatialReceptiveField2d(_CombinedReceptiveField2d):
    """A convolution with spatial receptive fields whose scale, angle, ratio and centre are learned for each field.

    It starts with all combinations of the arguments, as :class:`SampledSpatialReceptiveField2d`.

    Args:
        in_channels, size, scales, angles, ratios, derivatives, x, y, aggregate, domain: as for
            :class:`SampledSpatialReceptiveField2d`; scales, angles, ratios and centres are those at the start.
        optimize_scales, optimize_angles, optimize_ratios, optimize_x, optimize_y, optimize_log: likewise.
        **kwargs: arguments of ``torch.nn.functional.conv2d``.

    Example:
        >>> scales, angles, ratios = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0])
        >>> layer = ParameterizedSpatialReceptiveField2d(1, 9, scales, angles, ratios, 1, optimize_x=False)
        >>> layer(torch.ones(1, 1, 9, 9)).shape
        torch.Size([1, 18, 1, 1])
        >>> {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
        {'log_scales': (18,), 'angles': (18,), 'log_ratios': (18,), 'y': (18,)}
    """

    _shared = False


def _box_parameters(tau_mem_inv: torch.Tensor) -> LIBoxParameters:
    return LIBoxParameters(tau_mem_inv=tau_mem_inv)


class TemporalReceptiveField(torch.nn.Module):
    r"""Neurons with several time constants that all see the same input.

    The time constants are :func:`norse_fast.functional.receptive_field.temporal_scale_distribution` in time steps; what is
    stored and learned, as the parameter ``ps``, are the rates :math:`1 / (dt\, \mu_k)`.

    Args:
        shape: shape of the input without batch (and time), with channels first, for example ``(C, H, W)``.
        n_scales: number of time constants K.
        activation: class of the neurons, called with ``p`` and ``dt``; a cell for one step, a layer for input over time.
        activation_state_map: makes the neurons' parameters from the rates in 1/s, ``(K, C, 1, ...)``.
        min_scale: the smallest scale, in squared time steps.
        max_scale: the greatest scale; if given, it sets ``c``.
        c: ratio between neighbouring time constants, greater than 1.
        time_constants: rates in 1/s to use instead of all these, of a shape that broadcasts to ``(K, *shape)``; K is then
            their length.
        dt: length of a step in seconds.

    Example:
        >>> layer = TemporalReceptiveField((2, 8, 8), n_scales=3)
        >>> layer.ps.flatten(1)[:, 0].detach()
        tensor([1000.0000,  707.1086,  500.0026])
        >>> v, state = layer(torch.ones(5, 2, 8, 8))
        >>> v.shape
        torch.Size([5, 3, 2, 8, 8])
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_scales: int = 4,
        activation: Callable[..., torch.nn.Module] = LIBoxCell,
        activation_state_map: Callable[[torch.Tensor], Any] = _box_parameters,
        min_scale: float = 1,
        max_scale: float | None = None,
        c: float = 1.41421,
        time_constants: torch.Tensor | None = None,
        dt: float = 0.001,
    ) -> None:
        super().__init__()
        if time_constants is None:
            rates = (1 / dt) / temporal_scale_distribution(n_scales, min_scale, max_scale, c)
            time_constants = rates.view(-1, *[1] * len(shape)).repeat(1, shape[0], *[1] * (len(shape) - 1))
        self.ps: torch.nn.Parameter = torch.nn.Parameter(time_constants)
        self.activation_state_map = activation_state_map
        # Without history, which cannot be copied: each call makes them of the rates.
        present = _pytree.tree_map_only(
            torch.Tensor, lambda t: t if t.is_leaf else t.detach(), activation_state_map(self.ps)
        )
        self.neurons: torch.nn.Module = activation(p=present, dt=dt)
        self.rf_dimension: int = len(shape)
        self.n_scales: int = len(time_constants)

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        """Run the neurons.

        Args:
            x: input ``(..., *shape)``.
            state: state of the neurons, or None for the initial one.

        Returns:
            The neurons' output, ``(..., K, *shape)``, and the new state.

        Raises:
            TypeError: the input is no tensor.
        """
        x = as_dense(x, "x")  # one of a sparse layout cannot be expanded
        batch = x.dim() - self.rf_dimension
        # Of the present rates, as `ps` may have been replaced; and for this call alone, as others may run beside it.
        neurons = copy.copy(self.neurons)
        start_by_itself(neurons, self.neurons)
        neurons.p = self.activation_state_map(self.ps)
        every_scale = x.unsqueeze(batch).expand(*x.shape[:batch], self.n_scales, *x.shape[batch:])
        result: tuple[torch.Tensor, Any] = neurons(every_scale, state)
        return result

    if TYPE_CHECKING:

        def __call__(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]: ...
