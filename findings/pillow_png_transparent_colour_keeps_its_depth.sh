#!/usr/bin/env bash
# Pillow 13.0.0.
# A grey or RGB PNG may name one transparent colour (tRNS), in the depth of the file. Pillow scales pixels of 2 and 4
# bits up to 8 and takes the upper byte of 16-bit RGB, but keeps that colour as it is written. So convert("RGBA")
# looks for another colour than the one in the pixels: the transparent pixel becomes opaque. Of 16-bit RGB it compares
# the lower bytes of that colour with the upper ones of the pixels: here an opaque black pixel becomes transparent.
# A 16-bit grey image is clipped to 255 first. With 8 bits the same picture is right.
# Every file has two pixels; the first has the transparent colour, the second is opaque. Output seen (alpha of both):
#   grey, 2 bits: [255, 255]
#   grey, 4 bits: [255, 255]
#   grey, 8 bits: [0, 255]
#   grey, 16 bits: [255, 255]
#   RGB, 8 bits: [0, 255]
#   RGB, 16 bits: [255, 0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import sys
import zlib

import PIL
from PIL import Image


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def alpha(depth, kind, row, colour):
    """Two pixels in a row; kind is 0 for grey and 2 for RGB."""
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0))
    raw += chunk(b"tRNS", colour) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return list(Image.open(io.BytesIO(raw)).convert("RGBA").getchannel("A").tobytes())


print("Pillow", PIL.__version__)
found = {
    "grey, 2 bits": alpha(2, 0, bytes([0b10_01_0000]), bytes([0, 0b10])),
    "grey, 4 bits": alpha(4, 0, b"\xa5", b"\x00\x0a"),
    "grey, 8 bits": alpha(8, 0, b"\xa0\x50", b"\x00\xa0"),
    "grey, 16 bits": alpha(16, 0, b"\xa0\x00\x50\x00", b"\xa0\x00"),
    "RGB, 8 bits": alpha(8, 2, b"\xa0\x50\x20\x00\x00\x00", b"\x00\xa0\x00\x50\x00\x20"),
    "RGB, 16 bits": alpha(16, 2, b"\xa0\x00\x50\x00\x20\x00" + bytes(6), b"\xa0\x00\x50\x00\x20\x00"),
}
for name, value in found.items():
    print(f"{name}: {value}")
right, opaque, swapped = [0, 255], [255, 255], [255, 0]
sys.exit(list(found.values()) != [opaque, opaque, right, opaque, right, swapped])
PYTHON
