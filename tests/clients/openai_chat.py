"""The `openai` client against a running cluster: chat with a picture, streaming, usage, errors, completions, models.

usage: openai_chat.py HTTP_ADDRESS MODEL PICTURE"""
import base64
import sys

import openai

address, model, picture = sys.argv[1:]
client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)
uri = "data:image/png;base64," + base64.b64encode(open(picture, "rb").read()).decode()
messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "Describe the picture."}]}]

assert model in [m.id for m in client.models.list().data]

whole = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=32)
answer = whole.choices[0].message.content
assert whole.choices[0].finish_reason == "stop", whole
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

pieces, usage = [], None
stream = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=32, stream=True, stream_options={"include_usage": True})
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        pieces.append(chunk.choices[0].delta.content)
    usage = chunk.usage or usage
assert "".join(pieces) == answer, (pieces, answer)
assert len(pieces) > 1, "it did not stream"
counts = lambda usage: (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
assert counts(usage) == counts(whole.usage), (usage, whole.usage)

scored = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=4, logprobs=True, top_logprobs=2)
for entry in scored.choices[0].logprobs.content:
    assert entry.logprob <= 0 and len(entry.top_logprobs) == 2 and entry.top_logprobs[0].logprob >= entry.logprob - 1e-6, entry

both = client.chat.completions.create(model=model, messages=messages, temperature=1, seed=5, n=2, max_tokens=8)
again = client.chat.completions.create(model=model, messages=messages, temperature=1, seed=5, n=2, max_tokens=8)
assert [c.index for c in both.choices] == [0, 1]
assert [c.message.content for c in both.choices] == [c.message.content for c in again.choices]

text = client.completions.create(model=model, prompt="Describe", max_tokens=3, temperature=0)
assert text.usage.completion_tokens <= 3 and text.object == "text_completion"

try:
    client.chat.completions.create(model=model, messages=messages, temperature=-1)
except openai.BadRequestError as error:
    assert "temperature" in str(error)
else:
    raise AssertionError("a negative temperature was taken")

print(answer)
