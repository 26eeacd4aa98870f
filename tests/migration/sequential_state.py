"""A convolutional network in a SequentialState, with the sizes and the states of all modules carried along."""

import norse.torch as norse
import torch

torch.manual_seed(2)
model = norse.SequentialState(
    torch.nn.Conv2d(1, 4, 3),
    norse.LIFCell(norse.LIFParameters(method="tanh", alpha=2.0, v_th=torch.as_tensor(0.3))),
    torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(4, 8, 3),
    norse.LIFCell(norse.LIFParameters(alpha=1.0)),  # with which Norse 1.1.0 computes, whatever it is told
    torch.nn.Flatten(),
    torch.nn.Linear(32, 10),
    norse.LILinearCell(10, 5),
)
print(len(model), "modules,", sum(p.numel() for p in model.parameters()), "parameters")
print(*model.state_dict())

x = 40 * torch.rand(12, 2, 1, 10, 10)
state = None
outputs = []
for image in x:
    v, state = model(image, state)
    outputs.append(v)
outputs = torch.stack(outputs)
print([None if s is None else type(s).__name__ for s in state])

outputs[-1].sum().backward()
print("first convolution has a gradient:", bool(model[0].weight.grad.abs().sum() > 0))

hidden = norse.SequentialState(torch.nn.Linear(3, 4), norse.LIFBoxCell(), return_hidden=True)
both, _ = hidden(100 * torch.ones(1, 3))
print([tuple(h.shape) for h in both])

feedback = norse.RecurrentSequential(torch.nn.Linear(4, 4), norse.LIFCell())
z, s = feedback(30 * torch.ones(2, 4))
z, s = feedback(30 * torch.ones(2, 4), s)
print("cached:", bool(torch.equal(s.cache, z)))

results = {
    "outputs": outputs,
    "v": state[1].v,
    "i": state[4].i,
    "kernel": model[0].weight.grad,
    "hidden": both[1],
    "feedback": z,
}
