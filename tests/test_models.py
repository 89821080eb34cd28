"""Networks against slow, literal references written from the paper's files."""

import subprocess
import sys
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


@pytest.mark.parametrize(
    ("name", "shape", "classes", "count"),
    [
        ("resnet20", SHAPE, 10, 269_722),  # He et al.: 0.27 M
        ("lenet", (1, 28, 28), 10, 431_080),  # Caffe's example
        ("cifar10-full", SHAPE, 10, 89_578),  # the same
        ("bottleneck56-author", SHAPE, 10, 586_826),
        ("resnext56-author", SHAPE, 10, 581_194),
        ("wrn32", SHAPE, 10, 5_126_570),  # 12 convolutions of 16 channels, 10 of 64, 8 of 256
        ("densenet40", SHAPE, 10, 1_019_722),  # Huang et al.: 1.0 M
        ("resnet50", (3, 224, 224), 1000, 25_557_032),  # He et al.: 25.6 M
    ],
)
def test_parameter_counts(name, shape, classes, count):
    network = make(name, image_shape=shape, num_classes=classes)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("mlp", (1, 8, 8), 10),
        ("lenet", (1, 28, 28), 10),
        ("lenet", (3, 32, 32), 7),
        ("lenet", (1, 13, 15), 2),
        ("resnet8", (1, 28, 28), 3),
        ("resnet14-author", (4, 33, 31), 5),
        ("resnet8-author", (3, 5, 2), 4),
        ("wrn8", (1, 9, 8), 3),
        ("bottleneck11-author", (1, 9, 7), 3),
        ("resnext11-author", (4, 8, 8), 3),
        ("densenet7", (1, 9, 7), 3),
        ("cifar10-full", (1, 8, 9), 3),
        ("resnet50", (1, 33, 40), 3),
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


@pytest.mark.parametrize("sides", [(32, 32), (33, 30), (9, 7)])
def test_the_author_s_network_is_its_prototxt(sides):
    network = make("resnet8-author").double()
    network(torch.randn(16, *SHAPE, dtype=torch.float64))  # running statistics other than 0 and 1
    network.eval()
    x = torch.randn(2, 3, *sides, dtype=torch.float64)
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
    assert make("resnet8", args={"width": 2.5}).head.in_features == 160
    assert make("wrn8", args={"width": 0.5}).head.in_features == 128  # 8, 32, 128: four times from stage to stage
    assert make("densenet10", args={"growth": 4}).head.in_features == 40
    assert sum(isinstance(m, nn.Dropout) for m in make("densenet10", args={"dropout": 0.2}).modules()) == 8
    assert [type(m).__name__ for m in make("resnet8-author", args={"dropout": 0.2}).blocks[1].residual] == [
        *("Conv2d", "BatchNorm2d", "Dropout", "ReLU"),
        *("Conv2d", "BatchNorm2d", "Dropout"),
    ]


@pytest.mark.parametrize("name", ["resnet8", "resnet8-author", "bottleneck11-author"])
def test_channels_last_stays_channels_last(name):
    network = make(name).to(memory_format=torch.channels_last)
    x = torch.randn(2, *SHAPE).contiguous(memory_format=torch.channels_last)
    assert network.blocks(network.stem(x)).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x), network.to(memory_format=torch.contiguous_format)(x.contiguous()))


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


def test_a_single_vector_cannot_be_normalised():
    with pytest.raises(UserError, match="batch_norm_size 32 leaves a single sample of a batch of 33"):
        GhostBatchNorm(3, batch_norm_size=32)(torch.randn(33, 3))
    assert GhostBatchNorm(3, batch_norm_size=32)(torch.randn(33, 3, 2, 2)).shape == (33, 3, 2, 2)


def test_any_model_gets_a_batch_norm_size_and_keeps_its_state():
    network = make("resnet8")
    network(torch.randn(8, *SHAPE))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    set_batch_norm_size(network, 4)
    assert sum(isinstance(m, GhostBatchNorm) for m in network.modules()) == 7
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert any(isinstance(m, GhostBatchNorm) for m in make("mlp", batch_norm_size=16).modules())
    (first, *_) = (m for m in make("mlp", batch_norm_average=0.9).modules() if isinstance(m, GhostBatchNorm))
    assert (first.batch_norm_size, first.average) == (None, 0.9)


def test_a_batch_norm_keeps_type_flags_and_identity():
    shared = nn.BatchNorm2d(3).double().eval()
    shared.weight.requires_grad_(False)
    network = nn.ModuleDict({"a": shared, "b": shared})
    set_batch_norm_size(network, 4)
    assert network["a"] is network["b"]
    assert isinstance(network["b"], GhostBatchNorm)
    assert not shared.training
    assert (shared.weight.dtype, shared.weight.requires_grad) == (torch.float64, False)
    assert set_batch_norm_size(shared, 2) is shared  # the model itself, and again
    assert shared.batch_norm_size == 2


class Activated(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input).relu()


@pytest.mark.parametrize("kind", [Activated, nn.SyncBatchNorm, nn.LazyBatchNorm2d])
def test_a_batch_norm_of_its_own_behaviour_is_refused_before_anything_changes(kind):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.LazyBatchNorm2d() if kind is nn.LazyBatchNorm2d else kind(3))
    with pytest.raises(UserError, match=kind.__name__):
        set_batch_norm_size(network, 4)
    assert type(network[0]) is nn.BatchNorm2d


def test_batch_norm_over_chunks_gives_the_gradients_of_separate_processes():
    whole, single = (make("resnet8", batch_norm_size=size).double() for size in (6, None))
    x, y = torch.randn(12, *SHAPE, dtype=torch.float64), torch.arange(12) % 10
    F.cross_entropy(whole(x), y).backward()
    for part in (slice(0, 6), slice(6, 12)):  # two processes: the mean of their mean losses
        (F.cross_entropy(single(x[part]), y[part]) / 2).backward()
    for ours, theirs in zip(whole.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_weights_start_a_model_and_a_head_of_another_size_stays_fresh(tmp_path: Path):
    source = make("resnet8")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match=r"fresh: head\.bias, head\.weight; not used: head\.bias, head\.weight"):
        started = make("resnet8", num_classes=3, weights=tmp_path / "w.safetensors")
    assert torch.equal(started.stem[0].weight, source.stem[0].weight)
    make("resnet8", weights=tmp_path / "w.safetensors")  # everything fits: no warning
    # 24 tensors agree of resnet8's 44 and resnet14's 80: stem 6, head 2, first block 12, counters of the next two 4
    with pytest.warns(UserWarning, match="fresh: .* and 14 more; not used: .* and 50 more"):
        make("resnet8", weights=_saved(make("resnet14"), tmp_path))
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    for path, says in (("bad.safetensors", "cannot be read"), ("absent.safetensors", "cannot be read")):
        with pytest.raises(UserError, match=says):
            make("resnet8", weights=tmp_path / path)
    with pytest.raises(UserError, match="another architecture"):
        make("mlp", weights=tmp_path / "w.safetensors")
    save_file({"1.num_batches_tracked": torch.tensor(7)}, tmp_path / "counter.safetensors")
    with pytest.raises(UserError, match=r"counter\.safetensors.*another architecture"):
        make(f"{__name__}:normed", weights=tmp_path / "counter.safetensors")


def _saved(network: nn.Module, folder: Path) -> Path:
    save_file(network.state_dict(), folder / "deeper.safetensors")
    return folder / "deeper.safetensors"


def normed(num_classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072), nn.Linear(3072, num_classes))


def tiny(num_classes, in_channels, hidden=4):
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, hidden), nn.Linear(hidden, num_classes)
    )


def no_network(num_classes):
    return num_classes


def anything(**options):
    return nn.Linear(len(options), options["num_classes"])


def test_an_import_string_is_called_with_what_it_takes():
    network = make(f"{__name__}:tiny", args={"hidden": 6})
    assert network[2].out_features == 6
    assert network(torch.randn(2, *SHAPE)).shape == (2, 10)
    assert make(f"{__name__}:anything", args={"in_channels": 3}).in_features == 2  # num_classes and what was given


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet21", {}, "20 and 26"),
        ("resnet2", {}, "8 and 14"),
        ("resnet2O", {}, "did you mean resnet20"),
        ("lenet", {"image_shape": (1, 12, 40)}, "13×13.*not 12×40"),
        ("mlp", {"batch_norm_size": 0}, "at least 1 image"),
        ("mlp", {"args": {"widths": [0]}}, "widths must be 1"),
        ("resnet8", {"args": {"width": -1}}, "width must be"),
        ("resnet8", {"args": {"growth": 0}}, "growth must be"),
        ("bottleneck50-author", {}, "depth 9n.2; the nearest are 47 and 56"),
        ("resnext2-author", {}, "11 and 20"),
        ("densenet41", {}, "40 and 43"),
        ("densenet40-author", {}, "there is no model"),
        ("wrn32", {"args": {"growth": 2}}, "takes no growth; it takes dropout, width"),
        ("cifar10-full", {"image_shape": (3, 8, 7)}, "8×8 pixels or more, not 8×7"),
        ("mlp", {"batch_norm_average": 1.0}, "batch_norm_average must be in"),
        ("resnet8", {"args": {"depth": 20}}, "takes no depth; it takes dropout, growth, width"),
        ("resnet8", {"args": {"num_classes": 3}}, "takes no num_classes"),
        ("mlp", {"args": {"depth": 3}}, "takes no depth; it takes widths"),
        ("no.such.module:net", {}, "cannot be imported"),
        ("torch:nothing", {}, "cannot be imported"),
        ("torch:__version__", {}, "not a callable"),
        (".models:net", {}, "there is no model"),
        ("builtins:dict", {}, "no signature"),
        (f"{__name__}:no_network", {}, "not a torch"),
        (f"{__name__}:tiny", {"args": {"hidden": "many"}}, "tiny"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, options, says):
    with pytest.raises(UserError, match=says) as caught:
        make(name, **options)
    assert "\n" not in str(caught.value)


def test_a_default_for_every_kind_of_image():
    shapes = ((1, 8, 8), (3, 12, 32), (1, 13, 13), (1, 28, 28), (3, 13, 13), (3, 32, 32))
    names = [models.default_model(shape) for shape in shapes]
    assert names == ["mlp", "mlp", "lenet", "lenet", "resnet20", "resnet20"]
    for name, shape in zip(names, shapes, strict=True):
        assert make(name, image_shape=shape)(torch.randn(2, *shape)).shape == (2, 10)
    for name in models.available():
        make(name)


def test_names_need_no_torch():
    code = "import sys; from superconv import models; models.available(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
