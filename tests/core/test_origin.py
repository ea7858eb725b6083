import pytest

from ringworld.core.errors import InputError
from ringworld.core.origin import ORIGIN_FILE, Origin, claim, read_origin, working_in

IDENTITY = {"data": "a", "model": {"layers": 2, "heads": [1, 2]}}


def origin(identity=IDENTITY, **changes) -> Origin:
    return Origin(**({"kind": "run", "identity": identity} | changes))


def test_a_folder_belongs_to_one_identity_and_what_differs_from_it_is_named(tmp_path):
    for _ in range(2):
        claim(tmp_path, origin())
    assert read_origin(tmp_path, kind="run").identity == IDENTITY
    other = {"data": "b", "model": {"layers": 2, "heads": [2], "mlp": 3}}
    with pytest.raises(InputError) as refused:
        claim(tmp_path, origin(other))
    assert (refused.value.path, refused.value.value) == (tmp_path, ["data", "model.heads", "model.mlp"])
    assert read_origin(tmp_path).identity == IDENTITY


def test_what_does_not_decide_may_change_and_is_kept(tmp_path):
    claim(tmp_path, origin(configuration={"log_every_steps": 1}))
    claim(tmp_path, origin(configuration={"log_every_steps": 5}))
    assert read_origin(tmp_path).configuration == {"log_every_steps": 5}
    claim(tmp_path, origin(configuration={"log_every_steps": 5}, parents={"data": {"path": "moved"}}))
    assert read_origin(tmp_path).parents == {"data": {"path": "moved"}}


def test_a_folder_without_results_can_be_claimed_anew(tmp_path):
    for data in "ab":
        claim(tmp_path, origin({"data": data}), results="results/*")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/1").touch()
    with pytest.raises(InputError) as refused:
        claim(tmp_path, origin({"data": "c"}), results="results/*")
    assert refused.value.field == "data"
    assert read_origin(tmp_path).identity == {"data": "b"}


def test_a_folder_of_another_kind_or_of_nobody_is_refused(tmp_path):
    with pytest.raises(InputError) as refused:
        read_origin(tmp_path)
    assert refused.value.path == tmp_path
    claim(tmp_path, origin())
    for refuse in (
        lambda: read_origin(tmp_path, kind="model"),
        lambda: claim(tmp_path, origin(kind="model")),
        lambda: claim(tmp_path, origin(kind="model"), results="results/*"),
    ):
        with pytest.raises(InputError) as refused:
            refuse()
        assert refused.value.path == tmp_path


@pytest.mark.parametrize("held", ["clip.mp4", "clips/clip.mp4"])
def test_a_folder_of_files_that_are_not_ours_is_not_claimed(tmp_path, held):
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).touch()
    before = sorted(tmp_path.rglob("*"))

    def work() -> None:
        with working_in(tmp_path, kind="run"):
            raise AssertionError("it was entered")

    for refuse in (work, lambda: claim(tmp_path, origin()), lambda: claim(tmp_path, origin(), results="*")):
        with pytest.raises(InputError) as refused:
            refuse()
        assert (refused.value.path, refused.value.value) == (tmp_path, held.partition("/")[0])
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_hidden_in_a_folder_does_not_keep_it_from_being_claimed(tmp_path):
    (tmp_path / ".fetched").mkdir()
    with working_in(tmp_path, kind="run"):
        claim(tmp_path, origin())
    assert read_origin(tmp_path).identity == IDENTITY


def test_an_origin_of_another_version_is_read(tmp_path):
    (tmp_path / ORIGIN_FILE).write_text(
        '{"kind": "model", "ringworld": "9", "identity": {"a": 1}, "new": {}}'
    )
    read = read_origin(tmp_path)
    assert (read.ringworld, read.identity, read.command) == ("9", {"a": 1}, "unknown")


@pytest.mark.parametrize(
    "content", ["[]", "null", "{}", '{"kind": "run", "identity": 1}', '{"kind": NaN}', "{"]
)
def test_a_damaged_origin_is_named(content, tmp_path):
    (tmp_path / ORIGIN_FILE).write_text(content)
    with pytest.raises(InputError) as refused:
        claim(tmp_path, origin())
    assert refused.value.path == tmp_path / ORIGIN_FILE
