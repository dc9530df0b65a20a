"""mmseg's data set over the pairs that `layout` finds, so that training sees what every other command sees.

A config that names it lists this module under `custom_imports`, and then plain mmseg can build it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, TRANSFORMS

from m2f_helpers.data.labels import read_label
from m2f_helpers.data.layout import read_data
from m2f_helpers.images import decode_bgr
from m2f_helpers.palette import UNKNOWN, Palette, ade20k_palette, own_palette
from m2f_helpers.quiet import one_line

# steps of a pipeline: mmseg's name -> what reads the files of a `PairDataset`
READERS = {"LoadImageFromFile": "LoadImage", "LoadAnnotations": "LoadLabels"}


@DATASETS.register_module()
class PairDataset(BaseSegDataset):
    """The pairs of one split of a data folder, whatever its layout and the suffixes of its images.

    `data_root` is a folder that `layout.read_data` can read, `split` `"training"` or `"validation"`. `metainfo` holds
    classes and colours, as `Palette.meta`; None means ADE20K's. `on_disk` gives the ids in label files of each class
    (None counts from 0, or from 1 with `reduce_zero_label`: then 0 means "other"), `ignored` those that mean "ignore".
    The options are those of mmseg's `BaseSegDataset`.
    """

    def __init__(
        self,
        data_root: str,
        split: str,
        metainfo: dict | None = None,
        on_disk: Sequence[Sequence[int]] | None = None,
        ignored: Sequence[int] = (),
        reduce_zero_label: bool = False,
        **options: Any,
    ) -> None:
        self.split = split
        metainfo = metainfo or ade20k_palette().meta
        self.from_disk = classes_on_disk(metainfo, on_disk, ignored, reduce_zero_label).from_disk
        options.setdefault("serialize_data", False)  # paths are small; packing them would call `gc.collect`
        super().__init__(data_root=data_root, metainfo=metainfo, reduce_zero_label=reduce_zero_label, **options)

    def _join_prefix(self) -> None:
        """Paths come from `layout`, whole."""

    def load_data_list(self) -> list[dict]:
        """One entry per pair; ValueError if the split has none."""
        same = {"from_disk": self.from_disk, "reduce_zero_label": self.reduce_zero_label}
        return [
            {"img_path": str(pair.image), "seg_map_path": str(pair.label), "seg_fields": [], **same}
            for pair in read_data(self.data_root).need(self.split).splits[self.split]
        ]

    def prepare_data(self, idx: int) -> Any:
        """As always; where OpenCV fails, the image is named."""
        try:
            return super().prepare_data(idx)
        except cv2.error as error:
            raise ValueError(
                f"{self.get_data_info(idx)['img_path']} cannot be resized or cropped ({one_line(error)}): if it is "
                "hundreds of times as long as it is wide, cut it, else leave it out"
            ) from None


def classes_on_disk(
    metainfo: dict | None = None,
    on_disk: Sequence[Sequence[int]] | None = None,
    ignored: Sequence[int] = (),
    reduce_zero_label: bool = False,
    **_: Any,
) -> Palette:
    """The classes, and what each id on disk means, from the settings of a data set in a config."""
    names = (metainfo or ade20k_palette().meta)["classes"]
    if on_disk is None and reduce_zero_label:
        on_disk, ignored = range(1, len(names) + 1), (0,)
    return own_palette(names, None, on_disk, ignored)


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """Reads an image as prediction does (`images.read_image`), in mmseg's order of channels, BGR."""

    def transform(self, results: dict) -> dict:
        """Adds `img`, `(H, W, 3)` uint8, `img_shape` and `ori_shape`."""
        path = Path(results["img_path"])
        image = results["img"] = decode_bgr(path.read_bytes(), str(path))
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadLabels(LoadAnnotations):
    """Reads a label file, refuses what is not ids of these classes, and turns ids on disk into ids in memory."""

    def _load_seg_map(self, results: dict) -> None:
        path = Path(results["seg_map_path"])
        try:
            on_disk = read_label(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
        label_map = results["from_disk"][on_disk]
        if unknown := np.unique(on_disk[label_map == UNKNOWN]).tolist():
            raise ValueError(f"{path} holds ids {unknown[:5]} that no class has: `m2f check --data` says what to do")
        results["gt_seg_map"] = label_map
        results["seg_fields"].append("gt_seg_map")
