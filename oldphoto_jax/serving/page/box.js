// The box: all photos with what was found in them, and what to do with them.

import {announce, button, make, notice, setText} from './parts.js';
import * as server from './server.js';
import {act, known, refresh} from './state.js';
import {about, duration, millions, percent, say} from './words.js';

const AT_ONCE = 2; // uploads
const MOST_FILES = 10_000; // of a drop, so that a disk that was dropped is not read whole

// What was found in a photo, or what was done to it, in words.
export function findings(photo) {
  const {looked, result} = photo;
  if (!looked) return [];
  const {damaged} = result ?? looked;
  const found = [];
  if (damaged === 0) found.push(say('foundNone'));
  if (result) {
    if (damaged > 0) found.push(say('repaired', {percent: percent(damaged)}));
    if (result.tone > 0.05) found.push(say('revived'));
    return found;
  }
  if (damaged > 0 && looked.whole) found.push(say('foundDamage', {percent: percent(damaged)}));
  else if (damaged > 0) found.push(say('foundAbout', {percent: about(damaged)}));
  if (looked.faded > 0.1) found.push(say('foundFaded'));
  if (looked.noisy > 0.3) found.push(say('foundNoisy'));
  return found;
}

// What happens to a photo now, in words.
export function status(photo) {
  const {now, waiting} = known.work;
  if (now?.id === photo.id) {
    return now.kind === 'look' ? say('looking') : say('restoring', {percent: percent(now.share)});
  }
  const job = waiting.find((one) => one.id === photo.id);
  if (job) return job.kind === 'look' ? say('waitingToLook') : say('waiting');
  if (photo.problem) return photo.problem;
  if (!photo.result) return '';
  const stale = photo.result.digest !== photo.digest;
  return stale ? `${say('restored')}, ${say('changedSince')}` : say('restored');
}

// What is being done, how far it is, and how long all takes.
export function workLine() {
  const bar = make('progress', {max: 1, value: 0, 'aria-hidden': 'true'});
  const text = make('p', {});
  const stop = button(say('cancelAll'), () => {
    const {now, waiting} = known.work;
    act(server.cancel([now, ...waiting].filter(Boolean).map((job) => job.id)));
  });
  const element = make('section', {class: 'work', hidden: true}, text, bar, stop);
  return {
    element,
    update() {
      const {now, waiting, left} = known.work;
      element.hidden = !now;
      if (!now) return;
      const restoring = [now, ...waiting].filter((job) => job.kind === 'restore');
      const photo = known.photos.get(now.id);
      const part = {name: photo?.name ?? '', percent: percent(now.share)};
      const pixels = millions((photo?.width ?? 0) * (photo?.height ?? 0));
      const parts = [now.kind === 'look'
        ? `${part.name}: ${say('looking')}` : say('working', {...part, pixels})];
      if (waiting.length) parts.push(say('more', {n: waiting.length}));
      if (left != null) {
        parts.push(say(waiting.length ? 'leftAll' : 'left', {time: duration(left)}));
      }
      setText(text, parts.join(' · '));
      bar.value = now.share;
      stop.hidden = !restoring.length;
      setText(stop, say(restoring.length > 1 ? 'cancelAll' : 'cancel'));
    },
  };
}

// One photo of the box; `changed` is called when it was chosen or is chosen no more.
function photoCard(photo, changed) {
  const image = make('img', {alt: '', loading: 'lazy', decoding: 'async', draggable: 'false'});
  const link = make('a', {class: 'thumb', href: `#photo/${photo.id}`}, image);
  const box = make('input', {type: 'checkbox', change: () => {
    known.chosen[box.checked ? 'add' : 'delete'](photo.id);
    changed();
  }});
  const chips = make('p', {class: 'chips'});
  const line = make('p', {class: 'status'});
  const progress = make('progress', {max: 1, value: 0, 'aria-hidden': 'true', hidden: true});
  const stop = button(say('cancel'), () => act(server.cancel([photo.id])), {class: 'small'});
  const name = photo.name.split('/');
  const label = make('label', {class: 'check', title: say('choose', {name: photo.name})}, box,
    make('span', {class: 'unseen'}, say('choose', {name: photo.name})));
  const item = make('li', {class: 'card', id: `card-${photo.id}`}, link, label,
    make('div', {class: 'about'},
      make('a', {class: 'name', href: `#photo/${photo.id}`}, name.at(-1)),
      name.length > 1 && make('span', {class: 'folder'}, name.slice(0, -1).join(' / ')),
      chips, line, progress, stop));
  return {item, update(photo) {
    const source = photo.width
      ? server.small(photo, photo.result ? 'after' : 'before', 'small') : '';
    if (source && image.getAttribute('src') !== source) image.src = source;
    link.toggleAttribute('inert', !photo.width);
    link.setAttribute('aria-label', say('open', {name: photo.name}));
    box.checked = known.chosen.has(photo.id);
    const found = findings(photo);
    if (chips.dataset.found !== found.join()) {
      chips.dataset.found = found.join();
      chips.replaceChildren(...found.map((text) => make('span', {class: 'chip'}, text)));
    }
    setText(line, status(photo));
    const {now, waiting} = known.work;
    const current = now?.id === photo.id ? now : null;
    line.classList.toggle('bad', Boolean(photo.problem) && !current);
    line.classList.toggle('good', line.textContent === say('restored'));
    progress.hidden = !current;
    progress.value = current?.share ?? 0;
    stop.hidden = !(current?.kind === 'restore'
      || waiting.some((job) => job.id === photo.id && job.kind === 'restore'));
  }};
}

// The files of a drop with their paths, those of folders as well: [file, path] each.
async function filesOf(transfer) {
  const entries = [...transfer.items]
    .filter((item) => item.kind === 'file').map((item) => item.webkitGetAsEntry?.());
  if (!entries.every(Boolean)) return [...transfer.files].map((file) => [file, file.name]);
  const pairs = [];
  for (const entry of entries) await walk(entry, '', pairs);
  return pairs;
}

async function walk(entry, path, pairs) {
  if (pairs.length > MOST_FILES) return;
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    if (file) pairs.push([file, path + file.name]);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) return;
    for (const one of some) await walk(one, `${path}${entry.name}/`, pairs);
  }
}

export function boxView(from) {
  const files = make('input', {
    type: 'file', multiple: true, hidden: true, id: 'files',
    change: () => { add([...files.files].map((file) => [file, file.name])); files.value = ''; },
  });
  const folder = make('input', {
    type: 'file', webkitdirectory: true, hidden: true, id: 'folder',
    change: () => {
      add([...folder.files].map((file) => [file, file.webkitRelativePath || file.name]));
      folder.value = '';
    },
  });
  const adding = make('p', {class: 'adding', role: 'status'});
  const drop = make('section', {class: 'drop', 'aria-label': say('drop')},
    make('p', {class: 'big'}, say('drop')),
    make('div', {class: 'row'},
      button(say('addPhotos'), () => files.click(), {class: 'primary'}),
      button(say('addFolder'), () => folder.click())),
    make('p', {class: 'hint'}, say('dropHint')),
    files, folder, adding);
  const all = make('input', {type: 'checkbox', id: 'all', change: chooseAll});
  const count = make('span', {class: 'count'});
  const restoreButton = button('', () => act(server.restore(those())), {class: 'primary'});
  const downloadButton = button(say('download'), download);
  const saveButton = button(say('save'), save);
  const removeButton = button(say('remove'), remove, {class: 'quiet'});
  const bar = make('div', {class: 'bar', role: 'toolbar', 'aria-label': say('photos')},
    make('label', {class: 'check'}, all, make('span', {}, say('chooseAll'))), count,
    make('span', {class: 'grow'}), restoreButton, downloadButton, saveButton, removeButton);
  const work = workLine();
  const list = make('ul', {class: 'cards', 'aria-label': say('photos')});
  const element = make('div', {class: 'box'}, drop, bar, work.element, list);
  const cards = new Map();
  let uploading = 0;

  // The chosen photos, or all.
  function those() {
    const ids = [...known.photos.keys()];
    const chosen = ids.filter((id) => known.chosen.has(id));
    return chosen.length ? chosen : ids;
  }

  function chooseAll() {
    known.chosen = new Set(all.checked ? known.photos.keys() : []);
    update();
  }

  async function add(pairs) {
    const endings = known.limits.endings;
    const photos = pairs.filter(([, name]) =>
      endings.some((ending) => name.toLowerCase().endsWith(ending))
      && !name.split('/').some((part) => part.startsWith('.')));
    // What was chosen by itself gets its reason from the server; a folder holds many other things.
    const sent = pairs.length > 3 ? photos : pairs;
    if (!sent.length) {
      if (pairs.length) notice(say('noPhotos'), [], say('dismiss'));
      return;
    }
    const failures = [];
    const rest = [...sent];
    let done = 0;
    uploading += sent.length;
    const tell = () => setText(adding, uploading ? say('adding', {n: uploading}) : '');
    tell();
    const one = async () => {
      while (rest.length) {
        const [file, name] = rest.shift();
        try {
          if (file.size > known.limits.bytes) throw new server.Refused(413, {error:
            `${name}: ${millions(file.size)} MB > ${millions(known.limits.bytes)} MB`});
          await server.upload(file, name);
          done += 1;
        } catch (error) {
          failures.push(error instanceof server.Refused ? error.message : `${name}: ${say('lost')}`);
        }
        uploading -= 1;
        tell();
        refresh();
      }
    };
    await Promise.all(Array.from({length: AT_ONCE}, one));
    if (done) announce(say('added', {n: done}));
    if (failures.length) notice(say('notAdded'), failures, say('dismiss'));
  }

  async function dropped(event) {
    event.preventDefault();
    document.body.classList.remove('over');
    add(await filesOf(event.dataTransfer));
  }

  async function download() {
    const ids = those().filter((id) => known.photos.get(id).result);
    if (!ids.length) {
      notice(say('nothingRestored'), [], say('dismiss'));
      return;
    }
    const link = make('a', {download: ''});
    if (ids.length === 1) link.href = server.downloadOf(known.photos.get(ids[0]));
    else {
      const packed = await act(server.pack(ids));
      if (!packed) return;
      link.href = packed.address;
    }
    document.body.append(link);
    link.click();
    link.remove();
  }

  function save() {
    saveThose(those());
  }

  async function remove() {
    const ids = those();
    if (!confirm(say('removeSure', {n: ids.length}))) return;
    await act(server.remove(ids));
  }

  function update() {
    const photos = [...known.photos.values()];
    for (const [id, one] of cards) {
      if (!known.photos.has(id)) {
        one.item.remove();
        cards.delete(id);
      }
    }
    for (const photo of photos) {
      if (!cards.has(photo.id)) {
        cards.set(photo.id, photoCard(photo, update));
        list.append(cards.get(photo.id).item);
      }
      cards.get(photo.id).update(photo);
    }
    const chosen = photos.filter((photo) => known.chosen.has(photo.id)).length;
    bar.hidden = !photos.length;
    drop.classList.toggle('slim', photos.length > 0);
    all.checked = chosen > 0 && chosen === photos.length;
    all.indeterminate = chosen > 0 && chosen < photos.length;
    setText(count, chosen ? say('chosen', {n: chosen}) : '');
    setText(restoreButton, chosen ? say('restoreChosen', {n: chosen}) : say('restoreAll'));
    removeButton.hidden = !chosen;
    saveButton.hidden = !known.out;
    saveButton.title = known.out ?? '';
    const restored = those().some((id) => known.photos.get(id).result);
    downloadButton.disabled = saveButton.disabled = !restored;
    work.update();
  }

  const over = (event) => {
    if (![...event.dataTransfer.types].includes('Files')) return;
    event.preventDefault();
    document.body.classList.add('over');
  };
  const left = (event) => event.relatedTarget || document.body.classList.remove('over');
  addEventListener('dragover', over);
  addEventListener('dragleave', left);
  addEventListener('drop', dropped);
  update();
  return {
    element,
    update,
    shown() {
      const one = from && document.querySelector(`#card-${from} .name`);
      if (one) {
        one.focus({preventScroll: true});
        one.scrollIntoView({block: 'center'});
      }
    },
    close() {
      removeEventListener('dragover', over);
      removeEventListener('dragleave', left);
      removeEventListener('drop', dropped);
    },
  };
}

// Writes results into the output folder, and says what became of them.
export async function saveThose(ids) {
  const answer = await act(server.save(ids));
  if (!answer) return;
  const {saved, problems, out} = answer;
  if (problems.length) notice(say('notSaved'), problems, say('dismiss'));
  const text = saved || !problems.length
    ? (saved ? say('saved', {n: saved, out}) : say('nothingRestored')) : '';
  if (text) notice(text, [], say('dismiss'), false);
}
