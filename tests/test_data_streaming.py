import numpy as np
import pytest
import torch
from data_files import picture, pictures, write_folder, write_parquet
from PIL import Image

from superconv.data import Augmentation, Order, StreamedImages, in_order, load
from superconv.data.streaming import RandomCrop
from superconv.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


def streamed(path, **options):
    return load(path, resident_bytes=0, **options)


def equal(first, second):
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def noise_folder(root, size=(20, 24), count=12):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / name / f"{index:02}.png")
    return root


def test_a_streamed_set_equals_a_resident_one(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", pictures(30), [0, 1, 2] * 10, names=["a", "b", "c"])
    options = {"train_samples": 20, "augmentation": Augmentation(flip="random", shift=1)}
    resident, stream = load(tmp_path, **options), streamed(tmp_path, workers=0, **options)
    assert isinstance(stream.train, StreamedImages)
    assert (stream.mean, stream.std) == (resident.mean, resident.std)
    assert stream.image_shape == resident.image_shape
    order = Order(20, 8, seed=1)
    for part in ("train", "validation", "test"):
        first, second = getattr(resident, part), getattr(stream, part)
        assert len(first) == len(second)
        draws = list(in_order(len(first), 2))
        assert equal(first.batches(draws, seed=0, augment=False), second.batches(draws, seed=0, augment=False))
    draws = [order.draw(step) for step in range(5)]
    assert equal(*(data.train.batches(draws, seed=0, augment=True) for data in (resident, stream)))


def test_workers_and_batches_change_nothing(tmp_path):
    folder = noise_folder(tmp_path)
    order = Order(20, 4, seed=0)
    here, there = (streamed(folder, image_size=8, image_fit="crop", workers=workers).train for workers in (0, 2))
    before = torch.get_rng_state()
    whole = list(here.batches((order.draw(step) for step in range(7)), seed=3, augment=True))
    assert equal(whole, there.to("cpu").batches((order.draw(step) for step in range(7)), seed=3, augment=True))
    assert torch.equal(before, torch.get_rng_state())
    halves = [Order(20, 4, seed=0, rank=rank, world=2).draw(6) for rank in range(2)]
    joined = [torch.cat(parts) for parts in zip(*here.batches(halves, seed=3, augment=True), strict=True)]
    assert equal(whole[6:], [joined])


def test_training_crops_vary_by_epoch_and_evaluation_does_not(tmp_path):
    source = streamed(noise_folder(tmp_path), image_size=8, image_fit="crop", workers=0).train
    indices = torch.arange(len(source))
    draws = [(torch.full_like(indices, epoch), indices) for epoch in (0, 1)]
    first, second = (inputs for inputs, _ in source.batches(draws, seed=0, augment=True))
    assert (first != second).flatten(1).any(1).all()
    first, second = (inputs for inputs, _ in source.batches(draws, seed=0, augment=False))
    assert torch.equal(first, second)


def test_random_crops_stay_within_the_image_and_cover_its_sizes():
    areas = []
    for bits in range(2000):
        left, top, right, bottom = RandomCrop(bits)(50, 40)
        assert 0 <= left < right <= 50
        assert 0 <= top < bottom <= 40
        areas.append((right - left) * (bottom - top) / 2000)
    assert min(areas) < 0.1
    assert max(areas) > 0.9
    assert 0.4 < sum(areas) / len(areas) < 0.6
    assert RandomCrop(0)(100, 1) == (49, 0, 50, 1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("data", "message"), [(b"rubbish", "cannot be decoded"), (picture(3, (9, 9)), "is 9×9 pixels")]
)
def test_a_bad_image_is_named_when_it_is_drawn(tmp_path, workers, data, message):
    folder = write_folder(tmp_path, {"train/cat": 10, "train/dog": 10})
    write_folder(tmp_path / "test", {"cat": 2})
    set_ = streamed(folder, workers=workers)
    (tmp_path / "test" / "cat" / "001.png").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        list(set_.test.batches(in_order(2, 2), seed=0, augment=False))
    assert str(tmp_path / "test" / "cat" / "001.png") in str(caught.value)
    assert "\n" not in str(caught.value)
