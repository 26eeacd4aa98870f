"""Where spikes come from in a model, and which modules of PyTorch multiply them by weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from ..functional.spike_products import Found
from .delay import DelayedLinear, DelayedLinearCell
from .encode import SignedPoissonEncoder, SignedPoissonEncoderStep
from .leaky_integrator import LI, LICell, LILinearCell
from .leaky_integrator_box import LIBox, LIBoxCell
from .spike_products import SpikeAvgPool2d, SpikeConv2d, SpikeLinear, SpikeMaxPool2d

__all__ = [
    "COUNTERPARTS",
    "GRADED",
    "describe",
    "has_own_forward",
    "is_product",
    "keeps_spikes",
    "may_return_spikes",
    "over_spikes",
    "sums_spikes",
]

#: What becomes of modules of PyTorch that multiply spikes by weights.
COUNTERPARTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: SpikeLinear,
    nn.Conv2d: SpikeConv2d,
    nn.MaxPool2d: SpikeMaxPool2d,
}
# As they were imported: whoever replaces them wants to see the calls.
_FORWARDS = {kind: kind.forward for kind in COUNTERPARTS}
_CONV_FORWARD = nn.Conv2d._conv_forward
#: Neurons and encoders whose outputs are no ones and zeros.
GRADED = (LI, LICell, LIBox, LIBoxCell, LILinearCell, SignedPoissonEncoder, SignedPoissonEncoderStep)
# Modules of PyTorch behind which spikes are still spikes; and these too, but for training.
_KEEP_SPIKES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.MaxPool2d, nn.ZeroPad2d, nn.PixelShuffle, nn.PixelUnshuffle)
_KEEP_SPIKES_IN_EVALUATION = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)


def has_own_forward(part: nn.Module) -> bool:
    """Whether a module of a class with a counterpart computes something else than that class of PyTorch."""
    if "forward" in vars(part) or type(part).forward is not _FORWARDS[type(part)]:
        return True
    own_product = "_conv_forward" in vars(part) or nn.Conv2d._conv_forward is not _CONV_FORWARD
    return isinstance(part, nn.Conv2d) and own_product


def sums_spikes(part: Any) -> bool:
    """Whether a module of PyTorch would be faster for spikes as one of norse_fast."""
    if type(part) not in COUNTERPARTS or has_own_forward(part):
        return False
    if isinstance(part, nn.Conv2d):
        return part.groups == 1 and part.padding_mode == "zeros" and not isinstance(part.padding, str)
    return not (isinstance(part, nn.MaxPool2d) and (part.return_indices or part.ceil_mode))


def keeps_spikes(part: nn.Module) -> bool:
    """Whether a module of PyTorch returns spikes where it takes them."""
    if isinstance(part, _KEEP_SPIKES_IN_EVALUATION):
        return not part.training or part.p == 0
    return isinstance(part, _KEEP_SPIKES)


def may_return_spikes(part: nn.Module, takes_spikes: bool) -> bool:
    """Whether the output of a module may be ones and zeros: that of PyTorch's is not, but of those that keep spikes."""
    if keeps_spikes(part):
        return takes_spikes
    known = (*GRADED, DelayedLinear, DelayedLinearCell, SpikeLinear, SpikeConv2d, SpikeAvgPool2d)
    return not isinstance(part, known) and not type(part).__module__.startswith("torch.nn.")


def is_product(part: nn.Module) -> bool:
    """Whether a module is one of norse_fast that multiplies spikes by weights, or pools them."""
    return type(part) in COUNTERPARTS.values()


def over_spikes(part: nn.Module) -> Callable[..., Any]:
    """The call of a module of PyTorch as its counterpart would answer it; the module stays what it is."""
    return partial(COUNTERPARTS[type(part)].forward, part)


def describe(found: Sequence[Found]) -> str:
    """What the calls of a product of spikes found, in a few words."""
    if not found:
        return "sums over spikes, where they come in"
    counts = [each for each in found if isinstance(each, tuple)]
    reasons = dict.fromkeys(each for each in found if isinstance(each, str))
    texts = [f"dense: {reason}" for reason in reasons]
    if counts:
        ones, elements = (sum(column) for column in zip(*counts))
        texts.insert(0, f"sums over spikes, {ones / elements:.1%} of the input")
    return "; ".join(texts)
