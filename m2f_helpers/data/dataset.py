"""mmseg's data set over the pairs that `layout` finds, so that training sees what every other command sees.

A config that names it lists this module under `custom_imports`, and then plain mmseg can build it.
"""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from m2f_helpers.data.layout import read_data


@DATASETS.register_module()
class PairDataset(BaseSegDataset):
    """The pairs of one split of a data folder, whatever its layout and the suffixes of its images.

    Args:
        data_root: a folder that `layout.read_data` can read.
        split: `"training"` or `"validation"`.
        metainfo: classes and colours; None takes the folder's own.
        **options: as for mmseg's `BaseSegDataset`.
    """

    def __init__(self, data_root: str, split: str, metainfo: dict | None = None, **options: Any) -> None:
        self.split = split
        if metainfo is None:
            classes = read_data(data_root).classes
            metainfo = {"classes": tuple(classes.names), "palette": classes.colors.tolist()}
        super().__init__(data_root=data_root, metainfo=metainfo, **options)

    def _join_prefix(self) -> None:
        """Paths come from `layout`, whole."""

    def load_data_list(self) -> list[dict]:
        """One entry per pair; ValueError if the split has none."""
        same = {"label_map": self.label_map, "reduce_zero_label": self.reduce_zero_label}
        return [
            {"img_path": str(pair.image), "seg_map_path": str(pair.label), "seg_fields": [], **same}
            for pair in read_data(self.data_root).need(self.split).splits[self.split]
        ]
