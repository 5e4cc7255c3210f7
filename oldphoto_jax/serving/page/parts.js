// Small helpers to build the page.

// An element with attributes, listeners (as functions by the event's name) and children.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

export function button(text, onclick, attributes = {}) {
  return make('button', {type: 'button', click: onclick, ...attributes}, text);
}

// Sets a text only if it changed, so that screen readers do not repeat it.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const polite = make('p', {class: 'unseen', role: 'status', 'aria-live': 'polite'});
document.body.append(polite);

// Says something to those who do not see the page.
export function announce(text) {
  polite.textContent = '';
  setTimeout(() => { polite.textContent = text; }, 50);
}

const notices = make('div', {class: 'notices', role: 'alert'});
document.body.append(notices);

// Shows sentences until they are dismissed.
export function notice(title, sentences, close, bad = true) {
  const list = make('ul', {}, ...sentences.slice(0, 20).map((text) => make('li', {}, text)));
  const box = make('section', {class: bad ? 'notice bad' : 'notice'}, make('strong', {}, title));
  if (sentences.length) box.append(list);
  box.append(button(close, () => box.remove()));
  notices.replaceChildren(...[...notices.children].slice(-2), box);
  if (!bad) setTimeout(() => box.remove(), 8000);
}
