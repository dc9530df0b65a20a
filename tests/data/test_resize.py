import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m2f_helpers.data import resize
from m2f_helpers.data.resize import resize_image, resize_label_map


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([3, 9, 77, 150])),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.sampled_from(resize.MODES),
)
def test_label_maps_never_gain_an_id(label_map, size, mode):
    small = resize_label_map(label_map, size, mode, fill=0)
    assert small.shape == size
    allowed = set(np.unique(label_map)) | ({0} if mode == "pad" else set())
    assert set(np.unique(small)) <= allowed


def test_nearest_takes_the_pixel_below_the_center():
    label_map = np.arange(36, dtype=np.uint8).reshape(6, 6)
    assert resize_label_map(label_map, [2, 2]).tolist() == [[7, 10], [25, 28]]  # centers of 3 x 3 blocks
    assert np.array_equal(resize_label_map(label_map, [12, 12])[::2, ::2], label_map)


def test_pictures_are_averaged_not_sampled():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 255  # one bright column in four: the mean is 64, and a filter that samples between finds 0
    assert set(np.unique(resize_image(stripes, [16, 16]))) == {64}
    assert set(np.unique(resize_image(stripes, [128, 16]))) == {64}  # shrinks one side, enlarges the other


def test_picture_and_label_map_stay_aligned():
    # A bright square, labelled 5: after any resize, label and brightness must still agree.
    image, label_map = np.zeros((90, 150, 3), np.uint8), np.zeros((90, 150), np.uint8)
    image[30:60, 40:90], label_map[30:60, 40:90] = 255, 5
    for mode in resize.MODES:
        for size in ([64, 64], [200, 120], [45, 150]):
            bright = resize_image(image, size, mode)[..., 0] > 128
            labelled = resize_label_map(label_map, size, mode) == 5
            labelled &= ~(resize_image(image, size, mode) == resize.PAD_COLOR).all(-1)
            overlap = (bright & labelled).sum() / (bright | labelled).sum()
            assert overlap > 0.97, (mode, size)


def test_modes_keep_lose_and_fill_what_they_say():
    label_map = np.ones((100, 200), np.uint8)
    label_map[:, :50], label_map[:, -50:] = 2, 3
    stretched, cropped, padded = (resize_label_map(label_map, [80, 80], mode) for mode in resize.MODES)
    assert [int((stretched == i).sum()) for i in (1, 2, 3)] == [3200, 1600, 1600]
    assert set(np.unique(cropped)) == {1}  # the ends are cut
    assert (padded[40:] == 0).all() and set(np.unique(padded[:40])) == {1, 2, 3}
    assert (resize_label_map(label_map, [80, 80], "pad", fill=255)[40:] == 255).all()
    image = resize_image(np.zeros((100, 200, 3), np.uint8), [80, 80], "pad")
    assert (image[:40] == 0).all() and (image[40:] == (124, 116, 104)).all()


@pytest.mark.parametrize(
    ("size", "mode", "text"),
    [([8, 8], "zoom", "mode must be one of"), ([0, 8], "crop", "1 to 8192"), ([8], "pad", "size must be")],
)
def test_wrong_arguments_are_named(size, mode, text):
    with pytest.raises(ValueError, match=text):
        resize_label_map(np.ones((40, 48), np.uint8), size, mode)
    with pytest.raises(ValueError, match=text):
        resize_image(np.ones((40, 48, 3), np.uint8), size, mode)
