"use strict";

const element = (id) => document.getElementById(id);
const TASKS = new Map();
const BEST = 5;
const NEAR = 80;
let underWay = null;

/* Everything that came from a document, a model or a server goes through here, as text. */
function make(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function say(text) {
  element("status").textContent = text;
}

function complain(text) {
  element("error").textContent = text;
  element("error").hidden = text === "";
}

async function fetched(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `longserve serve` still running?");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error || `The server answered with status ${response.status}.`);
  return { body, response };
}

/* Which of the server's models take text, and which question. */
async function findModels() {
  const select = element("model");
  try {
    const { body } = await fetched("/ui/models.json");
    for (const name of body.models) {
      const found = await fetched(`/v2/models/${encodeURIComponent(name)}`).catch(() => null);
      const inputs = found ? found.body.inputs.map((input) => input.name) : [];
      if (inputs.includes("QUESTION")) TASKS.set(name, "question");
      else if (inputs.includes("TEXT")) TASKS.set(name, "labels");
    }
  } catch (error) {
    complain(error.message);
  }
  select.replaceChildren();
  for (const [name, task] of TASKS) {
    const what = task === "question" ? "answers questions" : "labels documents";
    select.append(make("option", `${name} (${what})`, { value: name }));
  }
  if (TASKS.size === 0) {
    select.append(make("option", "no text model is ready", { value: "" }));
    complain("This server has no text model that is ready; see `longserve ready`.");
    return;
  }
  select.disabled = element("ask").disabled = false;
  showTask();
}

function showTask() {
  element("question-field").hidden = TASKS.get(element("model").value) !== "question";
}

function showSize() {
  const characters = [...element("document").value].length;
  element("size").textContent = characters === 0 ? "" : `${characters.toLocaleString("en")} characters.`;
}

async function load(file) {
  if (!file) return;
  complain("");
  try {
    element("document").value = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    say(`${file.name} is in the document field.`);
  } catch {
    complain(`${file.name} is not UTF-8 text. Save it as UTF-8 text first.`);
  }
  showSize();
}

function requestOf(model, text, question) {
  const bytes = (name, value) => ({ name, shape: [1, 1], datatype: "BYTES", data: [value] });
  const inputs = TASKS.get(model) === "question" ? [bytes("QUESTION", question), bytes("CONTEXT", text)] : [bytes("TEXT", text)];
  const parameters = { window_results: true };
  if (TASKS.get(model) === "question") parameters.top_k = BEST;
  return JSON.stringify({ inputs, parameters });
}

/* What the encoder has done so far: runs and milliseconds; null where the server does not say. */
async function encoderWork(model) {
  try {
    const { body } = await fetched(`/v2/models/${encodeURIComponent(model + "_encoder")}/stats`);
    const work = { runs: 0, milliseconds: 0 };
    for (const entry of body.model_stats) {
      for (const batch of entry.batch_stats || []) {
        work.runs += batch.compute_infer.count;
        work.milliseconds += batch.compute_infer.ns / 1e6;
      }
    }
    return work;
  } catch {
    return null;
  }
}

async function ask(event) {
  event.preventDefault();
  const model = element("model").value;
  const text = element("document").value;
  const question = element("question").value;
  if (underWay || element("ask").disabled) return;
  if (text.trim() === "") return missing("document", "Give a document first.");
  if (TASKS.get(model) === "question" && question.trim() === "") return missing("question", "Ask a question first.");
  complain("");
  say("Reading …");
  element("results").hidden = true;
  busy(true);
  underWay = new AbortController();
  try {
    const before = await encoderWork(model);
    const begun = performance.now();
    const { body, response } = await fetched(`/v2/models/${encodeURIComponent(model)}/infer`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: requestOf(model, text, question),
      signal: underWay.signal,
    });
    const total = performance.now() - begun;
    const after = await encoderWork(model);
    show(model, text, outputsOf(body));
    showTimes(total, response.headers.get("Server-Timing"), before, after);
    element("results").focus();
  } catch (error) {
    say("");
    complain(error.name === "AbortError" ? "Cancelled." : error.message);
  } finally {
    underWay = null;
    busy(false);
  }
}

function missing(id, text) {
  complain(text);
  element(id).focus();
}

function busy(yes) {
  element("ask").disabled = yes;
  element("cancel").hidden = !yes;
  element("form").setAttribute("aria-busy", String(yes));
}

function outputsOf(body) {
  const outputs = {};
  for (const output of body.outputs) outputs[output.name] = output.data;
  outputs.windows = JSON.parse(outputs.WINDOW_RESULTS[0]);
  return outputs;
}

function show(model, text, outputs) {
  const characters = [...text]; /* offsets count code points, as Python does */
  const answers = [];
  element("answers").replaceChildren();
  element("labels").replaceChildren();
  if (outputs.ANSWER) {
    for (let index = 0; index < outputs.ANSWER.length; index += 1) {
      if (outputs.START[index] < 0) continue;
      answers.push({ score: outputs.SCORE[index], start: outputs.START[index], end: outputs.END[index] });
    }
    showAnswers(characters, answers);
  } else {
    showLabels(outputs.LABEL, outputs.SCORE);
  }
  const tokens = outputs.TOKENS[0].toLocaleString("en");
  const windows = outputs.WINDOWS[0];
  element("summary").textContent = `Read: ${tokens} tokens in ${windows} window${windows === 1 ? "" : "s"}.`;
  showWindows(characters, outputs.windows);
  element("results").hidden = false;
  element("place-block").hidden = true;
  if (answers.length > 0) place(characters, answers[0].start, answers[0].end, "");
  const best = answers.length > 0 ? characters.slice(answers[0].start, answers[0].end).join("") : (outputs.LABEL || [])[0];
  say(best === undefined ? "The model found no answer." : `Best: ${best}`);
}

function showAnswers(characters, answers) {
  answers.forEach((answer, index) => {
    const item = make("li");
    const button = make("button", undefined, { type: "button", "aria-pressed": String(index === 0) });
    button.append(make("strong", characters.slice(answer.start, answer.end).join("")));
    button.append(make("span", ` ${(100 * answer.score).toFixed(1)} %`, { class: "score" }));
    const near = make("span", undefined, { class: "near" });
    near.append(`… ${characters.slice(Math.max(0, answer.start - NEAR), answer.start).join("")}`);
    near.append(make("mark", characters.slice(answer.start, answer.end).join("")));
    near.append(`${characters.slice(answer.end, answer.end + NEAR).join("")} …`);
    button.append(near);
    button.addEventListener("click", () => {
      for (const other of element("answers").querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", "true");
      place(characters, answer.start, answer.end, "");
    });
    item.append(button);
    element("answers").append(item);
  });
}

function showLabels(labels, scores) {
  const table = make("table");
  table.append(make("caption", "Labels, the best first", { class: "hidden" }));
  const head = make("tr");
  for (const [name, kind] of [["label", ""], ["score", "number"], ["", ""]]) head.append(make("th", name, { scope: "col", class: kind }));
  head.lastChild.append(make("span", "as a bar", { class: "hidden" }));
  const body = make("tbody");
  labels.forEach((label, index) => {
    const row = make("tr");
    row.append(make("th", label, { scope: "row" }));
    row.append(make("td", scores[index].toFixed(4), { class: "number" }));
    const bar = make("td");
    bar.append(make("meter", undefined, { min: 0, max: 1, value: Math.min(1, Math.max(0, scores[index])), "aria-label": label }));
    row.append(bar);
    body.append(row);
  });
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  element("labels").append(table);
}

function showWindows(characters, windows) {
  const body = element("windows").tBodies[0];
  body.replaceChildren();
  windows.forEach((window, index) => {
    const [label, labelScore] = Object.entries(window.scores || {})[0] || [];
    const best = window.answers ? window.answers[0] : { answer: label, score: labelScore };
    const row = make("tr");
    row.append(make("td", String(index + 1)));
    row.append(make("td", `${window.start}–${window.end}`, { class: "number" }));
    row.append(make("td", String(window.tokens), { class: "number" }));
    row.append(make("td", best ? best.answer : "–"));
    row.append(make("td", best ? best.score.toFixed(4) : "–", { class: "number" }));
    const cell = make("td");
    const button = make("button", "show", { type: "button", "aria-label": `show window ${index + 1} in the document` });
    button.addEventListener("click", () => place(characters, window.start, window.end, "window"));
    cell.append(button);
    row.append(cell);
    body.append(row);
  });
}

/* The whole document with one stretch of it marked, scrolled to it. */
function place(characters, start, end, kind) {
  const mark = make("mark", characters.slice(start, end).join(""), kind ? { class: kind } : {});
  element("place").replaceChildren(characters.slice(0, start).join(""), mark, characters.slice(end).join(""));
  element("place-block").hidden = false;
  const box = element("place");
  box.scrollTop += mark.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 3;
}

function showTimes(total, serverTiming, before, after) {
  const rows = [["whole request, seen from this page", total]];
  const step = (name) => {
    const found = new RegExp(`(?:^|,)\\s*${name};dur=([0-9.]+)`).exec(serverTiming || "");
    return found ? Number(found[1]) : null;
  };
  const model = step("model");
  if (model !== null) {
    rows.push(["– between page and gateway", Math.max(0, total - model - (step("gateway") || 0))]);
    rows.push(["– gateway: receive and check", step("gateway") || 0]);
    rows.push(["– models: tokenize, encode, decode, wait", model]);
  }
  let hint = "";
  if (before && after && after.runs > before.runs) {
    const runs = after.runs - before.runs;
    rows.push([`– – of which the encoder computed (${runs} run${runs === 1 ? "" : "s"})`, after.milliseconds - before.milliseconds]);
    hint = "The encoder's time is the server's own count; if others ask at the same moment, theirs is in it.";
  }
  const body = element("times").tBodies[0];
  body.replaceChildren();
  for (const [name, milliseconds] of rows) {
    const row = make("tr");
    row.append(make("td", name), make("td", milliseconds.toFixed(1), { class: "number" }));
    body.append(row);
  }
  element("times-hint").textContent = hint;
}

function start() {
  element("form").addEventListener("submit", ask);
  element("cancel").addEventListener("click", () => underWay && underWay.abort());
  element("model").addEventListener("change", showTask);
  element("document").addEventListener("input", showSize);
  element("file").addEventListener("change", (event) => load(event.target.files[0]));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("form").requestSubmit();
  });
  const drop = element("drop");
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("dropping");
    });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("dropping"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    const file = event.dataTransfer.files[0];
    if (file) load(file);
    else {
      element("document").value = event.dataTransfer.getData("text/plain");
      showSize();
    }
  });
  findModels();
}

start();
