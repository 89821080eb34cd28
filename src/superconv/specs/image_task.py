"""An image classification as plain values."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from superconv.files import make_native


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """An image classification.

    >>> import superconv
    >>> superconv.ImageTask(data="digits", flip="random").plain()["flip"]
    'random'
    """

    data: str
    """digits, mnist, fashion_mnist, cifar10, cifar100, imagenet-1k, others of the hub, folders of parquet or images."""
    model: str | None = None
    """mlp, lenet, resnet20 (any 6n+2), densenet40 (3n+4), wrn32, cifar10-full, resnet50 (ImageNet's);
    as in the paper's files: resnet20-author, bottleneck56-author, resnext56-author;
    or package.module:callable. None takes one that fits the images."""
    model_args: tuple[tuple[str, int | float | str], ...] = ()
    """Further arguments of the model: names and values, such as width 2."""
    weights: Path | None = None
    """A .safetensors file to start from."""
    batch_norm_size: int | None = None
    """Images that batch norm sees together; none takes the whole batch."""
    batch_norm_average: float | None = None
    """Share of running statistics an update keeps, in Caffe's sums (the paper: 0.95 to 0.999); none takes torch's."""
    train_samples: int | None = None
    """Use only so many training images, stratified; none takes all."""
    validation: int | float = 0.1
    """Share (below 1) or whole number of training images held out for every choice; 0 holds out none."""
    watch_test: bool = False
    """Read the test split while training in place of the validation split, as the paper did; no choice uses it."""
    label_column: str | None = None
    """The column of labels, where it cannot be guessed."""
    image_size: int | None = None
    """Resize images to squares of this side in pixels; none leaves them."""
    image_fit: Literal["squash", "pad", "crop"] | None = None
    """Way in which images that are not square are resized: `squash` scales their sides apart, `pad` lays them on
    black, `crop` cuts out the centre; none takes squash, for imagenet-1k crop."""
    skip_corrupt: bool = False
    """Go on without images that cannot be decoded; a note says how many there are."""
    normalization: Literal["channel", "mean_image", "scale"] = "channel"
    """`channel` brings each channel to mean 0 and deviation 1;
    `mean_image` subtracts the mean image and keeps the scale of 0 to 255, as in the paper's runs;
    `scale` divides pixels of 0 to 255 by 256, as for its LeNet."""
    shuffle: bool = True
    """Each epoch has an order of its own; --no-shuffle takes images in that of the files, as in the paper's runs."""
    flip: Literal["none", "random", "alternating"] = "none"
    """Horizontal flips of training images; `alternating` shows each image in turn as it is and flipped."""
    shift: int = 0
    """Shift training images at random by up to so many pixels."""
    cutout: int = 0
    """Side in pixels of a random square of training images that is set to the mean."""
    split_seed: int = 0
    """Seed of the subset and of the validation split, apart from the run's."""

    def __post_init__(self) -> None:
        make_native(self)

    def plain(self) -> dict[str, Any]:
        """The task as plain values, for JSON and hashes."""
        task = asdict(self) | {"model_args": dict(self.model_args)}
        for name, usual in (("image_fit", None), ("skip_corrupt", False)):  # younger than stored runs, whose hash stays
            if task[name] == usual:
                del task[name]
        return {k: str(v) if isinstance(v, Path) else v for k, v in task.items()}
