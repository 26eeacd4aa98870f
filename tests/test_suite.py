"""The tests themselves: what they should cover cannot go missing without a failure."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.neuron import SEQUENCES, Neuron
from norse_fast._kernels.recurrent import RECURRENT, Recurrent

from .models import GOLDEN, MODELS, Model, model_id, read_golden

ROOT = Path(__file__).parents[1]

# Step functions.

#: Those for sparse tensors have tests of their own, and are otherwise the ones here.
DENSE = {nf.lif_step_sparse: nf.lif_step, nf.lif_refrac_step_sparse: nf.lif_refrac_step}


def test_every_step_function_with_a_kernel_is_in_the_table():
    assert {DENSE.get(step, step) for step in (*SEQUENCES, *RECURRENT)} <= {model.step for model in MODELS}
    assert len({model.name for model in MODELS}) == len(MODELS)


def test_every_module_is_in_the_table():
    bases = {nf.SNN, nf.SNNCell, nf.SNNRecurrent, nf.SNNRecurrentCell}
    public = {v for v in vars(nf).values() if isinstance(v, type) and issubclass(v, tuple(bases))} - bases
    # The module is made, because an entry of the table may be a function that makes one.
    made = {
        type(make() if model.kind == "ff" else make(2, 3))
        for model in MODELS
        for make in (model.layer, model.cell)
        if make is not None
    }
    assert public <= made


# Kernels.


def _neurons() -> Iterator[Neuron]:
    for info in pkgutil.iter_modules(nf.functional.__path__):
        for value in vars(importlib.import_module(f"norse_fast.functional.{info.name}")).values():
            if isinstance(value, Neuron) and value.name is not None:
                yield value
            if isinstance(value, Recurrent) and value.neuron.name is not None:
                yield value.neuron


#: Every neuron with a kernel, whose names in C++ are these.
NEURONS = sorted(set(_neurons()), key=lambda neuron: str(neuron.name))

#: Coefficients that are named in C++ by what they are, and in Python by the parameter that they are made of.
RENAMED = {"izhikevich": {"tau_inv": "rate", "a": "recovery_rate"}}


def names_of(operator: torch._ops.OpOverload) -> list[str]:
    return [argument.name for argument in operator._schema.arguments]


def test_every_kernel_is_a_neuron():
    names = [schema.name.removeprefix("norse_fast::") for schema in torch._C._jit_get_all_schemas()]
    kernels = {name.removesuffix("_forward") for name in names if name.endswith("_forward")}
    neurons = {neuron.name for neuron in NEURONS}
    recurrent = {f"{layer.neuron.name}_recurrent" for layer in RECURRENT.values()}
    norse_fasts = {name for name in kernels if hasattr(torch.ops.norse_fast, f"{name}_forward")}
    assert norse_fasts == neurons | recurrent
    called = {*SEQUENCES.values(), *(layer.neuron for layer in RECURRENT.values())}
    # Those with another reset are variants of one that the table has.
    assert {neuron.variants.get(("value", False), neuron) for neuron in called} <= set(NEURONS)


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_names_in_cpp_are_those_in_python(neuron: Neuron):
    """Arguments are positional, so variables in another order would pass unnoticed."""
    renamed = RENAMED.get(neuron.name, {})
    state = [name.split(".")[-1] for name in neuron.state]
    params = [renamed.get(name, name) for name in (name.split(".")[-1] for name in neuron.kernel_params)]
    grad_state = [f"grad_{name}" for name in state]

    expected = ["input", *state, *params]
    assert names_of(neuron.forward_op)[: len(expected)] == expected
    backward = names_of(neuron.backward_op)
    assert backward[: len(expected)] == expected
    assert [name for name in backward if name in grad_state] == grad_state

    if hasattr(neuron, "recurrent_forward_op"):
        expected = ["input", "input_weights", "z", *state, "weights", *params]
        assert names_of(neuron.recurrent_forward_op)[: len(expected)] == expected
        backward = names_of(neuron.recurrent_backward_op)
        assert backward[: len(expected)] == expected
        assert [name for name in backward if name in grad_state] == grad_state


# Golden files.


@pytest.mark.parametrize("model", MODELS, ids=model_id)
def test_golden_files_have_what_the_table_says(model: Model):
    for path in model.golden_files():
        assert sorted(read_golden(path)) == sorted(model.golden_names())


def test_every_golden_file_is_used():
    used = {path for model in MODELS for path in model.golden_files()}
    assert set(GOLDEN.glob("*.npz")) == used | {GOLDEN / "receptive_fields.npz"}


# Packages.

BLOCKED = """
import sys
sys.modules.update(dict.fromkeys({modules}))
import pytest
sys.exit(pytest.main({arguments}))
"""


def run_blocked(modules: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tests, some of which need the modules, where those cannot be imported."""
    names = ("test_migration.py", "test_public_names.py", *(["test_nir.py"] if "nir" in modules else []))
    files = [str(ROOT / "tests" / name) for name in names]
    code = BLOCKED.format(modules=modules, arguments=["-q", "-p", "no:cacheprovider", *arguments, *files])
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("modules", "option"),
    [(("norse.torch",), "--without-norse"), (("nir", "nirtorch"), "--without-norse --without-nir")],
)
def test_a_missing_package_fails_the_run_or_is_left_out_on_request(modules: tuple[str, ...], option: str):
    result = run_blocked(modules)
    assert result.returncode != 0
    assert "passed" not in result.stdout
    sentences = [line for line in (result.stdout + result.stderr).splitlines() if "cannot be imported" in line]
    assert len(sentences) == 1
    for part in (*modules, "install all that tests need with 'bash .ci/install'", f"leave these out with {option}."):
        assert part in sentences[0]

    result = run_blocked(modules, *option.split())
    assert result.returncode == 0, result.stdout
    assert "skipped" not in result.stdout
    assert " deselected" in result.stdout


def test_without_kernels_nothing_runs():
    code = "import norse_fast._kernels.extension as e; e.has_kernels = lambda device: False\n"
    code += BLOCKED.format(modules=(), arguments=["-q", str(ROOT / "tests" / "test_lif.py")])
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    assert "norse_fast has no kernels here" in result.stderr


def test_one_script_installs_for_ci_and_for_development():
    assert "bash .ci/install\n" in (ROOT / ".ci" / "run").read_text()
    assert "\nbash .ci/install " in (ROOT / "CONTRIBUTING.md").read_text()
    for other in (".ci/run", "CONTRIBUTING.md"):
        assert "pip install" not in (ROOT / other).read_text()
