"""The whole path over text alone, at the smallest shapes; that over videos: tests/cli/test_quickstart.py."""

from dataclasses import replace

from ringworld.core.config import read_as
from ringworld.core.mesh_config import MeshConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.presets import needles
from ringworld.quickstart.config import NeedleWorldConfig, QuickstartConfig
from ringworld.quickstart.job import quickstart
from ringworld.report.schema import Metrics

RUN = needles()
STAGE = replace(RUN.training.stages[0], context_tokens=512, steps=2, warmup_steps=0, batch_sequences=1)
TINY = QuickstartConfig(
    toy_world=NeedleWorldConfig(
        lengths_tokens=(128,), documents=(8,), held_out=1, haystacks=1, haystack_words=200
    ),
    run=replace(
        RUN,
        model=replace(RUN.model, layers=1, embed=16, heads=2, kv_heads=1, head=8, mlp=16, text_vocab=300),
        training=replace(RUN.training, stages=(replace(STAGE, mesh=MeshConfig()),)),
        evaluation=EvaluationConfig(
            tasks=(NeedleConfig(context_tokens=(512,), depth_percents=(50.0,), max_new_tokens=2),)
        ),
    ),
)


def test_a_quickstart_of_text_alone_ends_with_a_report(tmp_path):
    page = quickstart(TINY, out=tmp_path / "out", videos=(), texts=(), devices=1)
    metrics = read_as(Metrics, page.with_name("metrics.json"))
    assert metrics.frame_tokenizer is None and not metrics.videos
    assert [evaluation.name for evaluation in metrics.evaluations] == ["before 128", "after 128"]
    for evaluation in metrics.evaluations:
        assert [one.cell["context_tokens"] for one in evaluation.results] == [512]
    (answered,) = {one.about for one in metrics.questions}
    assert answered == "held_out/document_00000.txt"
    shown = page.read_text()
    assert "Retrieval" in shown and "Frame tokenizer" not in shown and "Generated video" not in shown
    assert (page.parent / "model/model.safetensors").exists()
