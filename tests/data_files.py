"""Small data sets written by the tests of superconv.data."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from superconv.data import load
from superconv.errors import UserError


def picture(value: int, size: tuple[int, int] = (6, 5), mode: str = "RGB", form: str = "PNG") -> bytes:
    """An encoded image; (width, height), all pixels equal to ``value`` in every channel."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).convert(mode).save(buffer, form)
    return buffer.getvalue()


def pictures(count: int, **options) -> list[bytes]:
    return [picture(index * 5 % 256, **options) for index in range(count)]


def write_parquet(
    path: Path, images: list, labels: list, *, names: list[str] | None = None, column: str = "label"
) -> Path:
    """A parquet file in the hub's layout, with its metadata if the classes have names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [None if data is None else {"bytes": data, "path": None} for data in images]
    table = pa.table(
        {
            "image": pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            column: pa.array(labels, from_pandas=False),
        }
    )
    if names is not None:
        features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def write_folder(root: Path, counts: dict[str, int], **options) -> Path:
    """An image folder: for each ``split/class`` or ``class`` so many PNG files."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for index, data in enumerate(pictures(count, **options)):
            (root / folder / f"{index:03}.png").write_bytes(data)
    return root


def refused(path, **options) -> str:
    """The one line with which a set is refused."""
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
