"use strict";
// Follows the registry: an event says that something changed, and the page is
// fetched anew. Without this script the page loads itself every 15 seconds.
const live = document.getElementById("live");
const status = document.getElementById("status");
let busy = false, due = false;
async function refresh() {
  // Somebody writes a reason: what they look at must stay.
  if (busy || live.querySelector("details[open]")) { due = true; return; }
  busy = true; due = false;
  try {
    const answer = await fetch(location.href, {cache: "no-store"});
    const text = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = text.getElementById("live");
    if (!fresh) { location.reload(); return; }
    const at = document.activeElement && document.activeElement.id;
    const typed = at === "q" ? document.activeElement.value : null;
    live.replaceChildren(...fresh.childNodes);
    const back = at && document.getElementById(at);
    if (back) { if (typed !== null) back.value = typed; back.focus({preventScroll: true}); }
    const said = text.getElementById("status").textContent;
    if (said !== status.textContent) status.textContent = said;
  } catch (_) { due = true; } finally { busy = false; }
}
if (live) {
  const events = new EventSource("/events");
  events.addEventListener("change", refresh);
  events.onopen = () => { document.documentElement.dataset.live = "yes"; refresh(); };
  events.onerror = () => { document.documentElement.dataset.live = "no"; if (events.readyState === 2) setTimeout(() => location.reload(), 5000); };
  live.addEventListener("toggle", () => { if (due) refresh(); }, true);
}
