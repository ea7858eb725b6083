import io

from ringworld.core.progress import Progress, curve


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    with (tmp_path / "log").open("w+") as stream:
        with Progress("train", total=3, unit="steps", stream=stream) as progress:
            for step in (1, 2, 3):
                progress.update(step, loss=2.0 / step, tokens_per_second=1234.5)
        stream.seek(0)
        (line,) = stream.read().splitlines()
    assert "3/3" in line and "0.6667" in line and "1,234" in line


def test_a_part_that_begins_with_much_done_has_a_rate_of_what_it_does(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Progress("finding", total=3, unit="files", shown="no") as progress:
        now = 100.0
        progress.begin("making", total=1000, done=900)
        now = 110.0
        assert progress.per_second(920) == 2.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_curve_from_the_beginning_and_every_number(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    with Progress(
        "train", total=9, unit="steps", done=2, stream=terminal, values=("loss", "mfu"), curve=(4.0, 3.0)
    ) as progress:
        progress.update(3, loss=2.0, mfu=0.5, gradient_norm=0.25, learning_rate=1e-4, flops=3.4567e14)
        progress.update(4)
    *_, last = terminal.getvalue().split("train ")
    assert "4/9" in last and "loss 2, mfu 0.5" in last
    assert "4 █▅▁ 2" in last
    assert "gradient norm" in last and "0.25" in last and "0.0001" in last and "345.7T" in last


def test_a_curve_has_the_mean_of_each_share_from_least_to_most():
    assert curve([5, 3, 2, 1, 1, 1], columns=3) == "█▂▁"
    assert curve([0, 7], columns=60) == "▁█"
    assert curve([2, 2, 2], columns=2) == "▁▁"


def test_without_new_values_the_last_ones_stay_in_a_plain_line():
    stream = io.StringIO()
    with Progress("train", total=2, unit="steps", stream=stream, values=("loss",)) as progress:
        progress.update(1, loss=2.0, tokens=7)
        progress.update(2)
    (line,) = stream.getvalue().splitlines()
    assert "2/2" in line and "loss 2" in line and "7" not in line
