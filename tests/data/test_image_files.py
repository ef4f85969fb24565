"""What image files say of themselves: depth, transparency, orientation, damage. Right, or refused."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from layerparallel import data
from layerparallel.data.image_file import read
from layerparallel.errors import InputError

RAMP = (16 * np.arange(64 * 64, dtype=np.uint16)).reshape(64, 64)
EIGHT = torch.from_numpy(np.round(RAMP / 257).astype(np.uint8))


def written(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def chunk(name, content):
    return (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    )


def png(width, depth, kind, row, *extra):
    """A PNG of one row of pixels: what Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def tiff(width, bits, row, **tags):
    """A TIFF of one row of grey pixels: what Pillow reads but does not write."""
    numbers = {"photometric": 262, "samples": 277, "format": 339}
    known = {256: width, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(row)}
    known |= {numbers[name]: value for name, value in tags.items()}
    row = row.ljust(len(row) + len(row) % 2, b"\0")
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(known.items()))
    head = struct.pack("<2sHI", b"II", 42, 8 + len(row))
    return head + row + struct.pack("<H", len(known)) + entries + struct.pack("<I", 0)


def refused(path, part, **options):
    """The one sentence with which a file is refused; it names the file."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def levels(path):
    """The values of a grey image of one row."""
    values, _ = read(path)
    assert values.shape[:2] == (1, 1)
    return values.flatten().tolist()


# ---- depth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2"])
def test_grey_of_16_bits_is_scaled_to_8(tmp_path, suffix):
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.fromarray(RAMP).save(tmp_path / name / f"{k}.{suffix}")
    found = data.load("folder", path=tmp_path)
    assert found.train_x.dtype == torch.uint8
    assert torch.equal(found.train_x[0, 0], EIGHT)
    assert data.load("folder", path=tmp_path, size=16).shape == (1, 16, 16)


def test_a_pgm_has_a_range_of_its_own(tmp_path):
    for largest in (1023, 65535):
        row = struct.pack(">3H", 0, largest // 5, largest)
        path = written(tmp_path / "a.pgm", b"P5 3 1 %d\n" % largest + row)
        assert levels(path) == [0, 51, 255]


def test_grey_of_16_bits_in_the_other_byte_order(tmp_path):
    swapped = Image.frombytes("I;16B", (64, 64), RAMP.byteswap().tobytes())
    swapped.save(tmp_path / "a.tif")
    assert Image.open(tmp_path / "a.tif").mode == "I;16B"
    assert torch.equal(read(tmp_path / "a.tif").values[0], EIGHT)


def test_grey_of_12_bits_is_scaled_by_its_own_range(tmp_path):
    row = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00])  # 0, 4095, 2048
    assert levels(written(tmp_path / "a.tif", tiff(3, 12, row))) == [0, 255, 128]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white(tmp_path, bits):
    row = bytes([0, 51, 255]) if bits == 8 else struct.pack("<3H", 0, 51 * 257, 65535)
    assert levels(written(tmp_path / "a.tif", tiff(3, bits, row, photometric=0))) == [255, 204, 0]


def test_colour_of_16_bits(tmp_path):
    row = struct.pack(">6H", 0, 32896, 65535, 65535, 257, 0)
    values, _ = read(written(tmp_path / "a.png", png(2, 16, 2, row)))
    assert values[:, 0].T.tolist() == [[0, 128, 255], [255, 1, 0]]


def test_grey_with_transparency_of_16_bits_stays_grey(tmp_path):
    row = struct.pack(">4H", 0x8000, 0xFFFF, 0, 0x8000)
    assert levels(written(tmp_path / "a.png", png(2, 16, 4, row))) == [128, 127]


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.tif", Image.fromarray(RAMP.astype(np.int32))),
        ("a.tif", Image.fromarray(RAMP.astype(np.float32))),
        ("a.pfm", Image.fromarray(RAMP.astype(np.float32))),
    ],
)
def test_values_without_a_known_range_are_refused(tmp_path, name, image):
    image.save(tmp_path / name)
    refused(tmp_path / name, "save it with unsigned values of 8 or 16 bits")


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_values_are_refused(tmp_path, bits):
    path = written(tmp_path / "a.tif", tiff(2, bits, bytes([0, 128, 255, 255])[: bits // 4], format=2))
    refused(path, "signed")


def test_a_fits_file_of_16_bits_is_refused_as_it_may_be_signed(tmp_path):
    cards = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": 2, "NAXIS2": 1}
    header = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in cards.items()) + "END"
    path = written(tmp_path / "a.fits", header.ljust(2880).encode() + b"\0\1\xff\xff".ljust(2880, b"\0"))
    refused(path, "signed")


@pytest.mark.parametrize("colour", [False, True])
def test_12_bit_values_in_16_bits_are_refused_where_the_whole_folder_has_them(tmp_path, colour):
    dark = struct.pack(">6H", *([0, 2000, 4095] * 2))
    light = struct.pack(">6H", *([0, 2000, 60000] * 2))
    for name in ("a/0", "a/1", "b/0", "b/1"):
        written(tmp_path / f"{name}.png", png(2 if colour else 6, 16, 2 if colour else 0, dark))
    with pytest.raises(InputError, match=rf"{tmp_path}/a/\d\.png .* 8 bits keep only 1[67] of 256"):
        data.load("folder", path=tmp_path)
    written(tmp_path / "b/1.png", png(2 if colour else 6, 16, 2 if colour else 0, light))
    assert data.load("folder", path=tmp_path).train_x.max() <= 233


# ---- transparency --------------------------------------------------------------------------------


def logo(mode, ink, clear, corner=0):
    """A square of ink on a ground that is clear."""
    image = Image.new(mode, (8, 8), clear)
    image.paste(ink, (corner, corner, corner + 4, corner + 4))
    return image


def laid_on_white(ink=0):
    expected = torch.full((8, 8), 255, dtype=torch.uint8)
    expected[:4, :4] = ink
    return expected


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_is_white(tmp_path, suffix, mode):
    black, clear = {"LA": ((0, 255), (0, 0)), "RGBA": ((0, 0, 0, 255), (0, 0, 0, 0))}[mode]
    logo(mode, black, clear).save(tmp_path / f"a.{suffix}", lossless=True)
    values, _ = read(tmp_path / f"a.{suffix}")
    channels = 1 if mode == "LA" and suffix != "webp" else 3  # a WebP is always in colour
    assert torch.equal(values, laid_on_white().expand(channels, 8, 8))


@pytest.mark.parametrize(("suffix", "transparency"), [("png", 1), ("png", bytes([255, 0])), ("gif", 1)])
def test_palettes_with_transparency(tmp_path, transparency, suffix):
    image = logo("P", 0, 1)
    image.putpalette([200, 0, 0, 0, 0, 0])
    image.save(tmp_path / f"a.{suffix}", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, _ = read(tmp_path / f"a.{suffix}")
    assert torch.equal(values[0], laid_on_white(200))
    assert torch.equal(values[1], laid_on_white(0))


@pytest.mark.parametrize(
    ("mode", "ink", "clear", "channels"), [("L", 10, 20, 1), ("RGB", (10, 10, 10), (1, 2, 3), 3)]
)
def test_one_transparent_colour(tmp_path, mode, ink, clear, channels):
    logo(mode, ink, clear).save(tmp_path / "a.png", transparency=clear)
    values, _ = read(tmp_path / "a.png")
    assert torch.equal(values, laid_on_white(10).expand(channels, 8, 8))


@pytest.mark.parametrize(
    ("depth", "kind", "row", "colour"),
    [
        (1, 0, b"\x50", b"\0\1"),
        (4, 0, b"\x05\xaf", b"\0\5"),
        (16, 0, b"\x12\x34\x56\x78", b"\x12\x34"),
        (16, 2, b"\1\2\3\4\5\6" + 6 * b"\7", b"\1\2\3\4\5\6"),
    ],
)
def test_a_transparent_colour_of_another_depth_is_refused(tmp_path, depth, kind, row, colour):
    width = 2 if depth == 16 else 4
    path = written(tmp_path / "a.png", png(width, depth, kind, row, (b"tRNS", colour)))
    refused(path, f"transparent colour of {depth} bits")


def test_half_transparent_ink_is_mixed_with_white(tmp_path):
    Image.new("RGBA", (2, 2), (0, 100, 200, 128)).save(tmp_path / "a.png")
    values, _ = read(tmp_path / "a.png")
    assert values[:, 0, 0].tolist() == [127, 177, 227]


def test_white_on_a_transparent_ground_is_refused(tmp_path):
    logo("RGBA", (255, 255, 255, 255), (0, 0, 0, 0)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "nothing but white on a transparent ground")
    Image.new("RGBA", (8, 8), (255, 255, 255, 255)).save(tmp_path / "white.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "empty.png")
    for name in ("white", "empty"):
        assert (read(tmp_path / f"{name}.png").values == 255).all()


# ---- other modes ---------------------------------------------------------------------------------


def test_one_bit_is_black_and_white(tmp_path):
    logo("1", 0, 1).save(tmp_path / "a.png")
    assert torch.equal(read(tmp_path / "a.png").values, laid_on_white()[None])


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_four_inks_become_colours(tmp_path, name):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / name)
    red, green, blue = read(tmp_path / name).values[:, 0, 0].tolist()
    assert red > 250
    assert max(green, blue) < 5


def test_unlike_modes_in_one_folder(tmp_path):
    """Grey files come first and in between; from the first in colour on all have three channels."""
    modes = {"a/0": ("L", 7), "a/1": ("I;16", 257 * 8), "b/0": ("RGB", (1, 2, 3)), "b/1": ("L", 9)}
    for name, (mode, colour) in modes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image = Image.new(mode, (2, 2), colour)
        if mode == "I;16":
            image.putpixel((1, 1), 257 * 200)
        image.save(tmp_path / f"{name}.png")
    found = data.load("folder", path=tmp_path, share=0.5)
    corner = torch.cat([found.train_x, found.validation_x])[:, :, 0, 0].tolist()
    assert sorted(corner) == [[1, 2, 3], [7, 7, 7], [8, 8, 8], [9, 9, 9]]


# ---- orientation ---------------------------------------------------------------------------------

TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("name", ["a.png", "deep.png", "a.tif", "packed.tif", "a.jpg", "a.webp"])
def test_images_are_turned_as_their_exif_data_say(tmp_path, name, orientation):
    stored = np.kron(
        np.array([[0, 80, 160], [255, 200, 40]], dtype=np.uint8), np.ones((16, 16), np.uint8)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"packed.tif": {"compression": "tiff_lzw"}, "a.webp": {"lossless": True}}
    image = Image.fromarray(stored.astype(np.uint16) * 257 if name == "deep.png" else stored)
    image.save(tmp_path / name, exif=exif, **options.get(name, {}))
    values, _ = read(tmp_path / name)
    expected = TURNED[orientation](stored).astype(int)
    assert values.shape[1:] == expected.shape
    assert np.abs(values[0].numpy() - expected).max() <= (9 if name == "a.jpg" else 0)


def test_sizes_are_compared_after_turning(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, size in {"a/0": (4, 6), "a/1": (4, 6), "b/0": (4, 6)}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", size, 9).save(tmp_path / f"{name}.png")
    Image.new("L", (6, 4), 9).save(tmp_path / "b/1.png", exif=exif)
    assert data.load("folder", path=tmp_path).shape == (1, 6, 4)
    Image.new("L", (4, 6), 9).save(tmp_path / "b/1.png", exif=exif)
    with pytest.raises(InputError, match=r"b/1\.png has 6×4 pixels but .* has 4×6"):
        data.load("folder", path=tmp_path)


# ---- several images, damage, what is no image ----------------------------------------------------


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.png", "a.webp"])
def test_files_of_several_images_are_refused(tmp_path, name):
    first, second = Image.new("RGB", (8, 8), (9, 0, 0)), Image.new("RGB", (8, 8), (0, 9, 0))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    refused(tmp_path / name, "holds several images")
    first.save(tmp_path / name)
    assert read(tmp_path / name).values.shape == (3, 8, 8)


def test_of_a_photo_with_a_preview_the_photo_counts(tmp_path):
    photo, preview = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (4, 4), (0, 200, 0))
    photo.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    values, _ = read(tmp_path / "a.jpg")
    assert values.shape == (3, 8, 8)
    assert values[0].min() > 190


NOISE = np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif", "jp2", "ppm", "tga"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, share):
    Image.fromarray(NOISE).save(tmp_path / f"whole.{suffix}")
    raw = (tmp_path / f"whole.{suffix}").read_bytes()
    path = written(tmp_path / f"a.{suffix}", raw[: round(share * len(raw))])
    refused(path, "replace it or take it out")


def test_an_empty_file_is_called_empty(tmp_path):
    refused(written(tmp_path / "a.png", b""), "it is empty")


def test_the_checksums_of_a_png_are_compared(tmp_path):
    """With a few changed bytes Pillow's reader finds other pixels, and nothing wrong."""
    raw, unseen = io.BytesIO(), 0
    smooth = np.add.outer(2 * np.arange(96), np.arange(80)).astype(np.uint8)
    pixels = np.stack([smooth, smooth[::-1], smooth // 2], -1)
    Image.fromarray(pixels).save(raw, "PNG")
    for place in range(50, len(raw.getvalue()) - 30, 3):
        damaged = bytearray(raw.getvalue())
        damaged[place] ^= 0x10
        try:
            unseen += int((np.asarray(Image.open(io.BytesIO(damaged))) != pixels).any())
        except (OSError, SyntaxError):
            continue
        refused(written(tmp_path / "a.png", bytes(damaged)), "checksum")
    assert unseen


def test_a_damaged_chunk_of_a_png(tmp_path):
    Image.fromarray(np.tile(NOISE, (4, 4, 1))).save(tmp_path / "a.png")
    raw = bytearray((tmp_path / "a.png").read_bytes())
    last = raw.rfind(b"IDAT")
    raw[last : last + 4] = b"\x93\1\2\3"
    refused(written(tmp_path / "a.png", bytes(raw)), "broken PNG file")


def test_what_is_no_image_is_refused_by_name_and_passed_over_otherwise(tmp_path):
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), 9).save(tmp_path / name)
    written(tmp_path / "a/notes.txt", b"no image")
    assert len(data.load("folder", path=tmp_path).train_x) == 2
    for name in ("a/text.jpg", "a/drawing.svg"):
        path = written(tmp_path / name, b"<svg/>")
        with pytest.raises(
            InputError, match=f"{path} cannot be read as an image .its format is unknown"
        ):
            data.load("folder", path=tmp_path)
        path.unlink()
    (tmp_path / "a/2.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"2\.png cannot be read as an image"):
        data.load("folder", path=tmp_path)


def test_an_image_that_is_too_large_for_pillow_is_refused(tmp_path, monkeypatch):
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 449)
    refused(tmp_path / "a.png", "exceeds limit")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 450)
    with pytest.warns(Image.DecompressionBombWarning):
        assert read(tmp_path / "a.png", size=3).values.shape == (1, 3, 3)


def test_metadata_that_cannot_be_read_do_not_matter(tmp_path):
    Image.new("L", (8, 8), 9).save(tmp_path / "a.jpg", exif=b"Exif\0\0no such thing")
    assert read(tmp_path / "a.jpg").values.shape == (1, 8, 8)
