"""`ringworld generate` with a model that sees."""

import json

from ringworld.api.generate import generate
from ringworld.api.load import load
from ringworld.vision.write_media import write_image
from tests.report.sample_run import moving_square


def test_every_sample_of_an_answer_is_written_and_the_first_returned(seeing, tmp_path):
    picture = tmp_path / "picture.png"
    write_image(picture, moving_square(color=(9, 99, 9))[0])
    made = generate(
        seeing,
        kind="answer",
        prompt="Which color?",
        out=tmp_path / "out",
        about=picture,
        max_new_tokens=6,
        samples=3,
        sampling={"temperature": 1.0, "seed": 3},
        weights=None,
        devices=None,
    )
    output = json.loads((tmp_path / "out/output.json").read_text())
    expected = load(seeing).answers(
        "Which color?", image=picture, samples=3, max_new_tokens=6, temperature=1.0, seed=3
    )
    assert [each["tokens"] for each in output["completions"]] == [each.tokens.tolist() for each in expected]
    assert made == output["output"] == expected[0].text
