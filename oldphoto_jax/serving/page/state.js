// What the server has told, asked for again at times.

import {notice} from './parts.js';
import * as server from './server.js';
import {say} from './words.js';

export const known = {
  photos: new Map(), // by id, in the order in which they came
  work: {ready: false, problem: '', now: null, waiting: [], left: null},
  out: null,
  limits: {bytes: 0, photos: 0, endings: []},
  finds: true,
  tile: 512, // pixels per side
  large: 1600, // pixels of the longer side of the pictures that are shown first
  chosen: new Set(),
  trouble: '', // why the server cannot be asked
};

let version = 0, serverId = null, timer = 0, asking = false, again = false, listener = () => {};

// Calls a function after each news.
export function onNews(callback) {
  listener = callback;
}

// Asks the server what changed, now, and then at times.
export async function refresh() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  clearTimeout(timer);
  try {
    let news = await server.state(version);
    if (serverId !== null && news.server !== serverId) {
      known.photos.clear();
      news = await server.state(0);
    }
    serverId = news.server;
    version = news.version;
    for (const photo of news.photos) known.photos.set(photo.id, photo);
    for (const id of news.removed) {
      known.photos.delete(id);
      known.chosen.delete(id);
    }
    const {work, out, limits, finds, tile, large} = news;
    Object.assign(known, {work, out, limits, finds, tile, large, trouble: ''});
  } catch (error) {
    known.trouble = error instanceof server.Refused ? error.message : say('lost');
  }
  asking = false;
  listener();
  if (again) {
    again = false;
    refresh();
    return;
  }
  const busy = known.work.now || known.work.waiting.length || !known.work.ready;
  timer = setTimeout(refresh, document.hidden ? 5000 : busy ? 500 : 2000);
}

// Waits for something from the server, shows why it was refused, and asks what changed.
export async function act(promise) {
  try {
    return await promise;
  } catch (error) {
    const refused = error instanceof server.Refused;
    notice(refused ? error.message : say('lost'), [], say('dismiss'));
    return null;
  } finally {
    refresh();
  }
}
