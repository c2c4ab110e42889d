// Shows openapi.json and sends requests. All texts enter the page as text, never as HTML.

const SHOWN = 200_000; // characters of a response

const $ = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function authorization() {
  const token = $("token").value;
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function load() {
  $("problem").textContent = "";
  const response = await fetch("/openapi.json", { headers: authorization() });
  if (!response.ok) {
    $("problem").textContent = (await response.json()).error.message;
    return;
  }
  const api = await response.json();
  $("title").textContent = `${api.info.title} ${api.info.version}`;
  $("about").textContent = api.info.description;
  const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => shown(api, path, method.toUpperCase(), operation)));
  $("operations").replaceChildren(...operations);
  const shapes = Object.entries(api.components.schemas).map(([name, schema]) =>
    element("details", { id: `shape-${name}` }, element("summary", { textContent: name }),
      element("pre", { textContent: JSON.stringify(schema, null, 2) })));
  $("shapes").replaceChildren(...shapes);
}

function shown(api, path, method, operation) {
  const parameters = (operation.parameters ?? []).map((each) => ({ ...each, input: element("input", {
    name: each.name, ariaLabel: each.name, placeholder: each.schema.default ?? "" }) }));
  const content = operation.requestBody?.content["application/json"];
  const schema = content && resolved(api, content.schema);
  const body = content && element("textarea", { name: "body", ariaLabel: "body", spellcheck: false,
    value: JSON.stringify(schema.examples?.[0] ?? {}, null, 2) });
  const parts = [element("p", { textContent: operation.description })];
  if (parameters.length) parts.push(tableOf(["parameter", "in", "meaning", "value"], parameters.map((each) =>
    [each.name, each.in, each.description, each.input])));
  if (body) parts.push(element("p", {}, "Body: ", reference(content.schema)), body);
  parts.push(...trial(path, method, parameters, body));
  parts.push(tableOf(["status", "meaning", "body"], Object.entries(operation.responses).map(([status, each]) =>
    [status, each.description, element("span", {}, ...Object.entries(each.content ?? {}).flatMap(([kind, form]) =>
      [`${kind} `, reference(form.schema), " "]))])));
  return element("details", { id: operation.operationId },
    element("summary", {}, element("b", { textContent: method }), element("code", { textContent: path }),
      ` ${operation.summary}`), ...parts);
}

function trial(path, method, parameters, body) {
  const send = element("button", { type: "button", textContent: "Send" });
  const stop = element("button", { type: "button", textContent: "Cancel", disabled: true });
  const curl = element("pre", { className: "curl" });
  const answer = element("pre", { className: "answer", hidden: true });
  const update = () => { curl.textContent = curlOf(requestOf(path, method, parameters, body)); };
  for (const input of [...parameters.map((each) => each.input), ...(body ? [body] : [])])
    input.addEventListener("input", update);
  update();
  let canceller = null;
  stop.addEventListener("click", () => canceller?.abort());
  send.addEventListener("click", async () => {
    canceller = new AbortController();
    [send.disabled, stop.disabled, answer.hidden] = [true, false, false];
    answer.textContent = "";
    try {
      await show(requestOf(path, method, parameters, body), canceller.signal, answer);
    } catch (error) {
      answer.append(`\n${error.name}: ${error.message}`);
    } finally {
      [send.disabled, stop.disabled] = [false, true];
    }
  });
  return [curl, send, stop, answer];
}

function requestOf(path, method, parameters, body) {
  const given = parameters.filter((each) => each.input.value !== "");
  const query = new URLSearchParams(given.filter((each) => each.in === "query")
    .map((each) => [each.name, each.input.value]));
  const headers = Object.fromEntries(given.filter((each) => each.in === "header")
    .map((each) => [each.name, each.input.value]));
  let url = path;
  for (const each of given.filter((each) => each.in === "path"))
    url = url.replace(`{${each.name}}`, encodeURIComponent(each.input.value));
  if (`${query}`) url += `?${query}`;
  if (body) headers["Content-Type"] = "application/json";
  return { url, method, headers, body: body?.value };
}

function curlOf({ url, method, headers, body }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = [`curl -N -X ${method} ${quoted(location.origin + url)}`];
  for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quoted(`${name}: ${value}`)}`);
  if ($("token").value) parts.push(`-H ${quoted("Authorization: Bearer …")}`);
  if (body) parts.push(`-d ${quoted(body)}`);
  return parts.join(" \\\n  ");
}

async function show({ url, method, headers, body }, signal, answer) {
  const response = await fetch(url, { method, body, signal, headers: { ...headers, ...authorization() } });
  const lines = [...response.headers].map(([name, value]) => `${name}: ${value}`);
  answer.textContent = `${response.status} ${response.statusText}\n${lines.join("\n")}\n\n`;
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let left = SHOWN; left > 0;) {
    const { done, value } = await reader.read();
    if (done) return;
    answer.append(value.slice(0, left));
    left -= value.length;
    answer.scrollTop = answer.scrollHeight;
  }
  answer.append("\n… the rest is not shown");
  await reader.cancel();
}

function tableOf(heads, rows) {
  return element("table", {},
    element("tr", {}, ...heads.map((each) => element("th", { textContent: each }))),
    ...rows.map((row) => element("tr", {}, ...row.map((each) => element("td", {}, each)))));
}

function nameOf(schema) {
  return schema?.$ref?.split("/").pop();
}

function resolved(api, schema) {
  return nameOf(schema) ? api.components.schemas[nameOf(schema)] : schema;
}

function reference(schema) {
  const name = nameOf(schema);
  if (!name) return element("code", { textContent: schema?.type ?? "" });
  const link = element("a", { href: `#shape-${name}`, textContent: name });
  link.addEventListener("click", () => { $(`shape-${name}`).open = true; });
  return link;
}

$("load").addEventListener("click", load);
$("token").addEventListener("keydown", (event) => { if (event.key === "Enter") load(); });
load();
