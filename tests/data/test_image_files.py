"""Image files in every mode are read in their range, upright, or refused."""

import os
import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from research.config.notices import notify
from research.data.image_files import (
    ImageReader,
    PixelFormat,
    find_files,
    find_pixel_format,
    ignore_pillow_warnings,
    last_change,
)

from .image_folders import HEIGHT, WIDTH, random_pixels

SIXTEEN_BITS = random_pixels(0, high=2**16)
EIGHT_BITS = random_pixels(1)
UPPER_BYTES = SIXTEEN_BITS // 256


def read_image(path, channels):
    return ImageReader(PixelFormat(channels)).read(path)


def save_16_bit_png(path):
    Image.fromarray(SIXTEEN_BITS.astype("<u2")).save(path, format="PNG")


def save_16_bit_tiff(path):
    Image.fromarray(SIXTEEN_BITS.astype("<u2")).save(path, format="TIFF")


def save_big_endian_tiff(path):
    pixels = SIXTEEN_BITS.astype(">u2")
    Image.frombytes("I;16B", (WIDTH, HEIGHT), pixels.tobytes()).save(path, format="TIFF")


def save_16_bit_pgm(path):
    header = f"P5 {WIDTH} {HEIGHT} 65535\n".encode()
    path.write_bytes(header + SIXTEEN_BITS.astype(">u2").tobytes())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "save", [save_16_bit_png, save_16_bit_tiff, save_big_endian_tiff, save_16_bit_pgm]
)
def test_the_upper_bytes_of_16_bits_are_read(tmp_path, save, channels):
    path = tmp_path / "image"
    save(path)
    image = read_image(path, channels)
    assert image.dtype == np.uint8
    for channel in range(channels):
        assert_array_equal(image[:, :, channel], UPPER_BYTES)


@pytest.mark.parametrize(
    "save", [save_16_bit_png, save_16_bit_tiff, save_big_endian_tiff, save_16_bit_pgm]
)
def test_gray_images_of_16_bits_are_read_as_they_are(tmp_path, save):
    path = tmp_path / "image"
    save(path)
    pixel_format = find_pixel_format([path])
    reader = ImageReader(pixel_format)
    image = reader.read(path)
    assert pixel_format == PixelFormat(channels=1, dtype=np.uint16)
    assert image.dtype == np.uint16
    assert_array_equal(image[:, :, 0], SIXTEEN_BITS)
    assert not reader.losses


def test_images_of_8_bits_have_the_range_of_those_of_16_bits_next_to_them(tmp_path):
    path = tmp_path / "8.png"
    Image.fromarray(EIGHT_BITS.astype(np.uint8)).save(path)
    save_16_bit_png(tmp_path / "16.png")
    pixel_format = find_pixel_format([path, tmp_path / "16.png"])
    assert_array_equal(ImageReader(pixel_format).read(path)[:, :, 0], EIGHT_BITS * 257)


def save_transparent(path):
    pixels = random_pixels(3, channels=4).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def save_transparent_palette(path):
    image = Image.fromarray(EIGHT_BITS.astype(np.uint8)).convert("P")
    image.save(path, transparency=int(EIGHT_BITS[0, 0]))


def save_opaque(path):
    image = Image.fromarray(random_pixels(3, channels=3).astype(np.uint8))
    image.convert("RGBA").save(path)


def save_frames(path):
    frames = [Image.fromarray(random_pixels(seed).astype(np.uint8)) for seed in range(3)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


def save_color_of_16_bits(path):
    """Written by hand, because Pillow does not write it."""
    pixels = random_pixels(4, high=2**16, channels=3)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + checksum
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("save", "losses"),
    [
        (save_transparent, ["transparency"]),
        (save_transparent_palette, ["transparency"]),
        (save_opaque, []),
        (save_frames, ["frames after the first"]),
        (save_16_bit_png, ["the lower 8 of 16 bits"]),
        (save_color_of_16_bits, ["the lower 8 of 16 bits"]),
    ],
)
def test_what_of_an_image_is_left_out_is_said(tmp_path, save, losses, capsys):
    path = tmp_path / "image.png"
    save(path)
    reader = ImageReader(PixelFormat(channels=3))
    reader.read(path)
    reader.report_losses(tmp_path)
    assert list(reader.losses) == losses
    line = f"fathom: {tmp_path}: left out of the 1 images that were read: {''.join(losses)} (1)\n"
    assert capsys.readouterr().err == (line if losses else "")


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tiff"])
def test_images_with_a_palette_of_grays_are_gray(tmp_path, suffix):
    levels = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    gray_path = tmp_path / f"gray.{suffix}"
    color_path = tmp_path / f"color.{suffix}"
    red = np.stack([levels, 0 * levels, 0 * levels], -1)
    Image.fromarray(levels).quantize(16).save(gray_path)
    Image.fromarray(red).quantize(16).save(color_path)

    gray_format = find_pixel_format([gray_path])

    assert gray_format.channels == 1
    assert_array_equal(ImageReader(gray_format).read(gray_path)[..., 0], levels)
    assert find_pixel_format([gray_path, color_path]).channels == 3


def test_a_link_to_nothing_is_called_so(tmp_path):
    path = tmp_path / "image.png"
    path.symlink_to("nowhere.png")
    with pytest.raises(ValueError, match="image.png is a link to nowhere.png, which is no file"):
        read_image(path, 1)


@pytest.mark.parametrize("place", ["a/0.png", "a/b/c/0.png"])
def test_an_image_that_is_overwritten_in_its_place_is_a_change(tmp_path, place):
    path = tmp_path / place
    write_empty(path)
    before = last_change(tmp_path)
    os.utime(path, ns=(before + 1, before + 1))
    assert last_change(tmp_path) == before + 1


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("factor", [1 / 65535, 1, 1000])
def test_numbers_whose_range_is_not_known_are_refused(tmp_path, mode, factor):
    path = tmp_path / "image.tif"
    dtype = np.int32 if mode == "I" else np.float32
    Image.fromarray((SIXTEEN_BITS * factor).astype(dtype)).save(path)
    message = f"{path} must have 8 or 16 bits in each channel, got .*data=arrays"
    with pytest.raises(ValueError, match=message):
        read_image(path, 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_an_image_of_8_bits_is_what_pillow_converts_it_to(tmp_path, mode):
    path = tmp_path / "image.tif"
    image = Image.fromarray(EIGHT_BITS.astype(np.uint8)).convert(mode)
    image.save(path)
    assert_array_equal(read_image(path, 3), np.asarray(image.convert("RGB")))
    assert_array_equal(read_image(path, 1)[:, :, 0], np.asarray(image.convert("L")))
    is_gray = mode in ("1", "L", "LA", "P")  # whose palette has grays only
    assert find_pixel_format([path]).channels == (1 if is_gray else 3)


ORIENTATIONS = {  # of Exif, and how the stored pixels are turned
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_270],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_90],
}


@pytest.mark.parametrize("format_", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_image_is_turned_as_its_orientation_says(tmp_path, orientation, format_):
    path = tmp_path / f"image.{format_}"
    stored = Image.fromarray(random_pixels(2, channels=3).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif, lossless=True)
    upright = stored
    for turn in ORIENTATIONS[orientation]:
        upright = upright.transpose(turn)
    assert_array_equal(read_image(path, 3), np.asarray(upright))


def test_an_image_of_16_bits_is_turned_too(tmp_path):
    path = tmp_path / "image.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SIXTEEN_BITS.astype("<u2")).save(path, exif=exif)
    assert_array_equal(read_image(path, 1)[:, :, 0], np.rot90(UPPER_BYTES, -1))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"II*\0"])
def test_what_is_no_image_is_refused_by_name(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not an image, or it is damaged") as refused:
        read_image(path, 3)
    assert "\n" not in str(refused.value)


def write_empty(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_hidden_files_and_those_of_hidden_folders_are_no_images(tmp_path):
    images = [tmp_path / "a" / "0.png", tmp_path / "a" / "b" / "1.JPG"]
    others = [tmp_path / "readme.txt", tmp_path / "a" / "Thumbs.db"]
    hidden = [
        tmp_path / ".DS_Store",
        tmp_path / "a" / "._0.png",
        tmp_path / "a" / ".ipynb_checkpoints" / "0.png",
        tmp_path / "a" / ".cache" / "deep" / "1.png",
        tmp_path / "__MACOSX" / "a" / "0.png",
    ]
    write_empty(*images, *others, *hidden)
    (tmp_path / "a" / "folder.png").mkdir()
    found = find_files(tmp_path)
    assert found.images == tuple(images)
    assert set(found.others) == set(others)
    assert set(found.hidden) == set(hidden)


def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path):
    outside = tmp_path / "outside" / "0.png"
    write_empty(outside)
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "cats").symlink_to(outside.parent)
    (tmp_path / "outside" / "back").symlink_to(tmp_path / "pets")
    assert find_files(tmp_path / "pets").images == (tmp_path / "pets" / "cats" / "0.png",)


def test_what_pillow_says_about_exif_data_is_not_printed(tmp_path):
    """Warnings are errors here; such an image is read as it is stored."""
    path = tmp_path / "image.jpg"
    pixels = random_pixels(2, channels=3).astype(np.uint8)
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    ignore_pillow_warnings()
    assert read_image(path, 3).shape == (HEIGHT, WIDTH, 3)


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    path = tmp_path / "image.png"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="image.png is not an image"):
        read_image(path, 1)


def test_a_name_with_the_end_of_a_line_is_shown_on_one_line(tmp_path):
    path = tmp_path / "a\nb.png"
    path.touch()
    with pytest.raises(ValueError) as refused:
        read_image(path, 1)
    assert "a\\nb.png is not an image" in str(refused.value)


def test_an_image_with_too_many_pixels_is_called_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    save_frames(tmp_path / "image.gif")
    with pytest.raises(ValueError, match="image.gif has more than the 46 pixels that Pillow reads"):
        read_image(tmp_path / "image.gif", 1)


def test_a_notice_is_one_line_whatever_names_it_holds(capsys):
    notify("class a\nb: größe")
    assert capsys.readouterr().err == "fathom: class a\\nb: größe\n"
