"""Paper accounts: their price sources, their clock, and how they resume."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bot.base.clock import MarketClock, ReplayClock, wall_seconds
from bot.simulator.errors import LivePricesError, PriceFileError, SimulatorError, StateFileError
from bot.simulator.options import SimulatorOptions
from bot.simulator.paper import PaperAccount, open_paper_account
from bot.simulator.prices import SyntheticPrices
from bot.simulator.prices_live import LivePrices
from bot.simulator.server import Simulator
from tests.simulator_parts import KrakenexClient

HOUR = 3600
UNREACHABLE_URL = "http://127.0.0.1:9"
NEVER_SET = threading.Event()
FIRST_CANDLE_TIME = 1640995200


def write_price_file(folder: Path, minutes: int = 600) -> str:
    """Write a file of one-minute candles that rise by a dollar each; return the setting that replays it."""
    rows = [f"{FIRST_CANDLE_TIME + 60 * n},{100 + n},{101 + n},{100 + n},{101 + n},1.5,10" for n in range(minutes)]
    path = folder / "prices.csv"
    path.write_text("\n".join(rows) + "\n")
    return f"replay:{path}"


def call(paper: PaperAccount, method: str, **params: object) -> dict[str, object]:
    """Make one private call with a nonce from the clock; return its result."""
    client = KrakenexClient(paper.simulator, nonce=int(wall_seconds() * 1e6))
    answer = client.private(method, **params)
    client.close()
    assert answer["error"] == []
    result: dict[str, object] = answer["result"]
    return result


def place_resting(paper: PaperAccount, price: str) -> str:
    """Place a limit buy that does not fill now; return its txid."""
    call(paper, "AddOrder", pair="XBTUSD", type="buy", ordertype="limit", price=price, volume="0.01")
    return next(iter(paper.simulator.exchange.account.open_orders))


def test_a_new_account_warms_up_over_720_candles_and_starts_with_10000(tmp_path: Path) -> None:
    """The clock starts 720 candles ago, runs through them, and is then the wall clock."""
    begin = wall_seconds()
    with open_paper_account(["BTC/USD"], "synthetic", HOUR, tmp_path) as paper:
        assert isinstance(paper.clock, ReplayClock)
        assert paper.simulator.is_new
        assert begin - 720 * HOUR <= paper.clock.now() <= wall_seconds() - 720 * HOUR
        assert call(paper, "Balance") == {"ZUSD": "10000.0000"}
        paper.clock.wait(720 * HOUR, NEVER_SET)
        assert begin - 1 <= paper.clock.now() <= wall_seconds()


def test_the_starting_balance_is_in_the_quote_of_the_first_pair(tmp_path: Path) -> None:
    """With BTC/EUR first, the account starts with ten thousand euros."""
    with open_paper_account(["BTC/EUR", "BTC/USD"], "synthetic", HOUR, tmp_path) as paper:
        assert call(paper, "Balance") == {"ZEUR": "10000.0000"}


def test_an_existing_account_resumes_at_the_wall_clock(tmp_path: Path) -> None:
    """The second start has the same key, is not new, and has no warm-up."""
    keys = []
    for is_new in (True, False):
        with open_paper_account(["BTC/USD"], "synthetic", HOUR, tmp_path) as paper:
            keys.append((paper.key, paper.secret))
            assert (paper.simulator.is_new, isinstance(paper.clock, ReplayClock)) == (is_new, is_new)
    assert keys[0] == keys[1]


def test_open_orders_are_matched_over_the_downtime(tmp_path: Path) -> None:
    """An order that was left open thirty days ago filled during the downtime, at its own price."""
    with open_paper_account(["BTC/USD"], "synthetic", HOUR, tmp_path) as paper:
        begin = paper.clock.now()
        prices, pair = paper.simulator.exchange.prices, paper.simulator.exchange.instruments.pairs[0]
        low = min(price for _, price in prices.price_points(pair, begin, wall_seconds()))
        assert low < prices.price(pair, begin), "the seed's month has no dip to catch"
        txid = place_resting(paper, f"{low + 1:f}")
    with open_paper_account(["BTC/USD"], "synthetic", HOUR, tmp_path) as paper:
        row = call(paper, "QueryOrders", txid=txid)[txid]
        trade = paper.simulator.exchange.account.trades[0]
    assert isinstance(row, dict)
    assert (row["status"], trade.price, trade.maker) == ("closed", low + 1, True)
    assert begin < trade.time < wall_seconds() - 1


def test_each_price_source_has_its_own_account(tmp_path: Path) -> None:
    """Three price sources have three files in the state folder."""
    with Simulator() as kraken:
        for prices in ("synthetic", "live", write_price_file(tmp_path)):
            with open_paper_account(["BTC/USD"], prices, 60, tmp_path, live_url=kraken.url) as paper:
                assert paper.simulator.is_new
    names = sorted(path.name for path in tmp_path.glob("*.db"))
    assert names[:1] + names[2:] == ["paper_live.db", "paper_synthetic.db"]
    assert names[1].startswith("paper_replay_")
    assert len(names[1]) == len("paper_replay_12345678.db")


def test_auto_falls_back_to_synthetic_when_kraken_is_unreachable(tmp_path: Path) -> None:
    """If nothing listens at the URL, synthetic prices are used, and the label says so."""
    with open_paper_account(["BTC/USD"], "auto", HOUR, tmp_path, live_url=UNREACHABLE_URL) as paper:
        assert "synthetic" in paper.price_source_label
        assert "Kraken does not answer" in paper.price_source_label


def test_auto_uses_live_prices_when_kraken_is_reachable(tmp_path: Path) -> None:
    """If Kraken answers, its prices are used, and the label says so."""
    with Simulator() as kraken, open_paper_account(["BTC/USD"], "auto", 60, tmp_path, live_url=kraken.url) as paper:
        assert paper.price_source_label == f"live prices from {kraken.url}"


def test_auto_falls_back_to_synthetic_without_history(tmp_path: Path) -> None:
    """If Time answers and OHLC does not, synthetic prices are used, and the reason is given."""
    with Simulator() as kraken:
        kraken.faults.raise_next("OHLC", "EService:Unavailable")
        with open_paper_account(["BTC/USD"], "auto", 60, tmp_path, live_url=kraken.url) as paper:
            assert "EService:Unavailable" in paper.price_source_label


def test_live_prices_without_kraken_are_an_error(tmp_path: Path) -> None:
    """If live prices are requested by name, they are not replaced by others."""
    with (
        pytest.raises(LivePricesError, match="does not answer AssetPairs"),
        open_paper_account(["BTC/USD"], "live", HOUR, tmp_path, live_url=UNREACHABLE_URL),
    ):
        pass


@pytest.mark.parametrize("prices", ["replay:nowhere.csv", "magic", "replay:"])
def test_an_unknown_price_source_is_an_error(tmp_path: Path, prices: str) -> None:
    """A missing file and an unknown word are refused."""
    with pytest.raises(SimulatorError), open_paper_account(["BTC/USD"], prices, HOUR, tmp_path):
        pass


def test_a_price_file_serves_one_pair_only(tmp_path: Path) -> None:
    """Several pairs are refused, not silently reduced to one."""
    with (
        pytest.raises(SimulatorError, match="one pair; 2 pairs are set"),
        open_paper_account(["BTC/USD", "ETH/USD"], write_price_file(tmp_path), 60, tmp_path),
    ):
        pass


def test_a_timeframe_finer_than_the_file_is_refused(tmp_path: Path) -> None:
    """One-minute candles cannot make thirty-second ones."""
    with (
        pytest.raises(SimulatorError, match="candles of 60 s"),
        open_paper_account(["BTC/USD"], write_price_file(tmp_path), 30, tmp_path),
    ):
        pass


def test_a_damaged_price_file_is_refused_with_its_line(tmp_path: Path) -> None:
    """The error of the file is reported."""
    setting = write_price_file(tmp_path)
    (tmp_path / "prices.csv").write_text("time,open\n")
    with pytest.raises(PriceFileError, match="line 1"), open_paper_account(["BTC/USD"], setting, 60, tmp_path):
        pass


def test_a_replay_starts_after_60_candles_and_ends_with_the_file(tmp_path: Path) -> None:
    """A replay starts with history, and its clock stops at the end of the file."""
    with open_paper_account(["BTC/USD"], write_price_file(tmp_path), 60, tmp_path) as paper:
        assert isinstance(paper.clock, ReplayClock)
        assert paper.clock.now() == FIRST_CANDLE_TIME + 3600
        paper.clock.wait(1e9, NEVER_SET)
        assert (paper.clock.now(), paper.clock.has_ended) == (FIRST_CANDLE_TIME + 36000, True)


def test_an_interrupted_replay_resumes_and_a_finished_one_restarts(tmp_path: Path) -> None:
    """Stopped after 100 minutes it resumes there with its open order; stopped at the end it starts a new account."""
    setting, seen = write_price_file(tmp_path), list[tuple[bool, float, int]]()
    for step in (6000.0, 1e9, 0.0):
        with open_paper_account(["BTC/USD"], setting, 60, tmp_path) as paper:
            if not seen:
                place_resting(paper, "50")
            seen.append((paper.simulator.is_new, paper.clock.now(), len(paper.simulator.exchange.account.open_orders)))
            paper.clock.wait(step, NEVER_SET)
    assert seen == [
        (True, FIRST_CANDLE_TIME + 3600, 1),
        (False, FIRST_CANDLE_TIME + 9600, 1),
        (True, FIRST_CANDLE_TIME + 3600, 0),
    ]


def test_only_synthetic_prices_run_at_another_speed(tmp_path: Path) -> None:
    """A market sixty times as fast moves a minute a second; a recorded one cannot run at that speed."""
    with open_paper_account(["BTC/USD"], "synthetic", HOUR, tmp_path, speed=60.0) as paper:
        assert type(paper.clock) is MarketClock
        assert paper.clock.speed == 60.0
    with (
        pytest.raises(SimulatorError, match="synthetic"),
        open_paper_account(["BTC/USD"], write_price_file(tmp_path), 60, tmp_path, speed=2.0),
    ):
        pass


def test_an_account_ahead_of_the_wall_clock_resumes_from_its_own_time(tmp_path: Path) -> None:
    """A market that was run at a high speed never goes back in its next run."""
    with open_paper_account(["BTC/USD"], "synthetic", HOUR, tmp_path, speed=1e9) as paper:
        call(paper, "Balance")
        ahead = paper.simulator.exchange.now
    with open_paper_account(["BTC/USD"], "synthetic", HOUR, tmp_path) as paper:
        assert paper.clock.now() >= ahead > wall_seconds()


def test_a_damaged_account_is_refused(tmp_path: Path) -> None:
    """The error of the state file is reported, and no new account is created."""
    (tmp_path / "paper_synthetic.db").write_bytes(b"x" * 5000)
    with (
        pytest.raises(StateFileError, match="is damaged"),
        open_paper_account(["BTC/USD"], "synthetic", HOUR, tmp_path),
    ):
        pass


class ManualClock(MarketClock):
    """A market clock that a test sets, initially near the wall clock."""

    def __init__(self, offset_seconds: float = 0.0) -> None:
        super().__init__()
        self.time = wall_seconds() + offset_seconds

    def now(self) -> float:
        """Return the time that was set."""
        return self.time


class LivePricesHarness:
    """A local Kraken, and live prices that poll it without a thread."""

    def __init__(self, kraken: Simulator) -> None:
        self.kraken = kraken
        self.live = LivePrices(["BTC/USD", "SOL/USD"], 60, kraken.url)
        self.pair = self.live.instruments.pairs[0]

    def poll_until(self, call: str) -> None:
        """Poll until the named endpoint has been requested."""
        original_get = self.live._api.get
        calls: list[str] = []

        def get(method: str, params: object = None) -> dict[str, object]:
            calls.append(method)
            return original_get(method, params)  # type: ignore[arg-type]

        self.live._api.get = get  # type: ignore[method-assign]
        while call not in calls:
            self.live._poll()


def test_live_history_equals_krakens_candles() -> None:
    """The closed candles are exactly those of Kraken, and the price is Kraken's."""
    clock = ManualClock()
    with Simulator(SimulatorOptions(pairs=("BTC/USD", "SOL/USD")), clock) as kraken:
        source, now = LivePricesHarness(kraken), clock.time
        ours = source.live.candles(source.pair, 60, int(now) - 600, now)[:-1]
        theirs = kraken.exchange.prices.candles(source.pair, 60, int(now) - 600, now)[:-1]
        assert source.live.price(source.pair, wall_seconds()) == kraken.exchange.prices.price(source.pair, now)
        source.live.close()
    assert [(c.time, c.open, c.high, c.low, c.close) for c in ours] == [
        (c.time, c.open, c.high, c.low, c.close) for c in theirs
    ]
    assert len(ours) >= 9


def test_live_prices_follow_the_ticker() -> None:
    """After a poll the price is Kraken's, although its clock has jumped by a day."""
    clock = ManualClock()
    with Simulator(SimulatorOptions(pairs=("BTC/USD", "SOL/USD")), clock) as kraken:
        source = LivePricesHarness(kraken)
        clock.time += 86400
        source.poll_until("Ticker")
        ours = source.live.price(source.pair, wall_seconds())
        theirs = kraken.exchange.prices.price(source.pair, clock.time)
        source.live.close()
    assert ours == theirs


def test_stale_live_prices_are_not_extrapolated() -> None:
    """Two hours after the last answer, there is no candle that Kraken did not serve, the price is unchanged, and
    nothing trades."""
    with Simulator(SimulatorOptions(pairs=("BTC/USD", "SOL/USD"))) as kraken:
        source = LivePricesHarness(kraken)
        source.live.close()
    live, pair, later = source.live, source.pair, wall_seconds() + 7200
    known = live.candles(pair, 60, int(later) - 10_800, later)
    assert known[-1].time + 60 <= wall_seconds()
    assert live.price(pair, later) == live.price(pair, later - 3600)
    assert live.status(later) == "online"
    live._last_response_at -= 61
    assert live.status(later) == "maintenance"
    with pytest.raises(LivePricesError, match="does not answer"):
        live._poll()


def test_krakens_system_status_is_passed_through() -> None:
    """The status of the paper market is the one that Kraken reports."""
    with Simulator(SimulatorOptions(pairs=("BTC/USD", "SOL/USD"))) as kraken:
        source = LivePricesHarness(kraken)
        kraken.exchange.set_status("post_only")
        source.poll_until("SystemStatus")
        source.live.close()
    assert source.live.status(wall_seconds()) == "post_only"


def test_a_candle_closes_only_when_kraken_serves_it_closed() -> None:
    """A minute later the candle that was running is missing until the poll for it, and then it is Kraken's."""
    clock = ManualClock(-120.0)
    with Simulator(SimulatorOptions(pairs=("BTC/USD", "SOL/USD")), clock, SyntheticPrices(1, 5)) as kraken:
        source = LivePricesHarness(kraken)
        path = source.live._paths[source.pair.pair_id]
        end, now = path.end_seconds, wall_seconds()
        assert source.live.candles(source.pair, 60, end - 60, now)[-1].time == end - 60
        clock.time = wall_seconds()
        source.poll_until("OHLC")
        source.poll_until("OHLC")
        now = wall_seconds()
        ours = source.live.candles(source.pair, 60, end, now)[0]
        theirs = kraken.exchange.prices.candles(source.pair, 60, end, now)[0]
        source.live.close()
    assert path.end_seconds >= end + 60
    assert (ours.time, ours.high, ours.low, ours.close) == (theirs.time, theirs.high, theirs.low, theirs.close)
