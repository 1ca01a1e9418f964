"""Tells the format of a file by its first bytes, not by its name."""

import re
import struct
import zlib

# TensorFlow decodes these: format -> the bytes with which a file of it begins.
DECODED = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF8", "BMP": b"BM", "WebP": b"RIFF"}
SUFFIXES = {
    "JPEG": {"jpg", "jpeg", "jpe", "jfif"},
    "PNG": {"png"},
    "GIF": {"gif"},
    "BMP": {"bmp", "dib"},
    "WebP": {"webp"},
    "TIFF": {"tif", "tiff"},
    "HEIC": {"heic", "heif"},
    "AVIF": {"avif"},
    "JPEG XL": {"jxl"},
}
HEAD_LENGTH = 512

_OTHERS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\1\0": "ICO",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"\x1f\x8b": "gzip",
    b"PK\3\4": "zip",
    b"version https://git-lfs": "Git LFS pointer",
}
# The brand behind `ftyp` in an ISO media file; a video has others.
_BRANDS = {"HEIC": (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "AVIF": (b"avif", b"avis")}
# Lengths of a BMP's second header, by which text that begins with "BM" is told apart.
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_CONVERT = {
    "TIFF": "`magick FILE FILE.png`",
    "HEIC": "`magick FILE FILE.jpg` or pillow-heif",
    "AVIF": "`magick FILE FILE.jpg`",
    "JPEG 2000": "`magick FILE FILE.png`",
    "JPEG XL": "`djxl FILE FILE.png`",
    "ICO": "`magick FILE FILE.png`",
    "Photoshop": "`magick FILE FILE.png`",
    "PNM": "`magick FILE FILE.png`",
    "SVG": "`magick FILE FILE.png`",
}


def format_of(head: bytes) -> str | None:
    """Tells the format of a file.

    Args:
        head: Its first `HEAD_LENGTH` bytes, or more.

    Returns:
        One of those in `DECODED`, the name of what cannot be decoded ("HEIC", "HTML", …), or None if it is not known.
    """
    found = next((name for name, start in DECODED.items() if head.startswith(start)), None)
    # RIFF holds sound and films too; and a text may begin with "BM" or "GIF8".
    is_it = {
        "WebP": head[8:12] == b"WEBP",
        "BMP": int.from_bytes(head[14:18], "little") in _BMP_HEADERS,
        "GIF": head[4:6] in (b"7a", b"9a"),
    }
    if found and is_it.get(found, True):
        return found
    if head[4:8] == b"ftyp":
        return next((name for name, brands in _BRANDS.items() if head[8:12] in brands), "video")
    other = next((name for start, name in _OTHERS.items() if head.startswith(start)), None)
    return other or _text_format(head)


def _text_format(head: bytes) -> str | None:
    if re.match(rb"P[1-7]\s", head):
        return "PNM"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if text.startswith((b"<?xml", b"<svg", b"<!--")):
        return "SVG" if b"<svg" in text else "XML"
    return None


def damage_of(encoded: bytes) -> str | None:
    """Says which part of a PNG has a wrong checksum, or that its end is missing, which decoders pass over; else None.

    Args:
        encoded: The whole file.
    """
    if not encoded.startswith(DECODED["PNG"][:4]):
        return None
    place = 8
    while place + 12 <= len(encoded):
        length, name = struct.unpack_from(">I4s", encoded, place)
        end = place + 8 + length
        if end + 4 > len(encoded):
            break
        if zlib.crc32(encoded[place + 4 : end]) != int.from_bytes(encoded[end : end + 4], "big"):
            known = f" {name.decode()}" if name.isalpha() else ""
            return f"the checksum of its part{known} is wrong: the file is damaged"
        if name == b"IEND":
            return None
        place = end + 4
    return "its end is missing: the file is cut off"


def why_not_decoded(head: bytes) -> str | None:
    """Says in one line what a file is that cannot be decoded, and what to do; None if its format can be.

    Args:
        head: Its first `HEAD_LENGTH` bytes, or more.
    """
    if not head:
        return "the file is empty"
    found = format_of(head)
    if found == "BMP" and head[14] >= 40 and head[30] in (1, 2):
        return f"it is a BMP that is compressed with RLE: convert it, with {_CONVERT['TIFF']}"
    if found in DECODED:
        return None
    if found is None:
        return "it is no image of a known format"
    if found == "Git LFS pointer":
        return "it is a Git LFS pointer: run `git lfs pull`"
    if found == "HTML":
        return "it is an HTML page: download the image anew"
    article = "an" if found in ("AVIF", "ICO", "SVG", "XML") else "a"
    kind = "image" if found in _CONVERT else "file"
    return f"it is {article} {found} {kind}" + (f": convert it, with {_CONVERT[found]}" if found in _CONVERT else "")
