/** One answer on the page: text, thinking, tool calls with their results, pictures and files, and its end.
 *
 * It takes the content blocks of AgentScope 1.x and 2.x as they arrive, in pieces or whole.
 */
import {made, seconds} from "./elements.js";
import {copier, rendered} from "./markdown.js";

const MOST_SHOWN = 1_000_000;  // characters of one answer; browsers become slow with more
const SHORTEST_PAUSE = 40;  // ms between two pictures of a text that grows
const SHARE = 8;  // at most one part in so many of the time goes into drawing it

/** A text of Markdown that grows. */
class Growing {
  constructor(element) {
    this.element = element;
    this.text = "";
    this.timer = null;
    this.pause = SHORTEST_PAUSE;
  }

  add(more) {
    this.text += more;
    this.timer ??= setTimeout(() => this.draw(), this.pause);
  }

  draw() {
    clearTimeout(this.timer);
    this.timer = null;
    const began = performance.now();
    this.element.replaceChildren(rendered(this.text));
    this.pause = Math.max(SHORTEST_PAUSE, (performance.now() - began) * SHARE);
  }
}

export class Answer {
  /** `calls`: cards of the turn's tool calls by their id. `isLive`: the answer is being made now. */
  constructor(who, worker, calls, isLive) {
    this.body = made("div", {class: "body"});
    this.facts = made("span", {class: "facts"}, worker ? `worker ${worker}` : "");
    this.element = made("article", {class: "said", "aria-busy": "true"}, made("div", {class: "who"}, made("span", {}, who), this.facts), this.body);
    this.worker = worker;
    this.growing = null;  // the text or the thinking that the next piece continues
    this.kind = "";
    this.calls = calls;
    this.isLive = isLive;
    this.chars = 0;
    this.plain = "";  // what the Copy button copies
  }

  /** Shows one content block, which may continue the previous one. */
  add(block) {
    if (this.chars > MOST_SHOWN) return;
    this.chars += (block.text ?? block.thinking ?? JSON.stringify(block)).length;
    if (this.chars > MOST_SHOWN) return this.own("p", {class: "soft"}, "… the rest is too long to show.");
    switch (block.type) {
      case "text": return this.write("text", block.text ?? "");
      case "thinking": return this.write("thinking", block.thinking ?? "");
      case "tool_use": case "tool_call": return this.call(block);
      case "tool_result": return this.result(block);
      default: return media(block, this) || this.fold(String(block.type ?? "block").replaceAll("_", " "), pretty(block));
    }
  }

  write(kind, more) {
    if (this.kind !== kind || !this.growing) {
      this.draw();
      this.kind = kind;
      const inner = made("div", {class: "markdown"});
      if (kind === "text") this.body.append(inner);
      else this.body.append(made("details", {class: "thinking"}, made("summary", {}, "Thinking"), inner));
      this.growing = new Growing(inner);
    }
    if (kind === "text") this.plain += more;
    this.growing.add(more);
  }

  /** A card for a tool call. Its result follows, in this message or in another one. */
  call({id, name, input}) {
    const card = made("details", {class: "tool", "data-state": "running"},
      made("summary", {}, made("span", {class: "mark", "aria-hidden": "true"}), made("b", {}, name ?? "tool"), " ",
        made("span", {class: "soft brief"}, brief(input)), made("span", {class: "soft took"}, "running …")),
      made("p", {class: "soft"}, "Arguments"), made("pre", {tabindex: "0"}, pretty(input)));
    card.began = performance.now();
    if (this.calls.has(id)) this.calls.get(id).replaceWith(card);
    else this.own(card);
    this.calls.set(id, card);
  }

  /** Adds the result to the card of its call. Returns true. */
  result({id, name, output, state}) {
    if (!this.calls.has(id)) this.call({id, name, input: {}});
    const card = this.calls.get(id);
    const text = typeof output === "string" ? output : (output ?? []).map(each => each.text ?? pretty(each)).join("\n");
    const failed = ["error", "denied", "interrupted"].includes(state) || /^\s*Error:/.test(text);
    card.dataset.state = failed ? "failed" : "done";
    const took = card.querySelector(".took");
    if (this.isLive) took.textContent = seconds(performance.now() - card.began);
    else took.textContent = failed ? "failed" : "";
    card.querySelectorAll(".result").forEach(each => each.remove());
    card.append(made("div", {class: "result"}, made("p", {class: failed ? "warn" : "soft"}, failed ? "Error" : "Result"), made("pre", {tabindex: "0"}, text)));
    for (const each of Array.isArray(output) ? output : []) if (each.type !== "text") media(each, this);
    return true;
  }

  fold(title, inside) {
    this.own("details", {}, made("summary", {}, title), made("pre", {tabindex: "0"}, inside));
  }

  /** Appends an element; the next text begins a block of its own. */
  own(element, ...rest) {
    this.draw();
    this.growing = null;
    this.body.append(typeof element === "string" ? made(element, ...rest) : element);
  }

  draw() { if (this.growing?.timer) this.growing.draw(); }

  /** Another message of the same turn follows. */
  pause() {
    this.draw();
    this.element.removeAttribute("aria-busy");
  }

  /** Shows why the answer ended early. */
  error(code, words) {
    this.draw();
    this.element.append(made("p", {class: code === "INTERRUPTED" ? "end soft" : "end warn", "data-code": code}, words));
  }

  /** The answer is complete. `acts`: buttons below it. */
  finish(facts, acts) {
    this.pause();
    for (const card of this.calls.values()) if (card.dataset.state === "running") {
      card.dataset.state = "failed";
      card.querySelector(".took").textContent = "no result";
    }
    this.facts.textContent = [...facts, this.worker ? `worker ${this.worker}` : ""].filter(Boolean).join(" · ");
    this.element.append(made("div", {class: "acts small"}, copier("Copy", () => this.plain), ...acts));
  }
}

/** Shows a picture, a sound, or a file that a block holds. Returns whether it holds one. */
function media(block, answer) {
  const source = block.source ?? block.image_url ?? null;
  if (!source || typeof source !== "object") return false;
  const type = source.media_type ?? `${block.type}/*`;
  const url = source.data ? `data:${type};base64,${source.data}` : source.url ?? "";
  const [kind] = type.split("/");
  if (source.data && kind === "image") answer.own("img", {class: "media", src: url, alt: block.name ?? "image"});
  else if (source.data && (kind === "audio" || kind === "video")) answer.own(kind, {class: "media", src: url, controls: ""});
  else if (source.data) answer.own("p", {}, made("a", {href: url, download: block.name ?? "file"}, `Download ${block.name ?? type}`));
  else if (/^https?:/.test(url)) answer.own("p", {}, made("a", {href: url, target: "_blank", rel: "noopener noreferrer"}, url));
  else return false;
  return true;
}

/** JSON for people; the arguments of a call are a string on AgentScope 2.x. */
function pretty(value) {
  if (typeof value !== "string") return JSON.stringify(value, null, 2) ?? "";
  try { return JSON.stringify(JSON.parse(value), null, 2); } catch { return value; }
}

function brief(input) {
  const text = typeof input === "string" ? input : JSON.stringify(input ?? {});
  return text.length > 80 ? `${text.slice(0, 80)} …` : text;
}
