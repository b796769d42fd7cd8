// Which view shows which model.

import {address, ask, failed} from './page.js';
import {MapView} from './map.js';
import {CanvasView} from './canvas.js';
import {PhotoView} from './photo.js';

const NAMES = {map: 'Map', canvas: 'Canvas', photo: 'Inpaint'};
const VIEWS = {map: MapView, canvas: CanvasView, photo: PhotoView};

async function start() {
  const models = await (await ask('models')).json();
  models.forEach((model, index) => { model.index = index; });
  const kinds = Object.keys(NAMES).filter(kind => models.some(model => model.view === kind));
  const views = {}, left = {};  // left: the state in which a kind of view was left
  const tabs = document.getElementById('tabs'), select = document.getElementById('model');

  /** Shows a view; how: what the history does with its address. */
  function show(kind, state, how) {
    const first = models.find(model => model.view === kind);
    const model = models[state.model]?.view === kind ? models[state.model] : first;
    for (const button of tabs.children) button.setAttribute('aria-current', button.dataset.kind === kind);
    for (const other of kinds) {
      document.getElementById(other).hidden = other !== kind;
      if (other !== kind) views[other]?.hide?.();
    }
    const choice = models.filter(other => other.view === kind);
    select.replaceChildren(...choice.map(other => new Option(`${other.name} · ${other.system}`, other.index)));
    select.value = model.index;
    select.hidden = kind === 'photo';
    views[kind] ??= new VIEWS[kind](document.getElementById(kind), models);
    views[kind].show(model, state);
    address.put(how);
  }

  /** What the address says of the view that is seen, without a pause. */
  function now() {
    address.put('pushState');
    return address.read();
  }

  for (const kind of kinds) {
    const button = document.createElement('button');
    button.textContent = NAMES[kind];
    button.dataset.kind = kind;
    button.onclick = () => {
      const state = now();
      left[state.view] = state;
      show(kind, left[kind] ?? {}, 'pushState');
    };
    tabs.append(button);
  }
  select.onchange = () => {
    show(models[select.value].view, {...now(), model: select.value}, 'pushState');
  };
  const restore = () => {
    const state = address.read();
    show(kinds.includes(state.view) ? state.view : kinds[0], state, 'replaceState');
  };
  window.addEventListener('popstate', restore);
  restore();
}

start().catch(failed);
