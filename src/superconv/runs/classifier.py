"""A finished run, used: its model with what it needs to read an image."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from superconv import files, models
from superconv.data.augment import ImageTransform
from superconv.data.reading.decode import Fit, Geometry, decode, read_file
from superconv.errors import UserError, one_line
from superconv.runs.folder import RunFolder


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    label: str
    probability: float
    probabilities: dict[str, float]
    """Of every class, the likeliest first."""


@dataclass(frozen=True)
class Classifier:
    """A trained classifier in evaluation mode, with the class names of its run and what images went through there.

    >>> import superconv
    >>> from PIL import Image
    >>> task = superconv.image_task(superconv.ImageTask(data="digits"))
    >>> folder = superconv.fit(task, "runs/classifier", steps=20, max_lr=0.1, progress=False).folder
    >>> Image.new("L", (8, 8)).save("black.png")
    >>> superconv.load_run(folder).predict("black.png").label in "0123456789"
    True
    """

    model: nn.Module
    class_names: tuple[str, ...]
    transform: ImageTransform
    image_shape: tuple[int, int, int]
    image_fit: Fit = "squash"
    """Way in which an image of another shape is brought to that of the training images, as those were."""
    center: float = 1.0
    """Share of the largest central box that is cut out where `image_fit` is `crop`."""

    @torch.inference_mode()
    def predict(self, path: Path | str) -> Prediction:
        """Classify an image file of any size; it is brought to that of the training images as those were.

        Raises:
            UserError: The file is no image.
        """
        probabilities = self.model(self._read(Path(path))).softmax(-1)[0]
        ranked = sorted(zip(self.class_names, probabilities.tolist(), strict=True), key=lambda pair: -pair[1])
        return Prediction(*ranked[0], dict(ranked))

    def _read(self, path: Path) -> Tensor:
        channels, height, width = self.image_shape
        geometry = Geometry(channels, (height, width), self.image_fit, self.center)
        pixels = torch.from_numpy(decode(read_file(path), geometry, str(path)))[None]
        nothing = torch.zeros(1, dtype=torch.int64)
        return self.transform(pixels, (nothing, nothing), seed=0, augment=False)


def load_run(folder: Path | str, *, trust: bool = False) -> Classifier:
    """Load the model of a finished image-classification run.

    Args:
        folder: Folder of the run.
        trust: Whether code that the run's files name may be run: needed where the model is an import string, and no
            built-in one.

    Raises:
        UserError: The folder holds no finished run, names code that is not trusted, or its weights do not fit its
            model.

    >>> import superconv
    >>> task = superconv.image_task(superconv.ImageTask(data="digits"))
    >>> folder = superconv.fit(task, "runs/loaded", steps=20, max_lr=0.1, progress=False).folder
    >>> superconv.load_run(folder).class_names[:3]
    ('0', '1', '2')
    """
    run = RunFolder(Path(folder))
    if not run.finished:
        raise UserError(f"{folder} holds no finished run (no {run.numbers.path.name}); finish it with --resume")
    numbers = run.numbers.read()
    try:
        built = dict(numbers["model"])
        shape = tuple(built.pop("image_shape"))
        name = str(built.pop("name"))
        if models.is_foreign(name) and not trust:
            raise UserError(
                f"{run.numbers.path} names {name} as its model, which would run code that is not superconv's: if you "
                "trust it, say so by --trust (in Python: load_run(folder, trust=True))"
            )
        model = models.create(name, image_shape=shape, **built)
        model.load_state_dict(run.weights.read())
        statistics = {key: numbers[key] for key in ("mean", "std")}
        transform = files.checked(ImageTransform, statistics, source=run.numbers.path)
        names = tuple(numbers["class_names"])
    except KeyError as error:
        raise UserError(f"{run.numbers.path} describes no image classifier ({error} is missing)") from error
    except RuntimeError as error:
        raise UserError(f"{run.weights.path} does not fit its model: {one_line(error, most=200)}") from error
    fit = numbers.get("image_fit", "crop")  # which was the only way before it was kept
    return Classifier(model.eval(), names, transform, shape, fit, numbers.get("center", 1.0))
