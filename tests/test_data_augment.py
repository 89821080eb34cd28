import pytest
import torch

from superconv.data import Augmentation, ImageTransform

EVERYTHING = [
    Augmentation(),
    Augmentation(flip="random"),
    Augmentation(flip="alternating", shift=4, padding="reflect"),
    Augmentation(flip="random", shift=4, cutout=8),
]
IMAGES = torch.arange(64 * 3 * 12 * 11).mul(37).remainder(256).to(torch.uint8).view(64, 3, 12, 11)
INDICES = torch.arange(64)


def plain(augmentation: Augmentation = Augmentation()) -> ImageTransform:  # noqa: B008
    return ImageTransform((0.0,) * 3, (1 / 255,) * 3, augmentation)  # keeps the values of the pixels


def augmented(augmentation, epoch=0, images=IMAGES, indices=INDICES, seed=0):
    return plain(augmentation)(images, (torch.full_like(indices, epoch), indices), seed=seed, augment=True)


def test_normalises_with_mean_and_deviation_of_each_channel():
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    batch = ImageTransform(mean, std)(IMAGES, (INDICES, INDICES), seed=0, augment=False)
    expected = (IMAGES.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, expected.float(), rtol=1e-5, atol=1e-5)


def test_evaluation_and_the_default_change_nothing():
    draw = (INDICES, INDICES)
    assert torch.equal(plain(EVERYTHING[3])(IMAGES, draw, seed=0, augment=False), IMAGES.float())
    assert torch.equal(augmented(Augmentation()), IMAGES.float())


@pytest.mark.parametrize("augmentation", EVERYTHING)
def test_an_image_is_the_same_in_any_batch(augmentation):
    transform = ImageTransform((0.49, 0.48, 0.44), (0.24, 0.23, 0.26), augmentation)
    epochs = INDICES % 3
    whole = transform(IMAGES, (epochs, INDICES), seed=9, augment=True)
    shuffled = INDICES.flip(0)[::3]
    part = transform(IMAGES[shuffled], (epochs[shuffled], shuffled), seed=9, augment=True)
    assert torch.equal(part, whole[shuffled])
    for i in (0, 17, 63):
        alone = transform(IMAGES[i : i + 1], (epochs[i : i + 1], INDICES[i : i + 1]), seed=9, augment=True)
        assert torch.equal(alone[0], whole[i])


@pytest.mark.parametrize("augmentation", EVERYTHING[1:])
def test_epochs_and_seeds_vary_the_images_and_touch_no_generator(augmentation):
    before = torch.get_rng_state()
    first = augmented(augmentation)
    assert not torch.equal(first, augmented(augmentation, epoch=1))
    assert not torch.equal(first, augmented(augmentation, seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_a_random_flip_mirrors_about_half():
    batch, images = augmented(Augmentation(flip="random")), IMAGES.float()
    mirrored = (batch == images.flip(-1)).all(-1).all(-1).all(-1)
    kept = (batch == images).all(-1).all(-1).all(-1)
    assert (mirrored ^ kept).all()
    assert 20 < mirrored.sum() < 44


def test_alternating_flips_show_both_ways_in_two_epochs():
    epochs = [augmented(Augmentation(flip="alternating"), epoch=epoch) for epoch in range(3)]
    assert torch.equal(epochs[0], epochs[1].flip(-1))
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], IMAGES.float())


@pytest.mark.parametrize(("padding", "mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_a_shift_is_a_crop_of_the_padded_image(padding, mode):
    shift = 2
    batch = augmented(Augmentation(shift=shift, padding=padding))
    padded = torch.nn.functional.pad(IMAGES.float(), (shift,) * 4, mode=mode)
    places = set()
    for image, source in zip(batch, padded, strict=True):
        found = [
            (y, x)
            for y in range(2 * shift + 1)
            for x in range(2 * shift + 1)
            if torch.equal(image, source[:, y : y + 12, x : x + 11])
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 15  # of 25


def test_cutout_removes_one_square_after_normalisation():
    ones = torch.full((500, 1, 10, 10), 255, dtype=torch.uint8)
    transform = ImageTransform((0.5,), (0.5,), Augmentation(cutout=4))
    batch = transform(ones, (torch.zeros(500, dtype=torch.int64), torch.arange(500)), seed=0, augment=True)
    assert set(batch.unique().tolist()) == {0.0, 1.0}
    removed = batch[:, 0] == 0
    rows, columns = removed.any(2).sum(1), removed.any(1).sum(1)
    assert torch.equal(removed.sum((1, 2)), rows * columns)
    assert rows.max() == columns.max() == 4
    assert rows.min() == columns.min() == 2  # at the border
    assert (removed.float().mean(0) > 0).all()  # any pixel can go


@pytest.mark.parametrize("wrong", [{"flip": "yes"}, {"padding": "edge"}, {"shift": -1}, {"cutout": -1}])
def test_wrong_augmentations_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Augmentation(**wrong)


def test_a_reflection_needs_pixels_enough():
    with pytest.raises(ValueError, match="cannot be reflected"):
        augmented(Augmentation(shift=11, padding="reflect"))
