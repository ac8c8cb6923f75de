"""Every Kraken error string has one meaning, and only a proof resolves an order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot.base.errors import (
    CredentialsError,
    InvalidNonceError,
    KrakenError,
    LockoutError,
    OrderRefusedError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    ServiceError,
    UnknownKrakenError,
)
from bot.kraken.error_table import (
    ERROR_TABLE,
    Category,
    ErrorRule,
    Executed,
    filter_errors,
    find_rule,
    is_final_for_order,
    is_pair_rule_refusal,
    make_error,
    retry_after_seconds,
)

ANY_ENGINE_REFUSAL = "EOrder:"

FINAL = [
    "EOrder:Insufficient funds",
    "EOrder:Order minimum not met",
    "EOrder:Cost minimum not met",
    "EOrder:Tick size check failed",
    "EOrder:Invalid price:XXBTZEUR price can only be specified up to 1 decimals.",
    "EOrder:Post only order",
    "EOrder:Rate limit exceeded",
    "EOrder:Domain rate limit exceeded",
    "EOrder:Orders limit exceeded",
    "EOrder:Something Kraken has never said before",
    "EGeneral:Invalid arguments",
    "EGeneral:Invalid arguments:volume minimum not met",
    "EGeneral:Invalid arguments:ordertype",
    "EQuery:Unknown asset pair",
    "EQuery:Invalid asset pair",
    "ETrade:Invalid request",
]

NOT_FINAL = [
    "EAPI:Invalid nonce",
    "EAPI:Invalid key",
    "EAPI:Invalid signature",
    "EAPI:Rate limit exceeded",
    "EAPI:Permission denied",
    "EGeneral:Permission denied",
    "EGeneral:Temporary lockout",
    "EGeneral:Too many requests",
    "EGeneral:Internal error",
    "EGeneral:Invalid arguments:Index unavailable",
    "EService: Throttled: 1741500000",
    "EService:Unavailable",
    "EService:Busy",
    "EService:Timeout",
    "EService:Deadline elapsed",
    "EService:Market in cancel_only mode",
    "EService:Something new",
    "EOrder:Reduce only:Position is closed",
    "EOrder:Duplicate order",
    "EOrder:Invalid order:duplicate client order id",
    "EOrder:cl_ord_id in use",
    "EGeneral:Invalid arguments:cl_ord_id",
    "EBM:limit exceeded:CAL",
    "Price(s) not found",
    "EWhatever:not in any list",
    "",
]

EXPECTED_CLASSES: list[tuple[str, type[KrakenError]]] = [
    ("EAPI:Invalid nonce", InvalidNonceError),
    ("EGeneral:Temporary lockout", LockoutError),
    ("EAPI:Invalid key", CredentialsError),
    ("EAPI:Invalid signature", CredentialsError),
    ("ETrade:Locked", CredentialsError),
    ("EGeneral:Permission denied", PermissionDeniedError),
    ("EAccount:Invalid permissions:XMR trading restricted for XX.", PermissionDeniedError),
    ("EAPI:Rate limit exceeded", RateLimitError),
    ("EService: Throttled: 1741500000", RateLimitError),
    ("EOrder:Rate limit exceeded", OrderRefusedError),
    ("EOrder:Domain rate limit exceeded", OrderRefusedError),
    ("EService:Busy", ServiceError),
    ("EGeneral:Internal error:17", ServiceError),
    ("EGeneral:Unknown method", RequestError),
    ("EQuery:Unknown asset pair", RequestError),
    ("EOrder:Insufficient funds", OrderRefusedError),
    ("EOrder:Something new", OrderRefusedError),
    ("EOrder:Duplicate order", UnknownKrakenError),
    ("EWhatever:not in any list", UnknownKrakenError),
]


def documented_rows(folder: Path) -> list[tuple[list[str], list[str]]]:
    """Return the error strings and the other cells of each row in the error tables of the reference document."""
    text = (folder / "kraken-facts.md").read_text("utf-8")
    section = text.split("\n## 3. Errors\n")[1].split("\n### 3.6")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    rows = [(strings_in(first), rest) for first, *rest in cells]
    return [*rows, (re.findall(r"`([^`]* not found)`", section), [])]


def strings_in(cell: str) -> list[str]:
    """Return the error strings that the first cell of a row stands for."""
    strings: list[str] = []
    for token in re.findall(r"`([^`]+)`", cell):
        if token.startswith(":"):
            strings.append(strings[0].rpartition(":")[0] + token)
        elif not re.match(r"E[A-Z]\w+:", token):
            strings.append(strings[0].removesuffix("*") + token)
        else:
            strings += [token.partition("[")[0], re.sub(r"\[:<?([^>\]]+)>?\]", r":\1", token)]
    return [re.sub(r"<[^>]+>", "1741500000", string) for string in dict.fromkeys(strings)]


def test_each_documented_string_is_in_the_table(shared: Path) -> None:
    """Each documented error string has its own row, not only the general one for matching engine refusals."""
    strings = [string for strings, _ in documented_rows(shared) for string in strings]
    rows = {string: find_rule(string) for string in strings}
    assert len(strings) >= 80
    assert [string for string, row in rows.items() if row is None or row.prefix == ANY_ENGINE_REFUSAL] == []


def test_executed_flag_matches_the_documentation(shared: Path) -> None:
    """A string may have been executed exactly if its documented row does not begin with a plain no."""
    for strings, cells in documented_rows(shared):
        if len(cells) == 4:
            expected = Executed.NO if cells[1].startswith("no") else Executed.MAYBE
            assert [(string, row.executed) for string in strings if (row := find_rule(string))] == [
                (string, expected) for string in strings
            ]


def test_prefixes_are_unique() -> None:
    """No prefix is in the table twice."""
    prefixes = [row.prefix for row in ERROR_TABLE]
    assert sorted(set(prefixes)) == sorted(prefixes)


@pytest.mark.parametrize("row", ERROR_TABLE, ids=lambda row: row.prefix)
def test_each_rule_is_found_by_its_prefix(row: ErrorRule) -> None:
    """A lookup of a row's prefix returns that row, with and without a detail after it."""
    assert find_rule(row.prefix) is row
    assert find_rule(row.prefix + ":some detail") is row


def test_possibly_executed_rule_is_never_final() -> None:
    """No string means both a possible execution and a proof that the order was not placed."""
    assert [row.prefix for row in ERROR_TABLE if row.is_final_for_order and row.executed is Executed.MAYBE] == []


def test_non_engine_error_is_final_only_by_request_content() -> None:
    """Outside EOrder, the final strings are exactly those that follow from the request's content alone."""
    final = {row.prefix for row in ERROR_TABLE if row.is_final_for_order and not row.prefix.startswith("EOrder:")}
    assert final == {
        "EGeneral:Unknown method",
        "EGeneral:Invalid arguments",
        "EGeneral:Invalid arguments:volume minimum not met",
        "EGeneral:Invalid timeout argument",
        "EQuery:Unknown asset pair",
        "EQuery:Invalid asset pair",
        "EQuery:Unknown asset",
        "ETrade:Invalid request",
    }


@pytest.mark.parametrize("string", FINAL)
def test_an_engine_refusal_is_final(string: str) -> None:
    """The string proves that the order was not placed."""
    assert is_final_for_order([string])


@pytest.mark.parametrize("string", NOT_FINAL)
def test_other_strings_leave_the_order_unknown(string: str) -> None:
    """The string does not prove that the order was not placed."""
    assert not is_final_for_order([string])


def test_each_engine_error_is_an_order_refusal() -> None:
    """Each EOrder string is a refused order, except the one that may come with a fill."""
    others = [row.prefix for row in ERROR_TABLE if row.prefix[:7] == "EOrder:" and row.category is not Category.ORDER]
    assert others == ["EOrder:Reduce only:Position is closed"]


def test_one_uncertain_string_makes_the_answer_uncertain() -> None:
    """An answer is final only if it has an error and all its errors are final."""
    assert is_final_for_order(["EOrder:Insufficient funds", "EOrder:Order minimum not met"])
    assert is_final_for_order(["WOrder:some warning", "EOrder:Insufficient funds"])
    assert not is_final_for_order(["EOrder:Insufficient funds", "EService:Busy"])
    assert not is_final_for_order(["WOrder:some warning"])
    assert not is_final_for_order([])


@pytest.mark.parametrize(("string", "expected"), EXPECTED_CLASSES)
def test_each_string_becomes_the_exception_of_its_category(string: str, expected: type[KrakenError]) -> None:
    """The exception has the class of the category, the endpoint, Kraken's text and a sentence of advice."""
    error = make_error("AddOrder", [string])
    assert type(error) is expected
    assert (error.method, error.error_strings) == ("AddOrder", [string])
    assert "This means: " in str(error)


def test_each_category_has_a_rule_and_an_exception() -> None:
    """Each category is in the table and has an exception."""
    for category in Category:
        prefixes = [row.prefix for row in ERROR_TABLE if row.category is category]
        assert prefixes, category
        assert isinstance(make_error("Balance", prefixes[:1]), KrakenError)


@pytest.mark.parametrize(
    ("strings", "expected"),
    [
        (["EOrder:Insufficient funds", "EGeneral:Temporary lockout", "EAPI:Invalid nonce"], LockoutError),
        (["EAPI:Invalid nonce", "EAPI:Invalid key"], CredentialsError),
        (["EAPI:Invalid nonce", "EWhatever:new"], UnknownKrakenError),
        (["EAPI:Rate limit exceeded", "EService:Busy"], ServiceError),
        (["WGeneral:careful", "EAPI:Rate limit exceeded"], RateLimitError),
    ],
)
def test_the_most_severe_string_decides(strings: list[str], expected: type[KrakenError]) -> None:
    """The most severe of several strings decides the class, whatever their order."""
    assert type(make_error("Balance", strings)) is expected
    assert type(make_error("Balance", strings[::-1])) is expected


def test_warnings_are_not_errors() -> None:
    """A W string is no error; any other string is one, with a prefix or without."""
    assert filter_errors(["WGeneral:careful", "EAPI:Invalid key", "Wrong", "Price(s) not found"]) == [
        "EAPI:Invalid key",
        "Wrong",
        "Price(s) not found",
    ]


def test_an_answer_without_an_error_makes_no_exception() -> None:
    """Requesting the exception of an answer without an error is a programming error."""
    with pytest.raises(ValueError, match="no error"):
        make_error("Balance", ["WGeneral:careful"])


def test_blanks_around_colons_do_not_matter_and_case_does() -> None:
    """Strings match with blanks around their colons, and only in Kraken's case."""
    assert find_rule(" EAPI : Invalid nonce ") is find_rule("EAPI:Invalid nonce") is not None
    assert find_rule("EAPI:invalid nonce") is None


def test_the_longest_prefix_wins() -> None:
    """Of two matching prefixes the longer one counts."""
    row = find_rule("EOrder:Unknown order action.")
    assert row is not None
    assert row.prefix == "EOrder:Unknown order action"


@pytest.mark.parametrize(
    ("string", "now", "expected"),
    [
        ("EService: Throttled: 1741500000", 1741499990.0, 10.0),
        ("EService:Throttled:1741500000", 1741490000.0, 60.0),
        ("EService:Throttled:1741500000", 1741500500.0, 1.0),
        ("EService:Throttled:soon", 1741500500.0, 1.0),
        ("EService:Throttled:1741500000000", 1741499990.0, 60.0),
        ("EGeneral:Temporary lockout", 0.0, 900.0),
        ("EGeneral:Too many requests", 0.0, 5.0),
        ("EAuth:Too many requests", 0.0, 30.0),
        ("EWhatever:new", 0.0, 0.0),
    ],
)
def test_the_wait_follows_the_table_or_the_time_kraken_names(string: str, now: float, expected: float) -> None:
    """A throttled answer is retried at the time that it names, a minute at most; the rest follows the table."""
    assert retry_after_seconds([string], now) == expected


def test_the_longest_wait_of_several_counts() -> None:
    """Of several strings the longest wait counts; without any there is no wait."""
    assert retry_after_seconds(["EGeneral:Too many requests", "EAuth:Too many requests"], 0.0) == 30.0
    assert retry_after_seconds([], 0.0) == 0.0


def test_only_invalid_nonce_retries_with_a_new_nonce() -> None:
    """Only a refused nonce is retried at once with a new nonce."""
    assert [row.prefix for row in ERROR_TABLE if row.category is Category.NONCE] == ["EAPI:Invalid nonce"]


@pytest.mark.parametrize(
    "string",
    [
        "EOrder:Invalid price:XXBTZEUR price can only be specified up to 1 decimals.",
        "EOrder:Tick size check failed",
        "EOrder:Order minimum not met",
        "EOrder: Cost minimum not met",
        "EGeneral:Invalid arguments:volume",
        "EGeneral:Invalid arguments:volume minimum not met",
        "EGeneral:Invalid arguments:price",
    ],
)
def test_a_refusal_for_a_rule_of_the_pair_is_recognized(string: str) -> None:
    """Price, tick, lot and minima are rules of the pair; together with another reason they are not the only one."""
    assert is_pair_rule_refusal([string])
    assert not is_pair_rule_refusal([string, "EOrder:Insufficient funds"])
    assert not is_pair_rule_refusal([string, "EService:Busy"])


@pytest.mark.parametrize("string", ["EOrder:Insufficient funds", "EGeneral:Invalid arguments", "EAPI:Invalid nonce"])
def test_another_refusal_is_not_for_a_rule_of_the_pair(string: str) -> None:
    """Funds, other arguments and what is not final say nothing of the pair's rules, nor does an empty answer."""
    assert not is_pair_rule_refusal([string])
    assert not is_pair_rule_refusal([])
