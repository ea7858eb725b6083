"""The report of a run: one HTML file that opens from disk, with every picture and video inside it.

It is a function of `metrics.json` and of the media files that it names, so that it can always be made again.
"""

from importlib.resources import files
from pathlib import Path
from string import Template

from ringworld.core.config import to_json
from ringworld.core.files import write_json_atomic, write_text_atomic
from ringworld.report import grids, markup, measures, sections
from ringworld.report.schema import Metrics

NUMBERS_FILE, PAGE_FILE = "metrics.json", "report.html"


def write_report(metrics: Metrics, *, out: Path) -> Path:
    """Write `metrics.json` and `report.html` beside the media files, and return the path of the report.

    Raises:
        InputError: a media file that the metrics name is missing.
    """
    write_json_atomic(out / NUMBERS_FILE, to_json(metrics))
    write_text_atomic(out / PAGE_FILE, render(metrics, media=out))
    return out / PAGE_FILE


def render(metrics: Metrics, *, media: Path) -> str:
    """Return the page; the file names in `metrics` are relative to the folder `media`.

    Raises:
        InputError: a media file is missing.
    """
    parts_of = {
        "Generated video": sections.videos(metrics, media),
        "Generated images": sections.images(metrics, media),
        "Questions": sections.questions(metrics.questions),
        "Text": sections.continuations(metrics),
        "Retrieval": measures.needles(metrics.evaluations),
        "A kept model, extended": measures.extended(metrics.extended),
        "Loss": measures.losses(metrics),
        "Loss by position": measures.positions(metrics.evaluations),
        "Other tasks": measures.other_tasks(metrics.evaluations),
        "Not measured": measures.unmeasured(metrics.evaluations),
        "Frame tokenizer": sections.frame_tokenizer(metrics, media),
        "Stages and packing": measures.stages(metrics),
        "Inputs": sections.inputs(metrics),
        "What was done": sections.done(metrics),
        "Time and space": sections.phases(metrics),
    }
    shown = {name: parts for name, parts in parts_of.items() if any(parts)}
    links = "\n".join(f'<a href="#{markup.anchor(name)}">{markup.text(name)}</a>' for name in shown)
    body = "".join(markup.section(name, *parts) for name, parts in shown.items())
    ours = files("ringworld.report")
    return Template(ours.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=markup.text(metrics.title),
        style=ours.joinpath("report.css").read_text(encoding="utf-8"),
        summary=markup.paragraph(metrics.summary, kind="lead"),
        headline=_headline(metrics),
        links=links,
        body=body,
    )


def _headline(metrics: Metrics) -> str:
    last, shown = metrics.evaluations[-1:], []
    if frames := metrics.frame_tokenizer:
        name, psnr = "PSNR of frames unlike those trained on", frames.unlike_psnr_db
        if psnr is None:
            name, psnr = "PSNR of held-out frames", frames.psnr_db
        shown.append((name, f"{psnr:.1f}", "dB"))
    for row in reversed(grids.losses(last, by=None)):
        if (one := row.columns[0]) and one.value is not None:
            name = f"held-out {row.metric.replace('_', ' ')}"
            shown.append((name, markup.number(one.value), "nats"))
    needles = sorted(grids.needle_maps(last[0]).items()) if last else []
    if needles and (share := grids.found(needles[0][1])) is not None:
        shown.append(("needles found, last stage", f"{100 * share:.0f}", "%"))
    longest = max((stage.context_tokens for stage in metrics.stages), default=0)
    shown.append(("longest context", f"{longest:,}", "tokens"))
    shown.append(("whole run", markup.duration(sum(phase.seconds for phase in metrics.phases)), ""))
    items = (
        f"<div><dt>{markup.text(name)}</dt><dd>{markup.text(value)} <small>{unit}</small></dd></div>"
        for name, value, unit in shown
    )
    return f'<dl class="headline">{"".join(items)}</dl>'
