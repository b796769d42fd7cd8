// The inpainting view: a photograph, what should go from it, lines to follow, and what models make of that.

import {$, ask, copy, download, failed, tell} from './page.js';

const TINT = '#ff5a4f';
const STRIP = 124;  // CSS pixels at the bottom, for small pictures of results
const KEYS = {b: 'brush', e: 'eraser', p: 'pen', h: 'hand'};

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
    this.results = [];
    this.chosen = null;  // the result that is seen; null: the photograph, to paint on
    this.divider = 0.5;
    this.controls();
    this.gestures();
    new ResizeObserver(() => this.resize()).observe(this.canvas.parentElement);
  }

  show() {
    this.visible = true;
    history.replaceState(null, '', '#view=photo');
    this.resize();
    this.refresh();
  }

  hide() {
    this.visible = false;
  }

  // Loading

  async open(file) {
    try {
      tell(`Loading ${file.name ?? 'the photograph'} ...`, true);
      const response = await ask('photo', {}, {method: 'POST', body: file});
      this.photo = response.headers.get('x-photo');
      this.file = file;
      this.name = file.name ?? 'photo.png';
      this.image = await createImageBitmap(await response.blob());
      const {width, height} = this.image;
      this.hole = layer(width, height);
      this.lines = layer(width, height);
      this.strokes = [];
      this.undone = [];
      this.forget();
      $(this.root, 'size').max = Math.max(Math.round(Math.max(width, height) / 4), 20);
      $(this.root, 'size').value = Math.max(Math.round(Math.max(width, height) / 25), 3);
      this.fit();
      this.refresh();
      tell('', true);
    } catch (error) {
      failed(error);
    }
  }

  forget() {
    for (const {url} of this.results) URL.revokeObjectURL(url);
    this.results = [];
    this.chosen = null;
    $(this.root, 'results').hidden = true;
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
    $(root, 'strategy').onchange = () => {
      const name = $(root, 'strategy').value;
      $(root, 'margin-label').hidden = name !== 'crop';
      $(root, 'limit-label').hidden = name !== 'resize';
    };
    $(root, 'size').oninput = () => this.refresh();
    const input = $(root, 'file'), drop = $(root, 'drop');
    input.onchange = () => { if (input.files[0]) this.open(input.files[0]); input.value = ''; };
    const stage = this.canvas.parentElement;
    stage.addEventListener('dragover', event => { event.preventDefault(); drop.classList.add('over'); });
    stage.addEventListener('dragleave', () => drop.classList.remove('over'));
    stage.addEventListener('drop', event => {
      event.preventDefault();
      drop.classList.remove('over');
      if (event.dataTransfer.files[0]) this.open(event.dataTransfer.files[0]);
    });
    window.addEventListener('paste', event => {
      const file = [...event.clipboardData.files].find(other => other.type.startsWith('image/'));
      if (this.visible && file) this.open(file);
    });
    window.addEventListener('keydown', event => {
      if (!this.visible || event.target.matches('input, select, textarea')) return;
      const key = event.key.toLowerCase();
      if ((event.ctrlKey || event.metaKey) && key === 'z') this.act(event.shiftKey ? 'redo' : 'undo');
      else if ((event.ctrlKey || event.metaKey) && key === 'y') this.act('redo');
      else if (event.ctrlKey || event.metaKey || event.altKey) return;
      else if (KEYS[key]) this.use(KEYS[key]);
      else if (key === '[' || key === ']') {
        $(root, 'size').value = Number($(root, 'size').value) * (key === ']' ? 1.15 : 1 / 1.15) + (key === ']' ? 1 : -1);
        this.refresh();
      } else if (key === 'enter' && !event.target.matches('button')) this.act('run');
      else if (key === ' ') this.space = true;
      else return;
      event.preventDefault();
    });
    window.addEventListener('keyup', event => { if (event.key === ' ') this.space = false; });
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

  /** Buttons that work, pressed tools, numbers: after every change. */
  refresh() {
    const {root} = this, loaded = Boolean(this.image);
    $(root, 'drop').hidden = loaded;
    for (const button of $(root, 'tools').children) button.setAttribute('aria-pressed', button.dataset.tool === this.tool);
    $(root, 'size-shown').value = `${$(root, 'size').value} px`;
    const able = (what, yes) => { root.querySelector(`[data-do="${what}"]`).disabled = !yes; };
    able('undo', loaded && this.strokes.length);
    able('redo', loaded && this.undone.length);
    able('clear', loaded && this.strokes.length);
    able('run', loaded && this.strokes.length && !this.running);
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
    this.draw();
  }

  choose(result) {
    this.chosen = result;
    $(this.root, 'results').hidden = true;
    this.refresh();
  }

  // Painting: strokes are kept, so that the last one can be taken back.

  paint({tool, size, points}, from = 0) {
    const context = tool === 'pen' ? this.lines : this.hole;
    for (const target of tool === 'eraser' ? [this.hole, this.lines] : [context]) {
      target.globalCompositeOperation = tool === 'eraser' ? 'destination-out' : 'source-over';
      target.strokeStyle = '#fff';
      target.lineWidth = size;
      target.lineCap = target.lineJoin = 'round';
      target.beginPath();
      target.moveTo(...points[Math.max(from - 1, 0)]);
      for (const point of points.slice(from)) target.lineTo(...point);
      target.stroke();
    }
  }

  repaint() {
    for (const context of [this.hole, this.lines]) context.clearRect(0, 0, this.image.width, this.image.height);
    for (const stroke of this.strokes) this.paint(stroke);
    this.refresh();
  }

  // Where the photograph is on the canvas

  fit() {
    const {width, height} = this.canvas;
    const free = height - STRIP, scale = Math.min((width - 24) / this.image.width, (free - 24) / this.image.height, 8);
    this.at = {scale, x: (width - this.image.width * scale) / 2, y: (free - this.image.height * scale) / 2};
  }

  resize() {
    const {clientWidth, clientHeight} = this.canvas.parentElement;
    if (!clientWidth) return;
    [this.canvas.width, this.canvas.height] = [clientWidth, clientHeight];
    if (this.image) this.fit();
    this.draw();
  }

  draw() {
    const {canvas, context} = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    const {scale, x, y} = this.at, {width, height} = this.image;
    context.setTransform(scale, 0, 0, scale, x, y);
    context.imageSmoothingEnabled = scale < 2;
    context.drawImage(this.image, 0, 0);
    if (this.chosen) {
      const cut = width * this.divider;
      context.drawImage(this.chosen.image, cut, 0, width - cut, height, cut, 0, width - cut, height);
      context.setTransform(1, 0, 0, 1, 0, 0);
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
      this.tint ??= layer(1, 1);
      const tint = this.tint.canvas;
      if (tint.width !== width || tint.height !== height) [tint.width, tint.height] = [width, height];
      this.tint.globalCompositeOperation = 'copy';
      this.tint.drawImage(this.hole.canvas, 0, 0);
      this.tint.globalCompositeOperation = 'source-in';
      this.tint.fillStyle = TINT;
      this.tint.fillRect(0, 0, width, height);
      context.globalAlpha = 0.55;
      context.drawImage(tint, 0, 0);
      context.globalAlpha = 1;
      context.drawImage(this.lines.canvas, 0, 0);
      if (this.pointer && this.tool !== 'hand') {
        context.setTransform(1, 0, 0, 1, 0, 0);
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
    let stroke = null, drag = null;
    const place = event => {
      const {left, top} = canvas.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    const pixel = ([px, py]) => [(px - this.at.x) / this.at.scale, (py - this.at.y) / this.at.scale];
    canvas.addEventListener('pointerdown', event => {
      if (!this.image) return;
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({preventScroll: true});
      const now = place(event);
      fingers.set(event.pointerId, now);
      if (fingers.size === 2 && stroke) {  // it was the first of two fingers
        this.strokes.pop();
        stroke = null;
        this.repaint();
      }
      if (fingers.size === 2) drag = 'pinch';
      else if (event.button === 1 || this.space || this.tool === 'hand' && !this.chosen) drag = 'pan';
      else if (this.chosen) drag = Math.abs(now[0] - this.at.x - this.image.width * this.divider * this.at.scale) < 24 ? 'divide' : 'pan';
      else {
        stroke = {tool: this.tool, size: this.size, points: [pixel(now)]};
        this.strokes.push(stroke);
        this.undone = [];
        this.paint(stroke);
        this.refresh();
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
        [this.at.x, this.at.y] = [this.at.x + (now[0] - before[0]) / 2, this.at.y + (now[1] - before[1]) / 2];
      } else if (before && drag === 'pan') {
        [this.at.x, this.at.y] = [this.at.x + now[0] - before[0], this.at.y + now[1] - before[1]];
      } else if (before && drag === 'divide') {
        this.divider = Math.min(Math.max(pixel(now)[0] / this.image.width, 0), 1);
      } else if (before && stroke) {
        stroke.points.push(pixel(now));
        this.paint(stroke, stroke.points.length - 1);
      }
      if (before) fingers.set(event.pointerId, now);
      this.draw();
    });
    for (const end of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(end, event => {
        fingers.delete(event.pointerId);
        if (!fingers.size) stroke = drag = null;
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
    const scale = Math.min(Math.max(this.at.scale * factor, 0.02), 40), by = scale / this.at.scale;
    this.at = {scale, x: px + (this.at.x - px) * by, y: py + (this.at.y - py) * by};
  }

  // Filling

  /** What the server gets: holes in red, lines in green, as PNG of the photograph's size. */
  planes() {
    const {width, height} = this.image, out = layer(width, height);
    out.fillStyle = '#000';
    out.fillRect(0, 0, width, height);
    out.globalCompositeOperation = 'lighter';
    for (const [plane, colour] of [[this.hole, '#f00'], [this.lines, '#0f0']]) {
      const coloured = layer(width, height);
      coloured.drawImage(plane.canvas, 0, 0);
      coloured.globalCompositeOperation = 'source-in';
      coloured.fillStyle = colour;
      coloured.fillRect(0, 0, width, height);
      out.drawImage(coloured.canvas, 0, 0);
    }
    return new Promise(resolve => out.canvas.toBlob(resolve, 'image/png'));
  }

  async run() {
    const names = [...$(this.root, 'fillers').querySelectorAll('input:checked')].map(box => box.dataset.filler);
    const chosen = this.fillers.filter(filler => names.includes(`${filler.index}`));
    if (!chosen.length) return tell('Choose what shall fill: a model, or the biharmonic baseline.');
    const flow = $(this.root, 'flow').checked;
    const jobs = chosen.flatMap(filler => flow && filler.attention ? [[filler, ''], [filler, '1']] : [[filler, '']]);
    this.running = chosen[0].name;
    this.forget();
    try {
      const body = await this.planes();
      for (const [filler, flow] of jobs) {
        this.running = flow ? `attention of ${filler.name}` : filler.name;
        this.refresh();
        const began = performance.now();
        const blob = await this.fill({...this.options, model: filler.index, flow}, body);
        this.results.push({
          name: flow ? `attention of ${filler.name}` : filler.name, filler, flow, blob, url: URL.createObjectURL(blob),
          image: await createImageBitmap(blob), seconds: (performance.now() - began) / 1000,
        });
        this.chosen = this.results[0];
        this.divider = this.results.length === 1 ? 0.5 : this.divider;
      }
    } catch (error) {
      failed(error);
    } finally {
      this.running = null;
      this.refresh();
    }
  }

  async fill(options, body) {
    try {
      return await (await ask('fill', options, {method: 'POST', body})).blob();
    } catch (error) {
      if (!/no longer held/.test(error.message)) throw error;
      // The server has had other photographs since.
      await ask('photo', {}, {method: 'POST', body: this.file});
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
      const stem = this.name.replace(/\.\w+$/, '');
      if (what === 'undo' && this.strokes.length) { this.undone.push(this.strokes.pop()); this.choose(null); this.repaint(); }
      if (what === 'redo' && this.undone.length) { this.strokes.push(this.undone.pop()); this.choose(null); this.repaint(); }
      if (what === 'clear') { this.strokes = []; this.undone = []; this.choose(null); this.repaint(); }
      if (what === 'run' && !this.running && this.strokes.length) await this.run();
      if (what === 'side') this.sideBySide();
      if (what === 'save' && this.chosen) download(this.chosen.url, `${stem}_${this.chosen.flow ? 'flow' : 'filled'}.png`);
      if (what === 'keep' && this.chosen) {
        await this.open(new File([this.chosen.blob], `${stem}_filled.png`, {type: 'image/png'}));
      }
      if (what === 'mask') {
        this.saveLayer(this.hole, `${stem}_mask.png`);
        if (this.strokes.some(stroke => stroke.tool === 'pen')) this.saveLayer(this.lines, `${stem}_sketch.png`);
      }
      if (what === 'cli') {
        const filler = this.chosen?.filler ?? this.fillers[0];
        const sketch = filler.guided && this.strokes.some(stroke => stroke.tool === 'pen') ? '1' : '';
        const flow = filler.attention && $(this.root, 'flow').checked ? '1' : '';
        const params = {...this.options, model: filler.index, file: this.name, sketch, flow};
        await copy((await (await ask('command', params)).json()).cli);
      }
    } catch (error) {
      failed(error);
    }
  }

  saveLayer(plane, name) {
    const {width, height} = this.image, out = layer(width, height);
    out.fillStyle = '#000';
    out.fillRect(0, 0, width, height);
    out.drawImage(plane.canvas, 0, 0);
    out.canvas.toBlob(blob => {
      const url = URL.createObjectURL(blob);
      download(url, name);
      setTimeout(() => URL.revokeObjectURL(url), 60000);
    }, 'image/png');
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
