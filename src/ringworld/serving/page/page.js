// The page of a server: it asks what any client asks, and shows what comes as text, never as markup.

const at = (id) => document.getElementById(id);
const shown = {
  messages: [], attached: [], used: 0, context: 1, model: "", answering: null, drawing: null,
  memory: null, before: [],  // What is reopened, and its turns, which the server puts before ours.
};

async function call(path, body, options = {}) {
  const headers = at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const method = options.method ?? (body === undefined ? "GET" : "POST");
  const sent = { method, headers, signal: options.signal };
  if (body !== undefined) sent.body = JSON.stringify(body);
  const response = await fetch(path, sent);
  if (response.ok) return response;
  if (response.status === 401) at("access").open = true;
  const told = await response.json().catch(() => null);
  throw new Error(told?.error?.message ?? `the server answered ${response.status}`);
}

/** Yield the data of each event of a stream, whatever the chunks are in which it comes. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (rest + value).split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const line = event.split("\n").find((each) => each.startsWith("data: "));
      if (line === undefined || line === "data: [DONE]") continue;
      const data = JSON.parse(line.slice(6));
      if (data.error) throw new Error(data.error.message);
      yield data;
    }
  }
}

function say(text) { at("status").textContent = text; }

function complain(error) {
  at("problem").hidden = !error;
  at("problem").textContent = error ? String(error.message ?? error) : "";
}

/** Let one button be pressed in place of another, with the focus where it was there: none stays on what is disabled. */
function swap(from, to) {
  at(to).disabled = false;
  if (document.activeElement === at(from)) at(to).focus();
  at(from).disabled = true;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function begin() {
  try {
    const { data: [model] } = await (await call("v1/models")).json();
    Object.assign(shown, { model: model.id, context: model.max_model_len, sees: model.vision });
    at("model").textContent = model.id;
    if (at("access").contains(document.activeElement)) at("question").focus();
    at("access").open = false;
    at("show-draw").hidden = !model.vision;
    if (model.vision) at("frames").value = model.vision.max_frames;
    for (const id of ["may-hold", "may-guide", "may-watch"]) at(id).hidden = !model.vision;
    at("memories").hidden = !model.memories;
    if (model.memories) await listMemories();
    complain(null);
    await measure();
  } catch (error) { complain(error); }
}

async function count(text) {
  return text ? (await (await call("tokenize", { prompt: text, add_special_tokens: false })).json()).count : 0;
}

let measured = 0;
async function measure() {
  const turn = ++measured;
  let draft;
  try { draft = await count(at("question").value.trim()); } catch { return; }  // The question itself will say what is wrong.
  if (turn !== measured) return;
  const tokens = shown.used + draft + shown.attached.reduce((sum, each) => sum + each.tokens, 0);
  at("context").max = shown.context;
  at("context").high = 0.9 * shown.context;
  at("context").value = Math.min(tokens, shown.context);
  at("count").textContent = `${tokens.toLocaleString()} of ${shown.context.toLocaleString()} tokens`;
}

/** Return how films are watched, as a part of a request. */
const watching = () => at("watched").value ? { max_frames: Number(at("watched").value) } : {};

/** Return the tokens of a picture or a film. */
async function weigh(part) {
  const [seen, blank] = await Promise.all([[{ type: "text", text: "." }, part], "."].map(async (content) =>
    (await (await call("tokenize", { messages: [{ role: "user", content }], ...watching() })).json()).count));
  return seen - blank;
}

/** Count again what was counted with another number of frames. */
async function reweigh() {
  complain(null);
  try {
    for (const each of shown.attached) if (each.part) each.tokens = await weigh(each.part);
    if (shown.messages.length) await recount();
    await measure();
  } catch (error) { complain(error); }
}

const documents = () => shown.attached.filter((each) => each.text !== undefined).map((each) => each.text);

function asDataAddress(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

/** Return what a file of UTF-8 says; undefined of any other, as the server decides. */
async function asText(file) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? undefined : text;
  } catch (error) {
    if (error instanceof TypeError) return undefined;
    throw error;
  }
}

async function attach(file) {
  say(`Reading ${file.name}`);
  const kind = file.type.split("/")[0];
  const each = { name: file.name, tokens: 0 };
  const isPicture = kind === "image" || kind === "video";
  if (!isPicture) each.text = await asText(file);
  if (each.text !== undefined) {
    each.tokens = await count(each.text);  // Once: a book is long, and asked about often.
  } else {
    if (!shown.sees) throw new Error(`${shown.model} is a model of text alone, which sees no ${isPicture ? kind : "other file"}`);
    const url = await asDataAddress(file);
    // What a browser has no type for, such as a Matroska film, the server knows by what is inside.
    each.part = isPicture ? { type: `${kind}_url`, [`${kind}_url`]: { url } } : { type: "file", file: { file_data: url } };
    each.tokens = await weigh(each.part);
    each.strip = await strip(file, kind);
  }
  shown.attached.push(each);
  showAttached();
  say(`${file.name} is attached`);
  await measure();
}

/** Return pictures of a file: itself, or some frames over the length of a film. */
async function strip(file, kind) {
  const url = URL.createObjectURL(file);
  const made = element("div", { className: "strip" });
  if (kind === "image") {
    made.append(element("img", { src: url, alt: file.name }));
    return made;
  }
  const film = element("video", { src: url, muted: true, preload: "auto" });
  const seek = (seconds) => new Promise((resolve, reject) => {
    film.onseeked = resolve;
    film.onerror = reject;
    film.currentTime = seconds;
  });
  try {
    await new Promise((resolve, reject) => { film.onloadeddata = resolve; film.onerror = reject; });
    for (let i = 0; i < 8; i++) {
      await seek((i + 0.5) / 8 * film.duration);
      const height = 64, width = Math.max(1, Math.round(height * film.videoWidth / film.videoHeight));
      const canvas = element("canvas", { width, height });
      canvas.getContext("2d").drawImage(film, 0, 0, width, height);
      made.append(canvas);
    }
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", `Eight frames of ${file.name}`);
  } catch { made.append(`${file.name} (this browser cannot show it)`); } finally { URL.revokeObjectURL(url); }
  return made;
}

function showAttached() {
  at("attached").replaceChildren(...shown.attached.map((each) => element("li", {},
    each.strip ?? "", `${each.name} `,
    element("button", {
      type: "button", textContent: "Remove", ariaLabel: `Remove ${each.name}`,
      onclick: () => {
        shown.attached = shown.attached.filter((other) => other !== each);
        showAttached();
        at("question").focus();
        measure();
      },
    }))));
}

async function attachAll(files) {
  complain(null);
  for (const file of files) {
    try { await attach(file); } catch (error) { complain(`${file.name}: ${error.message}`); say(""); }
  }
}

/** Change what is shown, and keep the end in view where it was; whoever reads further up is left there. */
function follow(change) {
  const page = document.documentElement;
  const wasAtEnd = page.scrollHeight - page.clientHeight - page.scrollTop < 40;
  change();
  if (wasAtEnd) toEnd();
}

function toEnd() { document.documentElement.scrollTop = document.documentElement.scrollHeight; }

function turn(role, text, pictures = []) {
  const item = element("li", { className: role },
    element("span", { className: "who", textContent: role === "user" ? "You" : shown.model }),
    ...pictures, element("span", { textContent: text }));
  at("log").append(item);
  toEnd();
  return item;
}

/** Return an image or a video of an answer, as it stands in a message. */
function picture({ type, [type]: { url } }) {
  if (type === "image_url") return element("img", { src: url, alt: "An image of the answer" });
  const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  const src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  return element("video", { src, controls: true, loop: true, ariaLabel: "A video of the answer" });
}

async function ask(event) {
  event.preventDefault();
  const question = at("question").value.trim();
  if (shown.answering || !(question || shown.attached.length)) return;
  complain(null);
  const attached = shown.attached, parts = attached.filter((each) => each.part).map((each) => each.part);
  const text = [...documents(), question].join("\n\n");
  const asked = { role: "user", content: parts.length ? [{ type: "text", text }, ...parts] : text };
  const names = attached.filter((each) => !each.strip).map((each) => `[${each.name}] `).join("");
  const mine = turn("user", names + question, attached.map((each) => each.strip).filter(Boolean));
  const answer = turn("assistant", "");
  shown.attached = [];
  at("question").value = "";
  showAttached();
  shown.answering = new AbortController();
  at("log").ariaBusy = "true";
  swap("send", "stop");
  say("Reading");
  const messages = shown.messages;
  let counted = Promise.resolve(), saying = null;
  const written = [];  // Texts and what was drawn between them.
  const isShown = () => shown.messages === messages;  // Until another conversation begins.
  const settled = () => {
    if (!isShown()) return;
    const content = written.every((each) => each.text) ? written.map((each) => each.text).join("") : written;
    messages.push(asked, { role: "assistant", content });
    at("export").disabled = at("keep").disabled = false;
  };
  try {
    const body = {
      model: shown.model, messages: [...messages, asked], stream: true,
      stream_options: { include_usage: true }, ...watching(),
    };
    if (shown.memory) body.memory = shown.memory;
    if (at("modalities").value !== "text") body.modalities = at("modalities").value.split(" ");
    if (at("clip-guidance").value) body.guidance_scale = Number(at("clip-guidance").value);
    if (at("tokens").value) body.max_tokens = Number(at("tokens").value);
    if (at("temperature").value) body.temperature = Number(at("temperature").value);
    if (at("seed").value) body.seed = Number(at("seed").value);
    const response = await call("v1/chat/completions", body, { signal: shown.answering.signal });
    for await (const { choices: [choice], usage } of events(response)) {
      if (usage && isShown()) shown.used = usage.total_tokens;
      for (const part of [...(choice?.delta?.images ?? []), ...(choice?.delta?.videos ?? [])]) {
        written.push(part);
        saying = null;
        follow(() => answer.append(picture(part)));
      }
      if (!choice?.delta?.content) continue;
      if (!written.length) say("Answering");
      if (!saying) {
        saying = element("span");
        answer.append(saying);
        written.push({ type: "text", text: "" });
      }
      written.at(-1).text += choice.delta.content;
      follow(() => { saying.textContent = written.at(-1).text; });
    }
    settled();
    say("");
  } catch (error) {
    if (!isShown()) return;
    if (error.name === "AbortError" && written.length) {
      settled();
      say("Stopped");
      counted = recount();
    } else {
      mine.remove();
      answer.remove();
      shown.attached = attached;
      at("question").value = question;
      showAttached();
      say(error.name === "AbortError" ? "Stopped" : "");
      if (error.name !== "AbortError") complain(error);
    }
  } finally {
    shown.answering = null;
    at("log").ariaBusy = "false";
    swap("stop", "send");
    counted.then(measure, measure);
  }
}

/** Count the tokens of the conversation, of which a stream that was stopped says none. */
async function recount() {
  const { messages, memory } = shown;
  const { count } = await (await call("tokenize", { messages, memory, ...watching() })).json();
  if (shown.messages === messages) shown.used = count;
}

function save(name, content) {
  const url = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function fresh() {
  shown.answering?.abort();
  Object.assign(shown, { messages: [], attached: [], used: 0, memory: null, before: [] });
  at("log").replaceChildren();
  at("export").disabled = at("keep").disabled = true;
  showAttached();
  complain(null);
  say("A new conversation");
  at("question").focus();
  measure();
}

/** Return what a message holds, in order. */
const partsOf = (content) => typeof content === "string" ? [{ type: "text", text: content }] : content;

const named = ({ type, frames }) => type === "image" ? "[image]" : `[video of ${frames} frames]`;

async function listMemories() {
  const { data } = await (await call("v1/memories")).json();
  at("kept").replaceChildren(...data.map((each) => element("li", {},
    `${each.name} (${each.tokens.toLocaleString()} tokens) `,
    ...[["Reopen", reopen], ["Delete", forget]].map(([does, action]) => element("button", {
      type: "button", textContent: does, ariaLabel: `${does} ${each.name}`,
      onclick: () => action(each).catch((error) => { complain(error); say(""); }),
    })))));
}

async function keep() {
  if (at("keep").ariaDisabled === "true") return;
  complain(null);
  say("Keeping");
  at("keep").ariaDisabled = "true";  // A button that is disabled loses the focus.
  try {
    const first = [...shown.before, ...shown.messages].find((each) => each.role === "user").content;
    const question = partsOf(first).find((each) => each.text)?.text ?? "";
    const name = at("memory-name").value.trim() || question.slice(0, 80);
    const body = { model: shown.model, messages: shown.messages, name, ...watching() };
    if (shown.memory) body.memory = shown.memory;
    const kept = await (await call("v1/memories", body)).json();
    await listMemories();
    say(`Kept ${kept.tokens.toLocaleString()} tokens`);
  } catch (error) {
    complain(error);
    say("");
  } finally { at("keep").ariaDisabled = "false"; }
}

async function reopen({ id, name }) {
  const memory = await (await call(`v1/memories/${id}`)).json();
  fresh();
  Object.assign(shown, { memory: id, used: memory.tokens, before: memory.messages });
  for (const { role, content } of memory.messages) {
    if (role !== "system") turn(role, partsOf(content).map((each) => each.text ?? named(each)).join("\n"));
  }
  at("export").disabled = false;
  at("memories").open = false;  // On a phone it would hide the turns.
  say(`Reopened ${name}`);
  await measure();
}

async function forget({ id, name }) {
  await call(`v1/memories/${id}`, undefined, { method: "DELETE" });
  if (shown.memory === id) fresh();
  await listMemories();
  say(`Deleted ${name}`);
  at("memory-name").focus();
}

async function draw(event) {
  event.preventDefault();
  if (shown.drawing) return;
  complain(null);
  shown.drawing = new AbortController();
  swap("start", "halt");
  const kind = at("kind").value, prompt = at("caption").value;
  const seed = at("drawseed").value ? Number(at("drawseed").value) : crypto.getRandomValues(new Uint32Array(1))[0];
  const body = { model: shown.model, prompt, seed };
  if (at("guidance").value) body.guidance_scale = Number(at("guidance").value);
  const cells = element("div", { className: kind === "image" ? "cells one" : "cells" });
  const guided = body.guidance_scale === undefined ? "" : `, guidance ${body.guidance_scale}`;
  const figure = element("figure", {}, element("figcaption", { textContent: `${prompt} (seed ${seed}${guided})` }), cells);
  at("gallery").prepend(figure);
  say("Drawing");
  try {
    await (kind === "image" ? drawImage : drawVideo)(body, { figure, cells, signal: shown.drawing.signal });
    say("Drawn");
  } catch (error) {
    if (!cells.children.length) figure.remove();
    say(error.name === "AbortError" ? "Stopped" : "");
    if (error.name !== "AbortError") complain(error);
  } finally {
    shown.drawing = null;
    swap("halt", "start");
  }
}

async function drawImage(body, { cells, signal }) {
  const response = await call("v1/images/generations", { ...body, stream: true, partial_images: 3 }, { signal });
  const picture = element("img", { alt: body.prompt });
  for await (const { b64_json } of events(response)) {
    picture.src = `data:image/png;base64,${b64_json}`;
    if (!picture.isConnected) cells.append(picture);
  }
}

async function drawVideo(body, { figure, cells, signal }) {
  const begun = await (await call("v1/videos", { ...body, num_frames: Number(at("frames").value) }, { signal })).json();
  const path = `v1/videos/${begun.id}`;
  const blob = async (what) => URL.createObjectURL(await (await call(`${path}/${what}`, undefined, { signal })).blob());
  try {
    while (true) {
      const video = await (await call(path, undefined, { signal })).json();
      while (cells.children.length < video.frames_drawn) {
        const index = cells.children.length;
        cells.append(element("img", { src: await blob(`frames/${index}`), alt: `Frame ${index + 1}` }));
      }
      say(`${video.frames_drawn} of ${video.num_frames} frames`);
      if (video.status === "failed") throw new Error(video.error.message);
      if (video.status === "completed") break;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    figure.append(element("video", { src: await blob("content"), controls: true, loop: true, ariaLabel: body.prompt }));
  } finally {
    await call(path, undefined, { method: "DELETE" }).catch(() => {});
  }
}

function show(which) {
  for (const each of ["chat", "draw"]) {
    at(each).hidden = each !== which;
    at(`show-${each}`).ariaPressed = String(each === which);
  }
}

function later(action, milliseconds) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(action, milliseconds); };
}

function listen() {
  at("ask").addEventListener("submit", ask);
  at("sketch").addEventListener("submit", draw);
  at("stop").addEventListener("click", () => shown.answering?.abort());
  at("halt").addEventListener("click", () => shown.drawing?.abort());
  at("fresh").addEventListener("click", fresh);
  at("export").addEventListener("click", () =>
    save("conversation.json", JSON.stringify({ model: shown.model, messages: [...shown.before, ...shown.messages] }, null, 2)));
  at("keep").addEventListener("click", keep);
  at("memory-name").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    at("keep").click();
  });
  at("show-chat").addEventListener("click", () => show("chat"));
  at("show-draw").addEventListener("click", () => show("draw"));
  at("show-key").addEventListener("submit", (event) => { event.preventDefault(); begin(); });
  at("question").addEventListener("input", later(measure, 300));
  at("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
  });
  at("watched").addEventListener("change", reweigh);
  at("files").addEventListener("change", async () => { await attachAll(at("files").files); at("files").value = ""; });
  const holdsFiles = (event) => event.dataTransfer.types.includes("Files");  // Text goes where it is dropped.
  document.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    at("ask").classList.add("over");
  });
  document.addEventListener("dragleave", () => at("ask").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    at("ask").classList.remove("over");
    show("chat");
    attachAll(event.dataTransfer.files);
  });
}

listen();
begin();
