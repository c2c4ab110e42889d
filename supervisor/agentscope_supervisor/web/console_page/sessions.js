/** The sessions of the page: their list, what was said in each, and what a reload of the page brings back.
 *
 * The browser keeps the ids of the runs, not their answers: those come again from the instance.
 */
import {byId, made} from "./elements.js";
import {ask} from "./server.js";

const KEPT_SESSIONS = 20, KEPT_TURNS = 50, KEPT_SAID = 4000;  // of the page; turns of each; characters of a message
const STORED = "agentscope-console";

const list = byId("threads"), search = byId("search");
const known = new Map();  // sessions of this page by id, the latest last
let elsewhere = [];  // ids of sessions that the instance knows beside them
let chosen = null;
let onChoose = () => {};

/** Starts the list. `choose`: shows a session. */
export function begin(choose) {
  onChoose = choose;
  for (const {id, turns} of stored()) known.set(id, session(id, turns));
  search.addEventListener("input", draw);
  search.form.addEventListener("submit", event => {
    event.preventDefault();
    const id = search.value.trim();
    if (!id) return;
    search.value = "";
    onChoose(id);
  });
  draw();
}

const session = (id, turns = []) => ({id, turns, element: null, turn: null});

export const latest = () => [...known.keys()].at(-1);

/** The session with this id, which becomes the latest one of the page. */
export function opened(id) {
  const found = known.get(id) ?? session(id);
  known.delete(id);
  known.set(id, found);
  for (const old of [...known.values()].slice(0, -KEPT_SESSIONS)) if (!old.turn) known.delete(old.id);
  chosen = id;
  keep();
  draw();
  return found;
}

/** Remembers a turn: {said, run}. */
export function remember(session, turn) {
  session.turns.push(turn);
  session.turns.splice(0, session.turns.length - KEPT_TURNS);
  keep();
  draw();
}

/** Writes what a reload of the page needs. */
export function keep() {
  const kept = [...known.values()].map(({id, turns}) => ({id, turns: turns.map(({said, run}) => ({said: said.slice(0, KEPT_SAID), run}))}));
  try { sessionStorage.setItem(STORED, JSON.stringify(kept)); } catch { /* storage is off or full: a reload begins anew */ }
}

function stored() {
  try { return JSON.parse(sessionStorage.getItem(STORED)) ?? []; } catch { return []; }
}

/** Reads the sessions that the instance knows. A page that is not signed in yet shows its own. */
export async function refresh() {
  try {
    const {sessions} = await (await ask("sessions")).json();
    elsewhere = sessions.map(each => each.session_id);
  } catch { return; }
  draw();
}

/** Draws the list again, after a change of a session. */
export function draw() {
  const sought = search.value.trim().toLowerCase();
  const fits = each => !sought || each.id.toLowerCase().includes(sought) || each.title.toLowerCase().includes(sought);
  const own = [...known.values()].reverse().map(({id, turns, turn}) => ({id, title: turns[0]?.said ?? "", busy: !!turn}));
  const other = elsewhere.filter(id => !known.has(id)).map(id => ({id, title: "", busy: false}));
  const shown = [...own, ...other].filter(fits).map(line);
  if (sought && ![...own, ...other].some(each => each.id === search.value.trim())) {
    shown.push(made("li", {}, made("button", {type: "submit", class: "thread", form: "find"}, made("span", {}, `Open “${search.value.trim()}”`))));
  }
  list.replaceChildren(...shown);
}

function line({id, title, busy}) {
  const inside = title ? [made("span", {class: "title"}, title.slice(0, 80)), made("span", {class: "soft"}, id)] : [made("span", {class: "title"}, id)];
  const button = made("button", {type: "button", class: "thread", "data-session": id, "aria-current": id === chosen ? "true" : null, title: id, onclick: () => onChoose(id)}, ...inside);
  if (busy) button.append(made("span", {class: "busy", role: "img", "aria-label": "running"}));
  return made("li", {}, button);
}
