"""Small files in the layouts of published data sets, written by the tests that read them."""

import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from layerparallel.data.files import File


def real(*parts: str) -> Path:
    """A real file or folder under LAYERPARALLEL_DATA; the test is skipped where it is not there."""
    root = os.environ.get("LAYERPARALLEL_DATA")
    if not root or not Path(root, *parts).exists():
        pytest.skip(f"LAYERPARALLEL_DATA has no {'/'.join(parts)}")
    return Path(root, *parts)


def known(file: File, raw: bytes) -> File:
    """The same file, with the checksum of other bytes."""
    return dataclasses.replace(file, checksums=(hashlib.md5(raw).hexdigest(),))


def put(path: Path, raw: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return raw


def idx(values: np.ndarray, compress: bool = True) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    raw = header + values.astype(np.uint8).tobytes()
    return gzip.compress(raw, mtime=0) if compress else raw


def cifar(images: np.ndarray, labels: list[int], key: bytes = b"labels") -> bytes:
    """Images uint8 (n, 3, 32, 32), as CIFAR's "python version" has them."""
    return pickle.dumps({b"data": images.reshape(len(images), -1), key: labels}, protocol=3)


def mat(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()
