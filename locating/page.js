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
  byId("about").append(`${part}${many(data.all, "photo")} among the ${many(data.tiles, searched)} of “`);
  byId("about").append(makeName("bdi", data.name), "”");
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
  if (found.known < found.of) term(list, "known places", `${count(found.known)} of ${count(found.of)}`);
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
  listed = photos.filter(wanted).sort((a, b) => compare(a, b) || photos.indexOf(a) - photos.indexOf(b));
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
  return hour && photos.every((each) => !each.time || each.time.startsWith(day)) ? hour : photo.time.replace("T", " ");
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
  first.append(makeName("span", photo.name, photo.path), make("span", "value", values[0]));
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
  const steps = { ArrowDown: place + 1, ArrowUp: Math.max(place - 1, 0), Home: 0, End: listed.length - 1 };
  const wanted = event.key === "Enter" || event.key === " " ? listed.findIndex((photo) => photo.row === document.activeElement) : steps[event.key];
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
  const aspect = image.naturalWidth ? image.naturalWidth / image.naturalHeight : 1.5; // until it is there
  const lies = turned % 180 !== 0; // its width is seen as height
  image.parentElement.style.setProperty("--aspect", lies ? 1 / aspect : aspect);
  image.style.width = lies ? `${100 * aspect}%` : "100%";
  image.style.transform = `translate(-50%, -50%) rotate(${-turned}deg)`;
  const way = turned > 180 ? `${360 - turned}° to the right` : turned === 180 ? "upside down" : `${turned}° to the left`;
  const caption = turned ? `turned ${way} to match` : "";
  box.querySelector(".photo figcaption").textContent = caption;
}

function makeTile(tile, pick) {
  const figure = make("figure", "tile");
  const frame = make(pick ? "button" : "div", "frame");
  frame.append(picture(tile.image, "", `Tile of rank ${tile.rank}`), make("span", "rank", tile.rank));
  frame.title = tile.name;
  const caption = make("figcaption");
  const first = make("span", "strong");
  first.append(make("span", "", tile.score.toFixed(3)));
  if (has(tile.error)) first.append(make("span", "", `${metres(tile.error)} off`));
  caption.append(first);
  if (has(tile.latitude)) {
    caption.append(make("span", "", degrees(tile)), make("span", "", `${metres(tile.metres)} tile`));
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
    for (const each of box.querySelectorAll("button")) each.setAttribute("aria-pressed", each === frame);
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
  if (photo.truth) term(facts, "Known place", degrees(photo.truth) + (photo.note ? ` · ${photo.note}` : ""));
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

// ---------------------------------------------------------------- map
// Positions are in pixels of the overview, `zoom` is screen pixels for one of them, and (x, y) is
// what lies in the middle of the screen.
function makeMap(about) {
  const surface = byId("map");
  const canvas = surface.querySelector("canvas");
  const pen = canvas.getContext("2d");
  const overview = new Image();
  const details = firstTiles();
  const pointers = new Map(); // fingers and mice that are down
  let [x, y, zoom] = [about.width / 2, about.height / 2, 0];
  let [width, height] = [0, 0];
  let waiting = false; // for the next frame
  let dragged = false; // since the pointer went down

  overview.addEventListener("load", draw);
  overview.src = "data:image/jpeg;base64," + about.picture;

  /** Every different first tile once, the coarse ones first: sharper than the overview. */
  function firstTiles() {
    const found = new Map();
    for (const photo of photos) {
      for (const tile of photo.tiles) if (has(tile.image)) found.set(tile.image, tile);
    }
    return [...found.values()].sort((a, b) => b.side - a.side);
  }

  // ---- where things are
  const fitting = () => Math.min((width - 48) / about.width, (height - 48) / about.height);
  const onScreen = (place) => [(place.x - x) * zoom + width / 2, (place.y - y) * zoom + height / 2];

  function clamp() {
    const most = Math.max((8 * about.per_pixel) / about.finest, fitting());
    zoom = Math.min(Math.max(zoom, fitting() * 0.7), most);
    x = Math.min(Math.max(x, 0), about.width);
    y = Math.min(Math.max(y, 0), about.height);
  }

  function moveBy(right, down) {
    x -= right / zoom;
    y -= down / zoom;
    show();
  }

  /** Zooms so that what is under (left, top) of the screen stays there. */
  function zoomBy(factor, left = width / 2, top = height / 2) {
    const before = zoom;
    zoom *= factor;
    clamp();
    x += (left - width / 2) * (1 / before - 1 / zoom);
    y += (top - height / 2) * (1 / before - 1 / zoom);
    show();
  }

  /** Shows the whole map: centred, with 24 pixels around it. */
  function whole() {
    [x, y, zoom] = [about.width / 2, about.height / 2, fitting()];
    show();
  }

  const inside = (place) => place && place.x >= 0 && place.y >= 0 && place.x <= about.width && place.y <= about.height;

  /** Shows those of places, which may have a `side`, that are on the map, as large as they fit. */
  function fit(all) {
    const places = all.filter(inside);
    if (!places.length) return whole();
    const half = (place) => (place.side || 0) / 2;
    const left = Math.min(...places.map((place) => place.x - half(place)));
    const right = Math.max(...places.map((place) => place.x + half(place)));
    const top = Math.min(...places.map((place) => place.y - half(place)));
    const bottom = Math.max(...places.map((place) => place.y + half(place)));
    const largest = Math.max(...details.map((tile) => tile.side), 0);
    const least = Math.max(largest * 1.5, Math.max(about.width, about.height) / 4); // never closer
    [x, y] = [(left + right) / 2, (top + bottom) / 2];
    const room = Math.min(140, width / 3, height / 3);
    zoom = Math.min((width - room) / Math.max(right - left, least), (height - room) / Math.max(bottom - top, least));
    zoom = Math.max(zoom, fitting());
    show();
  }

  /** Moves as little as possible so that places can be seen. */
  function reach(places) {
    const margin = Math.min(90, width / 4, height / 4);
    for (const place of places) {
      const [left, top] = onScreen(place);
      const right = Math.max(margin - left, 0) - Math.max(left - (width - margin), 0);
      const down = Math.max(margin - top, 0) - Math.max(top - (height - margin), 0);
      moveBy(right, down);
    }
  }

  function resize() {
    const box = surface.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const first = !width;
    [width, height] = [box.width, box.height];
    const sharp = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * sharp);
    canvas.height = Math.round(height * sharp);
    if (first) {
      fit(photos.flatMap((photo) => [photo.estimate, photo.path_place, photo.truth]));
    }
    show();
  }

  // ---- drawing
  function show() {
    clamp();
    placeMarkers();
    showScale();
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }

  function draw() {
    waiting = false;
    const sharp = window.devicePixelRatio || 1;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const scale = sharp * zoom;
    pen.setTransform(scale, 0, 0, scale, sharp * (width / 2 - x * zoom), sharp * (height / 2 - y * zoom));
    pen.imageSmoothingQuality = "high";
    if (overview.complete && overview.naturalWidth) pen.drawImage(overview, 0, 0, about.width, about.height);
    if (scale > 1.2 && about.per_pixel > about.finest * 1.2) drawDetails();
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    drawLines();
  }

  function drawDetails() {
    for (const tile of details) {
      const [left, top] = onScreen(tile);
      const reach = (tile.side * zoom) / 2;
      if (left + reach < 0 || top + reach < 0 || left - reach > width || top - reach > height) continue;
      if (!tile.picture) {
        tile.picture = new Image();
        tile.picture.addEventListener("load", show);
        tile.picture.src = source(tile.image);
      }
      if (!tile.picture.complete || !tile.picture.naturalWidth) continue;
      pen.drawImage(tile.picture, tile.x - tile.side / 2, tile.y - tile.side / 2, tile.side, tile.side);
    }
  }

  /** A line through places, with a dark rim that shows on any ground. */
  function line(places, colour, thickness, dash = []) {
    pen.beginPath();
    for (const place of places) pen.lineTo(...onScreen(place));
    pen.lineJoin = pen.lineCap = "round";
    pen.setLineDash(dash);
    for (const [style, extra] of [["rgb(0 0 0 / 0.55)", 2], [colour, 0]]) {
      pen.strokeStyle = style;
      pen.lineWidth = thickness + extra;
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  function drawLines() {
    const path = photos.map((photo) => photo.path_place).filter(Boolean);
    pen.globalAlpha = chosen || listed.length > MANY ? 0.5 : 1;
    for (const photo of listed) {
      if (photo.truth && photo !== chosen) line([photo.estimate, photo.truth], "rgb(255 255 255 / 0.8)", 1);
    }
    pen.globalAlpha = 1;
    if (path.length) {
      line(path, "#ffc53d", 2.5);
      for (const place of path) spot(place, 3, "#ffc53d");
    }
    if (chosen) drawChosen();
  }

  function spot(place, radius, colour) {
    pen.beginPath();
    pen.arc(...onScreen(place), radius, 0, 2 * Math.PI);
    pen.fillStyle = colour;
    pen.strokeStyle = "rgb(0 0 0 / 0.6)";
    pen.lineWidth = 1;
    pen.fill();
    pen.stroke();
  }

  /** The photo's first tiles, with their ranks, and the way to its known place. */
  function drawChosen() {
    const best = chosenTile || chosen.tiles[0];
    for (const tile of [...chosen.tiles.filter((each) => each !== best), best]) {
      const half = tile.side / 2;
      const corner = (right, down) => ({ x: tile.x + right * half, y: tile.y + down * half });
      const strong = tile === best;
      const corners = [corner(-1, -1), corner(1, -1), corner(1, 1), corner(-1, 1), corner(-1, -1)];
      line([chosen.estimate, tile], "rgb(255 255 255 / 0.9)", 1, [2, 5]);
      line(corners, strong ? "#fff" : "rgb(255 255 255 / 0.75)", strong ? 2.5 : 1);
    }
    if (chosen.truth) line([chosen.estimate, chosen.truth], "#fff", 2.5);
    if (chosen.path_place) spot(chosen.path_place, 6, "#ffc53d");
    pen.font = "600 11px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (const tile of [...chosen.tiles].reverse()) {
      spot(tile, 2.5, "#fff");
      const corner = { x: tile.x - tile.side / 2, y: tile.y - tile.side / 2 };
      spot(corner, 9, "#14181d");
      pen.fillStyle = "#fff";
      const [left, top] = onScreen(corner);
      pen.fillText(tile.rank, left, top + 0.5);
    }
  }

  // ---- markers
  function makeMarker(photo) {
    const marker = make("button", "marker");
    marker.type = "button";
    marker.tabIndex = -1; // by keyboard the list leads here
    marker.title = photo.name;
    marker.setAttribute("aria-label", photo.name);
    marker.append(make("span", "dot"));
    marker.addEventListener("click", (event) => choose(event.target.tagName === "IMG" ? photo : nearest(event) || photo));
    marker.addEventListener("pointerenter", () => point(photo, true));
    marker.addEventListener("pointerleave", () => point(photo, false));
    photo.marker = marker;
    byId("markers").append(marker);
    if (photo.truth) {
      photo.ring = make("span", "truth");
      byId("markers").append(photo.ring);
    }
  }

  /** Of markers that are close together, the one that was meant. */
  function nearest(event) {
    const box = surface.getBoundingClientRect();
    const distance = (photo) => {
      const [left, top] = onScreen(photo.estimate);
      return Math.hypot(event.clientX - box.left - left, event.clientY - box.top - top);
    };
    return listed.reduce((best, photo) => (best && distance(best) <= distance(photo) ? best : photo), null);
  }

  /** Brings a marker and its thumbnail to the front, or lets it go. */
  function point(photo, on) {
    if (on) addThumbnail(photo);
    photo.marker.classList.toggle("pointed", on);
  }

  function addThumbnail(photo) {
    if (photo.marker.childElementCount === 1) photo.marker.append(picture(photo.image, "thumbnail", ""));
  }

  /** Puts markers where they belong; of thumbnails as many as do not cover each other. */
  function placeMarkers() {
    const taken = new Map(); // cells of the size of a thumbnail, and the thumbnails in them
    const size = width < 500 ? 38 : 46;
    const inList = new Set(listed);
    byId("markers").classList.toggle("many", listed.length > MANY);
    byId("markers").classList.toggle("comparing", Boolean(chosen));
    const order = chosen ? [chosen, ...listed] : listed;
    const done = new Set();
    for (const photo of photos) if (!inList.has(photo) && photo !== chosen) hide(photo, true);
    for (const photo of order) {
      if (done.has(photo)) continue;
      done.add(photo);
      const [left, top] = put(photo.marker, photo.estimate);
      if (photo.ring) put(photo.ring, photo.truth);
      const free = isFree(taken, size, left, top);
      const near = left > -60 && top > -60 && left < width + 60 && top < height + 60;
      photo.marker.classList.toggle("pictured", free && near);
      if (free && near) addThumbnail(photo);
      photo.marker.hidden = !near;
      if (photo.ring) photo.ring.hidden = false;
    }
  }

  function hide(photo, hidden) {
    photo.marker.hidden = hidden;
    if (photo.ring) photo.ring.hidden = hidden;
  }

  function put(element, place) {
    const [left, top] = onScreen(place);
    element.style.transform = `translate(${left}px, ${top}px)`;
    return [left, top];
  }

  function isFree(taken, size, left, top) {
    const [column, row] = [Math.floor(left / size), Math.floor(top / size)];
    for (let i = -1; i <= 1; i++) {
      for (let j = -1; j <= 1; j++) {
        for (const [other, above] of taken.get(`${column + i},${row + j}`) || []) {
          if (Math.abs(other - left) < size && Math.abs(above - top) < size) return false;
        }
      }
    }
    const cell = `${column},${row}`;
    taken.set(cell, [...(taken.get(cell) || []), [left, top]]);
    return true;
  }

  // ---- scale and coordinates
  const latitude = (down) => Math.atan(Math.sinh((about.top - down * about.per_pixel) / about.radius));

  function showScale() {
    const perPixel = (about.per_pixel / zoom) * Math.cos(latitude(y)); // metres on the ground
    const most = 110 * perPixel;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = power * [5, 2, 1].find((step) => step * power <= most);
    byId("bar").style.width = `${length / perPixel}px`;
    byId("bar").textContent = length >= 1000 ? `${length / 1000} km` : `${length} m`;
  }

  function showPointer(event) {
    const box = surface.getBoundingClientRect();
    const right = x + (event.clientX - box.left - width / 2) / zoom;
    const down = y + (event.clientY - box.top - height / 2) / zoom;
    const longitude = ((about.left + right * about.per_pixel) / about.radius) * (180 / Math.PI);
    const turns = Math.floor((longitude + 180) / 360); // around the Earth
    const place = { latitude: latitude(down) * (180 / Math.PI), longitude: longitude - 360 * turns };
    byId("pointer").textContent = degrees(place);
  }

  // ---- fingers, mouse, keys
  function press(event) {
    if (event.button || event.target.closest("#buttons")) return;
    if (!pointers.size) dragged = false;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  function drag(event) {
    if (event.pointerType === "mouse") showPointer(event);
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const [right, down] = [event.clientX - before[0], event.clientY - before[1]];
    const still = event.pointerType === "mouse" ? 4 : 8; // pixels, and it is a click
    if (!dragged && pointers.size === 1 && Math.hypot(right, down) < still) return;
    dragged = true;
    surface.setPointerCapture(event.pointerId);
    const other = [...pointers].find(([id]) => id !== event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (!other) return moveBy(right, down);
    // Two fingers: half of each one's way moves the map, their distance zooms it.
    const [, held] = other;
    const distance = (point) => Math.hypot(point[0] - held[0], point[1] - held[1]) || 1;
    const box = surface.getBoundingClientRect();
    moveBy(right / 2, down / 2);
    zoomBy(
      distance([event.clientX, event.clientY]) / distance(before),
      (event.clientX + held[0]) / 2 - box.left,
      (event.clientY + held[1]) / 2 - box.top,
    );
  }

  function release(event) {
    pointers.delete(event.pointerId);
  }

  function roll(event) {
    event.preventDefault();
    const box = surface.getBoundingClientRect();
    const lines = event.deltaMode === 1 ? 16 : 1;
    const speed = event.ctrlKey ? 0.01 : 0.002; // two fingers on a trackpad, a wheel
    const factor = Math.exp(-Math.max(-240, Math.min(240, event.deltaY * lines)) * speed);
    zoomBy(factor, event.clientX - box.left, event.clientY - box.top);
  }

  function key(event) {
    const actions = {
      ArrowLeft: () => moveBy(80, 0), ArrowRight: () => moveBy(-80, 0),
      ArrowUp: () => moveBy(0, 80), ArrowDown: () => moveBy(0, -80),
      "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: whole,
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[event.key]();
  }

  surface.hidden = false;
  photos.forEach(makeMarker);
  surface.addEventListener("pointerdown", press);
  surface.addEventListener("pointermove", drag);
  surface.addEventListener("pointerup", release);
  surface.addEventListener("pointercancel", release);
  surface.addEventListener("pointerleave", () => (byId("pointer").textContent = ""));
  surface.addEventListener("click", (event) => dragged && event.stopPropagation(), true);
  surface.addEventListener("wheel", roll, { passive: false });
  surface.addEventListener("keydown", key);
  surface.addEventListener("dblclick", (event) => {
    const box = surface.getBoundingClientRect();
    if (event.target === canvas || event.target.id === "markers") zoomBy(2, event.clientX - box.left, event.clientY - box.top);
  });
  byId("closer").addEventListener("click", () => zoomBy(1.5));
  byId("farther").addEventListener("click", () => zoomBy(1 / 1.5));
  byId("whole").addEventListener("click", whole);
  new ResizeObserver(resize).observe(surface);
  return { show, resize, reach, fit, point };
}

function showLegend() {
  const entries = [["", "estimate"]];
  if (photos.some((photo) => photo.path_place)) entries.push(["path", "path"]);
  if (photos.some((photo) => photo.truth)) entries.push(["known", "known place"]);
  for (const [className, text] of entries) {
    const entry = make("li");
    entry.append(make("i", className), make("span", "", text));
    byId("legend").append(entry);
  }
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
  byId("zoom").addEventListener("click", () => map.fit([chosen.estimate, chosen.truth, ...chosen.tiles]));
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
} else {
  document.body.classList.add("plain");
  document.title = byId("photos").parentElement.previousElementSibling.querySelector("h1").textContent = "Photos and their most similar pictures";
}
updateList();
if (map) map.resize();
if (map && photos.length === 1) choose(photos[0]);
