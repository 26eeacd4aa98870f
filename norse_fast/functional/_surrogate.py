"""What all surrogates share: a spike function whose derivative is another function's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import HALF
from .heaviside import heaviside

__all__ = [
    "Derivative",
    "Given",
    "Method",
    "Surrogate",
    "derivative_of",
    "in_batch_of",
    "leave_graph_in_transforms",
    "wide",
]

#: A surrogate derivative of the user's: of the distances to the threshold, and alpha.
Derivative = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: What names a surrogate, or is one.
Method = str | Derivative


def derivative_of(derivative: Derivative, u: torch.Tensor, alpha: Any) -> torch.Tensor:
    """What a derivative of the user's gives, if it is one for every element.

    Raises:
        TypeError: it is no tensor, or of another dtype.
        ValueError: it is of another shape, or on another device.
    """
    found = derivative(u, torch.as_tensor(alpha, dtype=u.dtype, device=u.device))
    name = getattr(derivative, "__qualname__", type(derivative).__name__)
    if not isinstance(found, torch.Tensor):
        raise TypeError(
            f"method: got {type(found).__name__} from {name}(u, alpha), expected a tensor; compute it from u with "
            "PyTorch's functions."
        )
    if found.dtype != u.dtype:
        raise TypeError(
            f"method: got {found.dtype} from {name}(u, alpha), expected {u.dtype}; end it with .to(u.dtype)."
        )
    if found.shape != u.shape or found.device != u.device:
        raise ValueError(
            f"method: got shape {tuple(found.shape)} on {found.device} from {name}(u, alpha), expected {tuple(u.shape)} on "
            f"{u.device}, those of u; give the derivative at every element of u, for example with .expand_as(u)."
        )
    return found


def wide(x: torch.Tensor) -> torch.Tensor:
    """In float32 at least: powers of half precision overflow, and its sums lose what is small."""
    return x.float() if x.dtype in HALF else x


def leave_graph_in_transforms() -> None:
    """Within torch.func, torch.compile loses derivatives of autograd functions in silence, so it must not look."""
    if torch._C._are_functorch_transforms_active():
        torch._dynamo.graph_break(
            "norse_fast: torch.func within torch.compile runs uncompiled; compile without fullgraph."
        )


def in_batch_of(alpha: Any, x: torch.Tensor) -> torch.Tensor:
    """``x``, with one for each of a batch of torch.func.vmap where there is an ``alpha`` for each.

    Spikes do not depend on alpha. If they did not depend on the batch either, there would be one gradient of them, the sum
    of all, and each alpha would get that.
    """
    if torch.compiler.is_compiling():
        leave_graph_in_transforms()
        return x
    if not isinstance(alpha, torch.Tensor) or not torch._C._functorch.is_functorch_wrapped_tensor(alpha):
        return x
    return x - alpha.new_zeros((), dtype=x.dtype, device=x.device)  # the one sum that keeps the sign of zeros


class Surrogate(torch.autograd.Function):
    """Spikes whose derivative is ``derivative(x, k)``, forwards and backwards; ``k`` is a number or a tensor.

    Subclasses name the derivative. It is made of PyTorch's operators, so it can be differentiated and batched in turn.
    """

    generate_vmap_rule = True

    @staticmethod
    def derivative(x: torch.Tensor, k: Any, *given: Any) -> torch.Tensor:
        """The surrogate derivative; ``given`` are further arguments of ``apply``."""
        raise NotImplementedError

    #: ``by_k(x, k)``: the derivative by ``k`` of the function whose derivative by ``x`` the surrogate is, and whose value at
    #: ``x = 0`` is the same for all ``k``; None where there is none.
    by_k: Callable[[torch.Tensor, Any], torch.Tensor] | None = None

    @staticmethod
    def value(x: torch.Tensor, k: Any, *given: Any) -> torch.Tensor:
        """Spikes."""
        return heaviside(x)

    @classmethod
    def of(cls, x: torch.Tensor, k: Any, *given: Any) -> torch.Tensor:
        """What ``apply`` gives, and right gradients also where only ``k`` is of a batch of torch.func.vmap.

        Raises:
            ValueError: ``k`` does not broadcast to the shape of ``x``.
        """
        shape = k.shape if isinstance(k, torch.Tensor) else ()
        if len(shape) > x.dim() or any(own != 1 and own != size for own, size in zip(shape[::-1], x.shape[::-1])):
            raise ValueError(
                f"alpha: got shape {tuple(shape)}, expected one that broadcasts to {tuple(x.shape)}, that of x; pass one "
                "value, or one per element of x."
            )
        spikes: torch.Tensor = cls.apply(in_batch_of(k, x), k, *given)
        return spikes

    @classmethod
    def chain(cls, gradient: torch.Tensor, x: torch.Tensor, k: Any, *given: Any) -> torch.Tensor:
        """The gradient or tangent behind the spikes, of that before them."""
        return gradient * cls.derivative(x, k, *given)

    @classmethod
    def keep(cls, ctx: Any, x: torch.Tensor, k: Any, *given: Any) -> None:
        """Keep what the derivative needs."""
        # A number is kept as it is: as a tensor it would be rounded to float32.
        tensors = (x, k) if isinstance(k, torch.Tensor) else (x,)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.k = None if isinstance(k, torch.Tensor) else k
        ctx.given = given

    @classmethod
    def kept(cls, ctx: Any) -> tuple[Any, ...]:
        """The arguments of the derivative, as they were kept."""
        x, *k = ctx.saved_tensors
        return x, k[0] if k else ctx.k, *ctx.given

    @classmethod
    def pull(cls, ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        """The gradients of all arguments."""
        x, k, *given = cls.kept(ctx)
        grad_k = None
        if ctx.needs_input_grad[1] and cls.by_k is not None:
            grad_k = (gradient * cls.by_k(x, k)).sum_to_size(k.shape).to(k)
        return cls.chain(gradient, x, k, *given), grad_k, *(None for _ in given)

    @classmethod
    def push(cls, ctx: Any, tangent: torch.Tensor, tangent_k: Any, *_: Any) -> torch.Tensor:
        """The tangent of the spikes."""
        x, k, *given = cls.kept(ctx)
        through_x = cls.chain(tangent, x, k, *given)
        if tangent_k is None or cls.by_k is None:
            return through_x
        return through_x + (tangent_k * cls.by_k(x, k)).to(through_x)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # autograd.Function wants static methods that know their class.
        super().__init_subclass__(**kwargs)
        methods: dict[str, Any] = {
            "forward": lambda x, k: cls.value(x, k),
            "setup_context": lambda ctx, inputs, output: cls.keep(ctx, *inputs),
            "backward": lambda ctx, gradient: cls.pull(ctx, gradient),
            "jvp": lambda ctx, *tangents: cls.push(ctx, *tangents),
        }
        for name, method in methods.items():
            if name not in vars(cls):
                setattr(cls, name, staticmethod(method))


class Given(Surrogate):
    """``Given.apply(x, alpha, derivative)``: spikes with a derivative of the user's."""

    @staticmethod
    def forward(x: torch.Tensor, k: Any, derivative: Derivative) -> torch.Tensor:
        """Spikes; torch.compile counts the arguments, so none are left open."""
        return heaviside(x)

    @staticmethod
    def derivative(x: torch.Tensor, k: Any, *given: Any) -> torch.Tensor:
        """What it gives."""
        return derivative_of(given[0], x.clone(), k)  # it may work in place
