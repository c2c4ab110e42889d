/** The chat: sessions, their turns, and answers as they stream in. */
import {atEnd, byId, made} from "./elements.js";
import {events, Failed, inWords, post} from "./server.js";

const KEPT_SESSIONS = 20, KEPT_SAID = 200;  // sessions that the page keeps, and messages of each
const MOST_SHOWN = 1_000_000;  // characters of one answer; browsers become slow with more
const STORED = "agentscope-console-sessions";

const talk = byId("talk"), text = byId("text"), select = byId("session"), stopButton = byId("stop"), sendButton = byId("send");
const other = byId("other");
const sessions = new Map();
let current;
let onRefused = async () => false;

/** Starts the chat. `unauthorized`: asks for the token; resolves to whether the page has one now. */
export function begin(unauthorized) {
  onRefused = unauthorized;
  for (const id of stored()) add(id);
  show(select.options.length ? [...sessions.keys()].at(-1) : fresh());
  byId("compose").addEventListener("submit", event => { event.preventDefault(); send(); });
  text.addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop(); });
  stopButton.addEventListener("click", stop);
  byId("new").addEventListener("click", () => { show(fresh()); text.focus(); });
  select.addEventListener("change", () => {
    if (select.value) return show(select.value);
    select.value = current.id;
    other.showModal();
  });
  other.querySelector("form").addEventListener("submit", event => {
    event.preventDefault();
    show(byId("other-id").value);
    other.close();
    text.focus();
  });
  byId("other-close").addEventListener("click", () => other.close());
}

/** Makes a session the current one. */
export function show(id) {
  current = sessions.get(id) ?? add(id);
  select.value = id;
  talk.replaceChildren(current.element);
  talk.scrollTop = talk.scrollHeight;
  buttons();
}

function fresh() {
  return "console-" + crypto.getRandomValues(new Uint32Array(1))[0].toString(36);
}

function add(id) {
  const session = {id, element: made("div"), turn: null};
  session.element.append(made("p", {class: "soft"}, `Session ${id}. The page shows its messages until you leave; the app keeps the session's memory itself.`));
  sessions.set(id, session);
  for (const old of [...sessions.values()].slice(0, -KEPT_SESSIONS)) if (!old.turn && old !== current) sessions.delete(old.id);
  select.replaceChildren(...[...sessions.keys()].reverse().map(each => made("option", {value: each}, each)), made("option", {value: ""}, "another session …"));
  try { sessionStorage.setItem(STORED, JSON.stringify([...sessions.keys()])); } catch { /* storage is off: the list is not kept */ }
  return session;
}

function stored() {
  try { return JSON.parse(sessionStorage.getItem(STORED)) ?? []; } catch { return []; }
}

function buttons() {
  stopButton.hidden = !current.turn;
  sendButton.hidden = !!current.turn;
}

// -- one turn ---------------------------------------------------------------------------------

async function send() {
  const session = current, said = text.value;
  if (session.turn || !said.trim()) return;
  text.value = "";
  say(session, "you", "mine").write(said);
  const turn = session.turn = {run: null, aborter: new AbortController(), note: null, entry: null, chars: 0};
  turn.note = made("p", {class: "soft"}, "waiting …");
  put(session, turn.note);
  talk.scrollTop = talk.scrollHeight;
  buttons();
  try {
    await stream(session, turn, said);
  } catch (error) {
    if (error.name === "AbortError") end(session, turn, "INTERRUPTED", "");
    else if (error instanceof Failed) end(session, turn, error.code, error.message);
    else end(session, turn, "NO_ANSWER", "The connection was lost.");
    if (error.status === 401 && await onRefused()) text.value ||= said;
  }
  turn.note.remove();
  turn.entry?.element.removeAttribute("aria-busy");
  session.turn = null;
  buttons();
}

async function stream(session, turn, said) {
  const asked = {session_id: session.id, message: {content: said}, stream: true};
  const response = await post("invoke", asked, {signal: turn.aborter.signal});
  turn.run = response.headers.get("X-Run-Id");
  turn.worker = response.headers.get("X-Agentscope-Worker");
  for await (const {data, comment} of events(response)) {
    if (comment?.startsWith("queued")) turn.note.textContent = `${comment.replace("queued", "waiting, turns ahead:")} …`;
    if (!data) continue;
    const message = JSON.parse(data);
    if (message.error) end(session, turn, message.error.code, message.error.message);
    else if (message.metadata?.done) return;
    else take(session, turn, message);
  }
  throw new Failed(0, "NO_ANSWER", "");  // an answer always ends with the done event
}

/** Shows a Msg. It continues the previous one if both are chunks with the same name and role. */
function take(session, turn, message) {
  turn.note.remove();
  const isChunk = message.metadata?.chunk !== false, key = JSON.stringify([message.name, message.role]);
  if (!turn.entry || turn.key !== key || !isChunk || !turn.isChunk) {
    turn.entry?.element.removeAttribute("aria-busy");
    turn.entry = say(session, message.name || message.role, "", turn.worker);
    turn.entry.element.setAttribute("aria-busy", "true");
  }
  Object.assign(turn, {key, isChunk});
  const blocks = typeof message.content === "string" ? [{type: "text", text: message.content}] : message.content ?? [];
  atEnd(talk, () => { for (const block of blocks) block_of(turn, block); });
}

function block_of(turn, block) {
  const shown = block.type === "text" ? block.text ?? "" : JSON.stringify(block, null, 2);
  if (turn.chars > MOST_SHOWN) return;
  turn.chars += shown.length;
  if (turn.chars > MOST_SHOWN) turn.entry.write("\n… the rest is too long to show.");
  else if (block.type === "text") turn.entry.write(shown);
  else turn.entry.fold(`${String(block.type ?? "block").replaceAll("_", " ")} ${block.name ?? ""}`, shown);
}

/** Shows an error below the text received so far. */
function end(session, turn, code, message) {
  turn.entry ??= say(session, "instance", "");
  const kind = code === "INTERRUPTED" ? "end soft" : "end warn";
  atEnd(talk, () => turn.entry.element.append(made("p", {class: kind, "data-code": code}, inWords(code, message))));
}

async function stop() {
  const turn = current.turn;
  if (!turn) return;
  try {
    await post("stop", turn.run ? {run_id: turn.run} : {session_id: current.id});
  } catch {
    turn.aborter.abort();
  }
}

// -- display ------------------------------------------------------------------------------------

function say(session, who, kind, worker) {
  const body = made("div", {class: "body"});
  const from = worker ? made("span", {}, `worker ${worker}`) : "";
  const element = made("article", {class: `said ${kind}`}, made("div", {class: "who"}, made("span", {}, who), from), body);
  put(session, element);
  let node = null;
  return {
    element,
    write(more) {
      if (!node) body.append(node = document.createTextNode(""));
      node.appendData(more);
    },
    fold(title, inside) {
      node = null;
      body.append(made("details", {}, made("summary", {}, title), made("pre", {}, inside)));
    },
  };
}

function put(session, element) {
  atEnd(talk, () => {
    session.element.append(element);
    if (session.element.children.length > KEPT_SAID) session.element.firstElementChild.remove();
  });
}
