// All texts of the page, so that it can be translated: copy this file and change the right sides.
// {name} stands for a value. Where a text has two forms, the first is for one and the second for
// other numbers.

const WORDS = {
  title: 'Old photos',
  private: 'Your photos stay on this computer. Nothing is sent anywhere.',
  gettingReady: 'Getting ready. The first time, this takes a minute; you can add photos already.',
  lost: 'The program does not answer. Start “oldphoto serve” again; nothing that was saved is lost.',

  drop: 'Drop photos here',
  dropHint: 'JPEG, PNG, TIFF and other formats of photos. Your own files are only read.',
  addPhotos: 'Add photos',
  addFolder: 'Add a folder',
  adding: ['Adding one photo …', 'Adding {n} photos …'],
  added: ['One photo added.', '{n} photos added.'],
  noPhotos: 'No photo among these files.',
  notAdded: 'Not added',
  dismiss: 'Close',

  photos: 'Photos',
  open: 'Open {name}',
  choose: 'Choose {name}',
  chooseAll: 'Choose all',
  chosen: ['1 chosen', '{n} chosen'],
  restoreAll: 'Restore all',
  restoreChosen: ['Restore 1 chosen', 'Restore {n} chosen'],
  download: 'Download',
  save: 'Save to folder',
  saved: ['One photo saved in {out}.', '{n} photos saved in {out}.'],
  notSaved: 'Not saved',
  remove: 'Remove',
  removeSure: [
    'Remove this photo from the page, with what you drew on it? Your own file stays.',
    'Remove {n} photos from the page, with what you drew on them? Your own files stay.',
  ],
  nothingRestored: 'None of these photos is restored yet.',

  waitingToLook: 'waiting for a first look',
  looking: 'looking at it …',
  waiting: 'waiting',
  restoring: 'restoring, {percent}',
  working: '{name}: {percent} of {pixels} million pixels',
  left: '{time} left',
  leftAll: '{time} left for all',
  seconds: ['1 second', '{n} seconds'],
  minutes: ['about 1 minute', 'about {n} minutes'],
  hours: ['about 1 hour', 'about {n} hours'],
  more: ['1 more waits', '{n} more wait'],
  cancel: 'Cancel',
  cancelAll: 'Cancel all',
  restored: 'restored',
  changedSince: 'changed since',

  foundDamage: 'damage {percent}',
  foundAbout: 'damage about {percent}',
  repaired: 'repaired {percent}',
  foundNone: 'no damage found',
  foundFaded: 'faded',
  revived: 'tones revived',
  foundNoisy: 'noisy',
  foundHelp: 'How much of the photo looked scratched, torn or stained.',

  back: 'All photos',
  previous: 'Previous photo',
  next: 'Next photo',
  before: 'Before',
  after: 'After',
  preview: 'Quick preview',
  compare: 'Compare before and after',
  compareShort: 'Compare',
  compareValue: '{percent} before',
  picture: 'Photo {name}, {width} by {height} pixels. {found}',
  zoom: 'Zoom',
  zoomIn: 'Zoom in',
  zoomOut: 'Zoom out',
  fit: 'Whole photo',
  full: 'Single pixels',
  showDamage: 'Show marks',

  correct: 'Correct by hand',
  correctHint: 'Paint over what should be repaired, or erase marks that are no damage.',
  hand: 'Move',
  mark: 'Mark damage',
  clear: 'Erase marks',
  protect: 'Keep the original',
  size: 'Brush size',
  undo: 'Undo',
  redo: 'Redo',
  clearAll: 'Erase all marks',
  maskDownload: 'Download marks',
  stroke: '{tool} with {size} pixels. Move with the arrow keys; Space begins and ends a stroke.',
  penDown: 'Drawing',
  penUp: 'Stroke saved',

  settings: 'How much to change',
  strength: 'Clean',
  strengthLow: 'not at all',
  strengthHigh: 'fully',
  tone: 'Revive faded tones',
  toneLow: 'not at all',
  toneHigh: 'as far as possible',
  find: 'Look for damage',
  everyPicture: 'Restore it even if it does not look like a photo',
  onlyDamage: 'Repair the damage and change nothing else',
  useForAll: ['Restore it with these', 'Restore all {n} with these'],
  useForChosen: ['Restore 1 chosen with these', 'Restore {n} chosen with these'],

  restore: 'Restore',
  restoreAgain: 'Restore again',
  unrestored: 'This is a preview. Press Restore to restore the photo.',
  unrestoredCopy: 'This is a quick preview of a smaller copy. In the whole photo, less or more damage '
    + 'may be found. Press Restore to see.',
  stale: 'You changed something: press Restore again for the whole photo.',
  done: 'This is the restored photo, at full size.',
  guess: 'A restored photo is a good guess, not a record: keep the original.',

  keys: 'Keys',
  keysList: [
    ['B', 'mark damage'],
    ['E', 'erase marks'],
    ['K', 'keep the original'],
    ['V', 'move the photo'],
    ['[  ]', 'brush size'],
    ['Ctrl+Z', 'undo'],
    ['Ctrl+Shift+Z', 'redo'],
    ['D', 'show marks'],
    ['C', 'hold to see the photo before'],
    ['+  −', 'zoom'],
    ['0', 'whole photo'],
    ['1', 'single pixels'],
    ['R', 'restore'],
    ['PageUp  PageDown', 'previous and next photo'],
    ['Esc', 'all photos'],
  ],
};

// The text of a name, with values put in. `n` chooses between two forms.
export function say(name, values = {}) {
  let text = WORDS[name];
  if (Array.isArray(text)) text = text[values.n === 1 ? 0 : 1];
  return text.replace(/\{(\w+)\}/g, (all, key) => (key in values ? values[key] : all));
}

export const KEYS = WORDS.keysList;
const LANGUAGE = 'en';

export function percent(share) {
  const digits = share > 0 && share < 0.1 ? 1 : 0;
  const style = {style: 'percent', maximumFractionDigits: digits};
  return new Intl.NumberFormat(LANGUAGE, style).format(share > 0 ? Math.max(share, 0.001) : 0);
}

// A share that is not known well.
export function about(share) {
  return percent(share >= 0.01 ? Math.round(100 * share) / 100 : share);
}

export function millions(pixels) {
  const style = {maximumFractionDigits: pixels < 1e7 ? 1 : 0};
  return new Intl.NumberFormat(LANGUAGE, style).format(pixels / 1e6);
}

export function duration(seconds) {
  if (seconds < 50) return say('seconds', {n: Math.max(1, Math.ceil(seconds))});
  if (seconds < 5400) return say('minutes', {n: Math.round(seconds / 60)});
  return say('hours', {n: Math.round(seconds / 3600)});
}
