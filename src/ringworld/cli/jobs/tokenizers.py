"""Both tokenizers from a user's files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ringworld.cli.jobs.setup import FRAMES_FOLDER, TEXT_FOLDER
from ringworld.core.config import read_as, to_json, write_run
from ringworld.core.files import claim_folder, write_json_atomic
from ringworld.data.config import HeldOutOf, PrepareConfig, Split, TextJudgedOn
from ringworld.data.corpus import corpus
from ringworld.data.frames import sample_frames
from ringworld.data.quarantine import Quarantined
from ringworld.data.sources import Source, find_sources
from ringworld.evaluation.metrics import UnlikeFrames
from ringworld.evaluation.unlike_frames import judge_unlike
from ringworld.presets import RunConfig
from ringworld.text.tokenizer import TextTokenizer
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.train import FrameTokenizerReport, train_frame_tokenizer

REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerReport:
    """What the two tokenizers reach on what they were not trained on."""

    text_vocabulary: int
    """Ids of the text tokenizer; fewer than asked for where the corpus is small."""
    text_bytes_per_token: float
    text_judged_on: TextJudgedOn
    held_out_frames: int
    held_out_of: HeldOutOf
    frames: FrameTokenizerReport
    unlike: UnlikeFrames
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextTraining:
    """A text tokenizer, and how many bytes of some text it takes for a token."""

    tokenizer: TextTokenizer
    bytes_per_token: float
    judged_on: TextJudgedOn
    quarantined: tuple[Quarantined, ...]
    """Files that could not be read, each once."""


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
    write_run(out, run)
    text = train_text_tokenizer(sources, vocab_size=run.model.text_vocab, config=run.prepare)
    text.tokenizer.save(out / TEXT_FOLDER)
    frames = sample_frames(
        sources,
        most_frames=run.frame_training_frames,
        frames_per_second=run.prepare.frames_per_second,
        resolution=run.frames.resolution,
    )
    trained = train_frame_tokenizer(
        frames.train,
        frames.held_out,
        config=run.frames,
        training=run.frame_training,
        out=out / FRAMES_FOLDER,
    )
    report = TokenizerReport(
        text_vocabulary=text.tokenizer.size,
        text_bytes_per_token=text.bytes_per_token,
        text_judged_on=text.judged_on,
        held_out_frames=len(frames.held_out),
        held_out_of=frames.held_out_of,
        frames=trained,
        unlike=judge_unlike(
            FrameTokenizer.load(out / FRAMES_FOLDER), frames.held_out, trained_on=frames.train
        ),
        quarantined=(*text.quarantined, *frames.quarantined),
    )
    write_json_atomic(out / REPORT_FILE, to_json(report))
    return report


def train_text_tokenizer(
    sources: Sequence[Source], *, vocab_size: int, config: PrepareConfig
) -> TextTraining:
    """Train a text tokenizer on what the sources train on, and judge it by what they hold out."""
    quarantined: list[Quarantined] = []
    held_out: list[str] = []

    def trained_on(texts: Iterable[tuple[str, Split]]) -> Iterator[str]:
        for text, split in texts:
            if split == "train":
                yield text
            else:
                held_out.append(text)

    texts = trained_on(corpus(sources, config=config, quarantined=quarantined))
    tokenizer = TextTokenizer.train(texts, vocab_size=vocab_size)
    # What is read again was quarantined before.
    judged = held_out or [text for text, _ in corpus(sources, config=config, quarantined=[])]
    return TextTraining(
        tokenizer=tokenizer,
        bytes_per_token=sum(len(text.encode()) for text in judged)
        / max(1, sum(len(tokenizer.encode(text)) for text in judged)),
        judged_on="text held out" if held_out else "text trained on",
        quarantined=tuple(quarantined),
    )


def _claim(out: Path, run: RunConfig, sources: Sequence[Source]) -> None:
    trained_on = {
        "text_vocabulary": run.model.text_vocab,
        "frames": to_json(run.frames),
        "frame_training": to_json(run.frame_training),
        "frame_training_frames": run.frame_training_frames,
        "prepare": to_json(run.prepare),
        "files": [[source.relative, source.split, source.path.stat().st_size] for source in sources],
    }
    claim_folder(
        out / "trained_on.json",
        trained_on,
        holds="tokenizers of other files or of another configuration",
        results=out / FRAMES_FOLDER,
    )


def read_tokenizer_report(out: Path) -> TokenizerReport:
    """Read what `train_tokenizers` reported."""
    return read_as(TokenizerReport, out / REPORT_FILE)
