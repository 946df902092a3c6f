"use strict";
// The map of page.js: its picture, the markers, what moves it.

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

  const within = (value, most) => value >= 0 && value <= most;
  const inside = (place) => place && within(place.x, about.width) && within(place.y, about.height);

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
    const across = (width - room) / Math.max(right - left, least);
    const down = (height - room) / Math.max(bottom - top, least);
    zoom = Math.max(Math.min(across, down), fitting());
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
    draw(); // a new size has cleared the canvas: not only with the next frame
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
    const [left, top] = onScreen({ x: 0, y: 0 });
    pen.setTransform(scale, 0, 0, scale, sharp * left, sharp * top);
    pen.imageSmoothingQuality = "high";
    if (overview.naturalWidth) pen.drawImage(overview, 0, 0, about.width, about.height);
    if (scale > 1.2 && about.per_pixel > about.finest * 1.2) drawDetails();
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    drawLines();
  }

  function drawDetails() {
    for (const tile of details) {
      const [left, top] = onScreen(tile);
      const reach = (tile.side * zoom) / 2;
      const beside = left + reach < 0 || left - reach > width;
      if (beside || top + reach < 0 || top - reach > height) continue;
      if (!tile.picture) {
        tile.picture = new Image();
        tile.picture.addEventListener("load", show);
        tile.picture.src = source(tile.image);
      }
      if (!tile.picture.naturalWidth) continue;
      const half = tile.side / 2;
      pen.drawImage(tile.picture, tile.x - half, tile.y - half, tile.side, tile.side);
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
      if (!photo.truth || photo === chosen) continue;
      line([photo.estimate, photo.truth], "rgb(255 255 255 / 0.8)", 1);
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
    marker.addEventListener("click", (event) => {
      choose(event.target.tagName === "IMG" ? photo : nearest(event, photo));
    });
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
  function nearest(event, marked) {
    const box = surface.getBoundingClientRect();
    const distance = (photo) => {
      const [left, top] = onScreen(photo.estimate);
      return Math.hypot(event.clientX - box.left - left, event.clientY - box.top - top);
    };
    return listed.reduce((best, photo) => (distance(photo) < distance(best) ? photo : best), marked);
  }

  /** Brings a marker and its thumbnail to the front, or lets it go. */
  function point(photo, on) {
    if (on) addThumbnail(photo);
    photo.marker.classList.toggle("pointed", on);
  }

  function addThumbnail(photo) {
    if (photo.marker.childElementCount > 1) return; // it has one
    photo.marker.append(picture(photo.image, "thumbnail", ""));
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
    const onMap = event.target === canvas || event.target.id === "markers";
    if (onMap) zoomBy(2, event.clientX - box.left, event.clientY - box.top);
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
