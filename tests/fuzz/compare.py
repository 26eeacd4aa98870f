"""Runs a program with kernels and without, and compares what it gives."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import norse_fast as nf

from .draw import Finding

#: What gradients may differ by, relative to the largest of their tensor. PyTorch adds up those of half precision parameters
#: in their own dtype, step by step, so that they may differ by an ulp for each.
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
HALF_ULP = {torch.float16: 2**-10, torch.bfloat16: 2**-7}
#: What gradients, and results that are not exact, may differ by where something amplifies rounding, if the same case in
#: double precision agrees.
ROUNDED_TOLERANCE = {torch.float32: 0.1, torch.float64: 0.0, torch.float16: 0.5, torch.bfloat16: 0.5}
#: What gradients may differ by where PyTorch loses terms beside large ones.
SWALLOWED_TOLERANCE = {torch.float64: 1e-4}
#: What forward results may differ by where they are not exact: an exponential is not PyTorch's own.
FORWARD_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10, **HALF_ULP}
#: Gradients smaller than this are compared as if they were as large.
SMALL = 1e-3
#: What explodes may differ by this many times what a rounding of the arguments does to it.
ROUNDINGS = 16


@dataclass
class Case:
    """A program that defines ``run``, which returns results and gradients; and what is known of its rounding."""

    target: str
    program: str
    #: The same with zero where there is no gradient, if that may meet an infinite weight or parameter: of results that it
    #: gives none, and of spikes without a surrogate. Else the same.
    with_zeros: str
    exact: bool  # results are the same to the bit
    steps: int
    narrow: bool  # gradients pass through tensors of the input's dtype, which may be of half precision

    last = False

    @property
    def printed(self) -> str:
        show = 'print(*run(), sep="\\n")'
        return f"{self.program}\n{show}\nwith nf.kernels_disabled(): {show}"


@dataclass
class Outcome:
    """What a program gave: its variables, results and gradients, or an error."""

    variables: dict[str, Any]
    results: list[Any]
    gradients: list[Any]
    error: Exception | None = None


def execute(program: str, kernels: bool) -> Outcome:
    if not kernels:
        with nf.kernels_disabled():
            return execute(program, True)
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    variables: dict[str, Any] = {}
    try:
        exec(compile(program, "<case>", "exec"), variables)
        results, gradients = variables["run"]()
        dense = [g.to_dense() if g.is_sparse else g for g in gradients]
        return Outcome(variables, list(results), dense)
    except Exception as error:
        return Outcome(variables, [], [], error)
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def check(case: Case) -> tuple[str, Finding | None]:
    """How a case ended, and what is wrong with it."""
    kernel, plain = execute(case.program, True), execute(case.program, False)
    if kernel.error or plain.error:
        return "raised", compare_errors(kernel.error, plain.error)
    found = compare_arguments(kernel, plain) or compare_results(case, kernel, plain)
    found = found or compare_gradients(case, kernel, plain)
    if found and not case.exact and is_on_threshold(case):
        return "undecided", None
    return "compared", found


# Errors

OURS = re.compile(r"[\w.\[\]]+: got ")
MEMORY = re.compile(r"memory|alloc|bytes|overflow|too (large|big|many)|numel|INT_MAX", re.IGNORECASE)
UNREADABLE = (AttributeError, AssertionError, KeyError, ZeroDivisionError, NameError, SystemError, RecursionError)


def describe(error: Exception | None) -> str:
    """Type and first line of an error, without the numbers in it."""
    text = str(error).splitlines()[0] if str(error) else ""
    return re.sub(r"\d+", "N", f"{type(error).__name__}: {text}")


def compare_errors(kernel: Exception | None, plain: Exception | None) -> Finding | None:
    """Errors agree if both are ours, or the same of PyTorch's, or both tell of memory."""
    if kernel is None:
        return Finding(f"only plain PyTorch raised {describe(plain)}")
    if plain is None:
        return Finding(f"only the kernels raised {describe(kernel)}")
    both = f"{describe(kernel)} / in plain PyTorch {describe(plain)}"
    if any(isinstance(error, UNREADABLE) for error in (kernel, plain)):
        return Finding(f"unreadable error {both}")
    if all(isinstance(e, MemoryError) or MEMORY.search(str(e)) for e in (kernel, plain)):
        return None
    if type(kernel) is type(plain) and (str(kernel) == str(plain) or all(OURS.match(str(e)) for e in (kernel, plain))):
        return None
    return Finding(f"different errors {both}")


# Values


def compare_arguments(kernel: Outcome, plain: Outcome) -> Finding | None:
    """Arguments are the same before, so they are after, unless a call changed them."""
    for name in ("x", "w", "p", "state"):
        for a, b in zip(*(pytree.tree_leaves(outcome.variables.get(name)) for outcome in (kernel, plain))):
            if isinstance(a, torch.Tensor) and largest_difference(a, b) > 0:
                return Finding(f"argument {name} was changed")
    return None


def compare_results(case: Case, kernel: Outcome, plain: Outcome) -> Finding | None:
    """The first result that differs."""
    ones = [1.0] * len(plain.results)
    found = compare_all("result", kernel.results, plain.results, {} if case.exact else FORWARD_TOLERANCE, ones)
    if found and not case.exact and agrees_in_double(case):
        found = compare_all("result", kernel.results, plain.results, ROUNDED_TOLERANCE, ones)
    if found and not case.exact:
        sizes = with_rounding(ones, FORWARD_TOLERANCE, nudge(case).results, plain.results)
        found = compare_all("result", kernel.results, plain.results, FORWARD_TOLERANCE, sizes)
    return found


def compare_all(
    what: str, kernel: list[Any], plain: list[Any], tolerance: dict[torch.dtype, float], sizes: list[float]
) -> Finding | None:
    """The first tensor that differs by more than its dtype allows, relative to its own largest value or a larger size."""
    if len(kernel) != len(plain):
        return Finding(f"number of {what}s differs", f"{len(kernel)}, in plain PyTorch {len(plain)}")
    for k, (a, b, size) in enumerate(zip(kernel, plain, sizes)):
        for feature in ("dtype", "shape"):
            mine, theirs = getattr(a, feature), getattr(b, feature)
            if mine != theirs:
                return Finding(f"{feature} of a {what} differs", f"{what} {k} has {mine}, in plain PyTorch {theirs}")
        difference, allowed = largest_difference(a, b), tolerance.get(a.dtype, 0.0) * max(size, largest(b))
        if not difference <= allowed:
            return Finding(f"{what} differs", f"{what} {k}, {a.dtype}, by {difference:.2g}; {allowed:.2g} is allowed")
    return None


def largest(t: torch.Tensor) -> float:
    """The largest finite magnitude in a tensor."""
    t = as_dense(t).double().abs()
    t = t[t.isfinite()]
    return t.max().item() if t.numel() else 0.0


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference; infinite where only one is finite, and zero where both are NaN."""
    a, b = as_dense(a), as_dense(b)
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    a, b = a.double(), b.double()
    differ = ~((a == b) | (a.isnan() & b.isnan()))
    if not differ.any():
        return 0.0
    if not (a.isfinite() & b.isfinite())[differ].all():
        return math.inf
    return (a - b)[differ].abs().max().item()


def loosest(tolerance: dict[torch.dtype, float], case: Case, outcome: Outcome) -> dict[torch.dtype, float]:
    """Tolerances of gradients by dtype: gradients are no more exact than what they passed through."""
    # PyTorch multiplies values of their own dtype by a single value of a wider one in the narrower of the two.
    arguments = pytree.tree_leaves([outcome.variables.get(name) for name in ("p", "state")])
    narrow = {t.dtype for t in arguments if isinstance(t, torch.Tensor) and t.dim()}
    passed = {r.dtype for r in outcome.results if case.narrow or r.dtype not in HALF_ULP} | (narrow - HALF_ULP.keys())
    least = max((tolerance[dtype] for dtype in passed if dtype in tolerance), default=0.0)
    return {dtype: max(allowed, least) for dtype, allowed in tolerance.items()}


def gradient_tolerance(case: Case, outcome: Outcome) -> dict[torch.dtype, float]:
    halves = {dtype: ulp * (2 + case.steps) for dtype, ulp in HALF_ULP.items()}
    return loosest(GRADIENT_TOLERANCE | halves, case, outcome)


def compare_gradients(case: Case, kernel: Outcome, plain: Outcome) -> Finding | None:
    """The first gradient that differs, and not because of what :func:`excuse`, cancellation or rounding may do to it."""
    tolerance = gradient_tolerance(case, plain)
    found = compare_all("gradient", kernel.gradients, plain.gradients, tolerance, [SMALL] * len(plain.gradients))
    if not found:
        return None
    if case.narrow and any(g.dtype is torch.float16 and not g.isfinite().all() for g in plain.gradients):
        return None  # it is too large for PyTorch in float16, and not for the kernels, which pass it on in float32
    zeros, double = execute(case.with_zeros, False).gradients, execute(in_double(case), False).gradients
    tensors = zip(kernel.gradients, plain.gradients, zeros, double or plain.gradients)
    expected = [excuse(*of_one) for of_one in tensors]
    sizes = sizes_of_terms(case.program)
    found = compare_all("gradient", kernel.gradients, expected, tolerance, sizes)
    if found and swallows(plain):
        found = compare_all("gradient", kernel.gradients, expected, tolerance | SWALLOWED_TOLERANCE, sizes)
    if found and agrees_in_double(case):
        rounded = loosest(ROUNDED_TOLERANCE, case, plain)
        found = compare_all("gradient", kernel.gradients, expected, rounded, sizes)
    if found:
        sizes = with_rounding(sizes, tolerance, nudge(case).gradients, plain.gradients)
        found = compare_all("gradient", kernel.gradients, expected, tolerance, sizes)
    if found and TOGETHER in case.program:
        apart = execute(case.program.replace(TOGETHER, APART), False).gradients
        found = compare_all("gradient", kernel.gradients, apart, tolerance, sizes) if apart else found
    return found


# Where the gradient of one result is many orders larger than that of another, PyTorch adds them up before the larger one
# cancels, and nothing is left of the smaller one.
TOGETHER = "torch.autograd.grad([*some.values()], leaves, seeds, materialize_grads=True)"
APART = (
    "[sum(parts) for parts in zip(*(torch.autograd.grad(t, leaves, s, retain_graph=True, materialize_grads=True) "
    "for t, s in zip(some.values(), seeds)))]"
)


def swallows(plain: Outcome) -> bool:
    """Whether a result in double precision is so large that adding 1 does not change it, so that PyTorch loses terms."""
    return any(r.dtype is torch.float64 and largest(r) * torch.finfo(r.dtype).eps > 1 for r in plain.results)


class _Rounded(TorchDispatchMode):
    """Functions that saturate come out a rounding smaller: surrogates subtract them from 1, and little is left."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        saturating = function in (torch.ops.aten.tanh.default, torch.ops.aten.sigmoid.default)
        return result * (1 - torch.finfo(result.dtype).eps) if saturating else result


def nudge(case: Case) -> Outcome:
    """What PyTorch gives if all that requires a gradient is moved by a rounding: something else, where it explodes."""
    move = "for t in leaves: t.data = t.detach() * (1 + 2 * torch.finfo(t.dtype).eps)\ndef run"
    with _Rounded():
        return execute(case.program.replace("def run", move), False)


def with_rounding(
    sizes: list[float], tolerance: dict[torch.dtype, float], moved: list[torch.Tensor], plain: list[torch.Tensor]
) -> list[float]:
    """Sizes relative to which tensors may also differ by what a rounding does to them, which may be to overflow."""
    if len(moved) != len(plain):  # it raised
        return sizes
    spread = map(largest_difference, moved, plain)
    return [max(a, ROUNDINGS * b / tolerance.get(t.dtype, 1.0)) for a, b, t in zip(sizes, spread, plain)]


def as_dense(t: torch.Tensor) -> torch.Tensor:
    t = t.detach()
    return t.to_dense() if t.is_sparse else t


def excuse(kernel: torch.Tensor, plain: torch.Tensor, zeros: torch.Tensor, double: torch.Tensor) -> torch.Tensor:
    """PyTorch's gradient, but the kernel's where that may differ: of infinite, NaN or huge values, and where 16 bits are few.

    Args:
        kernel: the kernels' gradient.
        plain: PyTorch's gradient.
        zeros: PyTorch's with zero where there is no gradient, as weights and parameters take it; it is NaN where zero meets
            infinity.
        double: PyTorch's in double precision. Where that is too large for the dtype, it is chance what becomes of it.
    """
    # Kernels avoid some NaN: sums over spikes leave out those that are zero, and formulas are simpler.
    excused = ~plain.isfinite() | ~(kernel.isfinite() | zeros.isfinite())
    large = torch.finfo(plain.dtype).max ** 0.8
    excused |= ~kernel.isfinite() & ((plain.abs() > large) | ~(double.abs() <= large))
    if plain.dtype in HALF_ULP:
        # PyTorch adds up over the steps in 16 bits, and large terms may swallow what is left of others; kernels do not.
        excused |= (kernel.double() - double).abs() < (plain.double() - double).abs()
    return torch.where(excused, kernel, plain)


def sizes_of_terms(program: str) -> list[float]:
    """How large the gradients are if the terms that they add up do not cancel: with random signs they do so otherwise."""
    signs = "    seeds = [t * (2 * torch.randint(0, 2, t.shape) - 1) for t in seeds]\n"
    return [
        max(SMALL, largest(g)) for g in execute(program.replace("    return", signs + "    return"), False).gradients
    ]


def in_double(case: Case) -> str:
    """The program of a case with everything in double precision."""
    return re.sub(r"\.(float|half|bfloat16)\(\)", ".double()", case.program)


def agrees_in_double(case: Case) -> bool:
    """Whether results and gradients agree where everything is in double precision."""
    program = in_double(case)
    if program == case.program:
        return False
    kernel, plain = execute(program, True), execute(program, False)
    if kernel.error or plain.error:
        return False
    ones, sizes = [1.0] * len(plain.results), sizes_of_terms(program)
    tolerance = gradient_tolerance(case, plain)
    return not (
        compare_all("result", kernel.results, plain.results, FORWARD_TOLERANCE, ones)
        or compare_all("gradient", kernel.gradients, plain.gradients, tolerance, sizes)
    )


class _Margins(TorchDispatchMode):
    """How near a potential came to its threshold, relative to all at that step."""

    nearest = math.inf

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.gt.Scalar and args[0].numel():
            x = args[0].detach().double().abs()
            x = x[x.isfinite() & (x > 0)]
            if x.numel():
                self.nearest = min(self.nearest, (x.min() / x.median().clamp(min=1)).item())
        return function(*args, **(kwargs or {}))


def is_on_threshold(case: Case) -> bool:
    """Whether a potential is so near to the threshold that rounding decides about the spike."""
    with _Margins() as margins:
        execute(case.program, False)
    return margins.nearest < 1e-4
