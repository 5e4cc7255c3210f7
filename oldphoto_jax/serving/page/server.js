// Requests to the server that this page came from. There are no others.

const SAFE = {'X-Oldphoto': '1'};

export class Refused extends Error {
  constructor(status, value) {
    super(value.error);
    this.status = status;
    this.value = value;
  }
}

async function ask(path, options = {}) {
  const answer = await fetch(path, {...options, headers: {...SAFE, ...options.headers}});
  if (answer.ok) return answer;
  const text = await answer.text();
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = {error: text};
  }
  throw new Refused(answer.status, value);
}

const json = (method, value, signal) => ({
  method, signal, body: JSON.stringify(value), headers: {'Content-Type': 'application/json'},
});
const post = async (path, value) => (await ask(path, json('POST', value))).json();

export const state = async (since) => (await ask(`/api/state?since=${since}`)).json();
export const restore = (ids) => post('/api/restore', {ids});
export const cancel = (ids) => post('/api/cancel', {ids});
export const remove = (ids) => post('/api/remove', {ids});
export const apply = (ids, settings) => post('/api/apply', {ids, settings});
export const save = (ids) => post('/api/save', {ids});
export const pack = (ids) => post('/api/pack', {ids});
export const edits = async (id) => (await ask(`/api/photos/${id}/edits`)).json();
// What was drawn arrives even if the page is closed meanwhile, as far as browsers allow.
export async function setEdits(id, value) {
  const request = json('PUT', value);
  request.keepalive = request.body.length < 60000;
  return (await ask(`/api/photos/${id}/edits`, request)).json();
}
export const preview = async (id, value, signal) =>
  (await ask(`/api/photos/${id}/preview`, json('POST', value, signal))).blob();
export const upload = async (file, name) => (await ask(
  `/api/photos?name=${encodeURIComponent(name)}`, {method: 'POST', body: file},
)).json();

// The address of a small picture; `version` makes the browser ask again when it changed.
export const small = (photo, kind, side) =>
  `/api/photos/${photo.id}/small/${kind}/${side}?v=${stamp(photo, kind)}`;
export const tile = (photo, kind, level, x, y) =>
  `/api/photos/${photo.id}/tile/${kind}/${level}/${x}/${y}?v=${stamp(photo, kind)}`;
export const damage = (photo) => `/api/photos/${photo.id}/damage?v=${stamp(photo, 'damage')}`;
export const downloadOf = (photo) => `/api/photos/${photo.id}/download`;
export const maskOf = (photo) => `/api/photos/${photo.id}/mask`;

function stamp(photo, kind) {
  if (kind === 'before') return `${photo.width}x${photo.height}`;
  if (kind === 'after') return photo.result ? photo.result.folder : '';
  const looked = photo.looked ? 'l' : '';
  return `${looked}${photo.result ? photo.result.folder : ''}${photo.settings.find}`;
}
