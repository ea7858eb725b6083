from dataclasses import replace
from pathlib import Path

import pytest

from ringworld.data.groups import cut_into_groups, name_groups
from ringworld.data.readers.text import TEXT
from ringworld.data.sources import Source


def source(name: str) -> Source:
    return Source(path=Path("nowhere", name), relative=name, reader=TEXT, dataset="in")


NAMES = [f"{number:04d}.txt" for number in range(0, 1000, 10)]


@pytest.mark.parametrize("most", [1, 2, 7, 32, 1000])
def test_every_file_is_in_one_group_in_order_and_none_has_more_than_may_be(most: int):
    groups = cut_into_groups(list(map(source, NAMES)), most=most, most_bytes=100)
    assert [one.relative for group in groups for one in group] == NAMES
    assert max(map(len, groups)) <= most and len(groups) < 3 * len(NAMES) / most + 1
    assert len(set(name_groups(groups, made_by={}))) == len(groups)


def test_a_file_more_or_less_changes_one_group_or_two_wherever_it_stands():
    def named(names: list[str]) -> set[str]:
        return set(name_groups(cut_into_groups(list(map(source, names)), most=8, most_bytes=100), made_by={}))

    before, changed = named(NAMES), []
    for at in range(len(NAMES)):
        changed.append(len(named([*NAMES[:at], f"{10 * at - 1:04d}.txt", *NAMES[at:]]) - before))
        changed.append(len(named([*NAMES[:at], *NAMES[at + 1 :]]) - before))
    assert sum(changed) / len(changed) < 2 and max(changed) <= 4 < len(before) / 4


def test_large_files_are_not_together(tmp_path: Path):
    for name, size in (("a", 10), ("b", 60), ("c", 60), ("d", 200), ("e", 10)):
        (tmp_path / name).write_bytes(bytes(size))
    files = [replace(source(path.name), path=path) for path in sorted(tmp_path.iterdir())]
    groups = [[one.relative for one in group] for group in cut_into_groups(files, most=9, most_bytes=100)]
    assert sum(groups, []) == list("abcde") and ["d"] in groups
    assert not any({"b", "c"} <= set(group) for group in groups)


def test_what_makes_the_examples_is_part_of_each_name():
    groups = cut_into_groups([source("a"), source("b")], most=1, most_bytes=100)
    assert not {*name_groups(groups, made_by={"seed": 0})} & {*name_groups(groups, made_by={"seed": 1})}
    assert len(set(name_groups([(source("a"),), (source("a"),)], made_by={}))) == 2


def test_no_file_is_no_group():
    assert cut_into_groups([], most=3, most_bytes=100) == []
