"""The idx format of MNIST: two zero bytes, the type, the number of dimensions, the sizes, the values."""

import gzip
import io
import math
import zlib

import torch
from torch import Tensor

from ..errors import InputError

UNSIGNED_BYTE = 0x08
LARGEST = 2**34
"""Most values that a file may announce: 16 GiB."""
GZIP = b"\x1f\x8b"


def parse(raw: bytes, name: str, dimensions: int) -> Tensor:
    """The uint8 tensor in the bytes of an idx file, compressed by gzip or not.

    Args:
        name: of the file, for errors.
        dimensions: how many it must have.

    Raises:
        InputError: the bytes are no idx file of unsigned bytes, or end before or after its values.
    """
    plain: io.BufferedIOBase = io.BytesIO(raw)
    if raw[:2] == GZIP:
        plain = gzip.GzipFile(fileobj=plain)
    try:
        return _values(plain, name, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} is damaged: it cannot be decompressed; copy it again.") from error


def _values(plain: io.BufferedIOBase, name: str, dimensions: int) -> Tensor:
    magic = plain.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != UNSIGNED_BYTE:
        raise InputError(
            f"{name} begins with {magic.hex(' ') or 'nothing'}, not with 00 00 08 as an idx file of "
            "unsigned bytes does: give a file in the layout of MNIST."
        )
    if magic[3] != dimensions:
        raise InputError(f"{name} has {magic[3]} dimensions: give an idx file with {dimensions}.")
    header = plain.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise InputError(f"{name} ends within its header: copy it again.")
    sizes = [int.from_bytes(header[k : k + 4], "big") for k in range(0, len(header), 4)]
    count = math.prod(sizes)
    if not 0 < count <= LARGEST:
        raise InputError(
            f"{name} announces {' × '.join(map(str, sizes))} values: give a file with 1 to {LARGEST}."
        )
    values = bytearray()
    while len(values) <= count and (more := plain.read(min(count + 1 - len(values), 2**24) or 1)):
        values += more  # in pieces: a false header must not make room for what is not there
    if len(values) != count:
        beside = "more" if len(values) > count else f"only {len(values)}"
        raise InputError(
            f"{name} announces {' × '.join(map(str, sizes))} values but has {beside}: copy it again."
        )
    return torch.frombuffer(values, dtype=torch.uint8).view(sizes)


def pair(
    images: bytes, labels: bytes, names: tuple[str, str], limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Images uint8 `(n, 1, H, W)` and classes int64 `(n,)` from two idx files.

    Args:
        names: of the files, for errors.
        limit: number of classes; None for any.

    Raises:
        InputError: they are no such files, or do not fit together.
    """
    x, y = parse(images, names[0], 3), parse(labels, names[1], 1)
    if len(x) != len(y):
        raise InputError(
            f"{names[0]} has {len(x)} images but {names[1]} {len(y)} classes: give one class for each."
        )
    if limit is not None and int(y.max()) >= limit:
        raise InputError(f"{names[1]} has the class {int(y.max())}: give 0 to {limit - 1}.")
    return x[:, None], y.long()
