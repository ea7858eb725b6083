"""Sections of the report on inputs, samples and tokenizers: a section without content has no parts."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import filesize

from ringworld.report import markup
from ringworld.report.schema import AnsweredQuestion, GeneratedVideo, InputFile, Metrics

_MOST_FILES = 1000
"""That are listed one by one."""


def videos(metrics: Metrics, media: Path) -> tuple[str, ...]:
    """Show generated videos beside real ones."""

    def pair(one: GeneratedVideo) -> str:
        made = f"<div>{markup.video(media / one.generated, label=one.caption)}<span>generated</span></div>"
        real = ""
        if one.real is not None:
            real = f"<div>{markup.video(media / one.real, label=one.caption)}<span>real</span></div>"
        return markup.figure(f'<div class="pair">{made}{real}</div>', caption=one.caption)

    if not metrics.videos:
        return ()
    seconds = sum(one.seconds for one in metrics.videos) / len(metrics.videos)
    known = sum(one.caption_trained for one in metrics.videos)
    words = (
        f"Each video on the left was drawn from its caption alone, in {markup.duration(seconds)} on average. "
        "On the right is a video from the held-out files that has this caption. Files trained on have "
        f"{known} of these {len(metrics.videos)} captions too."
    )
    return markup.paragraph(words), markup.group(map(pair, metrics.videos), kind="pairs")


def images(metrics: Metrics, media: Path) -> tuple[str, ...]:
    """Show generated images."""
    tiles = (
        markup.figure(markup.image(media / one.file, alt=one.caption), caption=one.caption)
        for one in metrics.images
    )
    return (markup.group(tiles, kind="tiles"),)


def questions(questions: Sequence[AnsweredQuestion]) -> tuple[str, ...]:
    """List questions, the model's answers and the true ones."""
    if not questions:
        return ()
    counted = Counter(one.question for one in questions)
    groups: dict[str, list[AnsweredQuestion]] = {}
    for one in questions:
        again = counted[one.question] > 1
        groups.setdefault(one.question if again else f"other questions about a {one.kind}", []).append(one)
    rows = [(name, f"{sum(one.correct for one in group)}", f"{len(group)}") for name, group in groups.items()]
    right, items = sum(one.correct for one in questions), "\n".join(map(_answer, questions))
    return (
        markup.paragraph(f"{right} of {len(questions)} answers agree with the true one."),
        markup.table(("question", "right", "asked"), rows, numbers=(1, 2)),
        markup.folded(f"All {len(questions)} answers", f'<ul class="answers">\n{items}\n</ul>'),
    )


def _answer(one: AnsweredQuestion) -> str:
    mark, kind = ("\N{CHECK MARK}", "mark right") if one.correct else ("\N{MULTIPLICATION SIGN}", "mark")
    label = "right" if one.correct else "wrong"
    return (
        f'<li><span class="{kind}" role="img" aria-label="{label}">{mark}</span>'
        f'<div><b>{markup.text(one.question)}</b> <span class="about">{markup.text(one.about)}</span>'
        f'<dl class="said"><dt>model</dt><dd>{markup.text(one.answer)}</dd>'
        f"<dt>truth</dt><dd>{markup.text(one.truth)}</dd></dl></div></li>"
    )


def continuations(metrics: Metrics) -> tuple[str, ...]:
    """Show what the model adds to the beginning of a text."""
    return tuple(
        f"<blockquote><span>{markup.text(one.prompt)}</span>{markup.text(one.text)}</blockquote>"
        for one in metrics.continuations
    )


def frame_tokenizer(metrics: Metrics, media: Path) -> tuple[str, ...]:
    """Show what the frame tokenizer keeps of a frame."""
    tokenizer = metrics.frame_tokenizer
    if tokenizer is None:
        return ()
    measured = f"none: each has a frame trained on within {tokenizer.resembling_db:g} dB"
    if tokenizer.unlike_psnr_db is not None:
        measured = (
            f"{tokenizer.unlike_psnr_db:.2f} dB over {tokenizer.unlike_frames:,} frames, from which all "
            f"frames trained on are further than {tokenizer.resembling_db:g} dB; the nearest of those "
            f"in place of the reconstruction: {tokenizer.nearest_psnr_db:.2f} dB"
        )
    rows = (
        (
            "PSNR on held-out frames",
            f"{tokenizer.psnr_db:.2f} dB over {tokenizer.held_out_frames:,} frames "
            f"of {tokenizer.held_out_of}",
        ),
        ("of them, unlike all trained on", measured),
        (
            "codebook in use",
            f"{tokenizer.codebook_used:,} of {tokenizer.codebook_size:,} codes "
            f"({markup.percent(tokenizer.codebook_used / tokenizer.codebook_size)})",
        ),
        ("frame", f"{tokenizer.resolution} px, {tokenizer.codes_per_frame:,} codes"),
        ("training", f"{tokenizer.steps:,} steps"),
    )
    strips = (
        markup.figure(
            f'<div class="strip wide-strip">{markup.image(media / one.file, alt=one.caption)}</div>',
            caption=one.caption,
        )
        for one in metrics.reconstructions
    )
    return (*strips, markup.table(("", ""), rows))


def inputs(metrics: Metrics) -> tuple[str, ...]:
    """List files that were read and files that could not be."""
    files = [
        (
            one.name if one.files == 1 else f"{one.name} ({one.files} of this name)",
            one.kind,
            filesize.decimal(one.bytes),
            f"{one.examples:,}",
            f"{one.tokens:,}",
        )
        for one in metrics.inputs
    ]
    titles = ("kind", "files", "size", "examples", "tokens")
    more = [(f"and {len(files) - _MOST_FILES:,} more", "", "", "", "")] if len(files) > _MOST_FILES else []
    every = markup.table(("file", *titles[:1], *titles[2:]), [*files[:_MOST_FILES], *more], numbers=(2, 3, 4))
    refused = markup.table(("file", "reason"), [(one.name, one.reason) for one in metrics.quarantined])
    tokenizer = metrics.text_tokenizer
    bpe = (
        f"The text tokenizer has {tokenizer.vocabulary_size:,} ids and takes "
        f"{tokenizer.bytes_per_token:.2f} bytes a token on {tokenizer.judged_on}."
    )
    return (
        markup.table(titles, _by_kind(metrics.inputs), numbers=(1, 2, 3, 4)),
        markup.folded(f"All {sum(one.files for one in metrics.inputs):,} files", every),
        "<h3>Files that could not be used</h3>" if refused else "",
        refused or markup.paragraph("No file had to be left out."),
        _questions_left_out(metrics.questions_left_out),
        markup.paragraph(bpe),
    )


def _questions_left_out(many: int) -> str:
    if not many:
        return ""
    asked = "1 question is" if many == 1 else f"{many:,} questions are"
    return markup.paragraph(f"{asked} left out: the document asked about is longer than one example.")


def _by_kind(inputs: Sequence[InputFile]) -> list[tuple[str, ...]]:
    rows = []
    for kind in dict.fromkeys(one.kind for one in inputs):
        files, size, examples, tokens = (
            sum(getattr(one, name) for one in inputs if one.kind == kind)
            for name in ("files", "bytes", "examples", "tokens")
        )
        rows.append((kind, f"{files:,}", filesize.decimal(size), f"{examples:,}", f"{tokens:,}"))
    return rows


def done(metrics: Metrics) -> tuple[str, ...]:
    """List facts, command and versions."""
    return (
        markup.table(("", ""), metrics.facts.items()),
        f"<pre>{markup.text(metrics.command)}</pre>",
        "<h3>Versions</h3>" if metrics.versions else "",
        markup.table(("", ""), metrics.versions.items()),
    )


def phases(metrics: Metrics) -> tuple[str, ...]:
    """List time and space of each part."""
    rows = [(one.name, markup.duration(one.seconds), filesize.decimal(one.bytes)) for one in metrics.phases]
    total = (
        "together",
        markup.duration(sum(one.seconds for one in metrics.phases)),
        filesize.decimal(sum(one.bytes for one in metrics.phases)),
    )
    if not rows:
        return ()
    words = (
        "Times are summed over all calls up to the one that finished the part; of a call that was killed, "
        "up to the last file that it wrote."
    )
    table = markup.table(("part", "time", "on disk"), rows, numbers=(1, 2), total=total)
    return table, markup.paragraph(words)
