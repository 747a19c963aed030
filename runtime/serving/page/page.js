"use strict";

/** How many items one request holds: each answer has a vector a token. */
const ITEMS_PER_REQUEST = 4;
/** Rows of the table of times, newest first. */
const MAX_TIMES = 12;
/**
 * Colours of the heat map from least to most alike, as red, green, blue, opacity: what does not
 * match is dimmed, and what does is seen in its own colours with a glow.
 */
const RAMP = [[24, 28, 58, 0.6], [110, 40, 120, 0.45], [240, 110, 50, 0.38], [255, 210, 80, 0.34]];

const byId = (id) => document.getElementById(id);
/** What can be found: {name, text, image (data URI), vectors}. Vectors are null until embedded. */
let documents = [];
/** What is looked for: {name, vectors, tokens}, or null. */
let query = null;
/** The query's token whose heat map is shown; null for all. */
let chosenToken = null;
/** Rises with each change of task, so that answers to older requests are dropped. */
let generation = 0;

function floats(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: raw.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

function dot(a, aStart, b, bStart, width) {
  let sum = 0;
  for (let i = 0; i < width; i += 1) sum += a[aStart + i] * b[bStart + i];
  return sum;
}

/** Late interaction: each query token's best match among the document's tokens, summed. */
function maxSim(left, right) {
  let sum = 0;
  for (let i = 0; i < left.rows; i += 1) {
    let best = -Infinity;
    for (let j = 0; j < right.rows; j += 1) {
      best = Math.max(best, dot(left.multi, i * left.width, right.multi, j * left.width, left.width));
    }
    sum += best;
  }
  return sum;
}

/** Likeness of each patch of an image with the chosen token, or with all on average. */
function patchValues(vectors, image) {
  const rows = chosenToken === null ? [...Array(query.vectors.rows).keys()] : [chosenToken];
  const width = vectors.width;
  return Array.from({ length: image.rows * image.columns }, (_, patch) =>
    rows.reduce((sum, row) => sum + dot(query.vectors.multi, row * width,
      vectors.multi, (image.start + patch) * width, width), 0) / rows.length);
}

function colour(part) {
  const place = part * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[low].map((value, i) => value + (RAMP[low + 1][i] - value) * (place - low));
}

/** Draw an image's likeness to the query; `low` to `high` is the scale of all images. */
function drawHeat(canvas, values, image, [low, high]) {
  canvas.width = image.columns;
  canvas.height = image.rows;
  const range = high - low || 1;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(image.columns, image.rows);
  values.forEach((value, i) => {
    const [red, green, blue, opacity] = colour((value - low) / range);
    pixels.data.set([red, green, blue, opacity * 255], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}

function say(text) { byId("status").textContent = text; }
function fail(text) { byId("failure").textContent = text; }

async function request(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (byId("key").value) headers.Authorization = `Bearer ${byId("key").value}`;
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json();
  if (response.status === 401) byId("key-row").hidden = false;
  if (!response.ok) throw new Error(answer.message || `the server answers ${response.status}`);
  return answer;
}

/** Return the vectors of texts and images, and the times of each request. */
async function embed(items, role) {
  const body = { items, role, task: byId("task").value || null };
  const started = performance.now();
  const answer = await request("/page/embed", body);
  const times = { ...answer.timings, trip: performance.now() - started };
  const vectors = answer.items.map((item) => ({
    ...item, single: floats(item.single), multi: floats(item.multi),
  }));
  return { vectors, times };
}

function addTimes(what, times) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = what;
  row.append(head);
  for (const name of ["prepare", "queue", "engine", "total", "trip", "compare"]) {
    const cell = document.createElement("td");
    cell.textContent = times[name] === undefined ? "" : times[name].toFixed(1);
    row.append(cell);
  }
  const table = byId("times");
  table.prepend(row);
  while (table.children.length > MAX_TIMES) table.lastChild.remove();
  byId("times-section").hidden = false;
}

/** Embed what has no vectors yet, a few at a time. */
async function embedDocuments() {
  const mine = generation;
  while (mine === generation) {
    const waiting = documents.filter((item) => !item.vectors && !item.failed && !item.pending);
    if (!waiting.length) break;
    const some = waiting.slice(0, ITEMS_PER_REQUEST);
    some.forEach((item) => { item.pending = true; });
    say(`Embedding ${waiting.length} of ${documents.length} …`);
    try {
      const { vectors, times } = await embed(some.map(({ text, image }) => ({ text, image })), "passage");
      if (mine !== generation) return;
      some.forEach((item, i) => { item.vectors = vectors[i]; });
      addTimes(some.length === 1 ? some[0].name : `${some.length} items`, times);
    } catch (error) {
      if (mine !== generation) return;
      fail(`${some.map((item) => item.name).join(", ")}: ${error.message}`);
      some.forEach((item) => { item.failed = true; });
    } finally {
      if (mine === generation) some.forEach((item) => { item.pending = false; });
    }
    show();
  }
  if (mine === generation) {
    documents = documents.filter((item) => !item.failed);
    say(documents.length ? `${documents.length} in the collection.` : "");
    show();
  }
}

function add(items) {
  if (!items.length) return;
  documents.push(...items.map((item) => ({ ...item, vectors: null })));
  show();
  embedDocuments();
}

function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ name: file.name || "pasted image", image: reader.result });
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

async function addFiles(list) {
  fail("");
  const images = [...list].filter((file) => file.type.startsWith("image/"));
  if (images.length < list.length) fail("Only images can be added as files.");
  try {
    add(await Promise.all(images.map(readFile)));
  } catch (error) {
    fail(error.message);
  }
}

async function search(event) {
  event.preventDefault();
  fail("");
  const text = byId("query").value;
  if (!text.trim()) { query = null; show(); return; }
  const mine = generation;
  byId("search").disabled = true;
  try {
    const { vectors, times } = await embed([{ text }], "query");
    if (mine !== generation) return;
    query = { name: text, vectors: vectors[0], tokens: vectors[0].tokens };
    chosenToken = null;
    const started = performance.now();
    show();
    addTimes(`query: ${text}`, { ...times, compare: performance.now() - started });
  } catch (error) {
    fail(error.message);
  } finally {
    byId("search").disabled = false;
  }
}

function findAlike(item) {
  query = { name: item.name, vectors: item.vectors, tokens: null, item };
  chosenToken = null;
  byId("query").value = "";
  show();
  byId("results-title").scrollIntoView({ block: "nearest" });
}

/** Scores are compared anew only where the query or the document changed. */
function scores(item) {
  if (!query || !item.vectors) return null;
  if (item.scoredFor !== query) {
    item.scores = {
      multi: maxSim(query.vectors, item.vectors),
      single: dot(query.vectors.single, 0, item.vectors.single, 0, item.vectors.single.length),
    };
    item.scoredFor = query;
  }
  return item.scores;
}

function ranking() { return document.querySelector("input[name=ranking]:checked").value; }

function card(item, rank, by, heat) {
  const node = byId("card").content.cloneNode(true).firstElementChild;
  const found = scores(item);
  node.querySelector(".rank").textContent = found ? rank : "…";
  node.querySelector(".rank").hidden = Boolean(item.vectors) && !query;
  const frame = node.querySelector(".frame");
  if (item.image) {
    const image = new Image();
    image.src = item.image;
    image.alt = item.name;
    frame.append(image);
  } else {
    const quote = document.createElement("blockquote");
    quote.textContent = item.text;
    frame.append(quote);
  }
  node.querySelector(".name").textContent = item.image ? item.name : "";
  node.querySelector(".name").hidden = !item.image;
  node.querySelector(".count").textContent = item.vectors
    ? item.vectors.rows + (item.vectors.truncated ? " (cut)" : "") : "…";
  if (found) {
    node.querySelector(".multi").textContent = found.multi.toFixed(3);
    node.querySelector(".single").textContent = found.single.toFixed(3);
    node.querySelector(`.${by}`).classList.add("by");
    node.dataset.score = found[by];
  }
  showHeat(node, item, frame, heat);
  node.querySelector(".alike").disabled = !item.vectors;
  node.querySelector(".alike").addEventListener("click", () => findAlike(item));
  node.querySelector(".remove").addEventListener("click", () => {
    documents = documents.filter((other) => other !== item);
    show();
  });
  const label = item.image ? item.name : item.text.slice(0, 60);
  node.querySelector(".alike").setAttribute("aria-label", `Find alike: ${label}`);
  node.querySelector(".remove").setAttribute("aria-label", `Remove: ${label}`);
  return node;
}

/** The patches' likeness of each document with an image, and the scale they share. */
function allHeat() {
  const values = new Map();
  if (!query || !byId("heat").checked) return { values, scale: [0, 1] };
  for (const item of documents) {
    const image = item.vectors && item.vectors.images[0];
    if (image) values.set(item, patchValues(item.vectors, image));
  }
  let [low, high] = [Infinity, -Infinity];
  for (const some of values.values()) {
    for (const value of some) { low = Math.min(low, value); high = Math.max(high, value); }
  }
  return { values, scale: [low, high] };
}

function showHeat(node, item, frame, heat) {
  const peak = node.querySelector(".peak");
  const values = heat.values.get(item);
  peak.hidden = true;
  if (!values) return;
  const image = item.vectors.images[0];
  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-hidden", "true");
  canvas.dataset.rows = image.rows;
  canvas.dataset.columns = image.columns;
  drawHeat(canvas, values, image, heat.scale);
  frame.append(canvas);
  const best = values.indexOf(Math.max(...values));
  const row = Math.floor(best / image.columns) + 1;
  const column = (best % image.columns) + 1;
  peak.hidden = false;
  peak.textContent = `Closest patch: row ${row} of ${image.rows}, column ${column} of `
    + `${image.columns} (${values[best].toFixed(2)}; least ${Math.min(...values).toFixed(2)})`;
}

function showTokens() {
  const tokens = query ? query.tokens : null;
  byId("tokens-row").hidden = !query || !byId("heat").checked
    || !documents.some((item) => item.vectors && item.vectors.images.length);
  const button = (label, value) => {
    const node = document.createElement("button");
    node.type = "button";
    node.textContent = label;
    node.setAttribute("aria-pressed", String(chosenToken === value));
    node.addEventListener("click", () => { chosenToken = value; show(); });
    return node;
  };
  const place = [...byId("tokens").children].indexOf(document.activeElement);
  byId("tokens").replaceChildren(
    button("whole query", null),
    ...(tokens || []).map((token, i) => button(token || "·", i)),
  );
  // The buttons are new; the keyboard's place among them is kept.
  if (place >= 0 && byId("tokens").children[place]) byId("tokens").children[place].focus();
}

function show() {
  const by = ranking();
  const order = query
    ? [...documents].sort((a, b) => (scores(b)?.[by] ?? -Infinity) - (scores(a)?.[by] ?? -Infinity))
    : documents;
  byId("results-section").hidden = !documents.length;
  byId("results-title").textContent = query ? `3 · Ranking for “${query.name}”` : "The collection";
  showTokens();
  const heat = allHeat();
  byId("results").replaceChildren(...order.map((item, i) => card(item, i + 1, by, heat)));
}

/** Vectors of another task cannot be compared with those at hand: all are made anew. */
function changeTask() {
  generation += 1;
  query = null;
  documents.forEach((item) => { item.vectors = null; item.pending = false; });
  show();
  embedDocuments();
}

async function showModel() {
  try {
    const model = await (await fetch("/page/model")).json();
    byId("model").textContent = `${model.name} · engine ${model.engine} · ${model.precision}. `
      + "Images and texts go to this server and nowhere else.";
    byId("task").replaceChildren(...model.tasks.map((task) => new Option(task, task)));
    byId("task").value = model.default_task;
  } catch (error) {
    fail(`The server does not say what it serves: ${error.message}`);
  }
}

byId("files").addEventListener("change", (event) => {
  addFiles(event.target.files);
  event.target.value = "";
});
byId("texts-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const lines = byId("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  add(lines.map((text) => ({ name: text, text })));
  byId("texts").value = "";
});
byId("query-form").addEventListener("submit", search);
byId("task").addEventListener("change", changeTask);
byId("heat").addEventListener("change", show);
byId("clear").addEventListener("click", () => { documents = []; query = null; say(""); fail(""); show(); });
document.querySelectorAll("input[name=ranking]").forEach((node) => node.addEventListener("change", show));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  addFiles(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) addFiles(event.clipboardData.files);
});
showModel();
