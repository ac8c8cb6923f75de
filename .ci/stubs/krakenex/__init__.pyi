# What the bot and its tests use of krakenex, which ships no types.
from collections.abc import Callable
from typing import Any, TypeAlias

from krakenex import version as version

_Timeout: TypeAlias = float | tuple[float, float] | None

class API:
    key: str
    secret: str
    uri: str
    apiversion: str
    session: Any
    response: Any
    _json_options: dict[str, Any]
    # An instance may replace it, which is how a program shares its nonces.
    _nonce: Callable[[], int | str]
    def __init__(self, key: str = "", secret: str = "") -> None: ...
    def json_options(self, **kwargs: Any) -> API: ...
    def close(self) -> None: ...
    def load_key(self, path: str) -> None: ...
    def query_public(self, method: str, data: dict[str, Any] | None = None, timeout: _Timeout = None) -> Any: ...
    def query_private(self, method: str, data: dict[str, Any] | None = None, timeout: _Timeout = None) -> Any: ...
    def _query(
        self, urlpath: str, data: dict[str, Any], headers: dict[str, str] | None = None, timeout: _Timeout = None
    ) -> Any: ...
    def _sign(self, data: dict[str, Any], urlpath: str) -> str: ...
