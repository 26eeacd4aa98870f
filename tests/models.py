"""The table of all models: one row per step function. Every generic test runs over it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import norse_fast as nf
from norse_fast._kernels.neuron import SEQUENCES, Neuron

GOLDEN = Path(__file__).parent / "golden"
#: What the golden files hold of a model without spikes, and of one with them, each in both precisions.
LINEAR_CASES = ("default-super100", "per_neuron-super10", "scalar-heaviside1", "scalar-super100")
SPIKING_CASES = (
    *LINEAR_CASES,
    "scalar-circ0.5",
    "scalar-heavi_erfc1.5",
    "scalar-super10",
    "scalar-tanh2",
    "scalar-triangle0.3",
)

#: The type of the field that is a tuple itself, by state or parameter type.
NESTED = {
    nf.LIFRefracParameters: nf.LIFParameters,
    nf.LIFRefracState: nf.LIFState,
    nf.LIFRefracFeedForwardState: nf.LIFFeedForwardState,
    nf.LIFAdExRefracParameters: nf.LIFAdExParameters,
    nf.LIFAdExRefracState: nf.LIFAdExState,
    nf.LIFAdExRefracFeedForwardState: nf.LIFAdExFeedForwardState,
}


@dataclass(frozen=True)
class Model:
    """A step function of the public API, with what the tests must know of it."""

    step: Callable[..., Any]
    state: type
    params: type
    kind: str  # ff: input; lin: and input weights; rec: and recurrent weights; mcff, mc: as ff, rec, with coupling
    layer: Callable[..., torch.nn.Module] | None = None
    cell: Callable[..., torch.nn.Module] | None = None
    exact: bool = True  # forward results equal eager PyTorch bit for bit
    tolerance: float = 1e-5  # relative, of float32 values where they are not exact
    default: Callable[[], Any] | None = None  # makes parameters, where their type has no defaults
    # A function that takes its reset as a parameter has a golden file for each, <function>.<reset>.npz.
    golden: tuple[str, ...] = ("",)

    @property
    def name(self) -> str:
        return self.step.__name__

    @property
    def neuron(self) -> Neuron:
        return SEQUENCES[self.step]

    @property
    def spikes(self) -> bool:
        return any(name.split(".")[-1] == "method" for name in fields(self.defaults()))

    def golden_files(self) -> list[Path]:
        return [GOLDEN / f"{self.name}{suffix}.npz" for suffix in self.golden]

    def golden_names(self) -> list[str]:
        """The cases in each of the files."""
        cases = SPIKING_CASES if self.spikes else LINEAR_CASES
        return [f"{case}-{dtype}" for case in cases for dtype in ("float32", "float64")]

    def defaults(self) -> Any:
        """Default parameters."""
        return (self.default or self.params)()

    def pack(self, kind: type, values: dict[str, Any]) -> Any:
        """A (nested) named tuple from values under dotted names."""
        flat = {name: value for name, value in values.items() if "." not in name}
        for prefix in {name.split(".")[0] for name in values if "." in name}:
            inner = {name.split(".", 1)[1]: v for name, v in values.items() if name.startswith(f"{prefix}.")}
            flat[prefix] = NESTED[kind](**inner)
        return kind(**flat)

    def call(self, x: Any, state: Any, weights: tuple[Any, ...], p: Any, dt: float) -> Any:
        return self.step(x, state, *weights, p, dt)


def _tonic(cls: type[torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """A constructor like those of the other classes, with parameters in place of a firing pattern."""

    def make(*arguments: Any, p: Any = nf.tonic_spiking.p, **kwargs: Any) -> torch.nn.Module:
        sizes = [a for a in arguments if isinstance(a, int)]
        p = next((a for a in arguments if isinstance(a, tuple)), p)
        return cls(*sizes, nf.tonic_spiking._replace(p=p), **kwargs)

    return make


def _tonic_tensors() -> Any:
    p = nf.tonic_spiking.p
    return nf.IzhikevichParameters(*(torch.tensor(float(value)) for value in p[:-2]), p.method, p.alpha)


MODELS = [
    Model(nf.lif_feed_forward_step, nf.LIFFeedForwardState, nf.LIFParameters, "ff", nf.LIF, nf.LIFCell),
    Model(nf.lif_step, nf.LIFState, nf.LIFParameters, "rec", nf.LIFRecurrent, nf.LIFRecurrentCell),
    Model(nf.li_feed_forward_step, nf.LIState, nf.LIParameters, "ff", nf.LI, nf.LICell),
    Model(nf.li_step, nf.LIState, nf.LIParameters, "lin", None, nf.LILinearCell),
    Model(nf.li_box_feed_forward_step, nf.LIBoxState, nf.LIBoxParameters, "ff", nf.LIBox, nf.LIBoxCell),
    Model(nf.li_box_step, nf.LIBoxState, nf.LIBoxParameters, "lin"),
    Model(nf.iaf_feed_forward_step, nf.IAFFeedForwardState, nf.IAFParameters, "ff", nf.IAF, nf.IAFCell),
    Model(nf.iaf_step, nf.IAFState, nf.IAFParameters, "rec"),
    Model(nf.qif_feed_forward_step, nf.QIFFeedForwardState, nf.QIFParameters, "ff", nf.QIF, nf.QIFCell, golden=()),
    Model(
        nf.lif_box_feed_forward_step,
        nf.LIFBoxFeedForwardState,
        nf.LIFBoxParameters,
        "ff",
        nf.LIFBox,
        nf.LIFBoxCell,
        golden=("", ".reset_subtract"),
    ),
    Model(
        nf.lif_ex_feed_forward_step,
        nf.LIFExFeedForwardState,
        nf.LIFExParameters,
        "ff",
        nf.LIFEx,
        nf.LIFExCell,
        exact=False,
    ),
    Model(
        nf.lif_ex_step, nf.LIFExState, nf.LIFExParameters, "rec", nf.LIFExRecurrent, nf.LIFExRecurrentCell, exact=False
    ),
    Model(
        nf.lif_adex_feed_forward_step,
        nf.LIFAdExFeedForwardState,
        nf.LIFAdExParameters,
        "ff",
        nf.LIFAdEx,
        nf.LIFAdExCell,
        exact=False,
    ),
    Model(
        nf.lif_adex_step,
        nf.LIFAdExState,
        nf.LIFAdExParameters,
        "rec",
        nf.LIFAdExRecurrent,
        nf.LIFAdExRecurrentCell,
        exact=False,
    ),
    Model(
        nf.lif_refrac_feed_forward_step,
        nf.LIFRefracFeedForwardState,
        nf.LIFRefracParameters,
        "ff",
        nf.LIFRefrac,
        nf.LIFRefracCell,
    ),
    Model(
        nf.lif_refrac_step,
        nf.LIFRefracState,
        nf.LIFRefracParameters,
        "rec",
        nf.LIFRefracRecurrent,
        nf.LIFRefracRecurrentCell,
    ),
    Model(
        nf.lif_adex_refrac_feed_forward_step,
        nf.LIFAdExRefracFeedForwardState,
        nf.LIFAdExRefracParameters,
        "ff",
        nf.LIFAdExRefrac,
        nf.LIFAdExRefracCell,
        exact=False,
    ),
    Model(
        nf.lif_adex_refrac_step,
        nf.LIFAdExRefracState,
        nf.LIFAdExRefracParameters,
        "rec",
        nf.LIFAdExRefracRecurrent,
        nf.LIFAdExRefracRecurrentCell,
        exact=False,
    ),
    Model(nf.lsnn_feed_forward_step, nf.LSNNFeedForwardState, nf.LSNNParameters, "ff", nf.LSNN, nf.LSNNCell),
    Model(nf.lsnn_step, nf.LSNNState, nf.LSNNParameters, "rec", nf.LSNNRecurrent, nf.LSNNRecurrentCell),
    Model(
        nf.izhikevich_feed_forward_step,
        nf.IzhikevichState,
        nf.IzhikevichParameters,
        "ff",
        _tonic(nf.Izhikevich),
        _tonic(nf.IzhikevichCell),
        default=_tonic_tensors,
    ),
    Model(
        nf.izhikevich_recurrent_step,
        nf.IzhikevichRecurrentState,
        nf.IzhikevichParameters,
        "rec",
        _tonic(nf.IzhikevichRecurrent),
        _tonic(nf.IzhikevichRecurrentCell),
        tolerance=1e-4,  # the quadratic term multiplies the rounding of W x + R z in every step
        default=_tonic_tensors,
    ),
    Model(
        nf.coba_lif_feed_forward_step,
        nf.CobaLIFFeedForwardState,
        nf.CobaLIFParameters,
        "ff",
        nf.CobaLIF,
        nf.CobaLIFFeedForwardCell,
    ),
    Model(nf.coba_lif_step, nf.CobaLIFState, nf.CobaLIFParameters, "rec", nf.CobaLIFRecurrent, nf.CobaLIFCell),
    Model(nf.lif_mc_feed_forward_step, nf.LIFFeedForwardState, nf.LIFParameters, "mcff"),
    Model(nf.lif_mc_step, nf.LIFState, nf.LIFParameters, "mc", None, nf.LIFMCRecurrentCell),
    Model(
        nf.lif_mc_refrac_feed_forward_step,
        nf.LIFRefracFeedForwardState,
        nf.LIFRefracParameters,
        "mcff",
    ),
    Model(
        nf.lif_mc_refrac_step,
        nf.LIFRefracState,
        nf.LIFRefracParameters,
        "mc",
        None,
        nf.LIFMCRefracRecurrentCell,
    ),
]
FEED_FORWARD = [model for model in MODELS if model.kind == "ff"]
WEIGHTS = ("input_weights", "recurrent_weights", "g_coupling")


def model_id(model: Model) -> str:
    return model.name


@dataclass
class GoldenCase:
    """One case of a golden file, with differentiable copies of its inputs."""

    model: Model
    path: Path
    name: str

    @property
    def arrays(self) -> dict[str, Any]:
        return read_golden(self.path)[self.name]

    @property
    def meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads(str(self.arrays["meta"]))
        return meta

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.arrays[name]))

    def named(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k[len(prefix) :]: self.tensor(k) for k in self.arrays if k.startswith(prefix)}

    def leaves(self) -> dict[str, torch.Tensor]:
        """All inputs under their names, requiring grad where the file has a gradient."""
        names = ["input", *(w for w in WEIGHTS if w in self.arrays)]
        names += [k for k in self.arrays if k.startswith(("state.", "param."))]
        return {name: self.tensor(name).requires_grad_(f"grad.{name}" in self.arrays) for name in names}

    def arguments(self, leaves: dict[str, torch.Tensor]) -> tuple[Any, tuple[Any, ...], Any]:
        """State, weights and parameters built from leaves."""

        def named(prefix: str) -> dict[str, Any]:
            return {k[len(prefix) :]: v for k, v in leaves.items() if k.startswith(prefix)}

        state = self.model.pack(self.model.state, named("state."))
        params = self.model.pack(self.model.params, named("param."))
        weights = tuple(leaves[w] for w in WEIGHTS if w in leaves)
        params = self.with_surrogate(params)
        if "reset_method" in params._fields:
            params = params._replace(reset_method=getattr(nf, self.meta["reset_method"]))
        return state, weights, params

    def with_surrogate(self, params: Any) -> Any:
        if "method" in params._fields:
            return params._replace(method=self.meta["method"], alpha=self.meta["alpha"])
        inner = next((f for f in params._fields if hasattr(getattr(params, f), "method")), None)
        return params if inner is None else params._replace(**{inner: self.with_surrogate(getattr(params, inner))})


@functools.cache
def read_golden(path: Path) -> dict[str, dict[str, Any]]:
    """The arrays of a golden file by case."""
    groups: dict[str, dict[str, Any]] = {}
    with np.load(path) as file:
        for key in file.files:
            case, array = key.split("/", 1)
            groups.setdefault(case, {})[array] = file[key]
    return groups


def golden_cases(models: list[Model]) -> list[Any]:
    """Every case that the models' golden files must have, as pytest parameters; whether they do, their tests tell."""
    import pytest

    return [
        pytest.param(GoldenCase(model, path, name), id=f"{path.stem}-{name}")
        for model in models
        for path in model.golden_files()
        for name in sorted(model.golden_names())
    ]


def fields(state: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a (nested) state tuple under dotted names."""
    out: dict[str, torch.Tensor] = {}
    for name in state._fields:
        value = getattr(state, name)
        out.update(fields(value, f"{prefix}{name}.") if hasattr(value, "_fields") else {f"{prefix}{name}": value})
    return out


def random_params(model: Model, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Any:
    """Parameters near the defaults, varied by up to 20 %, of a shape that broadcasts to the neurons."""

    def vary(value: Any) -> Any:
        if hasattr(value, "_fields"):
            return type(value)(*(vary(v) for v in value))
        if not isinstance(value, torch.Tensor):
            return value
        noise = torch.rand(shape, generator=generator, dtype=torch.float64)
        return ((value.double() + 0.1) * (0.8 + 0.4 * noise)).to(dtype)

    return vary(model.defaults())


def potential_of(state: Any) -> torch.Tensor:
    """The membrane potential in a state, which may be that of an inner model."""
    return next(value for name, value in fields(state).items() if name.split(".")[-1] == "v")


def gradients_of_each(results: dict[str, torch.Tensor], leaves: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradient of every result's sum by every leaf, 0 where there is none."""
    found = {}
    for name, result in results.items():
        gradients: Iterable[torch.Tensor] = map(torch.zeros_like, leaves.values())
        if result.requires_grad:
            gradients = torch.autograd.grad(
                result.sum(), list(leaves.values()), retain_graph=True, materialize_grads=True
            )
        found |= {f"{name} by {leaf}": gradient for leaf, gradient in zip(leaves, gradients)}
    return found


def set_surrogate(params: Any, method: str, alpha: Any) -> Any:
    """The same parameters with another surrogate, which may be those of an inner model."""
    if "method" in params._fields:
        return params._replace(method=method, alpha=alpha)
    inner = next((f for f in params._fields if hasattr(getattr(params, f), "method")), None)
    return params if inner is None else params._replace(**{inner: set_surrogate(getattr(params, inner), method, alpha)})


def random_state(model: Model, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Any:
    """States around rest, of the neurons' shape."""
    values = {name: torch.rand(shape, generator=generator, dtype=dtype) for name in model.neuron.state}
    return model.pack(model.state, values)


def is_fused(result: torch.Tensor) -> bool:
    """Whether a kernel's backward, in C++ or through Python, leads back from ``result``."""
    return result.grad_fn is not None and result.grad_fn.name() == "FusedBackward"
