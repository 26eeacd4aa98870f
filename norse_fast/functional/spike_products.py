r"""Products of spikes with weights, as sums over the spikes that are there.

A layer of weights after spiking neurons multiplies by zeros most of the time. On the CPU, :func:`spike_linear` and
:func:`spike_conv2d` sum the weights that belong to spikes instead. They are as exact as a product of matrices: every output
is a sum in the order of the inputs, the same for any number of threads and however a sequence is cut. Rounding differs from
that of ``torch.nn.functional``, which sums in another order.

Source: that a spike is worth an addition where a matrix product multiplies, F. Akopyan et al., *TrueNorth: Design and Tool
Flow of a 65 mW 1 Million Neuron Programmable Neurosynaptic Chip*, IEEE Transactions on Computer-Aided Design 34 (2015),
1537-1557; the order of work is this package's.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from .._kernels.autograd import beyond_kernels, in_transform
from .._kernels.checks import check_tensor
from .._kernels.extension import has_kernels
from .._kernels.sparse_backward import needed
from .._kernels.spike_products import SumConv2d, SumLinear, SumMaxPool2d, link

__all__ = ["dense_products", "spike_avg_pool2d", "spike_conv2d", "spike_linear", "spike_max_pool2d"]

#: The share of ones up to which sums are taken; with more, a product of matrices is as fast.
MOST_SPIKES = 0.3
#: The same for few rows of a linear layer, for which the weights must be copied all the same.
MOST_SPIKES_OF_FEW_ROWS = 0.1
MANY_ROWS = 64
#: The same for few outputs, whose product takes hardly longer than to look at the spikes; and where a gradient is computed
#: for the weights, since bits are a 32nd of what backward would keep.
MOST_SPIKES_TO_FEW_OUTPUTS, MOST_SPIKES_TO_FEW_IN_TRAINING = 0.03, 0.15
#: The same for convolutions; and for those where few outputs share the work of looking at the spikes, unless of one
#: channel, where PyTorch's operator is slowest.
MOST_SPIKES_OF_IMAGES = 0.35
MOST_SPIKES_OF_FEW_OUTPUTS = 0.12
MANY_OUTPUTS = 32
# A pool is as little work as so many multiplications of each element.
_WORK_OF_POOLS = 100
#: The weights of an input from which on its gradient is computed where it is needed; with fewer, it takes little time anyway.
LEAST_WEIGHTS = 64

#: Multiplications and additions of the smallest product for which it pays to ask how many ones there are.
LEAST_WORK = 1 << 24

_Pair = int | tuple[int, ...]
#: What a call found: how many ones among how many elements, or why it took PyTorch's operator.
Found = tuple[int, int] | str

_dense = contextvars.ContextVar("dense_products", default=False)
_listener: contextvars.ContextVar[Callable[[Found], None] | None] = contextvars.ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(listener: Callable[[Found], None]) -> Iterator[None]:
    """Context in which each product of spikes tells what it found."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def _tell(found: Found) -> None:
    if (listener := _listener.get()) is not None:
        listener(found)


@contextlib.contextmanager
def dense_products() -> Iterator[None]:
    """Context in which products of spikes are those of PyTorch, for comparisons.

    It holds for the code inside it, as a context variable does: other threads and tasks go on as they were.

    Returns:
        A context manager.

    Example:
        >>> with dense_products():
        ...     y = spike_linear(torch.ones(1, 2), torch.ones(1, 2))
        >>> y
        tensor([[2.]])
    """
    token = _dense.set(True)
    try:
        yield
    finally:
        _dense.reset(token)


def spike_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    r"""A linear layer for spikes: :math:`y = x W^T + b`.

    Where all elements of ``x`` are 0 or 1, and at most 30 % of them 1, the sums are taken over the ones; backward then keeps
    ``x`` as bits. With fewer than 64 rows the limit is 10 %; with fewer than 32 outputs it is 3 %, or 15 % where the weights
    are trained. Otherwise, and on other devices, under autocast, ``torch.compile``, ``torch.func`` and forward mode, it is
    ``torch.nn.functional.linear``.

    Args:
        x: spikes, ``(..., inputs)``, in the dtype of the weights, or bool or uint8.
        weight: :math:`W`, ``(outputs, inputs)``, float32 or float64; other dtypes are left to PyTorch.
        bias: :math:`b`, ``(outputs,)``.

    Returns:
        ``(..., outputs)``, in the dtype of the weights.

    Raises:
        TypeError: the input or the weights are no tensors.
        RuntimeError: shapes or dtypes do not fit.

    Example:
        >>> spike_linear(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([[1.0, 2.0, 4.0]]))
        tensor([5.])
    """
    check_tensor("x", x)
    check_tensor("weight", weight)
    # Of nested tensors not even the shape can be asked for.
    fits = not x.is_nested and weight.dim() == 2 and x.dim() > 0 and x.shape[-1] == weight.shape[1]
    if fits and _may_sum(x.numel() * weight.shape[0], x, weight, bias):
        rows = x.reshape(-1, x.shape[-1])
        most = MOST_SPIKES if rows.shape[0] >= MANY_ROWS else MOST_SPIKES_OF_FEW_ROWS
        if weight.shape[0] < MANY_OUTPUTS:
            trains = weight.requires_grad and torch.is_grad_enabled()
            most = min(most, MOST_SPIKES_TO_FEW_IN_TRAINING if trains else MOST_SPIKES_TO_FEW_OUTPUTS)
        if (spikes := _as_bits(rows, most)) is not None:
            active = _active_bits(rows.shape, weight)
            y: torch.Tensor = SumLinear.apply(link(rows), weight, bias, rows.shape[1], *spikes, active)
            return y if x.dim() == 2 else y.view(*x.shape[:-1], weight.shape[0])
    return torch.nn.functional.linear(as_numbers(x, weight.dtype), weight, bias)


def spike_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair | str = 0,
    dilation: _Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """A convolution of images of spikes.

    Where all elements of ``x`` are 0 or 1, at most 35 % of them 1, ``groups`` is 1 and ``padding`` a number, the sums are
    taken over the ones; backward then keeps ``x`` as bits. Otherwise, as in :func:`spike_linear`, it is
    ``torch.nn.functional.conv2d``.

    Args:
        x: spikes, ``(..., C, H, W)``, in the dtype of the weights, or bool or uint8.
        weight: ``(outputs, C / groups, kernel height, kernel width)``, float32 or float64; other dtypes are left to PyTorch.
        bias: ``(outputs,)``.
        stride: steps of the kernel, a number or a pair; likewise the next two.
        padding: zeros on each side, or ``"same"`` or ``"valid"``.
        dilation: distance between the elements of the kernel.
        groups: number of groups of channels that do not see each other.

    Returns:
        ``(..., outputs, H', W')``, in the dtype of the weights.

    Raises:
        TypeError: the input or the weights are no tensors.
        RuntimeError: shapes or dtypes do not fit.

    Example:
        >>> x = torch.zeros(1, 1, 3, 3)
        >>> x[0, 0, 1, 1] = 1
        >>> spike_conv2d(x, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).flatten()
        tensor([4., 3., 2., 1.])
    """
    check_tensor("x", x)
    check_tensor("weight", weight)
    if x.dim() > 4:
        y = spike_conv2d(x.flatten(0, -4), weight, bias, stride, padding, dilation, groups)
        return y.unflatten(0, x.shape[:-3])
    how = [_pair(value) for value in (stride, padding, dilation)]
    spikes = None
    # Not quite the work, where there are strides or kernels as large as the image, but about.
    work = x.numel() * weight.numel() // max(math.prod(weight.shape[1:2]) * math.prod(how[0]), 1)
    if groups == 1 and _may_sum(work, x, weight, bias) and _is_summable(x.shape, weight.shape, *how):
        few = weight.shape[0] < MANY_OUTPUTS and x.shape[1] > 1
        most = MOST_SPIKES_OF_FEW_OUTPUTS if few else MOST_SPIKES_OF_IMAGES
        spikes = _as_bits(x.reshape(x.shape[0], -1), most)
    if spikes is not None:
        active = _active_bits((x.shape[0], math.prod(x.shape[1:])), weight)
        summed: torch.Tensor = SumConv2d.apply(link(x), weight, bias, list(x.shape), how, spikes[0], active)
        return summed
    return torch.nn.functional.conv2d(as_numbers(x, weight.dtype), weight, bias, stride, padding, dilation, groups)


def spike_max_pool2d(
    x: torch.Tensor, kernel_size: _Pair, stride: _Pair | None = None, padding: _Pair = 0, dilation: _Pair = 1
) -> torch.Tensor:
    """Max pooling of images of spikes: whether there is one in a window.

    Where all elements of ``x`` are 0 or 1, bits are pooled, and backward keeps them alone; otherwise, as in
    :func:`spike_linear`, it is ``torch.nn.functional.max_pool2d``. Both are the same, bit for bit.

    Args:
        x: spikes, ``(..., C, H, W)``, float32, float64, bool or uint8; other dtypes are left to PyTorch.
        kernel_size: height and width of the window, a number or a pair; likewise the next three.
        stride: steps of the window, by default its size.
        padding: zeros on each side, at most half a window.
        dilation: distance between the elements of the window.

    Returns:
        ``(..., C, H', W')``, in the dtype of ``x``.

    Raises:
        TypeError: the input is no tensor.
        RuntimeError: sizes do not fit.

    Example:
        >>> spike_max_pool2d(torch.tensor([[[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]), 2)
        tensor([[[[1., 0.]]]])
    """
    check_tensor("x", x)
    if x.dtype is torch.bool:
        return spike_max_pool2d(poolable(x), kernel_size, stride, padding, dilation).to(torch.bool)
    if x.dim() > 4:
        return spike_max_pool2d(x.flatten(0, -4), kernel_size, stride, padding, dilation).unflatten(0, x.shape[:-3])
    stride = kernel_size if stride is None else stride
    how = [_pair(value) for value in (kernel_size, stride, padding, dilation)]
    spikes = None
    numbers = x if x.dtype in _DTYPES else x.new_empty(0, dtype=torch.float32)
    if x.dim() == 4 and _may_sum(x.numel() * _WORK_OF_POOLS, x, numbers, None):
        fits = all(how) and all(2 * p <= k for p, k in zip(how[2], how[0]))
        # Or the padding could hold a whole window, whose gradient goes to no element.
        fits = fits and all(d <= size for d, size in zip(how[3], x.shape[2:]))
        if fits and _is_summable(x.shape, (1, x.shape[1], *how[0]), *how[1:]):
            spikes = _as_bits(x.reshape(x.shape[0], -1), 1.0)
    if spikes is not None:
        pooled: torch.Tensor = SumMaxPool2d.apply(link(x), x.new_empty(0), list(x.shape), how, spikes[0])
        if (active := needed.get()) is not None:
            active.pool(spikes[0], x.shape, how, pooled.shape)
        return pooled
    return torch.nn.functional.max_pool2d(poolable(x), kernel_size, stride, padding, dilation)


def poolable(x: torch.Tensor) -> torch.Tensor:
    """Images as PyTorch pools them: no bool, and no bytes with channels last, of which it takes a few pixels alone."""
    if x.dtype is torch.bool:
        return x.to(torch.uint8, memory_format=torch.contiguous_format)
    return x if x.is_floating_point() else x.contiguous()


def spike_avg_pool2d(
    x: torch.Tensor,
    kernel_size: _Pair,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """Average pooling of images of spikes: the share of spikes in a window.

    It is ``torch.nn.functional.avg_pool2d``, bit for bit, with all of its gradients, on any device. It exists so that spikes
    as bool or uint8 are taken, and any leading dimensions, as by :func:`spike_conv2d` and :func:`spike_max_pool2d`.

    Args:
        x: spikes, ``(..., C, H, W)``, floating-point numbers, or bool or uint8.
        kernel_size: height and width of the window, a number or a pair; likewise the next two.
        stride: steps of the window, by default its size.
        padding: zeros on each side, at most half a window.
        ceil_mode: let windows reach beyond the image.
        count_include_pad: count the zeros on the sides as elements of a window.
        divisor_override: what sums are divided by, by default the number of elements of the window.

    Returns:
        ``(..., C, H', W')``, in the dtype of ``x``, or in the default dtype where ``x`` is bool or uint8.

    Raises:
        TypeError: the input is no tensor.
        RuntimeError: sizes do not fit.

    Example:
        >>> spike_avg_pool2d(torch.tensor([[[[True, True, False, False], [False, True, False, False]]]]), 2)
        tensor([[[[0.7500, 0.0000]]]])
    """
    check_tensor("x", x)
    if x.dim() > 4:
        options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        return spike_avg_pool2d(x.flatten(0, -4), *options).unflatten(0, x.shape[:-3])
    x = as_numbers(x, torch.get_default_dtype())
    return torch.nn.functional.avg_pool2d(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def _pair(value: Any) -> list[int]:
    """Two numbers, or none where a value is not one or two of them."""
    values = list(value) if isinstance(value, (tuple, list)) else [value] * 2
    return values if len(values) == 2 and all(isinstance(v, int) for v in values) else []


def _is_summable(
    image: Sequence[int], kernel: Sequence[int], stride: list[int], padding: list[int], dilation: list[int]
) -> bool:
    """Whether a convolution of tensors of these shapes makes sense, and is of a size that the kernels take."""
    if len(image) != 4 or len(kernel) != 4 or image[1] != kernel[1] or not (stride and padding and dilation):
        return False
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        return False
    reach = [image[2 + k] + 2 * padding[k] - dilation[k] * (kernel[2 + k] - 1) - 1 for k in (0, 1)]
    places, elements = math.prod(r // s + 1 for r, s in zip(reach, stride)), math.prod(kernel[1:])
    return min(reach) >= 0 and elements < 1 << 16 and places < 1 << 16


def _may_sum(work: int, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether to ask for spikes; else the reason is told."""
    if torch.compiler.is_compiling():
        return False
    why = "too small" if work < LEAST_WORK or x.numel() == 0 else _why_not_sum(x, weight, bias)
    if why is not None:
        _tell(why)
    return why is None


def may_sum(x: torch.Tensor) -> bool:
    """Whether kernels take such a tensor, and nothing is at work that asks for PyTorch's own operators."""
    return not torch.compiler.is_compiling() and x.numel() > 0 and _why_not_sum(x, x, None) is None


def look_like_spikes(x: torch.Tensor) -> bool:
    """Whether sums may be taken over the first sample of a batch, and its elements are 0 or 1, few of them 1."""
    if x.dim() < 2 or not may_sum(x):
        return False
    first = x.detach()[0].reshape(1, -1)
    return 0 <= int(torch.ops.norse_fast.spike_bits(first, MOST_SPIKES)[1]) <= MOST_SPIKES * first.numel()


def _why_not_sum(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> str | None:
    """Whether these are tensors that kernels take, and nothing is at work that asks for PyTorch's own operators."""
    if _dense.get():
        return "dense_products()"
    tensors = (x, weight) if bias is None else (x, weight, bias)
    for t in tensors:
        if type(t) not in _KINDS:
            return "a tensor of a kind of its own"
        if not t.is_cpu or t.layout is not torch.strided:
            return "not in the memory of the CPU, or sparse"
    dtype = weight.dtype
    if dtype not in _DTYPES or x.dtype not in (dtype, torch.bool, torch.uint8):
        return f"{x.dtype} times {dtype}"
    if bias is not None and (bias.dtype != dtype or bias.shape != weight.shape[:1]):
        return "a bias that does not fit"
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    if in_transform() or beyond_kernels(tensors) or torch.jit.is_tracing() or _is_traced_by_mode():
        return "torch.func, forward mode or tracing"
    return None if has_kernels("cpu") else "no kernels"


def _is_traced_by_mode() -> bool:
    """Whether a mode as that of ``make_fx`` or of fake tensors follows all operators, where counts are not known."""
    keys = torch._C._TorchDispatchModeKey
    return bool(torch._C._len_torch_dispatch_stack()) and any(map(torch._C._get_dispatch_mode, (keys.PROXY, keys.FAKE)))


_KINDS = (torch.Tensor, torch.nn.Parameter)
_DTYPES = (torch.float32, torch.float64)


def _as_bits(x: torch.Tensor, most: float) -> tuple[torch.Tensor, float] | None:
    """The spikes of a matrix as bits, and the share of ones; None where something else is there, or too many of them."""
    bits, count = torch.ops.norse_fast.spike_bits(x.detach(), most)
    ones, elements = int(count), x.numel()
    if 0 <= ones <= most * elements:
        _tell((ones, elements))
        return bits, ones / elements
    _tell("not all of the input is 0 or 1" if ones == _NOT_BINARY else f"more than {most:.0%} of the input are 1")
    return None


#: The count of spike_bits where an element is neither 0 nor 1.
_NOT_BINARY = -1


def _active_bits(shape: Sequence[int], weight: torch.Tensor) -> torch.Tensor | None:
    """Where the gradient of a matrix of spikes is needed; None: everywhere, or it is as fast to compute it everywhere."""
    active = needed.get()
    return None if active is None or weights_of_input(weight) < LEAST_WEIGHTS else active.bits(*shape)


def weights_of_input(weight: torch.Tensor) -> int:
    """Of one input of a linear layer or a convolution."""
    return math.prod(weight.shape[:1] + weight.shape[2:])


def as_numbers(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Spikes as bytes in a floating point dtype; all else as it is."""
    return x.to(dtype) if x.dtype in (torch.bool, torch.uint8) else x
