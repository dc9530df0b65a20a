"""Reading a picture in whatever form it comes, as RGB, or saying in one sentence why not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from m2f_helpers.quiet import one_line

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 178_000_000  # Pillow's own limit against decompression bombs


def read_image(source: Any) -> np.ndarray:
    """Read one picture, whatever its form, as RGB.

    EXIF orientation is applied, grey is repeated three times, alpha is dropped, 16 bit is cut to the upper 8.

    Args:
        source: path, PIL picture, or array: `(H, W)`, `(H, W, 1)`, RGB `(H, W, 3)` or RGBA `(H, W, 4)`, uint8 or
            uint16.

    Returns: RGB, `(H, W, 3)` uint8, an array of its own.
    Raises: FileNotFoundError, PermissionError or ValueError: one sentence with the file and the fix.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, "the PIL picture")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source)
    hint = {"Tensor": "; turn a tensor into an array (H, W, 3) uint8", "bytes": "; open bytes with PIL.Image.open"}
    kind = type(source).__name__
    raise ValueError(f"expected a path, a PIL picture or an RGB array, got {kind}{hint.get(kind, '')}")


def list_images(folder: str | Path) -> list[Path]:
    """Pictures directly in a folder, by name. ValueError if there are none, FileNotFoundError if there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ValueError(f"the folder {folder} has no pictures (looked for {', '.join(SUFFIXES)})")
    return found


def _from_path(source: str | os.PathLike) -> np.ndarray:
    path = Path(source)
    if str(source).startswith(("http://", "https://")):
        raise ValueError(f"{source} is an address: download the picture first, then give the file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give one of its pictures, or the folder to segment() or `m2f predict`")
    if not path.exists():
        raise FileNotFoundError(f"the picture {path} does not exist")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): copy or download it again")
    try:
        with Image.open(path) as picture:
            return _from_pil(picture, str(path))
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has more than {MAX_PIXELS:,} pixels: shrink it first") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that Pillow can read: convert it to PNG or JPEG") from None
    except PermissionError:
        raise PermissionError(f"{path} may not be read: change its permissions") from None


def _from_pil(picture: Image.Image, name: str) -> np.ndarray:
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{name} has {picture.width} x {picture.height} pixels: shrink it below {MAX_PIXELS:,} pixels")
    try:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise ValueError(f"{name} is damaged, incomplete or closed ({one_line(error)}): read it again") from None
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return _from_array(_sixteen_bit(picture, name), name)
    if picture.mode == "F":
        raise ValueError(f"{name} holds decimal numbers (mode F): scale it to 0..255 and convert it to mode L")
    return _from_array(np.array(picture.convert("RGB")), name)


def _sixteen_bit(picture: Image.Image, name: str) -> np.ndarray:
    values = np.array(picture)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"{name} has values {values.min()}..{values.max()}, expected 16 bit (0..65535): rescale it")
    return values.astype(np.uint16)


def _from_array(array: np.ndarray, name: str = "the array") -> np.ndarray:
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        raise ValueError(f"{name} has shape {shape}, channels first: expected (H, W, 3), use array.transpose(1, 2, 0)")
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise ValueError(f"{name} has shape {shape}: expected (H, W), (H, W, 3) or (H, W, 4), one picture at a time")
    if 0 in shape:
        raise ValueError(f"{name} has shape {shape}, no pixels at all")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"{name} has dtype {array.dtype}, expected uint8 (0..255) or uint16{_dtype_hint(array)}")
    array = array[..., None] if array.ndim == 2 else array
    return np.ascontiguousarray(array[..., :3] if array.shape[2] > 1 else np.repeat(array, 3, axis=2)).copy()


def _dtype_hint(array: np.ndarray) -> str:
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            return "; it holds NaN or infinity too"
        scale = "multiply by 255 and round" if array.max() <= 1 else "round"
        return f"; {scale}, then .astype(np.uint8)"
    if np.issubdtype(array.dtype, np.integer):
        return f"; its values are {array.min()}..{array.max()}, convert with .clip(0, 255).astype(np.uint8)"
    return ""
