from ringworld.core.progress import Progress


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    with (tmp_path / "log").open("w+") as stream:
        with Progress("train", total=3, unit="steps", stream=stream) as progress:
            for step in (1, 2, 3):
                progress.update(step, loss=2.0 / step, tokens_per_second=1234.5)
        stream.seek(0)
        assert stream.read() == "train: 3/3 steps, 0 s left, loss 0.6667, tokens per second 1234\n"


def test_a_part_that_begins_with_much_done_has_a_rate_of_what_it_does(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Progress("finding", total=3, unit="files", shown="no") as progress:
        now = 100.0
        progress.begin("making", total=1000, done=900)
        now = 110.0
        assert progress.per_second(920) == 2.0
