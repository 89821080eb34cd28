"""Pictures with transparency or of any shape, in training and in `predict` alike."""

import json

import numpy as np
import pytest
import torch
from data_files import picture, write_folder
from PIL import Image

import superconv
from superconv.data import in_order, load
from superconv.errors import UserError
from superconv.models import create
from superconv.runs.classifier import Classifier

pytestmark = pytest.mark.usefixtures("own_cache")


def marked(root, count=10):
    """Pictures of 24×8 pixels whose class is a bright square at the left or at the right end."""
    for name, place in (("left", slice(0, 6)), ("right", slice(18, 24))):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.zeros((8, 24), np.uint8)
            pixels[1:7, place] = 200 + index
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def stencils(root, count=10, ink=0):
    """RGBA pictures of one colour; only their alpha channel tells them apart."""
    for name, place in (("left", slice(0, 4)), ("right", slice(4, 8))):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((8, 8, 4), ink, np.uint8)
            pixels[..., 3] = 0
            pixels[index % 8, place, 3] = 255
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def reader(data):
    """The classifier that a run on this set would keep; its model only hands on what it is given."""
    shape = data.image_shape
    return Classifier(torch.nn.Flatten(), data.class_names, data.train.transform, shape, data.image_fit, data.center)


@pytest.mark.parametrize("fit", [None, "squash", "pad"])
@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_a_mark_at_the_edge_of_a_wide_picture_is_kept(tmp_path, fit, resident_bytes):
    data = load(marked(tmp_path), image_size=8, image_fit=fit, validation=0, resident_bytes=resident_bytes, workers=0)
    (inputs, labels), *_ = data.train.batches(in_order(len(data.train), 99), seed=0, augment=True)
    left, right = inputs[..., :3].amax((1, 2, 3)), inputs[..., 5:].amax((1, 2, 3))
    assert torch.equal(left > right, labels == 0)
    assert data.image_fit == (fit or "squash")
    placed = "scaled and laid on black" if fit == "pad" else "squashed"
    assert any(f"are not square: they are {placed} to be 8×8 pixels" in note for note in data.notes)


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("resident_bytes", [2**30, 0])
@pytest.mark.parametrize("size", [8, None])
@pytest.mark.parametrize("make", [marked, stencils])
def test_predict_reads_a_picture_as_training_did(tmp_path, fit, resident_bytes, size, make):
    folder = make(tmp_path)
    fit = {} if size is None else {"image_fit": fit}
    data = load(folder, image_size=size, validation=0, resident_bytes=resident_bytes, workers=0, **fit)
    (inputs, _), *_ = data.test.batches(in_order(len(data.test), 99), seed=0, augment=False)
    read = torch.cat([reader(data)._read(path) for path in folder.rglob("*.png")])
    assert all(any(torch.equal(image, other) for other in read) for image in inputs)


@pytest.mark.parametrize("ink", [0, 255])
def test_pictures_in_the_alpha_channel_are_told_apart_and_noted(tmp_path, ink):
    data = load(stencils(tmp_path, ink=ink), validation=0)
    assert len({tuple(image.flatten().tolist()) for image in data.train.images}) > 10
    assert data.notes[0].startswith("20 of 20 images have transparent parts: they are laid over white")
    assert load(tmp_path, validation=0).notes == data.notes  # out of the cache


def test_images_that_are_all_alike_are_noted(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(10):
            (tmp_path / name / f"{index}.png").write_bytes(picture(7))
    assert "all training images are alike, pixel by pixel" in load(tmp_path, validation=0).notes[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [({"image_fit": "pad"}, "give that too"), ({"image_fit": "zoom", "image_size": 8}, "not 'zoom'")],
)
def test_a_fit_that_does_nothing_is_refused(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        load(write_folder(tmp_path, {"cat": 10, "dog": 10}), **options)


def test_a_run_keeps_how_its_images_were_read(tmp_path):
    folder = marked(tmp_path / "set")
    spec = superconv.ImageTask(data=str(folder), model="mlp", image_size=8, image_fit="pad")
    task = superconv.image_task(spec)
    assert task.facts["image_fit"] == "pad"
    assert superconv.ImageTask(data="x").plain().keys().isdisjoint({"image_fit", "skip_corrupt"})  # old hashes hold
    model = create("mlp", num_classes=2, image_shape=(1, 8, 8))
    from superconv.files import writes
    from superconv.runs.folder import RunFolder

    assert writes()
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    facts = dict(task.facts) | {"model": {**task.facts["model"]}}
    run.weights.write(model.state_dict())
    for kept, fit in (({"image_fit": "pad"}, "pad"), ({}, "crop")):  # runs of before cut out the centre
        numbers = {k: v for k, v in facts.items() if k != "image_fit"} | kept
        run.numbers.path.write_text(json.dumps(numbers))
        assert superconv.load_run(run.path).image_fit == fit
