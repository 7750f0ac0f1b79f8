"""Image files: found in folders, decoded under limits, encoded for storage."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from blindspots_lib.core.errors import StudyError, first_line

MAX_PIXELS = 64_000_000  # a larger image is refused before it is decoded
MAX_RATIO = 50  # of the sides: a thinner image, resized to a backbone's short side, would be larger than any memory
LARGEST_READ = 1024  # short side, in pixels, at which an image that was not copied is read
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # other readers may start programs: EPS starts Ghostscript
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def image_files(folder: Path) -> list[Path]:
    """Return all image files below a folder, in order."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


class UnusableImage(StudyError):
    """Why a file cannot be used as an image; losses are counted by its `cause`."""

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause


@contextmanager
def naming_image_faults(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for a damaged file into one line."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:  # Pillow raises many kinds
        reason = "no image format that is read here" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise UnusableImage("not a readable image", f"{name}: not a readable image ({reason}); replace or remove it") from None


def open_image(data: bytes | BinaryIO, name: str) -> Image.Image:
    """Open an image file by its header. Raises UnusableImage if it is empty, no image, too large or too thin."""
    if not data:
        raise UnusableImage("empty file", f"{name}: the file is empty; replace or remove it")
    with naming_image_faults(name):
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    size, ratio = f"{image.width} x {image.height} pixels", max(image.size) / max(1, min(image.size))
    if image.width * image.height > MAX_PIXELS:
        raise UnusableImage("too many pixels", f"{name}: {size} is too large; at most {MAX_PIXELS:,} in all")
    if ratio > MAX_RATIO:
        raise UnusableImage("too thin", f"{name}: {size} is too thin; one side may be at most {MAX_RATIO} times the other")
    return image


def decode_image(data: bytes, name: str, side: int | None = None) -> Image.Image:
    """Decode a file to an upright RGB image, its short side at most `side`; transparent parts become white.

    Raises UnusableImage if the bytes are cut short, or for what `open_image` refuses.
    """
    image = open_image(data, name)
    with naming_image_faults(name):
        if side:
            image.draft(None, (2 * side, 2 * side))  # a JPEG is decoded at about the size that is wanted
        image = eight_bit(ImageOps.exif_transpose(image))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        if side and min(image.size) > side:
            scale = side / min(image.size)
            image = image.resize([round(length * scale) for length in image.size], Image.Resampling.BICUBIC)
        return image


def eight_bit(image: Image.Image) -> Image.Image:
    """Scale a grey image of 16 bits, 32 bits or floats to 8 bits; others stay. White is the top of the range its values need."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
    highest = float(values.max())
    ranges = (65535,) if image.mode.startswith("I;16") else (255, 65535) if image.mode == "I" else (1, 255, 65535)
    white = next((top for top in ranges if highest <= top), highest)
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))


def stored_image(row: dict, path: Path) -> Image.Image:
    """Decode the image of a row of the Parquet file `path`: from the bytes in it, or, at reduced size, from the file it names."""
    name, content = f"image of pair {row['pair_id']!r} in {path}", row["image"]["bytes"]
    if content is not None:
        return decode_image(content, name)
    file = Path(row["image"]["path"])
    try:
        return decode_image(file.read_bytes(), str(file), LARGEST_READ)
    except OSError as error:
        raise StudyError(f"{name}: {file} cannot be read ({error.strerror}); put it back") from None


def shrunk(data: bytes, side: int, name: str) -> bytes:
    """Return an image file as it is or, if its short side is longer than `side` pixels, a smaller JPEG of it.

    Raises UnusableImage as `decode_image` does.
    """
    image = decode_image(data, name, side)
    if min(open_image(data, name).size) <= side:
        return data
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def centre_square(image: Image.Image, fraction: float) -> Image.Image:
    """Crop the square in the middle of an image; its side is this fraction of the short side."""
    side = round(min(image.size) * fraction)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
