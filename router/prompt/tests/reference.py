#!/usr/bin/env python3
"""Writes tests/data/reference.json: what mistral-common makes of texts, conversations, sizes and pictures.

Needs mistral-common 1.13.1, opencv-python-headless and pillow. usage: reference.py TESTS_FOLDER_OF_TINY_RANDOM"""
import base64
import io
import json
import os
import random
import sys

import mistral_common
import numpy as np
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, SpecialImageIDs
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
SMALL = sys.argv[1] + "/mistral/tekken.json"
REAL = os.path.join(os.path.dirname(mistral_common.__file__), "data", "tekken_240911.json")
R = random.Random(20261123)
ALPHABETS = ["abcdefghij ", "ABC abc", "0123456789", " \t\n\r", "éàüßñ ", "你好世界", "こんにちは ", "привет ", "مرحبا ", "🙂🚀👩‍👩‍👧 ", "!?.,;:/-_(){}<>[]", "'\"`", "\u0301\u200d", "[INST] <s> [IMG]"]
WORDS = "the naïve café costs 12.50€ and don't we'll THEY'RE HelloWorld snake_case https://a.b/c?d=e 10,000 x86_64 \u00a0 tabs\tand\r\nlines".split(" ")


def text():
    if R.random() < 0.4:
        return " ".join(R.choice(WORDS) for _ in range(R.randrange(1, 20)))
    return "".join(R.choice(R.choice(ALPHABETS)) for _ in range(R.randrange(0, 40)))


def picture(w, h):
    y, x = np.mgrid[0:h, 0:w]
    a = np.stack([127 + 110 * np.sin(x / 7 + c) * np.cos(y / 11) for c in range(3)], -1) + np.random.default_rng(w * h).normal(0, 15, (h, w, 3))
    return Image.fromarray(np.clip(a, 0, 255).astype(np.uint8))


def conversation():
    """(roles, parts): parts are texts or image sizes."""
    out = []
    if R.random() < 0.4:
        out.append(("system", [text() or "Be brief."]))
    for _ in range(R.randrange(0, 3)):
        out.append(("user", user_parts()))
        out.append(("assistant", [(text() or "yes") + R.choice(["", "  "]) + "."]))
    out.append(("user", user_parts()))
    if R.random() < 0.2:
        out.append(("user", user_parts()))
    if R.random() < 0.1:
        out.append(("system", ["Late orders."]))
    return out


def user_parts():
    parts = [text() or "hm" if R.random() < 0.6 else [R.randrange(1, 90), R.randrange(1, 90)] for _ in range(R.randrange(1, 5))]
    return parts


def encode(tok, messages):
    kinds = {"user": UserMessage, "assistant": AssistantMessage, "system": SystemMessage}
    made = []
    for role, parts in messages:
        if role == "user":
            content = [TextChunk(text=p) if isinstance(p, str) else ImageChunk(image=Image.new("RGB", tuple(p))) for p in parts]
        else:
            content = parts[0]
        made.append(kinds[role](content=content))
    return tok.encode_chat_completion(ChatCompletionRequest(model="m", messages=made)).tokens


small, real = MistralTokenizer.from_file(SMALL), MistralTokenizer.from_file(REAL)
plain = lambda tok, s: tok.instruct_tokenizer.tokenizer.encode(s, bos=False, eos=False)
texts = [text() for _ in range(1500)] + ["a" * 300, " " * 70 + "x", "\n" * 9 + " y"]
talks = [conversation() for _ in range(150)]
encoder = ImageEncoder(ImageConfig(16, 1024), SpecialImageIDs(10, 12, 13))
sizes = [(R.randrange(1, 4200), R.randrange(1, 4200)) for _ in range(3000)] + [(1, 4000), (5000, 1), (1024, 1024), (1025, 1024), (1, 1)]
grids = [encoder._image_to_num_tokens(type("I", (), {"size": s})) for s in sizes]
small_encoder = ImageEncoder(ImageConfig(16, 256), SpecialImageIDs(10, 12, 13))
pictures = []
PICTURES = [(50, 33, "RGB"), (300, 120, "RGB"), (31, 90, "RGB"), (64, 48, "RGB"), (40, 40, "RGBA"), (40, 24, "L"), (33, 20, "P"), (700, 30, "RGB")]
MORE = [(45, 31, "I;16", "PNG", {}), (64, 48, "RGB", "PNG", {"transparency": (250, 5, 40)}), (45, 31, "RGBA", "WEBP", {"lossless": True}), (45, 31, "P", "GIF", {})]
for w, h, mode, kind, options in [(*p, "PNG", {}) for p in PICTURES] + MORE:
    image = picture(w, h)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, w).astype(np.uint8), (h, 1))))
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 2)
    elif mode != "RGB":
        image = image.convert(mode)
    if "transparency" in options:
        image.paste(options["transparency"], (0, 0, w // 2, h // 2))
    file = io.BytesIO()
    image.save(file, kind, **options)
    pixels = small_encoder(ImageChunk(image=Image.open(io.BytesIO(file.getvalue())))).image
    flat = pixels.reshape(-1)
    at = sorted(R.sample(range(len(flat)), 200))
    pictures.append({"mode": mode, "file": base64.b64encode(file.getvalue()).decode(), "shape": list(pixels.shape), "at": at, "values": [float(flat[i]) for i in at]})
json.dump({
    "texts": texts,
    "small": [plain(small, s) for s in texts],
    "real": [plain(real, s) for s in texts],
    "talks": talks,
    "talk_ids": [encode(small, t) for t in talks],
    "sizes": sizes, "grids": grids, "pictures": pictures,
}, open(f"{HERE}/data/reference.json", "w"), ensure_ascii=False, separators=(",", ":"))
