// One photo: compare, correct by hand, change how much is done, restore, and take it home.

import {findings, saveThose, status, workLine} from './box.js';
import {Edits} from './edits.js';
import {announce, button, make, setText} from './parts.js';
import * as server from './server.js';
import {act, known, refresh} from './state.js';
import {Viewer} from './viewer.js';
import {KEYS, percent, say} from './words.js';

const TOOLS = ['hand', 'mark', 'clear', 'protect'];
const PREVIEW_AFTER = 60; // milliseconds after a slider moved
const RESTORE_AFTER = 1200; // the same, of the whole photo, once it rests

export function photoView(id) {
  const photo = () => known.photos.get(id);
  const edits = new Edits(id, {changed, saved});
  let previewing = null, previewAgain = false, previewTimer = 0, restoreTimer = 0, previewUrl = '';
  let seenResult = photo().result?.folder;

  // What is seen ------------------------------------------------------------------------------

  const viewer = new Viewer({
    stroke: drawn,
    compare: (share) => { compare.value = Math.round(100 * share); sayCompare(); },
    moved: () => setText(zoomText, percent(viewer.scale * viewer.ratio)),
  });
  viewer.tile = known.tile;
  viewer.large = known.large;
  const ids = [...known.photos.values()].filter((one) => one.width).map((one) => one.id);
  const at = ids.indexOf(id);
  const go = (to) => { if (ids[to]) location.hash = `#photo/${ids[to]}`; };
  const previous = button('‹', () => go(at - 1),
    {'aria-label': say('previous'), title: say('previous'), disabled: at <= 0, class: 'icon'});
  const next = button('›', () => go(at + 1),
    {'aria-label': say('next'), title: say('next'), disabled: at >= ids.length - 1, class: 'icon'});
  const title = make('h2', {tabindex: '-1'}, photo().name.split('/').at(-1));
  const head = make('div', {class: 'head'},
    make('a', {class: 'button', href: '#'}, `← ${say('back')}`), title,
    make('span', {class: 'grow'}), previous, next);

  const beforeLabel = make('span', {class: 'tag before', 'aria-hidden': 'true'}, say('before'));
  const afterLabel = make('span', {class: 'tag after', 'aria-hidden': 'true'}, say('after'));
  const compare = make('input', {
    type: 'range', min: 0, max: 100, value: 50, 'aria-label': say('compare'), class: 'compare',
    input: () => { viewer.setSplit(compare.value / 100); sayCompare(); },
  });
  function sayCompare() {
    const share = viewer.split;
    compare.setAttribute('aria-valuetext', say('compareValue', {percent: percent(share)}));
    beforeLabel.hidden = share < 0.02;
    afterLabel.hidden = share > 0.98;
  }
  const zoomText = make('span', {class: 'zoomed', 'aria-live': 'off'});
  const zoom = make('div', {class: 'zoom', role: 'group', 'aria-label': say('zoom')},
    button('−', () => viewer.zoomBy(1 / 1.5),
      {'aria-label': say('zoomOut'), title: say('zoomOut'), class: 'icon'}),
    zoomText,
    button('+', () => viewer.zoomBy(1.5),
      {'aria-label': say('zoomIn'), title: say('zoomIn'), class: 'icon'}),
    button(say('fit'), () => viewer.fit()),
    button(say('full'), () => viewer.full()));
  const marksBox = make('input', {type: 'checkbox', checked: true, change: () => {
    viewer.showMarks = marksBox.checked;
    viewer.redraw();
  }});
  const stage = make('div', {class: 'stage'}, viewer.canvas, beforeLabel, afterLabel);
  const left = make('div', {class: 'left'}, stage,
    make('div', {class: 'under'},
      make('div', {class: 'comparing'},
        make('span', {'aria-hidden': 'true'}, say('compareShort')), compare),
      zoom,
      make('label', {class: 'check'}, marksBox, make('span', {}, say('showDamage')))));

  // What can be done --------------------------------------------------------------------------

  const chips = make('p', {class: 'chips', title: say('foundHelp')});
  const warnings = make('p', {class: 'warnings'});
  const state = make('p', {class: 'state', role: 'status'});
  const restoreButton = button('', restore, {class: 'primary wide'});
  const cancelButton = button(say('cancel'), () => act(server.cancel([id])), {class: 'wide'});
  const progress = make('progress', {max: 1, value: 0, 'aria-hidden': 'true'});

  const tools = make('div', {class: 'tools', role: 'group', 'aria-label': say('correct')});
  const toolButtons = TOOLS.map((tool) => button(say(tool), () => setTool(tool), {
    class: `tool ${tool}`, 'aria-pressed': String(tool === 'hand'),
  }));
  tools.append(...toolButtons);
  const sizeText = make('output', {});
  const size = make('input', {type: 'range', min: 0, max: 100, id: 'size', input: () => {
    setSize(sizeOf(size.value));
  }});
  const undoButton = button(say('undo'), () => draw(() => edits.undo()));
  const redoButton = button(say('redo'), () => draw(() => edits.redo()));
  const clearButton = button(say('clearAll'), () => drawn({kind: 'empty', size: 1, points: []}));
  const maskLink = make('a', {class: 'button', href: server.maskOf(photo()), download: ''},
    say('maskDownload'));

  const sliders = {};
  function slider(name) {
    const text = make('output', {});
    const input = make('input', {type: 'range', min: 0, max: 100, step: 1, id: name,
      input: () => change({[name]: input.value / 100}),
      change: () => settle()});
    sliders[name] = {input, text};
    return make('div', {class: 'slider'},
      make('label', {for: name}, say(name)), text, input,
      make('span', {class: 'ends', 'aria-hidden': 'true'},
        make('span', {}, say(`${name}Low`)), make('span', {}, say(`${name}High`))));
  }
  const checks = {};
  function check(name, text) {
    const input = make('input', {type: 'checkbox', change: () => {
      change({[name]: input.checked});
      settle();
    }});
    checks[name] = input;
    return make('label', {class: 'check'}, input, make('span', {}, say(text)));
  }
  const everyPicture = check('every_picture', 'everyPicture');
  const forAll = button('', () => give([...known.photos.keys()]), {class: 'wide'});
  const forChosen = button('', () => give([...known.chosen]), {class: 'wide'});
  const downloadLink = make('a', {class: 'button wide', download: ''}, say('download'));
  const saveButton = button(say('save'), () => saveThose([id]), {class: 'wide'});

  const pair = make('div', {class: 'pair'}, downloadLink, saveButton);
  const keys = make('details', {class: 'keys'}, make('summary', {}, say('keys')),
    make('dl', {}, ...KEYS.flatMap(([key, text]) =>
      [make('dt', {}, make('kbd', {}, key)), make('dd', {}, text)])));
  const work = workLine();
  const panel = make('aside', {class: 'panel'},
    make('section', {class: 'act'}, chips, warnings, state, progress, restoreButton, cancelButton,
      pair),
    make('section', {},
      make('h3', {}, say('correct')), make('p', {class: 'hint'}, say('correctHint')), tools,
      make('div', {class: 'slider'}, make('label', {for: 'size'}, say('size')), sizeText, size),
      make('div', {class: 'tools'}, undoButton, redoButton, clearButton, maskLink)),
    make('section', {},
      make('h3', {}, say('settings')),
      known.finds && check('find', 'find'),
      slider('strength'), known.finds && slider('tone'),
      check('only_damage', 'onlyDamage'), everyPicture,
      forChosen, forAll),
    work.element, keys, make('p', {class: 'hint'}, say('guess')));
  const element = make('div', {class: 'photo'}, head,
    make('div', {class: 'desk'}, left, panel));

  // Strokes and settings ----------------------------------------------------------------------

  // Brush sizes from 1 pixel to a fifth of the photo, in equal ratios.
  const largest = () => Math.max(20, Math.max(photo().width, photo().height) / 5);
  const sizeOf = (value) => Math.max(1, Math.round(largest() ** (value / 100)));
  function setSize(pixels) {
    viewer.size = Math.min(Math.max(pixels, 1), largest());
    size.value = 100 * Math.log(viewer.size) / Math.log(largest());
    setText(sizeText, String(Math.round(viewer.size)));
    viewer.redraw();
  }

  function setTool(tool) {
    viewer.tool = tool;
    viewer.canvas.dataset.tool = tool;
    toolButtons.forEach((one, i) => one.setAttribute('aria-pressed', String(TOOLS[i] === tool)));
    if (tool !== 'hand') {
      marksBox.checked = viewer.showMarks = true;
      announce(say('stroke', {tool: say(tool), size: Math.round(viewer.size)}));
    }
    viewer.redraw();
  }

  function drawn(stroke) {
    draw(() => edits.add(stroke));
  }

  // Changes strokes by a function. A result is corrected at its full size; a first look is only a
  // preview anyway.
  function draw(action) {
    if (!edits.loaded) return;
    action();
    if (!photo().result) askPreview(500);
  }

  function change(settings) {
    if (!edits.loaded) return;
    edits.change(settings);
    askPreview(PREVIEW_AFTER);
  }

  // After a slider came to rest: saves, and restores the whole photo behind the preview.
  function settle() {
    if (!edits.loaded) return;
    edits.save();
    update();
    clearTimeout(restoreTimer);
    if (photo().result) restoreTimer = setTimeout(restore, RESTORE_AFTER);
  }

  function showSettings() {
    for (const [name, {input, text}] of Object.entries(sliders)) {
      input.value = Math.round(100 * edits.settings[name]);
      setText(text, percent(edits.settings[name]));
      input.setAttribute('aria-valuetext', percent(edits.settings[name]));
      input.disabled = edits.settings.only_damage;
    }
    for (const [name, input] of Object.entries(checks)) input.checked = edits.settings[name];
  }

  function changed() {
    viewer.strokes = edits.strokes;
    showSettings();
    viewer.redraw();
    update();
  }

  function saved() {
    tools.setAttribute('aria-busy', 'false');
    refresh();
  }

  function askPreview(after) {
    clearTimeout(previewTimer);
    previewTimer = setTimeout(preview, after);
  }

  async function preview() {
    if (previewing) {
      previewAgain = true;
      return;
    }
    previewing = new AbortController();
    const {settings, strokes} = edits;
    try {
      const blob = await server.preview(id, {settings, strokes}, previewing.signal);
      const image = new Image();
      const url = URL.createObjectURL(blob);
      image.src = url;
      await image.decode();
      dropPreview();
      previewUrl = url;
      viewer.preview = image;
      viewer.redraw();
    } catch (error) {
      if (error instanceof server.Refused) setText(state, error.message);
    }
    previewing = null;
    if (previewAgain) {
      previewAgain = false;
      preview();
    }
    update();
  }

  function dropPreview() {
    if (previewUrl) URL.revokeObjectURL(previewUrl);
    previewUrl = '';
    viewer.preview = null;
  }

  async function restore() {
    clearTimeout(restoreTimer);
    await edits.rest();
    await act(server.restore([id]));
  }

  // Gives these settings to other photos, too, and restores them.
  async function give(ids) {
    await edits.rest();
    if (await act(server.apply(ids, edits.settings)) === null) return;
    await edits.load();
    await act(server.restore(ids));
  }

  // Keys --------------------------------------------------------------------------------------

  const actions = {
    b: () => setTool('mark'),
    e: () => setTool('clear'),
    k: () => setTool('protect'),
    v: () => setTool('hand'),
    '[': () => setSize(viewer.size / 1.25 - 0.5),
    ']': () => setSize(viewer.size * 1.25 + 0.5),
    d: () => marksBox.click(),
    c: () => hold(true),
    r: restore,
    '+': () => viewer.zoomBy(1.5),
    '=': () => viewer.zoomBy(1.5), // the same key without Shift
    '-': () => viewer.zoomBy(1 / 1.5),
    0: () => viewer.fit(),
    1: () => viewer.full(),
    pageup: () => go(at - 1),
    pagedown: () => go(at + 1),
    escape: () => { location.hash = ''; },
  };

  function key(event) {
    const typing = event.target.closest('input:not([type=checkbox]), select, textarea');
    if (event.altKey || !edits.loaded) return;
    const letter = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (letter === 'z') draw(() => (event.shiftKey ? edits.redo() : edits.undo()));
      else if (letter === 'y') draw(() => edits.redo());
      else return;
      event.preventDefault();
      return;
    }
    if (typing && !['Escape', 'PageUp', 'PageDown'].includes(event.key)) return;
    const onCanvas = event.target === viewer.canvas;
    const arrow = {
      ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    }[event.key];
    if (onCanvas && arrow) {
      if (viewer.tool === 'hand') viewer.pan(-60 * arrow[0], -60 * arrow[1]);
      else viewer.step(...arrow, event.shiftKey);
    } else if (onCanvas && event.key === ' ' && viewer.tool !== 'hand') {
      announce(say(viewer.press() ? 'penDown' : 'penUp'));
    } else if (actions[letter]) actions[letter]();
    else return;
    event.preventDefault();
  }

  function hold(on) {
    viewer.holding = on;
    viewer.redraw();
  }
  const keyUp = (event) => { if (event.key.toLowerCase() === 'c') hold(false); };

  // News --------------------------------------------------------------------------------------

  function update() {
    const one = photo();
    if (!one) return;
    work.update();
    const stale = edits.saving || one.result?.digest !== one.digest;
    if (one.result && one.result.folder !== seenResult) {
      seenResult = one.result.folder;
      if (!stale) dropPreview();
    }
    if (!viewer.drawing) edits.follow(one.revision);
    viewer.setPhoto(one);
    tools.setAttribute('aria-busy', String(edits.saving));
    const found = findings(one);
    chips.replaceChildren(...found.map((text) => make('span', {class: 'chip'}, text)));
    const {width, height} = one;
    const values = {name: one.name, width, height, found: found.join(', ')};
    viewer.canvas.setAttribute('aria-label', say('picture', values));
    setText(warnings, ((one.result ?? one.looked)?.warnings ?? []).join(' '));
    const {now, waiting} = known.work;
    const current = now?.id === id && now.kind === 'restore' ? now : null;
    const waits = waiting.some((job) => job.id === id && job.kind === 'restore');
    const text = current || waits || now?.id === id || one.problem ? status(one)
      : one.result ? say(stale ? 'stale' : 'done')
        : one.looked ? say(one.looked.whole ? 'unrestored' : 'unrestoredCopy') : status(one);
    setText(state, text);
    state.classList.toggle('bad', Boolean(one.problem) && !current && !waits);
    progress.hidden = !current;
    progress.value = current?.share ?? 0;
    restoreButton.hidden = Boolean(current || waits);
    cancelButton.hidden = !(current || waits);
    setText(restoreButton, say(one.result ? 'restoreAgain' : 'restore'));
    restoreButton.classList.toggle('primary', Boolean(stale));
    setText(afterLabel, viewer.preview || !one.result ? say('preview') : say('after'));
    pair.hidden = !one.result;
    downloadLink.href = server.downloadOf(one);
    saveButton.hidden = !known.out;
    saveButton.title = known.out ?? '';
    everyPicture.hidden = !one.looked?.kind && !one.settings.every_picture;
    undoButton.disabled = !edits.strokes.length;
    redoButton.disabled = !edits.undone.length;
    const others = known.photos.size;
    setText(forAll, say('useForAll', {n: others}));
    forAll.hidden = others < 2;
    setText(forChosen, say('useForChosen', {n: known.chosen.size}));
    forChosen.hidden = !known.chosen.size;
  }

  setSize(Math.max(8, Math.max(photo().width, photo().height) / 40));
  sayCompare();
  addEventListener('keydown', key);
  addEventListener('keyup', keyUp);
  const leaving = (event) => { if (edits.unsaved || viewer.drawing) event.preventDefault(); };
  addEventListener('beforeunload', leaving);
  viewer.setPhoto(photo());
  update();
  edits.load().catch((error) => setText(state, error.message));
  return {
    id,
    element,
    update,
    shown() {
      title.focus({preventScroll: true});
      scrollTo(0, 0);
    },
    close() {
      removeEventListener('keydown', key);
      removeEventListener('keyup', keyUp);
      removeEventListener('beforeunload', leaving);
      clearTimeout(previewTimer);
      clearTimeout(restoreTimer);
      previewing?.abort();
      dropPreview();
      viewer.close();
    },
  };
}
