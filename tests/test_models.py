"""Networks against slow, literal references written from the paper's files."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from superconv import models
from superconv.errors import UserError
from superconv.models.norm import GhostBatchNorm, set_batch_norm_size

SHAPE = (3, 32, 32)


def make(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return models.create(name, **{"num_classes": 10, "image_shape": SHAPE, **options})


@pytest.mark.parametrize(
    ("depth", "with_biases", "without"), [(20, 224_042, 223_450), (56, 808_682, 806_746), (110, 1_685_642, 1_681_690)]
)
def test_the_author_s_parameter_counts(depth, with_biases, without):
    network = make(f"resnet{depth}-author")
    count = sum(p.numel() for p in network.parameters())
    biases = sum(m.bias.numel() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert (count, count - biases) == (with_biases, without)


def test_he_s_parameter_count():
    assert sum(p.numel() for p in make("resnet20").parameters()) == 269_722  # He et al.: 0.27 M


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("mlp", (1, 8, 8), 10),
        ("lenet", (1, 28, 28), 10),
        ("lenet", (3, 32, 32), 7),
        ("resnet8", (1, 28, 28), 3),
        ("resnet14-author", (4, 33, 31), 5),
    ],
)
def test_any_number_of_channels_classes_and_pixels(name, shape, classes):
    network = make(name, num_classes=classes, image_shape=shape)
    logits = network(torch.randn(4, *shape))
    assert logits.shape == (4, classes)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def author_reference(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The author's prototxt, layer by layer, in evaluation mode."""
    weights = network.state_dict()

    def conv_norm(x, conv, norm, stride=1):
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), weights[f"{conv}.weight"], weights[f"{conv}.bias"], stride)
        mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        scaled = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return scaled * weights[f"{norm}.weight"][:, None, None] + weights[f"{norm}.bias"][:, None, None]

    def ceil_average(x):
        n, c, h, w = x.shape
        out = torch.zeros(n, c, (h + 1) // 2, (w + 1) // 2, dtype=x.dtype)
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                out[:, :, i, j] = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].mean((2, 3))
        return out

    x = conv_norm(x, "stem.0", "stem.1").clamp(min=0)
    for i in range(len(network.blocks)):
        begins, name = i in (1, 2), f"blocks.{i}.residual"  # depth 8: one block a stage
        y = conv_norm(x, f"{name}.0", f"{name}.1", 2 if begins else 1).clamp(min=0)
        y = conv_norm(y, f"{name}.3", f"{name}.4")
        x = (y + (ceil_average(x) if begins else x)).clamp(min=0)
        if begins:
            x = torch.cat([x, torch.zeros_like(x)], 1)
    return x.mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"]


def test_the_author_s_network_is_its_prototxt():
    network = make("resnet8-author").double()
    network(torch.randn(16, *SHAPE, dtype=torch.float64))  # running statistics other than 0 and 1
    network.eval()
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(network(x), author_reference(network, x))


def test_he_s_shortcut_subsamples_and_pads_with_zeros():
    network = make("resnet8").double().eval()
    block = network.blocks[1]
    with torch.no_grad():
        for module in block.residual:
            if isinstance(module, nn.BatchNorm2d):
                module.weight.zero_()
    x = torch.rand(2, 16, 8, 8, dtype=torch.float64)
    expected = torch.zeros(2, 32, 4, 4, dtype=torch.float64)
    expected[:, :16] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_the_author_s_initialisation():
    network = make("resnet20-author")
    conv = network.blocks[-1].residual[0]
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert not conv.bias.any()
    assert network.head.weight.abs().max().item() <= (3 / 64) ** 0.5
    assert network.head.weight.std().item() == pytest.approx((1 / 64) ** 0.5, rel=0.1)


def test_width_and_dropout_are_arguments():
    wide = make("resnet8", args={"width": 2.5})
    assert wide.head.in_features == 160
    assert sum(isinstance(m, nn.Dropout) for m in make("resnet8-author", args={"dropout": 0.2}).modules()) == 6


@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 4, 4)])
def test_ghost_batch_norm_equals_separate_batch_norms(shape):
    torch.manual_seed(1)
    ghost = GhostBatchNorm(3, batch_norm_size=5).double()
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    references = [kind(3).double() for _ in range(3)]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = ghost(x)
    expected = torch.cat([norm(part) for norm, part in zip(references, x.split(5), strict=True)])
    torch.testing.assert_close(out, expected)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(gradient, expected_gradient)
    assert torch.equal(ghost.running_mean, references[0].running_mean)
    assert torch.equal(ghost.running_var, references[0].running_var)
    torch.testing.assert_close(ghost.eval()(x), references[0].eval()(x))


def test_any_model_gets_a_batch_norm_size_and_keeps_its_state():
    network = make("resnet8")
    network(torch.randn(8, *SHAPE))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    set_batch_norm_size(network, 4)
    assert sum(isinstance(m, GhostBatchNorm) for m in network.modules()) == 7
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert any(isinstance(m, GhostBatchNorm) for m in make("mlp", batch_norm_size=16).modules())


def test_weights_start_a_model_and_a_head_of_another_size_stays_fresh(tmp_path: Path):
    source = make("resnet8")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match=r"head\.bias, head\.weight"):
        started = make("resnet8", num_classes=3, weights=tmp_path / "w.safetensors")
    assert torch.equal(started.stem[0].weight, source.stem[0].weight)
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    for path, says in (("bad.safetensors", "cannot be read"), ("absent.safetensors", "cannot be read")):
        with pytest.raises(UserError, match=says):
            make("resnet8", weights=tmp_path / path)
    with pytest.raises(UserError, match="another architecture"):
        make("mlp", weights=tmp_path / "w.safetensors")


def tiny(num_classes, in_channels, hidden=4):
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, hidden), nn.Linear(hidden, num_classes)
    )


def no_network(num_classes):
    return num_classes


def test_an_import_string_is_called_with_what_it_takes():
    network = make(f"{__name__}:tiny", args={"hidden": 6})
    assert network[2].out_features == 6
    assert network(torch.randn(2, *SHAPE)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet21", {}, "20 and 26"),
        ("resnet2", {}, "8 and 14"),
        ("resnet2O", {}, "did you mean resnet20"),
        ("lenet", {"image_shape": (1, 8, 8)}, "16×16"),
        ("mlp", {"args": {"depth": 3}}, "takes no depth; it takes widths"),
        ("no.such.module:net", {}, "cannot be imported"),
        ("torch:nothing", {}, "cannot be imported"),
        ("torch:__version__", {}, "not a callable"),
        (f"{__name__}:no_network", {}, "not a torch"),
        (f"{__name__}:tiny", {"args": {"hidden": "many"}}, "tiny"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, options, says):
    with pytest.raises(UserError, match=says):
        make(name, **options)


def test_a_default_for_every_kind_of_image():
    assert [models.default_model(shape) for shape in ((1, 8, 8), (1, 28, 28), (3, 32, 32))] == [
        "mlp",
        "lenet",
        "resnet20",
    ]
    for name in models.available():
        make(name)
