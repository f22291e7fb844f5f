"""What hostile bytes are given to. A target returns for any bytes at all: each file gives FormatError or opens right.

It fails by any other exception, and by a weight whose values differ from the reference's or from the file's own bytes.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_dequant as mxd
from mlx_dequant.diagnostics.compare import same_bits
from mlx_dequant.loading import GGUFFile
from mlx_dequant.loading.safetensors import SIZES, SafetensorsFile

from .draw import Draw
from .edits import SEPARATOR
from .weights import drawn_weight

LARGEST = 1 << 16  # weights of a tensor whose values are checked
CHECKED = 2  # tensors of a GGUF file whose values are checked

# In memory, where there is such a place: a million files are written.
FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None, prefix="mlx-dequant-fuzz-"))


def _written(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.unlink(missing_ok=True)  # a new file: the old one may still be mapped
    path.write_bytes(data)
    return path


def check_weight(weight: mxd.QuantizedWeight | mx.array, dtype: mx.Dtype = mx.float32) -> None:
    """Every backend here gives the reference's values, or any NaN for a NaN."""
    if isinstance(weight, mx.array):
        mx.eval(weight)
        return
    if not 0 < weight.size <= LARGEST:
        assert weight.dequantize(dtype).shape == weight.shape
        return
    with mxd.use_backend("reference"):
        expected = np.asarray(weight.dequantize(dtype).astype(mx.float32))
    for name in mxd.available_backends():
        with mxd.use_backend(name):
            found = np.asarray(weight.dequantize(dtype).astype(mx.float32))
        result = same_bits(found, expected, name == "metal")
        assert not result.wrong, f"{weight}: {name}: {result}"


def gguf(data: bytes) -> None:
    """A GGUF file."""
    try:
        file = GGUFFile(_written("model.gguf", data))
    except mxd.FormatError:
        return
    for key in file.metadata:
        _refused(lambda key=key: file.metadata[key])
    ends = sorted((info.offset, info.offset + info.nbytes) for info in file.tensors.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ends)), "tensors overlap"
    for number, (name, info) in enumerate(file.tensors.items()):
        assert info.offset + info.nbytes <= len(data) or not info.nbytes
        weight = _refused(lambda name=name: file.read(name))
        if weight is not None:
            assert weight.size == np.prod(info.shape, dtype=object)
            if number < CHECKED:
                check_weight(weight)
        if weight is not None and int.from_bytes(data[4:8], "little") < 1 << 16:
            assert file.blocks(name).tobytes() == data[info.offset : info.offset + info.nbytes]


def safetensors(data: bytes) -> None:
    """A safetensors file."""
    try:
        file = SafetensorsFile(_written("file.safetensors", data))
    except mxd.FormatError:
        return
    for name, entry in file.tensors.items():
        array = _refused(lambda name=name: file.read(name))
        if array is None:
            continue
        assert array.shape == entry.shape
        raw = data[entry.offset : entry.offset + entry.nbytes]
        assert entry.dtype == "BOOL" or bytes(memoryview(array.reshape(-1).view(mx.uint8))) == raw


def folder(data: bytes) -> None:
    """config.json, index (none if empty), header and data of a safetensors file, with `SEPARATOR` between them."""
    config, index, header, rest = (data.split(SEPARATOR, 3) + [b""] * 3)[:4]
    header, rest = _laid_out(header, rest)
    path = FOLDER / "folder"
    path.mkdir(exist_ok=True)
    _written("folder/config.json", config)
    _written("folder/model.safetensors", len(header).to_bytes(8, "little") + header + rest)
    listed = _written("folder/model.safetensors.index.json", index)
    if not index:
        listed.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            checkpoint = mxd.load(path)
        except (mxd.FormatError, FileNotFoundError):
            return
        for name in checkpoint.weights:
            weight = _refused(lambda name=name: checkpoint.weights[name])
            if weight is not None:
                check_weight(weight)


def _laid_out(header: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Puts tensors that have no offsets one after the other, so that an edit of a shape or a type gives a file that
    opens; the data is repeated."""
    try:
        rows, end = json.loads(header), 0
        for row in rows.values():
            if "data_offsets" not in row:
                size = prod(row["shape"]) * SIZES.get(row["dtype"], 1)
                row["data_offsets"] = [end, end := end + size]
        assert type(end) is int and 0 <= end <= LARGEST
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError):
        return header, data
    return json.dumps(rows).encode(), (data * (end // max(len(data), 1) + 1))[:end]


def weights(data: bytes) -> None:
    """A weight class, its arrays and its arguments, drawn from bytes."""
    draw = Draw(data)
    made = _refused(lambda: drawn_weight(draw))
    if made is not None:
        check_weight(made, draw.one_of(mx.float32, mx.float16, mx.bfloat16))


def tokenizer(data: bytes) -> None:
    """The tokenizer's keys of a GGUF file."""
    from mlx_dequant.lm.gguf_tokenizer import tokenizer as built

    path = _written("tokenizer.gguf", data)
    made = _refused(lambda: built(GGUFFile(path)))
    if made is not None:
        made.decode(made.encode("the rain, naïve 東京\n"))


def _refused(call: Callable[[], Any]) -> Any:
    """What a call gives; None where it raises FormatError."""
    try:
        return call()
    except mxd.FormatError:
        return None


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (gguf, safetensors, folder, weights, tokenizer)
}
