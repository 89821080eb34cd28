"""A finished run, used: its model with what it needs to read an image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from safetensors.torch import load_file
from torch import Tensor, nn

from superconv import files, models
from superconv.data.channels import Mean
from superconv.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    label: str
    probability: float
    probabilities: dict[str, float]
    """Of every class, the likeliest first."""


@dataclass(frozen=True)
class Saved:
    """A trained classifier in evaluation mode, with the normalisation and class names of its run."""

    model: nn.Module
    class_names: tuple[str, ...]
    mean: Mean
    std: tuple[float, ...]
    image_shape: tuple[int, int, int]

    @torch.inference_mode()
    def predict(self, path: Path) -> Prediction:
        """Classify an image file of any size; it is resized to what the model was trained on.

        Raises:
            UserError: The file is no image.
        """
        probabilities = self.model(self._read(path)[None]).softmax(-1)[0]
        ranked = sorted(zip(self.class_names, probabilities.tolist(), strict=True), key=lambda pair: -pair[1])
        return Prediction(*ranked[0], dict(ranked))

    def _read(self, path: Path) -> Tensor:
        channels, height, width = self.image_shape
        try:
            with Image.open(path) as image:
                resized = image.convert("L" if channels == 1 else "RGB").resize(
                    (width, height), Image.Resampling.BILINEAR
                )
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"{path} is no image that can be read ({error})") from error
        pixels = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(height, width, channels)
        scaled = pixels.permute(2, 0, 1).float() / 255
        mean = torch.tensor(self.mean)
        return (scaled - (mean if mean.dim() == 3 else mean[:, None, None])) / torch.tensor(self.std)[:, None, None]


def load(folder: Path | str) -> Saved:
    """Load the model of a finished image-classification run.

    Raises:
        UserError: The folder holds no finished run, or its weights do not fit its model.
    """
    folder = Path(folder)
    if not (folder / "run.json").exists():
        raise UserError(f"{folder} holds no finished run (no run.json); finish it with --resume")
    numbers: dict[str, Any] = files.read_json(folder / "run.json")
    try:
        built = dict(numbers["model"])
        shape = tuple(built.pop("image_shape"))
        model = models.create(built.pop("name"), image_shape=shape, **built)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        names, mean, std = (tuple(numbers[key]) for key in ("class_names", "mean", "std"))
    except KeyError as error:
        raise UserError(f"{folder / 'run.json'} describes no image classifier ({error} is missing)") from error
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{folder / 'model.safetensors'} cannot be loaded: {' '.join(str(error).split())[:200]}"
        ) from error
    return Saved(model.eval(), names, mean, std, shape)
