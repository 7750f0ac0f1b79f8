import io

import numpy as np
import pytest
from conftest import image_file
from PIL import Image

from blindspots_lib.core.errors import StudyError
from blindspots_lib.data.images import SUFFIXES, decode_image, shrunk


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_format_that_is_promised_is_read(suffix):
    image = decode_image(image_file(suffix), "a")
    assert image.size == (8, 8)
    assert np.abs(np.asarray(image, int) - 90).max() <= 3


def test_a_photograph_of_several_pictures_is_read_as_the_jpeg_that_it_is():
    buffer = io.BytesIO()
    red, green = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "green")
    red.save(buffer, "MPO", save_all=True, append_images=[green])
    assert decode_image(buffer.getvalue(), "a").getpixel((4, 4))[0] > 240


def test_an_empty_file_is_called_so():
    with pytest.raises(StudyError, match="a: the file is empty; replace or remove it"):
        decode_image(b"", "a")


@pytest.mark.parametrize(("kind", "size"), [("PNG", (600_000, 1)), ("GIF", (1, 60_000)), ("PNG", (10, 501))])
def test_a_thin_image_is_refused_before_it_is_resized(kind, size):
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, kind)
    with pytest.raises(StudyError, match=f"a: {size[0]} x {size[1]} pixels is too thin; one side may be at most 50 times"):
        decode_image(buffer.getvalue(), "a")


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("PNG", np.array([[0, 25700], [51400, 65535]], np.uint16), [[0, 100], [200, 255]]),
        ("TIFF", np.array([[0, 25700], [51400, 65535]], np.uint16), [[0, 100], [200, 255]]),
        ("TIFF", np.array([[0, 25700], [51400, 51400]], np.int32), [[0, 100], [200, 200]]),
        ("TIFF", np.array([[0, 100], [200, 50]], np.int32), [[0, 100], [200, 50]]),
        ("TIFF", np.array([[0, 0.4], [0.8, 1]], np.float32), [[0, 102], [204, 255]]),
        ("TIFF", np.array([[-3, 100], [200, np.nan]], np.float32), [[0, 100], [200, 0]]),
        ("TIFF", np.array([[0, 4e5], [8e5, 1e6]], np.float32), [[0, 102], [204, 255]]),
    ],
)
def test_grey_images_of_more_bits_keep_their_shades(kind, values, expected):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    assert np.asarray(decode_image(buffer.getvalue(), "a"))[..., 0].tolist() == expected


def test_a_photograph_is_kept_smaller_and_decoded_at_about_that_size(monkeypatch):
    drafts, draft = [], Image.Image.draft
    from PIL.JpegImagePlugin import JpegImageFile

    draft = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, *given: (draft(self, *given), drafts.append(self.size)))
    photograph = image_file(".jpg", (400, 300))
    small = shrunk(photograph, 32, "a")
    assert drafts == [(100, 75)]  # a quarter of the pixels' rows and columns is enough
    assert Image.open(io.BytesIO(small)).size == (43, 32)
    assert shrunk(photograph, 300, "a") is photograph
    assert Image.open(io.BytesIO(shrunk(image_file(".png", (400, 300)), 32, "a"))).size == (43, 32)
