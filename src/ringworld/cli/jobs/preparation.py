"""Examples from a user's files."""

from pathlib import Path

from ringworld.cli.jobs.setup import frames_fingerprint, load_tokenizers
from ringworld.core.config import to_json, write_run
from ringworld.core.files import write_json_atomic
from ringworld.core.progress import Progress
from ringworld.data.prepare import PrepareReport, prepare
from ringworld.presets import RunConfig

REPORT_FILE = "report.json"


def prepare_examples(
    run: RunConfig, *, videos: tuple[Path, ...], texts: tuple[Path, ...], tokenizer: Path, out: Path
) -> PrepareReport:
    """Write the examples and `out/report.json`."""
    text, frames = load_tokenizers(run, tokenizer)
    with Progress("prepare", total=1, unit="files") as progress:
        report = prepare(
            videos=videos,
            texts=texts,
            out=out,
            tokenizer=text,
            frame_tokenizer=frames,
            frame_tokenizer_fingerprint=frames_fingerprint(tokenizer),
            resolution=frames.config.resolution,
            vocabulary=run.vocabulary,
            config=run.prepare,
            on_progress=lambda done, total: progress.update(done, total=total),
        )
    write_run(out, run)
    write_json_atomic(out / REPORT_FILE, to_json(report))
    return report
