"""Sections of the report on what was measured: a section without content has no parts."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from ringworld.core.results import Evaluation
from ringworld.report import grids, markup, plots
from ringworld.report.schema import Metrics


def needles(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Draw needle maps, before and after each stage."""
    maps: dict[tuple[int, int], list[str]] = {}
    for evaluation in evaluations:
        for (hidden, asked), cells in grids.needle_maps(evaluation).items():
            share = grids.found(cells)
            shown = "not measured" if share is None else markup.percent(share)
            caption = f"<b>{markup.text(evaluation.name)}</b> {shown}"
            drawn = plots.svg(plots.needle_map(cells), name=f"needles-{hidden}-{asked}-{evaluation.name}")
            figure = f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>"
            maps.setdefault((hidden, asked), []).append(figure)
    if not maps:
        return ()
    words = (
        "Numbers are hidden at a depth of a long text and asked for. Each cell gives the percentage found. "
        "An answer counts when the number stands anywhere in it."
    )
    parts = [markup.paragraph(words)]
    for (hidden, asked), figures in sorted(maps.items()):
        name = "One needle" if hidden == 1 else f"{hidden} needles, {asked} asked for"
        parts += [f"<h3>{name}</h3>", markup.group(figures, kind="maps")]
    return tuple(parts)


def extended(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Draw the needle maps of a kept model whose context was extended, before and after."""
    parts = needles(evaluations)
    if not parts:
        return ()
    words = (
        "A small model of text that finds needles up to 1K tokens comes with ringworld. As LWM extends "
        "LLaMA-2, its RoPE base was raised, and it was trained on some longer documents."
    )
    return markup.paragraph(words), *parts


def losses(metrics: Metrics) -> tuple[str, ...]:
    """Draw training curves and list held-out losses."""

    def curve(modality: grids.Modality) -> Figure | None:
        if all(getattr(point, f"{modality}_loss") is None for point in metrics.losses):
            return None
        return plots.loss_curve(metrics.losses, stages=metrics.stages, modality=modality)

    words = (
        "Negative log-likelihood in nats a token, text over the text ids and vision over the vision ids. "
        "Every example counts as it would alone in a padded row. Of held-out files, each example is measured "
        "once at the longest context, or evenly spread ones of a kind that has many."
    )
    charts = _charts(curve, name="loss")
    if not charts:
        return ()
    table = _table(
        metrics.evaluations,
        [("all", row) for row in grids.losses(metrics.evaluations, by=None)]
        + [(row.cell["kind"].replace("_", " "), row) for row in grids.losses(metrics.evaluations, by="kind")],
        title="held out",
    )
    return charts, markup.paragraph(words), table


def _charts(draw: Callable[[grids.Modality], Figure | None], *, name: str) -> str:
    """Set the figures that there are of both modalities side by side."""
    drawn: list[tuple[str, Figure | None]] = [("vision", draw("vision")), ("text", draw("text"))]
    figures = (markup.figure(plots.svg(one, name=f"{name}-{which}")) for which, one in drawn if one)
    return markup.group(figures, kind="charts")


def _table(evaluations: Sequence[Evaluation], named: Sequence[tuple[str, grids.Row]], *, title: str) -> str:
    """List values: a row for each cell, a column for each evaluation."""
    rows = [
        (
            name,
            row.metric.removesuffix("_loss").replace("_", " "),
            f"{row.count:,}",
            *(markup.number(one.value if one else None, digits=3) for one in row.columns),
        )
        for name, row in named
    ]
    titles = (title, "", "count", *(evaluation.name for evaluation in evaluations))
    return markup.table(titles, rows, numbers=range(2, len(titles)))


def positions(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Draw held-out loss by position."""
    rows = grids.losses(evaluations, by="start")

    def drawn(modality: grids.Modality) -> Figure | None:
        of_modality = [row for row in rows if row.metric == f"{modality}_loss"]
        counts = [one.count for row in of_modality for one in row.columns if one]
        if max(counts, default=0) < plots.FEWEST_TARGETS:
            return None
        return plots.loss_by_position(evaluations, modality=modality)

    charts = _charts(drawn, name="position")
    if not charts:
        return ()
    words = (
        "Held-out loss against how far into its example a token stands. Positions with fewer than "
        f"{plots.FEWEST_TARGETS} targets are not drawn."
    )
    named = [(f"{row.cell['start']:,} to {row.cell['stop']:,}", row) for row in rows]
    table = _table(evaluations, named, title="position")
    return markup.paragraph(words), charts, markup.folded("All positions", table)


def other_tasks(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """List the results of tasks that have no section of their own."""
    tasks = dict.fromkeys(result.task for one in evaluations for result in one.results)
    named = [
        (f"{task} {', '.join(f'{name} {value}' for name, value in row.cell.items())}", row)
        for task in tasks
        if task not in (grids.NEEDLES, grids.HELD_OUT)
        for row in grids.rows(evaluations, task=task)
    ]
    return (_table(evaluations, named, title="task"),)


def unmeasured(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """List what could not be measured, and why."""
    rows = [
        (evaluation.name, f"{one.task} {one.where}".strip(), one.reason)
        for evaluation in evaluations
        for one in evaluation.results
        if one.reason
    ]
    return (markup.table(("evaluation", "task", "reason"), rows),)


def stages(metrics: Metrics) -> tuple[str, ...]:
    """List the stages, and how well their sequences were packed."""
    if not metrics.stages:
        return ()
    rows = [
        {
            "stage": stage.name,
            "context": f"{stage.context_tokens:,}",
            "RoPE base": f"{stage.rope_base:,.0f}",
            "steps": f"{stage.steps:,}",
            "tokens": f"{stage.tokens:,}",
            "tokens/s": f"{stage.tokens / stage.seconds:,.0f}",
            "FLOP/s": markup.rate(stage.model_flops_per_second),
            "examples": f"{stage.examples:,}",
            "filled": markup.percent(stage.fill),
            "ring efficiency": markup.percent(stage.ring_efficiency),
        }
        for stage in metrics.stages
    ]
    words = (
        "Filled is the share of the packed sequences that is not padding. Ring efficiency is the attention "
        "work of all members over the members times the slowest one of each step. FLOP/s counts what the "
        "tokens need, without padding and what rematerialization repeats. Times are those of the updates."
    )
    table = markup.table(tuple(rows[0]), [tuple(row.values()) for row in rows], numbers=range(1, 10))
    return table, markup.paragraph(words), *_left_out(metrics)


def _left_out(metrics: Metrics) -> tuple[str, ...]:
    """List examples, by kind, that are too long for a stage or for the held-out loss."""
    counted = [(stage.name, stage.context_tokens, stage.left_out) for stage in metrics.stages]
    too_long = [
        row for row in grids.rows(metrics.evaluations[-1:], task=grids.HELD_OUT) if row.metric == "too_long"
    ]
    if too_long:
        held_out = {row.cell["kind"]: row.count for row in too_long}
        counted.append(("held-out loss", too_long[0].cell["context_tokens"], held_out))
    kinds = list(dict.fromkeys(kind for _, _, examples in counted for kind in examples))
    if not kinds:
        return (markup.paragraph("No example was longer than a context."),)
    rows = [
        (name, f"{context:,}", *(f"{examples.get(kind, 0):,}" for kind in kinds))
        for name, context, examples in counted
    ]
    words = "Texts that are longer than a context are cut. Other examples are left out; so many of each kind:"
    return (
        "<h3>Examples longer than a context</h3>",
        markup.paragraph(words),
        markup.table(("", "context", *kinds), rows, numbers=range(1, 2 + len(kinds))),
    )
