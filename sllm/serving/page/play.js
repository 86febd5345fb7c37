"use strict";
const $ = (id) => document.getElementById(id);
const say = (text) => { $("status").textContent = text; };
let models = [];
let writing = null;  // an AbortController while texts are written
let way = [];        // sentences between two others

function add(parent, tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  parent.append(node);
  return node;
}

async function ask(path, body, signal) {
  const answer = await fetch(path, {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal,
  });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  return answer;
}

// One form after the other: its button waits, and what goes wrong is said.
function on(id, act) {
  $(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = $(id).querySelector("button");
    button.disabled = true;
    say("Working …");
    try { say(await act()); } catch (error) { say(`Error: ${error.message}`); } finally { button.disabled = false; }
  });
}

const bytes = (n) => (n < 1e4 ? `${n} B` : n < 1e7 ? `${(n / 1e3).toFixed(0)} kB` : `${(n / 1e6).toFixed(1)} MB`);

function panel(parent, name) {
  const box = add(parent, "article", undefined, "panel");
  add(box, "h3", name);
  return box;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part.slice("data: ".length));
  }
}

async function write(model, box, signal) {
  const figures = add(box, "p", "waits …", "figures");
  const text = add(box, "div", undefined, "text");
  text.setAttribute("aria-busy", "true");
  add(text, "span", $("prompt").value, "prompt");
  let pending = [];
  const body = {
    model: model.name, prompt: $("prompt").value, max_tokens: Number($("tokens").value),
    temperature: Number($("temperature").value), seed: Number($("seed").value),
  };
  try {
    for await (const told of events(await ask("play/write", body, signal))) {
      if (told.error) throw new Error(told.error);
      if (told.draft) pending.push(...told.draft.map((piece) => add(text, "span", piece, "pending")));
      if (told.tokens) {
        pending.forEach((node) => node.remove());
        pending = [];
        for (const [piece, accepted] of told.tokens) add(text, "span", piece, accepted ? "accepted" : "own");
        for (const piece of told.rejected) add(text, "del", piece, "rejected").setAttribute("aria-hidden", "true");
      }
      if (told.border) add(text, "span", undefined, "border").setAttribute("aria-hidden", "true");
      if (told.count !== undefined) {
        const speed = told.seconds ? told.count / told.seconds : 0;
        figures.textContent = `${told.count} tokens, ${speed.toFixed(1)} tokens/s, cache ${bytes(told.cache_bytes)}`;
      }
      if (told.end) {
        const drafts = told.tokens_per_forward ? `, ${told.tokens_per_forward.toFixed(2)} tokens per pass` : "";
        figures.textContent += `${drafts}, ended by ${told.end}`;
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") add(box, "p", error.message, "error");
  } finally {
    pending.forEach((node) => node.remove());
    text.setAttribute("aria-busy", "false");
  }
}

async function writeAll() {
  writing = new AbortController();
  $("stop").disabled = false;
  $("texts").replaceChildren();
  try {
    const { signal } = writing;
    const all = models.filter((m) => m.writes).map((m) => [m, panel($("texts"), m.name)]);
    if ($("together").checked) await Promise.all(all.map(([model, box]) => write(model, box, signal)));
    else for (const [model, box] of all) if (!signal.aborted) await write(model, box, signal);
    return signal.aborted ? "Stopped." : "All texts are written.";
  } finally {
    $("stop").disabled = true;
  }
}

async function score() {
  const { sentences, models: found } = await (await ask("play/score", { text: $("scored").value })).json();
  const each = Object.values(found).flatMap((of) => of.pieces.flat());
  const most = Math.max(1, ...each.map(([, tokens, bits]) => bits / tokens));
  $("scores").replaceChildren();
  for (const [name, of] of Object.entries(found)) {
    const box = panel($("scores"), name);
    const all = of.bits_per_byte === null ? "no text" : `${of.bits_per_byte.toFixed(3)} bits per byte`;
    add(box, "p", `${all}; the end of the text: ${of.end.toFixed(1)} bits`, "figures");
    const text = add(box, "div", undefined, "text");
    for (const pieces of of.pieces.filter((pieces) => pieces.length)) {
      const sentence = add(text, "span", undefined, "scored");
      let [all, count] = [0, 0];
      for (const [piece, tokens, bits] of pieces) {
        const node = add(sentence, "span", piece, "heat");
        node.style.setProperty("--share", (0.6 * bits / tokens / most).toFixed(3));
        node.title = `${bits.toFixed(1)} bits` + (tokens > 1 ? `, ${tokens} tokens` : "");
        all += bits;
        count += tokens;
      }
      add(sentence, "sub", (all / count).toFixed(1)).title = `${all.toFixed(1)} bits, ${count} tokens`;
    }
  }
  return `${sentences.length} sentences are scored.`;
}

function drawn(parent, numbers, width) {
  const canvas = add(parent, "canvas");
  canvas.width = numbers.length;
  canvas.height = 1;
  const most = Math.max(1e-9, ...numbers.map(Math.abs));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The sentence as a vector of ${width} numbers, up to ${most.toFixed(2)} in size`);
  const context = canvas.getContext("2d");
  numbers.forEach((x, i) => {
    const strength = Math.round(100 * Math.abs(x) / most);
    context.fillStyle = x < 0 ? `hsl(25 90% ${100 - strength / 2}%)` : `hsl(215 90% ${100 - strength / 2}%)`;
    context.fillRect(i, 0, 1, 1);
  });
}

async function rebuild() {
  const body = { model: $("rebuild").querySelector("select").value, text: $("sentence").value };
  const { sentences } = await (await ask("play/rebuild", body)).json();
  $("rebuilt").replaceChildren();
  for (const { text, written, vector, width } of sentences) {
    const box = add($("rebuilt"), "div", undefined, "panel");
    add(box, "p", text);
    drawn(box, vector, width);
    add(box, "p", written, "written");
  }
  return `${sentences.length} ${sentences.length === 1 ? "vector" : "vectors"}, written out again.`;
}

function showPlace() {
  $("between").textContent = way[Number($("place").value)] ?? "";
}

async function move() {
  const body = { model: $("move").querySelector("select").value, one: $("one").value, other: $("other").value, steps: 9 };
  way = (await (await ask("play/move", body)).json()).texts;
  $("place").disabled = false;
  showPlace();
  return "Move the slider from one sentence to the other.";
}

function explainTuning(form) {
  const model = models.find((m) => m.name === form.querySelector("select").value);
  const note = form.querySelector(".tuned");
  note.hidden = !model?.tuned_on;
  note.textContent = "This decoder was trained on, to write the sentence that follows from what the trunk predicts. Of a " +
    "sentence’s own vector it may write something else; the folder of the autoencoder shows what that wrote before.";
}

async function begin() {
  const answer = await (await fetch("play/models")).json();
  models = answer.models;
  $("tokens").max = answer.max_tokens;
  $("served").textContent = models
    .map((m) => `${m.name}: ${m.kind}, ${m.parameters.toLocaleString("en")} parameters`).join("; ");
  const vectors = models.filter((m) => m.rebuilds);
  document.querySelectorAll("[data-vectors]").forEach((section) => { section.hidden = !vectors.length; });
  $("no-vectors").hidden = vectors.length > 0;
  for (const form of [$("rebuild"), $("move")]) {
    const select = form.querySelector("select");
    vectors.forEach((m) => { add(select, "option", m.name).value = m.name; });
    select.addEventListener("change", () => explainTuning(form));
    explainTuning(form);
  }
  on("write", writeAll);
  on("score", score);
  on("rebuild", rebuild);
  on("move", move);
  $("stop").addEventListener("click", () => writing?.abort());
  $("place").addEventListener("input", showPlace);
  $("drafts").addEventListener("change", () => $("texts").classList.toggle("hide-drafts", !$("drafts").checked));
  document.body.dataset.ready = "yes";
}

begin().catch((error) => say(`Error: ${error.message}`));
