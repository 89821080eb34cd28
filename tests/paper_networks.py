"""The paper's networks and Caffe's solver, slow and literal, in float64: written from FACTS of the paper, not from src.

A network is a function of its weights by name and of images; weights are read in the order in which a net is drawn.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class Net:
    """Layers on a state dict; batch norm by chunks, its statistics noted as `statistics[name] = (mean, variance)`."""

    def __init__(self, weights: dict[str, Tensor], chunk: int) -> None:
        self.weights, self.chunk, self.statistics = weights, chunk, {}

    def conv(self, x: Tensor, name: str, stride: int = 1, pad: int = 0, groups: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        x = F.pad(x, (pad,) * 4)
        parts = [F.conv2d(a, w, None, stride) for a, w in zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)]
        out = torch.cat(parts, 1)
        bias = self.weights.get(f"{name}.bias")
        return out if bias is None else out + bias[:, None, None]

    def norm(self, x: Tensor, name: str) -> Tensor:
        parts = []
        for part in x.split(self.chunk):
            mean = part.mean((0, 2, 3))
            variance = (part - mean[:, None, None]).square().mean((0, 2, 3))
            parts.append((part - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt())
            m = part.numel() // part.shape[1]
            self.statistics.setdefault(name, (mean.detach(), variance.detach() * m / (m - 1)))  # of GPU 0
        out = torch.cat(parts)
        if f"{name}.weight" not in self.weights:
            return out
        return out * self.weights[f"{name}.weight"][:, None, None] + self.weights[f"{name}.bias"][:, None, None]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]


def pool(x: Tensor, kernel: int, stride: int, kind: str) -> Tensor:
    """Caffe's: no padding, the size rounded up, windows cut at the border."""
    sizes = [-(-(side - kernel) // stride) + 1 for side in x.shape[2:]]
    rows = []
    for i in range(sizes[0]):
        windows = [x[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel] for j in range(sizes[1])]
        rows.append(torch.stack([w.mean((2, 3)) if kind == "average" else w.amax((2, 3)) for w in windows], -1))
    return torch.stack(rows, 2)


def author_resnet(net: Net, x: Tensor, growth: int = 2, blocks: int = 1) -> Tensor:
    """Blocks a stage; the first of a stage keeps the old width and is widened by zeros after its ReLU."""
    x = net.norm(net.conv(x, "stem.0", pad=1), "stem.1").relu()
    for i in range(3 * blocks):
        name, begins = f"blocks.{i}.residual", i in (blocks, 2 * blocks)
        y = net.norm(net.conv(x, f"{name}.0", 2 if begins else 1, 1), f"{name}.1").relu()
        y = net.norm(net.conv(y, f"{name}.3", pad=1), f"{name}.4")
        x = (y + (pool(x, 3, 2, "average") if begins else x)).relu()
        if begins:
            x = torch.cat([x] + [torch.zeros_like(x)] * (growth - 1), 1)
    return net.linear(x.mean((2, 3)), "head")


def author_bottleneck(net: Net, x: Tensor, groups: int = 1, blocks: int = 1) -> Tensor:
    """Blocks a stage; the shortcut of the first is a 1×1 convolution of the raw input."""
    x = net.conv(x, "stem", pad=1)
    for i in range(3 * blocks):
        name, stride = f"blocks.{i}", 2 if i in (blocks, 2 * blocks) else 1
        y = net.conv(net.norm(x, f"{name}.residual.0").relu(), f"{name}.residual.2", stride)
        y = net.conv(net.norm(y, f"{name}.residual.3").relu(), f"{name}.residual.5", pad=1, groups=groups)
        y = net.conv(net.norm(y, f"{name}.residual.6").relu(), f"{name}.residual.8")
        x = y + (x if i % blocks else net.conv(x, f"{name}.shortcut", stride))
    return net.linear(net.norm(x, "norm").relu().mean((2, 3)), "head")


def densenet(net: Net, x: Tensor) -> Tensor:
    """Depth 10: two layers a block."""
    x = net.conv(x, "features.0", pad=1)
    at = 1
    for block in range(3):
        if block:
            x = net.conv(net.norm(x, f"features.{at}").relu(), f"features.{at + 2}")
            x, at = pool(x, 2, 2, "average"), at + 4
        for _ in range(2):
            y = net.conv(net.norm(x, f"features.{at}.added.0").relu(), f"features.{at}.added.2", pad=1)
            x, at = torch.cat([x, y], 1), at + 1
    return net.linear(net.norm(x, f"features.{at}").relu().mean((2, 3)), "head")


def lenet(net: Net, x: Tensor) -> Tensor:
    """Caffe's example for MNIST."""
    x = pool(net.conv(x, "0"), 2, 2, "max")
    x = pool(net.conv(x, "2"), 2, 2, "max")
    return net.linear(net.linear(x.flatten(1), "5").relu(), "7")


def cifar10_full(net: Net, x: Tensor) -> Tensor:
    """Caffe's example: the first layer is pooled before its ReLU, the last is not normalised."""

    def response_norm(x: Tensor) -> Tensor:
        padded, total = F.pad(x, (1,) * 4).square(), torch.zeros_like(x)
        for i in range(3):
            for j in range(3):
                total = total + padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
        return x / (1 + 5e-5 / 9 * total) ** 0.75

    x = response_norm(pool(net.conv(x, "0", pad=2), 3, 2, "max").relu())
    x = response_norm(pool(net.conv(x, "4", pad=2).relu(), 3, 2, "average"))
    x = pool(net.conv(x, "8", pad=2).relu(), 3, 2, "average")
    return net.linear(x.flatten(1), "12")


def resnet50(net: Net, x: Tensor) -> Tensor:
    """He et al.'s, stride in the first 1×1."""
    x = pool(net.norm(net.conv(x, "stem.0", 2, 3), "stem.1").relu(), 3, 2, "max")
    for i in range(16):
        name, begins, stride = f"blocks.{i}", i in (0, 3, 7, 13), 2 if i in (3, 7, 13) else 1
        y = net.norm(net.conv(x, f"{name}.residual.0", stride), f"{name}.residual.1").relu()
        y = net.norm(net.conv(y, f"{name}.residual.3", pad=1), f"{name}.residual.4").relu()
        y = net.norm(net.conv(y, f"{name}.residual.6"), f"{name}.residual.7")
        if begins:
            x = net.norm(net.conv(x, f"{name}.shortcut.0", stride), f"{name}.shortcut.1")
        x = (x + y).relu()
    return net.linear(x.mean((2, 3)), "head")


def multipliers(name: str, weights: dict[str, Tensor]) -> tuple[float, float]:
    """(lr_mult, decay_mult) of a parameter in the author's files."""
    layer, _, kind = name.rpartition(".")
    if kind == "weight":
        return 1.0, 1.0
    dimensions = weights[f"{layer}.weight"].dim()  # 4: a convolution's bias, 2: a linear one's, 1: a batch norm's
    return {4: (2.0, 0.0), 2: (2.0, 1.0), 1: (1.0, 1.0)}[dimensions]


def caffe_step(weights, history, gradients, *, lr, momentum, decay, nesterov=False) -> None:
    """One update in place, as the author's solver makes it."""
    for name, w in weights.items():
        rate, decayed = multipliers(name, weights)
        before = history.get(name, torch.zeros_like(w))
        history[name] = momentum * before + rate * lr * (gradients[name] + decayed * decay * w.detach())
        step = (1 + momentum) * history[name] - momentum * before if nesterov else history[name]
        weights[name] = (w.detach() - step).requires_grad_(True)
