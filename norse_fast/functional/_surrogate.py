"""What all surrogates share: a spike function whose derivative is another function's."""

from __future__ import annotations

from typing import Any

import torch

from .heaviside import heaviside

__all__ = ["Surrogate"]


class Surrogate(torch.autograd.Function):
    """Spikes whose derivative is ``derivative(x, k)``, forwards and backwards; ``k`` is a number or a tensor.

    Subclasses name the derivative. It is made of PyTorch's operators, so it can be differentiated and batched in turn.
    """

    generate_vmap_rule = True

    @staticmethod
    def derivative(x: torch.Tensor, k: Any) -> torch.Tensor:
        """The surrogate derivative."""
        raise NotImplementedError

    @staticmethod
    def value(x: torch.Tensor, k: Any) -> torch.Tensor:
        """Spikes."""
        return heaviside(x)

    @classmethod
    def chain(cls, gradient: torch.Tensor, x: torch.Tensor, k: Any) -> torch.Tensor:
        """The gradient or tangent behind the spikes, of that before them."""
        return gradient * cls.derivative(x, k)

    @classmethod
    def keep(cls, ctx: Any, x: torch.Tensor, k: Any) -> None:
        """Keep what the derivative needs."""
        # A number is kept as it is: as a tensor it would be rounded to float32.
        tensors = (x, k) if isinstance(k, torch.Tensor) else (x,)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.k = None if isinstance(k, torch.Tensor) else k

    @classmethod
    def continue_from(cls, ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """:meth:`chain` with what was kept."""
        x, *k = ctx.saved_tensors
        return cls.chain(gradient, x, k[0] if k else ctx.k)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # autograd.Function wants static methods that know their class.
        super().__init_subclass__(**kwargs)
        methods: dict[str, Any] = {
            "forward": lambda x, k: cls.value(x, k),
            "setup_context": lambda ctx, inputs, output: cls.keep(ctx, *inputs),
            "backward": lambda ctx, gradient: (cls.continue_from(ctx, gradient), None),
            "jvp": lambda ctx, tangent, _: cls.continue_from(ctx, tangent),
        }
        for name, method in methods.items():
            setattr(cls, name, staticmethod(method))
