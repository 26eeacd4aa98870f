r"""Spike-timing-dependent plasticity (STDP) of dense and convolutional weights.

Each neuron leaves a trace of its spikes, and a weight grows where a post-synaptic spike meets a pre-synaptic trace and
shrinks where a pre-synaptic spike meets a post-synaptic one:

.. math::
    t'       &= t + dt\, \tau^{-1} (a z - t) \\
    \Delta w &= A_+(w) \sum_b z_{post} t_{pre}' - A_-(w) \sum_b t_{post}' z_{pre}

Source: A. Morrison, M. Diesmann, W. Gerstner, *Phenomenological models of synaptic plasticity based on spike timing*,
Biological Cybernetics 98 (2008), 459-478; the powers of the distance to the bounds are those of R. Gütig, R. Aharonov,
S. Rotter, H. Sompolinsky, *Learning Input Correlations through Nonlinear Temporally Asymmetric Hebbian Plasticity*, Journal
of Neuroscience 23 (2003), 3697-3714.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import constant
from .heaviside import heaviside

__all__ = ["STDPParameters", "STDPState", "stdp_step_conv2d", "stdp_step_linear"]


def _constant(distance: Any, mu: torch.Tensor) -> Any:
    return 1.0


def _step(distance: Any, mu: torch.Tensor) -> Any:
    return heaviside(distance)


def _power(distance: Any, mu: torch.Tensor) -> Any:
    return torch.pow(distance, mu)


def _linear(distance: Any, mu: torch.Tensor) -> Any:
    return torch.relu(distance)


#: How the change of a weight depends on its distance to the bound, by name of the algorithm.
_ALGORITHMS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "additive": _constant,
    "additive_step": _step,
    "multiplicative_pow": _power,
    "multiplicative_relu": _linear,
}


class STDPState:
    """Traces of the spikes before and behind weights; a step changes them in place.

    Args:
        t_pre: trace of the pre-synaptic spikes, without unit: ``(B, pre)``, ``(B, C, H, W)``, or zeros that broadcast to it,
            also as a number.
        t_post: trace of the post-synaptic spikes, likewise.

    Example:
        >>> STDPState(torch.zeros(1, 2), torch.zeros(1, 3)).t_post.shape
        torch.Size([1, 3])
    """

    def __init__(self, t_pre: Any, t_post: Any) -> None:
        self.t_pre: Any = t_pre
        self.t_post: Any = t_post

    def __repr__(self) -> str:
        return f"STDPState(t_pre={self.t_pre}, t_post={self.t_post})"

    def decay(
        self,
        z_pre: torch.Tensor,
        z_post: torch.Tensor,
        tau_pre_inv: Any,
        tau_post_inv: Any,
        a_pre: Any,
        a_post: Any,
        dt: float = 0.001,
    ) -> None:
        r"""Move the traces on by one step: :math:`t' = t + dt\, \tau^{-1} (a z - t)`.

        Args:
            z_pre: pre-synaptic spikes.
            z_post: post-synaptic spikes.
            tau_pre_inv: inverse time constant of the pre-synaptic trace in 1/s.
            tau_post_inv: inverse time constant of the post-synaptic trace in 1/s.
            a_pre: what the pre-synaptic trace approaches while its neuron spikes, without unit.
            a_post: what the post-synaptic trace approaches while its neuron spikes.
            dt: length of the step in seconds.

        Example:
            >>> state = STDPState(torch.tensor([1.0]), torch.tensor([0.0]))
            >>> state.decay(torch.zeros(1), torch.ones(1), 20.0, 20.0, 1.0, 1.0)
            >>> state
            STDPState(t_pre=tensor([0.9800]), t_post=tensor([0.0200]))
        """
        self.t_pre = self.t_pre + (dt * tau_pre_inv * (-self.t_pre + a_pre * z_pre))
        self.t_post = self.t_post + (dt * tau_post_inv * (-self.t_post + a_post * z_post))


class STDPParameters:
    r"""Parameters of STDP.

    =================== ==================================== ====================================
    stdp_algorithm      :math:`A_+(w) / \eta_+`              :math:`A_-(w) / \eta_-`
    =================== ==================================== ====================================
    additive            1                                    1
    additive_step       :math:`H(w_{max} - w)`               :math:`H(w - w_{min})`
    multiplicative_pow  :math:`(w_{max} - w)^\mu`            :math:`(w - w_{min})^\mu`
    multiplicative_relu :math:`\max(0, w_{max} - w)`         :math:`\max(0, w - w_{min})`
    =================== ==================================== ====================================

    Args:
        a_pre: what the trace of a pre-synaptic neuron approaches while it spikes, without unit.
        a_post: what the trace of a post-synaptic neuron approaches while it spikes.
        tau_pre_inv: inverse time constant of the pre-synaptic trace in 1/s.
        tau_post_inv: inverse time constant of the post-synaptic trace in 1/s.
        w_min: lower bound of the weights.
        w_max: upper bound of the weights.
        eta_plus: learning rate of potentiation.
        eta_minus: learning rate of depression.
        stdp_algorithm: a name of the table.
        mu: exponent of ``multiplicative_pow``, 0 to 1.
        hardbound: whether the weights are clipped to their bounds after each step.
        convolutional: whether the weights are those of a convolution; kept for the user, :func:`stdp_step_conv2d` does not
            ask.
        stride, padding, dilation: of the convolution, as for ``torch.nn.Conv2d``.

    Raises:
        ValueError: there is no algorithm of that name.

    Example:
        >>> p = STDPParameters(eta_plus=0.5, stdp_algorithm="multiplicative_relu")
        >>> p.A_plus(torch.tensor([0.0, 0.5, 2.0]))
        tensor([0.5000, 0.2500, 0.0000])
    """

    a_pre: Any
    a_post: Any
    tau_pre_inv: Any
    tau_post_inv: Any
    w_min: Any
    w_max: Any
    eta_plus: Any
    eta_minus: Any
    mu: torch.Tensor
    stride: int | tuple[int, int]
    padding: int | tuple[int, int]
    dilation: int | tuple[int, int]

    def __init__(
        self,
        a_pre: Any = constant(1.0),
        a_post: Any = constant(1.0),
        tau_pre_inv: Any = constant(1.0 / 50e-3),
        tau_post_inv: Any = constant(1.0 / 50e-3),
        w_min: Any = 0.0,
        w_max: Any = 1.0,
        eta_plus: Any = 1e-3,
        eta_minus: Any = 1e-3,
        stdp_algorithm: str = "additive",
        mu: Any = 0.0,
        hardbound: bool = True,
        convolutional: bool = False,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        if stdp_algorithm not in _ALGORITHMS:
            raise ValueError(
                f"stdp_algorithm: got {stdp_algorithm!r}, expected one of {', '.join(map(repr, _ALGORITHMS))}; "
                "the default is 'additive'."
            )
        self.a_pre, self.a_post = a_pre, a_post
        self.tau_pre_inv, self.tau_post_inv = tau_pre_inv, tau_post_inv
        self.w_min, self.w_max = w_min, w_max
        self.eta_plus, self.eta_minus = eta_plus, eta_minus
        self.stdp_algorithm = stdp_algorithm
        self.mu = constant(mu)
        self.hardbound = hardbound
        self.convolutional = convolutional
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def A_plus(self, w: torch.Tensor) -> Any:
        """How much weights grow per coincidence, :math:`A_+(w)`."""
        return self.eta_plus * _ALGORITHMS[self.stdp_algorithm](self.w_max - w, self.mu)

    def A_minus(self, w: torch.Tensor) -> Any:
        """How much weights shrink per coincidence, :math:`A_-(w)`."""
        return self.eta_minus * _ALGORITHMS[self.stdp_algorithm](w - self.w_min, self.mu)

    def bounding_func(self, w: torch.Tensor) -> torch.Tensor:
        """The weights within their bounds, or as they are without ``hardbound``."""
        return w.clamp(min=self.w_min).clamp(max=self.w_max) if self.hardbound else w


def _move(p: Any, w: torch.Tensor, plus: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
    moved: torch.Tensor = p.bounding_func(w + (p.A_plus(w) * plus - p.A_minus(w) * minus))
    return moved


def _for_trace(z: torch.Tensor, trace: Any) -> torch.Tensor:
    """Spikes in a dtype of which there are products with the trace, a tensor or a number."""
    return z.to(torch.result_type(z, trace if isinstance(trace, torch.Tensor) else float(trace)))


def _decay(
    state: STDPState, z_pre: torch.Tensor, z_post: torch.Tensor, p: STDPParameters, dt: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the traces on; the spikes in a dtype of which there are products with traces."""
    z_pre, z_post = _for_trace(z_pre, state.t_pre), _for_trace(z_post, state.t_post)
    state.decay(z_pre, z_post, p.tau_pre_inv, p.tau_post_inv, p.a_pre, p.a_post, dt)
    return z_pre, z_post


# So that torch.load with weights_only takes them.
torch.serialization.add_safe_globals([STDPState, STDPParameters])


def _check_batches(z_pre: torch.Tensor, z_post: torch.Tensor) -> None:
    if z_pre.shape[0] != z_post.shape[0]:
        raise ValueError(
            f"z_post: got a batch of {z_post.shape[0]}, expected {z_pre.shape[0]}, that of z_pre; pass spikes of the "
            "same samples."
        )


def stdp_step_linear(
    z_pre: torch.Tensor,
    z_post: torch.Tensor,
    w: torch.Tensor,
    state_stdp: STDPState,
    p_stdp: STDPParameters = STDPParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, STDPState]:
    r"""One time step of STDP of dense weights; the contributions of a batch are summed.

    Args:
        z_pre: pre-synaptic spikes, ``(B, pre)``.
        z_post: post-synaptic spikes, ``(B, post)``.
        w: weights, ``(post, pre)``.
        state_stdp: traces, changed in place.
        p_stdp: parameters.
        dt: length of the step in seconds.

    Returns:
        The new weights, and ``state_stdp``.

    Raises:
        ValueError: the weights do not fit the spikes.

    Example:
        >>> state = STDPState(t_pre=torch.tensor([[1.0, 0.0]]), t_post=torch.zeros(1, 1))
        >>> p = STDPParameters(eta_plus=0.1)
        >>> w, state = stdp_step_linear(torch.zeros(1, 2), torch.ones(1, 1), torch.full((1, 2), 0.5), state, p)
        >>> w
        tensor([[0.5980, 0.5000]])
    """
    if z_pre.dim() != 2 or z_post.dim() != 2 or w.shape != (z_post.shape[1], z_pre.shape[1]):
        raise ValueError(
            f"w: got shape {tuple(w.shape)}, expected (post, pre) for z_post of shape (B, post) and z_pre of shape (B, pre), "
            f"which are {tuple(z_post.shape)} and {tuple(z_pre.shape)}; transpose the weights or add a batch dimension."
        )
    _check_batches(z_pre, z_post)
    z_pre, z_post = _decay(state_stdp, z_pre, z_post, p_stdp, dt)
    plus = torch.einsum("bi,bj->ij", z_post, state_stdp.t_pre)
    minus = torch.einsum("bi,bj->ij", state_stdp.t_post, z_pre)
    return _move(p_stdp, w, plus, minus), state_stdp


def stdp_step_conv2d(
    z_pre: torch.Tensor,
    z_post: torch.Tensor,
    w: torch.Tensor,
    state_stdp: STDPState,
    p_stdp: STDPParameters = STDPParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, STDPState]:
    r"""One time step of STDP of a two-dimensional convolution; contributions are summed over batch and positions.

    Args:
        z_pre: pre-synaptic spikes, ``(B, C, H, W)``.
        z_post: post-synaptic spikes, ``(B, D, H', W')``, what the convolution gives.
        w: weights, ``(D, C, kh, kw)``.
        state_stdp: traces, changed in place.
        p_stdp: parameters, with the stride, padding and dilation of the convolution.
        dt: length of the step in seconds.

    Returns:
        The new weights, and ``state_stdp``.

    Raises:
        ValueError: the weights do not fit the spikes.

    Example:
        >>> state = STDPState(t_pre=torch.ones(1, 1, 3, 3), t_post=torch.zeros(1, 1, 2, 2))
        >>> w, state = stdp_step_conv2d(torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), state)
        >>> w
        tensor([[[[0.0039, 0.0039],
                  [0.0039, 0.0039]]]])
    """
    # Parameters of Norse have them where they are convolutional.
    stride, padding = getattr(p_stdp, "stride", 1), getattr(p_stdp, "padding", 0)
    dilation = getattr(p_stdp, "dilation", 1)

    def patches(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.unfold(x, (w.shape[2], w.shape[3]), dilation, padding, stride)

    if z_pre.dim() != 4 or z_post.dim() != 4 or w.dim() != 4 or w.shape[:2] != (z_post.shape[1], z_pre.shape[1]):
        raise ValueError(
            f"w: got shape {tuple(w.shape)}, expected (D, C, kh, kw) for z_post of shape (B, D, H', W') and z_pre of shape "
            f"(B, C, H, W), which are {tuple(z_post.shape)} and {tuple(z_pre.shape)}; pass the weights of the convolution."
        )
    _check_batches(z_pre, z_post)
    # Without data: for the shape alone.
    pictures, kernels = (torch.empty(x.shape, device="meta") for x in (z_pre, w))
    convolved = torch.nn.functional.conv2d(pictures, kernels, None, stride, padding, dilation)
    if convolved.shape != z_post.shape:
        raise ValueError(
            f"z_post: got shape {tuple(z_post.shape)}, expected {tuple(convolved.shape)}, which weights of shape "
            f"{tuple(w.shape)} make of z_pre of shape {tuple(z_pre.shape)}; check stride, padding and dilation of p_stdp."
        )
    z_pre, z_post = _decay(state_stdp, z_pre, z_post, p_stdp, dt)
    plus = torch.einsum("bik,bjk->ij", z_post.flatten(2), patches(state_stdp.t_pre))
    minus = torch.einsum("bik,bjk->ij", state_stdp.t_post.flatten(2), patches(z_pre))
    return _move(p_stdp, w, plus.view_as(w), minus.view_as(w)), state_stdp
