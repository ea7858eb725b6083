"""The sections of the report, each from its part of the metrics; a section without content has no parts."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ringworld.evaluation import markup, plots
from ringworld.evaluation.metrics import (
    AnsweredQuestion,
    GeneratedVideo,
    HeldOutLoss,
    HeldOutMetrics,
    InputFile,
    KindLoss,
    LossPoint,
    Metrics,
    Modality,
    NeedleMetrics,
    PositionLoss,
)

MODALITIES: tuple[Modality, ...] = get_args(Modality)


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
    rows = [(name, f"{_right(group)}", f"{len(group)}") for name, group in groups.items()]
    items = "\n".join(map(_answer, questions))
    return (
        markup.paragraph(f"{_right(questions)} of {len(questions)} answers agree with the true one."),
        markup.table(("question", "right", "asked"), rows, numbers=(1, 2)),
        markup.folded(f"All {len(questions)} answers", f'<ul class="answers">\n{items}\n</ul>'),
    )


def _right(questions: Sequence[AnsweredQuestion]) -> int:
    return sum(one.correct for one in questions)


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
    """Show how the model goes on with a text."""
    return tuple(
        f"<blockquote><span>{markup.text(one.prompt)}</span>{markup.text(one.text)}</blockquote>"
        for one in metrics.continuations
    )


def needles(measured: Sequence[NeedleMetrics]) -> tuple[str, ...]:
    """Draw needle maps, before and after each stage."""
    if not measured:
        return ()
    words = (
        "Numbers are hidden at a depth of a long text and asked for. Each cell gives the percentage found. "
        "An answer counts when the number stands anywhere in it."
    )
    parts = [markup.paragraph(words)]
    for needles, asked in sorted({(one.needles, one.asked) for one in measured}):
        name = "One needle" if needles == 1 else f"{needles} needles, {asked} asked for"
        grids = [one for one in measured if (one.needles, one.asked) == (needles, asked)]
        parts += [f"<h3>{markup.text(name)}</h3>", markup.group(map(_map, grids), kind="maps")]
    return tuple(parts)


def _map(measured: NeedleMetrics) -> str:
    name = f"needles-{measured.needles}-{measured.asked}-{measured.stage}-{measured.when}"
    head = f"<b>{markup.text(f'{measured.when} {measured.stage}')}</b> {markup.percent(found(measured))}"
    drawn = plots.svg(plots.needle_map(measured), name=name)
    return f"<figure><figcaption>{head}</figcaption>{drawn}</figure>"


def losses(metrics: Metrics) -> tuple[str, ...]:
    """Draw training curves and list held-out losses."""

    def chart(modality: Modality) -> str:
        if all(_of(point, modality) is None for point in metrics.losses):
            return ""
        curve = plots.loss_curve(metrics.losses, stages=metrics.stages, modality=modality)
        return markup.figure(plots.svg(curve, name=f"loss-{modality}"))

    words = (
        "Negative log-likelihood in nats a token, text over the text ids and vision over the vision ids. "
        "Every example counts as it would alone in a padded row. Of held-out files, each example is measured "
        "once at the longest context, or evenly spread ones of a kind that has many."
    )
    charts = markup.group((chart("vision"), chart("text")), kind="charts")
    if not charts:
        return ()
    return charts, markup.paragraph(words), _held_out(metrics.held_out)


def _held_out(measured: Sequence[HeldOutMetrics]) -> str:
    """List held-out losses: a row for each kind of example and modality, a column for each measurement."""
    if not measured:
        return ""
    rows = []
    for name, parts in (
        ("all", [one.loss for one in measured]),
        *((kinds[0].kind, kinds) for kinds in zip(*(one.loss.by_kind for one in measured))),
    ):
        rows += _by_modality(name.replace("_", " "), parts)
    heads = ("held out", "", "targets", *(f"{one.when} {one.stage}" for one in measured))
    return markup.table(heads, rows, numbers=range(2, len(heads)))


def _by_modality(name: str, parts: Sequence[HeldOutLoss | KindLoss | PositionLoss]) -> list[tuple[str, ...]]:
    rows = []
    for modality in MODALITIES:
        if targets := _targets(parts[0], modality):
            losses = (markup.number(_of(part, modality), digits=3) for part in parts)
            rows.append((name, modality, f"{targets:,}", *losses))
    return rows


def positions(metrics: Metrics) -> tuple[str, ...]:
    """Draw held-out loss by position, before the first stage and after each."""
    measured = [one for index, one in enumerate(metrics.held_out) if index == 0 or one.when == "after"]

    def chart(modality: Modality) -> str:
        bins = [bin for one in measured for bin in one.loss.by_position]
        if all(_targets(bin, modality) < plots.FEWEST_TARGETS for bin in bins):
            return ""
        drawn = plots.loss_by_position(measured, modality=modality)
        return markup.figure(plots.svg(drawn, name=f"position-{modality}"))

    charts = markup.group((chart("vision"), chart("text")), kind="charts")
    if not charts:
        return ()
    words = (
        "Held-out loss against how far into its example a token stands. Positions with fewer than "
        f"{plots.FEWEST_TARGETS} targets are not drawn."
    )
    rows = []
    for bins in zip(*(one.loss.by_position for one in measured)):
        rows += _by_modality(f"{bins[0].start:,} to {bins[0].stop:,}", bins)
    heads = ("position", "", "targets", *(f"{one.when} {one.stage}" for one in measured))
    table = markup.table(heads, rows, numbers=range(2, len(heads)))
    return markup.paragraph(words), charts, markup.folded("All positions", table)


def frame_tokenizer(metrics: Metrics, media: Path) -> tuple[str, ...]:
    """Show what the frame tokenizer keeps of a frame."""
    tokenizer, unlike = metrics.frame_tokenizer, metrics.frame_tokenizer.unlike
    measured = f"none: each has a frame trained on within {unlike.threshold_db:g} dB"
    if unlike.psnr_db is not None:
        measured = (
            f"{unlike.psnr_db:.2f} dB over {unlike.frames:,} frames, from which all frames trained on are "
            f"further than {unlike.threshold_db:g} dB; the nearest of those in place of the reconstruction: "
            f"{unlike.nearest_db:.2f} dB"
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


def stages(metrics: Metrics) -> tuple[str, ...]:
    """List the stages, and how well their sequences were packed."""
    rows = [
        (
            stage.name,
            f"{stage.context_tokens:,}",
            f"{stage.rope_base:,.0f}",
            f"{stage.steps:,}",
            f"{stage.tokens:,}",
            f"{stage.tokens / stage.seconds:,.0f}",
            markup.rate(stage.model_flops_per_second),
            f"{stage.examples:,}",
            markup.percent(stage.fill),
            markup.percent(stage.ring_efficiency),
        )
        for stage in metrics.stages
    ]
    heads = (
        "stage",
        "context",
        "RoPE base",
        "steps",
        "tokens",
        "tokens/s",
        "FLOP/s",
        "examples",
        "filled",
        "ring efficiency",
    )
    words = (
        "Filled is the share of the packed sequences that is not padding. Ring efficiency is the attention "
        "work of all members over the members times the slowest one of each step. FLOP/s counts what the "
        "tokens need, without padding and what rematerialisation repeats. Times are those of the updates."
    )
    if not rows:
        return ()
    return markup.table(heads, rows, numbers=range(1, 10)), markup.paragraph(words), *_left_out(metrics)


def _left_out(metrics: Metrics) -> tuple[str, ...]:
    """List examples, by kind, that are too long for a stage or for the held-out loss."""
    counted = [
        *((stage.name, stage.context_tokens, stage.left_out) for stage in metrics.stages),
        *(("held-out loss", one.loss.context_tokens, one.left_out) for one in metrics.held_out[-1:]),
    ]
    kinds = list(dict.fromkeys(one.kind for _, _, left_out in counted for one in left_out))
    if not kinds:
        return (markup.paragraph("No example was longer than a context."),)
    rows = []
    for name, context, left_out in counted:
        examples = {one.kind: one.examples for one in left_out}
        rows.append((name, f"{context:,}", *(f"{examples.get(kind, 0):,}" for kind in kinds)))
    words = "Texts that are longer than a context are cut. Other examples are left out; so many of each kind:"
    return (
        "<h3>Examples longer than a context</h3>",
        markup.paragraph(words),
        markup.table(("", "context", *kinds), rows, numbers=range(1, 2 + len(kinds))),
    )


def inputs(metrics: Metrics) -> tuple[str, ...]:
    """List files that were read and files that could not be."""
    files = [
        (
            one.name if one.files == 1 else f"{one.name} ({one.files} of this name)",
            one.kind,
            markup.size(one.bytes),
            f"{one.examples:,}",
            f"{one.tokens:,}",
        )
        for one in metrics.inputs
    ]
    heads = ("kind", "files", "size", "examples", "tokens")
    every = markup.table(("file", *heads[:1], *heads[2:]), files, numbers=(2, 3, 4))
    refused = markup.table(("file", "reason"), [(one.name, one.reason) for one in metrics.quarantined])
    tokenizer = metrics.text_tokenizer
    bpe = (
        f"The text tokenizer has {tokenizer.vocabulary_size:,} ids and takes "
        f"{tokenizer.bytes_per_token:.2f} bytes a token on {tokenizer.judged_on}."
    )
    return (
        markup.table(heads, _by_kind(metrics.inputs), numbers=(1, 2, 3, 4)),
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
        own = [one for one in inputs if one.kind == kind]
        size, examples, tokens = (
            sum(one.bytes for one in own),
            sum(one.examples for one in own),
            sum(one.tokens for one in own),
        )
        files = sum(one.files for one in own)
        rows.append((kind, f"{files:,}", markup.size(size), f"{examples:,}", f"{tokens:,}"))
    return rows


def done(metrics: Metrics) -> tuple[str, ...]:
    """List facts, command and versions."""
    return (
        markup.table(("", ""), [(fact.name, fact.value) for fact in metrics.facts]),
        f"<pre>{markup.text(metrics.command)}</pre>",
        "<h3>Versions</h3>" if metrics.versions else "",
        markup.table(("", ""), [(fact.name, fact.value) for fact in metrics.versions]),
    )


def phases(metrics: Metrics) -> tuple[str, ...]:
    """List time and space of each part."""
    rows = [(one.name, markup.duration(one.seconds), markup.size(one.bytes)) for one in metrics.phases]
    total = (
        "together",
        markup.duration(sum(one.seconds for one in metrics.phases)),
        markup.size(sum(one.bytes for one in metrics.phases)),
    )
    if not rows:
        return ()
    words = (
        "Times are summed over all calls up to the one that finished the part; of a call that was killed, "
        "up to the last file that it wrote."
    )
    table = markup.table(("part", "time", "on disk"), rows, numbers=(1, 2), total=total)
    return table, markup.paragraph(words)


def found(measured: NeedleMetrics) -> float:
    """Return the share of all needles of a grid that was found."""
    asked = sum(cell.asked for cell in measured.cells)
    return sum(cell.accuracy * cell.asked for cell in measured.cells) / asked


def _of(measured: LossPoint | HeldOutLoss | KindLoss | PositionLoss, modality: Modality) -> float | None:
    return measured.text_loss if modality == "text" else measured.vision_loss


def _targets(measured: HeldOutLoss | KindLoss | PositionLoss, modality: Modality) -> int:
    return measured.text_targets if modality == "text" else measured.vision_targets
