import subprocess
import sys

import pytest
import torch

from superconv.data import load
from superconv.errors import UserError


def labels(source):
    return source.labels.bincount(minlength=10)


def test_digits_are_all_there_and_divided_by_class():
    data = load("digits")
    assert data.image_shape == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    assert (len(data.train), len(data.validation), len(data.test)) == (1293, 144, 360)
    total = labels(data.train) + labels(data.validation) + labels(data.test)
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # digits.rst of scikit-learn
    assert (labels(data.test) - total / 5).abs().max() <= 1
    assert (labels(data.validation) - total * 0.08).abs().max() <= 1.5
    assert data.train.images.min() == 0
    assert data.train.images.max() == 255


def test_mean_and_deviation_are_those_of_the_training_images():
    data = load("digits", train_samples=200)
    images = data.train.images.double() / 255
    assert data.mean == pytest.approx([images.mean().item()])
    assert data.std == pytest.approx([images.std(correction=0).item()])


def key(images):
    return {tuple(image.flatten().tolist()) for image in images}


def test_no_image_is_in_two_splits_and_the_test_split_is_fixed():
    first, second = load("digits", seed=0), load("digits", seed=1)
    parts = [key(part.images) for part in (first.train, first.validation, first.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797
    assert torch.equal(first.test.images, second.test.images)
    assert key(first.validation.images) != key(second.validation.images)


def test_smaller_subsets_lie_within_larger_ones():
    small, large, whole = (load("digits", train_samples=count) for count in (100, 400, None))
    assert key(small.train.images) < key(large.train.images) < key(whole.train.images)
    assert torch.equal(small.validation.images, whole.validation.images)
    assert (labels(small.train) - labels(whole.train) * 100 / 1293).abs().max() <= 1


@pytest.mark.parametrize(("validation", "count"), [(0, None), (0.5, 718), (200, 200), (200.0, 200)])
def test_validation_is_a_fraction_or_a_count(validation, count):
    data = load("digits", validation=validation)
    assert data.validation is None if count is None else len(data.validation) == count
    assert len(data.train) == 1437 - (count or 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": -0.1}, "hold out -0.1"),
        ({"validation": 1.5}, "whole number"),
        ({"validation": 1437}, "nothing would be left"),
        ({"train_samples": 1294}, "1293 training images are left"),
        ({"train_samples": 0}, "give 1 to 1293"),
        ({"label_column": "x"}, "leave out --label-column"),
        ({"image_size": 0}, "--image-size"),
    ],
)
def test_impossible_wishes_get_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        load("digits", **options)
    assert "\n" not in str(caught.value)


def test_digits_need_no_extra():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['datasets', 'PIL', 'pyarrow', 'huggingface_hub']));"
        "from superconv.data import load; print(len(load('digits').train))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1293\n"


def test_importing_the_package_imports_no_extra():
    code = "import sys, superconv.data; print({'datasets', 'PIL', 'pyarrow', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
