from pathlib import Path

from ringworld.core.errors import InputError, listed, not_a_choice, plain


def test_the_parts_of_an_error_are_kept_and_its_message_ends_with_the_remedy():
    error = InputError("it is wrong", remedy="change it", field="model.heads", value=3, path=Path("run.json"))
    assert (error.field, error.value, error.path) == ("model.heads", 3, Path("run.json"))
    assert str(error) == f"{error.problem}; {error.remedy}"
    assert str(InputError("it is wrong")) == "it is wrong"


def test_the_nearest_choice_is_suggested_where_one_is_near():
    near = not_a_choice("command", "trian", choices=("prepare", "train"))
    assert (near.field, near.value, near.suggested) == ("command", "trian", "train")
    assert not_a_choice("command", "xyzzy", choices=("prepare", "train")).suggested is None


def test_what_a_file_says_cannot_fill_or_rewrite_a_terminal():
    assert plain("no\n\tsuch \x1b[2Jkey \udcff") == "no such \\x1b[2Jkey \\udcff"
    assert plain("na\u00efve \u6771") == "na\u00efve \u6771"
    assert len(plain("a" * 10**6)) < 1000
    assert len(listed(["\n".join("a" * 10**4)] * 100)) < 10_000 and "\n" not in listed(["a\nb"])
