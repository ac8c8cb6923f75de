"use strict";
// Replaces the live part with what the server sends, and says so when nothing comes any more.
(() => {
  const live = document.getElementById("live");
  const link = document.getElementById("link");
  const stop = document.getElementById("stop");
  const SILENCE_MS = 30000, RETRY_MS = 5000;
  let source, heard = Date.now(), retry = 0;

  function say(text, name) {
    // Set again, the same would be read out again.
    if (link.textContent !== text) link.textContent = text;
    link.className = name;
  }

  function lost() {
    say(`not live: connection lost, last update ${new Date(heard).toISOString().slice(11, 19)} UTC`, "lost");
  }

  function show(html) {
    const open = new Map([...live.querySelectorAll("details[id]")].map((one) => [one.id, one.open]));
    const scrolled = document.getElementById("log")?.scrollTop;
    const focused = live.contains(document.activeElement) ? document.activeElement.id : "";
    const y = scrollY;
    live.innerHTML = html;
    for (const [id, was] of open) {
      const one = document.getElementById(id);
      if (one) one.open = was;
    }
    document.getElementById("log")?.scrollTo(0, scrolled);
    document.getElementById(focused)?.focus({ preventScroll: true });
    scrollTo(scrollX, y);
    const mode = document.getElementById("mode");
    document.title = mode.dataset.title;
    stop.dataset.entries = mode.dataset.entries;
  }

  function connect() {
    clearTimeout(retry);
    source?.close();
    source = new EventSource("/events");
    source.onmessage = (event) => {
      heard = Date.now();
      // Whoever marks something to copy it keeps it.
      const marked = !getSelection().isCollapsed && live.contains(getSelection().anchorNode);
      say(marked ? "paused while text is marked" : "live", marked ? "" : "on");
      if (!marked) show(JSON.parse(event.data));
    };
    source.onerror = () => {
      lost();
      // The browser tries again by itself, but not after an answer that is no stream.
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(retry);
        retry = setTimeout(connect, RETRY_MS);
      }
    };
  }

  connect();
  // A phone in a pocket pays for nothing.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return connect();
    clearTimeout(retry);
    source.close();
  });
  setInterval(() => {
    if (Date.now() - heard > SILENCE_MS) {
      lost();
      if (source.readyState === EventSource.OPEN) connect();
    }
  }, RETRY_MS);
})();
