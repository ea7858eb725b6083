"""The fields of a request, each of the type that it should have."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Unpack

from ringworld.core.errors import InputError
from ringworld.core.files import parse_json
from ringworld.core.ranges import Bounds, check_number, whole_number


class Body:
    """A JSON object; a field that is null is as if it were left out, and unknown ones are ignored."""

    def __init__(self, values: Any, *, where: str = "") -> None:
        """Keep an object; `where` is the field that holds it.

        Raises:
            InputError: it is none.
        """
        self._where = where
        if not isinstance(values, Mapping):
            raise self._wrong("", values, "an object")
        self._values = {name: value for name, value in values.items() if value is not None}

    @staticmethod
    def of_form(
        texts: Mapping[str, str],
        *,
        words: Collection[str],
        objects: Mapping[str, Mapping[str, str]] | None = None,
    ) -> "Body":
        """Keep the fields of a form, in which all but `words` may spell a number, or true or false.

        Objects that are empty are as if they were left out.

        Example:
            `{"prompt": "3", "seed": "3"}` with the words `prompt` gives the prompt "3" and the seed 3.
        """
        fields = {name: text if name in words else _spelled(text) for name, text in texts.items()}
        return Body(fields | {name: value for name, value in (objects or {}).items() if value})

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def value(self, name: str) -> Any:
        """Return a field of any type; None where there is none."""
        return self._values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        self._check_unicode(name, value)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def whole(self, name: str, default: int, *, least: int, most: int | None = None) -> int:
        """Return a whole number."""
        return whole_number(self.path(name), self._values.get(name, default), least=least, most=most)

    def number(self, name: str, default: float, **bounds: Unpack[Bounds]) -> float:
        """Return a number."""
        value = self._values.get(name, default)
        check_number(self.path(name), value, **bounds)
        return float(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a string or a list of them, as a tuple."""
        value = self._values.get(name, [])
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self._wrong(name, value, "a string or a list of strings")
        self._check_unicode(name, *value)
        return tuple(value)

    def part(self, name: str) -> "Body":
        """Return an object; an empty one where there is none."""
        return Body(self._values.get(name, {}), where=self.path(name))

    def parts(self, name: str) -> "Sequence[Body]":
        """Return a list of objects."""
        values = self._values.get(name)
        if not isinstance(values, list):
            raise self._wrong(name, values, "a list of objects")
        return [Body(value, where=f"{self.path(name)}[{i}]") for i, value in enumerate(values)]

    def path(self, name: str) -> str:
        """Return the field as errors call it, such as `messages[0].content`."""
        return f"{self._where}.{name}" if self._where else name

    def _check_unicode(self, name: str, *texts: str) -> None:
        """Refuse what JSON can spell, and no file or response can hold."""
        try:
            for text in texts:
                text.encode()
        except UnicodeEncodeError:
            problem = f"{self.path(name)} holds half of a surrogate pair, which is no character"
            raise InputError(problem, field=self.path(name), remedy="send Unicode") from None

    def _wrong(self, name: str, value: Any, expected: str) -> InputError:
        field = self.path(name) if name else self._where or "body"
        kind = "missing" if value is None else type(value).__name__
        return InputError(f"{field} is {kind}, but must be {expected}", field=field, value=value)


def _spelled(text: str) -> Any:
    try:
        value = parse_json(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text
