from collections.abc import Iterator

import pytest

from tests.data.qa.fake_endpoint import Double, serving


@pytest.fixture
def double() -> Iterator[Double]:
    with serving() as made:
        yield made
