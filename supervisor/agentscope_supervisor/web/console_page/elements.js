/** Makes elements from values. Text stays text: input from outside is never parsed as markup here. */

export const byId = id => document.getElementById(id);

export function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const isAtEnd = element => element.scrollHeight - element.scrollTop - element.clientHeight < 40;

/** Applies a change to a scrolled element, and keeps it at its end if it was there. */
export function atEnd(element, change) {
  const was = isAtEnd(element);
  change();
  if (was) element.scrollTop = element.scrollHeight;
}

/** Keeps a scrolled element at its end while its content grows, unless the user has scrolled back. */
export function followEnd(element, content) {
  let follows = true, last = 0;
  element.addEventListener("scroll", () => {
    // Only a user scrolls back; the content may have grown since this scroll began.
    if (isAtEnd(element)) follows = true;
    else if (element.scrollTop < last) follows = false;
    last = element.scrollTop;
  }, {passive: true});
  new ResizeObserver(() => { if (follows) element.scrollTop = element.scrollHeight; }).observe(content);
}

export function span(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return s < 86400 ? `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min` : `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

/** Milliseconds as people say them: 340 ms, 2.1 s. */
export const seconds = ms => ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;

export const clock = at => new Date(at).toLocaleTimeString("en-GB");
