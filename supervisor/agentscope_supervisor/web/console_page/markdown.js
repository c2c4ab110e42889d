/** Shows Markdown that comes from a model: nobody has checked it, so nothing in it may act.
 *
 * `marked` makes HTML, in which markup from the text is shown as text. DOMPurify removes what could run. The
 * Content-Security-Policy of the page is the third wall. A picture from another server would tell that server
 * what was said, so it becomes a link; a picture inside the message is shown.
 */
import "./dompurify.js";
import {made} from "./elements.js";
import {Marked} from "./marked.js";

const purify = globalThis.DOMPurify;
const RULES = {
  RETURN_DOM_FRAGMENT: true,
  ALLOWED_TAGS: ["a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "img", "input", "li", "ol",
    "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"],
  ALLOWED_ATTR: ["align", "alt", "checked", "class", "disabled", "href", "src", "start", "title", "type"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|data:image\/(?:png|jpeg|gif|webp);base64,)/i,
};

const escaped = text => text.replace(/[&<>"]/g, each => `&#${each.charCodeAt(0)};`);

const parser = new Marked({
  gfm: true,
  breaks: true,  // a model's line break is meant
  renderer: {
    html: ({text}) => escaped(text),
    image: ({href, text}) => href.startsWith("data:") ? `<img src="${escaped(href)}" alt="${escaped(text)}">` : `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
  },
});

/** The nodes that show a text of Markdown. */
export function rendered(text) {
  const shown = purify.sanitize(parser.parse(text), RULES);
  for (const link of shown.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const block of shown.querySelectorAll("pre")) frame(block, "figure", "code", caption(block));
  for (const table of shown.querySelectorAll("table")) frame(table, "div", "wide");
  return shown;
}

/** Puts a new element around one that may be wider than the page, after `before`. */
function frame(element, tag, name, ...before) {
  const around = made(tag, {class: name}, ...before);
  element.replaceWith(around);
  element.tabIndex = 0;  // it scrolls
  around.append(element);
}

/** The language of a block of code, and a button that copies it. */
function caption(block) {
  const language = /language-([\w+#.-]+)/.exec(block.firstElementChild?.className ?? "")?.[1] ?? "";
  return made("figcaption", {}, made("span", {}, language), copier("Copy", () => block.textContent));
}

/** A button that copies a text, and says so. */
export function copier(label, text) {
  const button = made("button", {type: "button", class: "small", onclick: async () => {
    await navigator.clipboard.writeText(text());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  }}, label);
  return button;
}
