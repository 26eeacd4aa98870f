"""Public calls that are compared with plain PyTorch: a program is drawn from a seed, choice by choice."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import torch

from norse_fast._kernels.outputs import NUMBERS

from ..models import MODELS, NESTED, Model
from .compare import HALF_ULP, Case, check
from .draw import Draw

__all__ = ["check", "draw_case"]

LENGTHS = (1, 2, 0, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 97, 129)
LENGTH_WEIGHTS = (8, 8, 2, 4, 8, 8, 5, 8, 12, 3, 3, 3, 4, 2, 2)
WIDTHS = (1, 2, 0, 3, 5, 15, 16, 17, 31, 33, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025)
WIDTH_WEIGHTS = (6, 6, 3, 8, 8, 6, 6, 6, 4, 4, 2, 2, 2, 1, 1, 1, 1, 1, 1)
#: Values of an input at most, but for one case in fifty, where ten times as many.
MOST = 10_000
#: A surrogate of the user's.
OWN = "lambda u, alpha: alpha / (1 + (alpha * u) ** 2)"

CAST = {
    torch.float32: ".float()",
    torch.float64: ".double()",
    torch.float16: ".half()",
    torch.bfloat16: ".bfloat16()",
    torch.int64: ".long()",
    torch.int32: ".int()",
    torch.uint8: ".byte()",
    torch.bool: ".bool()",
}
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = tuple(CAST)

#: What makes the tensors of a case; a program has those that it uses.
MAKERS = {
    "R": "R = lambda *s: 4 * torch.rand(s, generator=g, dtype=torch.float64) - 0.5",
    "U": "U = lambda *s: 0.8 + 0.4 * torch.rand(s, generator=g, dtype=torch.float64)",
    # Multiples of a power of two, whose sums are exact in any order.
    "D": "D = lambda *s: torch.randint(-8, 9, s, generator=g) / 4",
    "Z": "Z = lambda *s: torch.rand(s, generator=g) < 0.3",
    "S": "S = lambda t, v: torch.where(torch.rand(t.shape, generator=g) < 0.1, t.new_tensor(v), t)",
}
#: Lines of a program at most.
LINES = 15
#: Kinds of models with weights for their input.
WEIGHTED = ("lin", "rec", "mc")
SPARSE_STEPS = ("lif_feed_forward_step", "lif_step", "lif_refrac_step")


def class_name(model: Model, make: Any) -> str:
    """The class behind a constructor of the table."""
    return (inspect.getclosurevars(make).nonlocals.get("cls", make) if inspect.isfunction(make) else make).__name__


def call_text(name: str, *arguments: str, **keywords: str) -> str:
    return f"{name}({', '.join([a for a in arguments if a] + [f'{k}={v}' for k, v in keywords.items() if v])})"


def runs_away(model: Model) -> bool:
    """Whether a potential that is not reset to a value soon is infinite."""
    return model.name.startswith(("izhikevich", "lif_adex", "lif_ex", "qif"))


class Writer:
    """Writes a case, choice by choice."""

    def __init__(self, d: Draw) -> None:
        self.d = d
        self.setup: list[str] = [f"g = torch.Generator().manual_seed({d.seed})"]

    # Tensors

    def tensor(
        self, name: str, base: str, shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1, special: bool = True
    ) -> str:
        """An expression of a tensor in some layout, which may hold special values and require grad."""
        d, floating = self.d, dtype.is_floating_point
        layouts = {"plain": 12.0, "offset": 1.0}
        if shape:
            layouts |= {"expanded": 1, "stepped": 1}
        if len(shape) > 1:
            layouts["transposed"] = 2
        if len(shape) == 2 and 0 not in shape:
            layouts["windows"] = 0.5
        if floating:
            layouts["negative"] = 0.5
        layout = d.pick(f"{name}.layout", tuple(layouts), tuple(layouts.values()))
        sizes, suffix = list(shape), ""
        if layout == "offset":
            sizes, suffix = [3, *shape], "[1]"
        elif layout == "expanded":
            sizes[d.pick(f"{name}.expanded", range(len(shape)))] = 1
            suffix = f".expand{tuple(shape)}"
        elif layout == "stepped":
            k = d.pick(f"{name}.stepped", range(len(shape)))
            sizes[k], suffix = 2 * sizes[k], f"[{':, ' * k}::2]"
        elif layout == "transposed":
            k = d.pick(f"{name}.transposed", range(len(shape) - 1))
            sizes[k], sizes[k + 1], suffix = sizes[k + 1], sizes[k], f".transpose({k}, {k + 1})"
        elif layout == "windows":
            sizes, suffix = [sum(shape) - 1], f".unfold(0, {shape[1]}, 1)"
        made = f"{base}({', '.join(map(str, sizes))})"
        text = (made if scale == 1 else f"({scale:g} * {made})") + CAST[dtype]
        if floating and special and d.chance(f"{name}.special", 0.04):
            values = ("nan", "inf", "-inf", "1e30", "-1e30", "-0.0", "1e-45", "1e-310")
            # Sums of the others depend on the order; and a width of zero has no gradient.
            values = {"R": values, "U": values[:5]}.get(base, values[:3])
            text = f"S({text}, float({d.pick(f'{name}.value', values)!r}))"
        if layout == "negative":
            text = f"torch._neg_view({text})"
        text += suffix
        if floating and d.chance(f"{name}.grad", 0.5):
            text += ".requires_grad_()"
        return text

    def some_shape(self, name: str, neurons: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts to the neurons; now and then one that does not."""
        ones = tuple(1 for _ in neurons)
        shapes = [
            (),
            neurons[-1:],
            neurons,
            (1,),
            ones,
            (*neurons[:-1], 1)[: len(neurons)],
            (*ones[:-1], *neurons[-1:]),
        ]
        shapes += [(7,), (1, *neurons)]
        return self.d.pick(f"{name}.shape", shapes, (6, 6, 4, 1, 1, 1, 1, 0.1, 0.1))

    # Parameters

    def value(self, name: str, default: Any, neurons: tuple[int, ...]) -> str:
        """A parameter near its default, of any form; empty for the default itself."""
        d, centre = self.d, float(default) or 0.1
        form = d.pick(f"{name}.form", ("", "tensor", "float", "int", "bad"), (14, 6, 1, 0.5, 0.03))
        if form == "float":
            return repr(round(1.1 * centre, 6))
        if form == "int":
            return repr(math.ceil(centre))
        if form == "bad":
            return d.pick(f"{name}.bad", ("'1'", "None", "[1.0]", "torch.tensor(1j)"))
        if not form:
            return ""
        dtype = d.pick(f"{name}.dtype", DTYPES, (12, 6, 3, 3, 1, 0.5, 0.3, 0.3))
        if not dtype.is_floating_point:
            centre = math.copysign(max(2, math.ceil(1.25 * abs(centre))), centre)  # it must not round to zero
        return self.tensor(name, "U", self.some_shape(name, neurons), dtype, centre)

    def params(self, model: Model, neurons: tuple[int, ...], name: str = "p") -> str:
        """An expression of a model's parameters; empty for the defaults."""
        d = self.d

        def fields(p: Any, prefix: str) -> dict[str, str]:
            found = {}
            for field, default in zip(p._fields, p):
                if hasattr(default, "_fields"):
                    inner = fields(default, f"{prefix}{field}.")
                    found[field] = call_text(f"nf.{type(default).__name__}", **inner) if inner else ""
                elif field == "method":
                    methods = ("super", "triangle", "tanh", "circ", "heavi_erfc", "heaviside", "adjoint", "nope", OWN)
                    method = d.pick(f"{name}.method", methods, (8, 1, 1, 1, 1, 1, 0.05, 0.05, 1))
                    found[field] = "" if method == "super" else method if method == OWN else repr(method)
                elif field == "alpha":
                    forms = ("", "2.0", "0.3", "100", "torch.tensor(5.0)", "torch.tensor(0.7).double()", "per neuron")
                    text = d.pick(f"{name}.alpha", forms, (6, 1, 1, 1, 1, 1, 0.5))
                    found[field] = (
                        self.tensor(f"{name}.alpha", "U", neurons[-1:], torch.float32) if "per" in text else text
                    )
                elif field == "reset_method":
                    found[field] = d.pick(f"{name}.reset", ("", "nf.reset_subtract"))
                else:
                    found[field] = self.value(f"{name}.{prefix}{field}", default, neurons)
            return {field: text for field, text in found.items() if text}

        p = model.defaults()
        changed = fields(p, "")
        if model.default is not None:
            return call_text("nf.tonic_spiking.p._replace", **changed) if changed else ""
        return call_text(f"nf.{type(p).__name__}", **changed) if changed else ""

    def step_length(self) -> str:
        """The time step; empty for the default."""
        forms = ("", "0.003", "0.0001", "0.0", "1.0", "1", "torch.tensor(0.002)", "torch.tensor(0.002).double()")
        bad = ("'1e-3'", "None", "float('nan')", "float('inf')", "torch.tensor([0.001])", "-0.001")
        return self.d.pick("dt", forms + bad, (40, 4, 4, 1, 1, 0.5, 1, 1, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05))

    # States

    def state(self, model: Model, neurons: tuple[int, ...], dtype: torch.dtype, sparse: bool = False) -> str:
        d = self.d
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        recurrent = model.kind in ("rec", "mc")

        def field(name: str, spikes: bool) -> str:
            key = f"state.{name}"
            if spikes:
                # In half precision, sums of others than 0 and 1 would round.
                base = "Z" if dtype in HALF_ULP else d.pick(f"{key}.base", ("Z", "D"), (6, 1))
                kind = dtype if dtype.is_floating_point else torch.float32
                kind = d.pick(f"{key}.dtype", (kind, *DTYPES), (20, *[0.1] * len(DTYPES)))
                return self.tensor(key, base, neurons, kind) + (".to_sparse()" if sparse else "")
            form = d.pick(f"{key}.form", ("tensor", "shape", "number", "bad"), (16, 3, 1, 0.05))
            if form == "number":
                return d.pick(f"{key}.number", ("0.0", "0.3", "1"))
            if form == "bad":
                return d.pick(f"{key}.bad", ("'1'", "None", "[1.0]", "torch.tensor(1j)"))
            shape = neurons if form == "tensor" else self.some_shape(key, neurons)
            return self.tensor(key, "R", shape, d.pick(f"{key}.dtype", (compute, *DTYPES), (20, *[0.3] * len(DTYPES))))

        def build(kind: Any, prefix: str) -> str:
            found = {}
            for name in kind._fields:
                inner = NESTED.get(kind) if name == "lif" else None
                found[name] = build(inner, f"{name}.") if inner else field(f"{prefix}{name}", recurrent and name == "z")
            return call_text(f"nf.{kind.__name__}", **found)

        return build(model.state, "")

    # Calls

    def sizes(self, steps: tuple[int, ...], weights: tuple[float, ...]) -> tuple[int, tuple[int, ...], int]:
        """Time steps, batch dimensions and width, not too many in all."""
        d = self.d
        count = d.pick("T", steps, weights)
        dims = d.pick("dims", (0, 1, 2, 3), (2, 6, 2, 1))
        batch = tuple(d.pick(f"batch.{k}", (1, 2, 3, 0, 5), (3, 4, 3, 0.7, 1)) for k in range(dims))
        width = d.pick("width", WIDTHS, WIDTH_WEIGHTS)
        most = MOST * (10 if d.chance("large", 0.02) else 1)
        if count * math.prod(batch) * width > most:
            width = 17
        if count * math.prod(batch) * width > most:
            batch = batch[:1]
        return count, batch, width

    def input(self, base: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
        scale = self.d.pick("x.scale", (1, 8, 64)) if base == "R" else 1
        return self.tensor("x", base, shape, dtype, scale)

    def weights(self, model: Model, width: int, inputs: int, dtype: torch.dtype) -> list[str]:
        """Expressions of the matrices that a model takes, with exact sums; now and then of another dtype than the input."""
        d = self.d
        usual = dtype if dtype.is_floating_point else torch.float32
        dtype = d.pick("w.dtype", (usual, *FLOATS), (30, *[0.3] * len(FLOATS)))
        scale = d.pick("w.scale", (4, 1, 16))
        shapes = {"input_weights": (width, inputs)} if model.kind in WEIGHTED else {}
        if model.kind in ("rec", "mc"):
            shapes["recurrent_weights"] = (width, width)
        made = [self.tensor(name, "D", shape, dtype, scale, special=False) for name, shape in shapes.items()]
        if "mc" in model.kind:
            made.append(self.tensor("g_coupling", "U", (width, width), dtype, special=False))
        return made

    def module(self, model: Model, form: str, sizes: list[str], p: str, dt: str) -> str:
        """A statement that makes a cell or layer ``m``, of parameters ``p`` and weights ``w``."""
        d, keywords = self.d, {"dt": dt}
        if model.default:
            keywords["spiking_method"] = "nf.tonic_spiking._replace(p=p)" if p else "nf.tonic_spiking"
        elif p:
            keywords["p"] = "p"
        if model.spikes:
            keywords["reset"] = d.pick(
                "reset", ("", "'subtract'", "'value'", "'none'"), (6, 1, 0.5, not runs_away(model))
            )
            keywords["detach_reset"] = d.pick("detach_reset", ("", "False", "True"), (6, 1, not runs_away(model)))
        if form == "layer":
            keywords["record_states"] = "True" if d.chance("record", 0.3) else ""
            if not sizes:
                output = d.pick("output", tuple(NUMBERS), (6, 1, 1, 1, 1, 1))
                keywords["output"] = "" if output == "all" else repr(output)
        if model.kind in ("rec", "mc"):
            # The layers' own weights have no exact sums.
            if form == "cell" and d.chance("own_weights", 0.05):
                self.setup.append(f"torch.manual_seed({d.seed})")
            else:
                keywords |= {"input_weights": "w[0]", "recurrent_weights": "w[1]"}
                keywords |= {"g_coupling": "w[2]"} if model.kind == "mc" else {}
                keywords["autapses"] = d.pick("autapses", ("", "True", "False"))
        made = f"m = {call_text(f'nf.{class_name(model, getattr(model, form))}', *sizes, **keywords)}"
        return made + ("; m.input_weights = torch.nn.Parameter(w[0].detach())" if model.kind == "lin" else "")

    def finish(self, target: str, body: list[str], lines: list[str], leaves: str, by_zero: bool, **known: Any) -> Case:
        """The whole program, whose ``lines`` make the arguments and whose ``body`` makes a list ``out``.

        ``by_zero`` says that a gradient of zero may meet an infinite weight or parameter.
        """
        d = self.d
        mode = d.pick("mode", ("", "@torch.no_grad()", "@torch.inference_mode()"), (20, 2, 0.3))
        if d.chance("threads", 0.3):
            self.setup.append("torch.set_num_threads(2)")
        if d.chance("default", 0.02):
            self.setup.append("torch.set_default_dtype(torch.float64)")
        text = "\n".join([*lines, *body])
        makers = [line for name, line in MAKERS.items() if re.search(rf"\b{name}\(", text)]
        head = ["import torch, torch.utils._pytree as tree, norse_fast as nf", *self.setup, *makers, *lines]
        body = ["def run():", *("    " + line for line in body)]
        if mode:
            # Two lines more show what it gives.
            text = "\n".join([*joined(head, LINES - 4 - len(body)), mode, *body, "    return out, []"])
            return Case(target, text, text, **known)
        head.append(f"leaves = [t for t in tree.tree_leaves([{leaves}]) if getattr(t, 'requires_grad', False)]")
        head = joined(head, LINES - 4 - len(body))
        chosen = d.pick("chosen", ("", "k == 0", "k > 0", "k % 2", "k % 3 == 1"), (4, 2, 2, 1, 1))
        kinds = (
            "torch.randn(t.shape, generator=g.manual_seed(1), dtype=t.dtype)",
            "torch.ones((), dtype=t.dtype).expand(t.shape)",
            "torch.randn(t.shape[::-1], dtype=t.dtype, generator=g.manual_seed(1)).permute(tuple(range(t.dim())[::-1]))",
        )
        seed = d.pick("seeds", kinds, (6, 2, 1))
        grad = "torch.autograd.grad([*some.values()], leaves, seeds, materialize_grads=True)"

        def program(condition: str, seed: str) -> str:
            some = f"some = {{k: t for k, t in enumerate(out) if t.requires_grad{condition}}}"
            gradients = [
                f"    {some}; seeds = [{seed} for k, t in some.items()]",
                f"    return out, {grad} if some and leaves else [torch.zeros_like(t) for t in leaves]",
            ]
            return "\n".join([*head, *body, *gradients])

        text = program(f" and {chosen}" if chosen else "", seed)
        zeros = program("", f"({seed}) * bool({chosen or True})").replace("method='heaviside'", "method='triangle'")
        return Case(target, text, zeros if by_zero else text, **known)


def joined(statements: list[str], most: int) -> list[str]:
    """The same statements on so many lines, the shortest of them together."""
    lines = list(statements)
    while len(lines) > most:
        k = min(range(1, len(lines) - 1), key=lambda k: len(lines[k]) + len(lines[k + 1]))
        lines[k : k + 2] = [f"{lines[k]}; {lines[k + 1]}"]
    return lines


def draw_case(d: Draw) -> Case:
    """The case of a seed."""
    form = d.pick("form", ("layer", "step", "cell", "stack", "huge"), (6, 2, 2, 1.5, 0.05))
    if form == "huge":
        return draw_huge(Writer(d))
    if form == "stack":
        return draw_stack(Writer(d))
    models = [m for m in MODELS if getattr(m, form) is not None]
    return draw_call(Writer(d), d.pick("model", models), form)


def draw_call(w: Writer, model: Model, form: str) -> Case:
    """A call of a step function, cell or layer; the first two in a loop."""
    d = w.d
    weighted, loop = model.kind in WEIGHTED, form != "layer"
    steps, batch, width = w.sizes(*(((1, 2, 3), (3, 2, 1)) if loop else (LENGTHS, LENGTH_WEIGHTS)))
    dtype = d.pick("x.dtype", DTYPES, (10, 8, 3, 3, 0.5, 0.3, 0.3, 0.3))
    sparse = model.name in SPARSE_STEPS and bool(batch) and d.chance("sparse", 0.05)
    neurons: tuple[int, ...] = (*batch, width)
    if weighted:
        # Sums of more products of half precision would round.
        width = min(width, 17 if dtype in HALF_ULP else 129)
        inputs = d.pick("inputs", (3, 1, 2, 0, 5, 16, 17), (6, 3, 3, 0.5, 3, 2, 2))
        neurons = (*batch, width)
        shape = (steps, *batch, inputs)
    else:
        inputs = 0
        if not batch and d.chance("scalar", 0.15):
            neurons = ()
        shape = (steps, *neurons)
    base = d.pick("x.base", ("Z", "D"), (2, 1)) if weighted or sparse else "R"
    p, dt = w.params(model, neurons), w.step_length()
    if not steps and dt in ("float('nan')", "float('inf')"):
        dt = ""  # kernels multiply the gradient of no step by it, and PyTorch does not
    weights = w.weights(model, neurons[-1] if neurons else 1, inputs, dtype)
    arguments = {"x": w.input(base, shape, dtype), "w": ", ".join(weights) + "," if weights else "", "p": p}
    if form == "step" or d.chance("state", 0.5):
        arguments["state"] = w.state(model, neurons, dtype, sparse)
    lines = [f"{name} = {text}" for name, text in arguments.items() if text]
    x = ("f" if loop else "x") + (".to_sparse()" if sparse else "")
    if form == "step":
        target = f"nf.{model.name}" + ("_sparse" if sparse else "")
        default = "nf.tonic_spiking.p" if model.default else f"nf.{model.params.__name__}()"
        call = call_text(target, x, "{state}", "*w" if weights else "", p="p" if p else default, dt=dt)
    else:
        target, call = class_name(model, getattr(model, form)), f"m({x}, {{state}})"
        lines.append(w.module(model, form, [str(inputs), str(width)] if weighted else [], p, dt))
    state = "state" if "state" in arguments else "None"
    out = "[t.to_dense() if t.is_sparse else t for t in tree.tree_leaves({})]" if sparse else "tree.tree_leaves({})"
    if loop:
        body = [f"ys, s = [], {state}", f"for f in x: y, s = {call.format(state='s')}; ys.append(y)"]
        body.append(f"out = {out.format('(ys, s)')}")
    elif d.chance("again", 0.1) and "record_states" not in lines[-1]:
        again = call.format(state="s")
        body = [f"y, s = {call.format(state=state)}", f"out = {out.format(f'(y, {again})')}"]
    else:
        body = [f"out = {out.format(call.format(state=state))}"]
    leaves = ", ".join(
        [*(name for name, text in arguments.items() if text), *(["m.input_weights"] if "; m." in lines[-1] else [])]
    )
    # Products of potentials round by their layout.
    exact = model.exact and "mc" not in model.kind
    by_zero = weighted or "S(" in p
    return w.finish(target, body, lines, leaves, by_zero, exact=exact, steps=steps, narrow=weighted)


def draw_huge(w: Writer) -> Case:
    """A layer or cell whose result no memory can hold, or whose sizes overflow."""
    d = w.d
    form = d.pick("huge.form", ("layer", "cell"))
    model = d.pick("model", [m for m in MODELS if getattr(m, form)])
    name = class_name(model, getattr(model, form))
    arguments = ["1", "3"] if model.kind in WEIGHTED else []
    arguments += ["nf.tonic_spiking"] if model.default else []
    sizes = ("2**46 + 1, 2**16", "2**62 + 2**16", "2**31, 2**31", "2**48", "2**40, 0", "0, 2**40", "2**32, 2**29, 0")
    shape = d.pick("huge", sizes)
    if arguments:
        shape = f"{sizes[0] if shape == sizes[-1] else shape}, 1"  # more than PyTorch's product takes
    if form == "layer":
        shape = f"{d.pick('huge.T', (1, 2))}, {shape}"
    dtype = torch.float32 if arguments else d.pick("x.dtype", FLOATS)
    lines = [f"x = torch.zeros(()).to({dtype}).expand({shape})", f"m = {call_text(f'nf.{name}', *arguments)}"]
    return w.finish(name, ["out = tree.tree_leaves(m(x))"], lines, "x", False, exact=model.exact, steps=2, narrow=True)


def draw_stack(w: Writer) -> Case:
    """A network of a few modules, of cells in Lift or in a loop, or of layers."""
    d = w.d
    kind = d.pick("stack", ("lift", "layers", "loop"), (4, 2, 1))
    steps, batch, width = w.sizes(*(((1, 2, 3), (3, 2, 1)) if kind == "loop" else (LENGTHS, LENGTH_WEIGHTS)))
    width = min(width, 65)
    dtype = d.pick("x.dtype", FLOATS, (3, 6, 1, 1))
    exact, modules, given = True, [], width
    cells = [m for m in MODELS if m.kind in ("ff", "rec", "mc", "lin") and m.cell and (kind != "layers" or m.layer)]
    for k in range(d.pick("modules", (1, 2, 3), (2, 2, 2))):
        stateless = d.pick(
            f"{k}.stateless", ("", "Linear", "ReLU", "Identity", "BatchNorm1d", "LayerNorm"), (4, 4, 1, 1, 1, 1)
        )
        if stateless == "Linear":
            wider = d.pick(f"{k}.width", (3, 1, 16, 17, 33))
            modules.append(f"torch.nn.Linear({width}, {wider})")
            width = wider
        elif stateless in ("BatchNorm1d", "LayerNorm"):
            modules.append(f"torch.nn.{stateless}({width})")
        elif stateless:
            modules.append(f"torch.nn.{stateless}()")
        model = d.pick(f"{k}.model", cells)
        name = class_name(model, model.layer if kind == "layers" else model.cell)
        arguments = []
        if model.kind != "ff":
            # Its product over all time steps may round otherwise than those of single steps.
            exact = False
            wider = d.pick(f"{k}.hidden", (3, 1, 16, 17))
            arguments, width = [str(width), str(wider)], wider
        exact &= model.exact
        p = w.params(model, (*batch, width), f"{k}.p") if d.chance(f"{k}.changed", 0.3) else ""
        if model.default:
            p = "nf.tonic_spiking" + (f"._replace(p={p})" if p else "")
        modules.append(call_text(f"nf.{name}", *arguments, **{"spiking_method" if model.default else "p": p}))
    if not exact:
        dtype = d.pick("wide", (torch.float64, torch.float32), (8, 1))
    w.setup.append(f"torch.manual_seed({d.seed})")
    text = f"nf.SequentialState({', '.join(modules)})"
    if kind == "lift":
        text = f"nf.Lift({text})"
    lines = [f"x = {w.input('R', (steps, *batch, given), dtype)}", f"m = {text}{CAST[dtype]}"]
    # The variance of a batch of spikes may be zero, and its inverse amplifies rounding.
    if any("BatchNorm" in module for module in modules) or d.chance("eval", 0.3):
        lines[-1] += ".eval()"
    # Modules without a state have None in its place.
    leaves = "out = [t for t in tree.tree_leaves({}) if t is not None]"
    if kind == "loop":
        body = ["ys, s = [], None", "for f in x: y, s = m(f, s); ys.append(y)", leaves.format("(ys, s)")]
    else:
        body = [leaves.format("m(x)")]
        if d.chance("again", 0.1):
            body = ["y, s = m(x)", leaves.format("(y, m(x, s))")]
    leaves = "x, list(m.parameters())"
    return w.finish(f"{kind} of modules", body, lines, leaves, True, exact=exact, steps=steps, narrow=True)
