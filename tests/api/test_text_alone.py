"""A run over text alone, from files to answers: the paper's first half."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

import ringworld as rw
from ringworld.artifacts.tokenizers import FRAME_TOKENIZER_FOLDER
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin, write_origin
from ringworld.data.store import read_examples
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.held_out import HeldOutConfig
from ringworld.model.lora_config import LoraConfig
from ringworld.text.needles import needle
from ringworld.text.templates import LLAMA_2, Message
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.training_template import learned_template
from ringworld.vision.write_media import write_video
from tests.data.shouted import Shouted
from tests.inference.tiny_world import make_world
from tests.report.sample_run import moving_square

RUN = replace(
    rw.presets.smoke(),
    frame_tokenizer=None,
    frame_training=None,
    model=replace(rw.presets.smoke().model, vision_vocab=0, text_vocab=300),
    training=replace(rw.presets.smoke().training, stages=rw.presets.smoke().training.stages[1:]),
    evaluation=EvaluationConfig(
        tasks=(HeldOutConfig(examples_per_kind=4, position_edges=(0, 16)),), every_steps=4
    ),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("text")
    for index in range(6):
        words = f"The river is {index} miles long. " * (8 + index)
        (root / "texts").mkdir(exist_ok=True)
        (root / "texts" / f"{index}.txt").write_text(words)
    report = rw.train_tokenizer(RUN, texts=root / "texts", out=root / "tokenizer")
    assert report.frame_tokenizer is None and report.text_tokenizer.vocabulary <= 300
    rw.prepare(RUN, texts=root / "texts", tokenizer=root / "tokenizer", out=root / "examples")
    rw.train(RUN, data=root / "examples", out=root / "run")
    return root


def test_it_trains_and_is_measured(made):
    rows = [json.loads(line) for line in (made / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(row["vision_loss"] is None for row in rows)
    evaluation = json.loads((made / "run/evaluation/after-256/evaluation.json").read_text())["evaluation"]
    measured = {one["metric"]: one["value"] for one in evaluation["results"] if one["task"] == "held_out"}
    assert measured["text_loss"] > 0
    # Within the stage after 4 of its 6 updates, and not once more at its end.
    losses = [row.get("held_out_text_loss") for row in rows]
    assert [loss is not None for loss in losses] == [False] * 3 + [True] + [False] * 2
    before, within, after = (
        held_out(made / "run/evaluation" / when) for when in ("before-256", "at-4-256", "after-256")
    )
    assert len({before, within, after}) == 3 and within == losses[3]
    (run,) = rw.runs(made / "run").runs
    assert run.held_out == {"text": after}


def test_files_at_an_address_are_prepared_and_copied_once(made, tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe("/rivers/a.txt", b"The river is 3 miles long. " * 9)
    options = {"tokenizer": made / "tokenizer", "texts": "memory://rivers", "out": tmp_path / "out"}
    report = rw.prepare(RUN, **options)
    assert report.files == 1 and {one.dataset for one in report.parts} == {"rivers"}
    left = [
        tmp_path / "out" / name for name in (".manifest.parquet.1.tmp", "tokenizer/.tokenizer.json.1.tmp")
    ]
    for path in left:  # as after a kill
        path.touch()
    assert rw.prepare(RUN, **options).shards_made == 0
    assert not any(path.exists() for path in left)
    system.rm("/rivers", recursive=True)


def test_a_format_of_ones_own_trains_a_tokenizer_and_is_asked_about(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/a.shout").write_text("THE RIVER IS 3 MILES LONG. " * 40)
    readers = {".shout": Shouted()}
    report = rw.train_tokenizer(RUN, texts="in", out="tokenizer", readers=readers)
    assert report.text_tokenizer.bytes_per_token and not report.quarantined
    assert TextTokenizer.load(Path("tokenizer")).encode("the river") != []
    config = rw.QaConfig(model="writer", dry_run=True, passage_tokens=32)
    asked = rw.make_qa("in", tokenizer=made / "tokenizer", out="qa", config=config, readers=readers)
    assert asked.estimate.passages > 2


def test_a_model_is_asked_in_the_template_that_it_learned(made, tmp_path):
    run = replace(RUN, prepare=replace(RUN.prepare, chat_template="llama-2"))
    (tmp_path / "in").mkdir()
    said = [{"role": "user", "content": "How long?"}, {"role": "assistant", "content": "3 miles."}]
    (tmp_path / "in/chat.jsonl").write_text("\n".join([json.dumps({"messages": said})] * 4))
    rw.prepare(run, tokenizer=made / "tokenizer", texts=tmp_path / "in", out=tmp_path / "out")
    tokenizer = TextTokenizer.load(tmp_path / "out/tokenizer")
    (example, *_) = read_examples(tmp_path / "out", split="train")
    template = learned_template(tokenizer, vocabulary=RUN.vocabulary)
    assert template is not None and template.source == LLAMA_2
    prompt = template.encode([Message(role="user", content=("How long?",))])
    learned = example.loss.tolist().index(True)
    assert example.tokens[:learned].tolist() == prompt.tolist()
    assert tokenizer.decode(example.tokens[learned:].tolist()) == " 3 miles. "
    assert learned_template(TextTokenizer.load(made / "tokenizer"), vocabulary=RUN.vocabulary) is None


def test_it_completes_answers_and_scores_but_draws_nothing(made):
    world = rw.load(made / "run/models/256")
    assert isinstance(world.complete("The river", max_new_tokens=4), str)
    assert isinstance(world.answer("How long?", document="The river is long.", max_new_tokens=4), str)
    assert world.score("The river is 3 miles long.").mean_nats < 6
    with pytest.raises(InputError) as refused:
        world.draw("A river.")
    assert refused.value.field == "frame_tokenizer"


def test_its_folder_has_no_frame_tokenizer_and_a_config_of_text(made):
    folder = made / "run/models/256"
    assert not (folder / "frame_tokenizer").exists()
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == config["ringworld"]["text_vocab"] == 300


def test_a_run_without_frames_takes_no_videos(made, tmp_path):
    write_video(tmp_path / "in" / "a.mp4", moving_square(color=(9, 9, 9)), frames_per_second=4)
    with pytest.raises(InputError) as refused:
        rw.prepare(RUN, videos=tmp_path / "in", tokenizer=made / "tokenizer", out=tmp_path / "out")
    assert refused.value.field == "frame_tokenizer"


def test_data_of_another_vocabulary_are_refused_before_anything_is_written(made, tmp_path):
    other = replace(RUN, model=replace(RUN.model, text_vocab=302))
    with pytest.raises(InputError) as refused:
        rw.train(other, data=made / "examples", out=tmp_path / "out")
    assert (refused.value.field, refused.value.path) == ("data", made / "examples")
    assert not (tmp_path / "out" / "origin.json").exists()


def test_a_model_of_another_shape_begins_no_run(made, tmp_path):
    wider = replace(RUN, model=replace(RUN.model, mlp=96))
    with pytest.raises(InputError) as refused:
        rw.train(wider, data=made / "examples", out=tmp_path / "out", init=made / "run/models/256")
    assert (refused.value.field, refused.value.value) == ("init", ["mlp"])


@pytest.mark.parametrize("run", ["all weights", "adapter"])
def test_a_model_of_scaled_rotations_begins_no_run_without_them(made, tmp_path, run):
    scaled = shutil.copytree(made / "run/models/256", tmp_path / "scaled")
    config = json.loads((scaled / "config.json").read_text())
    config["rope_parameters"] |= {"rope_type": "linear", "factor": 4.0}
    (scaled / "config.json").write_text(json.dumps(config))
    asked = {"all weights": RUN, "adapter": LORA}[run]
    with pytest.raises(InputError) as refused:
        rw.train(asked, data=made / "examples", out=tmp_path / "out", init=scaled)
    assert (refused.value.field, refused.value.value) == ("init", ["rope.scaling"])
    assert not (tmp_path / "out" / "origin.json").exists()


def test_a_model_of_text_learns_to_see(made, tmp_path):
    """As in the paper: the vision stages begin from the text model, with its tokenizer."""
    tokenizer = make_world(ring=1).frame_tokenizer
    seeing = replace(
        RUN,
        frame_tokenizer=tokenizer.config,
        frame_training=rw.presets.smoke().frame_training,
        model=replace(RUN.model, vision_vocab=34),
        training=replace(
            RUN.training, stages=(replace(RUN.training.stages[-1], steps=2, mesh=MeshConfig(fsdp=2)),)
        ),
    )
    for name in ("a", "b", "c"):
        path = tmp_path / "videos" / f"{name}.mp4"
        write_video(path, moving_square(color=(9, 99, 9)), frames_per_second=4)
        path.with_suffix(".txt").write_text(f"The river {name} is long.")
    init = made / "run/models/256"
    rw.train_tokenizer(RUN, texts=made / "texts", text_tokenizer=init, out=tmp_path / "tokenizer")
    tokenizer.save(tmp_path / "tokenizer" / FRAME_TOKENIZER_FOLDER)
    shutil.copytree(tmp_path / "tokenizer", tmp_path / "other")
    TextTokenizer.train(["other words"], vocab_size=270).save(tmp_path / "other")
    for name in ("tokenizer", "other"):
        examples = tmp_path / f"examples of {name}"
        rw.prepare(seeing, videos=tmp_path / "videos", tokenizer=tmp_path / name, out=examples)
    data = tmp_path / "examples of tokenizer"
    folder = rw.train(seeing, data=data, out=tmp_path / "run", init=init, evaluate="never")
    assert rw.load(folder).draw("The river a is long.").shape[0] == 1
    with pytest.raises(InputError) as refused:
        rw.train(seeing, data=tmp_path / "examples of other", out=tmp_path / "refused", init=init)
    error = refused.value
    assert (error.field, error.value, error.path) == ("init", ["text_tokenizer"], init)
    with pytest.raises(InputError) as refused:  # the same sizes, and other words
        rw.evaluate(folder, data=tmp_path / "examples of other", out=tmp_path / "measured")
    assert (refused.value.field, refused.value.value) == ("data", ["text_tokenizer"])


LORA = replace(
    RUN,
    training=replace(
        RUN.training,
        stages=(replace(RUN.training.stages[-1], steps=4, learning_rate=1e-2, mesh=MeshConfig()),),
        lora=LoraConfig(rank=2, base="float32"),
        checkpoint_every_steps=2,
    ),
)


@pytest.fixture(scope="module")
def adapter(made) -> Path:
    return rw.train(LORA, data=made / "examples", out=made / "lora", init=made / "run/models/256")


def held_out(folder: Path) -> float:
    results = json.loads((folder / "evaluation.json").read_text())["evaluation"]["results"]
    return next(one["value"] for one in results if (one["metric"], len(one["cell"])) == ("text_loss", 1))


def test_an_adapter_is_loaded_as_it_was_trained_and_merged(made, adapter, tmp_path):
    assert adapter == made / "lora/adapters/256" and not (made / "lora/models").exists()
    base = made / "run/models/256"
    before, trained = (held_out(made / "lora/evaluation" / when) for when in ("before-256", "after-256"))
    rw.evaluate(adapter, data=made / "examples", out=tmp_path / "loaded")
    # The thin products beside each matrix, and the matrices into which they were added: float32 alike.
    assert held_out(tmp_path / "loaded") == pytest.approx(trained, rel=1e-5)
    assert trained < before - 0.01
    text = "The river is 3 miles long."
    scores = [
        world.score(text).mean_nats
        for world in (
            rw.load(adapter),
            rw.load(base, adapter=adapter),
            rw.load(rw.convert(adapter, out=tmp_path / "merged")),
            rw.load(rw.convert(adapter, out=tmp_path / "plain", to="hf")),
        )
    ]
    assert len(set(scores)) == 1 and scores[0] != rw.load(base).score(text).mean_nats


def test_an_adapter_that_was_killed_is_resumed_to_the_bit(made, adapter, tmp_path):
    shutil.copytree(made / "lora", tmp_path / "lora")
    shutil.rmtree(tmp_path / "lora/checkpoints/4")
    shutil.rmtree(tmp_path / "lora/adapters")
    again = rw.train(
        LORA, data=made / "examples", out=tmp_path / "lora", init=made / "run/models/256", evaluate="never"
    )
    name = "adapter_model.safetensors"
    assert (again / name).read_bytes() == (adapter / name).read_bytes()
    files = (path for path in (made / "lora/checkpoints/4").rglob("*") if path.is_file())
    kept = sum(file.stat().st_size for file in files)
    assert kept < (made / "run/models/256/model.safetensors").stat().st_size


def test_an_adapter_of_another_model_is_refused(made, adapter, tmp_path):
    other = shutil.copytree(made / "run/models/256", tmp_path / "other")
    origin = json.loads((other / "origin.json").read_text())
    origin["identity"]["weights"] = "0123456789abcdef"
    (other / "origin.json").write_text(json.dumps(origin))
    moved = shutil.copytree(adapter, tmp_path / "moved")
    config = json.loads((moved / "adapter_config.json").read_text())
    for named, field in ((str(tmp_path / "gone"), "model"), (str(moved), "adapter"), (str(other), "adapter")):
        (moved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
        with pytest.raises(InputError) as refused:
            rw.load(moved)
        assert (refused.value.field, refused.value.path) == (field, moved)
    with pytest.raises(InputError) as refused:
        rw.load(other, adapter=adapter)
    assert (refused.value.field, refused.value.path) == ("adapter", adapter)


def test_an_adapter_needs_a_model_that_it_can_say_all_about(made, adapter, tmp_path):
    stage = LORA.training.stages[0]
    longer = replace(LORA.training, stages=(replace(stage, rope_base=2 * stage.rope_base),))
    base = made / "run/models/256"
    for run, init, field in (
        (LORA, None, "init"),
        (LORA, adapter, "init"),
        (replace(LORA, training=longer), base, "stage 256.rope_base"),
    ):
        with pytest.raises(InputError) as refused:
            rw.train(run, data=made / "examples", out=tmp_path / "out", init=init)
        assert refused.value.field == field


def test_what_stands_where_a_model_would_is_never_replaced(made, tmp_path):
    mine = tmp_path / "out/models/256/thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    write_origin(tmp_path / "out", Origin(kind="run"))
    with pytest.raises(InputError) as refused:
        rw.train(RUN, data=made / "examples", out=tmp_path / "out")
    assert refused.value.path == mine.parent and mine.read_text() == "mine"


def test_results_do_not_stand_among_inputs(made):
    for refuse in (
        lambda: rw.train_tokenizer(RUN, texts=made / "texts", out=made / "texts"),
        lambda: rw.prepare(RUN, texts=made / "texts", tokenizer=made / "tokenizer", out=made / "texts"),
    ):
        with pytest.raises(InputError) as refused:
            refuse()
        assert refused.value.field == "out"
    with pytest.raises(InputError) as refused:  # nor a folder of another kind claimed
        rw.prepare(RUN, texts=made / "texts", tokenizer=made / "tokenizer", out=made / "run")
    assert refused.value.path == made / "run"


def test_numbers_that_make_no_sense_are_named(made, tmp_path):
    data = made / "examples"
    for refuse, field in (
        (lambda: rw.train(RUN, data=data, out=tmp_path, devices=0), "devices"),
        (lambda: rw.load(made / "run/models/256", devices=0), "devices"),
        (lambda: rw.load(made / "run/models/256", context_tokens=0), "max_context_tokens"),
    ):
        with pytest.raises(InputError) as refused:
            refuse()
        assert refused.value.field == field


def test_tasks_can_be_named_for_any_model(made, tmp_path, capsys):
    theirs = tmp_path / "theirs"
    shutil.copytree(made / "run/models/256", theirs)
    origin = json.loads((theirs / "origin.json").read_text())
    del origin["configuration"]["training"]["seed"]  # as another version might have it
    (theirs / "origin.json").write_text(json.dumps(origin))
    haystack = tmp_path / "haystack.txt"
    haystack.write_text("The ferry left at noon. " * 400)
    only_needles = tmp_path / "needles.txt"
    only_needles.write_text(needle("Oslo", "1234567"))
    found = rw.evaluate(theirs, haystack=haystack, tasks="needles", out=tmp_path / "needles")
    assert str(theirs) in capsys.readouterr().err  # that its configuration is not followed
    assert {(one.task, one.cell["context_tokens"]) for one in found.results} == {("needles", 256)}
    assert (tmp_path / "needles/needles-1-1.png").read_bytes().startswith(b"\x89PNG")
    given: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "data"),
        ({"haystack": haystack, "tasks": ("held_out",)}, "data"),
        ({"haystack": haystack, "tasks": "held_out"}, "data"),
        ({"haystack": only_needles}, "haystack"),
        ({"haystack": tmp_path / "none.txt"}, "path"),
        ({"haystack": haystack.parent}, "path"),
    )
    for options, field in given:
        with pytest.raises(InputError) as refused:
            rw.evaluate(theirs, out=tmp_path / "refused", **options)
        assert refused.value.field == field or refused.value.path == options.get("haystack")
    haystack.write_text("The ferry left at one. " * 400)
    with pytest.raises(InputError) as refused:  # another text, other results
        rw.evaluate(theirs, haystack=haystack, out=tmp_path / "needles")
    assert refused.value.field == "haystack"
    (theirs / "origin.json").unlink()
    measured = rw.evaluate(theirs, data=made / "examples", out=tmp_path / "out", tasks=RUN.evaluation)
    assert {one.metric for one in measured.results} >= {"text_loss"}
    config = theirs / "tokenizer_config.json"
    settings = json.loads(config.read_text()) | {"chat_template": "{{ messages[0]['content'] }}|"}
    config.write_text(json.dumps(settings))
    prompts = rw.load(theirs).prompts
    assert prompts.words(prompts.question("Who?")) == "Who?|"
    assert rw.load(made / "run/models/256").prompts.template is None
    with (theirs / "model.safetensors").open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\0\0\0\0")
    with pytest.raises(InputError) as refused:  # other weights, other results
        rw.evaluate(theirs, data=made / "examples", out=tmp_path / "out", tasks=RUN.evaluation)
    assert refused.value.field == "weights"
