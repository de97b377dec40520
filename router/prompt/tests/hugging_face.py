#!/usr/bin/env python3
"""Writes tests/data/hugging_face/tokenizer.json: a small tekken vocabulary as transformers converts it.

Needs transformers 5.23.0. usage: hugging_face.py TEKKEN_FILE"""
import json
import os
import sys

from transformers.integrations.mistral.tokenizer import convert_tekken_tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
made = json.loads(convert_tekken_tokenizer(sys.argv[1]).backend_tokenizer.to_str())
with open(f"{HERE}/data/hugging_face/tokenizer.json", "w") as file:
    json.dump(made, file, ensure_ascii=False, separators=(",", ":"))
