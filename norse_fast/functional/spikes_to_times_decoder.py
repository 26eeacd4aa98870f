"""When neurons spike, as numbers through which gradients flow.

Source: J. Göltz et al., *Fast and energy-efficient neuromorphic deep learning with first-spike times*, Nature Machine
Intelligence 3 (2021), 823-835, for the code; here the derivative of a time by its spike is simply -1.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["ToSpikeTimes"]


class ToSpikeTimes(torch.autograd.Function):
    """The time steps at which each neuron spikes, the first ones in ascending order; infinity where there are no more.

    ``ToSpikeTimes.apply(spike_input, spike_count)`` takes

    - ``spike_input``: spikes over time, ``(T, ...)``; whatever differs from 0 is a spike,
    - ``spike_count``: how many spikes of each neuron, a number or a 0-dim tensor,

    and gives a tensor of shape ``(min(spike_count, T), ...)``, in the input's dtype if that is float32 or float64, else in
    the default dtype, but at least in float32. The gradient of a spike is minus the gradient of its time, since more drive
    means an earlier spike; everything else gets none, and silent neurons neither.

    Raises:
        ValueError: the input has no time dimension, or ``spike_count`` is negative.

    Example:
        >>> spikes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
        >>> times = ToSpikeTimes.apply(spikes, 1)
        >>> times
        tensor([[1., inf]], grad_fn=<ToSpikeTimesBackward>)
        >>> times[0, 0].backward()
        >>> spikes.grad
        tensor([[ 0.,  0.],
                [-1.,  0.],
                [ 0.,  0.]])
    """

    @staticmethod
    def forward(spike_input: torch.Tensor, spike_count: Any) -> torch.Tensor:
        """The times."""
        count = int(spike_count)
        if spike_input.dim() == 0:
            raise ValueError("spike_input: got a 0-dim tensor, expected (T, ...); add a dimension for time.")
        if count < 0:
            raise ValueError(f"spike_count: got {count}, expected 0 or more; how many spikes per neuron?")
        # Half precision cannot tell late time steps apart.
        exact = spike_input.dtype in (torch.float32, torch.float64)
        steps = torch.arange(
            spike_input.shape[0],
            dtype=spike_input.dtype if exact else torch.promote_types(torch.get_default_dtype(), torch.float32),
            device=spike_input.device,
        )
        steps = steps.view(-1, *[1] * (spike_input.dim() - 1))
        times = torch.where(spike_input != 0, steps, torch.inf)
        return times.topk(min(count, times.shape[0]), dim=0, largest=False).values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, Any], output: torch.Tensor) -> None:
        """Keep the times."""
        ctx.save_for_backward(output)
        ctx.shape, ctx.dtype = inputs[0].shape, inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Minus the gradient of each time, at its spike."""
        (times,) = ctx.saved_tensors
        spiked = times.isfinite()
        # Adding nothing at the first step, where a spike may be, keeps silent neurons out.
        steps = torch.where(spiked, times, 0).long()
        grad_input = grad_output.new_zeros(ctx.shape)
        grad_input.scatter_add_(0, steps, torch.where(spiked, -grad_output, 0))
        return grad_input.to(ctx.dtype), None
