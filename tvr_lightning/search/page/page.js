"use strict";
// Texts from the server go into text nodes and attributes only, never into markup.
const $ = (id) => document.getElementById(id);
const title = document.title;
let asked = null; // the search under way
let maxUpload = Infinity;

function say(text, wrong = false) {
  $("state").textContent = text;
  $("state").classList.toggle("error", wrong);
}

function element(tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

function card(hit) {
  const item = document.createElement("li");
  const button = element("button", "hit");
  button.type = "button";
  button.setAttribute("aria-label", `${hit.rank}: ${hit.file}, ${hit.time}, score ${hit.score.toFixed(3)}; play`);
  const picture = element("span", "picture");
  const image = document.createElement("img");
  image.loading = hit.rank > 12 ? "lazy" : "eager";
  image.alt = "";
  image.src = hit.thumbnail;
  image.addEventListener("error", () => { image.alt = "no picture"; });
  picture.append(image, element("span", "time", hit.time));
  const words = element("span", "words");
  const file = element("span", "file", hit.file);
  file.title = hit.file;
  file.dir = "auto";
  words.append(file, element("span", "score", hit.score.toFixed(3)));
  button.append(picture, words);
  button.addEventListener("click", () => play(hit));
  item.append(button);
  return item;
}

async function search(url, options, waiting, found) {
  asked?.abort();
  const own = asked = new AbortController();
  say(waiting);
  $("hits").classList.add("old");
  let answer;
  try {
    const reply = await fetch(url, { ...options, signal: own.signal });
    answer = await reply.json().catch(() => ({ error: `The server gave no answer that can be read (${reply.status}).` }));
  } catch (error) {
    if (own.signal.aborted) return;
    answer = { error: "The server does not answer. Is tvr serve still running?" };
  }
  if (asked !== own) return;
  asked = null;
  $("hits").classList.remove("old");
  const hits = answer.error ? [] : answer.hits;
  $("hits").replaceChildren(...hits.map(card));
  const notes = answer.notes ?? [];
  $("notes").replaceChildren(...notes.map((note) => element("li", "", sentence(note))));
  $("notes").hidden = !notes.length;
  if (answer.error) say(sentence(answer.error), true);
  else say(hits.length ? found(hits.length, answer) : "Nothing was found.");
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
const short = (text) => (text.length > 80 ? `${text.slice(0, 80).trim()} …` : text);
const moments = (count) => `${count} ${count === 1 ? "moment" : "moments"}`;

function searchText(query) {
  $("query").value = query;
  document.title = query ? `${query} – ${title}` : title;
  if (!query.trim()) {
    asked?.abort();
    asked = null;
    $("hits").classList.remove("old");
    $("hits").replaceChildren();
    $("notes").hidden = true;
    say("Write what the video shows, or search by a clip: choose one or drop it here.");
    return;
  }
  const words = new URLSearchParams({ q: query });
  search(`/api/search?${words}`, {}, "Searching …", (count) => `${moments(count)} for “${short(query.trim())}”, best first.`);
}

function searchClip(file) {
  if (file.size > maxUpload) {
    say(`${file.name} has ${Number((file.size / 1e6).toFixed(1))} MB; clips to search with have at most ${maxUpload / 1e6} MB.`, true);
    return;
  }
  const form = new FormData();
  form.append("video", file);
  document.title = `${file.name} – ${title}`;
  $("query").value = "";
  if (new URLSearchParams(location.search).has("q")) history.pushState(null, "", "/");
  search("/api/search", { method: "POST", body: form }, `Looking at ${file.name} …`,
    (count, answer) => `${moments(count)} like ${answer.video}, the most similar first.`);
}

function play(hit) {
  const video = $("video");
  $("playing").textContent = hit.file;
  $("times").textContent = `From ${hit.time.replace("–", " to ")}`;
  $("download").href = `${hit.video}?download`;
  $("trouble").hidden = true;
  video.hidden = false;
  video.onloadedmetadata = () => { video.currentTime = hit.start; };
  video.onerror = () => cannotPlay(hit);
  video.src = hit.video;
  $("player").showModal();
  video.focus();
  video.play().catch(() => {}); // a browser that wants a click first shows its own button
}

async function cannotPlay(hit) {
  if (!$("player").open) return;
  let why = `This browser cannot play this file (${hit.type}). Download it to watch it.`;
  try {
    const reply = await fetch(hit.video, { method: "GET", headers: { Range: "bytes=0-0" } });
    if (!reply.ok) why = sentence((await reply.json()).error);
  } catch {
    why = "The server does not answer. Is tvr serve still running?";
  }
  $("trouble").textContent = why;
  $("trouble").hidden = false;
  $("video").hidden = true;
}

$("player").addEventListener("close", () => {
  const video = $("video");
  video.onerror = null;
  video.pause();
  video.removeAttribute("src");
  video.load();
});
$("close").addEventListener("click", () => $("player").close());
$("player").addEventListener("click", (event) => { if (event.target === $("player")) $("player").close(); });

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = $("query").value;
  if (query !== (new URLSearchParams(location.search).get("q") ?? "")) {
    history.pushState(null, "", query.trim() ? `/?${new URLSearchParams({ q: query })}` : "/");
  }
  searchText(query);
});
addEventListener("popstate", () => {
  $("player").close();
  searchText(new URLSearchParams(location.search).get("q") ?? "");
});

$("choose").addEventListener("click", () => $("clip").click());
$("clip").addEventListener("change", () => {
  const [file] = $("clip").files;
  if (file) searchClip(file);
  $("clip").value = "";
});

// Files only: a text that is dropped belongs into the search box.
const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  $("drop").hidden = false;
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", (event) => {
  $("drop").hidden = true;
  if (!carriesFile(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files.length === 1) searchClip(event.dataTransfer.files[0]);
  else say("Drop one clip at a time.", true);
});

addEventListener("keydown", (event) => {
  if ($("player").open || event.ctrlKey || event.altKey || event.metaKey) return;
  const cards = [...document.querySelectorAll(".hit")];
  const at = cards.indexOf(document.activeElement);
  if (event.key === "/" && document.activeElement !== $("query")) {
    event.preventDefault();
    $("query").select();
    return;
  }
  if (at < 0) {
    if (event.key === "ArrowDown" && document.activeElement === $("query") && cards.length) {
      event.preventDefault();
      cards[0].focus();
    }
    return;
  }
  const columns = getComputedStyle($("hits")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (event.key === "Home" || event.key === "End") cards.at(event.key === "Home" ? 0 : -1).focus();
  else if (!step) return;
  else if (event.key === "ArrowUp" && at < columns) $("query").focus();
  else cards[at + step]?.focus();
  event.preventDefault();
});

fetch("/api/index").then((reply) => reply.json()).then((about) => {
  maxUpload = about.max_upload;
  $("about").textContent = `${about.videos.toLocaleString("en")} videos, ${about.windows.toLocaleString("en")} moments`;
}).catch(() => { $("about").textContent = ""; });
searchText(new URLSearchParams(location.search).get("q") ?? "");
