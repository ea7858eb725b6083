import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.data.batch import PackedRows
from ringworld.data.config import ClipConfig, MixtureConfig, PackingConfig, PrepareConfig
from ringworld.data.loader import PackedLoader
from ringworld.data.read_once import KindOnce, read_once
from ringworld.data.store import read_examples
from tests.data.packs import pieces


def loader(folder: Path, **changes: Any) -> PackedLoader:
    options = {"split": "train", "context_tokens": 256, "batch_sequences": 2, "seed": 3} | changes
    return PackedLoader(folder, **options)


def only(*, shortest_tokens: int = 0, **weights: float) -> MixtureConfig:
    return MixtureConfig(ratios=weights, shortest_tokens=shortest_tokens)


def equal(left: PackedRows, right: PackedRows) -> bool:
    return left.lengths == right.lengths and all(map(np.array_equal, left.batch, right.batch))


def drawn(batches: list[PackedRows]) -> list[tuple[int, ...]]:
    """Return the tokens of each example, in the order in which rows were filled."""
    found = []
    for packed in batches:
        for tokens, order, lengths in zip(packed.batch.tokens, packed.batch.order, packed.lengths):
            assert (order >= 0).sum() == sum(lengths)
            stops = np.cumsum(lengths, dtype=int)
            found += [tuple(tokens[b - n : b].tolist()) for n, b in zip(lengths, stops)]
    return found


@pytest.mark.parametrize(
    "packing",
    [
        PackingConfig(open_sequences=3),
        PackingConfig(open_sequences=3, fit="best", longer="truncate"),
        PackingConfig(open_sequences=3, together="name", longer="leave_out"),
    ],
)
def test_a_state_resumes_with_the_very_next_batch_at_every_batch(prepared: Path, packing: PackingConfig):
    # A short context cuts documents, so that states fall between the pieces of one.
    options = {"context_tokens": 96, "packing": packing}
    running = loader(prepared, **options)
    states, batches = [], []
    for _ in range(12):
        states.append(json.dumps(running.get_state()))
        batches.append(next(running))
    for k, state in enumerate(states):
        again = loader(prepared, **options)
        next(again)
        again.set_state(json.loads(state))
        assert all(equal(next(again), batch) for batch in batches[k : k + 4])


def test_the_seed_decides_the_order(prepared: Path):
    runs = [[next(running) for _ in range(4)] for running in (loader(prepared), loader(prepared))]
    assert all(equal(left, right) for left, right in zip(*runs))
    other = loader(prepared, seed=4)
    assert not all(equal(batch, next(other)) for batch in runs[0])


def test_a_process_reads_its_rows_alone_and_knows_the_lengths_of_all(prepared: Path):
    whole, part = loader(prepared, batch_sequences=4), loader(prepared, batch_sequences=4, rows={1, 3})
    for _ in range(3):
        every, some = next(whole), next(part)
        assert (some.lengths, some.drawn) == (every.lengths, every.drawn)
        for field, its in zip(every.batch, some.batch):
            np.testing.assert_array_equal(its[[1, 3]], field[[1, 3]])
        assert (some.batch.order[[0, 2]] == -1).all()
        assert whole.get_state() == part.get_state()
    assert [bool(row) for row in part.next_rows()] == [False, True, False, True]


def test_batches_have_the_asked_shape_and_types(prepared: Path):
    batch = next(loader(prepared)).batch
    assert {field.shape for field in batch} == {(2, 256)}
    assert [field.dtype for field in batch] == [np.int32] * 4 + [np.float32] * 2
    assert (batch.order >= 0).mean() > 0.8


def test_only_kinds_of_the_mixture_are_drawn_as_often_as_it_says(prepared: Path, vocabulary):
    mixture = only(video_caption=3.0, caption_video=1.0)
    running = loader(prepared, mixture=mixture)
    found = drawn([next(running) for _ in range(20)])
    sources = {
        kind: {tuple(e.tokens.tolist()) for e in read_examples(prepared, split="train", kinds=[kind])}
        for kind in ("video_caption", "caption_video")
    }
    counts = Counter(kind for tokens in found for kind, of in sources.items() if tokens in of)
    assert counts.total() == len(found)
    assert counts["video_caption"] / counts.total() == pytest.approx(0.75, abs=0.05)


def test_every_example_is_drawn_once_an_epoch_in_a_new_order(prepared: Path):
    mixture = only(video_qa=1.0)
    # One row is open at a time, so that rows come in the order in which examples are drawn.
    running = loader(
        prepared,
        mixture=mixture,
        packing=PackingConfig(open_sequences=1),
        context_tokens=128,
        batch_sequences=1,
    )
    everything = [
        tuple(e.tokens.tolist()) for e in read_examples(prepared, split="train", kinds=["video_qa"])
    ]
    found: list[tuple[int, ...]] = []
    while len(found) < 2 * len(everything):
        found += drawn([next(running)])
    epochs = found[: len(everything)], found[len(everything) : 2 * len(everything)]
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(everything)
    assert epochs[0] != epochs[1]


def test_what_is_too_long_is_counted_and_never_drawn(prepared: Path):
    running = loader(prepared, context_tokens=64)
    questions = list(read_examples(prepared, split="train", kinds=["text_qa"]))
    assert running.left_out["text_qa"] == sum(len(e) > 64 for e in questions) > 0
    assert running.left_out["text"] == 0


def test_what_is_too_short_is_never_drawn(prepared: Path):
    examples = list(read_examples(prepared, split="train", kinds=["text"]))
    shortest = sorted(len(e) for e in examples)[len(examples) // 2]
    wanted = {tuple(e.tokens.tolist()) for e in examples if len(e) >= shortest}
    running = loader(
        prepared,
        mixture=only(text=1.0, shortest_tokens=shortest),
        packing=PackingConfig(open_sequences=1),
        context_tokens=max(map(len, examples)),
        batch_sequences=1,
    )
    found = drawn([next(running) for _ in range(2 * len(wanted))])
    assert set(found) == wanted and len(wanted) < len(examples)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory, run_prepare) -> Path:
    """Documents of about 40, 80 and 160 tokens in pieces of at most 32."""
    root = tmp_path_factory.mktemp("documents")
    (root / "in").mkdir()
    for index, count in enumerate((3, 6, 12)):
        (root / f"in/{index}.txt").write_text("The old man walks to the river and back. " * count)
    config = PrepareConfig(document_tokens=32, held_out_fraction=0.0)
    run_prepare(root / "out", texts=(root / "in",), config=config)
    return root / "out"


def test_a_stage_draws_documents_of_its_lengths_in_all_their_pieces(documents: Path):
    pieces_of: dict[str, list[tuple[int, ...]]] = {}
    for example in read_examples(documents, split="train"):
        pieces_of.setdefault(example.source, []).append(tuple(example.tokens.tolist()))
    lengths = {source: sum(map(len, of)) for source, of in pieces_of.items()}
    short, middle, long = sorted(lengths, key=lengths.__getitem__)
    for bounds, expected in (
        ((lengths[middle], 0), [middle, long]),
        ((0, lengths[middle]), [short, middle]),
        ((lengths[short] + 1, lengths[long] - 1), [middle]),
    ):
        mixture = MixtureConfig(ratios={"text": 1.0}, shortest_tokens=bounds[0], longest_tokens=bounds[1])
        running = loader(
            documents, mixture=mixture, context_tokens=32, packing=PackingConfig(open_sequences=1)
        )
        assert set(drawn([next(running) for _ in range(24)])) == {
            piece for source in expected for piece in pieces_of[source]
        }
    with pytest.raises(InputError) as refused:
        loader(documents, mixture=only(text=1.0, shortest_tokens=10_000))
    assert refused.value.field == "mixture"


def test_clips_are_drawn_beside_documents_of_whatever_length_and_names_without_any_are_told(prepared: Path):
    mixture = only(video_qa=1.0, text=1.0, text_qa=1.0, shortest_tokens=100)
    running = loader(prepared, mixture=mixture, context_tokens=128)
    assert running.unmatched == () and running.left_out["text_qa"] > 0  # too long is not too short
    kinds = Counter(example.kind for _ in range(8) for row in running.next_rows() for example in row)
    assert kinds["video_qa"] and kinds["text"]
    longer = loader(prepared, mixture=replace(mixture, shortest_tokens=100_000))
    assert longer.names == ("video_qa",) and longer.unmatched == ("text", "text_qa")


def test_documents_that_are_longer_than_the_context_are_truncated_or_left_out_and_counted(documents: Path):
    whole = list(read_examples(documents, split="train"))
    longer = [example for example in whole if len(example) > 20]
    truncated = loader(documents, context_tokens=20, packing=PackingConfig(longer="truncate"))
    assert truncated.left_out == {"text": 0}
    assert truncated.truncated == {"text": sum(len(example) - 20 for example in longer)}
    found = set(drawn([next(truncated) for _ in range(30)]))
    assert {tuple(example.tokens[:20].tolist()) for example in longer} <= found
    left = loader(documents, context_tokens=20, packing=PackingConfig(longer="leave_out"))
    assert left.left_out == {"text": len(longer)} and left.truncated == {"text": 0}
    assert not {tuple(example.tokens[:20].tolist()) for example in longer} & set(
        drawn([next(left) for _ in range(10)])
    )


def test_names_of_a_mixture_are_packed_apart_where_it_is_asked_for(prepared: Path):
    def kinds_of_rows(packing: PackingConfig) -> list[set[str]]:
        running = loader(prepared, packing=packing, mixture=only(video_qa=1.0, text=1.0))
        return [{example.kind for example in row} for _ in range(20) for row in running.next_rows()]

    assert {"video_qa", "text"} in kinds_of_rows(PackingConfig())
    apart = kinds_of_rows(PackingConfig(together="name"))
    assert all(len(kinds) == 1 for kinds in apart) and {"text"} in apart and {"video_qa"} in apart


def test_a_batch_says_how_much_of_each_name_it_holds(prepared: Path):
    running = loader(prepared, mixture=only(video_qa=3.0, text=1.0))
    assert running.names == ("video_qa", "text")
    many = Counter[str]()
    for _ in range(5):
        packed = next(running)
        assert sum(of.examples for of in packed.drawn.values()) == sum(map(len, packed.lengths))
        assert sum(of.tokens for of in packed.drawn.values()) == sum(map(sum, packed.lengths))
        many.update({name: of.examples for name, of in packed.drawn.items()})
    assert many["video_qa"] > many["text"]


def test_shares_are_of_tokens_where_it_is_asked_for_and_a_state_resumes(prepared: Path):
    mixture = MixtureConfig(ratios={"text": 0.7, "video_qa": 0.3}, by="tokens")
    # Few are open, so that little of what is drawn waits.
    packing = PackingConfig(open_sequences=2)
    running = loader(prepared, mixture=mixture, packing=packing)
    batches, states = [], []
    for _ in range(60):
        states.append(running.get_state())
        batches.append(next(running))
    counts = {name: [packed.drawn[name] for packed in batches] for name in ("text", "video_qa")}
    tokens = {name: sum(one.tokens for one in of) for name, of in counts.items()}
    assert tokens["text"] / sum(tokens.values()) == pytest.approx(0.7, abs=0.02)
    examples = {name: sum(one.examples for one in of) for name, of in counts.items()}
    # Texts are twice as long on the average: 0.7 / 177 to 0.3 / 88.
    assert examples["text"] / sum(examples.values()) == pytest.approx(0.54, abs=0.03)
    again = loader(prepared, mixture=mixture, packing=packing)
    again.set_state(states[50])
    assert all(equal(next(again), packed) for packed in batches[50:])
    with pytest.raises(InputError):
        loader(prepared, mixture=replace(mixture, by="examples"), packing=packing).set_state(states[50])


def test_a_state_of_another_configuration_is_refused(prepared: Path):
    state = loader(prepared).get_state()
    with pytest.raises(InputError) as refused:
        loader(prepared, context_tokens=128, seed=5).set_state(state)
    assert refused.value.value == ["context_tokens", "seed"]


def test_a_mixture_of_which_nothing_fits_is_refused(prepared: Path):
    mixture = only(text_qa=1.0)
    with pytest.raises(InputError) as refused:
        loader(prepared, context_tokens=16, mixture=mixture)
    assert refused.value.field == "mixture"


def test_a_long_document_is_drawn_piece_by_piece_and_every_piece_once(prepared: Path):
    documents = list(read_examples(prepared, split="train", kinds=["text"]))
    expected = [tuple(piece.tokens.tolist()) for e in documents for piece in pieces(e, context_tokens=32)]
    running = loader(
        prepared,
        mixture=only(text=1.0),
        packing=PackingConfig(open_sequences=1),
        context_tokens=32,
        batch_sequences=1,
    )
    found: list[tuple[int, ...]] = []
    while len(found) < len(expected):
        found += drawn([next(running)])
    # Pieces of full length leave at once; others, one a document at most, wait in the open row.
    assert not Counter(found[: len(expected) - len(documents)]) - Counter(expected)
    assert len(expected) > 2 * len(documents)


@pytest.fixture
def clips(tmp_path: Path, run_prepare, write_clip) -> Path:
    """A captioned clip of eight frames at 4 a second, and footage of ten; a frame has five tokens."""
    write_clip(tmp_path / "in/a.mp4", frames=8, said={"caption": "A dog."})
    write_clip(tmp_path / "in/b.mp4", frames=10)
    config = PrepareConfig(max_frames=10, held_out_fraction=0.0, images_per_video=0)
    run_prepare(tmp_path / "out", videos=(tmp_path / "in",), config=config)
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("config", "frames"),
    [
        (ClipConfig(), range(8)),
        (ClipConfig(max_frames=3), (0, 3, 7)),
        (ClipConfig(frames_per_second=2.0), (0, 2, 4, 6)),
        (ClipConfig(max_frames=1, frames_per_second=2.0), (0,)),
    ],
)
def test_each_stage_draws_its_own_frames_of_codes_that_were_prepared_once(
    clips: Path, vocabulary, config: ClipConfig, frames: Sequence[int]
):
    def codes(tokens: np.ndarray) -> list[list[int]]:
        return vocabulary.decode_frames(tokens[vocabulary.is_vision(tokens)]).tolist()

    (whole,) = read_examples(clips, split="train", kinds=["video_caption"])
    assert len({tuple(code) for code in codes(whole.tokens)}) > 1
    running = loader(clips, mixture=only(video_caption=1.0), clips=config, context_tokens=80)
    for tokens in drawn([next(running)]):
        assert codes(np.array(tokens)) == [codes(whole.tokens)[index] for index in frames]


def test_footage_is_cut_between_frames_and_every_frame_is_drawn(clips: Path, vocabulary):
    for config, context, sizes in (
        (ClipConfig(), 80, [10]),
        (ClipConfig(max_frames=4), 80, [4, 4, 2]),
        (ClipConfig(), 24, [4, 4, 2]),  # four frames of five tokens and four others
        (ClipConfig(frames_per_second=2.0), 24, [4, 1]),
    ):
        running = loader(
            clips,
            mixture=only(video=1.0),
            clips=config,
            context_tokens=context,
            packing=PackingConfig(open_sequences=1),
            batch_sequences=1,
        )
        found = Counter(len(tokens) for batch in range(8) for tokens in drawn([next(running)]))
        assert set(found) == {4 + 5 * size for size in sizes}
    nothing = loader(
        clips, mixture=only(video=1.0, video_caption=1.0), clips=ClipConfig(max_frames=1), context_tokens=15
    )
    assert nothing.left_out == {"video": 0, "video_caption": 0}


def test_a_stage_draws_videos_of_its_lengths_and_all_that_is_no_video(
    tmp_path: Path, run_prepare, write_clip
):
    for name, frames in (("short", 4), ("long", 12)):  # 1 and 3 seconds
        write_clip(tmp_path / f"in/{name}.mp4", frames=frames, said={"caption": f"{name} dog."})
        write_clip(tmp_path / f"in/{name}_footage.mp4", frames=frames)
    write_clip(tmp_path / "in/still.png", said={"caption": "A dog."})
    (tmp_path / "in/a.txt").write_text("The old man walks to the river. " * 3)
    config = PrepareConfig(max_frames=5, held_out_fraction=0.0, images_per_video=0)
    run_prepare(tmp_path / "out", videos=(tmp_path / "in",), texts=(tmp_path / "in",), config=config)
    for bounds, expected in (
        ((0.0, 0.0), {"short", "short_footage", "long", "long_footage"}),
        ((1.0, 1.0), {"short", "short_footage"}),
        ((1.5, 0.0), {"long", "long_footage"}),
        ((3.5, 9.0), set()),
    ):
        mixture = MixtureConfig(shortest_seconds=bounds[0], longest_seconds=bounds[1])
        running = loader(tmp_path / "out", mixture=mixture)
        rows = [row for _ in range(20) for row in running.next_rows()]
        names = {Path(example.source).stem for row in rows for example in row}
        assert names == expected | {"still", "a"}
        running.close()
    with pytest.raises(InputError) as refused:
        loader(tmp_path / "out", mixture=MixtureConfig(ratios={"video": 1.0}, shortest_seconds=4.0))
    assert refused.value.field == "mixture"


def test_clips_of_which_no_frame_fits_are_left_out_and_counted(clips: Path):
    running = loader(clips, mixture=only(video=1.0, video_caption=1.0), context_tokens=30)
    assert running.left_out == {"video": 0, "video_caption": 1}
    with pytest.raises(InputError) as refused:
        loader(clips, mixture=only(video=1.0), context_tokens=8)
    assert refused.value.field == "mixture"


def test_the_state_of_a_stage_with_other_frames_is_refused(clips: Path):
    state = loader(clips).get_state()
    with pytest.raises(InputError) as refused:
        loader(clips, clips=ClipConfig(max_frames=2)).set_state(state)
    assert refused.value.value == ["clips"]


def once(folder: Path, **changes: Any) -> dict[str, KindOnce]:
    options = {"context_tokens": 256, "batch_sequences": 2, "mixture": MixtureConfig(), "most_examples": 100}
    return {one.kind: one for one in read_once(folder, split="held_out", **(options | changes))}


def test_each_held_out_example_is_measured_once_whatever_the_weights(prepared: Path):
    mixture = only(video_qa=1.0, caption_image=9.0, text=0.1, text_qa=1.0)
    kinds = once(prepared, mixture=mixture, context_tokens=300)
    assert set(kinds) == {"video_qa", "caption_image", "text", "text_qa"}
    for of_kind in kinds.values():
        batches = list(of_kind.batches)
        assert all(packed.batch.tokens.shape == (2, 300) for packed in batches)
        examples = list(read_examples(prepared, split="held_out", kinds=[of_kind.kind]))
        fitting = [piece for e in examples for piece in pieces(e, context_tokens=300)]
        assert Counter(drawn(batches)) == Counter(tuple(piece.tokens.tolist()) for piece in fitting)
        too_long = 0 if of_kind.kind == "text" else sum(len(e) > 300 for e in examples)
        assert of_kind.left_out == too_long


def test_of_a_kind_with_many_examples_the_same_spread_ones_are_measured(prepared: Path):
    examples = list(read_examples(prepared, split="held_out", kinds=["video_qa"]))
    assert len(examples) >= 3
    for _ in range(2):
        found = drawn(list(once(prepared, most_examples=2)["video_qa"].batches))
        assert found == [tuple(examples[index].tokens.tolist()) for index in (0, -1)]
