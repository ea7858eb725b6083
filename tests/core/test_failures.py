"""What one process fails with is raised in another."""

import errno
from pathlib import Path

from ringworld.core.errors import InputError
from ringworld.core.failures import heard, told


def test_an_input_error_keeps_its_parts_and_names_its_process():
    error = InputError("a is 3", remedy="use 4", field="a", path=Path("b"))
    again = heard(told(error), process=1)
    assert isinstance(again, InputError)
    assert (again.field, again.path, again.remedy) == ("a", Path("b"), "use 4")
    assert "process 1" in again.problem and "a is 3" in again.problem
    assert str(heard(told(error))) == str(error)


def test_a_file_that_the_system_refuses_is_an_input_error_elsewhere():
    again = heard(told(PermissionError(errno.EACCES, "Permission denied", "/data/7")), process=2)
    assert isinstance(again, InputError) and again.path == Path("/data/7")


def test_what_is_no_input_error_is_none_elsewhere():
    again = heard(told(KeyError("weights")), process=0)
    assert not isinstance(again, InputError) and "weights" in str(again)
