"""Makes pictures and label maps of every kind, good and bad, as files in ADE20K's layout."""

import io

import numpy as np
from PIL import Image

LABEL = np.repeat(np.arange(1, 7, dtype=np.uint8), 8)[None].repeat(40, 0)  # (40, 48), ids 1..6


def png(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def add(root, name, image=None, label=None, suffix=".jpg", split="training"):
    """Write one pair; None takes a good file, b"..." the bytes, False leaves the file out."""
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    image = saved(Image.new("RGB", LABEL.shape[::-1], "olive"), "JPEG") if image is None else image
    label = png(LABEL) if label is None else label
    if image is not False:
        (root / f"images/{split}/{name}{suffix}").write_bytes(image)
    if label is not False:
        (root / f"annotations/{split}/{name}.png").write_bytes(label)
    return root


def half(left, right, mode="RGB"):
    picture = Image.new(mode, (48, 40), left)
    picture.paste(right, (24, 0, 48, 40))
    return picture


RED_BLUE = half((255, 0, 0), (0, 0, 255))
