// The canvas: whole images, which some models move, turn and resize; and what their layers give.

import {$, address, api, ask, copy, failed, keys, save, tell, wrap} from './page.js';
import {StyleControls} from './style.js';

const HANDLE = 9;  // pixels

export class CanvasView {
  constructor(root) {
    this.root = root;
    this.canvas = $(root, 'view');
    this.context = this.canvas.getContext('2d');
    this.style = new StyleControls($(root, 'style'), () => this.ask(), style => this.thumbnail(style));
    for (const role of ['width', 'height']) $(root, role).addEventListener('change', () => this.ask());
    $(root, 'channel').addEventListener('input', () => this.layerPictures());
    for (const kind of ['channels', 'spectrum']) {
      $(root, kind).onerror = () => failed(new Error(`The picture of the ${kind} of ${this.layer} could not be loaded.`));
    }
    $(root, 'angle').addEventListener('input', () => {
      this.change({angle: Number($(root, 'angle').value)});
    });
    root.addEventListener('click', event => this.act(event.target.closest('[data-do]')?.dataset.do));
    this.gestures();
    new ResizeObserver(() => this.resize()).observe(this.canvas.parentElement);
  }

  show(model, state) {
    if (this.model !== model) {
      this.image = null;
      this.layered = false;
      this.noLayers();
    }
    this.model = model;
    this.place = {dx: Number(state.dx) || 0, dy: Number(state.dy) || 0, angle: Number(state.angle) || 0};
    $(this.root, 'sizes').hidden = !model.sized;
    $(this.root, 'moves').hidden = !model.moved;
    for (const role of ['turns', 'turns-hint']) $(this.root, role).hidden = !model.turned;
    $(this.root, 'height').value = state.height ?? model.size[0];
    $(this.root, 'width').value = state.width ?? model.size[1];
    this.style.begin(model, state);
    this.resize();
    this.ask();
  }

  hide() {
    this.style.stop();
  }

  get params() {
    const size = this.model.sized ? {height: $(this.root, 'height').value, width: $(this.root, 'width').value} : {};
    return {model: this.model.index, ...this.style.value, ...size, ...(this.model.moved ? this.place : {})};
  }

  /** The address has a size only if it was typed, so that another model begins with its own. */
  write() {
    const {height, width, ...rest} = this.params, [h, w] = this.model.size;
    const typed = this.model.sized && (Number(height) !== h || Number(width) !== w);
    address.write({view: 'canvas', ...rest, ...(typed ? {height, width} : {})});
  }

  // One request is under way at a time; when it is answered, the newest wish is next.

  async ask() {
    this.write();
    this.style.stop();
    this.canvas.dataset.ready = 'false';
    this.draw();
    if (this.asking) {
      this.again = true;
      return;
    }
    this.asking = true;
    do {
      this.again = false;
      const began = performance.now(), place = {...this.place}, {model} = this;
      try {
        const image = await createImageBitmap(await (await ask('picture', this.params)).blob());
        if (model !== this.model) continue;
        const ms = performance.now() - began;
        this.rate = this.again && this.rate ? 0.7 * this.rate + 0.3 * ms : ms;
        Object.assign(this, {image, shown: place});
        $(this.root, 'state').textContent = `${ms.toFixed(0)} ms · ${(1000 / this.rate).toFixed(1)} images/s`;
      } catch (error) {
        failed(error);
      }
      this.draw();
    } while (this.again);
    this.asking = false;
    this.canvas.dataset.ready = 'true';
    if (!this.root.hidden) this.style.pictures();
    if (this.layered) this.layers();
  }

  resize() {
    const {clientWidth, clientHeight} = this.canvas.parentElement;
    if (!clientWidth) return;
    [this.canvas.width, this.canvas.height] = [clientWidth, clientHeight];
    this.draw();
  }

  /** Where the image is on the canvas: its left, top, and the side of its pixels. */
  frame() {
    const {width, height} = this.image;
    const fits = Math.min((this.canvas.width - 40) / width, (this.canvas.height - 60) / height);
    const scale = fits >= 1 ? Math.min(Math.floor(fits), 24) : fits;
    return {left: Math.round((this.canvas.width - width * scale) / 2), top: Math.round((this.canvas.height - height * scale) / 2), scale};
  }

  /** CSS pixels per unit of the scene, the shorter side of training images. */
  get unit() {
    return Math.min(...this.model.size) * this.frame().scale;
  }

  handle() {
    const {left, top, scale} = this.frame(), {dx, dy, angle} = this.place, reach = 0.32 * this.unit;
    const [x, y] = [left + this.image.width * scale / 2 + dx * this.unit, top + this.image.height * scale / 2 + dy * this.unit];
    const radians = angle * Math.PI / 180;
    return {x, y, tip: [x + reach * Math.cos(radians), y - reach * Math.sin(radians)]};
  }

  draw() {
    const {canvas, context} = this;
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    const {left, top, scale} = this.frame();
    context.imageSmoothingEnabled = scale < 1;
    context.drawImage(this.image, left, top, this.image.width * scale, this.image.height * scale);
    $(this.root, 'place').textContent = `${this.image.width} × ${this.image.height}`;
    if (!this.model.moved) return;
    const {x, y, tip} = this.handle();
    $(this.root, 'place').textContent += ` · moved ${this.place.dx.toFixed(2)}, ${this.place.dy.toFixed(2)} · ${this.place.angle.toFixed(0)}°`;
    $(this.root, 'angle-shown').value = `${this.place.angle.toFixed(0)}°`;
    $(this.root, 'angle').value = this.place.angle;
    for (const [colour, width] of [['#000b', 4], ['#fff', 1.8]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(x - 8, y); context.lineTo(x + 8, y);
      context.moveTo(x, y - 8); context.lineTo(x, y + 8);
      if (this.model.turned) {
        context.moveTo(x, y); context.lineTo(...tip);
      }
      context.stroke();
      if (!this.model.turned) continue;
      context.beginPath();
      context.arc(...tip, HANDLE, 0, 2 * Math.PI);
      context.stroke();
    }
    if (!this.model.turned) return;
    context.fillStyle = '#6aa5ff';
    context.fill();
  }

  gestures() {
    const {canvas} = this;
    let grip = null;
    canvas.addEventListener('pointerdown', event => {
      if (!this.image || !this.model.moved || grip || event.button > 1) return;
      canvas.setPointerCapture(event.pointerId);
      canvas.classList.add('busy');
      const {x, y, tip} = this.handle(), {left, top} = canvas.getBoundingClientRect();
      const [px, py] = [event.clientX - left, event.clientY - top];
      grip = this.model.turned && Math.hypot(px - tip[0], py - tip[1]) < 2 * HANDLE ? {turns: true, x, y} : {px, py};
      grip.id = event.pointerId;
    });
    canvas.addEventListener('pointermove', event => {
      if (event.pointerId !== grip?.id) return;
      const {left, top} = canvas.getBoundingClientRect();
      const [px, py] = [event.clientX - left, event.clientY - top];
      if (grip.turns) {
        this.place.angle = Math.round(Math.atan2(grip.y - py, px - grip.x) * 1800 / Math.PI) / 10;
      } else {
        this.place.dx += (px - grip.px) / this.unit;
        this.place.dy += (py - grip.py) / this.unit;
        Object.assign(grip, {px, py});
      }
      this.ask();
    });
    for (const end of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(end, event => {
        if (event.pointerId !== grip?.id) return;
        grip = null;
        canvas.classList.remove('busy');
      });
    }
    const step = 1 / 16, moves = {arrowleft: [-step, 0], arrowright: [step, 0], arrowup: [0, -step], arrowdown: [0, step]};
    keys(this.root, key => {
      const {place, model: {moved, turned}} = this;
      if (key === 'r') this.style.dice();
      else if (key === '0' && moved) this.act('home');
      else if (moves[key] && moved) this.change({dx: place.dx + moves[key][0], dy: place.dy + moves[key][1]});
      else if (key === '[' && turned) this.change({angle: wrap(place.angle + 5)});
      else if (key === ']' && turned) this.change({angle: wrap(place.angle - 5)});
      else return false;
      return true;
    });
  }

  change(place) {
    Object.assign(this.place, place);
    this.ask();
  }

  async act(what) {
    try {
      if (what === 'home') this.change({dx: 0, dy: 0, angle: 0});
      if (what === 'save') await save('picture', this.params, `seed${this.style.value.seed}.png`);
      if (what === 'cli' || what === 'python') {
        const found = (await (await ask('command', this.params)).json())[what];
        if (found) await copy(found);
        else tell('No command makes an image between two seeds; copy the Python lines.');
      }
      if (what === 'layers') {
        this.layered = true;
        await this.layers();
      }
    } catch (error) {
      failed(error);
    }
  }

  // Layers

  async layers() {
    const asked = JSON.stringify(this.params), current = () => this.layered && asked === JSON.stringify(this.params);
    let rows;
    try {
      rows = await (await ask('layers', this.params)).json();
    } catch (error) {
      if (!current()) return;
      this.noLayers();
      failed(error);
      return;
    }
    if (!current()) return;  // what is seen by now has been asked for
    const table = $(this.root, 'table');
    table.innerHTML = '<thead><tr><th>layer</th><th>size</th><th>mean</th><th title="standard deviation">std</th></tr></thead><tbody></tbody>';
    const [top] = rows[0].name.split('/', 1);
    const common = rows.every(row => row.name === 'image' || row.name.startsWith(`${top}/`)) ? top.length + 1 : 0;
    for (const {name, shape, mean, std} of rows) {
      const row = table.tBodies[0].insertRow();
      row.dataset.layer = name;
      row.insertCell().textContent = name === 'image' ? name : name.slice(common);
      row.cells[0].title = name;
      row.insertCell().textContent = `${shape[1]}×${shape[0]}×${shape[2]}`;
      for (const number of [mean, std]) row.insertCell().textContent = number === null ? 'not finite' : number.toFixed(3);
      row.onclick = () => { this.layer = name; this.layerPictures(); };
    }
    if (!rows.some(row => row.name === this.layer)) this.layer = rows.at(-1).name;
    this.layerPictures();
  }

  noLayers() {
    $(this.root, 'table').replaceChildren();
    $(this.root, 'layer').hidden = true;
  }

  layerPictures() {
    $(this.root, 'layer').hidden = false;
    for (const row of $(this.root, 'table').tBodies[0].rows) {
      row.setAttribute('aria-selected', row.dataset.layer === this.layer);
    }
    const channel = Math.max(Math.floor($(this.root, 'channel').value) || 0, 0);
    for (const kind of ['channels', 'spectrum']) {
      $(this.root, kind).src = api('layer', {...this.params, layer: this.layer, kind, channel});
    }
  }

  thumbnail(style) {
    return {path: 'picture', params: {model: this.model.index, ...style}};
  }
}
