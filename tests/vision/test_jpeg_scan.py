"""Zeros in JPEGs of every kind: those that Pillow writes, and those that were written over them."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from ringworld.vision.jpeg_scan import has_stray_zeros

NOISE = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
PLAIN = np.full((200, 300, 3), 128, np.uint8)
OPTIONS = [
    dict(zip(("subsampling", "quality", "restart_marker_blocks"), each))
    for each in itertools.product((0, 1, 2), (30, 95), (0, 3))
]


def jpeg(pixels: np.ndarray, *, mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", [{}, {"optimize": True}, {"progressive": True}], ids=str)
def test_zeros_that_an_encoder_wrote_are_none(mode, kind):
    for pixels, options in itertools.product((NOISE, PLAIN), OPTIONS):
        assert not has_stray_zeros(jpeg(pixels, mode=mode, **kind, **options))


def test_plain_pictures_hold_zeros_and_lose_one_by_more_or_fewer():
    content = jpeg(PLAIN, optimize=True)
    at = content.index(bytes(40))
    assert not has_stray_zeros(content)
    assert has_stray_zeros(content[:at] + content[at + 5 :])
    assert has_stray_zeros(content[:at] + bytes(5) + content[at:])


@pytest.mark.parametrize("kind", [{}, {"optimize": True}], ids=str)
def test_zeros_that_were_written_over_pictures_and_tables_are_found(kind):
    for options in OPTIONS:
        content = jpeg(NOISE, **kind, **options)
        tables, scan = content.index(b"\xff\xc4") + 25, content.index(b"\xff\xda") + 2
        for at in (*range(tables, tables + 60, 20), *range(scan, len(content) - 20, 97), len(content) - 16):
            assert has_stray_zeros(content[:at] + bytes(16) + content[at + 16 :]), (at, options)


@pytest.mark.parametrize("kind", [{}, {"optimize": True}], ids=str)
def test_whatever_a_packet_holds_something_is_said(kind):
    draw = np.random.default_rng(0)
    content = jpeg(NOISE, **kind) + bytes(12)
    for _ in range(300):
        changed = np.frombuffer(content, np.uint8).copy()
        changed[draw.integers(0, 650, 4)] = draw.integers(0, 256, 4) * draw.integers(0, 2, 4)
        assert has_stray_zeros(changed.tobytes()[: draw.integers(600, len(content) + 1)]) in (True, False)
