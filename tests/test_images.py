"""Reading images: every usual form gives the same RGB, every unusual one a sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from m2f_helpers import images
from m2f_helpers.images import list_images, read_image

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
EXIF_ORIENTATION = 0x0112


def save(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_path_string_pil_and_array_give_the_same_pixels(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    for source in (path, str(path), Image.fromarray(RGB), RGB):
        found = read_image(source)
        assert found.dtype == np.uint8 and (found == RGB).all()


def test_the_result_is_a_copy():
    found = read_image(RGB)
    found[:] = 0
    assert RGB.any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_opencv_applies_it(tmp_path, orientation):
    import cv2

    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(RGB).resize((60, 40)).save(path, exif=exif, quality=95)
    found = read_image(path)
    assert found.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
    assert (found == cv2.imread(str(path))[..., ::-1]).all()
    with Image.open(path) as opened:  # Pillow's way, which other files take
        assert (read_image(opened) == found).all()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_is_decoded_as_mmseg_decodes_it(tmp_path, subsampling):
    import cv2

    picture = Image.fromarray(RGB).resize((131, 97), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", subsampling=subsampling, quality=80)
    assert (read_image(tmp_path / "a.jpg") == cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1]).all()


def test_grey_alpha_palette_and_cmyk(tmp_path):
    grey = RGB[..., 0]
    for source in (grey, grey[..., None], Image.fromarray(grey), save(tmp_path / "g.png", grey)):
        assert (read_image(source) == grey[..., None]).all()
    clear = np.arange(30) % 2 == 0  # every other column is transparent, with hidden colours
    rgba = np.dstack([RGB, np.where(clear, 0, 255).astype(np.uint8)[None].repeat(20, 0)])
    for source in (rgba, Image.fromarray(rgba), save(tmp_path / "rgba.png", rgba)):
        assert (read_image(source) == np.where(clear[:, None], 255, RGB)).all()
    few = Image.fromarray(RGB // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE)
    assert (read_image(few) == np.array(few.convert("RGB"))).all()
    assert read_image(Image.fromarray(RGB).convert("CMYK")).shape == (20, 30, 3)
    assert (read_image(Image.fromarray(grey > 99)) == np.where(grey > 99, 255, 0)[..., None]).all()


def test_sixteen_bit_keeps_the_upper_eight(tmp_path):
    deep = (RGB[..., 0].astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for source in (deep, Image.fromarray(deep), tmp_path / "deep.png"):
        assert (read_image(source) == RGB[..., :1]).all()
    import cv2

    deep_rgb = (RGB.astype(np.uint16) << 8) + 77
    cv2.imwrite(str(tmp_path / "rgb16.png"), deep_rgb[..., ::-1])
    assert (read_image(tmp_path / "rgb16.png") == RGB).all()
    assert (read_image(deep_rgb) == RGB).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == 10).all()


def test_what_is_left_out_is_said(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (10, 200, 30)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    half_clear = Image.fromarray(np.dstack([RGB, RGB[..., :1]]))
    half_clear.save(tmp_path / "alpha.png")
    half_clear.putalpha(255)
    half_clear.save(tmp_path / "opaque.png")
    Image.fromarray(RGB).save(tmp_path / "plain.jpg")
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 16).save(tmp_path / "12.png")
    assert images.dropped(tmp_path / "pages.tif") == ["only the first of 3 frames or pages is read"]
    assert images.dropped(tmp_path / "alpha.png") == ["its transparent parts are laid on white"]
    assert images.dropped(tmp_path / "opaque.png") == images.dropped(tmp_path / "plain.jpg") == []
    assert images.dropped(tmp_path / "16.png") == ["of its 16 bits the upper 8 are read"]
    (text,) = images.dropped(tmp_path / "12.png")
    assert text.endswith("and it uses only 12 of them: multiply its values by 16")


def bad_file(name: str, content: bytes):
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def half_jpeg(folder: Path) -> Path:
    data = io.BytesIO()
    Image.fromarray(RGB).resize((300, 200)).save(data, "JPEG", quality=95)
    return bad_file("half.jpg", data.getvalue()[: len(data.getvalue()) // 2])(folder)


def broken_png(folder: Path) -> Path:
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, "PNG")
    content = bytearray(data.getvalue())
    content[60:90] = b"\0" * 30
    return bad_file("broken.png", bytes(content))(folder)


def huge(folder: Path) -> Path:
    """A PNG header that promises 60000 x 60000 pixels."""
    data = bytearray(bad_png_header(60000, 60000))
    return bad_file("huge.png", bytes(data))(folder)


def bad_png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


BAD = {
    "missing file": (lambda d: d / "no.jpg", "no.jpg does not exist"),
    "empty file": (bad_file("empty.jpg", b""), "empty.jpg is empty (0 bytes): copy or download it again"),
    "text file": (bad_file("text.jpg", b"hello " * 50), "text.jpg is not an image that Pillow can read"),
    "pdf": (bad_file("a.pdf", b"%PDF-1.4 x"), "a.pdf is not an image that Pillow can read"),
    "half a jpeg": (half_jpeg, "half.jpg is damaged, incomplete or closed"),
    "broken png": (broken_png, "broken.png is damaged, incomplete or closed"),
    "huge image": (huge, "huge.png"),
    "folder": (lambda d: d, "is a folder: give one of its images"),
    "address": (lambda d: "https://example.org/a.jpg", "is an address: download the image first"),
    "none": (lambda d: None, "expected a path, a PIL image or an RGB array, got NoneType"),
    "number": (lambda d: 5, "got int"),
    "list": (lambda d: ["a.jpg"], "got list"),
    "bytes": (lambda d: b"\xff\xd8", "got bytes; open bytes with PIL.Image.open"),
    "tensor": (lambda d: torch.zeros(3, 4, 4), "got Tensor; turn a tensor into an array (H, W, 3) uint8"),
    "float 0..1": (lambda d: RGB / 255, "dtype float64, expected uint8 (0..255) or uint16; multiply by 255 and round"),
    "float 0..255": (lambda d: RGB.astype(np.float32), "dtype float32, expected uint8 (0..255) or uint16; round"),
    "nan": (lambda d: np.full((4, 4, 3), np.nan), "it holds NaN or infinity too"),
    "bool": (lambda d: RGB > 9, "dtype bool"),
    "int64": (lambda d: RGB.astype(np.int64) - 9, "its values are -9.."),
    "object": (lambda d: RGB.astype(object), "dtype object"),
    "complex": (lambda d: RGB.astype(complex), "dtype complex128"),
    "channels first": (lambda d: RGB.transpose(2, 0, 1), "channels first: expected (H, W, 3), use array.transpose"),
    "two channels": (lambda d: RGB[..., :2], "shape (20, 30, 2): expected (H, W), (H, W, 3) or (H, W, 4)"),
    "batch": (lambda d: RGB[None], "one image at a time"),
    "one row of numbers": (lambda d: RGB[0, :, 0], "shape (30,)"),
    "no pixels": (lambda d: RGB[:0], "no pixels at all"),
    "float tiff": (lambda d: Image.fromarray(RGB[..., 0].astype(np.float32)), "holds decimal numbers (mode F)"),
    "32 bit": (lambda d: Image.fromarray(RGB[..., 0].astype(np.int32) + 70000), "expected 16 bit (0..65535)"),
    "closed": (lambda d: closed(d), "is damaged, incomplete or closed"),
}  # fmt: skip


def closed(folder: Path) -> Image.Image:
    picture = Image.open(save(folder / "c.png", RGB))
    picture.close()
    return picture


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(tmp_path, case):
    make, words = BAD[case]
    with pytest.raises((ValueError, OSError)) as caught:
        read_image(make(tmp_path))
    text = str(caught.value)
    assert words in text and "\n" not in text and len(text) < 400
    assert type(caught.value) in (ValueError, FileNotFoundError, PermissionError)


def test_half_a_jpeg_is_left_to_pillow():
    """Older OpenCV takes it for a whole one."""
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, "JPEG")
    assert images._is_plain_jpeg(data.getvalue()) and not images._is_plain_jpeg(data.getvalue()[:-100])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_limit_holds_to_the_pixel(tmp_path, monkeypatch, suffix):
    """Pillow itself only warns at its limit and raises at twice that; ours refuses the first pixel too many."""
    path = tmp_path / f"wide.{suffix}"
    Image.new("L", (40, 25)).save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert read_image(path).shape == (25, 40, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 999)
    with pytest.raises(ValueError, match=r"wide\.\w+ has (40 x 25|more than 999) pixels"):
        read_image(path)


def test_list_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no images"):
        list_images(tmp_path / "empty")
