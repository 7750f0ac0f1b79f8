"""Image files: found in folders, decoded under limits, encoded for storage."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from blindspots_lib.core.errors import StudyError

MAX_PIXELS = 64_000_000  # a larger image is refused before it is decoded
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF")  # other readers may start programs: EPS starts Ghostscript
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def image_files(folder: Path) -> list[Path]:
    """Return all image files below a folder, in order."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode a file to an upright RGB image; transparent parts become white.

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
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise StudyError(f"{name}: not a readable image ({error}); replace or remove it") from None


def stored_image(row: dict, path: Path) -> Image.Image:
    """Decode the image of a row of the Parquet file `path`: from the bytes in it, or from the file that it names."""
    name, content = f"image of pair {row['pair_id']!r} in {path}", row["image"]["bytes"]
    try:
        return decode_image(Path(row["image"]["path"]).read_bytes() if content is None else content, name)
    except OSError as error:
        raise StudyError(f"{name}: {row['image']['path']} cannot be read ({error.strerror}); put it back") from None


def shrunk(data: bytes, side: int, name: str) -> bytes:
    """Return an image file, encoded again as a JPEG if its short side is longer than `side` pixels."""
    image = decode_image(data, name)
    if min(image.size) <= side:
        return data
    scale = side / min(image.size)
    buffer = io.BytesIO()
    image.resize([round(length * scale) for length in image.size], Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def centre_square(image: Image.Image, fraction: float) -> Image.Image:
    """Crop the square in the middle of an image; its side is this fraction of the short side."""
    side = round(min(image.size) * fraction)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
