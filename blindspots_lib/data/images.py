"""Image files: decoded under limits, whoever they come from; encoded for keeping."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from blindspots_lib.core.errors import StudyError

MAX_PIXELS = 64_000_000  # a larger image is refused before it is decoded
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF")  # others, EPS for one, start programs of their own
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def decode_image(data: bytes, name: str) -> Image.Image:
    """An RGB image from the bytes of a file, upright; what is transparent becomes white.

    Raises StudyError if the bytes are cut short, not an image, or claim more than `MAX_PIXELS`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise StudyError(f"{name}: {image.width} x {image.height} pixels is too large; at most {MAX_PIXELS:,} in all")
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB")
    except StudyError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds for a damaged file
        raise StudyError(f"{name}: not a readable image ({error}); replace or remove it") from None


def stored_bytes(image: dict, name: str) -> bytes:
    """The file of an image column's cell: the bytes in it, or those of the file that it names."""
    if image["bytes"] is not None:
        return image["bytes"]
    try:
        return Path(image["path"]).read_bytes()
    except OSError as error:
        raise StudyError(f"{name}: {image['path']} cannot be read ({error.strerror}); put it back") from None


def shrunk(data: bytes, side: int, name: str) -> bytes:
    """The file of an image, made again as a JPEG if its short side is longer than `side` pixels."""
    image = decode_image(data, name)
    if min(image.size) <= side:
        return data
    scale = side / min(image.size)
    buffer = io.BytesIO()
    image.resize([round(length * scale) for length in image.size], Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def centre_square(image: Image.Image, share: float) -> Image.Image:
    """The square in the middle of an image whose side is `share` of the short side: what a centre crop leaves of it."""
    side = round(min(image.size) * share)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
