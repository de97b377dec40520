#!/usr/bin/env python3
"""Writes the pictures in tests/data/memory, all of one colour, so that the files are small: WebPs of 12 million pixels,
and small JPEGs whose sizes tests/memory.rs changes.

Needs pillow. usage: memory.py"""
import os

from PIL import Image

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "memory")
SIZE = (4000, 3000)
COLOUR = (200, 100, 50)


def flat(mode, colour=COLOUR, size=SIZE):
    return Image.new(mode, size, colour)


def main():
    os.makedirs(HERE, exist_ok=True)
    to = lambda name: os.path.join(HERE, name)
    small = (64, 48)
    flat("RGB", size=small).save(to("progressive.jpg"), subsampling=0, progressive=True)
    flat("CMYK", (1, 2, 3, 4), small).save(to("progressive_cmyk.jpg"), progressive=True)
    flat("L", 77, small).save(to("progressive_grey.jpg"), progressive=True)
    flat("RGB", size=small).save(to("baseline.jpg"), subsampling=2)
    flat("RGB").save(to("lossy.webp"), quality=20, method=0)
    flat("RGB").save(to("lossless.webp"), lossless=True)
    flat("RGBA", (*COLOUR, 90)).save(to("lossy_alpha.webp"), quality=20, method=0)
    flat("RGBA", (*COLOUR, 90)).save(to("lossless_alpha.webp"), lossless=True)
    frames = [flat("RGBA", (*COLOUR, alpha)) for alpha in (90, 200)]
    frames[0].save(to("animation.webp"), save_all=True, append_images=frames[1:], quality=20, method=0, allow_mixed=True)


main()
