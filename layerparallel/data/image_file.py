"""One image file as 8-bit values: as its EXIF data, transparency and depth have it, or not at all."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from PIL import Image

GREY = ("1", "L", "LA", "La")
FIRST_OF_SEVERAL = ("MPO", "PSD")
"""Formats whose first image is the picture; the others are previews or layers."""

BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
WHITE_IS_ZERO, SIGNED = 0, 2  # and two of their values


class Picture(NamedTuple):
    """What is in an image file.

    Args:
        values: uint8 `(1, H, W)` of a grey image, else `(3, H, W)`.
        span: the least and the greatest of the values, without transparency, where the file has more
            than 8 bits a channel; None where it has not.
    """

    values: Tensor
    span: tuple[int, int] | None


def read(path: Path, size: int | None = None) -> Picture:
    """The image in a file, turned as its EXIF data say, on white where it is transparent.

    Unsigned values of 12 or 16 bits are scaled to 8.

    Args:
        size: side in pixels to which it is scaled; None takes it as it is.

    Raises:
        InputError: it is no image or is damaged, has several images, has no known range of values, or
            is white on a transparent ground.
    """
    from PIL import UnidentifiedImageError

    try:
        return _picture(path, size)
    except InputError:
        raise
    except Exception as error:  # of a damaged file Pillow raises anything
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else said
        raise InputError(
            f"{path} cannot be read as an image ({reason}): replace it or take it out."
        ) from error


def _picture(path: Path, size: int | None) -> Picture:
    from PIL import ImageOps

    raw = path.read_bytes()
    if not raw:
        raise EOFError("it is empty")
    image = _open(raw)
    if getattr(image, "is_animated", False) and image.format not in FIRST_OF_SEVERAL:
        raise InputError(f"{path} holds several images: save each that counts as a file of its own.")
    ImageOps.exif_transpose(image, in_place=True)
    depth = _depth(image, raw)
    if depth is None:
        raise InputError(
            f"{path} has signed, 32-bit or floating-point values (mode {image.mode}), and nothing says "
            "which is black and which is white: save it with unsigned values of 8 or 16 bits."
        )
    if depth != 8 and image.mode != "P" and "transparency" in image.info:
        raise InputError(  # Pillow does not bring that colour to the depth of its pixels
            f"{path} has a transparent colour of {depth} bits a channel, which cannot be told from "
            "others: save it with 8 bits, or without transparency."
        )
    grey_at_sixteen = image.format == "PNG" and raw[25] == 4  # with alpha: Pillow makes it RGBA
    mode = "L" if image.mode in GREY or image.mode.startswith("I") or grey_at_sixteen else "RGB"
    if image.mode.startswith("I"):
        image = _eight_bits(image, 2**depth - 1)
    opaque = image.convert(mode)
    span = _extremes(opaque) if depth > 8 else None
    if image.has_transparency_data:
        opaque = _on_white(path, image.convert(f"{mode}A"), mode)
    if size is not None:
        opaque = opaque.resize((size, size))
    values = torch.from_numpy(np.array(opaque))
    return Picture(values[None] if mode == "L" else values.permute(2, 0, 1), span)


def _open(raw: bytes) -> "Image.Image":
    from PIL import Image

    image = Image.open(io.BytesIO(raw))
    if image.format == "PNG":
        image.verify()  # reading alone passes over the checksums; nothing can be read after it
        image = Image.open(io.BytesIO(raw))
    return image


def _depth(image: "Image.Image", raw: bytes) -> int | None:
    """Bits of a channel in the file; None where the range of its values is not known."""
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F" or SIGNED in tags.get(SAMPLE_FORMAT, ()):
        return None
    if image.format == "PNG":
        return raw[24]
    if image.format == "TIFF":
        return None if image.mode == "I" else tags.get(BITS, (1,))[0]
    if image.mode.startswith("I"):  # Pillow scales both to 16 bits
        return 16 if image.format in ("JPEG2000", "PPM") else None
    return 8


def _eight_bits(image: "Image.Image", largest: int) -> "Image.Image":
    from PIL import Image

    values = np.asarray(image).astype(np.uint32)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts 8 bits only
        values = largest - values
    return Image.fromarray(((255 * values + largest // 2) // largest).astype(np.uint8))


def _on_white(path: Path, image: "Image.Image", mode: str) -> "Image.Image":
    from PIL import Image

    alpha = image.getchannel("A")
    ground = Image.new(mode, image.size, "white")
    ground.paste(image.convert(mode), mask=alpha)
    clearest, densest = _extremes(alpha)
    if clearest < 255 and densest > 0 and _extremes(ground)[0] == 255:
        raise InputError(
            f"{path} shows nothing but white on a transparent ground, and transparent images are laid "
            "on white: save it on a ground of another colour."
        )
    return ground


def _extremes(image: "Image.Image") -> tuple[int, int]:
    values = np.asarray(image)
    return int(values.min()), int(values.max())
