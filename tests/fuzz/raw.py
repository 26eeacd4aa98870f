"""Raw operators with arguments that do not fit: each call raises, or gives results of which every element was written.

What the operators take is read from their schemas. Arguments that fit come first, by their names, which are the same for all
models; then some are replaced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

import norse_fast as nf
from norse_fast._kernels.ops import RECURRENT_SEGMENT, SEGMENT

from .draw import Draw, Finding

PREFIX = "norse_fast::"
DTYPES = ("float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool", "complex64", "complex128")
HUGE = ("2**46 + 1, 2**16", "2**62 + 2**16", "1, 2**62 + 2**16", "2**31, 2**31", "2**33, 2**30, 1", "2**63 - 1")
INTEGERS = ("-1", "0", "1", "2", "3", "4", "5", "6", "255", "2**31", "2**63 - 1", "-2**63")
NUMBERS = ("float('nan')", "float('inf')", "-float('inf')", "-1.0", "0.0", "1e308", "5e-324", "1")
#: Whatever was set, the process lives on; a call may raise.
AFTERWARDS = "norse_fast.LIF()(torch.rand(100, 8, 600, requires_grad=True))[0].sum().backward()"
WRONG_TYPES = ("None", "1.0", "'a'", "[]", "[R(2, 3)]", "[None]", "torch.nn.Identity()")


@cache
def operators() -> dict[str, Any]:
    """The schemas of all operators by name."""
    assert nf.backends()["cpu"] != "none", "there are no operators without the compiled library"
    # To make later calls fail is the purpose of fail_allocation.
    schemas = [
        s
        for s in torch._C._jit_get_all_schemas()
        if s.name.startswith(PREFIX) and not s.name.endswith("fail_allocation")
    ]
    return {schema.name.removeprefix(PREFIX): schema for schema in sorted(schemas, key=lambda s: s.name)}


def count_states(operator: str) -> int:
    """The state variables of a model: its forward operator returns the output first, then a tensor for each."""
    forward = operators().get(re.sub("_backward$", "_forward", operator))
    return sum(str(r.type) == "Tensor" for r in forward.returns) - 1 if forward else 0


@dataclass
class Case:
    """A call of an operator; ``arguments`` in the order of its schema."""

    target: str
    seed: int
    arguments: dict[str, str]
    aliases: dict[str, str]

    @property
    def program(self) -> str:
        lines = [
            "import torch, norse_fast",
            f"g = torch.Generator().manual_seed({self.seed}); R = lambda *s: torch.rand(s, generator=g)",
        ]
        words = [f"{name}={text}," for name, text in self.arguments.items()]
        line = "a = dict("
        for word in words:
            if len(line) + len(word) > 124:
                lines.append(line)
                line = "    "
            line += word + " "
        lines.append(line.rstrip(", ") + ")")
        lines += [f'a["{name}"] = a["{other}"]' for name, other in self.aliases.items()]
        return "\n".join(lines)

    @property
    def last(self) -> bool:
        """Operators without tensors set what holds for the whole process."""
        return not any("Tensor" in str(a.type) for a in operators()[self.target].arguments)

    @property
    def call(self) -> str:
        return f"torch.ops.norse_fast.{self.target}(**a)"

    @property
    def printed(self) -> str:
        return f"{self.program}\nprint({self.call})" + (f"\n{AFTERWARDS}" if self.last else "")


class Shapes:
    """Sizes of a call, and the shape of an argument by its name."""

    def __init__(self, d: Draw, operator: str) -> None:
        self.d, self.operator = d, operator
        names = [a.name for a in operators()[operator].arguments]
        self.recurrent = "weights" in names
        self.states = count_states(operator)
        first = names.index("z" if "z" in names else "input") + 1 if "input" in names else 0
        self.state_names = names[first : first + self.states]
        self.known, self.square = "input" in names, not d.chance("oblong", 0.4)
        self.steps = d.pick("T", (2, 1, 0, 16, 17, 33, 70))
        neurons = d.pick("N", (3, 1, 0, 17, 64), (6, 3, 1, 4, 2))
        if not self.recurrent and d.chance("wide", 0.02):
            neurons = 9000
        batch = d.pick("batch", ((2,), (1,), (0,), (3,), (), (2, 2)), (6, 2, 1, 2, 1, 1))
        self.step: tuple[int, ...] = (*batch, neurons)
        if not self.recurrent and d.chance("scalar", 0.05):
            self.step = ()
        self.inputs, self.channels = d.pick("inputs", (4, 1, 0, 40), (6, 2, 1, 2)), d.pick("channels", (1, 2), (4, 1))
        self.sequence = self.recurrent or d.chance("sequence", 0.7)
        self.weighted = d.chance("weighted", 0.7)
        self.output = d.pick("output", (0, 1, 2, 3, 4), (6, 1, 1, 1, 1))
        halves = ("float32", "float64", "float16", "bfloat16")
        self.dtype = d.pick(
            "dtype", halves[:2] if self.recurrent else halves, (4, 2) if self.recurrent else (4, 2, 1, 1)
        )
        self.compute = "float64" if self.dtype == "float64" else "float32"
        if d.chance("odd", 0.05 if self.known else 0.5):
            self.dtype = self.compute = d.pick("odd.dtype", DTYPES)

    def checkpoints(self) -> int:
        segment = RECURRENT_SEGMENT if self.recurrent else SEGMENT
        return (self.steps + segment - 1) // segment - (self.steps > 0)

    def of(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of a tensor argument."""
        d, neurons = self.d, self.step
        all_steps = (self.steps, *neurons)
        if not self.known:
            if self.square:
                return (3, 3), self.compute
            return tuple(d.pick(f"{name}.{k}", (2, 3, 0, 5), (4, 4, 1, 2)) for k in range(2)), self.compute
        if name == "input" or (name == "grad_output" and not self.recurrent and not self.is_reduced()):
            if not self.recurrent:
                return (all_steps if self.sequence else neurons), self.dtype
            width = self.inputs if self.weighted else self.channels * neurons[-1]
            return (self.steps, *neurons[:-1], width), self.dtype
        if name == "input_weights":
            return (self.channels * neurons[-1], self.inputs), self.compute
        if name == "weights":
            return (self.channels * neurons[-1], neurons[-1]), self.compute
        if name in ("grad_trace", "derivatives") or (self.recurrent and name in ("output", "grad_output")):
            return all_steps, self.compute
        if name == "checkpoints":
            return (self.checkpoints(), *neurons), self.compute
        if name in ("z", "grad_z", "grad_output", *self.state_names) or name.removeprefix("grad_") in self.state_names:
            return neurons, self.compute
        # A parameter.
        shape = d.pick(f"{name}.shape", ((), neurons[-1:], neurons), (6, 2, 1))
        return shape, d.pick(f"{name}.dtype", ("float32", "float64", "int64", "float16"), (6, 2, 1, 1))

    def is_reduced(self) -> bool:
        return self.output >= 3


def tensor_text(shape: tuple[int, ...], dtype: str) -> str:
    text = f"R({', '.join(map(str, shape))})"
    return text if dtype == "float32" else f"(4 * {text}).to(torch.{dtype})"


def draw_case(d: Draw) -> Case:
    operator = d.pick("operator", tuple(operators()))
    shapes, schema = Shapes(d, operator), operators()[operator]
    arguments = {a.name: argument_text(shapes, a.name, str(a.type)) for a in schema.arguments}
    aliases: dict[str, str] = {}
    tensors = [a.name for a in schema.arguments if "Tensor" in str(a.type)]
    for k in range(d.pick("bad", (0, 1, 2, 3), (3, 5, 2, 1)) if arguments else 0):
        name = d.pick(f"{k}.argument", tuple(arguments))
        kind = str(next(a.type for a in schema.arguments if a.name == name))
        if tensors and "Tensor" in kind and "List" not in kind and d.chance(f"{k}.alias", 0.1):
            aliases[name] = d.pick(f"{k}.other", tensors)
        else:
            arguments[name] = replaced(shapes, f"{k}.", name, kind, arguments[name])
    return Case(operator, d.seed, arguments, aliases)


def argument_text(shapes: Shapes, name: str, kind: str) -> str:
    """An argument that fits."""
    d = shapes.d
    if kind == "bool":
        return str(shapes.sequence if name == "sequence" else d.chance(name, 0.5))
    if kind == "int":
        if name == "spikes":
            return str(d.pick(name, (0, 1, 2), (6, 1, 2)))
        return str(shapes.output if name == "output" else d.pick(name, range(6)))
    if kind == "float":
        return "0.001"
    if kind.startswith("List"):
        # Gradients of recorded states may be missing; checkpoints may not, but are not always asked for.
        count = shapes.states if name == "checkpoints" or d.chance(name, 0.5) else 0
        if name == "derivatives":
            count = d.pick(name, (0, 1, 2), (6, 2, 1))
        return f"[{', '.join([tensor_text(*shapes.of(name))] * count)}]"
    if kind.startswith("Optional"):
        given = shapes.weighted if name == "input_weights" else d.chance(name, 0.6)
        return tensor_text(*shapes.of(name)) if given else "None"
    return tensor_text(*shapes.of(name))


def replaced(shapes: Shapes, key: str, name: str, kind: str, text: str) -> str:
    """An argument that may not fit."""
    d = shapes.d
    if d.chance(f"{key}type", 0.04):
        return d.pick(f"{key}wrong", WRONG_TYPES)
    if kind == "bool":
        return "False" if text == "True" else "True"
    if kind == "int":
        return d.pick(f"{key}int", INTEGERS)
    if kind == "float":
        return d.pick(f"{key}float", NUMBERS)
    shape, dtype = shapes.of(name)
    if kind.startswith("List"):
        one = tensor_text(shape, dtype)
        lists = ("[]", f"[{one}]", f"[{one}] * {shapes.states + 1}", f"[{one}] * 20", "element")
        chosen = d.pick(f"{key}list", lists)
        if chosen != "element":
            return chosen
        good = [one] * max(0, shapes.states - 1)
        return f"[{', '.join([*good, bad_tensor(d, key, shape, dtype)])}]"
    return bad_tensor(d, key, shape, dtype)


def bad_tensor(d: Draw, key: str, shape: tuple[int, ...], dtype: str) -> str:
    """A tensor of another shape, dtype, device, layout or size."""
    good = tensor_text(shape, dtype)
    ways = ("dtype", "shape", "grad", "strides", "huge", "meta", "sparse", "quantised", "empty", "expanded", "view")
    way = d.pick(f"{key}way", ways, (4, 6, 1, 2, 2, 1, 0.5, 0.7, 1, 1, 0.5))
    if way == "dtype":
        return tensor_text(shape, d.pick(f"{key}dtype", DTYPES))
    if way == "shape":
        longer = tuple(size + 1 for size in shape)
        shorter = tuple(max(0, size - 1) for size in shape)
        doubled = (*shape[:-1], 2 * shape[-1]) if shape else (2,)
        shapes = (shape[1:], shape[:-1], (1, *shape), (*shape, 1), longer, shorter, shape[::-1], doubled)
        shapes += ((), (7,), (1,), (2, 3, 4, 5))
        return tensor_text(d.pick(f"{key}shape", shapes), dtype)
    if way == "grad":
        return f"{good}.requires_grad_()"
    if way == "strides":
        if len(shape) < 2:
            return f"{tensor_text((*shape, 2), dtype)}[..., 0]"
        return tensor_text(shape[::-1], dtype) + f".permute({', '.join(map(str, reversed(range(len(shape)))))})"
    if way == "huge":
        return f"torch.zeros(1, dtype=torch.{dtype}).expand({d.pick(f'{key}huge', HUGE)})"
    if way == "meta":
        return f'{good}.to("meta")'
    if way == "sparse":
        return f"{good}.to_sparse()"
    if way == "quantised":
        return f"torch.quantize_per_tensor(R({', '.join(map(str, shape))}), 0.1, 0, torch.qint8)"
    if way == "empty":
        return f"torch.empty(0, dtype=torch.{dtype})"
    if way == "expanded":
        return f"{tensor_text((), dtype)}.expand({tuple(shape)})"
    return good if dtype == "bool" else f"torch._neg_view({good})"


# Checks


def check(case: Case) -> tuple[str, Finding | None]:
    """How a call ended, and what is wrong with it."""
    write = any(a.alias_info is not None and a.alias_info.is_write for a in operators()[case.target].arguments)
    found: list[Any] = []
    for byte in (0x5A, 0xA5, 0xFF):
        variables: dict[str, Any] = {}
        try:
            exec(compile(case.program, "<case>", "exec"), variables)
        except Exception as error:
            # Some arguments cannot be made, such as sparse ones of a huge size.
            known = isinstance(error, (RuntimeError, TypeError, MemoryError))
            return "not made", None if known else Finding("the case cannot be made", repr(error))
        before = [t.clone() if is_readable(t) else t for t in pytree.tree_leaves(variables["a"])]
        if found:
            make_dirty(found[-1], byte)
        try:
            results = eval(case.call, variables)
            if case.last:
                exec(AFTERWARDS, variables)
        except SystemError as error:
            return "raised", Finding("SystemError", str(error))
        except Exception as error:
            often = not found or case.last
            return "raised", None if often else Finding("raises at times only", repr(error))
        if not write and not same(before, pytree.tree_leaves(variables["a"])):
            return "returned", Finding("an argument was changed")
        tensors = [t for t in pytree.tree_leaves(results) if isinstance(t, torch.Tensor)]
        if any(t.is_cpu and not is_readable(t) for t in tensors):
            return "returned", Finding("a result is huge", str([tuple(t.shape) for t in tensors]))
        found.append([t.clone() if is_readable(t) else t for t in tensors])
        for t in tensors:
            if is_readable(t):
                t.untyped_storage().fill_(byte)
        del results, tensors, variables
    if not same(found[1], found[2]):
        return "returned", Finding("results differ from call to call", "an element was not written")
    return "returned", None


def make_dirty(results: list[Any], byte: int) -> None:
    """Fill memory of the sizes that the next results will have, and give it back."""
    for t in filter(is_readable, results):
        # More than allocators keep of one size.
        many = [torch.empty(t.nbytes, dtype=torch.uint8) for _ in range(24 if t.nbytes < 2**16 else 2)]
        for memory in many:
            memory.fill_(byte)


def is_readable(t: Any) -> bool:
    return isinstance(t, torch.Tensor) and t.is_cpu and t.layout is torch.strided and t.numel() < 2**28


def same(a: list[Any], b: list[Any]) -> bool:
    """Whether tensors are equal bit for bit, but for NaN."""
    if len(a) != len(b):
        return False
    for x, y in zip(a, b):
        if not is_readable(x):
            continue
        if x.dtype != y.dtype or x.shape != y.shape:
            return False
        if x.is_quantized:
            x, y = x.int_repr(), y.int_repr()
        x, y = x.detach().resolve_neg(), y.detach().resolve_neg()
        if not ((x == y) | ((x != x) & (y != y))).all():
            return False
        if x.is_floating_point() and not torch.equal(x.signbit() & (x == x), y.signbit() & (y == y)):
            return False
    return True
