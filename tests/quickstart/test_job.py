"""The whole path over text alone, at the smallest shapes; that over videos: tests/cli/test_quickstart.py."""

from dataclasses import replace

import pytest

import ringworld as rw
from ringworld.core.config import read_as
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.presets import extend_needles, needles
from ringworld.quickstart.config import ExtensionConfig, NeedleWorldConfig, QuickstartConfig
from ringworld.quickstart.extension import KEPT_MODEL, extend
from ringworld.quickstart.job import quickstart
from ringworld.report.schema import Metrics

RUN = needles()
STAGE = replace(RUN.training.stages[0], context_tokens=512, steps=2, warmup_steps=0, batch_sequences=1)
DOCUMENTS = NeedleWorldConfig(
    lengths_tokens=(128,), documents=(8,), held_out=1, haystacks=1, haystack_words=200
)
TINY = QuickstartConfig(
    toy_world=DOCUMENTS,
    run=replace(
        RUN,
        model=replace(RUN.model, layers=1, embed=16, heads=2, kv_heads=1, head=8, mlp=16, text_vocab=300),
        training=replace(RUN.training, stages=(replace(STAGE, mesh=MeshConfig()),)),
        evaluation=EvaluationConfig(
            tasks=(NeedleConfig(context_tokens=(512,), depth_percents=(50.0,), max_new_tokens=2),)
        ),
    ),
)
LONGER = extend_needles()
KEPT_GRID = EvaluationConfig(tasks=(NeedleConfig(context_tokens=(512,), rounds=2, max_new_tokens=28),))
EXTENSION = ExtensionConfig(
    documents=DOCUMENTS,
    run=replace(
        LONGER,
        training=replace(
            LONGER.training,
            stages=(
                replace(
                    LONGER.training.stages[0],
                    context_tokens=512,
                    steps=1,
                    warmup_steps=0,
                    mixture=STAGE.mixture,
                ),
            ),
        ),
        evaluation=KEPT_GRID,
    ),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart") / "out"
    config = replace(TINY, extension=EXTENSION)
    return quickstart(config, out=out, videos=(), texts=(), devices=1)


def test_a_quickstart_of_text_alone_ends_with_a_report(page):
    metrics = read_as(Metrics, page.with_name("metrics.json"))
    assert metrics.frame_tokenizer is None and not metrics.videos
    assert [evaluation.name for evaluation in metrics.evaluations] == ["before 128", "after 128"]
    for evaluation in metrics.evaluations:
        assert [one.cell["context_tokens"] for one in evaluation.results] == [512]
    (answered,) = {one.about for one in metrics.questions}
    assert answered == "held_out/document_00000.txt"
    shown = page.read_text()
    assert "Retrieval" in shown and "Frame tokenizer" not in shown and "Generated video" not in shown
    assert "A kept model, extended" in shown
    assert (page.parent / "model/model.safetensors").exists()


def test_the_kept_model_finds_needles_and_is_measured_as_it_was_kept_before_it_is_extended(page, tmp_path):
    before, after = read_as(Metrics, page.with_name("metrics.json")).extended
    assert (before.name, after.name) == ("before 4K", "after 4K")
    extension = page.parent / "extension"
    (haystack,) = (extension / "toy/texts/held_out").glob("haystack_*.txt")
    alone = rw.evaluate(KEPT_MODEL, haystack=haystack, tasks=KEPT_GRID, out=tmp_path / "alone", devices=1)
    assert alone.results == before.results
    found = [one.value for one in before.results if one.value is not None]
    assert sum(found) / len(found) >= 0.9
    assert extend(EXTENSION, out=extension, devices=1) == (before, after)


def test_another_shape_extends_nothing(tmp_path):
    other = replace(EXTENSION.run, model=replace(EXTENSION.run.model, embed=32))
    with pytest.raises(InputError) as refused:
        extend(replace(EXTENSION, run=other), out=tmp_path, devices=1)
    assert refused.value.field == "init"
