import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ringworld.data.config import PrepareConfig, Split
from ringworld.data.find_sources import find_sources
from ringworld.data.samples import MediaFile
from ringworld.vision.media import stream_video
from ringworld.vision.write_media import write_image
from tests.data.readers.test_tar import write as write_tar

CONFIG = PrepareConfig(held_out_fraction=0.2)


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"The content of {path.name}.")


def held_out(
    config: PrepareConfig = CONFIG, *, videos: Sequence[Path] = (), texts: Sequence[Path] = ()
) -> set[str]:
    found = find_sources(videos=videos, texts=texts, config=config)
    return {source.relative for source in found if source.split == "held_out"}


def test_the_split_hangs_on_the_content_alone(tmp_path: Path):
    names = [f"{i}.txt" for i in range(200)]
    write(tmp_path / "one", *names)
    chosen = held_out(texts=[tmp_path / "one"])
    assert 20 <= len(chosen) <= 60
    (tmp_path / "two/deeper").mkdir(parents=True)
    for name in names[:150]:
        (tmp_path / "one" / name).rename(tmp_path / f"two/deeper/renamed_{name}")
    both = held_out(texts=[tmp_path / "one", tmp_path / "two"])
    assert both == {name if name in names[150:] else f"deeper/renamed_{name}" for name in chosen}


def test_copies_of_a_file_are_on_one_side(tmp_path: Path):
    for index in range(10):
        text = f"Text number {index}. " * 4000
        for copy in ("a", "b"):
            path = tmp_path / copy / f"{copy}{index}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    for roots in ([tmp_path], [tmp_path / "a", tmp_path / "b"]):
        numbers = [Path(name).stem[1:] for name in held_out(texts=roots)]
        assert numbers and all(numbers.count(number) == 2 for number in numbers)


def test_a_copy_of_what_lies_in_a_folder_held_out_is_held_out(tmp_path: Path):
    write(tmp_path, *(f"{i}.txt" for i in range(20)), "held_out/7.txt", "held_out.txt")
    assert held_out(texts=[tmp_path]) == {"7.txt", "held_out/7.txt"}
    other = tmp_path.parent / f"{tmp_path.name}_other"
    other.mkdir()
    (tmp_path / "7.txt").rename(other / "renamed.txt")
    assert "renamed.txt" in held_out(texts=[tmp_path, other])


def splits_of_samples(
    config: PrepareConfig, *, videos: Sequence[Path] = (), texts: Sequence[Path] = ()
) -> dict[str | bytes, set[Split]]:
    """Return in which splits each text and each picture is."""
    found: dict[str | bytes, set[Split]] = {}
    for source in find_sources(videos=videos, texts=texts, config=config):
        for sample in source.reader.read(source, config=config, quarantined=[]):
            shown = [clip.path.read_bytes() for clip in sample.clips if isinstance(clip, MediaFile)]
            for content in shown or [str(sample.text).strip().replace("\r", "")]:
                found.setdefault(content, set()).add(sample.split)
    return found


@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_copy_is_on_the_side_of_its_original_be_it_a_file_a_line_or_an_entry(tmp_path: Path, count: int):
    texts = [f"Text number {index}.\nIt ends here." for index in range(count)]
    (tmp_path / "clips").mkdir()
    entries = []
    for index, text in enumerate(texts):
        image = tmp_path / "clips" / f"{index}.png"
        write_image(image, np.full((8, 8, 3), 9 * index, np.uint8))
        entries += [(f"{index}.png", image.read_bytes()), (f"t{index}.txt", text.encode() + b"\r\n")]
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / f"texts/{index}.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    (tmp_path / "texts/a.jsonl").write_text("\n".join(json.dumps({"text": text, "id": 1}) for text in texts))
    write_tar(tmp_path / "texts/a.tar", entries)
    for seed in range(4):
        config = PrepareConfig(held_out_fraction=0.3, seed=seed)
        found = splits_of_samples(config, videos=[tmp_path / "clips"], texts=[tmp_path / "texts"])
        assert len(found) == 2 * count and all(len(splits) == 1 for splits in found.values())
        of_texts = {
            split for content, splits in found.items() if isinstance(content, str) for split in splits
        }
        assert of_texts == ({"train"} if count == 1 else {"train", "held_out"})


def test_a_folder_that_says_what_is_held_out_has_no_lines_drawn(tmp_path: Path):
    lines = [json.dumps({"text": f"Line {index}."}) for index in range(40)]
    (tmp_path / "in/held_out").mkdir(parents=True)
    (tmp_path / "in/a.jsonl").write_text("\n".join(lines[:30]))
    (tmp_path / "in/held_out/b.jsonl").write_text("\n".join(lines[30:]))
    found = splits_of_samples(CONFIG, texts=[tmp_path / "in"])
    assert [min(splits) for splits in found.values()] == ["train"] * 30 + ["held_out"] * 10
    (tmp_path / "in/held_out/b.jsonl").unlink()
    assert {min(splits) for splits in splits_of_samples(CONFIG, texts=[tmp_path / "in"]).values()} == {
        "train",
        "held_out",
    }


def test_files_in_a_folder_held_out_are_held_out_and_no_others(tmp_path: Path):
    write(
        tmp_path, *(f"clip_{i}.mp4" for i in range(20)), "held_out/a.mp4", "b/Held_Out/c.mp4", "held_out.mp4"
    )
    assert held_out(videos=[tmp_path]) == {"held_out/a.mp4", "b/Held_Out/c.mp4"}


@pytest.mark.parametrize("count", range(2, 8))
@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_each_split_has_a_file_where_two_differ(tmp_path: Path, count: int, fraction: float):
    write(tmp_path, *(f"{i}.txt" for i in range(count)))
    config = PrepareConfig(held_out_fraction=fraction)
    roots = sorted(tmp_path.iterdir())
    for texts in ([tmp_path], roots):
        splits = [source.split for source in find_sources(texts=texts, config=config)]
        assert set(splits) == {"train", "held_out"}


def test_a_file_that_cannot_be_read_is_not_the_only_one_held_out(tmp_path: Path, write_clip):
    whole = write_clip(tmp_path / "whole_1.mp4", frames=8).read_bytes()
    write_clip(tmp_path / "whole_2.mp4", frames=9)
    # The first frames of a cut one can be read, and all of one with a sidecar that is not JSON.
    (tmp_path / "cut.mp4").write_bytes(whole[:-50])
    next(stream_video(tmp_path / "cut.mp4", frames_per_second=4.0, resolution=8))
    write_clip(tmp_path / "no_sidecar.mp4", frames=10)
    (tmp_path / "no_sidecar.json").write_text("{")
    write(tmp_path, *(f"bad_{i}.mp4" for i in range(4)))
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "good_1.txt").write_text("one")
    (tmp_path / "good_2.txt").write_text("two")
    for seed in range(8):
        config = PrepareConfig(held_out_fraction=0.01, seed=seed)
        chosen = held_out(config, videos=[tmp_path], texts=[tmp_path])
        assert len(chosen & {"whole_1.mp4", "whole_2.mp4"}) == len(chosen & {"good_1.txt", "good_2.txt"}) == 1


def test_the_only_file_that_can_be_read_is_trained_on(tmp_path: Path):
    write(tmp_path, "bad_1.mp4", "bad_2.mp4")
    write_image(tmp_path / "one.png", np.zeros((8, 8, 3), np.uint8))
    for seed in range(8):
        found = find_sources(videos=[tmp_path], config=PrepareConfig(seed=seed))
        assert [s.split for s in found if s.relative == "one.png"] == ["train"]
