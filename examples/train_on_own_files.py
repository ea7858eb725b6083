"""Train on one's own videos and texts, then ask the model about one of them.

python examples/train_on_own_files.py VIDEOS TEXTS OUT [PRESET]
"""

import sys
from pathlib import Path

import ringworld as rw

videos, texts, out, preset = *sys.argv[1:4], *(sys.argv[4:] or ["laptop"])
run, out = getattr(rw.presets, preset)(), Path(out)

report = rw.train_tokenizer(run, videos=videos, texts=texts, out=out / "tokenizer")
print(*report.lines(), sep="\n")
report = rw.prepare(run, videos=videos, texts=texts, tokenizer=out / "tokenizer", out=out / "examples")
print(*report.lines(), sep="\n")
model = rw.train(run, data=out / "examples", out=out / "train", evaluate="never")

world = rw.load(model)
clip = next(
    path for path in Path(videos).rglob("*") if path.suffix.lower() in (".mp4", ".mov", ".mkv", ".webm")
)
print(f"{clip.name}: {world.answer('What is shown?', video=clip, max_new_tokens=16)}")
