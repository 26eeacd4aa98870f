"""Digits whose pixels are currents: an encoder, a convolutional network with a loop of its own, and a checkpoint."""

import io

import torch
from norse.torch import ConstantCurrentLIFEncoder, LICell, LIFCell, LIFParameters


def digits(count):
    """Bars at one of four places, with noise."""
    labels = torch.randint(0, 4, (count,))
    images = 0.2 * torch.rand(count, 1, 12, 12)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 1 + 3 * label : 3 + 3 * label] += 0.8
    return images, labels


class Network(torch.nn.Module):
    def __init__(self, method="super", alpha=1.0):  # Norse 1.1.0 computes super with alpha=1 anyway
        super().__init__()
        p = LIFParameters(method=method, alpha=torch.tensor(alpha), v_th=torch.as_tensor(0.25))
        self.conv1 = torch.nn.Conv2d(1, 5, 5, 1)
        self.lif1 = LIFCell(p=p)
        self.conv2 = torch.nn.Conv2d(5, 8, 3, 1)
        self.lif2 = LIFCell(p=p)
        self.fc = torch.nn.Linear(8, 10)
        self.lif3 = LIFCell(p=p)
        self.out = torch.nn.Linear(10, 4, bias=False)
        self.readout = LICell(dt=0.001)

    def forward(self, x):
        s1 = s2 = s3 = so = None
        voltages = torch.zeros(*x.shape[:2], 4)
        for ts in range(x.shape[0]):
            z, s1 = self.lif1(10 * self.conv1(x[ts]), s1)
            z = 5 * torch.nn.functional.max_pool2d(z, 2)
            z, s2 = self.lif2(4 * self.conv2(z), s2)
            z = torch.nn.functional.max_pool2d(z, 2, 2)
            z, s3 = self.lif3(8 * self.fc(z.flatten(1)), s3)
            v, so = self.readout(torch.relu(self.out(z)), so)
            voltages[ts] = v
        return voltages


class Model(torch.nn.Module):
    def __init__(self, encoder, network):
        super().__init__()
        self.encoder, self.network = encoder, network

    def forward(self, x):
        return torch.log_softmax(self.network(self.encoder(2 * x)).amax(0), dim=1)


torch.manual_seed(24)
images, labels = digits(8)
model = Model(ConstantCurrentLIFEncoder(16), Network())
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
model.train()
for batch, target in zip(images.split(4), labels.split(4), strict=True):
    optimizer.zero_grad()
    loss = torch.nn.functional.nll_loss(model(batch), target)
    loss.backward()
    optimizer.step()
    print(f"loss {loss.item():.3f}")
results = {"loss": loss}
for name, weights in model.named_parameters():
    results[f"gradient of {name}"] = weights.grad

file = io.BytesIO()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
file.seek(0)
again = Model(ConstantCurrentLIFEncoder(16), Network("circ", 0.5))
again.load_state_dict(torch.load(file)["model"])
again.eval()
with torch.no_grad():
    results["spikes"] = again.encoder(2 * images)
    results["voltages"] = again.network(results["spikes"])
    print("the same from a checkpoint:", torch.equal(again(images), model(images)))
