// The inpainting view: a photograph, what should go from it, lines to follow, and what models make of that.

import {$, address, ask, copy, download, failed, tell} from './page.js';

const TINT = '#ff5a4f';
const STRIP = 124;  // CSS pixels at the bottom, for small pictures of results
const HUD = 36;  // CSS pixels at the bottom without results
const KEYS = {b: 'brush', e: 'eraser', p: 'pen', h: 'hand'};
const TYPED = 'textarea, select, input:not([type="checkbox"]):not([type="range"])';
const OF_A_PHOTOGRAPH = ['photo', 'file', 'name', 'image', 'strokes', 'undone', 'results'];
const SMALLEST = 0.02;  // CSS pixels per pixel of the photograph
const FAR = 4;  // times the side of the images of training: from there on a model sees too little of a photograph
const SMALLER = 2;  // times that side, where what models paint is still clean
const PAST = 3;  // photographs before "Go on from it" that are kept

function layer(width, height) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  return canvas.getContext('2d', {willReadFrequently: false});
}

export class PhotoView {
  constructor(root, models) {
    this.root = root;
    this.fillers = [
      ...models.filter(model => model.view === 'photo'),
      {index: 'biharmonic', name: 'biharmonic', system: 'smooth, no model'},
    ];
    this.canvas = $(root, 'view');
    this.context = this.canvas.getContext('2d');
    this.tool = 'brush';
    this.opened = 0;  // photographs that were asked for
    this.past = [];
    this.strokes = [];
    this.undone = [];
    this.stroke = null;  // the one that is being made
    this.results = [];
    this.chosen = null;  // the result that is seen; null: the photograph, to paint on
    this.divider = 0.5;
    this.controls();
    this.gestures();
    new ResizeObserver(() => this.resize()).observe(this.canvas.parentElement);
  }

  show() {
    this.visible = true;
    address.write({view: 'photo'});
    this.resize();
    this.refresh();
  }

  hide() {
    this.visible = false;
  }

  // Loading

  /** Opens a file; past: photographs to which undo goes back from it. Only the file that was opened last counts. */
  async open(file, past = []) {
    const turn = ++this.opened;
    try {
      tell(`Loading ${file.name ?? 'the photograph'} ...`, true);
      const response = await ask('photo', {}, {method: 'POST', body: file});
      const image = await createImageBitmap(await response.blob());
      if (turn !== this.opened) return;
      for (const {results} of [this, ...this.past]) {
        if (!past.some(earlier => earlier.results === results)) this.forget(results);
      }
      this.past = past;
      const longer = Math.max(image.width, image.height);
      $(this.root, 'size').max = Math.max(Math.round(longer / 4), 20);
      $(this.root, 'size').value = Math.max(Math.round(longer / 25), 3);
      const photo = response.headers.get('x-photo'), name = file.name ?? 'photo.png';
      this.begin({photo, file, name, image, strokes: [], undone: [], results: []});
      tell('', true);
    } catch (error) {
      if (turn === this.opened) failed(error);
    }
  }

  begin(photograph) {
    Object.assign(this, photograph, {stroke: null, chosen: null, fitted: true});
    this.hole = layer(this.image.width, this.image.height);
    this.lines = layer(this.image.width, this.image.height);
    $(this.root, 'results').hidden = true;
    this.suggest();
    this.repaint();
  }

  /** Makes a result the photograph; the one before is kept for undo. */
  async goOn({blob}) {
    const before = Object.fromEntries(OF_A_PHOTOGRAPH.map(name => [name, this[name]]));
    const file = new File([blob], `${this.stem}_filled.png`, {type: 'image/png'});
    await this.open(file, [...this.past, before].slice(-PAST));
  }

  get stem() {
    return this.name.replace(/\.\w+$/, '');
  }

  forget(results) {
    for (const {url} of results) URL.revokeObjectURL(url);
  }

  // Controls

  controls() {
    const {root} = this, list = $(root, 'fillers');
    for (const filler of this.fillers) {
      const label = document.createElement('label'), box = document.createElement('input'), kind = document.createElement('small');
      label.className = 'check';
      box.type = 'checkbox';
      box.checked = this.fillers.indexOf(filler) === 0;
      box.dataset.filler = filler.index;
      kind.textContent = filler.system + (filler.guided ? ', follows lines' : '');
      label.append(box, filler.name, kind);
      list.append(label);
    }
    root.addEventListener('click', event => {
      const button = event.target.closest('button');
      if (button?.dataset.tool) this.use(button.dataset.tool);
      if (button?.dataset.do) this.act(button.dataset.do);
    });
    $(root, 'tools').querySelector('[data-tool="pen"]').hidden = !this.fillers.some(filler => filler.guided);
    $(root, 'flow-label').hidden = !this.fillers.some(filler => filler.attention);
    for (const role of ['strategy', 'margin', 'limit']) {
      $(root, role).addEventListener('input', () => {
        this.decided = true;
        this.lengths();
      });
    }
    list.addEventListener('change', () => this.suggest());
    $(root, 'size').oninput = () => this.refresh();
    const input = $(root, 'file'), drop = $(root, 'drop');
    input.onchange = () => { if (input.files[0]) this.open(input.files[0]); input.value = ''; };
    // The whole window: beside the stage, the browser would leave the page for the file.
    window.addEventListener('dragover', event => {
      if (!this.visible) return;
      event.preventDefault();
      drop.classList.add('over');
    });
    window.addEventListener('dragleave', () => drop.classList.remove('over'));
    window.addEventListener('drop', event => {
      if (!this.visible) return;
      event.preventDefault();
      drop.classList.remove('over');
      if (event.dataTransfer.files[0]) this.open(event.dataTransfer.files[0]);
    });
    window.addEventListener('paste', event => {
      const file = [...event.clipboardData.files].find(other => other.type.startsWith('image/'));
      if (this.visible && file) this.open(file);
    });
    window.addEventListener('beforeunload', event => { if (this.painted.length) event.preventDefault(); });
    window.addEventListener('keydown', event => {
      if (!this.visible || event.target.matches(TYPED)) return;
      const key = event.key.toLowerCase();
      if ((event.ctrlKey || event.metaKey) && key === 'z') this.act(event.shiftKey ? 'redo' : 'undo');
      else if ((event.ctrlKey || event.metaKey) && key === 'y') this.act('redo');
      else if (event.ctrlKey || event.metaKey || event.altKey) return;
      else if (KEYS[key] && !$(root, 'tools').querySelector(`[data-tool="${KEYS[key]}"]`).hidden) this.use(KEYS[key]);
      else if (key === '[' || key === ']') {
        $(root, 'size').value = Number($(root, 'size').value) * (key === ']' ? 1.15 : 1 / 1.15) + (key === ']' ? 1 : -1);
        this.refresh();
      } else if (key === 'enter' && !event.target.matches('button')) this.act('run');
      else if (key === ' ' && !event.target.matches('button, input')) this.space = true;
      else if (key === '0' && this.image) { this.fitted = true; this.refresh(); }
      else return;
      event.preventDefault();
    });
    window.addEventListener('keyup', event => { if (event.key === ' ') this.space = false; });
  }

  /** Shows the length that the strategy has. */
  lengths() {
    const name = $(this.root, 'strategy').value;
    $(this.root, 'margin-label').hidden = name !== 'crop';
    $(this.root, 'limit-label').hidden = name !== 'resize';
  }

  /** Until somebody chooses: a photograph far larger than what the first model learnt from is made smaller for it. */
  suggest() {
    if (this.decided || !this.image) return;
    const ticked = ({index}) => $(this.root, 'fillers').querySelector(`[data-filler="${index}"]`).checked;
    const side = Math.max(...this.fillers.find(filler => filler.size && ticked(filler))?.size ?? [Infinity]);
    const far = Math.max(this.image.width, this.image.height) > FAR * side;
    $(this.root, 'strategy').value = far ? 'resize' : 'crop';
    if (far) $(this.root, 'limit').value = Math.max(SMALLER * side, $(this.root, 'limit').min);
    this.lengths();
  }

  use(tool) {
    this.tool = tool;
    if (tool !== 'hand') this.choose(null);
    this.refresh();
  }

  get options() {
    const of = role => $(this.root, role).value;
    return {photo: this.photo, strategy: of('strategy'), margin: of('margin'), limit: of('limit')};
  }

  /** The fillers that are ticked. Raises an error if there are none. */
  get ticked() {
    const names = [...$(this.root, 'fillers').querySelectorAll('input:checked')].map(box => box.dataset.filler);
    const ticked = this.fillers.filter(filler => names.includes(`${filler.index}`));
    if (!ticked.length) throw new Error('Choose what shall fill: a model, or the biharmonic baseline.');
    return ticked;
  }

  /** Buttons that work, pressed tools, numbers: after every change. */
  refresh() {
    const {root} = this, loaded = Boolean(this.image);
    $(root, 'drop').hidden = loaded;
    for (const button of $(root, 'tools').children) button.setAttribute('aria-pressed', button.dataset.tool === this.tool);
    $(root, 'size-shown').value = `${$(root, 'size').value} px`;
    const able = (what, yes) => { root.querySelector(`[data-do="${what}"]`).disabled = !yes; };
    able('undo', this.strokes.length || this.past.length);
    able('redo', this.undone.length);
    able('clear', this.painted.length);
    able('run', this.painted.length && !this.running);
    able('mask', loaded);
    able('cli', loaded);
    able('side', this.results.length > 1);
    able('keep', this.chosen);
    able('save', this.chosen);
    root.querySelector('[data-do="run"]').textContent = this.running ? `Filling ... ${this.running}` : 'Fill';
    const strip = $(root, 'strip');
    const entries = this.results.length ? [null, ...this.results] : [];
    strip.replaceChildren(...entries.map(result => {
      const button = document.createElement('button'), image = document.createElement('img'), name = document.createElement('span');
      image.src = result?.url ?? this.original;
      image.alt = '';
      name.textContent = result?.name ?? 'photograph';
      button.append(image, name);
      button.setAttribute('aria-pressed', result === this.chosen);
      button.onclick = () => this.choose(result);
      return button;
    }));
    if (loaded && this.fitted && !this.stroke) this.fit();
    this.draw();
  }

  choose(result) {
    this.chosen = result;
    $(this.root, 'results').hidden = true;
    this.refresh();
  }

  // Painting: strokes are kept, so that the last one can be taken back. To clear everything is one of them.

  /** The strokes since everything was cleared. */
  get painted() {
    return this.strokes.slice(this.strokes.findLastIndex(stroke => stroke.tool === 'clear') + 1);
  }

  paint({tool, size, points}, from = 0) {
    if (tool === 'clear') return this.wipe();
    for (const target of {brush: [this.hole], pen: [this.lines], eraser: [this.hole, this.lines]}[tool]) {
      target.globalCompositeOperation = tool === 'eraser' ? 'destination-out' : 'source-over';
      target.fillStyle = target.strokeStyle = tool === 'pen' ? '#fff' : TINT;
      target.lineWidth = size;
      target.lineCap = target.lineJoin = 'round';
      target.beginPath();
      if (from) {
        target.moveTo(...points[from - 1]);
        for (const point of points.slice(from)) target.lineTo(...point);
        target.stroke();
      } else {  // a line of no length would paint nothing
        target.arc(...points[0], size / 2, 0, 2 * Math.PI);
        target.fill();
      }
    }
    if (!from && points.length > 1) this.paint({tool, size, points}, 1);
  }

  wipe() {
    for (const context of [this.hole, this.lines]) context.clearRect(0, 0, this.image.width, this.image.height);
  }

  repaint() {
    this.wipe();
    for (const stroke of this.strokes) this.paint(stroke);
    this.refresh();
  }

  add(stroke) {
    this.strokes.push(stroke);
    this.undone = [];
    this.refresh();
  }

  undo() {
    if (this.strokes.length) this.undone.push(this.strokes.pop());
    else if (this.past.length) {
      this.forget(this.results);
      return this.begin(this.past.pop());
    }
    this.choose(null);
    this.repaint();
  }

  redo() {
    if (!this.undone.length) return;
    this.strokes.push(this.undone.pop());
    this.choose(null);
    this.repaint();
  }

  // Where the photograph is on the canvas, in CSS pixels; the canvas has those of the device.

  get stage() {
    const {clientWidth, clientHeight} = this.canvas.parentElement;
    return [clientWidth, clientHeight];
  }

  fit() {
    const [width, height] = this.stage;
    const free = Math.max(height - (this.results.length ? STRIP : HUD), height / 2);
    const scale = Math.max(Math.min((width - 24) / this.image.width, (free - 24) / this.image.height, 8), SMALLEST);
    this.at = {scale, x: (width - this.image.width * scale) / 2, y: (free - this.image.height * scale) / 2};
  }

  resize() {
    const [width, height] = this.stage;
    if (!width) return;
    this.ratio = window.devicePixelRatio;
    [this.canvas.width, this.canvas.height] = [Math.round(width * this.ratio), Math.round(height * this.ratio)];
    if (this.image && this.fitted) this.fit();
    this.draw();
  }

  move(dx, dy) {
    this.fitted = false;
    this.at.x += dx;
    this.at.y += dy;
  }

  draw() {
    const {canvas, context} = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    const {scale, x, y} = this.at, {width, height} = this.image, {ratio} = this;
    canvas.dataset.at = `${scale} ${x} ${y}`;
    context.setTransform(scale * ratio, 0, 0, scale * ratio, x * ratio, y * ratio);
    context.imageSmoothingEnabled = scale * ratio < 2;
    context.drawImage(this.image, 0, 0);
    if (this.chosen) {
      const cut = width * this.divider;
      context.drawImage(this.chosen.image, cut, 0, width - cut, height, cut, 0, width - cut, height);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      const middle = x + cut * scale;
      context.fillStyle = '#fff';
      context.fillRect(middle - 1, y, 2, height * scale);
      context.beginPath();
      context.arc(middle, y + height * scale / 2, 14, 0, 2 * Math.PI);
      context.fill();
      context.fillStyle = '#12151c';
      context.font = '600 15px system-ui, sans-serif';
      context.textAlign = 'center';
      context.textBaseline = 'middle';
      context.fillText('◂▸', middle, y + height * scale / 2);
    } else {
      context.globalAlpha = 0.55;
      context.drawImage(this.hole.canvas, 0, 0);
      context.globalAlpha = 1;
      context.drawImage(this.lines.canvas, 0, 0);
      if (this.pointer && this.tool !== 'hand') {
        context.setTransform(ratio, 0, 0, ratio, 0, 0);
        context.beginPath();
        context.arc(...this.pointer, this.size * scale / 2, 0, 2 * Math.PI);
        context.strokeStyle = '#000a';
        context.lineWidth = 3;
        context.stroke();
        context.strokeStyle = '#fff';
        context.lineWidth = 1.3;
        context.stroke();
      }
    }
    const shown = this.chosen ? `photograph | ${this.chosen.name}` : `${this.name}`;
    $(this.root, 'place').textContent = `${shown} · ${width} × ${height} · ${(100 * scale).toFixed(0)} %`;
    $(this.root, 'state').textContent = this.chosen ? `${this.chosen.seconds.toFixed(1)} s` : '';
  }

  get size() {
    const size = Number($(this.root, 'size').value);
    return this.tool === 'pen' ? Math.max(size / 12, 1.5) : size;
  }

  gestures() {
    const {canvas} = this, fingers = new Map();
    let drag = null;
    const place = event => {
      const {left, top} = canvas.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    const pixel = ([px, py]) => [(px - this.at.x) / this.at.scale, (py - this.at.y) / this.at.scale];
    canvas.addEventListener('pointerdown', event => {
      if (!this.image || event.button > 1) return;
      canvas.setPointerCapture(event.pointerId);
      const now = place(event);
      fingers.set(event.pointerId, now);
      if (fingers.size === 2 && this.stroke) {  // it was the first of two fingers
        this.stroke = null;
        this.repaint();
      }
      if (fingers.size === 2) drag = 'pinch';
      else if (event.button === 1 || this.space || this.tool === 'hand' && !this.chosen) drag = 'pan';
      else if (this.chosen) drag = Math.abs(now[0] - this.at.x - this.image.width * this.divider * this.at.scale) < 24 ? 'divide' : 'pan';
      else {
        this.stroke = {tool: this.tool, size: this.size, points: [pixel(now)]};
        this.paint(this.stroke);
        this.draw();
      }
    });
    canvas.addEventListener('pointermove', event => {
      if (!this.image) return;
      const now = place(event), before = fingers.get(event.pointerId);
      this.pointer = event.pointerType === 'touch' ? null : now;
      if (before && drag === 'pinch' && fingers.size === 2) {
        const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
        const span = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
        this.zoom(span(now) / span(before), now.map((v, k) => (v + other[k]) / 2));
        this.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      } else if (before && drag === 'pan') {
        this.move(now[0] - before[0], now[1] - before[1]);
      } else if (before && drag === 'divide') {
        this.divider = Math.min(Math.max(pixel(now)[0] / this.image.width, 0), 1);
      } else if (before && this.stroke) {
        this.stroke.points.push(pixel(now));
        this.paint(this.stroke, this.stroke.points.length - 1);
      }
      if (before) fingers.set(event.pointerId, now);
      this.draw();
    });
    for (const end of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(end, event => {
        fingers.delete(event.pointerId);
        if (fingers.size) return;
        drag = null;
        const {stroke} = this;
        this.stroke = null;
        if (stroke) this.add(stroke);
      });
    }
    canvas.addEventListener('pointerleave', () => { this.pointer = null; this.draw(); });
    canvas.addEventListener('wheel', event => {
      event.preventDefault();
      if (this.image) this.zoom(2 ** (-event.deltaY / 300), place(event));
      this.draw();
    }, {passive: false});
  }

  zoom(factor, [px, py]) {
    const scale = Math.min(Math.max(this.at.scale * factor, SMALLEST), 40), by = scale / this.at.scale;
    this.fitted = false;
    this.at = {scale, x: px + (this.at.x - px) * by, y: py + (this.at.y - py) * by};
  }

  // Filling

  /** Bytes of a plane: 255 where more than half of a pixel is painted, else 0. */
  covered(plane) {
    const {data} = plane.getImageData(0, 0, this.image.width, this.image.height), bytes = new Uint8Array(data.length / 4);
    for (let k = 0; k < bytes.length; k++) bytes[k] = data[4 * k + 3] > 127 ? 255 : 0;
    return bytes;
  }

  /** A PNG of planes as red, green and blue; the server reads holes in red and lines in green. */
  png(red, green, blue) {
    const {width, height} = this.image, out = layer(width, height), picture = out.createImageData(width, height);
    const words = new Uint32Array(picture.data.buffer);
    for (let k = 0; k < words.length; k++) words[k] = 255 << 24 | blue[k] << 16 | green[k] << 8 | red[k];
    out.putImageData(picture, 0, 0);
    return new Promise(resolve => out.canvas.toBlob(resolve, 'image/png'));
  }

  async run() {
    const {image, file, options} = this, fillers = this.ticked, both = $(this.root, 'flow').checked;
    const jobs = fillers.flatMap(filler => both && filler.attention ? [[filler, ''], [filler, '1']] : [[filler, '']]);
    const sketch = this.painted.some(stroke => stroke.tool === 'pen');
    this.running = fillers[0].name;
    this.forget(this.results);
    Object.assign(this, {results: [], chosen: null});
    $(this.root, 'results').hidden = true;
    try {
      const hole = this.covered(this.hole), body = await this.png(hole, this.covered(this.lines), hole);
      for (const [filler, flow] of jobs) {
        const name = this.running = flow ? `attention of ${filler.name}` : filler.name;
        this.refresh();
        const began = performance.now();
        const blob = await this.fill({...options, model: filler.index, flow}, body, file);
        const filled = await createImageBitmap(blob), seconds = (performance.now() - began) / 1000;
        if (this.image !== image) return;
        this.results.push({name, filler, flow, sketch, options, blob, url: URL.createObjectURL(blob), image: filled, seconds});
        if (this.results.length > 1 || this.stroke) continue;
        this.chosen = this.results[0];
        this.divider = 0.5;
      }
    } catch (error) {
      if (this.image === image) failed(error);
    } finally {
      this.running = null;
      this.refresh();
    }
  }

  async fill(options, body, file) {
    try {
      return await (await ask('fill', options, {method: 'POST', body})).blob();
    } catch (error) {
      if (!/no longer held/.test(error.message)) throw error;
      // The server has had other photographs since.
      await ask('photo', {}, {method: 'POST', body: file});
      return (await ask('fill', options, {method: 'POST', body})).blob();
    }
  }

  /** A small picture of the photograph, for the strip. */
  get original() {
    if (this.small?.of !== this.image) {
      const scale = 112 / this.image.height, small = layer(Math.max(Math.round(this.image.width * scale), 1), 112);
      small.drawImage(this.image, 0, 0, small.canvas.width, 112);
      this.small = {of: this.image, url: small.canvas.toDataURL()};
    }
    return this.small.url;
  }

  async act(what) {
    try {
      if (what === 'open') $(this.root, 'file').click();
      if (!this.image) return;
      if (this.stroke) return;
      if (what === 'undo') this.undo();
      if (what === 'redo') this.redo();
      if (what === 'clear' && this.painted.length) {
        this.choose(null);
        this.wipe();
        this.add({tool: 'clear'});
      }
      if (what === 'run' && !this.running && this.painted.length) await this.run();
      if (what === 'side') this.sideBySide();
      if (what === 'save' && this.chosen) download(this.chosen.url, `${this.stem}_${this.chosen.flow ? 'flow' : 'filled'}.png`);
      if (what === 'keep' && this.chosen) await this.goOn(this.chosen);
      if (what === 'mask') {
        await this.saveLayer(this.hole, `${this.stem}_mask.png`);
        if (this.painted.some(stroke => stroke.tool === 'pen')) await this.saveLayer(this.lines, `${this.stem}_sketch.png`);
      }
      if (what === 'cli') await copy(await this.command());
    } catch (error) {
      failed(error);
    }
  }

  /** The command line of the result that is seen, or of the first filler that is ticked. */
  async command() {
    const [filler] = this.chosen ? [this.chosen.filler] : this.ticked;
    const sketch = this.chosen ? this.chosen.sketch : this.painted.some(stroke => stroke.tool === 'pen');
    const flow = this.chosen ? this.chosen.flow : filler.attention && $(this.root, 'flow').checked;
    const {options} = this.chosen ?? this;
    const words = {sketch: filler.guided && sketch ? '1' : '', flow: flow ? '1' : ''};
    return (await (await ask('command', {...options, model: filler.index, file: this.name, ...words})).json()).cli;
  }

  async saveLayer(plane, name) {
    const bytes = this.covered(plane), url = URL.createObjectURL(await this.png(bytes, bytes, bytes));
    download(url, name);
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  sideBySide() {
    const panel = $(this.root, 'results');
    panel.hidden = !panel.hidden;
    panel.replaceChildren(...this.results.map(({name, url, seconds}) => {
      const figure = document.createElement('figure'), image = document.createElement('img'), caption = document.createElement('figcaption');
      [image.src, image.alt] = [url, name];
      caption.textContent = `${name} · ${seconds.toFixed(1)} s`;
      figure.append(image, caption);
      return figure;
    }));
  }
}
