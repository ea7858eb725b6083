import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ringworld.core import origin
from ringworld.core.errors import InputError
from ringworld.data.config import PackingConfig, PrepareConfig, Split
from ringworld.data.examples import Example
from ringworld.data.loader import PackedLoader
from ringworld.data.making import ExampleMaker, Problems
from ringworld.data.progress import Done
from ringworld.data.quarantine import Quarantined
from ringworld.data.readers.text import TextReader
from ringworld.data.samples import Sample
from ringworld.data.sources import Reader, Source
from ringworld.data.store import ExampleStore, read_examples
from ringworld.presets.mixtures import FOUR_TASKS
from ringworld.quickstart.toy_world import ToyWorld
from ringworld.text.templates import ChatTemplate, Message
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from tests.data.conftest import Quarters

SAID = {"caption": "A red dog.", "questions": [{"question": "What color?", "answer": "red"}]}


def train(folder: Path) -> list[Example]:
    return list(read_examples(folder, split="train"))


def only(**changes: Any) -> PrepareConfig:
    """Return a configuration that holds nothing out."""
    return PrepareConfig(held_out_fraction=0.0, **changes)


def words(example: Example, tokenizer, vocabulary) -> str:
    return tokenizer.decode([id for id in example.tokens.tolist() if id < vocabulary.text_size])


def test_the_toy_world_gives_every_kind_in_both_splits(prepared: Path):
    manifest = pq.read_table(prepared / "manifest.parquet").to_pylist()
    kinds = Counter((row["split"], row["kind"]) for row in manifest)
    for split in ("train", "held_out"):
        for kind in ("text", "text_qa", "video_caption", "video_qa", "caption_video", "caption_image"):
            assert kinds[split, kind], (split, kind)
    splits = {source: {r["split"] for r in manifest if r["source"] == source} for source in
              {r["source"] for r in manifest if r["source"].endswith(".mp4")}}  # fmt: skip
    assert all(len(of) == 1 for of in splits.values())


def test_the_manifest_counts_what_is_in_the_records(prepared: Path, vocabulary):
    manifest = pq.read_table(prepared / "manifest.parquet").to_pylist()
    rows = [row for row in manifest if row["split"] == "train"]
    for row, example in zip(rows, train(prepared), strict=True):
        is_vision, learnt = vocabulary.is_vision(example.tokens), example.loss
        assert (row["kind"], row["source"], row["start_token"]) == (
            example.kind,
            example.source,
            example.start_token,
        )
        assert row["tokens"] == len(example) and row["vision_tokens"] == is_vision.sum()
        assert row["text_loss_tokens"] == (learnt & ~is_vision)[1:].sum()
        assert row["vision_loss_tokens"] == (learnt & is_vision)[1:].sum()


def test_a_captioned_clip_comes_in_both_orders(
    tmp_path: Path, run_prepare, write_clip, tokenizer, vocabulary
):
    write_clip(tmp_path / "in/a.mp4", frames=2, said=SAID)
    run_prepare(tmp_path / "out", videos=(tmp_path / "in",), config=only(drop_caption_fraction=0.0))
    made = {example.kind: example for example in train(tmp_path / "out")}
    assert set(made) == {"video_caption", "caption_video", "caption_image", "video_qa"}
    shown = {kind: words(example, tokenizer, vocabulary) for kind, example in made.items()}
    assert shown["video_caption"] == " A red dog."
    assert shown["caption_video"].endswith("USER: Generate a video of a red dog ASSISTANT:")
    assert shown["caption_image"].endswith("USER: Generate an image of a red dog ASSISTANT:")
    assert shown["video_qa"].endswith("USER: What color?\n ASSISTANT: red")
    video = made["caption_video"]
    codes = vocabulary.decode_frames(video.tokens[vocabulary.is_vision(video.tokens)])
    assert codes.tolist() == [[0] * 4] * 2  # brightness 0 and 8 of steps of 32
    assert np.array_equal(video.loss, vocabulary.is_vision(video.tokens))


def test_a_captioned_image_comes_in_both_orders(tmp_path: Path, run_prepare, write_clip):
    write_clip(tmp_path / "in/a.png", said={"caption": "A red dog."})
    run_prepare(tmp_path / "out", videos=(tmp_path / "in",), config=only())
    assert {example.kind for example in train(tmp_path / "out")} == {"image_caption", "caption_image"}


def test_a_part_of_the_generation_examples_loses_its_caption(tmp_path: Path, run_prepare, write_clip):
    for index in range(30):
        write_clip(tmp_path / f"in/{index}.mp4", frames=1, said={"caption": f"Dog {index}."})
    config = only(drop_caption_fraction=0.5, files_per_shard=30)
    run_prepare(tmp_path / "out", videos=(tmp_path / "in",), config=config)
    asked = [len(e) for e in train(tmp_path / "out") if e.kind == "caption_image"]
    assert len(asked) == 30 and 5 < sum(length == 9 for length in asked) < 25


def test_an_uncaptioned_video_gives_all_its_frames_and_an_image_one(tmp_path: Path, run_prepare, write_clip):
    write_clip(tmp_path / "in/a.mp4", frames=10)
    write_clip(tmp_path / "in/b.jpg")
    run_prepare(tmp_path / "out", videos=(tmp_path / "in",), config=only(max_frames=4))
    made = train(tmp_path / "out")
    assert [e.kind for e in made] == ["video"] * 4
    assert [e.start_token for e in made] == [0, 20, 40, 0]
    assert [len(e) for e in made] == [24, 24, 14, 9]
    assert all(e.loss[1:].all() for e in made)


def test_a_long_document_is_cut_without_loss_and_its_end_is_held_out(tmp_path: Path, run_prepare, tokenizer):
    book = tmp_path / "book.txt"
    book.write_text("The old man walks to the river. " * 60)
    book.with_suffix(".json").write_text(json.dumps({"questions": SAID["questions"]}))
    config = PrepareConfig(document_tokens=32, held_out_fraction=0.25)
    report = run_prepare(tmp_path / "out", texts=(book,), config=config)
    joined = ""
    names: dict[Split, str] = {"train": "book.txt", "held_out": "book.txt#end"}
    for split, name in names.items():
        parts = list(read_examples(tmp_path / "out", split=split))
        assert {(e.kind, e.source) for e in parts} == {("text", name)}
        assert [e.start_token for e in parts] == [32 * i for i in range(len(parts))]
        whole = np.concatenate([e.tokens for e in parts]).tolist()
        assert whole[0] == tokenizer.bos and whole[-1] == tokenizer.eos
        joined += tokenizer.decode(whole)
    assert joined == book.read_text()
    assert len(tokenizer.decode(whole)) / len(joined) == pytest.approx(0.25, abs=0.01)
    # What is held out may hold the answer.
    assert (report.questions_unanswered, report.questions_too_long) == (0, 1)


def test_questions_about_a_document_are_one_conversation_until_they_do_not_fit(
    tmp_path: Path, run_prepare, tokenizer
):
    questions = [{"question": f"Who runs in {i}?", "answer": f"Anna runs in {i}."} for i in range(6)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("Anna runs.")
    (tmp_path / "in/a.json").write_text(json.dumps({"questions": questions}))
    longest = 2000
    for turns in ([6], [5, 1]):
        report = run_prepare(
            tmp_path / f"{turns}", texts=(tmp_path / "in",), config=only(document_tokens=longest)
        )
        assert (report.questions_unanswered, report.questions_too_long) == (0, 0)
        made = [example for example in train(tmp_path / f"{turns}") if example.kind == "text_qa"]
        assert [(example.tokens == tokenizer.eos).sum() for example in made] == turns
        said = "".join(tokenizer.decode(example.tokens.tolist()) for example in made)
        assert said.count("USER: Anna runs. Who") == len(turns)
        assert said.count("USER: Who") == 6 - len(turns)
        learnt = "".join(tokenizer.decode(example.tokens[example.loss].tolist()) for example in made)
        assert learnt == "".join(f" {one['answer']}" for one in questions)
        longest = len(made[0]) - 1


def test_a_conversation_is_learned_in_the_order_in_which_a_model_is_asked(
    tmp_path: Path, run_prepare, write_clip, tokenizer, vocabulary
):
    write_clip(tmp_path / "dark.png", frames=1)
    write_clip(tmp_path / "grey.png", frames=9)
    content = [
        {"type": "image", "image": "dark.png"},
        {"type": "text", "text": "or"},
        {"type": "image", "image": "grey.png"},
        {"type": "text", "text": "?"},
    ]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "The first."}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": messages}))
    run_prepare(tmp_path / "out", texts=(tmp_path / "chats.jsonl",), config=only())
    (example,) = train(tmp_path / "out")
    dark, grey = np.full((1, 4), 0), np.full((1, 4), 2)
    template = ChatTemplate.of(tokenizer, vocabulary=vocabulary)
    asked = template.encode([Message(role="user", content=(dark, "or", grey, "?"))]).tolist()
    assert example.tokens[: len(asked)].tolist() == asked
    assert tokenizer.decode(example.tokens[len(asked) :].tolist()) == " The first."
    seen = example.tokens[vocabulary.is_vision(example.tokens)].tolist()
    assert seen == [*vocabulary.encode_frames(dark), *vocabulary.encode_frames(grey)]
    said = words(example, tokenizer, vocabulary)
    assert "USER: \nor\n\n? ASSISTANT:" in said


def test_what_is_asked_of_images_and_of_videos_is_of_different_kinds_and_drawn_by_the_four_tasks(
    tmp_path: Path, run_prepare, write_clip
):
    asked = {"caption": "Grey.", "questions": [{"question": "What is it?", "answer": "Grey."}]}
    write_clip(tmp_path / "in/a.png", said=asked)
    write_clip(tmp_path / "in/b.mp4", said=asked)
    image, video = {"type": "image", "image": "a.png"}, {"type": "video", "video": "b.mp4"}
    lines = [
        [
            {"role": "user", "content": [*clips, {"type": "text", "text": "Why?"}]},
            {"role": "assistant", "content": "So."},
        ]
        for clips in ([], [image], [video], [image, video])
    ]
    (tmp_path / "in/c.jsonl").write_text("\n".join(json.dumps({"messages": said}) for said in lines))
    run_prepare(tmp_path / "out", videos=(tmp_path / "in",), config=only())
    kinds = {example.source: set[str]() for example in train(tmp_path / "out")}
    for example in train(tmp_path / "out"):
        kinds[example.source].add(example.kind)
    assert kinds == {
        "a.png": {"image_caption", "caption_image", "image_qa"},
        "b.mp4": {"video_caption", "caption_video", "caption_image", "video_qa"},
        "c.jsonl#1": {"chat"},
        "c.jsonl#2": {"image_chat"},
        "c.jsonl#3": {"video_chat"},
        "c.jsonl#4": {"video_chat"},
    }
    packing = PackingConfig(open_sequences=1)
    options = {"context_tokens": 128, "batch_sequences": 4, "seed": 0, "packing": packing}
    loader = PackedLoader(tmp_path / "out", split="train", mixture=FOUR_TASKS, **options)
    assert set(loader.names) == set(FOUR_TASKS.ratios) and not loader.unmatched
    drawn = Counter[str]()
    for _ in range(60):
        drawn.update({name: of.tokens for name, of in next(loader).drawn.items()})
    shares = {name: tokens / drawn.total() for name, tokens in drawn.items()}
    assert shares == pytest.approx(dict.fromkeys(FOUR_TASKS.ratios, 0.25), abs=0.02)


def test_a_question_about_a_document_that_is_too_long_is_left_out_and_counted(tmp_path: Path, run_prepare):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("word " * 200)
    (tmp_path / "in/a.json").write_text(json.dumps({"questions": SAID["questions"]}))
    report = run_prepare(tmp_path / "out", texts=(tmp_path / "in",), config=only(document_tokens=64))
    assert (report.questions_unanswered, report.questions_too_long) == (0, 1)
    assert {e.kind for e in train(tmp_path / "out")} == {"text"}


def test_texts_alone_need_no_frame_tokenizer(tmp_path: Path, run_prepare, tokenizer):
    (tmp_path / "a.txt").write_text("A short text.")
    alone = {"frame_tokenizer": None, "vocabulary": Vocabulary(text_size=tokenizer.size), "config": only()}
    run_prepare(tmp_path / "out", texts=(tmp_path / "a.txt",), **alone)
    (example,) = train(tmp_path / "out")
    assert tokenizer.decode(example.tokens.tolist()) == "A short text."
    store = ExampleStore(tmp_path / "out")
    assert store.dataset.frame_tokenizer is None and store.dataset.vocabulary.vision_size == 0
    assert store.column("vision_tokens").tolist() == [0]
    loader = PackedLoader(tmp_path / "out", split="train", context_tokens=32, batch_sequences=1, seed=0)
    batch = next(loader).batch
    assert batch.text_weights.any() and not batch.vision_weights.any()
    assert run_prepare(tmp_path / "out", texts=(tmp_path / "a.txt",), **alone).shards_made == 0


def test_videos_need_a_frame_tokenizer_codes_and_an_engine_that_there_is(
    tmp_path: Path, run_prepare, write_clip, tokenizer
):
    videos = (write_clip(tmp_path / "in/a.mp4").parent,)
    wrong = {
        "frame_tokenizer": None,
        "vocabulary": Vocabulary(text_size=tokenizer.size),
        "engine": "Ray",
    }
    for field, value in wrong.items():
        with pytest.raises(InputError) as refused:
            run_prepare(tmp_path / "out", videos=videos, **{field: value})
        assert refused.value.field == field
    assert not (tmp_path / "out").exists()


def test_nothing_empty_becomes_an_example(tokenizer, vocabulary):
    maker = ExampleMaker(tokenizer=tokenizer, vocabulary=vocabulary, config=only())
    empty = Sample(key="a", split="train", text=" \n")
    assert list(maker.of_sample(empty, Problems(quarantined=[]))) == []


def test_bad_files_are_set_aside_and_the_rest_goes_on(tmp_path: Path, run_prepare, write_clip):
    folder = tmp_path / "in"
    good = write_clip(folder / "good.mp4", frames=2, said=SAID)
    write_clip(folder / "said_badly.mp4", frames=2).with_suffix(".json").write_text("{")
    (folder / "cut.mp4").write_bytes(good.read_bytes()[:600])
    (folder / "empty.mp4").touch()
    (folder / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (folder / "lines.jsonl").write_text('{"text": "fine"}\n{\n{"messages": [{"role": "cat"}]}\n')
    report = run_prepare(tmp_path / "out", videos=(folder,), texts=(folder,), config=only())
    expected = ["cut.mp4", "empty.mp4", "said_badly.mp4", "latin.txt", "lines.jsonl#2", "lines.jsonl#3"]
    assert sorted(item.path for item in report.quarantined) == sorted(expected)
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [item.path for item in report.quarantined]
    fields = {line["path"]: line["field"] for line in lines}
    assert fields["lines.jsonl#3"] == "line 3.messages[0].role" and fields["lines.jsonl#2"] == "line 2"
    assert {e.source for e in train(tmp_path / "out")} == {"good.mp4", "lines.jsonl#1"}


def test_what_is_no_file_is_set_aside_too(tmp_path: Path, run_prepare, write_clip):
    folder = write_clip(tmp_path / "videos" / "good.mp4").parent
    (folder / "lost.mp4").symlink_to(tmp_path / "nowhere.mp4")
    report = run_prepare(tmp_path / "out", videos=(folder,))
    (item,) = report.quarantined
    assert item.path == "lost.mp4" and item.reason
    assert json.loads((tmp_path / "out/quarantine.jsonl").read_text())["path"] == "lost.mp4"


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path, run_prepare):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes(b"no video")
    with pytest.raises(InputError):
        run_prepare(tmp_path / "out", videos=(tmp_path / "in",))
    assert not (tmp_path / "out/manifest.parquet").exists()
    # What was refused does not bind the command that corrects it.
    (tmp_path / "good.txt").write_text("A short text.")
    run_prepare(tmp_path / "out", texts=(tmp_path / "good.txt",), config=only())
    assert {e.source for e in train(tmp_path / "out")} == {"good.txt"}


def stop_after(files: int):
    class Stop(Exception):
        pass

    def stop(done: Done) -> None:
        if done.phase == "making" and done.files >= files:
            raise Stop

    return Stop, stop


def test_a_run_that_was_stopped_makes_only_what_is_missing(
    tmp_path: Path, run_prepare, toy_world: ToyWorld, prepared: Path
):
    folders = {"videos": (toy_world.videos,), "texts": (toy_world.texts,)}
    error, stop = stop_after(10)
    with pytest.raises(error):
        run_prepare(tmp_path, **folders, on_progress=stop)
    with pytest.raises(InputError) as refused:
        train(tmp_path)
    assert refused.value.path == tmp_path
    told: list[Done] = []
    report = run_prepare(tmp_path, **folders, on_progress=told.append)
    assert [*dict.fromkeys(one.phase for one in told)] == ["finding", "splitting", "making"]
    made = [one for one in told if one.phase == "making"]
    assert 0 < made[0].before == made[0].files and made[-1].files == made[-1].total == 12
    shards = len({row["shard"] for row in pq.read_table(prepared / "manifest.parquet").to_pylist()})
    assert report.files == 12 and 0 < report.shards_made < shards
    assert run_prepare(tmp_path, **folders).shards_made == 0
    same = [pq.read_table(folder / "manifest.parquet") for folder in (tmp_path, prepared)]
    assert same[0].equals(same[1])


def test_a_file_that_changes_comes_or_goes_makes_the_shard_in_which_it_lies_anew(
    tmp_path: Path, run_prepare, write_clip
):
    for index in range(12):
        write_clip(tmp_path / f"in/{index:02d}.png", said={"caption": f"Dog {index}."})
    run = {"videos": (tmp_path / "in",), "config": only(files_per_shard=3)}
    all_of_them = run_prepare(tmp_path / "out", **run).shards_made
    assert all_of_them >= 4
    (tmp_path / "in/11.json").write_text(json.dumps({"caption": "Another, longer caption."}))
    assert run_prepare(tmp_path / "out", **run).shards_made == 1
    write_clip(tmp_path / "in/000.png", said=SAID)  # before all others
    assert run_prepare(tmp_path / "out", **run).shards_made <= 2
    (tmp_path / "in/06.png").unlink()
    assert run_prepare(tmp_path / "out", **run).shards_made <= 2
    assert run_prepare(tmp_path / "out", **run).shards_made == 0
    run_prepare(tmp_path / "fresh", **run)
    for name in ("manifest.parquet", "shards"):
        assert files_below(tmp_path / "out" / name) == files_below(tmp_path / "fresh" / name)


def files_below(path: Path) -> dict[str, bytes]:
    found = [path] if path.is_file() else path.iterdir()
    return {file.name: file.read_bytes() for file in found}


def test_two_copies_of_a_folder_have_their_own_shards(tmp_path: Path, run_prepare):
    texts = [tmp_path / place / "in" for place in ("here", "there")]
    for folder in texts:
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("A short text.")
        os.utime(folder / "a.txt", (1, 1))
    run = {"texts": texts, "config": only(files_per_shard=1)}
    assert run_prepare(tmp_path / "out", **run).shards_made == 2
    assert len(train(tmp_path / "out")) == 2 and run_prepare(tmp_path / "out", **run).shards_made == 0


class VanishingReader(Reader):
    """Of files that are deleted by somebody else while they are prepared."""

    name, holds, shows = "vanishing", "many", "text"

    def read(self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]):
        source.path.unlink()
        yield Sample(key=source.relative, split="train", text="Words.")


def test_a_file_that_is_deleted_while_others_are_read_is_quarantined(tmp_path: Path, run_prepare):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("A short text.")
    (tmp_path / "in/b.gone").touch()
    config, readers = only(duplicates="exact"), {".gone": VanishingReader()}
    report = run_prepare(tmp_path / "out", texts=(tmp_path / "in",), config=config, readers=readers)
    assert [item.path for item in report.quarantined] == ["b.gone"] and report.parts[0].examples == 1


class Retrained(Quarters):
    fingerprint = "quarters of another training"


def test_examples_of_other_inputs_are_neither_replaced_nor_joined(tmp_path: Path, run_prepare, write_clip):
    for name in ("one", "two"):
        write_clip(tmp_path / name / "a.mp4", frames=1, said=SAID)
    out, one, two = tmp_path / "out", tmp_path / "one", tmp_path / "two"
    run_prepare(out, videos=(one,), config=only())
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other_tokenizer = TextTokenizer.train(["a red dog"], vocab_size=300)
    for other, field in (
        ({"videos": (two,)}, "videos"),
        ({"videos": (one, two)}, "videos"),
        ({"videos": (one,), "config": only(seed=1)}, "made_by.config.seed"),
        ({"videos": (one,), "tokenizer": other_tokenizer}, "made_by.text_tokenizer"),
        ({"videos": (one,), "frame_tokenizer": Retrained()}, "made_by.frame_tokenizer"),
    ):
        with pytest.raises(InputError) as refused:
            run_prepare(out, **({"config": only()} | other))
        assert (refused.value.field, refused.value.path) == (field, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert run_prepare(out, videos=(one,), config=only()).shards_made == 0


def test_a_new_version_of_a_reader_reads_its_files_anew(tmp_path: Path, run_prepare, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("A short text.")
    (tmp_path / "in/b.jsonl").write_text('{"text": "Another text."}\n')
    run = {"texts": (tmp_path / "in",), "config": only(files_per_shard=1)}
    assert run_prepare(tmp_path / "out", **run).shards_made == 2
    monkeypatch.setattr(TextReader, "version", 2)
    assert run_prepare(tmp_path / "out", **run).shards_made == 1


def test_examples_of_another_decoder_are_not_joined(tmp_path: Path, run_prepare, write_clip, monkeypatch):
    write_clip(tmp_path / "in/a.mp4", frames=1, said=SAID)
    (tmp_path / "a.txt").write_text("A short text.")
    clips = {"videos": (tmp_path / "in",), "config": only()}
    text = {"texts": (tmp_path / "a.txt",), "config": only(), "frame_tokenizer": None}
    run_prepare(tmp_path / "clips", **clips)
    run_prepare(tmp_path / "text", **text)
    monkeypatch.setattr(origin, "version", lambda library: "999")
    with pytest.raises(InputError) as refused:
        run_prepare(tmp_path / "clips", **clips)
    assert refused.value.field == "made_by.decoders.av"
    assert run_prepare(tmp_path / "text", **text).shards_made == 0


def test_inputs_and_examples_may_move_together(tmp_path: Path, run_prepare, write_clip):
    write_clip(tmp_path / "here/in/a.mp4", frames=1, said=SAID)
    run_prepare(tmp_path / "here/out", videos=(tmp_path / "here/in",), config=only())
    (tmp_path / "here").rename(tmp_path / "there")
    moved = run_prepare(tmp_path / "there/out", videos=(tmp_path / "there/in",), config=only())
    assert moved.shards_made == 0


def test_old_examples_can_be_read_until_all_are_made_anew(tmp_path: Path, run_prepare, write_clip):
    class Broken(Quarters):
        def encode(self, frames):
            raise RuntimeError("a defect")

    for index in range(2):
        write_clip(tmp_path / f"in/{index}.mp4", frames=1, said=SAID)
    run = {"videos": (tmp_path / "in",), "config": only(files_per_shard=1)}
    run_prepare(tmp_path / "out", **run)
    (tmp_path / "in/1.json").write_text(json.dumps({"caption": "Another, longer caption."}))
    before = [example.tokens.tolist() for example in train(tmp_path / "out")]
    with pytest.raises(RuntimeError, match="a defect"):
        run_prepare(tmp_path / "out", **run, frame_tokenizer=Broken())
    assert [example.tokens.tolist() for example in train(tmp_path / "out")] == before
    assert run_prepare(tmp_path / "out", **run).shards_made == 1
    assert len(list((tmp_path / "out/shards").iterdir())) == 4


def test_a_damaged_shard_is_made_anew(tmp_path: Path, run_prepare, write_clip):
    write_clip(tmp_path / "in/a.mp4", frames=1, said=SAID)
    run = {"videos": (tmp_path / "in",), "config": only()}
    run_prepare(tmp_path / "out", **run)
    (shard,) = (tmp_path / "out/shards").glob("*.parquet")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20])
    assert run_prepare(tmp_path / "out", **run).shards_made == 1
    assert shard.read_bytes() == whole


def test_a_failure_in_the_middle_leaves_no_part_of_a_shard(tmp_path: Path, run_prepare, write_clip):
    class FullDisk(Quarters):
        def encode(self, frames):
            raise OSError(errno.ENOSPC, "No space left on device")

    write_clip(tmp_path / "in/a.mp4", frames=1)
    with pytest.raises(InputError) as refused:
        run_prepare(tmp_path / "out", videos=(tmp_path / "in",), frame_tokenizer=FullDisk())
    assert refused.value.path is not None and refused.value.path.parent == tmp_path / "out/shards"
    assert not list((tmp_path / "out/shards").iterdir())
