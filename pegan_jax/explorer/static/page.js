// What all views share: asking the server, telling the user, the address of what is looked at.

const token = new URLSearchParams(location.search).get('token');

export const $ = (root, role) => root.querySelector(`[data-role="${role}"]`);

/** The address of something on the server, with the token of this page. */
export function api(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== null && value !== undefined && value !== '') query.set(name, value);
  }
  if (token) query.set('token', token);
  return `api/${path}?${query}`;
}

/** fetch, whose failures are errors with the server's words. */
export async function ask(path, params, options) {
  let response;
  try {
    response = await fetch(api(path, params), options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server does not answer: is it still running?');
  }
  if (response.ok) return response;
  const text = await response.text();
  let told;
  try { told = JSON.parse(text).error; } catch { told = text || response.statusText; }
  throw new Error(told);
}

let closing;
/** Shows a line at the top for a while. */
export function tell(text, good = false) {
  const notice = document.getElementById('notice');
  notice.textContent = text;
  notice.className = good ? 'good' : '';
  notice.hidden = !text;
  clearTimeout(closing);
  closing = setTimeout(() => { notice.hidden = true; }, good ? 2500 : 9000);
}

/** Tells what went wrong, unless it was not wanted any longer. */
export function failed(error) {
  if (error.name === 'AbortError') return;
  console.error(error);
  tell(error.message);
}

/** Copies a text; where browsers do not allow that, shows it until something else is clicked. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // without https, or in a frame
    tell('Copy this by hand:');
    const area = document.createElement('textarea');
    [area.value, area.readOnly] = [text, true];
    document.getElementById('notice').append(area);
    area.select();
    if (!document.execCommand('copy')) {
      clearTimeout(closing);
      area.onblur = () => { if (area.isConnected) area.parentElement.hidden = true; };
      return;
    }
  }
  tell(`Copied: ${text}`, true);
}

/** Lets the browser save a file. */
export function download(href, name) {
  const link = document.createElement('a');
  link.href = href;
  link.download = name;
  link.click();
}

/** Saves what the server makes, which may be an error. */
export async function save(path, params, name) {
  tell('Computing the file ...', true);
  const blob = await (await ask(path, params)).blob();
  const url = URL.createObjectURL(blob);
  download(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  tell(`Saved ${name}`, true);
}

/** An angle between -180 and 180 degrees. */
export const wrap = angle => Math.abs(angle) > 180 ? angle - 360 * Math.round(angle / 360) : angle;

/** Calls act(key) for keys that are pressed while a view is seen, unless a control takes them or they are commands. */
export function keys(root, act) {
  window.addEventListener('keydown', event => {
    if (root.hidden || event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input, select, textarea')) return;
    if (act(event.key.toLowerCase())) event.preventDefault();
  });
}

// The address: everything after #, as a query. After a pause in changes, a new entry of the history is made.

let pause, wanted;
export const address = {
  read: () => Object.fromEntries(new URLSearchParams(location.hash.slice(1))),
  write(params) {
    const kept = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== '');
    wanted = `#${new URLSearchParams(kept)}`;
    clearTimeout(pause);
    pause = setTimeout(() => address.put('pushState'), 400);
  },
  /** Writes at once what is wanted, as a new entry or, with 'replaceState', in place of this one. */
  put(how) {
    clearTimeout(pause);
    if (wanted && wanted !== location.hash) history[how](null, '', wanted);
  },
};
