import os
from pathlib import Path
from typing import Any

import pytest

from ringworld.cli.generate import Generate
from ringworld.cli.jobs.generation import as_typed, check_kind, generate, read_question
from ringworld.cli.options import open_folder
from ringworld.core.errors import InputError
from ringworld.inference.config import SamplingConfig
from ringworld.presets import named

RUN = named("smoke")


def asked(out: Path, **options: Any) -> Generate:
    given = {"kind": "text", "prompt": "a", "model": out, "tokenizer": out, "out": out} | options
    return Generate(**given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"about": Path("f")}, "--about: got it with --kind text, expected it only for --kind answer"),
        ({"frames": 3}, "--frames: .* only for --kind video"),
        ({"kind": "image", "frames": 3}, "--frames: .* only for --kind video"),
        ({"kind": "video", "max_new_tokens": 3}, "--max-new-tokens: .* only for --kind text or answer"),
        ({"kind": "answer", "guidance_scale": 2.0}, "--guidance-scale: .* only for --kind image or video"),
    ],
)
def test_an_option_that_the_kind_would_not_heed_is_refused(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        generate(asked(tmp_path, **options), RUN)


def test_options_left_out_fit_every_kind(tmp_path):
    for kind in ("text", "answer", "image", "video"):
        check_kind(asked(tmp_path, kind=kind))


def test_the_result_needs_a_folder_before_anything_is_loaded(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "below"):
        with pytest.raises(InputError, match=f"--out {out}: got a file where a folder should be"):
            generate(asked(out), RUN)
    open_folder(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()


def test_numbers_out_of_range_are_named_as_typed(tmp_path):
    for name, value in (("temperature", -1.0), ("top_k", -1), ("seed", -1)):
        with pytest.raises(InputError, match=f"^--{name.replace('_', '-')}: got {value}"):
            generate(asked(tmp_path, **{name: value}), RUN)
    with pytest.raises(InputError, match="^--guidance-scale"), as_typed(asked(tmp_path)):
        SamplingConfig(guidance_scale=-1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--prompt and --max-new-tokens: got"),
        ({"kind": "answer", "about": Path("f.txt")}, "--prompt and --about f.txt and --max-new-tokens: got"),
        ({"kind": "video"}, "--prompt and --frames: got"),
        ({"kind": "image"}, "--prompt: got"),
    ],
)
def test_too_long_a_prompt_names_all_that_it_is_made_of(tmp_path, options, said):
    with pytest.raises(InputError, match=f"^{said}"), as_typed(asked(tmp_path, **options)):
        raise InputError(what="prompt", got="9 tokens", expected="at most 8", remedy="Shorten it.")


def test_a_file_that_cannot_be_asked_about_is_named_with_the_reason(tmp_path):
    (tmp_path / "x.xlsx").touch()
    (tmp_path / "link.mp4").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, said in {
        "x.xlsx": r"a file that ends in \.xlsx, expected a file that ends in .*\.mp4.*\.txt",
        ".": "a folder",
        "none.mp4": "no such file",
        "link.mp4": "a link to nothing",
        "pipe.mp4": "not a regular file",
    }.items():
        with pytest.raises(InputError, match=f"^--about .*: got {said}"):
            read_question("Why?", tmp_path / name, RUN)


def test_a_question_is_about_what_the_ending_says(tmp_path):
    (tmp_path / "a.TXT").write_text("Words.")
    assert read_question("Why?", tmp_path / "a.TXT", RUN).document == "Words."
    assert read_question("Why?", None, RUN).document is None
