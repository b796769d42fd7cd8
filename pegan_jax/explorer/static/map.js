// The map: tiles of the plane that a model is a function of.
//
// The view is a lattice of pixels, one per CSS pixel. `angle` turns it: a point q of the lattice lies at turn(q, angle)
// on the map. Levels of zoom are steps of a quarter of a doubling; between steps, pictures are scaled until it rests.

import {$, address, ask, copy, failed, keys, save, tell, wrap} from './page.js';
import {StyleControls} from './style.js';

const STEPS = 4;  // levels per doubling
const COARSE = 8;  // levels between coarse and fine tiles: a quarter of the resolution
const KEPT = 400;  // tiles
const AT_ONCE = 4;  // requests

const tenth = angle => Math.round(10 * angle) / 10;
const pitchOf = level => 2 ** (-level / STEPS);

/** rotate(degrees) of pegan_jax.coords, of a point. */
function turn([x, y], degrees) {
  const c = Math.cos(degrees * Math.PI / 180), s = Math.sin(degrees * Math.PI / 180);
  return [c * x - s * y, s * x + c * y];
}

export class MapView {
  constructor(root) {
    this.root = root;
    this.canvas = $(root, 'view');
    this.context = this.canvas.getContext('2d');
    this.tiles = new Map();  // key -> {image, level, column, row}, in the order of use
    this.loading = new Map();  // key -> AbortController
    this.queue = [];
    this.computed = 0;
    this.style = new StyleControls($(root, 'style'), () => this.changed(), style => this.thumbnail(style));
    this.gestures();
    $(root, 'angle').addEventListener('input', () => this.rotate(Number($(root, 'angle').value)));
    root.addEventListener('click', event => this.act(event.target.closest('[data-do]')?.dataset.do));
    new ResizeObserver(() => this.resize()).observe(this.canvas.parentElement);
  }

  // What is seen

  show(model, state) {
    if (this.model !== model) this.forget();
    this.model = model;
    this.side = model.tile;
    this.anchor = null;  // the pixel about which was zoomed last
    this.style.begin(model, state);
    this.resize();
    this.home();
    for (const name of ['x', 'y', 'level', 'angle']) {
      if (Number.isFinite(Number(state[name] ?? NaN))) this.view[name] = Number(state[name]);
    }
    this.settle();
  }

  hide() {
    clearTimeout(this.resting);
    this.style.stop();
    this.wanted([]);
  }

  /** The training frame, as large as it fits. */
  home() {
    const [x, y] = this.model.frame;
    const fits = Math.min(this.canvas.width / (2 * x), this.canvas.height / (2 * y));
    this.view = {x: 0, y: 0, level: Math.floor(STEPS * Math.log2(fits) + 1e-9), angle: 0};
  }

  resize() {
    const {clientWidth, clientHeight} = this.canvas.parentElement;
    if (!clientWidth || (this.canvas.width === clientWidth && this.canvas.height === clientHeight)) return;
    [this.canvas.width, this.canvas.height] = [clientWidth, clientHeight];
    if (this.view) this.settle();
  }

  /** The lattice of the view at rest: indices of its first pixel, and the distance of two. */
  lattice() {
    const pitch = pitchOf(this.view.level);
    const [x, y] = turn([this.view.x, this.view.y], -this.view.angle);
    return {pitch, column: Math.round(x / pitch - this.canvas.width / 2), row: Math.round(y / pitch - this.canvas.height / 2)};
  }

  /** Where a pixel of the canvas is on the map. */
  at(px, py) {
    const pitch = pitchOf(this.view.level);
    const [x, y] = turn([(px - this.canvas.width / 2) * pitch, (py - this.canvas.height / 2) * pitch], this.view.angle);
    return [this.view.x + x, this.view.y + y];
  }

  // Changes

  /** Moves the view so that the place under a pixel is under another one, at a level and angle. */
  move(from, to, level = this.view.level, angle = this.view.angle) {
    const place = this.at(...from);
    if (angle !== this.view.angle) this.keepGhost();
    Object.assign(this.view, {level, angle: wrap(angle)});
    const now = this.at(...to);
    this.view.x += place[0] - now[0];
    this.view.y += place[1] - now[1];
    this.moved();
  }

  get middle() {
    return [this.canvas.width / 2, this.canvas.height / 2];
  }

  rotate(degrees) {
    this.move(this.middle, this.middle, this.view.level, degrees);
  }

  zoom(steps, place = this.middle) {
    this.anchor = place;
    this.move(place, place, this.view.level + steps);
  }

  /** After a change that goes on: draws what there is, and asks for the rest when the level rests. */
  moved() {
    this.began ??= performance.now();
    this.canvas.dataset.ready = 'false';
    clearTimeout(this.resting);
    if (Number.isInteger(this.view.level)) this.load();
    else this.resting = setTimeout(() => this.settle(), 120);
    this.draw();
  }

  /** At rest, the level is whole, and the angle one of tenths of degrees. */
  settle() {
    const place = this.anchor ?? this.middle;
    this.anchor = null;
    this.move(place, place, Math.round(this.view.level), tenth(this.view.angle));
  }

  /** Another image: what was seen stays until its tiles come. */
  changed() {
    this.keepGhost();
    this.moved();
  }

  /** Keeps a picture of the canvas, to be drawn under tiles that are not there yet. */
  keepGhost() {
    const image = document.createElement('canvas');
    [image.width, image.height] = [this.canvas.width, this.canvas.height];
    this.draw(false, this.drawn);
    image.getContext('2d').drawImage(this.canvas, 0, 0);
    this.ghost = {image, ...this.view};
  }

  // Tiles

  params(level, column, row) {
    const pitch = pitchOf(level);
    return {
      model: this.model.index, ...this.style.value, angle: this.view.angle, pitch,
      x: (column * this.side + 0.5) * pitch, y: (row * this.side + 0.5) * pitch,
    };
  }

  /** What all tiles of this image and angle begin with. */
  get series() {
    return JSON.stringify([this.model.index, this.style.value, this.view.angle]);
  }

  /** Tiles of a level that are seen, those in the middle first: [column, row]. */
  seen(level) {
    const {pitch, column, row} = this.lattice(), size = this.side * pitchOf(level) / pitch;
    const [left, top] = [column / size, row / size];
    const [right, bottom] = [(column + this.canvas.width) / size, (row + this.canvas.height) / size];
    const found = [];
    for (let j = Math.floor(top); j < bottom; j++) {
      for (let i = Math.floor(left); i < right; i++) found.push([i, j]);
    }
    const far = ([i, j]) => Math.hypot(i + 0.5 - (left + right) / 2, j + 0.5 - (top + bottom) / 2);
    return found.sort((a, b) => far(a) - far(b));
  }

  /** Asks for the tiles of the view, coarse ones first; what is no longer wanted is not asked for any longer. */
  load() {
    const {series} = this;
    const [coarse, fine] = [this.view.level - COARSE, this.view.level].map(level => this.seen(level).map(([column, row]) => ({
      key: `${series}|${level}|${column}|${row}`, series, level, column, row, params: this.params(level, column, row),
    })));
    // Coarse tiles are for waiting, which is short where few fine ones are missing.
    const missing = fine.filter(tile => !this.tiles.has(tile.key)).length;
    this.wanted(missing > 2 * coarse.length ? [...coarse, ...fine] : fine);
    address.write({view: 'map', model: this.model.index, ...this.style.value, ...this.view});
  }

  wanted(tiles) {
    const keys = new Set(tiles.map(tile => tile.key));
    for (const [key, controller] of this.loading) if (!keys.has(key)) controller.abort();
    this.fine = tiles.filter(tile => tile.level === this.view?.level);
    this.queue = tiles.filter(tile => !this.tiles.has(tile.key));
    if (this.queue.length) this.style.stop();
    this.next();
  }

  next() {
    for (const tile of this.queue) {
      if (this.loading.size >= AT_ONCE) break;
      if (!this.loading.has(tile.key)) this.fetch(tile);
    }
    this.told();
  }

  async fetch(tile) {
    const controller = new AbortController();
    this.loading.set(tile.key, controller);
    try {
      const response = await ask('tile', tile.params, {signal: controller.signal});
      const image = await createImageBitmap(await response.blob());
      this.computed++;
      this.keep(tile.key, {...tile, image});
      this.queue = this.queue.filter(other => other.key !== tile.key);
      this.draw();
    } catch (error) {
      if (error.name !== 'AbortError') this.queue = [];
      failed(error);
    } finally {
      this.loading.delete(tile.key);
      this.next();
    }
  }

  keep(key, tile) {
    this.tiles.set(key, tile);
    for (const [oldest, {image}] of this.tiles) {
      if (this.tiles.size <= Math.max(KEPT, 2 * this.fine.length)) break;
      image.close();
      this.tiles.delete(oldest);
    }
  }

  forget() {
    this.wanted([]);
    for (const {image} of this.tiles.values()) image.close();
    this.tiles.clear();
    this.ghost = null;
  }

  /** Says how far the view is, on the page and to tests. */
  told() {
    const ready = this.fine?.length && this.fine.every(tile => this.tiles.has(tile.key));
    if (ready && this.began) {
      this.canvas.dataset.ms = performance.now() - this.began;
      this.began = this.ghost = null;
      this.style.pictures();
    }
    const left = this.queue.length;
    const took = Number(this.canvas.dataset.ms);
    this.canvas.dataset.ready = Boolean(ready);
    this.canvas.dataset.tiles = this.computed;
    $(this.root, 'state').textContent = left ? `${left} tiles to come` : took ? `${took.toFixed(0)} ms` : '';
  }

  // Drawing

  /** Draws tiles of a series; those of the view, unless it has just changed. */
  draw(outline = true, series = this.series) {
    const {canvas, context} = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = '#0a0c10';
    context.fillRect(0, 0, canvas.width, canvas.height);
    const pitch = pitchOf(this.view.level);
    if (this.ghost) {
      const {image, x, y, level, angle} = this.ghost, scale = pitchOf(level) / pitch;
      const [dx, dy] = turn([x - this.view.x, y - this.view.y], -this.view.angle);
      context.setTransform(1, 0, 0, 1, canvas.width / 2 + dx / pitch, canvas.height / 2 + dy / pitch);
      context.rotate((angle - this.view.angle) * Math.PI / 180);
      context.scale(scale, scale);
      context.drawImage(image, -image.width / 2, -image.height / 2);
      context.setTransform(1, 0, 0, 1, 0, 0);
    }
    const {level} = this.view;
    const here = [...this.tiles.values()].filter(tile => tile.series === series);
    here.sort((a, b) => (a.level === level) - (b.level === level) || a.level - b.level);
    const first = Number.isInteger(level) ? this.lattice() : this.exactLattice();
    for (const tile of here) {
      const size = this.side * pitchOf(tile.level) / pitch;
      const [left, top] = [tile.column * size - first.column, tile.row * size - first.row];
      if (left > canvas.width || top > canvas.height || left + size < 0 || top + size < 0) continue;
      context.imageSmoothingEnabled = tile.level !== level;
      context.drawImage(tile.image, left, top, size, size);
      if (tile.level === level) this.keep(tile.key, this.used(tile));
    }
    if (!outline) return;
    this.drawn = series;
    this.outline();
    this.read();
  }

  used(tile) {
    this.tiles.delete(tile.key);
    return tile;
  }

  exactLattice() {
    const pitch = pitchOf(this.view.level);
    const [x, y] = turn([this.view.x, this.view.y], -this.view.angle);
    return {pitch, column: x / pitch - this.canvas.width / 2, row: y / pitch - this.canvas.height / 2};
  }

  outline() {
    const {context, canvas} = this, pitch = pitchOf(this.view.level), [x, y] = this.model.frame;
    const corners = [[-x, -y], [x, -y], [x, y], [-x, y]].map(([cx, cy]) => {
      const [dx, dy] = turn([cx - this.view.x, cy - this.view.y], -this.view.angle);
      return [canvas.width / 2 + dx / pitch, canvas.height / 2 + dy / pitch];
    });
    context.lineWidth = 1.5;
    for (const [colour, offset] of [['#000a', 0], ['#fffd', 6]]) {
      context.strokeStyle = colour;
      context.setLineDash([6, 6]);
      context.lineDashOffset = offset;
      context.beginPath();
      corners.forEach(([cx, cy], k) => context[k ? 'lineTo' : 'moveTo'](cx, cy));
      context.closePath();
      context.stroke();
    }
    context.setLineDash([]);
  }

  read() {
    const pitch = pitchOf(this.view.level), finer = 2 * this.model.frame[1] / this.model.size[0] / pitch;
    const [x, y] = this.pointer ?? [this.view.x, this.view.y];
    const digits = Math.min(Math.max(Math.ceil(-Math.log10(pitch)), 2), 12);
    const far = pitch < 2 ** -23 * Math.max(Math.abs(this.view.x), Math.abs(this.view.y), 2 ** -10);
    $(this.root, 'place').textContent =
      `${x.toFixed(digits)}, ${y.toFixed(digits)} · ${finer >= 1 ? `${show(finer)}× finer` : `${show(1 / finer)}× coarser`}` +
      `${this.view.angle ? ` · ${tenth(this.view.angle)}°` : ''}${far ? ' · finer than float32 tells positions apart' : ''}`;
    $(this.root, 'angle-shown').value = `${tenth(this.view.angle)}°`;
    $(this.root, 'angle').value = this.view.angle;
  }

  // Gestures

  gestures() {
    const {canvas} = this, fingers = new Map();
    const place = event => {
      const {left, top} = canvas.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    canvas.addEventListener('pointerdown', event => {
      if (event.button > 1) return;
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
      canvas.classList.add('busy');
    });
    canvas.addEventListener('pointermove', event => {
      const now = place(event), before = fingers.get(event.pointerId);
      this.pointer = this.at(...now);
      if (!before) return this.read();
      if (fingers.size === 2) {
        const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
        const span = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
        const direction = ([x, y]) => Math.atan2(y - other[1], x - other[0]) * 180 / Math.PI;
        const middle = ([x, y]) => [(x + other[0]) / 2, (y + other[1]) / 2];
        this.anchor = middle(now);
        const turned = this.view.angle - (direction(now) - direction(before));
        this.move(middle(before), middle(now), this.view.level + STEPS * Math.log2(span(now) / span(before)), turned);
      } else if (event.shiftKey) {
        const [cx, cy] = [canvas.width / 2, canvas.height / 2];
        const direction = ([x, y]) => Math.atan2(y - cy, x - cx) * 180 / Math.PI;
        this.rotate(this.view.angle - (direction(now) - direction(before)));
      } else {
        this.move(before, now);
      }
      fingers.set(event.pointerId, now);
    });
    for (const end of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(end, event => {
        if (!fingers.delete(event.pointerId)) return;
        canvas.classList.remove('busy');
        if (!fingers.size) this.settle();
      });
    }
    canvas.addEventListener('pointerleave', () => { this.pointer = null; });
    canvas.addEventListener('wheel', event => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 33 : 1;
      this.zoom(-event.deltaY * lines / 100, place(event));  // a notch of a mouse is a step
    }, {passive: false});
    const step = 64, pans = {arrowleft: [step, 0], arrowright: [-step, 0], arrowup: [0, step], arrowdown: [0, -step]};
    keys(this.root, key => {
      if (pans[key]) this.move([0, 0], pans[key]);
      else if (key === '+' || key === '=') this.act('in');
      else if (key === '-') this.act('out');
      else if (key === '0') this.act('home');
      else if (key === '[') this.rotate(tenth(this.view.angle + 5));
      else if (key === ']') this.rotate(tenth(this.view.angle - 5));
      else if (key === 'r') this.style.dice();
      else return false;
      return true;
    });
  }

  async act(what) {
    if (what === 'in') this.zoom(2);
    if (what === 'out') this.zoom(-2);
    if (what === 'home') {
      this.keepGhost();
      this.home();
      this.moved();
    }
    try {
      if (what === 'save') await save('save', this.file(), `seed${this.style.value.seed}.png`);
      if (what === 'cli' || what === 'python') {
        const found = (await (await ask('command', this.file())).json())[what];
        if (found) await copy(found);
        else tell('No command makes this view (two seeds, or a frame that is no square at an angle); copy the Python lines.');
      }
    } catch (error) {
      failed(error);
    }
  }

  /** What is seen, as a lattice of the wanted size: the whole view, or the part of it that has that aspect. */
  file() {
    const {pitch, column, row} = this.lattice();
    const [width, height] = ['width', 'height'].map(role => Number($(this.root, role).value) || 1024);
    const scale = Math.min(this.canvas.width / width, this.canvas.height / height), fine = pitch * scale;
    const left = (column + (this.canvas.width - width * scale) / 2) * pitch;
    const top = (row + (this.canvas.height - height * scale) / 2) * pitch;
    return {
      model: this.model.index, ...this.style.value, angle: this.view.angle, width, height,
      bits: $(this.root, 'bits').value, pitch: fine, x: left + fine / 2, y: top + fine / 2,
    };
  }

  thumbnail(style) {
    const pitch = 2 / this.side;
    const params = {model: this.model.index, ...style, pitch, x: -1 + pitch / 2, y: -1 + pitch / 2};
    return {path: 'tile', params};
  }
}

const show = number => number >= 100 ? number.toPrecision(3).replace(/e\+?/, ' · 10^') : Number(number.toPrecision(2)).toString();
