"use strict";
// Data come from the JSON block of the page. Texts of it, such as file names, enter the page by
// textContent and setAttribute only: none of them is ever read as HTML.

const data = JSON.parse(byId("data").textContent);
const photos = data.photos;
let listed = photos; // those in the list, in its order
let chosen = null; // the photo that is compared
let chosenTile = null; // and the tile beside it
const MANY = 120; // photos: more of them are drawn smaller

// ---------------------------------------------------------------- small helpers
function byId(id) {
  return document.getElementById(id);
}

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function makeName(tag, text, whole) {
  const made = make(tag, "name", text);
  made.dir = "auto"; // Arabic and Hebrew from the right
  made.title = whole || text;
  return made;
}

/** A name whose end stays where there is no room: that of a frame tells its time. */
function makeRowName(photo) {
  const name = makeName("span", "", photo.path);
  const signs = Array.from(photo.name); // none is cut in two
  const end = signs.length > 18 ? 14 : 0;
  name.append(make("span", "start", signs.slice(0, signs.length - end).join("")));
  if (end) name.append(make("span", "end", signs.slice(-end).join("")));
  return name;
}

function source(index) {
  return "data:image/jpeg;base64," + data.images[index];
}

/** A small picture, or what stands for one that is not in this file. */
function picture(index, className, description) {
  if (index === undefined || index === null) return make("span", "missing", "not in this file");
  const image = make("img", className);
  image.decoding = "async";
  image.draggable = false;
  image.alt = description;
  image.src = source(index);
  return image;
}

const has = (value) => value !== undefined && value !== null;
const percent = (share) => `${Math.round(100 * share)} %`;
const count = (number) => number.toLocaleString("en");

function metres(length) {
  if (length >= 10000) return `${count(Math.round(length / 1000))} km`;
  if (length >= 1000) return `${(length / 1000).toFixed(1)} km`;
  return `${length >= 10 ? Math.round(length) : Number(length.toFixed(1))} m`;
}

function degrees(place) {
  return `${place.latitude.toFixed(6)}, ${place.longitude.toFixed(6)}`;
}

function term(list, name, value, className) {
  const line = make("div", className);
  line.append(make("dt", "", name), make("dd", "", value));
  list.append(line);
}

// ---------------------------------------------------------------- above: what was found
function showSummary() {
  const many = (number, name) => `${count(number)} ${name}${number === 1 ? "" : "s"}`;
  const searched = data.map ? "map tile" : "picture";
  const part = photos.length < data.all ? `${count(photos.length)} of ` : "";
  const text = `${part}${many(data.all, "photo")} among the ${many(data.tiles, searched)} of “`;
  byId("about").append(text, makeName("bdi", data.name), "”");
  const found = data.summary;
  if (!found) return;
  const list = byId("summary");
  list.hidden = false;
  term(list, "Median error", metres(found.median), "main");
  if (has(found.path_median)) term(list, "along the path", metres(found.path_median), "main");
  if (has(found.guessing)) term(list, "by guessing", metres(found.guessing));
  for (const [radius, share] of Object.entries(found.within)) {
    term(list, `within ${radius} m`, percent(share / 100));
  }
  if (found.known < found.of) {
    term(list, "known places", `${count(found.known)} of ${count(found.of)}`);
  }
}

// ---------------------------------------------------------------- list
const byName = new Intl.Collator(undefined, { numeric: true });

/** Compares by a number, those without it last. */
function by(key, sign) {
  return (a, b) => {
    if (!has(a[key]) || !has(b[key])) return has(b[key]) - has(a[key]);
    return sign * (a[key] - b[key]);
  };
}

const SORTS = [
  ["Time", "time", (a, b) => (a.time || "\uffff").localeCompare(b.time || "\uffff")],
  ["Name", "name", (a, b) => byName.compare(a.name, b.name)],
  ["Largest error", "error", by("error", -1)],
  ["Smallest error", "error", by("error", 1)],
  ["Largest error along the path", "path_error", by("path_error", -1)],
  ["Lowest confidence", "confidence", by("confidence", 1)],
  ["Highest confidence", "confidence", by("confidence", -1)],
  ["Lowest score", "score", by("score", 1)],
  ["Highest score", "score", by("score", -1)],
];
const FILTERS = [
  ["All photos", "name", () => true],
  ["More than 25 m off", "error", (photo) => photo.error > 25],
  ["More than 50 m off", "error", (photo) => photo.error > 50],
  ["More than 100 m off", "error", (photo) => photo.error > 100],
  ["Confidence below 50 %", "confidence", (photo) => photo.confidence < 0.5],
];

/** Fills a select with the choices that some photo has the value for. */
function offer(select, choices) {
  for (const [index, [name, key]] of choices.entries()) {
    if (photos.some((photo) => has(photo[key]))) select.append(new Option(name, index));
  }
  select.addEventListener("change", updateList);
}

function showTools() {
  offer(byId("sort"), SORTS);
  offer(byId("filter"), FILTERS);
  const inTime = photos.some((photo) => photo.path_place);
  byId("sort").value = inTime && photos.some((photo) => photo.time) ? 0 : 1;
  byId("tools").hidden = photos.length === 1;
  byId("filter-label").hidden = byId("filter").length < 2;
}

function updateList() {
  const compare = SORTS[byId("sort").value][2];
  const wanted = FILTERS[byId("filter").value][2];
  listed = photos.filter(wanted).sort(compare);
  const list = byId("list");
  list.replaceChildren(...listed.map((photo) => photo.row));
  if (!listed.length) list.append(make("li", "empty", "No photo is like this."));
  list.scrollTop = 0;
  const all = listed.length === photos.length;
  byId("count").textContent = all ? "" : `${count(listed.length)} of ${count(photos.length)}`;
  if (map) {
    const first = chosen && listed.includes(chosen) ? chosen : listed[0];
    for (const photo of photos) photo.row.tabIndex = photo === first ? 0 : -1;
    showSteps();
    map.show();
  }
}

/** The time of a photo; without the date where all are of one day. */
function shortTime(photo) {
  if (!photo.time) return "";
  const [day, hour] = photo.time.split("T");
  const oneDay = photos.every((each) => !each.time || each.time.startsWith(day));
  return hour && oneDay ? hour : photo.time.replace("T", " ");
}

/** A line of the list beside the map. */
function makeRow(photo) {
  const row = make("li", "row");
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", "false");
  const values = [];
  if (has(photo.error)) values.push(metres(photo.error));
  if (has(photo.path_error)) values.push(`path ${metres(photo.path_error)}`);
  if (has(photo.confidence)) values.push(`${percent(photo.confidence)} sure`);
  if (values.length < 2) values.push(`score ${photo.score.toFixed(3)}`);
  const first = make("span", "first");
  first.append(makeRowName(photo), make("span", "value", values[0]));
  const second = make("span", "second");
  second.append(make("span", "about", shortTime(photo) || degrees(photo.estimate)));
  second.append(make("span", "value", values.slice(1).join(" · ")));
  const text = make("span", "text");
  text.append(first, second);
  row.append(picture(photo.image, "thumbnail", ""), text);
  row.addEventListener("click", () => choose(photo));
  row.addEventListener("pointerenter", () => map.point(photo, true));
  row.addEventListener("pointerleave", () => map.point(photo, false));
  return row;
}

/** Arrow keys walk through the list and compare as they go. */
function walk(event) {
  const place = listed.indexOf(chosen);
  const focused = listed.findIndex((photo) => photo.row === document.activeElement);
  const wanted = {
    ArrowDown: place + 1, ArrowUp: Math.max(place - 1, 0), Home: 0, End: listed.length - 1,
    Enter: focused, " ": focused,
  }[event.key];
  if (wanted === undefined) return;
  event.preventDefault();
  const photo = listed[wanted];
  if (!photo) return;
  choose(photo);
  photo.row.focus();
}

// ---------------------------------------------------------------- the photo beside its first tiles
/** Figures of a photo and its first tiles; with `pick`, a tile is a button that calls it. */
function showPictures(photo, pick) {
  const box = make("div", "pictures");
  const figure = make("figure", "photo");
  const frame = make("div", "frame");
  const image = picture(photo.image, "", "The photo");
  frame.append(image);
  figure.append(frame, make("figcaption"));
  box.append(figure);
  for (const tile of photo.tiles) box.append(makeTile(tile, pick));
  turnPhoto(box, photo.tiles[0]);
  image.addEventListener("load", () => turnPhoto(box, photo.tiles[0])); // its sides are known now
  return box;
}

/** Shows the photo as it was turned to match a tile: so many degrees to the left. */
function turnPhoto(box, tile) {
  const turned = (tile && tile.turned) || 0;
  const image = box.querySelector(".photo img");
  const aspect = image.naturalWidth / image.naturalHeight || 1.5; // until it is there
  const lies = turned % 180 !== 0; // its width is seen as height
  image.parentElement.style.setProperty("--aspect", lies ? 1 / aspect : aspect);
  image.style.width = lies ? `${100 * aspect}%` : "100%";
  image.style.transform = `translate(-50%, -50%) rotate(${-turned}deg)`;
  const way = turned > 180 ? `${360 - turned}° to the right` : `${turned}° to the left`;
  const caption = turned ? `turned ${turned === 180 ? "upside down" : way} to match` : "";
  box.querySelector(".photo figcaption").textContent = caption;
}

function makeTile(tile, pick) {
  const figure = make("figure", "tile");
  const frame = make(pick ? "button" : "div", "frame");
  frame.append(picture(tile.image, "", `Tile of rank ${tile.rank}`));
  frame.append(make("span", "rank", tile.rank));
  frame.title = tile.name;
  const caption = make("figcaption");
  const first = make("span", "strong");
  first.append(make("span", "", tile.score.toFixed(3)));
  if (has(tile.error)) first.append(make("span", "", `${metres(tile.error)} off`));
  caption.append(first);
  if (has(tile.latitude)) {
    caption.append(make("span", "", degrees(tile)));
    caption.append(make("span", "", `${metres(tile.metres)} tile`));
  } else {
    caption.append(makeName("span", tile.name));
  }
  if (pick) {
    frame.type = "button";
    frame.setAttribute("aria-pressed", "false");
    frame.addEventListener("click", () => pick(tile, frame));
  }
  figure.append(frame, caption);
  return figure;
}

function choose(photo) {
  for (const each of [chosen, photo]) {
    if (!each) continue;
    const on = each === photo;
    each.row.setAttribute("aria-selected", on);
    each.row.tabIndex = on ? 0 : -1;
    each.marker.classList.toggle("chosen", on);
    if (each.ring) each.ring.classList.toggle("chosen", on);
  }
  for (const each of listed) if (each !== photo) each.row.tabIndex = -1;
  chosen = photo;
  chosenTile = null;
  byId("name").replaceChildren(makeName("bdi", photo.name, photo.path));
  showFacts(photo);
  const box = showPictures(photo, (tile, frame) => {
    chosenTile = tile;
    for (const each of box.querySelectorAll("button")) {
      each.setAttribute("aria-pressed", each === frame);
    }
    turnPhoto(box, tile);
    map.reach([tile]);
    map.show();
  });
  byId("pictures").replaceChildren(box);
  byId("comparison").hidden = false;
  showSteps();
  photo.row.scrollIntoView({ block: "nearest" });
  map.resize();
  map.reach([photo.estimate]);
}

function showFacts(photo) {
  const facts = byId("facts");
  facts.replaceChildren();
  const off = (error) => (has(error) ? ` · ${metres(error)} off` : "");
  term(facts, "Estimate", degrees(photo.estimate) + off(photo.error));
  if (photo.path_place) term(facts, "Path", degrees(photo.path_place) + off(photo.path_error));
  const note = photo.note ? ` · ${photo.note}` : "";
  if (photo.truth) term(facts, "Known place", degrees(photo.truth) + note);
  else if (photo.note) term(facts, "Note", photo.note);
  if (has(photo.confidence)) term(facts, "Confidence", percent(photo.confidence));
  if (photo.time) term(facts, "Time", photo.time.replace("T", " "));
}

function showSteps() {
  const place = listed.indexOf(chosen);
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place < 0 || place === listed.length - 1;
}

function step(by) {
  const photo = listed[listed.indexOf(chosen) + by];
  if (photo) choose(photo);
}

function close() {
  if (!chosen) return;
  chosen.row.setAttribute("aria-selected", "false");
  chosen.marker.classList.remove("chosen");
  if (chosen.ring) chosen.ring.classList.remove("chosen");
  if (byId("comparison").contains(document.activeElement)) chosen.row.focus();
  chosen = chosenTile = null;
  byId("comparison").hidden = true;
  map.resize();
}

// ---------------------------------------------------------------- pictures without places
/** A line of the list where there is no map: the comparison itself. */
function makePair(photo) {
  const pair = make("li", "pair");
  const name = make("h2");
  name.append(makeName("bdi", photo.name, photo.path));
  pair.append(name, showPictures(photo));
  return pair;
}

// ---------------------------------------------------------------- beginning
showSummary();
const map = data.map && makeMap(data.map);
for (const photo of photos) photo.row = map ? makeRow(photo) : makePair(photo);
showTools();
if (map) {
  showLegend();
  byId("list").setAttribute("role", "listbox");
  byId("list").setAttribute("aria-label", "Photos");
  byId("list").addEventListener("keydown", walk);
  byId("close").addEventListener("click", close);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("zoom").addEventListener("click", () => {
    map.fit([chosen.estimate, chosen.truth, ...chosen.tiles]);
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
} else {
  document.body.classList.add("plain");
  document.title = "Photos and their most similar pictures";
  document.querySelector("h1").textContent = document.title;
}
updateList();
if (map) map.resize();
if (map && photos.length === 1) choose(photos[0]);
