// The controls of which image of a model is seen: seed, dice, strip, class, truncation, another seed and its layers.

import {$, ask, failed} from './page.js';

const SHOWN = 8;  // seeds of the strip

export class StyleControls {
  /** changed() is called after every change; thumbnail(style) is the address of a small picture of it. */
  constructor(root, changed, thumbnail) {
    root.append(document.getElementById('style-controls').content.cloneNode(true));
    this.root = root;
    this.changed = changed;
    this.thumbnail = thumbnail;
    this.first = 0;
    for (const role of ['seed', 'class', 'to', 'psi', 't']) {
      $(root, role).addEventListener('input', () => this.apply());
    }
    $(root, 'layers').addEventListener('input', () => { if (this.typed()) this.apply(); });
    $(root, 'layers').addEventListener('change', event => event.target.reportValidity());
    root.addEventListener('click', event => {
      const button = event.target.closest('button');
      if (!button) return;
      if (button.dataset.seed) this.set({seed: button.dataset.seed});
      if (button.dataset.do === 'dice') this.dice();
      if (button.dataset.do === 'earlier') this.page(-SHOWN);
      if (button.dataset.do === 'later') this.page(SHOWN);
    });
  }

  /** Begins with a model and what an address says. */
  begin(model, state) {
    this.model = model;
    const classes = Array.from({length: model.labels}, (_, k) => new Option(model.classes[k] ?? `${k}`, k));
    $(this.root, 'class').replaceChildren(...classes);
    $(this.root, 'class-label').hidden = !model.labels;
    $(this.root, 'psi-label').hidden = !model.truncation;
    $(this.root, 'blend').hidden = !model.blend;
    $(this.root, 'layers-label').hidden = !model.layers;
    $(this.root, 'class').value = state.class ?? 0;
    if ($(this.root, 'class').selectedIndex < 0) $(this.root, 'class').value = 0;
    for (const [role, first] of [['seed', 0], ['to', ''], ['layers', ''], ['psi', 1], ['t', 0]]) {
      $(this.root, role).value = state[role] ?? first;
    }
    this.layers = '';
    this.typed();
    this.first = SHOWN * Math.floor(this.value.seed / SHOWN);
    this.draw();
  }

  /** Takes the layers that are typed, such as 3 or 0-3; those before stay while it is something else. */
  typed() {
    const input = $(this.root, 'layers'), [, first, last = first] = input.value.match(/^\s*(\d+)\s*(?:-\s*(\d+)\s*)?$/) ?? [];
    const sense = Number(first) <= Number(last) && Number(last) < this.model.layers, all = !input.value.trim();
    input.setCustomValidity(sense || all ? '' : `Write a layer from 0 to ${this.model.layers - 1}, or a range such as 0-3.`);
    if (sense || all) this.layers = all ? '' : `${Number(first)}-${Number(last)}`;
    return sense || all;
  }

  /** What the server and the address get. */
  get value() {
    const of = role => $(this.root, role).value.trim();
    const value = {seed: of('seed') || '0'};
    if (this.model.labels) value.class = of('class');
    if (this.model.truncation && Number(of('psi')) !== 1) value.psi = of('psi');
    if (this.model.blend && of('to') !== '') {
      value.to = of('to');
      value.t = of('t');
      if (this.model.layers && this.layers) value.layers = this.layers;
    }
    return value;
  }

  set(values) {
    for (const [role, value] of Object.entries(values)) $(this.root, role).value = value;
    this.first = SHOWN * Math.floor(this.value.seed / SHOWN);
    this.apply();
  }

  dice() {
    this.set({seed: Math.floor(Math.random() * 2 ** 20)});
  }

  page(step) {
    this.first = Math.max(this.first + step, 0);
    this.draw();
    this.pictures();
  }

  apply() {
    this.draw();
    this.changed();
  }

  draw() {
    const {seed} = this.value;
    $(this.root, 'psi-shown').value = Number($(this.root, 'psi').value).toFixed(2);
    $(this.root, 't').disabled = $(this.root, 'to').value === '';
    const strip = $(this.root, 'strip');
    const seeds = Array.from({length: SHOWN}, (_, k) => this.first + k);
    if (strip.children[0]?.dataset.seed !== `${seeds[0]}`) {
      strip.replaceChildren(...seeds.map(number => {
        const button = document.createElement('button');
        button.dataset.seed = number;
        button.title = `seed ${number}`;
        const image = document.createElement('img');
        image.alt = '';
        const label = document.createElement('small');
        label.textContent = number;
        button.append(image, label);
        return button;
      }));
    }
    for (const button of strip.children) button.setAttribute('aria-pressed', button.dataset.seed === `${seed}`);
  }

  /** Asks for the pictures of the strip, one after the other; views call it when they have nothing more urgent to ask. */
  async pictures() {
    this.stop();
    const {signal} = this.asking = new AbortController();
    const {seed, to, t, layers, ...rest} = this.value;
    try {
      for (const button of $(this.root, 'strip').children) {
        const {path, params} = this.thumbnail({...rest, seed: button.dataset.seed});
        const shown = JSON.stringify(params), image = button.querySelector('img');
        if (image.dataset.shown === shown) continue;
        const url = URL.createObjectURL(await (await ask(path, params, {signal})).blob());
        image.onload = () => URL.revokeObjectURL(url);
        image.src = url;
        image.dataset.shown = shown;
      }
    } catch (error) {
      failed(error);
    }
  }

  /** Asks for no more pictures, because something is more urgent. */
  stop() {
    this.asking?.abort();
  }
}
