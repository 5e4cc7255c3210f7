// Shows the box, or one photo of it.

import {boxView} from './box.js';
import {make, setText} from './parts.js';
import {photoView} from './photo.js';
import {known, onNews, refresh} from './state.js';
import {say} from './words.js';

const ready = make('p', {class: 'ready', role: 'status'});
const main = make('main', {id: 'main', tabindex: '-1'});
let view = null;

function show() {
  const id = location.hash.startsWith('#photo/') ? location.hash.slice(7) : null;
  if (id && known.photos.get(id)?.width) {
    if (view?.id === id) return;
    view?.close();
    view = photoView(id);
  } else {
    if (id) history.replaceState(null, '', '#');
    if (view && !view.id) return;
    const from = view?.id;
    view?.close();
    view = boxView(from);
  }
  document.body.classList.toggle('one', Boolean(view.id));
  main.replaceChildren(view.element);
  view.shown();
}

document.title = say('title');
document.body.prepend(
  make('header', {class: 'top'},
    make('h1', {}, make('a', {href: '#'}, say('title'))),
    make('p', {class: 'private'}, say('private'))),
  ready, main);
onNews(() => {
  const {work, trouble} = known;
  setText(ready, trouble || work.problem || (work.ready ? '' : say('gettingReady')));
  ready.hidden = !ready.textContent;
  ready.classList.toggle('bad', Boolean(trouble || work.problem));
  if (view?.id && !known.photos.has(view.id)) location.hash = '';
  view?.update();
});
// A file that is dropped beside the box must not be opened in place of the page.
addEventListener('dragover', (event) => {
  if (!view?.id) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = 'none';
});
addEventListener('drop', (event) => event.preventDefault());
addEventListener('hashchange', show);
document.addEventListener('visibilitychange', () => document.hidden || refresh());
await refresh();
show();
