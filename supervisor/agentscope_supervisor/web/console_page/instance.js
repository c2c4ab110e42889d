/** The state of the instance: workers, open turns, worker exits and the log; and the two buttons. */
import {atEnd, byId, clock, made, span} from "./elements.js";
import {ask, events, inWords, post} from "./server.js";

const KEPT_LINES = 1000;  // lines of the log that the page keeps
const SILENT_AFTER = 15_000;  // ms without an event after which the stream is reopened; the instance sends one each second
const LONGEST_WAIT = 8_000;  // ms between two attempts to connect
const STATES = {healthy: "good", ready: "good", degraded: "mid", starting: "mid", draining: "mid", stopping: "mid",
  unhealthy: "bad", killing: "bad", down: "bad"};
const WHY = {asked: "stopped as requested", memory_limit: "memory limit", turn_limit: "turn limit", exit_code: "exited", signal: "signal",
  oom: "out of memory", boot_failed: "start failed", boot_timeout: "start timed out", stop_timeout: "stop timed out",
  unresponsive: "event loop blocked", protocol_error: "protocol error", killed: "killed by an operator"};
const WANTED = ["asked", "memory_limit", "turn_limit"];

const badge = byId("status"), notice = byId("notice"), log = byId("log"), drain = byId("drain");
let talkIn, isDraining = false, trouble = null, edition = null, exits = [];

/** Follows the instance while the page is open. `unauthorized`: as for the chat; `open`: shows a session in the chat. */
export async function follow(unauthorized, open) {
  talkIn = open;
  byId("restart").addEventListener("click", () => act(unauthorized, restart));
  drain.addEventListener("click", () => act(unauthorized, () => post("console/maintenance", {on: !isDraining})));
  byId("all-exits").addEventListener("change", () => deaths(exits));
  byId("filter").addEventListener("change", event => {
    log.dataset.show = event.target.value;
    log.scrollTop = log.scrollHeight;
  });
  for (let wait = 500;; wait = Math.min(wait * 2, LONGEST_WAIT)) {
    try {
      await stream(() => { wait = 500; });
    } catch (error) {
      if (error.status === 401) { await unauthorized(); continue; }
      if (error.status) say(inWords(error.code, error.message), "bad");
    }
    mark("no connection", "bad");
    await new Promise(done => setTimeout(done, wait));
  }
}

async function stream(connected) {
  const aborter = new AbortController();
  let timer;
  const heard = () => { clearTimeout(timer); timer = setTimeout(() => aborter.abort(), SILENT_AFTER); };
  heard();
  try {
    const response = await ask("console/live", {signal: aborter.signal});
    connected();
    say("");
    log.replaceChildren();
    trouble = null;
    for await (const {event, data} of events(response)) {
      heard();
      SHOWN[event]?.(JSON.parse(data));
    }
  } finally {
    clearTimeout(timer);
  }
}

// -- actions ------------------------------------------------------------------------------------

async function act(unauthorized, what) {
  try {
    await what();
  } catch (error) {
    if (error.status !== 401) say(inWords(error.code, error.message), "bad");
    else if (await unauthorized()) await act(unauthorized, what);
  }
}

async function restart() {
  const answer = await (await post("console/restart", {})).json();
  if (answer.outcome === "refused") return say(`The restart was refused, the previous workers stay: ${answer.reason}`, "bad");
  edition = answer.edition;
  say(answer.note ? `The workers are being replaced. ${answer.note}` : "The workers are being replaced one by one.", "mid");
}

/** Shows a notice above the page; an empty text hides it. */
function say(text, kind = "") {
  notice.hidden = !text;
  notice.className = kind;
  notice.replaceChildren(made("span", {}, text));
}

function mark(text, kind) {
  badge.textContent = text;
  badge.className = `badge ${kind}`;
}

// -- display ------------------------------------------------------------------------------------

function status(state) {
  document.title = `${state.name} · console`;
  byId("name").textContent = state.name;
  mark(state.status, STATES[state.status] ?? "");
  const memory = state.memory_mb === null ? "" : ` · supervisor ${Math.round(state.memory_mb)} MB`;
  byId("about").textContent = `up ${span(state.uptime)} · ${state.version}${memory}${state.unready ? ` · refuses turns: ${state.unready}` : ""}`;
  isDraining = state.status === "draining";
  drain.textContent = isDraining ? "Accept turns again" : "Drain";
  byId("workers").replaceChildren(...rows(state));
  byId("turns").textContent = `${state.turns.open} open, ${state.turns.accepted} accepted since the start`;
  byId("sessions").replaceChildren(...(state.sessions.length ? state.sessions.map(sessionLine) : [made("p", {class: "soft"}, "No open turns.")]));
  if (state.trouble !== trouble) {  // also after a reload by another page, a command or --reload
    trouble = state.trouble;
    say(trouble ? `The reload failed, the previous workers stay: ${trouble}` : "", "bad");
  }
  rollout(state);
}

function rollout(state) {
  const last = state.rollout;
  byId("rollout").textContent = state.rolling ? "being replaced …" : last ? `last restart ${clock(last.at)}: ${last.failure ? "failed" : "done"}` : "";
  if (edition === null || state.rolling || !last || last.edition < edition) return;
  if (last.failure) say(`The restart failed, the previous workers stay: ${last.failure}`, "bad");
  else say("All workers have been replaced.", "good");
  edition = null;
}

function rows(state) {
  const found = [];
  for (const slot of state.slots) {
    const workers = state.workers.filter(worker => worker.slot === slot.slot);
    const notes = [];
    if (slot.breaker_open) notes.push("restarts paused after repeated failures");
    if (slot.starts_in !== null) notes.push(`starts in ${span(slot.starts_in)}`);
    if (slot.restarts) notes.push(`${slot.restarts} failure${slot.restarts === 1 ? "" : "s"}${slot.last_death ? `, last: ${WHY[slot.last_death.cause] ?? slot.last_death.cause}` : ""}`);
    if (!workers.length) workers.push({worker: String(slot.slot), state: "down", seconds: null, turns: 0, memory_mb: null, pid: null});
    workers.forEach((worker, at) => found.push(row(worker, at ? "" : notes.join("; "))));
  }
  for (const worker of state.workers) if (worker.slot >= state.slots.length) found.push(row(worker, "leaving"));
  return found;
}

function row(worker, note) {
  const cells = [worker.worker, made("span", {class: STATES[worker.state] ?? ""}, worker.state),
    worker.seconds === null ? "–" : span(worker.seconds), worker.turns,
    worker.memory_mb === null ? "–" : Math.round(worker.memory_mb), worker.pid ?? "–", note];
  const isNumber = at => at > 2 && at < 6;
  return made("tr", {"data-worker": worker.worker, "data-state": worker.state}, ...cells.map((cell, at) => made("td", {class: isNumber(at) ? "number" : null}, cell)));
}

function sessionLine(session) {
  const turns = session.waiting + (session.run_id === null ? 0 : 1);
  const more = [session.worker ? `worker ${session.worker}` : "waiting", `${turns} turn${turns === 1 ? "" : "s"}`, `${session.events} events`, span(session.seconds)];
  return made("p", {}, made("button", {type: "button", class: "link", title: "Open in the chat", onclick: () => talkIn(session.session_id)}, session.session_id), ` ${more.join(" · ")}`);
}

function deaths(all) {
  exits = all;
  const list = byId("deaths"), open = new Set([...list.querySelectorAll("details[open]")].map(each => each.dataset.key));
  const shown = exits.filter(each => byId("all-exits").checked || !WANTED.includes(each.cause)).reverse();
  list.replaceChildren(...(shown.length ? shown.map(each => death(each, open)) : [made("p", {class: "soft"}, exits.length ? "No worker has failed." : "No worker has exited yet.")]));
}

function death(it, open) {
  const why = `${WHY[it.cause] ?? it.cause}${it.detail ? `: ${it.detail}` : ""}`, key = `${it.worker} ${it.at}`;
  const lost = it.turns ? `, ${it.turns} turn${it.turns === 1 ? "" : "s"} lost` : "";
  const summary = [`${it.ended}, pid ${it.pid ?? "none"}, ran for ${span(it.lived)}, ${it.ready === null ? "never ready" : `ready for ${span(it.ready)}`}${lost}`];
  const details = made("details", {"data-key": key},
    made("summary", {class: WANTED.includes(it.cause) ? "soft" : "bad"}, `${clock(it.at)}  worker ${it.worker}  ${why}`),
    made("p", {class: "soft"}, ...summary),
    ...dump("Last output", it.output), ...dump("Stacks", it.stacks));
  details.open = open.has(key);
  return details;
}

function dump(title, lines) {
  return lines.length ? [made("p", {class: "soft"}, title), made("pre", {tabindex: "0"}, lines.join("\n"))] : [];
}

function lines(entries) {
  atEnd(log, () => {
    log.append(...entries.map(line));
    while (log.children.length > KEPT_LINES) log.firstElementChild.remove();
  });
}

function line({ts, level, message, exception, lost, ...fields}) {
  if (lost) return made("p", {class: "warning"}, `… ${lost} lines are missing: they arrived too fast`);
  const {output: isOutput, worker} = fields;
  const shown = made("p", {class: `${level}${isOutput ? " output" : ""}`}, made("time", {datetime: ts}, clock(ts)), " ");
  const text = Object.entries(fields).map(([key, value]) => `${key}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(" ");
  shown.append(isOutput ? `${worker} │ ${message}` : `${message} `, isOutput ? "" : made("span", {class: "fields"}, text));
  if (exception) shown.append(made("pre", {}, exception));
  return shown;
}

const SHOWN = {status, deaths, log: lines};
