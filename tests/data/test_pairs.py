import io

import cv2
import numpy as np
import pytest
from PIL import Image

from m2f_helpers.data import pairs
from m2f_helpers.data.labels import read_label
from m2f_helpers.data.pairs import Job, Settings, prepare_pair
from m2f_helpers.data.scenes.dataset import draw_scene
from m2f_helpers.images import decode_bgr, read_image
from m2f_helpers.palette import ade20k_palette
from tests.pair_files import LABEL, RED_BLUE, add, half, png, saved

ORIENTED = Image.Exif()
ORIENTED[274] = 3  # upside down and mirrored: what a person sees is blue, then red
KINDS = {
    "jpeg": (saved(RED_BLUE, "JPEG", quality=95), ".jpg", (255, 0, 0), (0, 0, 255)),
    "upper case suffix": (saved(RED_BLUE, "JPEG", quality=95), ".JPEG", (255, 0, 0), (0, 0, 255)),
    "png": (saved(RED_BLUE, "PNG"), ".png", (255, 0, 0), (0, 0, 255)),
    "png with the name of a jpeg": (saved(RED_BLUE, "PNG"), ".jpg", (255, 0, 0), (0, 0, 255)),
    "palette png": (saved(RED_BLUE.quantize(4), "PNG"), ".png", (255, 0, 0), (0, 0, 255)),
    "bmp": (saved(RED_BLUE, "BMP"), ".bmp", (255, 0, 0), (0, 0, 255)),
    "webp": (saved(RED_BLUE, "WEBP", lossless=True), ".webp", (255, 0, 0), (0, 0, 255)),
    "tiff": (saved(RED_BLUE, "TIFF"), ".tif", (255, 0, 0), (0, 0, 255)),
    "grey jpeg": (saved(half(40, 200, "L"), "JPEG", quality=95), ".jpg", (40, 40, 40), (200, 200, 200)),
    "black and white png": (saved(half(0, 1, "1"), "PNG"), ".png", (0, 0, 0), (255, 255, 255)),
    "16 bit png": (png(np.asarray(half(40, 200, "L")).astype(np.uint16) * 257), ".png", (40,) * 3, (200,) * 3),
    "rgba on white": (saved(half((255, 0, 0, 255), (0, 0, 0, 0), "RGBA"), "PNG"), ".png", (255, 0, 0), (255, 255, 255)),
    "grey with alpha": (saved(half((90, 255), (0, 0), "LA"), "PNG"), ".png", (90, 90, 90), (255, 255, 255)),
    "cmyk jpeg": (
        saved(half((0, 255, 255, 0), (255, 255, 0, 0), "CMYK"), "JPEG", quality=95),
        ".jpg",
        (255, 0, 0),
        (0, 0, 255),
    ),
    "turned jpeg": (saved(RED_BLUE, "JPEG", quality=95, exif=ORIENTED), ".jpg", (0, 0, 255), (255, 0, 0)),
    "turned png": (saved(RED_BLUE, "PNG", exif=ORIENTED), ".png", (0, 0, 255), (255, 0, 0)),
}


def job(root, dst, suffix=".jpg", size=(40, 48)):
    """The pair "a" below `root`."""
    for kind in ("images", "annotations"):
        (dst / kind / "training").mkdir(parents=True, exist_ok=True)
    sources = root / f"images/training/a{suffix}", root / "annotations/training/a.png"
    return Job("training/a", *sources, dst, Settings(size, "stretch", ade20k_palette()))


@pytest.mark.parametrize("kind", KINDS)
def test_images_become_what_a_person_sees(tmp_path, kind):
    data, suffix, left, right = KINDS[kind]
    result = prepare_pair(job(add(tmp_path / "src", "a", data, suffix=suffix), tmp_path / "dst", suffix))
    assert result.line, result.errors
    image = read_image(tmp_path / "dst/images/training/a.jpg")
    assert image.shape == (40, 48, 3)
    assert np.abs(image[20, 8].astype(int) - left).max() <= 12
    assert np.abs(image[20, 40].astype(int) - right).max() <= 12


def test_plain_jpegs_and_only_those_take_the_fast_decoder(monkeypatch):
    fast = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: fast.append(1) or decode(*arguments))
    noise = Image.effect_noise((90, 70), 80).convert("RGB")
    progressive = saved(noise, "JPEG", quality=95, progressive=True, comment=b"x" * 300)
    for data in (saved(noise, "JPEG", quality=95), progressive, saved(noise.convert("L"), "JPEG", quality=95)):
        fast.clear()
        bgr = decode_bgr(data)
        assert fast
        assert np.abs(bgr[..., ::-1].astype(int) - np.array(Image.open(io.BytesIO(data)).convert("RGB"))).max() <= 2
    for kind in ("cmyk jpeg", "png with the name of a jpeg"):
        fast.clear()
        decode_bgr(KINDS[kind][0])
        assert not fast


@pytest.mark.parametrize("cut", [3, 11, 200, 0.5, -3])
def test_cut_jpegs_are_refused_wherever_the_cut_is(cut, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((70, 90, 3), np.uint8))  # older OpenCV takes a half
    data = saved(Image.effect_noise((90, 70), 80).convert("RGB"), "JPEG", quality=95)
    cut = int(cut * len(data)) if isinstance(cut, float) else cut
    with pytest.raises(ValueError, match="is not an image that Pillow can read|is damaged, incomplete"):
        decode_bgr(data[:cut])


def test_jpeg_larger_than_the_limit_is_not_decoded(monkeypatch):
    data = bytearray(saved(Image.new("RGB", (64, 64)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xdc\xff\xdc"  # 65500 x 65500 in the frame header
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="has more than"):
        decode_bgr(bytes(data))


def test_label_files_keep_every_id_and_need_no_filter(tmp_path):
    ids = np.random.default_rng(0).integers(0, 151, (64, 48), dtype=np.uint8)
    image = saved(Image.new("RGB", (48, 64)), "JPEG")
    assert prepare_pair(job(add(tmp_path / "src", "a", image, png(ids)), tmp_path / "dst", size=(64, 48))).line
    data = (tmp_path / "dst/annotations/training/a.png").read_bytes()
    assert np.array_equal(read_label(data), ids)
    drawn = draw_scene(3).label_map
    assert len(cv2.imencode(".png", drawn, pairs.PNG_OPTIONS)[1]) < 0.9 * len(cv2.imencode(".png", drawn)[1])


def test_nothing_is_written_if_one_of_the_two_is_bad(tmp_path):
    for k, (image, label) in enumerate(((b"text", None), (None, b"text"), (None, png(LABEL[1:])))):
        result = prepare_pair(job(add(tmp_path / f"src{k}", "a", image, label), tmp_path / "dst"))
        assert result.line == "" and len(result.errors) == 1
    assert not [path for path in (tmp_path / "dst").rglob("*") if path.is_file()]
