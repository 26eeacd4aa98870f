"""SequentialState and RecurrentSequential."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch

import norse_fast as nf
from norse_fast.utils.state import _is_module_stateful


def model() -> nf.SequentialState:
    return nf.SequentialState(torch.nn.Linear(4, 6), nf.LIFCell(), torch.nn.Linear(6, 3), nf.LICell())


def test_steps_by_hand(generator):
    network = model()
    x = 5 * torch.rand(6, 2, 4, generator=generator)
    state, lif, li = None, None, None
    for frame in x:
        v, state = network(frame, state)
        z, lif = network[1](network[0](frame), lif)
        expected, li = network[3](network[2](z), li)
        assert torch.equal(v, expected)
    assert [s is None for s in state] == [True, False, True, False]


def test_state_is_not_modified(generator):
    network = model()
    x = torch.rand(2, 4, generator=generator)
    _, first = network(x)
    saved = list(first)
    network(x, first)
    assert all(a is b for a, b in zip(first, saved))


def test_return_hidden(generator):
    network = nf.SequentialState(torch.nn.Linear(4, 6), nf.LIFCell(), return_hidden=True)
    hidden, _ = network(torch.rand(2, 4, generator=generator))
    assert [h.shape for h in hidden] == [(2, 6), (2, 6)]


def test_append_and_slices(generator):
    network = nf.SequentialState(torch.nn.Linear(4, 6))
    network.append(nf.LIFCell())
    assert network.stateful_layers == [False, True]
    x = torch.rand(2, 4, generator=generator)
    assert torch.equal(network[0:1](x)[0], network[0](x))
    assert isinstance(network[1:], nf.SequentialState)
    assert len(network[1:]) == 1
    assert nf.SequentialState(nf.SequentialState(nf.LIFCell()), torch.nn.LSTM(2, 2)).stateful_layers == [True, True]


class Doubled(nf.SequentialState):
    def forward(self, input_tensor, state=None):
        return super().forward(2 * input_tensor, state)


def test_slices_keep_names_and_class(generator):
    named = OrderedDict(first=torch.nn.Linear(4, 6), second=nf.LIFCell(), third=torch.nn.Linear(6, 2))
    for network, kind in ((Doubled(named), Doubled), (nf.SequentialState(*named.values()), nf.SequentialState)):
        part = network[1:]
        assert type(part) is kind
        assert list(part.state_dict()) == list(torch.nn.Sequential.__getitem__(network, slice(1, None)).state_dict())
        network.return_hidden = True
        assert network[:2].return_hidden
    x = torch.rand(2, 4, generator=generator)
    assert torch.equal(Doubled(named)[:1](x)[0], named["first"](2 * x))

    class Made(nf.SequentialState):
        def __init__(self, width=4):
            super().__init__(torch.nn.Linear(width, 6), nf.LIFCell())

    network = Made()
    assert list(network[1:]) == [network[1]]
    assert type(network[1:]) is nf.SequentialState


def test_nested(generator):
    network = nf.SequentialState(model(), torch.nn.LSTM(3, 2))
    x = torch.rand(2, 4, generator=generator)
    output, state = network(x)
    output, state = network(x, state)
    assert output.shape == (2, 2)
    assert len(state[0]) == 4


def test_forward_state_hooks(generator):
    network = model()
    network.append(network[1])
    seen = []

    def hook(module, input, output):
        seen.append((type(module), len(input), input[1], output[0].shape, output[1]))

    network.register_forward_state_hooks(hook)
    with pytest.raises(ValueError, match="forward_hook: got a second one"):
        network.register_forward_state_hooks(hook)
    _, state = network(torch.rand(2, 4, generator=generator))
    expected = [(nf.LIFCell, (2, 6), state[1]), (nf.LICell, (2, 3), state[3]), (nf.LIFCell, (2, 3), state[4])]
    assert [(entry[0], entry[3]) for entry in seen] == [entry[:2] for entry in expected]
    assert all(entry[2] is None for entry in seen)
    assert all(entry[4] is e[2] for entry, e in zip(seen, expected))
    network(torch.rand(2, 4, generator=generator), state)
    assert seen[3][2] is state[1]
    copied = copy.deepcopy(network)
    network.remove_forward_state_hooks()
    network(torch.rand(2, 4, generator=generator))
    assert len(seen) == 6
    copied.remove_forward_state_hooks()
    copied(torch.rand(2, 4, generator=generator))
    assert len(seen) == 6


def test_forward_state_hook_replaces_the_output():
    network = nf.SequentialState(nf.LIFCell(), torch.nn.Identity())
    network.register_forward_state_hooks(lambda module, input, output: (output[0] + 1, output[1]))
    assert torch.equal(network(torch.zeros(2))[0], torch.ones(2))


def test_stateful_is_by_name_of_the_argument():
    assert _is_module_stateful(nf.LIFCell())
    assert not _is_module_stateful(torch.nn.Linear(1, 1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_modules_are_as_stateful_as_what_they_wrap(generator):
    x = torch.rand(2, 4, generator=generator)
    network = nf.SequentialState(torch.compile(nf.LIFCell(), backend="eager"), torch.compile(torch.nn.Linear(4, 3)))
    assert network.stateful_layers == [True, False]
    assert torch.equal(network[:1](x)[0], nf.LIFCell()(x)[0])


def test_recurrent_sequential(generator):
    x = torch.rand(3, 2, 4, generator=generator)
    linear, cell = torch.nn.Linear(4, 4), nf.LICell()
    network = nf.RecurrentSequential(linear, cell)
    state, expected, inner = None, torch.zeros(2, 4), None
    for frame in x:
        output, state = network(frame, state)
        expected, inner = cell(linear(frame + expected), inner)
        assert torch.equal(output, expected)
    for indices in (np.array([0, 1]), torch.tensor([0, 1]), (0, 1)):
        assert nf.RecurrentSequential(linear, cell, output_modules=indices).output_modules == [0, 1]
    assert nf.RecurrentSequential(linear, cell, output_modules=np.int64(0)).output_modules == 0
    several = nf.RecurrentSequential(linear, cell, output_modules=[0, 1])
    outputs, state = several(x[0])
    outputs, state = several(x[1], state)
    outputs, state = several(x[2], state)
    assert len(outputs) == 2
    assert torch.equal(outputs[1], output)
    assert sorted(network.state_dict()) == ["module.0.bias", "module.0.weight"]
    assert torch.equal(state.cache, outputs[1])


def test_recurrent_sequential_takes_a_state_of_norse(norse, generator):
    linear, x = torch.nn.Linear(3, 3), torch.rand(2, 3, generator=generator)
    _, theirs = norse.RecurrentSequential(linear, norse.LICell())(x)
    ours = nf.RecurrentSequential(linear, nf.LICell())
    assert torch.equal(ours(x, theirs)[0], ours(x, ours(x)[1])[0])
    with pytest.raises(TypeError, match="state: got list, expected a RecurrentSequentialState"):
        ours(x, [None])
