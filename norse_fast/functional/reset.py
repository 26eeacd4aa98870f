"""What a spike does to a neuron.

Spiking step functions and modules take two keywords. ``reset`` says what happens to the membrane potential:

- ``"value"`` sets it to ``p.v_reset``, Izhikevich to ``p.c``. LIFBox does what ``p.reset_method`` does.
- ``"subtract"`` takes ``p.v_th`` from it, LSNN its adapted threshold.
- ``"none"`` leaves it.

``detach_reset`` says whether what a spike changes (potential, adaptation, recovery) sends no gradient into the spike.

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter 1.3, for
the reset to a value; B. Rueckauer, I. Lungu, Y. Hu, M. Pfeiffer, S. Liu, *Conversion of Continuous-Valued Deep Networks to
Efficient Event-Driven Networks for Image Classification*, Frontiers in Neuroscience 11 (2017), 682, for the subtraction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["ResetMethod", "reset_none", "reset_subtract", "reset_value"]

#: A function of spikes, membrane potential, reset value and threshold that gives the membrane potential after the spikes.
ResetMethod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def reset_value(z: torch.Tensor, v: torch.Tensor, reset: torch.Tensor, th: torch.Tensor) -> torch.Tensor:
    r"""Set the potential of neurons that spiked to a value: :math:`(1 - z) v + z v_{reset}`.

    Args:
        z: spikes, 0 or 1, any shape.
        v: membrane potential before the reset, of a shape that broadcasts.
        reset: reset potential :math:`v_{reset}`, in the unit of ``v``.
        th: threshold potential :math:`v_{th}`, in the unit of ``v``, which does not matter here.

    Returns:
        The membrane potential after the reset, in the common shape and dtype.

    Example:
        >>> reset_value(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5]), torch.tensor(0.1), torch.tensor(1.0))
        tensor([0.5000, 0.1000])
    """
    return (1 - z) * v + z * reset


def reset_subtract(z: torch.Tensor, v: torch.Tensor, reset: torch.Tensor, th: torch.Tensor) -> torch.Tensor:
    r"""Subtract the threshold from the potential of neurons that spiked: :math:`(1 - z) v + z (v - v_{th})`.

    Args:
        z: spikes, 0 or 1, any shape.
        v: membrane potential before the reset, of a shape that broadcasts.
        reset: reset potential :math:`v_{reset}`, in the unit of ``v``, which does not matter here.
        th: threshold potential :math:`v_{th}`, in the unit of ``v``.

    Returns:
        The membrane potential after the reset, in the common shape and dtype.

    Example:
        >>> reset_subtract(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5]), torch.tensor(0.1), torch.tensor(1.0))
        tensor([0.5000, 0.5000])
    """
    return (1 - z) * v + z * (v - th)


def reset_none(z: torch.Tensor, v: torch.Tensor, reset: torch.Tensor, th: torch.Tensor) -> torch.Tensor:
    r"""Leave the potential of neurons that spiked as it is: :math:`v`.

    Args:
        z: spikes, 0 or 1, any shape, which do not matter here.
        v: membrane potential.
        reset: reset potential :math:`v_{reset}`, which does not matter here.
        th: threshold potential :math:`v_{th}`, which does not matter here.

    Returns:
        The membrane potential as it was.

    Example:
        >>> reset_none(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5]), torch.tensor(0.1), torch.tensor(1.0))
        tensor([0.5000, 1.5000])
    """
    z = z.detach()  # what cancels in a gradient would still round
    return (1 - z) * v + z * v


# So that torch.load with weights_only takes parameters that name one of them.
torch.serialization.add_safe_globals([reset_value, reset_subtract, reset_none])
