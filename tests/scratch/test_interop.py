"""A third, independent implementation: Hugging Face's, with the same weights (extra `interop`)."""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed (extra: interop)")

from benchmarks.interop import hugging_face
from m2f_helpers.scratch.model import Mask2Former
from tests.scratch.library import difference, images, predictions, randomised


@pytest.mark.parametrize("profile", ["demo", "ade20k"])
@torch.no_grad()
def test_all_predictions_of_three_implementations_agree(profile):
    library, x = randomised(profile), images(2, 64, 96)
    result = hugging_face(library)(x, output_auxiliary_logits=True)
    theirs = [(layer["class_queries_logits"], layer["masks_queries_logits"]) for layer in result.auxiliary_logits]
    theirs.append((result.class_queries_logits, result.masks_queries_logits))
    bar = 1e-5  # in float64 theirs computes positions in float64 too, mmdet and ours in float32
    assert difference(theirs, predictions(library, x)) < bar
    assert difference(Mask2Former.from_mmseg(library)(x), theirs) < bar
