"""Train on one's own videos and texts, then ask the model about one of them.

python examples/train_on_own_files.py VIDEOS TEXTS OUT [PRESET]
"""

import sys
from pathlib import Path

import ringworld as rw


def main(videos: str, texts: str, out: Path, preset: str = "laptop") -> None:
    """Write tokenizer, examples and model below OUT."""
    run = getattr(rw.presets, preset)()
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


if __name__ == "__main__":  # which processes that read files import, too
    videos, texts, out, *preset = sys.argv[1:]
    main(videos, texts, Path(out), *preset)
