import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from superconv.data import Augmentation, DatasetSource, ImageTransform, Order, ResidentImages, TensorSource, in_order

IMAGES = torch.arange(20 * 3 * 8 * 8).mul(41).remainder(256).to(torch.uint8).view(20, 3, 8, 8)
LABELS = torch.arange(20) % 4
TRANSFORM = ImageTransform((0.5,) * 3, (0.25,) * 3, Augmentation(flip="random", shift=2))


class Noisy(Dataset):
    """Draws from every global generator, as random transforms do."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()]), index


def take(source, order, steps, augment=True):
    draws = (order.draw(step) for step in steps)
    return list(source.batches(draws, seed=7, augment=augment))


def equal(first, second):
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_resident_images_belong_to_their_labels():
    source = ResidentImages(IMAGES, LABELS, TRANSFORM)
    (inputs, targets), *_ = source.batches(in_order(20, 20), seed=0, augment=False)
    assert len(source) == 20
    assert torch.equal(targets, LABELS)
    torch.testing.assert_close(inputs, (IMAGES / 255 - 0.5) / 0.25)


@pytest.mark.parametrize(
    "source",
    [
        ResidentImages(IMAGES, LABELS, TRANSFORM),
        TensorSource(torch.randn(20, 5), torch.randn(20, 2)),
        DatasetSource(Noisy()),
        DatasetSource(Noisy(), workers=1),
    ],
    ids=["resident", "tensors", "dataset", "dataset with a worker"],
)
def test_batches_depend_on_draws_and_seed_only(source):
    order = Order(len(source), 4, seed=1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    whole = take(source, order, range(8))
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()
    assert torch.equal(states[2], torch.get_rng_state())
    torch.rand(3), random.random(), np.random.rand()
    assert equal(whole[5:], take(source, order, range(5, 8)))
    halves = [take(source, Order(len(source), 4, seed=1, rank=rank, world=2), range(8)) for rank in range(2)]
    joined = [tuple(torch.cat(parts) for parts in zip(*ranks, strict=True)) for ranks in zip(*halves, strict=True)]
    assert equal(whole, joined)


def test_workers_do_not_change_a_random_data_set_but_epochs_do():
    order = Order(9, 9, seed=0, shuffle=False)
    here, there = (take(DatasetSource(Noisy(), workers=workers), order, range(2)) for workers in (0, 2))
    assert equal(here, there)
    assert torch.equal(here[0][1], here[1][1])
    assert not torch.equal(here[0][0][:, 1:], here[1][0][:, 1:])


def test_a_data_set_can_be_collated_otherwise():
    source = DatasetSource(Noisy(), collate=lambda rows: (torch.tensor([y for _, y in rows]) * 10, torch.zeros(1)))
    (inputs, _), *_ = source.batches(in_order(9, 3), seed=0, augment=False)
    assert inputs.tolist() == [0, 10, 20]


def test_endless_draws_are_served():
    source = ResidentImages(IMAGES, LABELS, TRANSFORM)
    order = Order(20, 3, seed=0)
    batches = source.batches(map(order.draw, iter(int, 1)), seed=0, augment=True)
    assert [next(batches)[0].shape for _ in range(3)] == [(3, 3, 8, 8)] * 3


def test_inputs_and_targets_must_be_as_many():
    with pytest.raises(ValueError, match="3 inputs and 2 targets"):
        TensorSource(torch.zeros(3), torch.zeros(2))


def test_sources_move_to_a_device():
    for source in (ResidentImages(IMAGES, LABELS, TRANSFORM), TensorSource(IMAGES, LABELS), DatasetSource(Noisy())):
        moved = source.to("cpu")
        assert type(moved) is type(source)
        assert equal(
            moved.batches(in_order(9, 9), seed=0, augment=True), source.batches(in_order(9, 9), seed=0, augment=True)
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_makes_the_same_batches():
    here = ResidentImages(IMAGES, LABELS, TRANSFORM)
    there = here.to("cuda")
    for (a, b), (c, d) in zip(
        take(here, Order(20, 8, seed=1), range(5)), take(there, Order(20, 8, seed=1), range(5)), strict=True
    ):
        assert c.is_cuda
        torch.testing.assert_close(a, c.cpu(), rtol=1e-6, atol=1e-6)
        assert torch.equal(b, d.cpu())
