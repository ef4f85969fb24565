#!/usr/bin/env bash
# Pillow 13.0.0.
# In a grey TIFF with PhotometricInterpretation 0 (WhiteIsZero) zero is white. Pillow inverts such images where they
# have 8 bits, so that 255 is white as in its mode L, but not where they have 16: black and white are swapped, without
# a word. A TIFF of signed bytes (SampleFormat 2) is read as one of unsigned bytes: -1 becomes 255.
# The first two files have the pixels white, black. Output seen:
#   8 bits, WhiteIsZero: [255, 0]
#   16 bits, WhiteIsZero: [0, 65535]
#   8 bits, signed, -1 and 1: [255, 1]
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

import PIL
from PIL import Image


def pixels(bits, row, photometric, signed=False):
    """Two grey pixels in a row, uncompressed."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(row)}
    tags[339] = 2 if signed else 1
    raw = struct.pack("<2sHI", b"II", 42, 8 + len(row)) + row + struct.pack("<H", len(tags))
    raw += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + bytes(4)
    image = Image.open(io.BytesIO(raw))
    return [image.getpixel((0, 0)), image.getpixel((1, 0))]


print("Pillow", PIL.__version__)
found = {
    "8 bits, WhiteIsZero": pixels(8, struct.pack("<2B", 0, 255), photometric=0),
    "16 bits, WhiteIsZero": pixels(16, struct.pack("<2H", 0, 65535), photometric=0),
    "8 bits, signed, -1 and 1": pixels(8, struct.pack("<2b", -1, 1), photometric=1, signed=True),
}
for name, value in found.items():
    print(f"{name}: {value}")
sys.exit(list(found.values()) != [[255, 0], [0, 65535], [255, 1]])
PYTHON
