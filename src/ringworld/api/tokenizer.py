"""`ringworld.train_tokenizer`: both tokenizers from a user's files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ringworld.api.machine import PathArgument, Paths, as_local, as_paths, begin_process, check_apart
from ringworld.artifacts.tokenizers import FRAME_TOKENIZER_FOLDER, Tokenizers
from ringworld.core.config import read_as, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import write_json_atomic
from ringworld.core.origin import Origin, claim, working_in
from ringworld.core.progress import Progress
from ringworld.data.config import HeldOutOf, TextJudgedOn
from ringworld.data.corpus import corpus
from ringworld.data.find_sources import RECORD_READERS, find_sources
from ringworld.data.frames import sample_frames
from ringworld.data.quarantine import Quarantined
from ringworld.data.sources import Reader, Source
from ringworld.evaluation.unlike_frames import UnlikeFrames, judge_unlike
from ringworld.presets.run import RunConfig
from ringworld.text.tokenizer import TextTokenizer
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.train import FrameTrainingReport, train_frame_tokenizer

REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTokenizerReport:
    """What a text tokenizer reaches."""

    vocabulary: int
    """Ids; fewer than asked for where the corpus is small."""
    bytes_per_token: float | None
    """None where there is no text at all."""
    judged_on: TextJudgedOn


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameTokenizerReport:
    """What a frame tokenizer reaches on frames that it was not trained on."""

    held_out_frames: int
    held_out_of: HeldOutOf
    trained: FrameTrainingReport
    unlike: UnlikeFrames


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerReport:
    """What the tokenizers reach, and what they could not read."""

    text_tokenizer: TextTokenizerReport
    frame_tokenizer: FrameTokenizerReport | None
    """None for a run over text alone."""
    quarantined: tuple[Quarantined, ...]

    def lines(self) -> list[str]:
        """Return the report as lines to read."""
        text, sight = self.text_tokenizer, self.frame_tokenizer
        lines = [f"text: {text.vocabulary} ids"]
        if text.bytes_per_token is not None:
            lines[0] += f", {text.bytes_per_token:.2f} bytes a token of {text.judged_on}"
        if sight is not None:
            lines.append(
                f"frames: {sight.trained.psnr_db:.2f} dB PSNR on {sight.held_out_frames} held-out frames of "
                f"{sight.held_out_of}, {sight.trained.codebook_usage:.0%} of the codebook in use"
            )
            if (unlike := sight.unlike).psnr_db is not None:
                lines.append(
                    f"of them, {unlike.frames} unlike all that were trained on: {unlike.psnr_db:.2f} dB"
                )
        return lines + [f"quarantined: {item.path}: {item.reason}" for item in self.quarantined]


def train_tokenizer(
    run: RunConfig,
    *,
    out: PathArgument,
    videos: Paths = (),
    texts: Paths = (),
    text_tokenizer: PathArgument | None = None,
    readers: Mapping[str, Reader] = RECORD_READERS,
) -> TokenizerReport:
    """Train a byte-level BPE and, where the run sees frames, a VQGAN; a second call resumes.

    Args:
        run: the shape and training of both, and which files are held out.
        out: tokenizer folder to write.
        videos: folders or files of videos and images, with captions and questions beside them.
        texts: folders or files of text.
        text_tokenizer: tokenizer folder or model folder whose text tokenizer is taken over instead.
        readers: of files by the end of their names, as for `prepare`.

    Raises:
        InputError: a path is missing, no file can be used, or `out` holds other tokenizers.
    """
    begin_process(run)
    out, videos, texts = Path(out), as_paths(videos), as_paths(texts)
    check_apart(out, (*videos, *texts))
    with working_in(out, kind="tokenizer"):
        videos, texts = as_local(videos, out=out), as_local(texts, out=out)
        quarantined: list[Quarantined] = []
        sources = find_sources(
            videos=videos, texts=texts, config=run.prepare, readers=readers, quarantined=quarantined
        )
        words = None if text_tokenizer is None else TextTokenizer.load(Path(text_tokenizer))
        if words is not None:
            Tokenizers(text_tokenizer=words, frame_tokenizer=None).vocabulary(text_vocab=run.model.text_vocab)
        claim(out, _origin(run, sources, words), results=REPORT_FILE)
        if (out / REPORT_FILE).exists():
            return read_as(TokenizerReport, out / REPORT_FILE)
        if run.frame_tokenizer is not None and all(one.reader.shows == "text" for one in sources):
            raise InputError(
                "there is no video or image to train a frame tokenizer on",
                field="videos",
                remedy="name some, or use a run of text alone (frame_tokenizer None, vision_vocab 0)",
            )
        text = _train_text_tokenizer(run, sources, words, out=out, quarantined=quarantined)
        sight = None
        if run.frame_tokenizer is not None:
            sight = _train_frame_tokenizer(run, sources, out=out, quarantined=quarantined)
        report = TokenizerReport(
            text_tokenizer=text,
            frame_tokenizer=sight,
            quarantined=tuple(dict.fromkeys(quarantined)),
        )
        write_json_atomic(out / REPORT_FILE, to_json(report))
        return report


def _origin(run: RunConfig, sources: Sequence[Source], words: TextTokenizer | None) -> Origin:
    return Origin(
        kind="tokenizer",
        identity={
            "text_vocab": run.model.text_vocab,
            "text_tokenizer": None if words is None else words.fingerprint,
            "frame_tokenizer": to_json(run.frame_tokenizer),
            "frame_training": to_json(run.frame_training),
            "frame_training_frames": run.frame_training_frames,
            "prepare": to_json(run.prepare),
            "files": [[source.relative, source.split, source.path.stat().st_size] for source in sources],
        },
        configuration=to_json(run),
    )


def _train_text_tokenizer(
    run: RunConfig,
    sources: Sequence[Source],
    words: TextTokenizer | None,
    *,
    out: Path,
    quarantined: list[Quarantined],
) -> TextTokenizerReport:
    read = partial(corpus, sources, config=run.prepare)
    # Bytes on disk stand for characters: of texts in Latin script they are almost as many.
    total = max(1, sum(one.path.stat().st_size for one in sources if one.reader.shows != "pictures"))
    with Progress("text tokenizer", total=total, unit="characters read") as progress:
        tokenizer = words or TextTokenizer.train(
            read(split="train", quarantined=quarantined),
            vocab_size=run.model.text_vocab,
            on_progress=lambda characters: progress.update(min(characters, total - 1)),
        )
    tokenizer.save(out)
    held_out = list(read(split="held_out", quarantined=quarantined))
    # What is read again was quarantined before.
    judged = held_out or list(read(split="train", quarantined=[]))
    tokens = sum(len(tokenizer.encode(text)) for text in judged)
    return TextTokenizerReport(
        vocabulary=tokenizer.size,
        bytes_per_token=sum(len(text.encode()) for text in judged) / tokens if tokens else None,
        judged_on="text held out" if held_out else "text trained on",
    )


def _train_frame_tokenizer(
    run: RunConfig, sources: Sequence[Source], *, out: Path, quarantined: list[Quarantined]
) -> FrameTokenizerReport:
    assert run.frame_tokenizer is not None and run.frame_training is not None
    most, resolution = run.frame_training_frames, run.frame_tokenizer.resolution
    frames = sample_frames(sources, most_frames=most, config=run.prepare, resolution=resolution)
    quarantined += frames.quarantined
    folder = out / FRAME_TOKENIZER_FOLDER
    trained = train_frame_tokenizer(
        frames.train, frames.held_out, config=run.frame_tokenizer, training=run.frame_training, out=folder
    )
    return FrameTokenizerReport(
        held_out_frames=len(frames.held_out),
        held_out_of=frames.held_out_of,
        trained=trained,
        unlike=judge_unlike(FrameTokenizer.load(folder), frames.held_out, trained_on=frames.train),
    )
