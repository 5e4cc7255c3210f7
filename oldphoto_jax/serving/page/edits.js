// What is wanted of one photo: settings and brush strokes, saved at each change, and undone.

import {notice} from './parts.js';
import * as server from './server.js';
import {say} from './words.js';

const AGAIN_AFTER = 2000; // milliseconds after which a server that does not answer is asked again

export class Edits {
  // `on` has the functions changed(), after each change, and saved(), after each saving.
  constructor(id, on) {
    this.id = id;
    this.on = on;
    this.loaded = false;
    this.revision = 0;
    this.settings = {};
    this.strokes = [];
    this.undone = [];
    this.saving = false; // a request is on its way
    this.unsaved = false; // more has changed since
  }

  // Takes what the server has; strokes that were undone are forgotten.
  take({revision, settings, strokes}) {
    Object.assign(this, {revision, settings, strokes, undone: [], unsaved: false, loaded: true});
    this.on.changed();
  }

  async load() {
    this.take(await server.edits(this.id));
  }

  // Takes what another window has saved, unless something is being saved here.
  async follow(revision) {
    if (!this.loaded || this.saving || revision <= this.revision) return;
    try {
      const value = await server.edits(this.id);
      if (!this.saving) this.take(value);
    } catch {
      // the next news ask again
    }
  }

  add(stroke) {
    this.undone = [];
    this.setStrokes([...this.strokes, stroke]);
  }

  undo() {
    if (!this.strokes.length) return;
    this.undone.push(this.strokes.at(-1));
    this.setStrokes(this.strokes.slice(0, -1));
  }

  redo() {
    if (this.undone.length) this.setStrokes([...this.strokes, this.undone.pop()]);
  }

  setStrokes(strokes) {
    this.strokes = strokes;
    this.save();
    this.on.changed();
  }

  // Changes settings, which are saved by `save` once a slider rests.
  change(settings) {
    this.settings = {...this.settings, ...settings};
    this.on.changed();
  }

  // Saves, one request after the other.
  async save() {
    this.unsaved = true;
    if (this.saving) return;
    this.saving = true;
    while (this.unsaved) {
      this.unsaved = false;
      await this.send();
    }
    this.saving = false;
    this.on.saved();
  }

  async send() {
    const {revision, settings, strokes} = this;
    try {
      const answer = await server.setEdits(this.id, {revision, settings, strokes});
      this.revision = answer.revision;
    } catch (error) {
      if (!(error instanceof server.Refused)) { // the server does not answer
        this.unsaved = true;
        await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER));
        return;
      }
      if (error.status === 409) this.take(error.value.edits);
      notice(error.message, [], say('dismiss'));
    }
  }

  // Waits until all is saved.
  async rest() {
    while (this.saving) await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
