"use strict";
// Replaces the live part with what the server sends, and shows when the connection is lost.
(() => {
  const live = document.getElementById("live");
  const link = document.getElementById("link");
  const stop = document.getElementById("stop");
  const STALE_MS = 30000, RETRY_MS = 5000;
  let source, lastMessageAt = Date.now(), retryTimer = 0;

  function setStatus(text, name) {
    // A screen reader would read the same text out again.
    if (link.textContent !== text) link.textContent = text;
    link.className = name;
  }

  function showLost() {
    setStatus(`not live: connection lost, last update ${new Date(lastMessageAt).toISOString().slice(11, 19)} UTC`, "lost");
  }

  function update(html) {
    const open = new Map([...live.querySelectorAll("details[id]")].map((one) => [one.id, one.open]));
    const scrolled = document.getElementById("log")?.scrollTop;
    const focused = live.contains(document.activeElement) ? document.activeElement.id : "";
    const y = scrollY;
    live.innerHTML = html;
    for (const [id, wasOpen] of open) {
      const one = document.getElementById(id);
      if (one) one.open = wasOpen;
    }
    document.getElementById("log")?.scrollTo(0, scrolled);
    document.getElementById(focused)?.focus({ preventScroll: true });
    scrollTo(scrollX, y);
    const mode = document.getElementById("mode");
    document.title = mode.dataset.title;
    stop.dataset.entries = mode.dataset.entries;
  }

  function connect() {
    clearTimeout(retryTimer);
    source?.close();
    source = new EventSource("/events");
    source.onmessage = (event) => {
      lastMessageAt = Date.now();
      // An update would clear the selection.
      const hasSelection = !getSelection().isCollapsed && live.contains(getSelection().anchorNode);
      setStatus(hasSelection ? "paused while text is selected" : "live", hasSelection ? "" : "on");
      if (!hasSelection) update(JSON.parse(event.data));
    };
    source.onerror = () => {
      showLost();
      // The browser reconnects by itself, but not after a response that is no stream.
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(retryTimer);
        retryTimer = setTimeout(connect, RETRY_MS);
      }
    };
  }

  connect();
  // A hidden page uses no data.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return connect();
    clearTimeout(retryTimer);
    source.close();
  });
  setInterval(() => {
    if (Date.now() - lastMessageAt > STALE_MS) {
      showLost();
      if (source.readyState === EventSource.OPEN) connect();
    }
  }, RETRY_MS);
})();
