"""Odd image files, 40 x 60 pixels where not said otherwise, written here byte by byte where Pillow writes none."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
PIXELS = np.stack([255 * X / WIDTH, 255 * Y / HEIGHT, 128 + 100 * np.sin(7 * X / WIDTH + 8 * Y / HEIGHT)], -1)
PIXELS = PIXELS.astype(np.uint8)
RGB = Image.fromarray(PIXELS)
ALPHA = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
RGBA = RGB.copy()
RGBA.putalpha(Image.fromarray(ALPHA))
BITS = ((X // 6 + Y // 5) % 2).astype(np.uint8)
FOUR = ((X // 8) % 4).astype(np.uint8)
SIXTEEN = ((X // 4) % 16).astype(np.uint8)


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def packed(values, bits):
    """Rows of bytes that hold several values each."""
    values = np.pad(values, ((0, 0), (0, -values.shape[1] % (8 // bits)))).reshape(len(values), -1, 8 // bits)
    shifts = np.arange(8 - bits, -1, -bits)
    return [row.tobytes() for row in (values << shifts).sum(-1).astype(np.uint8)]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth, colour_type, rows, extra=b""):
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def key(*values):
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def big_endian(values):
    return [row.astype(">u2").tobytes() for row in values.reshape(HEIGHT, -1)]


def bmp(bits, rows, *, compression=0, palette=b"", masks=b"", top_down=False, os2=False, size=(WIDTH, HEIGHT)):
    width, height = size
    body = b"".join(row + bytes(-len(row) % 4) for row in (rows if top_down else rows[::-1]))
    if os2:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        signed = -height if top_down else height
        header = struct.pack("<IiiHHIIiiII", 40, width, signed, 1, bits, compression, len(body), 0, 0, 0, 0)
    start = 14 + len(header) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + masks + palette + body


def fields_565():
    red, green, blue = (PIXELS[..., i].astype(np.uint16) for i in range(3))
    return [row.astype("<u2").tobytes() for row in (red >> 3 << 11) | (green >> 2 << 5) | (blue >> 3)]


def fields_555():
    red, green, blue = (PIXELS[..., i].astype(np.uint16) for i in range(3))
    return [row.astype("<u2").tobytes() for row in (red >> 3 << 10) | (green >> 3 << 5) | (blue >> 3)]


def bgr_rows():
    return [row.tobytes() for row in PIXELS[..., ::-1]]


def palette_of(colours, length=4):
    return b"".join(bytes(colour[::-1])[:3] + bytes(length - 3) for colour in colours)


COLOURS = [tuple(int(value) for value in PIXELS[i, 3 * i]) for i in range(16)]
PALETTE = chunk(b"PLTE", bytes([10, 20, 30, 200, 40, 50, 60, 220, 70, 250, 240, 10]))


def without_adobe(data):
    """Drops Adobe's segment from a JPEG."""
    place, kept = 2, data[:2]
    while data[place + 1] != 0xDA:
        length = struct.unpack(">H", data[place + 2 : place + 4])[0]
        kept += b"" if data[place + 1] == 0xEE else data[place : place + 2 + length]
        place += 2 + length
    return kept + data[place:]


def turned(file_format, **options):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(RGB, file_format, exif=exif, **options)


def on_canvas(gif, width, height):
    """Makes the canvas of a GIF larger than its first frame."""
    return gif[:6] + struct.pack("<HH", width, height) + gif[10:]


def moved(gif, left, top):
    """Moves the first frame of a GIF that has no extensions."""
    place = 13 + 3 * 256
    assert gif[place] == 0x2C
    return gif[: place + 1] + struct.pack("<HH", left, top) + gif[place + 5 :]


def text(words):
    return chunk(b"tEXt", b"Comment\0" + words)


PALETTED = RGB.convert("P")
CORNER = int(np.asarray(PALETTED)[0, 0])
CMYK = encode(RGB.convert("CMYK"), "JPEG", quality=95)


def transparent_at(gif, index):
    """Gives a GIF another transparent colour."""
    place = gif.index(b"\x21\xf9\x04")
    return gif[: place + 6] + bytes([index]) + gif[place + 7 :]


PLAIN_GIF = encode(RGB.quantize(256).convert("P"), "GIF")

# Files that Pillow reads as every other program does
FILES = {
    "grey_key.png": png(8, 0, [bytes(row) for row in PIXELS[..., 0]], key(int(PIXELS[0, 10, 0]))),
    "rgb_key.png": png(8, 2, [bytes(row.ravel()) for row in np.where((X > 20)[..., None], PIXELS, 7)], key(7, 7, 7)),
    "key_after_a_text.png": png(
        8, 2, [bytes(row.ravel()) for row in np.where((X > 20)[..., None], PIXELS, 7)], text(b"of IDAT") + key(7, 7, 7)
    ),
    "key_in_a_text.png": png(8, 2, [bytes(row.ravel()) for row in PIXELS], text(b"tRNS\0\7\0\7\0\7")),
    "rgb_key_that_none_has.png": png(8, 2, [bytes(row.ravel()) for row in PIXELS], key(1, 2, 3)),
    "one_bit.png": png(1, 0, packed(BITS, 1)),
    "one_bit_key.png": png(1, 0, packed(BITS, 1), key(0)),
    "two_bits.png": png(2, 0, packed(FOUR, 2)),
    "four_bits.png": png(4, 0, packed(SIXTEEN, 4)),
    "palette_of_one_bit.png": png(1, 3, packed(BITS, 1), PALETTE),
    "palette_alpha.png": png(2, 3, packed(FOUR, 2), PALETTE + chunk(b"tRNS", bytes([0, 128, 255]))),
    "rgb16.png": png(16, 2, big_endian(PIXELS.astype(np.uint32) * 257)),
    "rgba16.png": png(16, 6, big_endian(np.dstack([PIXELS, ALPHA]).astype(np.uint32) * 257)),
    "grey_alpha16.png": png(16, 4, big_endian(np.dstack([PIXELS[..., 0], ALPHA]).astype(np.uint32) * 257)),
    "rgba.png": encode(RGBA, "PNG"),
    "grey_alpha.png": encode(RGBA.convert("LA"), "PNG"),
    "animated.png": encode(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]),
    "turned.png": turned("PNG"),
    "plain.jpg": encode(RGB, "JPEG", quality=95),
    "grey.jpg": encode(RGB.convert("L"), "JPEG", quality=95),
    "turned.jpg": turned("JPEG", quality=95),
    "cmyk.jpg": CMYK,
    "cmyk_without_adobe.jpg": without_adobe(CMYK),
    "rgb.jpg": encode(RGB, "JPEG", quality=95, keep_rgb=True),
    "several.jpg": encode(RGB, "MPO", save_all=True, append_images=[RGB.rotate(180)], quality=95),
    "one_bit.bmp": bmp(1, packed(BITS, 1), palette=palette_of(COLOURS[:2])),
    "four_bits.bmp": bmp(4, packed(SIXTEEN, 4), palette=palette_of(COLOURS)),
    "palette.bmp": encode(PALETTED, "BMP"),
    "555.bmp": bmp(16, fields_555()),
    "565.bmp": bmp(16, fields_565(), compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
    "24_bits.bmp": bmp(24, bgr_rows()),
    "top_down.bmp": bmp(24, bgr_rows(), top_down=True),
    "32_bits.bmp": encode(RGBA, "BMP"),
    "os2.bmp": bmp(24, bgr_rows(), os2=True),
    "os2_four_bits.bmp": bmp(4, packed(SIXTEEN, 4), palette=palette_of(COLOURS, 3), os2=True),
    "plain.gif": encode(PALETTED, "GIF"),
    "interlaced.gif": encode(PALETTED, "GIF", interlace=1),
    "transparent.gif": encode(PALETTED, "GIF", transparency=CORNER),
    "transparent_animation.gif": encode(
        PALETTED, "GIF", transparency=CORNER, save_all=True, append_images=[PALETTED.rotate(180)], comment=b"c" * 700
    ),
    "on_canvas.gif": on_canvas(PLAIN_GIF, 80, 60),
    "moved.gif": moved(on_canvas(PLAIN_GIF, 80, 60), 7, 13),
    "transparent_colour_that_is_none.gif": transparent_at(encode(RGB.quantize(4), "GIF", transparency=0), 255),
    "transparent_on_canvas.gif": on_canvas(encode(PALETTED, "GIF", transparency=CORNER), 70, 50),
    "lossy.webp": encode(RGB, "WEBP", quality=95),
    "alpha.webp": encode(RGBA, "WEBP", lossless=True, exact=True),
    "turned.webp": turned("WEBP", lossless=True),
}
# Here Pillow compares the key with samples that are spread over eight bits already, and finds none.
OVER_SPREAD_KEY = {
    "two_bits_key.png": (png(2, 0, packed(FOUR, 2), key(2)), np.where(FOUR == 2, 255, FOUR * 85)),
    "four_bits_key.png": (png(4, 0, packed(SIXTEEN, 4), key(5)), np.where(SIXTEEN == 5, 255, SIXTEEN * 17)),
    "rgb16_key.png": (
        png(16, 2, big_endian(np.where((X > 20)[..., None], PIXELS.astype(np.uint32) * 257, 1799)), key(*[1799] * 3)),
        np.where((X > 20)[..., None], PIXELS, 255),
    ),
}

# What cannot be decoded, with words that must stand in the reason
REFUSED = {
    "tiff.jpg": (encode(RGB, "TIFF"), "is a TIFF image: convert it"),
    "heic.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), "is a HEIC image: convert it"),
    "avif.jpg": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + bytes(400), "is an AVIF image: convert it"),
    "video.jpg": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(400), "is a video file"),
    "jp2.jpg": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(400), "is a JPEG 2000 image: convert it"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "is an HTML page"),
    "page_in_capitals.jpg": (b"\n<HTML><BODY>gone</BODY></HTML>", "is an HTML page"),
    "drawing.png": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG image"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git lfs pull"),
    "packed.jpg": (b"\x1f\x8b\x08" + bytes(50), "is a gzip file"),
    "paper.png": (b"%PDF-1.4\n%...", "is a PDF file"),
    "pixmap.jpg": (encode(RGB, "PPM"), "is a PNM image: convert it"),
    "icon.png": (encode(RGB, "ICO"), "is an ICO image"),
    "text.jpg": (b"this is text", "is no image of a known format"),
    "empty.jpg": (b"", "the file is empty"),
    "rle.bmp": (bmp(8, [b"\x3c\0\0\0"] * HEIGHT, compression=1), "is a BMP that is compressed with RLE"),
    "half.jpg": (FILES["plain.jpg"][: len(FILES["plain.jpg"]) // 2], ""),
    "tail.jpg": (FILES["plain.jpg"][:-40], ""),
    "cut.png": (FILES["rgba.png"][:-30], "its end is missing: the file is cut off"),
    "checksum.png": (FILES["rgba.png"][:60] + b"\xff\xfe" + FILES["rgba.png"][62:], "the checksum of its part IDAT"),
    "cut.bmp": (FILES["24_bits.bmp"][:-200], "whole BMP"),
    "cut.gif": (FILES["plain.gif"][:-300], "GIF"),
    "cut.webp": (FILES["alpha.webp"][:-50], ""),
}

# Of little weight, and far too large by their headers.
_SIDE = 20_000
_HEADER = struct.pack(">IIBBBBB", _SIDE, _SIDE, 1, 0, 0, 0, 0)
_ROWS = zlib.compress(bytes((1 + _SIDE // 8) * _SIDE), 9)
_FRAME = FILES["plain.jpg"].index(b"\xff\xc0") + 5
_GIF = encode(RGB.quantize(16), "GIF")
_LOSSLESS = encode(RGB, "WEBP", lossless=True)
HUGE = {
    "huge.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", _HEADER) + chunk(b"IDAT", _ROWS) + chunk(b"IEND", b""),
    "huge.jpg": FILES["plain.jpg"][:_FRAME] + struct.pack(">HH", 65_500, 65_500) + FILES["plain.jpg"][_FRAME + 4 :],
    "huge.bmp": bmp(1, [b"\0\0\0\0"] * 4, palette=bytes(8), size=(60_000, 60_000)),
    "huge.gif": _GIF[:6] + struct.pack("<HH", _SIDE, _SIDE) + _GIF[10:],
    "huge.webp": _LOSSLESS[:21] + struct.pack("<I", 16_382 | 16_382 << 14) + _LOSSLESS[25:],
}
REFUSED |= {name: (encoded, "pixels. Its height and width: ") for name, encoded in HUGE.items()}
