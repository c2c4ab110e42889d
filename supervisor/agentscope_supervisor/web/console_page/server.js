/** What the page asks of the instance: requests, streams of events, and failures in words. */

/** A refusal of the instance, or that there was no answer (status 0). */
export class Failed extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** What each code means to a person; the message of the instance stands beside it. */
const WORDS = {
  WORKER_LOST: "The worker died under this turn. Its replacement is on the way: send the message again.",
  INTERRUPTED: "Stopped.",
  SUPERSEDED: "A newer message took the place of this one.",
  SESSION_BUSY: "This session is answering already. Wait for the end, or stop it.",
  TOO_MANY_REQUESTS: "Too many messages wait in this session. Try again in a moment.",
  NOT_READY: "No worker is ready for this session yet. Try again in a few seconds.",
  OVERLOADED: "The instance has as many turns as it can take. Try again in a moment.",
  DRAINING: "The instance takes no new turns: it drains.",
  TIMEOUT: "The answer took longer than server.request_timeout allows.",
  POISONED: "Messages like this one have killed their worker; it is not tried again for a while.",
  APP_ERROR: "The app raised an error. Its traceback is in the log.",
  UNAUTHORIZED: "The instance wants its token.",
  NO_ANSWER: "The instance does not answer. Is it running?",
};

/** A failure as one sentence or two. */
export function inWords(code, message) {
  const words = WORDS[code];
  if (!words) return message || code;
  return code === "INTERRUPTED" || !message || code === "NO_ANSWER" ? words : `${words} (${message})`;
}

/** fetch, with a Failed for whatever is no success. Paths are relative: a proxy may have put us below a prefix. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {cache: "no-store", ...options});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(0, "NO_ANSWER", "");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Failed(response.status, told?.error?.code ?? `HTTP ${response.status}`, told?.error?.message ?? response.statusText);
}

export function post(path, body, options = {}) {
  return ask(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body), ...options});
}

/** The blocks of a stream of server-sent events: {event, data}, or {comment}. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) yield parsed(block);
  }
}

function parsed(block) {
  const found = {event: "message", data: ""};
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const field = line.slice(0, at), value = line.slice(at + 1).trimStart();
    if (field === "") found.comment = value;
    else found[field] = value;
  }
  return found;
}
