"use strict";

const NUMBERS = { first_ms: "first token", ms: "total", tokens: "tokens", speed: "tokens a second" };
const byId = (id) => document.getElementById(id);
const cards = {}; // name of a model → its elements
const results = {}; // name of a model → its last event `end`

/** Makes an element; texts are always text, never HTML. */
function make(tag, name, text = "") {
  const found = document.createElement(tag);
  if (name) found.className = name;
  found.textContent = text;
  return found;
}

function milliseconds(value) {
  return value >= 10000 ? `${(value / 1000).toFixed(1)} s` : `${value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ms`;
}

function addCard({ name, parameters }) {
  const card = make("section", name), head = make("div", "head"), track = make("div", "track"), list = make("dl");
  const title = make("h2", "", name), size = make("span", "quiet", `${parameters.toLocaleString("en")} parameters`);
  const bar = make("div", "bar"), output = make("div", "output"), numbers = {};
  for (const [key, label] of Object.entries(NUMBERS)) {
    const pair = make("div");
    numbers[key] = make("dd", key, "–");
    pair.append(make("dt", "", label), numbers[key]);
    list.append(pair);
  }
  head.append(title, size);
  track.append(bar);
  card.append(head, output, track, list);
  card.setAttribute("aria-label", `${name} model`);
  byId("models").append(card);
  cards[name] = { card, bar, output, numbers };
}

function show({ model, text, tokens, ms, first_ms }) {
  const { output, numbers } = cards[model];
  output.textContent = text;
  numbers.tokens.textContent = tokens;
  numbers.ms.textContent = milliseconds(ms);
  numbers.speed.textContent = ms > 0 ? ((1000 * tokens) / ms).toFixed(tokens / ms >= 0.1 ? 0 : 1) : "–";
  if (first_ms !== undefined) numbers.first_ms.textContent = milliseconds(first_ms);
  else if (tokens === 1) numbers.first_ms.textContent = milliseconds(ms);
}

/** Bars: the longest total time is the whole width. */
function drawBars() {
  const longest = Math.max(...Object.values(results).map((result) => result.ms));
  for (const [name, result] of Object.entries(results)) cards[name].bar.style.width = `${(100 * result.ms) / longest}%`;
}

function compareResults() {
  const { dense, pruned } = results;
  if (!dense || !pruned) return;
  const whole = dense.ms / pruned.ms, token = (dense.ms / dense.tokens) / (pruned.ms / pruned.tokens);
  const same = dense.text === pruned.text ? "The outputs are the same" : "The outputs differ";
  const each = dense.tokens === pruned.tokens ? "" : ` in all, ${token.toFixed(2)}× a token`;
  byId("verdict").textContent = `Speedup: ${whole.toFixed(2)}×${each}. ${same}.`;
}

function receive(event) {
  if (event.event === "error") throw new Error(event.text);
  const { card } = cards[event.model];
  if (event.event === "begin") {
    card.classList.add("working");
    byId("status").textContent = `${event.model} …`;
    return;
  }
  show(event);
  if (event.event === "end") {
    card.classList.remove("working");
    results[event.model] = event;
    drawBars();
    compareResults();
  }
}

function reset() {
  byId("verdict").textContent = "";
  byId("status").className = "";
  byId("status").textContent = "preparing …";
  for (const [name, { card, bar, output, numbers }] of Object.entries(cards)) {
    delete results[name];
    card.classList.remove("working");
    bar.style.width = "0";
    output.textContent = "";
    for (const number of Object.values(numbers)) number.textContent = "–";
  }
}

/** Server-sent events of a POST: blocks `data: JSON`, each with an empty line after it. */
async function readEvents(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) receive(JSON.parse(block.slice("data: ".length)));
  }
}

async function ask() {
  reset();
  byId("go").disabled = true;
  try {
    const body = JSON.stringify({ text: byId("text").value });
    const answer = await fetch("compare", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (!answer.ok) throw new Error((await answer.json()).error);
    await readEvents(answer);
    byId("status").textContent = "done";
  } catch (error) {
    byId("status").className = "error";
    byId("status").textContent = error.message;
    for (const { card } of Object.values(cards)) card.classList.remove("working");
  } finally {
    byId("go").disabled = false;
  }
}

async function start() {
  const said = await (await fetch("models")).json();
  said.models.forEach(addCard);
  byId("about").textContent = `Both models in ${said.engine}, on ${said.device}.`;
  byId("text").maxLength = said.max_characters;
  byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  byId("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !byId("go").disabled) byId("ask").requestSubmit();
  });
}

start();
