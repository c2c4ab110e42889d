/** The chat: turns of a session, and answers as they stream in. */
import {Answer} from "./answer.js";
import {atEnd, byId, clock, followEnd, made, seconds} from "./elements.js";
import {copier} from "./markdown.js";
import {ask, events, Failed, inWords, post} from "./server.js";
import * as sessions from "./sessions.js";

const talk = byId("talk"), text = byId("text"), stopButton = byId("stop"), sendButton = byId("send");
const FRESH = "console-";  // how the ids of the page's own sessions begin
const KEPT_SAID = 200;  // messages and answers that the page shows of a session
let current = null;
let onRefused = async () => false;

/** Starts the chat. `unauthorized`: asks for the token; resolves to whether the page has one now. */
export function begin(unauthorized) {
  onRefused = unauthorized;
  sessions.begin(id => { show(id); text.focus(); });
  show(sessions.latest() ?? fresh());
  sessions.refresh();
  followEnd(talk, byId("said"));
  byId("aside").open = matchMedia("(min-width: 861px)").matches;
  byId("compose").addEventListener("submit", event => { event.preventDefault(); send(text.value); });
  text.addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(text.value); }
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop(); });
  stopButton.addEventListener("click", stop);
  byId("new").addEventListener("click", () => { show(fresh()); text.focus(); });
}

/** Makes a session the current one, and brings back what was said in it before the page was loaded. */
export function show(id) {
  current = sessions.opened(id);
  byId("session").textContent = id;
  if (!current.element) {
    current.element = made("div");
    bringBack(current);
  }
  byId("said").replaceChildren(current.element);
  talk.scrollTop = talk.scrollHeight;
  buttons();
}

function fresh() {
  return FRESH + crypto.getRandomValues(new Uint32Array(1))[0].toString(36);
}

function buttons() {
  stopButton.hidden = !current.turn;
  sendButton.hidden = !!current.turn;
}

// -- turns ----------------------------------------------------------------------------------------

/** Sends a message in the current session and shows the answer. */
async function send(said) {
  const session = current;
  if (session.turn || !said.trim()) return;
  text.value = "";
  const kept = {said, run: null};
  const done = await turn(session, said, async state => {
    // With a key, a turn goes on for 10 s while the page is loaded again.
    const headers = {"Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID?.() ?? `${performance.now()}-${Math.random()}`};
    const response = await post("invoke", request(session, said), {signal: state.aborter.signal, headers});
    kept.run = response.headers.get("X-Run-Id");
    sessions.remember(session, kept);
    return response;
  });
  if (done === 401 && await onRefused()) text.value ||= said;
  sessions.refresh();
}

const request = (session, said) => ({session_id: session.id, message: {content: said}, stream: true});

/** Shows again what was said in a session: the turns that this browser has begun, else what the instance keeps. */
async function bringBack(session) {
  if (!session.turns.length) return session.id.startsWith(FRESH) ? undefined : answers(session);
  for (const {said, run} of session.turns) {
    await turn(session, said, state => {
      state.run = run;
      return ask(`runs/${run}/events`, {signal: state.aborter.signal});
    }, true);
  }
}

/** Shows the answers that the instance keeps of another client's session. It does not keep the messages. */
async function answers(session) {
  let runs;
  try {
    ({runs} = await (await ask(`sessions/${encodeURIComponent(session.id)}/messages`)).json());
  } catch { return; }  // it has no runs, or this browser may not read them
  for (const {messages, worker, started_at: at, error} of runs) {
    const state = {calls: new Map(), note: {remove() {}}, worker, again: true};
    for (const message of messages ?? []) take(session, state, message);
    if (error) end(session, state, error.code, error.message);
    state.answer?.finish([clock(at)], []);
  }
}

/** Shows a message and the answer to it. `asked`: returns the response to show. `again`: the run may be over.
 * Returns the HTTP status of a refusal, or 0. */
async function turn(session, said, asked, again = false) {
  const state = session.turn = {run: null, aborter: new AbortController(), note: null, answer: null, calls: new Map(), began: performance.now(), facts: [], again};
  put(session, mine(session, said));
  state.note = made("p", {class: "soft"}, again ? "reading …" : "waiting …");
  put(session, state.note);
  if (session === current) buttons();
  let status = 0;
  try {
    await read(session, state, await asked(state));
  } catch (error) {
    status = error.status ?? 0;
    if (error.name === "AbortError") end(session, state, "INTERRUPTED", "");
    else if (again && (status === 410 || status === 404)) end(session, state, "GONE", "");
    else if (error instanceof Failed) end(session, state, error.code, error.message);
    else end(session, state, "NO_ANSWER", "The connection was lost.");
  }
  state.note.remove();
  const took = again ? "" : seconds(performance.now() - state.began);
  state.answer?.finish([took, ...state.facts], again && status ? [] : acts(session, said));
  session.turn = null;
  sessions.draw();
  if (session === current) buttons();
  return status;
}

async function read(session, state, response) {
  state.run = response.headers.get("X-Run-Id");
  state.worker = response.headers.get("X-Agentscope-Worker");
  for await (const {data, comment} of events(response)) {
    if (comment?.startsWith("queued")) state.note.textContent = `${comment.replace("queued", "waiting, turns ahead:")} …`;
    if (!data) continue;
    const message = JSON.parse(data);
    if (message.error?.code) end(session, state, message.error.code, message.error.message);
    else if (message.metadata?.done) return void (state.facts = factsOf(message.metadata));
    else take(session, state, message);
  }
  throw new Failed(0, "NO_ANSWER", "");  // an answer always ends with the done event
}

/** What the done event says about the turn, for people. */
function factsOf({usage}) {
  if (!usage) return [];
  const {input_tokens: taken, output_tokens: given, models} = usage;
  return [models.map(each => each.model).join(", "), `${taken} → ${given} tokens`];
}

/** Shows a Msg. It continues the previous one if both are chunks with the same name and role. */
function take(session, state, message) {
  state.note.remove();
  const isChunk = message.metadata?.chunk !== false, key = JSON.stringify([message.name, message.role]);
  const blocks = typeof message.content === "string" ? [{type: "text", text: message.content}] : message.content ?? [];
  const rest = blocks.filter(block => !(block.type === "tool_result" && state.calls.has(block.id) && state.answer?.result(block)));
  if (!rest.length) return;  // 1.x sends the results of tools as messages of the system
  if (!state.answer || state.key !== key || !isChunk || !state.isChunk) {
    state.answer?.pause();
    begun(session, state, message.name || message.role);
  }
  Object.assign(state, {key, isChunk});
  for (const block of rest) state.answer.add(block);
}

function begun(session, state, who) {
  state.answer = new Answer(who, state.worker, state.calls, !state.again);
  put(session, state.answer.element);
}

/** Shows an error below the text received so far. */
function end(session, state, code, message) {
  if (!state.answer) begun(session, state, "instance");
  state.answer.error(code, code === "GONE" ? "The instance does not keep this answer any more." : inWords(code, message));
}

async function stop() {
  const state = current.turn;
  if (!state) return;
  try {
    await post("stop", state.run ? {run_id: state.run} : {session_id: current.id});
  } catch {
    state.aborter.abort();
  }
}

// -- display ------------------------------------------------------------------------------------

function mine(session, said) {
  const edit = made("button", {type: "button", class: "small", onclick: () => { text.value = said; text.focus(); }}, "Edit");
  return made("article", {class: "said mine"}, made("div", {class: "who"}, made("span", {}, "you")), made("div", {class: "body plain"}, said),
    made("div", {class: "acts small"}, copier("Copy", () => said), edit));
}

/** The buttons below an answer. */
function acts(session, said) {
  const body = JSON.stringify(request(session, said));
  const url = new URL("invoke", location.href).href;
  const retry = made("button", {type: "button", class: "small", onclick: () => { if (session === current) send(said); }}, "Retry");
  return [retry, copier("Copy as curl", () => curl(url, body)), copier("Copy as Python", () => python(url, session, said))];
}

function curl(url, body) {
  const quoted = each => `'${each.replaceAll("'", "'\\''")}'`;
  return `curl -N ${quoted(url)} -H 'Content-Type: application/json' \\\n  -d ${quoted(body)}`;
}

function python(url, session, said) {
  return `import json, urllib.request

body = {"session_id": ${JSON.stringify(session.id)}, "message": {"content": ${JSON.stringify(said)}}, "stream": False}
request = urllib.request.Request(
    ${JSON.stringify(url)}, json.dumps(body).encode(), {"Content-Type": "application/json"}
)
with urllib.request.urlopen(request) as response:
    for message in json.load(response)["messages"]:
        print(message["content"])
`;
}

function put(session, element) {
  atEnd(talk, () => {
    session.element.append(element);
    if (session.element.children.length > KEPT_SAID) session.element.firstElementChild.remove();
  });
}
