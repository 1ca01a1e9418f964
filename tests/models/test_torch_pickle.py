import collections
import hashlib
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from keras_sgdr.models.torch_pickle import read_state_dict

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


class _StorageReference:
    def __init__(self, kind, key, length):
        self.pid = ("storage", kind, key, "cpu", length, None)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _StorageReference) else None


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def torch_names(monkeypatch):
    """Modules of torch's names, so that the pickles below refer to them as torch itself would."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    utils._rebuild_tensor_v2 = types.FunctionType((lambda *a: a).__code__, {"__name__": "torch._utils"})
    utils._rebuild_tensor_v2.__qualname__ = utils._rebuild_tensor_v2.__name__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2.__module__ = "torch._utils"
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return types.SimpleNamespace(storage=torch.FloatStorage, rebuild=utils._rebuild_tensor_v2)


def _write(path, payload, data=(), *, header=(_TORCH_MAGIC, 1001, {"little_endian": True}), lengths=None):
    with path.open("wb") as file:
        for part in (*header, payload, [key for key, _ in data]):
            _Pickler(file, protocol=2).dump(part)
        for index, (_, array) in enumerate(data):
            file.write((lengths[index] if lengths else array.size).to_bytes(8, "little"))
            file.write(array.tobytes())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tensor(names, *, key="7", length=6, offset=0, shape=(2, 3), strides=(3, 1)):
    storage = _StorageReference(names.storage, key, length)
    return _Call(names.rebuild, storage, offset, shape, strides, False, collections.OrderedDict())


def test_tensors_are_read_whatever_their_order_of_axes(tmp_path, torch_names):
    values = np.arange(6, dtype="<f4")
    payload = collections.OrderedDict(
        rows=_tensor(torch_names),
        columns=_tensor(torch_names, shape=(3, 2), strides=(1, 3)),
        tail=_tensor(torch_names, offset=4, shape=(2,), strides=(1,)),
        scalar=_tensor(torch_names, offset=5, shape=(), strides=()),
    )
    digest = _write(tmp_path / "w.pth", payload, [("7", values)])
    tensors = read_state_dict(tmp_path / "w.pth", sha256=digest.upper())
    assert list(tensors) == ["rows", "columns", "tail", "scalar"]
    np.testing.assert_array_equal(tensors["rows"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(tensors["columns"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(tensors["tail"], [4, 5])
    assert tensors["scalar"] == 5
    assert tensors["columns"].flags.c_contiguous
    assert tensors["columns"].flags.writeable


@pytest.mark.parametrize("function", [os.system, Path, print, eval, getattr])
def test_any_other_name_is_refused_and_nothing_runs(tmp_path, torch_names, function):
    marker = tmp_path / "ran"
    payload = collections.OrderedDict(a=_Call(function, f"touch {marker}"))
    digest = _write(tmp_path / "w.pth", payload)
    with pytest.raises(ValueError, match=r"it asks for .*Received: path='.*w\.pth'"):
        read_state_dict(tmp_path / "w.pth", sha256=digest)
    assert not marker.exists()


@pytest.mark.parametrize(
    "tensor",
    [
        {"shape": (2, 4), "strides": (3, 1)},
        {"offset": 1},
        {"shape": (10**12,), "strides": (0,)},
        {"shape": (2, 3), "strides": (3,)},
        {"shape": (2, -3)},
        {"key": "8"},
        {"length": 10**12},
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, torch_names, tensor):
    payload = collections.OrderedDict(a=_tensor(torch_names, **tensor))
    length = tensor.get("length", 6)
    digest = _write(tmp_path / "w.pth", payload, [("7", np.zeros(6, "<f4"))], lengths=[length])
    with pytest.raises(ValueError, match=r"must be a legacy torch file.*Received: path='.*w\.pth'"):
        read_state_dict(tmp_path / "w.pth", sha256=digest)


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        ((1, 1001, {"little_endian": True}), {}),
        ((_TORCH_MAGIC, 1000, {"little_endian": True}), {}),
        ((_TORCH_MAGIC, 1001, {"little_endian": False}), {}),
        ((_TORCH_MAGIC, 1001, {"little_endian": True}), [1]),
        ((_TORCH_MAGIC, 1001, {"little_endian": True}), collections.OrderedDict(a=1)),
    ],
)
def test_another_format_is_refused(tmp_path, header, payload):
    digest = _write(tmp_path / "w.pth", payload, header=header)
    with pytest.raises(ValueError, match=r"must be a legacy torch file.*Received: path='.*w\.pth'"):
        read_state_dict(tmp_path / "w.pth", sha256=digest)


def test_another_content_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"not a pickle")
    with pytest.raises(ValueError, match=r"digest 00.*Received: path='.*w\.pth' with "):
        read_state_dict(tmp_path / "w.pth", sha256="00" * 32)


def test_a_truncated_file_is_refused(tmp_path, torch_names):
    _write(tmp_path / "w.pth", collections.OrderedDict(a=_tensor(torch_names)), [("7", np.zeros(6, "<f4"))])
    content = (tmp_path / "w.pth").read_bytes()
    for keep in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "w.pth").write_bytes(content[:keep])
        with pytest.raises(ValueError, match=r"Received: path='.*w\.pth'"):
            read_state_dict(tmp_path / "w.pth", sha256=hashlib.sha256(content[:keep]).hexdigest())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: path='.*none\.pth'"):
        read_state_dict(tmp_path / "none.pth", sha256="00" * 32)


def test_a_huge_file_is_refused_unread(tmp_path):
    with (tmp_path / "w.pth").open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(ValueError, match=r"at most 1073741824 bytes. Received: path='.*w\.pth'"):
        read_state_dict(tmp_path / "w.pth", sha256="00" * 32)
