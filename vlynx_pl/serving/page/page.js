"use strict";

const KINDS = {video: "video", audio: "its sound", depth: "zip of a scene", ego: "own view"};
const at = (id) => document.getElementById(id);
let models = {};
let files = []; // {file, kind, id once it is uploaded}
let sample = null;
let streams = null; // of the clip that is shown
let asked = null; // the request of the answers that are shown
let token = sessionStorage.getItem("token") || "";

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function call(path, options = {}) {
  const headers = {...options.headers, ...(token && {Authorization: `Bearer ${token}`})};
  const response = await fetch(path, {...options, headers});
  if (response.status === 401) {
    token = await askForToken();
    sessionStorage.setItem("token", token);
    return call(path, options);
  }
  if (!response.ok) {
    throw new Error((await response.json()).error.message);
  }
  return response;
}

function askForToken() {
  const dialog = at("token-dialog");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(at("token").value), {once: true});
  });
}

const post = (path, request) => call(path, {method: "POST", body: JSON.stringify(request)});

/** Does something that takes time; its error is shown, and buttons wait for its end. */
async function doing(work) {
  at("error").hidden = true;
  const buttons = document.querySelectorAll("main button");
  buttons.forEach((button) => { button.disabled = true; });
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    at("error").textContent = error.message;
    at("error").hidden = false;
    at("error").scrollIntoView({block: "nearest"});
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
    document.body.removeAttribute("aria-busy");
  }
}

function request(question) {
  const content = sample !== null
    ? [{type: "sample", sample}]
    : files.map(({kind, id}) => ({type: `${kind}_url`, [`${kind}_url`]: {url: id}}));
  if (question) {
    content.push({type: "text", text: question});
  }
  return {model: at("model").value, messages: [{role: "user", content}]};
}

// The clip

function guessed(file) {
  if (/\.zip$/i.test(file.name)) return "depth";
  if (file.type.startsWith("audio/")) return "audio";
  return files.some(({kind}) => kind === "video") ? "ego" : "video";
}

function addFiles(chosen) {
  if (sample !== null) chooseSample(null);
  for (const file of chosen) {
    files.push({file, kind: guessed(file), id: null});
  }
  listFiles();
  return doing(showClip);
}

function listFiles() {
  at("parts").replaceChildren(...files.map((part) => {
    const kinds = Object.entries(KINDS).map(([value, text]) =>
      element("option", {value, text, selected: value === part.kind}));
    const select = element("select", {
      ariaLabel: `Kind of ${part.file.name}`,
      onchange: () => { part.kind = select.value; doing(showClip); },
    }, ...kinds);
    const remove = element("button", {
      type: "button", textContent: "Remove", ariaLabel: `Remove ${part.file.name}`,
      onclick: () => {
        files = files.filter((other) => other !== part);
        listFiles();
        doing(showClip);
      },
    });
    return element("li", {}, element("span", {textContent: part.file.name}), select, remove);
  }));
}

function chooseSample(name) {
  sample = name;
  for (const button of at("samples").children) {
    button.setAttribute("aria-pressed", button.textContent === name);
  }
  const questions = name === null ? [] : models[at("model").value].samples[name];
  at("suggested").replaceChildren(...questions.map(({question, answers}) => element("button", {
    type: "button", textContent: question,
    onclick: () => {
      at("question").value = question;
      at("question").dataset.reference = answers.join(", ");
    },
  })));
}

async function showClip() {
  for (const id of ["seen", "asking", "answers"]) at(id).hidden = true;
  if (sample === null && !files.length) return;
  for (const part of files.filter(({id}) => id === null)) {
    const form = new FormData();
    form.append("purpose", "user_data");
    form.append("file", part.file);
    part.id = (await (await call("/v1/files", {method: "POST", body: form})).json()).id;
  }
  const found = await (await post("/page/clip", request())).json();
  streams = found.streams;
  at("doubts").textContent = found.doubts.join(" ");
  at("doubts").hidden = !found.doubts.length;
  at("frame").max = streams.video.length - 1;
  at("frame").value = 0;
  for (const id of ["seen", "asking"]) at(id).hidden = false;
  showFrame();
}

function showFrame() {
  const number = Number(at("frame").value);
  const {time} = streams.video[number];
  at("frame-label").textContent =
    `frame ${number + 1} of ${streams.video.length}, ${time.toFixed(2)} s`;
  at("frames").replaceChildren(...Object.entries(streams).flatMap(([name, frames]) => {
    // A modality may have other timestamps than the video.
    const nearest = frames.reduce((one, other) =>
      Math.abs(other.time - time) < Math.abs(one.time - time) ? other : one);
    return nearest.images.map((src, place) => element("figure", {},
      element("img", {src, alt: `${name} at ${nearest.time.toFixed(2)} s`}),
      element("figcaption", {
        textContent: name + (nearest.images.length > 1 ? ` ${place + 1}` : "")
          + (nearest.time === time ? "" : `, ${nearest.time.toFixed(2)} s`),
      })));
  }));
}

// The question

function showSwitches() {
  const known = models[at("model").value].streams;
  at("switches").replaceChildren(...Object.entries(known).map(([name, free]) =>
    element("label", {}, element("input", {
      type: "checkbox", value: name, checked: name === "video" || !free, disabled: !free,
    }), ` ${name}`)));
}

const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1)} %`;
const number = (value) => value.toFixed(2).replace("-", "−");

async function ask() {
  const question = at("question").value;
  const without = [...at("switches").querySelectorAll("input:not(:checked)")].map((box) => box.value);
  asked = request(question);
  const {answers, first_without: before, gain} =
    await (await post("/page/ask", {...asked, without})).json();
  const names = without.join(" and ");
  const label = without.length ? `without ${names}` : "with every stream, too";
  at("second-title").textContent = label[0].toUpperCase() + label.slice(1);
  for (const [id, answer] of [["first", answers[0]], ["second", answers[1]]]) {
    at(id).textContent = answer.text || "(nothing)";
    at(`${id}-figure`).textContent =
      `log-probability ${number(answer.logprob)}, probability ${percent(answer.logprob)}`;
  }
  const {reference} = at("question").dataset;
  at("reference").hidden = !reference;
  at("reference").textContent = `The benchmark's answer: ${reference}`;
  at("gain").hidden = !without.length;
  at("gain-text").textContent = `“${answers[0].text}” has a log-probability of `
    + `${number(answers[0].logprob)} with every stream and ${number(before)} ${label}: `
    + `a difference of ${gain >= 0 ? "+" : ""}${number(gain)}. Its probability:`;
  at("without-label").textContent = label;
  for (const [id, logprob] of [["with", answers[0].logprob], ["without", before]]) {
    at(id).value = Math.exp(logprob);
    at(`${id}-figure`).textContent = percent(logprob);
  }
  at("attention").hidden = true;
  at("answers").hidden = false;
}

async function look() {
  const picture = at("attention");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(await (await post("/page/attention", asked)).blob());
  picture.alt = "Frames of each stream, and below them the attention that the words of the question "
    + "pay to each part, in two layers of the LLM";
  picture.hidden = false;
}

function chooseModel() {
  const {samples} = models[at("model").value];
  at("samples").replaceChildren(...Object.keys(samples).map((name) => element("button", {
    type: "button", textContent: name,
    onclick: () => {
      files = [];
      listFiles();
      chooseSample(name);
      doing(showClip);
    },
  })));
  at("samples-row").hidden = !Object.keys(samples).length;
  showSwitches();
  chooseSample(null);
  return doing(showClip);
}

async function begin() {
  const found = await (await call("/page/models")).json();
  models = Object.fromEntries(found.map((model) => [model.name, model]));
  at("model").replaceChildren(...found.map(({name}) => element("option", {value: name, text: name})));
  await chooseModel();
}

at("files").onchange = () => { addFiles(at("files").files); at("files").value = ""; };
at("drop").ondragover = (event) => { event.preventDefault(); at("drop").classList.add("over"); };
at("drop").ondragleave = () => at("drop").classList.remove("over");
at("drop").ondrop = (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  addFiles(event.dataTransfer.files);
};
at("model").onchange = chooseModel;
at("frame").oninput = showFrame;
at("question").oninput = () => { delete at("question").dataset.reference; };
at("ask").onsubmit = (event) => { event.preventDefault(); doing(ask); };
at("look").onclick = () => doing(look);
doing(begin);
