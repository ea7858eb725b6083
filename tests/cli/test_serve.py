"""`ringworld serve` as a process."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ringworld
from ringworld.cli import main as command_line


def start(model: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ringworld", "serve", "--model", str(model), "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(ringworld.__file__).parents[1]), **variables},
    )


def test_a_model_is_served_until_a_signal_even_while_it_writes(model):
    process = start(
        model, "--context-tokens", "400", "--chunk-tokens", "32", RINGWORLD_API_KEYS="key-of-12345"
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"tiny is served at http://127\.0\.0\.1:(\d+)/v1", line)
    assert found, line
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
    body = {"prompt": "Red", "max_tokens": 390, "stream": True, "model": "tiny"}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer key-of-12345"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline().startswith(b"data: {")
    process.send_signal(signal.SIGTERM)
    # What is being written may finish.
    assert response.read().endswith(b"data: [DONE]\n\n")
    connection.close()
    _, said = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--host", "0.0.0.0"), "--host"),
        (("--key-file", "none.txt"), "none.txt"),
        (("--max-sequences", "0"), "--max-sequences"),
    ],
)
def test_what_cannot_be_served_is_an_error_of_the_user(options, named, model, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(("serve", "--model", str(model), *options))
    assert ended.value.code == 2
    assert named in capsys.readouterr().err
