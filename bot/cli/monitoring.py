"""What shows a run to people while it lasts: alerts, a heartbeat, the dashboard."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from bot.app.alerts import Alerts, DailySummary, Heartbeat, StallAlert
from bot.app.lifecycle import Lifecycle
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.config import Settings
from bot.dashboard import client
from bot.dashboard.listener import Listener
from bot.dashboard.snapshot import SnapshotReader

# For what is still to be told when the run is over.
ALERTS_CLOSE_TIMEOUT_SECONDS = 0.3


@contextlib.contextmanager
def monitoring(settings: Settings, lifecycle: Lifecycle) -> Iterator[str]:
    """Let the bot be seen while it runs: its page, alerts, a heartbeat; give the page's address, or ""."""
    with contextlib.ExitStack() as stack:
        if settings.alert_webhook_url:
            alerts = Alerts(
                str.__str__(settings.alert_webhook_url), name=f"{settings.trading_mode} bot on {socket.gethostname()}"
            )
            alerts.start()
            stack.callback(alerts.close, ALERTS_CLOSE_TIMEOUT_SECONDS)
            snapshot_reader = stack.enter_context(contextlib.closing(SnapshotReader(settings, lifecycle)))

            def summarize_day() -> str:
                return client.format_summary(snapshot_reader.read())

            DailySummary(summarize_day).start()
            StallAlert(snapshot_reader.stall_reason).start()
        if settings.heartbeat_url:
            Heartbeat(str.__str__(settings.heartbeat_url), lifecycle.is_alive).start()
        if settings.port == 0:
            yield ""
            return
        listener = Listener(settings, lifecycle)
        listener.start()
        stack.callback(listener.close)
        emit(Event.DASHBOARD_STARTED, url=listener.location)
        yield listener.url
