"""The README's range test and cycle with the rate that it suggests: a working rate whatever the verdict is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from superconv import OneCycle, RangeTest, judge
from superconv.data.reading.digits import load_digits


def network(kind: str) -> nn.Module:
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    parts = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*parts)


@pytest.mark.parametrize(("kind", "seed"), [*(("cnn", seed) for seed in range(6)), ("mlp", 3)])
def test_adamw_in_the_readmes_loop_ends_well_from_every_seed(kind, seed):
    """Six seeds had given two TypeErrors, and one network at chance."""
    (x, y), (test_x, test_y) = (
        [torch.as_tensor(each) for each in load_digits().splits[split]] for split in ("train", "test")
    )
    x, test_x = (each.reshape(-1, 1, 8, 8).float() / 255 for each in (x, test_x))
    torch.manual_seed(seed)
    model = network(kind)
    optimizer = torch.optim.AdamW(model.parameters())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=64, shuffle=True)
    with RangeTest(model, optimizer, max_lr=1.0, steps=100) as test:
        for images, labels in test.iterate(loader):
            output = model(images)
            loss = F.cross_entropy(output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            test.record(loss, metric=(output.argmax(1) == labels).float().mean())
    scheduler = OneCycle(optimizer, max_lr=judge(test.curve).suggested_lr, total_steps=7 * len(loader))
    for _ in range(7):
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        assert (model(test_x).argmax(1) == test_y).float().mean() > 0.85
