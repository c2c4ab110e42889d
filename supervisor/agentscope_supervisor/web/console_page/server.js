/** Requests to the instance, event streams, and error messages for people. */

/** The instance refused the request, or did not answer (status 0). */
export class Failed extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The meaning of each error code. The message of the instance is shown after it. */
const WORDS = {
  WORKER_LOST: "The worker crashed during this turn. A new worker is starting: send the message again.",
  INTERRUPTED: "Stopped.",
  SUPERSEDED: "A newer message replaced this one.",
  SESSION_BUSY: "This session has a running turn. Wait for its end, or stop it.",
  TOO_MANY_REQUESTS: "Too many messages are waiting in this session. Try again in a moment.",
  NOT_READY: "No worker is ready for this session yet. Try again in a few seconds.",
  OVERLOADED: "The instance has reached its limit of open turns. Try again in a moment.",
  DRAINING: "The instance is draining and refuses new turns.",
  TIMEOUT: "The answer took longer than server.request_timeout allows.",
  POISONED: "This message has crashed its worker repeatedly and is refused for a while.",
  APP_ERROR: "The app raised an error. The log has its traceback.",
  UNAUTHORIZED: "Sign in first.",
  NO_ANSWER: "The instance does not answer. Check that it is running.",
};

/** An error as one or two sentences. */
export function inWords(code, message) {
  const words = WORDS[code];
  if (!words) return message || code;
  return code === "INTERRUPTED" || !message || code === "NO_ANSWER" ? words : `${words} (${message})`;
}

/** fetch that throws Failed unless it succeeds. Paths are relative: a proxy may serve the page below a prefix. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {cache: "no-store", ...options});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(0, "NO_ANSWER", "");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Failed(response.status, body?.error?.code ?? `HTTP ${response.status}`, body?.error?.message ?? response.statusText);
}

export function post(path, body, options = {}) {
  return ask(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body), ...options});
}

/** Yields the blocks of a stream of server-sent events: {event, data} or {comment}. */
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
