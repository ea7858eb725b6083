"""Both tokenizers from a user's files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ringworld.cli.jobs.setup import FRAMES_FOLDER, TEXT_FOLDER
from ringworld.core.config import read_as, to_json, write_run
from ringworld.core.files import claim_folder, write_json_atomic
from ringworld.data.config import HeldOutOf
from ringworld.data.corpus import corpus
from ringworld.data.frames import sample_frames
from ringworld.data.quarantine import Quarantined
from ringworld.data.sources import Source, find_sources
from ringworld.presets import RunConfig
from ringworld.text.tokenizer import TextTokenizer
from ringworld.vision.train import FrameTokenizerReport, train_frame_tokenizer

REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerReport:
    """What the two tokenizers reach on what they were not trained on."""

    text_vocabulary: int
    """Ids of the text tokenizer; fewer than asked for where the corpus is small."""
    text_bytes_per_token: float
    """Over the held-out texts, or those trained on where none is held out."""
    held_out_frames: int
    held_out_of: HeldOutOf
    frames: FrameTokenizerReport
    quarantined: tuple[Quarantined, ...]


def train_tokenizers(
    run: RunConfig, *, videos: tuple[Path, ...], texts: tuple[Path, ...], out: Path
) -> TokenizerReport:
    """Write `out/text`, `out/frames` and the report, unless the report is there already.

    Raises:
        InputError: a folder is missing, no file can be used, or `out` holds tokenizers of other files or of
            another configuration.
    """
    sources = find_sources(videos=videos, texts=texts, config=run.prepare)
    _claim(out, run, sources)
    if (out / REPORT_FILE).exists():
        return read_tokenizer_report(out)
    write_run(out, run, command="ringworld train-tokenizer")
    quarantined: list[Quarantined] = []
    texts_of = partial(corpus, sources, config=run.prepare, quarantined=quarantined)
    tokenizer = TextTokenizer.train(texts_of(split="train"), vocab_size=run.model.text_vocab)
    tokenizer.save(out / TEXT_FOLDER)
    judged = list(texts_of(split="held_out")) or list(texts_of(split="train"))
    frames = sample_frames(
        sources,
        most_frames=run.frame_training_frames,
        frames_per_second=run.prepare.frames_per_second,
        resolution=run.frames.resolution,
    )
    quarantined += frames.quarantined
    report = TokenizerReport(
        text_vocabulary=tokenizer.size,
        text_bytes_per_token=sum(len(text.encode()) for text in judged)
        / max(1, sum(len(tokenizer.encode(text)) for text in judged)),
        held_out_frames=len(frames.held_out),
        held_out_of=frames.held_out_of,
        frames=train_frame_tokenizer(
            frames.train,
            frames.held_out,
            config=run.frames,
            training=run.frame_training,
            out=out / FRAMES_FOLDER,
        ),
        quarantined=tuple(quarantined),
    )
    write_json_atomic(out / REPORT_FILE, to_json(report))
    return report


def _claim(out: Path, run: RunConfig, sources: Sequence[Source]) -> None:
    trained_on = {
        "text_vocabulary": run.model.text_vocab,
        "frames": to_json(run.frames),
        "frame_training": to_json(run.frame_training),
        "frame_training_frames": run.frame_training_frames,
        "files": [[source.relative, source.split, source.path.stat().st_size] for source in sources],
    }
    claim_folder(
        out / "trained_on.json", trained_on, holds="tokenizers of other files or of another configuration"
    )


def read_tokenizer_report(out: Path) -> TokenizerReport:
    """Read what `train_tokenizers` reported."""
    return read_as(TokenizerReport, out / REPORT_FILE)
