// Asks for images, shows the light one while the heavy one is being made, and keeps the last ones in this browser.
import {short} from "/console/charts.js";
import {at, chosen, send, show} from "/console/parts.js";

const KEPT = 60;
const MOST_SEED = 2 ** 31;
const EXPLAINED = {
  light: "light: the light image was good enough",
  direct: "direct: the text is hard, so the prompt went straight to the heavy model",
  escalated: "escalated: the light image was doubtful, so the heavy model made it again",
  degraded: "degraded: the light image, because a heavy one would have been too late",
};

at("form").addEventListener("submit", async event => {
  event.preventDefault();
  const first = at("seed").value === "" ? Math.floor(Math.random() * MOST_SEED) : Number(at("seed").value);
  const body = {prompt: at("prompt").value, size: at("size").value || undefined, quality: at("quality").value};
  if (chosen.name) body.model = chosen.name;
  at("generate").disabled = true;
  show("error", "");
  at("results").replaceChildren();
  try {
    const seeds = Array.from({length: Number(at("number").value)}, (_, index) => first + index);
    const ended = await Promise.allSettled(seeds.map(seed => draw({...body, seed})));
    const failed = ended.find(end => end.status === "rejected");
    if (failed) throw failed.reason;
  } catch (error) {
    show("error", error.message);
  } finally {
    at("generate").disabled = false;
  }
});

async function draw(body) {
  const card = new Card(at("results"), body.prompt);
  try {
    const reply = await send("/v1/images/generations", {
      method: "POST", headers: {"content-type": "application/json"},
      body: JSON.stringify({...body, stream: true, partial_images: 1}),
    });
    for await (const event of events(reply)) {
      if (event.error) throw new Error(event.error.message);
      if (event.type.endsWith("partial_image")) card.preview(event);
      else await keep(card.finish(event, body.seed));
    }
  } catch (error) {
    card.item.remove();
    throw error;
  }
}

// The JSON of each server-sent event of an answer.
async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const data = text.slice(0, end).split("\n").filter(line => line.startsWith("data: ")).map(line => line.slice(6)).join("\n");
      text = text.slice(end + 2);
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// One image with, beside it, the light image that it was made again from.
class Card {
  constructor(list, prompt) {
    this.prompt = prompt;
    this.light = null;
    this.item = document.createElement("li");
    this.pair = Object.assign(document.createElement("div"), {className: "pair single"});
    this.pair.append(Object.assign(document.createElement("span"), {className: "empty", textContent: "being made …"}));
    this.item.append(this.pair);
    list.append(this.item);
  }

  preview(event) {
    this.light = pictureOf(event);
    const waiting = Object.assign(document.createElement("span"), {className: "empty", textContent: "a heavy image is being made …"});
    this.#pair(this.light, waiting);
  }

  finish(event, seed) {
    const made = {...pictureOf(event), prompt: this.prompt, seed, light: this.light, at: Date.now()};
    this.fill(made);
    return made;
  }

  fill(made) {
    this.#pair(made.light, figure(made, this.prompt));
    const list = document.createElement("dl");
    const told = [
      ["Route", EXPLAINED[made.route]], ["Variant", made.variant], ["Hardness", number(made.hardness)],
      ["Confidence", number(made.confidence ?? made.light?.confidence ?? null)],
      ["Time", `${Math.round(made.latency)} ms` + (made.light ? `, the light image after ${Math.round(made.light.latency)} ms` : "")],
      ["Seed", String(made.seed)],
    ];
    for (const [name, text] of told) {
      const value = document.createElement("dd");
      value.dataset.of = name.toLowerCase();
      value.textContent = text;
      list.append(Object.assign(document.createElement("dt"), {textContent: name}), value);
    }
    this.item.append(list);
  }

  #pair(light, right) {
    this.pair.classList.toggle("single", !light);
    this.pair.replaceChildren(...(light ? [figure(light, `${this.prompt}, the light image`)] : []), right);
  }
}

const pictureOf = event => ({
  src: `data:image/${event.output_format};base64,${event.b64_json}`, route: event.route, variant: event.variant,
  hardness: event.hardness, confidence: event.confidence, latency: event.latency_ms,
});
const number = value => value === null || value === undefined ? "–" : short(value);

function figure(picture, alt) {
  const box = document.createElement("figure");
  box.append(Object.assign(document.createElement("img"), {src: picture.src, alt}),
    Object.assign(document.createElement("figcaption"), {textContent: picture.variant}));
  return box;
}

// The gallery, in this browser's own database.
const database = new Promise((resolve, reject) => {
  const opening = indexedDB.open("cascade-gallery", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("images", {keyPath: "id", autoIncrement: true});
  opening.onsuccess = () => resolve(opening.result);
  opening.onerror = () => reject(opening.error);
});

async function within(mode, work) {
  const transaction = (await database).transaction("images", mode);
  const request = work(transaction.objectStore("images"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onerror = () => reject(transaction.error);
  });
}

async function keep(made) {
  await within("readwrite", store => {
    store.add(made);
    store.getAllKeys().onsuccess = event => event.target.result.slice(0, -KEPT).forEach(key => store.delete(key));
  });
  await gallery();
}

async function gallery() {
  const all = await within("readonly", store => store.getAll());
  at("kept").replaceChildren();
  for (const made of all.reverse()) new Card(at("kept"), made.prompt).fill(made);
}

at("forget").addEventListener("click", async () => {
  await within("readwrite", store => store.clear());
  await gallery();
});
gallery();
