"""Reading an image in whatever form it comes, as RGB, or saying in one sentence why not.

`prepare`, training and prediction all read through this module, so that they see the same pixels.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from m2f_helpers.quiet import one_line

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 178_000_000  # Pillow's own limit against decompression bombs


def read_image(source: Any) -> np.ndarray:
    """Read one image, whatever its form, as RGB.

    EXIF orientation is applied, grey is repeated three times, what is transparent lies on white, 16 bit is cut to the
    upper 8, of several pages or frames the first is taken; `dropped` says which of these happened.

    Args:
        source: path, PIL image, or array: `(H, W)`, `(H, W, 1)`, RGB `(H, W, 3)` or RGBA `(H, W, 4)`, uint8 or
            uint16.

    Returns: RGB, `(H, W, 3)` uint8, an array of its own.
    Raises: FileNotFoundError, PermissionError or ValueError: one sentence with the file and the fix.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, "the PIL image")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, os.PathLike)):
        path = _checked_path(source)
        try:
            return cv2.cvtColor(decode_bgr(path.read_bytes(), str(path)), cv2.COLOR_BGR2RGB)
        except PermissionError:
            raise PermissionError(f"{path} may not be read: change its permissions") from None
    hint = {"Tensor": "; turn a tensor into an array (H, W, 3) uint8", "bytes": "; open bytes with PIL.Image.open"}
    kind = type(source).__name__
    raise ValueError(f"expected a path, a PIL image or an RGB array, got {kind}{hint.get(kind, '')}")


def decode_bgr(data: bytes, name: str = "") -> np.ndarray:
    """`read_image` for the bytes of a file, in OpenCV's order of channels; plain JPEGs take its fast decoder."""
    if not data:
        raise ValueError(f"{name} is empty (0 bytes): copy or download it again".lstrip())
    if _is_plain_jpeg(data):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is not None:
            return image
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return cv2.cvtColor(_from_pil(opened, name), cv2.COLOR_RGB2BGR)
    except Image.DecompressionBombError:
        raise ValueError(f"{name} has more than {MAX_PIXELS:,} pixels: shrink it first".lstrip()) from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image that Pillow can read: convert it to PNG or JPEG".lstrip()) from None
    except (OSError, SyntaxError, EOFError, zlib.error) as error:
        raise _damaged(name, error) from None


def dropped(path: str | Path) -> list[str]:
    """What `read_image` leaves out of a file, a sentence for each; an empty list for most files.

    Raises: OSError or ValueError if the file is no image.
    """
    with Image.open(path) as opened:
        frames, found = getattr(opened, "n_frames", 1), []
        if frames > 1 and opened.format != "MPO":  # phones keep a preview there
            found.append(f"only the first of {frames} frames or pages is read")
        if _has_alpha(opened) and opened.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            found.append("its transparent parts are laid on white")
        if opened.mode.startswith("I"):
            found.append(_cut_bits(int(np.array(opened).max())))
        elif any("16" in str(tile[3]) for tile in opened.tile):
            found.append("of its 16 bits the upper 8 are read")
    return found


def _cut_bits(largest: int) -> str:
    bits = max(1, largest).bit_length()
    text = "of its 16 bits the upper 8 are read"
    return f"{text}, and it uses only {bits} of them: multiply its values by {1 << 16 - bits}" if bits < 15 else text


def list_images(folder: str | Path) -> list[Path]:
    """Images directly in a folder, by name. ValueError if there are none, FileNotFoundError if there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ValueError(f"the folder {folder} has no images (looked for {', '.join(SUFFIXES)})")
    return found


def _checked_path(source: str | os.PathLike) -> Path:
    path = Path(source)
    if str(source).startswith(("http://", "https://")):
        raise ValueError(f"{source} is an address: download the image first, then give the file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give one of its images, or the folder to segment() or `m2f predict`")
    if not path.exists():
        raise FileNotFoundError(f"the image {path} does not exist")
    return path


def _is_plain_jpeg(data: bytes) -> bool:
    """True for a JPEG that OpenCV decodes as Pillow does: grey or three colours of 8 bits, not too large, and complete.

    Walks the segments up to the frame header (JPEG standard, ITU-T T.81, B.2.2), a tenth of the time of opening it with
    Pillow. The end marker counts: older OpenCV takes half a JPEG for a whole one, Pillow never does.
    """
    if data[:2] != b"\xff\xd8" or b"\xff\xd9" not in data[-64:]:
        return False
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return bits == 8 and components in (1, 3) and 0 < height * width <= MAX_PIXELS
        at += 2 + length
    return False


def _damaged(name: str, error: Exception) -> ValueError:
    reason = f"is damaged, incomplete or closed ({one_line(error)})"
    return ValueError(f"{name} {reason}: copy or download it again".lstrip())


def _has_alpha(opened: Image.Image) -> bool:
    return opened.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in opened.info


def _from_pil(opened: Image.Image, name: str) -> np.ndarray:
    if opened.width * opened.height > MAX_PIXELS:
        size = f"{opened.width} x {opened.height}"
        raise ValueError(f"{name} has {size} pixels: shrink it below {MAX_PIXELS:,} pixels".lstrip())
    try:
        opened.load()
        opened = ImageOps.exif_transpose(opened)
        if _has_alpha(opened):
            opened = opened.convert("RGBA")
    except (OSError, SyntaxError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(name, error) from None
    if opened.mode.startswith("I;16") or opened.mode == "I":
        values = np.array(opened)
        low, high = values.min(), values.max()
        if low < 0 or high > 65535:
            raise ValueError(f"{name} has values {low}..{high}, expected 16 bit (0..65535): rescale it")
        return _from_array(values.astype(np.uint16), name)
    if opened.mode == "F":
        raise ValueError(f"{name} holds decimal numbers (mode F): scale it to 0..255 and convert it to mode L".lstrip())
    return _from_array(np.asarray(opened if opened.mode == "RGBA" else opened.convert("RGB")), name)


def _from_array(array: np.ndarray, name: str = "the array") -> np.ndarray:
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        raise ValueError(f"{name} has shape {shape}, channels first: expected (H, W, 3), use array.transpose(1, 2, 0)")
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise ValueError(f"{name} has shape {shape}: expected (H, W), (H, W, 3) or (H, W, 4), one image at a time")
    if 0 in shape:
        raise ValueError(f"{name} has shape {shape}, no pixels at all")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"{name} has dtype {array.dtype}, expected uint8 (0..255) or uint16{_dtype_hint(array)}")
    array = array[..., None] if array.ndim == 2 else array
    if shape[2:] == (4,):
        opened = Image.fromarray(np.ascontiguousarray(array), "RGBA")
        return np.array(Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened).convert("RGB"))
    return np.array(np.broadcast_to(array, (*shape[:2], 3)), order="C")


def _dtype_hint(array: np.ndarray) -> str:
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            return "; it holds NaN or infinity too"
        scale = "multiply by 255 and round" if array.max() <= 1 else "round"
        return f"; {scale}, then .astype(np.uint8)"
    if np.issubdtype(array.dtype, np.integer):
        return f"; its values are {array.min()}..{array.max()}, convert with .clip(0, 255).astype(np.uint8)"
    return ""
