"""Data: what is drawn when (`Order`), what a batch is made of (sources), how images vary, sets by name.

Importing this needs torch and NumPy only; Pillow and `datasets` (``pip install 'superconv[data]'``) are
imported when a set other than ``digits`` is loaded.
"""

from superconv.data.augment import Augmentation, ImageTransform
from superconv.data.conversion import as_source
from superconv.data.images import ImageData, load
from superconv.data.reading.catalog import SHORT_NAMES
from superconv.data.sampling import Draw, Order, in_order
from superconv.data.source import DatasetSource, ResidentImages, Source, TensorSource
from superconv.data.streaming import StreamedImages

__all__ = [
    "SHORT_NAMES",
    "Augmentation",
    "DatasetSource",
    "Draw",
    "ImageData",
    "ImageTransform",
    "Order",
    "ResidentImages",
    "Source",
    "StreamedImages",
    "TensorSource",
    "as_source",
    "in_order",
    "load",
]
