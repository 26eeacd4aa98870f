"""Norse's convolutional networks, trained for a step, with their checkpoints."""

import norse.torch as norse
import torch
from norse.torch.models.conv import ConvNet, ConvNet4

x = torch.rand(6, 2, 1, 28, 28, generator=torch.Generator().manual_seed(14))
results = {}
for kind in (ConvNet, ConvNet4):
    torch.manual_seed(3)
    # The surrogate whose steepness means the same in all releases.
    model = kind(method="tanh")
    # So wide that silent neurons would have a gradient too.
    for lif in (model.lif0, model.lif1, model.lif2):
        lif.p = lif.p._replace(alpha=torch.tensor(1.0))
    with torch.no_grad():
        model.conv1.weight.mul_(4)
        model.conv2.weight.mul_(2)
        model.fc1.weight.mul_(3)
    voltages = model(x)
    print(kind.__name__, tuple(voltages.shape), int(voltages.count_nonzero()), list(model.state_dict()))
    torch.nn.functional.cross_entropy(voltages.mean(0), torch.tensor([3, 7])).backward()
    results[kind.__name__] = voltages
    results[f"{kind.__name__} conv1"] = model.conv1.weight.grad
    results[f"{kind.__name__} out"] = model.out.input_weights.grad

wide = norse.ConvNet(num_channels=2, feature_size=20, dtype=torch.float64)
print(
    wide(torch.rand(3, 1, 2, 20, 20)).dtype,
    wide.features,
    [wide.lif0.p.v_th.item(), norse.ConvNet4().lif1.p.v_th.item()],
)
