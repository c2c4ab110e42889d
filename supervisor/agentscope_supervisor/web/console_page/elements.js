/** Makes elements from values. Text stays text: input from outside is never parsed as markup. */

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

/** Applies a change to a scrolled element, and keeps it at its end if it was there. */
export function atEnd(element, change) {
  const was = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  change();
  if (was) element.scrollTop = element.scrollHeight;
}

export function span(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return s < 86400 ? `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min` : `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

export const clock = at => new Date(at).toLocaleTimeString("en-GB");
