"""Events: `emit` logs them and passes them to every listener.

`emit(Event.ORDER_FILLED, symbol="BTC/USD", ...)` writes a log record under the name of the calling module. Its text is
rendered from the fields by the template in `bot/base/event_catalog.py`; `bot/base/logging_setup.py` writes the record
as text or as JSON.
"""

from __future__ import annotations

import logging
import re
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, ParamSpec, TypeVar

from bot.base.event_catalog import FIELDS, Event

log = logging.getLogger(__name__)

Fields = Mapping[str, Any]
Listener = Callable[[Event, Fields, str], None]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_OPTIONAL_PART = re.compile(r"\[([^\]]*)\]")

_listeners: list[Listener] = []


def emit(event: Event, /, *, exc_info: BaseException | None = None, **fields: Any) -> None:
    """Log an event and call every listener in this thread. No failure of either affects the caller.

    An unknown value is None. With `exc_info` the log record has the traceback of that exception.
    """
    if mistake := find_mistake(event, fields):
        _report_mistake(mistake)
    text = _attempt(event, render, event, fields)
    if text is None:
        text = event.template
    # The logger of the calling module.
    caller = logging.getLogger(sys._getframe(1).f_globals.get("__name__", __name__))
    extra = {"event": event, "fields": fields}
    _attempt(event, caller.log, event.level, text, exc_info=exc_info, stacklevel=3, extra=extra)
    for listener in tuple(_listeners):
        _attempt(event, listener, event, fields, text)


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener` for every event from now on, in the thread of the event: the listener must not block.

    It receives the event, its fields and its text. Return a function that ends the subscription.
    """

    def forward(event: Event, fields: Fields, text: str) -> None:
        listener(event, fields, text)

    def unsubscribe() -> None:
        if forward in _listeners:
            _listeners.remove(forward)

    _listeners.append(forward)
    return unsubscribe


def edge_trigger(is_on: Callable[[], bool], on_event: Event, off_event: Event) -> Callable[[], bool]:
    """Return a function that polls `is_on`, returns it, and emits an event when it changes."""
    was_on = False

    def poll() -> bool:
        nonlocal was_on
        previous, was_on = was_on, is_on()
        if was_on != previous:
            emit(on_event if was_on else off_event)
        return was_on

    return poll


def render(event: Event, fields: Fields) -> str:
    """Return the text of an event with these fields; a value that is None or missing is "-"."""
    return "".join(
        _formatter.vformat(text, (), fields)
        for text, names, is_optional in _template_parts(event.template)
        if not is_optional or all(fields.get(name) is not None for name in names)
    )


def escape_unprintable(text: str, keep: str = "") -> str:
    """Return a text from elsewhere without line ends and control characters, but for those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1] for character in text
    )


def find_mistake(event: Event, fields: Fields) -> str:
    """Return a sentence about missing and undocumented fields of an event; "" if there are none."""
    missing = [name for name in required_fields(event) if name not in fields]
    unknown = [name for name in fields if name not in FIELDS]
    if not missing and not unknown:
        return ""
    return f"The event {event.key} lacks the fields {missing}; its fields {unknown} are not documented."


def required_fields(event: Event) -> list[str]:
    """Return the fields that the text of an event needs."""
    return [name for _text, names, is_optional in _template_parts(event.template) if not is_optional for name in names]


@cache
def _template_parts(template: str) -> list[tuple[str, list[str], bool]]:
    """Return the parts of a template, each with its fields and whether it is optional."""
    # Splitting by a group returns the parts outside and inside the brackets in turn.
    texts = _OPTIONAL_PART.split(template)
    return [
        (text, [name for _literal, name, _spec, _conversion in string.Formatter().parse(text) if name], index % 2 == 1)
        for index, text in enumerate(texts)
    ]


class _FieldFormatter(string.Formatter):
    """Formats the values of fields for people."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        del args
        return kwargs.get(str(key))

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "-"
        if isinstance(value, Decimal):
            # Never with an exponent.
            return format(value, format_spec or "f")
        if isinstance(value, Mapping):
            items = [f"{self.format_field(key, '')} {self.format_field(item, '')}" for key, item in value.items()]
            return ", ".join(items) or "none"
        if isinstance(value, list | tuple):
            return ", ".join(self.format_field(item, "") for item in value) or "none"
        # A name or an id from Kraken with a line end in it would look like a line of its own.
        return format(value, format_spec) if isinstance(value, int | float) else escape_unprintable(str(value))


_formatter = _FieldFormatter()


def _report_mistake(mistake: str) -> None:
    """Log a mistake of the caller. In a test it is an error."""
    log.error(mistake)


def _attempt(
    event: Event, action: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result | None:
    """Return the result of an action, or None if it fails."""
    try:
        return action(*args, **kwargs)
    except Exception:  # the caller is between two steps of an order, or holds a request lock
        log.exception("The event %s could not be handled.", event.key)
        return None
