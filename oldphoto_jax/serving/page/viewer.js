// One photo on a canvas: before and after, marks over it, any zoom, and a brush.
//
// A photo is never loaded whole. A small picture of it is shown first, and where more of its pixels
// are on the screen than that has, tiles of the right size are put over it.

import {make} from './parts.js';
import * as server from './server.js';

const MOST_TILES = 160;
const NEAR = 24; // pixels of the screen from which the line between before and after can be caught
const COLOURS = {mark: 'rgb(226 62 40)', protect: 'rgb(42 120 214)'};
const OPAQUE = 0.6;

export class Viewer {
  // `on` has the functions stroke(stroke), compare(share), moved() and cursor(text).
  constructor(on) {
    this.on = on;
    this.canvas = make('canvas', {tabindex: '0', role: 'img', class: 'canvas'});
    this.context = this.canvas.getContext('2d');
    this.marks = document.createElement('canvas').getContext('2d');
    this.keeps = document.createElement('canvas').getContext('2d');
    this.photo = null;
    this.images = new Map(); // small pictures and tiles by address; the latest used last
    this.scale = 1; // pixels of the screen for each pixel of the photo
    this.x = this.y = 0; // the place of the photo in the middle of the screen
    this.split = 0.5; // share of the width that shows the photo before
    this.holding = false; // the photo before is shown alone
    this.showMarks = true;
    this.tool = 'hand';
    this.size = 24; // of the brush, in pixels of the photo
    this.strokes = [];
    this.drawing = null;
    this.preview = null; // an image that stands for the photo after
    this.pointers = new Map();
    this.cursor = null; // where the brush is, on the photo
    this.fitted = true;
    this.frame = 0;
    const listen = (name, call) => this.canvas.addEventListener(name, call);
    listen('pointerdown', (event) => this.down(event));
    listen('pointermove', (event) => this.move(event));
    listen('pointerup', (event) => this.up(event));
    listen('pointercancel', (event) => this.up(event));
    listen('pointerleave', () => { if (!this.pointers.size) this.setCursor(null); });
    this.canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      const step = event.deltaMode ? 40 * event.deltaY : event.deltaY;
      this.zoomBy(Math.exp(-step / 400), this.place(event));
    }, {passive: false});
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.canvas);
  }

  close() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
    this.images.clear();
  }

  setPhoto(photo) {
    const first = this.photo === null;
    this.photo = photo;
    if (first) this.fit();
    this.redraw();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    const ratio = devicePixelRatio || 1;
    this.width = box.width;
    this.height = box.height;
    this.ratio = ratio;
    for (const canvas of [this.canvas, this.marks.canvas, this.keeps.canvas]) {
      canvas.width = Math.max(1, Math.round(box.width * ratio));
      canvas.height = Math.max(1, Math.round(box.height * ratio));
    }
    if (this.fitted) this.fit();
    this.draw();
  }

  // Where it is -------------------------------------------------------------------------------

  whole() {
    const {width, height} = this.photo;
    return Math.min(this.width / width, this.height / height) || 1;
  }

  fit() {
    if (!this.photo || !this.width) return;
    this.scale = this.whole();
    this.x = this.photo.width / 2;
    this.y = this.photo.height / 2;
    this.fitted = true;
    this.moved();
  }

  // One pixel of the photo for each pixel of the screen, or four by four where that is on already.
  full() {
    const one = 1 / this.ratio;
    this.zoomTo(Math.abs(this.scale - one) < 1e-6 ? 4 * one : one);
  }

  zoomBy(factor, at = [this.width / 2, this.height / 2]) {
    this.zoomTo(this.scale * factor, at);
  }

  zoomTo(scale, at = [this.width / 2, this.height / 2]) {
    const [x, y] = this.toPhoto(at);
    this.scale = Math.min(Math.max(scale, this.whole() / 2), 40);
    this.x = x - (at[0] - this.width / 2) / this.scale;
    this.y = y - (at[1] - this.height / 2) / this.scale;
    this.fitted = false;
    this.moved();
  }

  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.fitted = false;
    this.moved();
  }

  moved() {
    const {width, height} = this.photo;
    this.x = Math.min(Math.max(this.x, 0), width);
    this.y = Math.min(Math.max(this.y, 0), height);
    this.on.moved();
    this.redraw();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  toPhoto([x, y]) {
    return [this.x + (x - this.width / 2) / this.scale, this.y + (y - this.height / 2) / this.scale];
  }

  toScreen([x, y]) {
    return [(x - this.x) * this.scale + this.width / 2, (y - this.y) * this.scale + this.height / 2];
  }

  splitX() {
    const left = Math.max(0, this.toScreen([0, 0])[0]);
    const right = Math.min(this.width, this.toScreen([this.photo.width, 0])[0]);
    return left + this.split * (right - left);
  }

  setSplit(share) {
    this.split = Math.min(Math.max(share, 0), 1);
    this.redraw();
  }

  // Fingers, mouse and pen --------------------------------------------------------------------

  down(event) {
    if (!this.photo) return;
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.place(event);
    this.pointers.set(event.pointerId, at);
    if (this.pointers.size === 2) { // two fingers move and zoom, whatever the tool
      this.drawing = null;
      this.doing = 'pinch';
    } else if (this.pointers.size === 1) {
      const draws = this.tool !== 'hand' && event.button === 0;
      if (draws) {
        this.doing = 'draw';
        this.penDown(this.toPhoto(at));
      } else {
        const caught = event.button === 0 && Math.abs(at[0] - this.splitX()) < NEAR;
        this.doing = caught ? 'split' : 'pan';
      }
    }
    if (event.button !== 0) event.preventDefault();
    this.redraw();
  }

  move(event) {
    if (!this.photo) return;
    const at = this.place(event);
    const before = this.pointers.get(event.pointerId);
    if (event.pointerType !== 'touch') this.setCursor(this.toPhoto(at));
    if (!before) {
      this.canvas.classList.toggle('split',
        this.tool === 'hand' && Math.abs(at[0] - this.splitX()) < NEAR);
      return;
    }
    if (this.doing === 'pinch') {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
        const middle = [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2];
        this.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
        if (apart(before) > 5) this.zoomBy(apart(at) / apart(before), middle);
      }
    } else if (this.doing === 'draw') {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) {
        this.penTo(this.toPhoto(this.place(one)));
      }
    } else if (this.doing === 'split') {
      const left = Math.max(0, this.toScreen([0, 0])[0]);
      const right = Math.min(this.width, this.toScreen([this.photo.width, 0])[0]);
      this.setSplit((at[0] - left) / Math.max(1, right - left));
      this.on.compare(this.split);
    } else {
      this.pan(at[0] - before[0], at[1] - before[1]);
    }
    this.pointers.set(event.pointerId, at);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.doing === 'draw') this.penUp();
    this.doing = this.pointers.size ? this.doing : null;
  }

  setCursor(place) {
    this.cursor = place;
    if (this.tool !== 'hand') this.redraw();
  }

  // The brush ---------------------------------------------------------------------------------

  penDown(at) {
    const places = this.inside(at);
    this.drawing = {kind: this.tool, size: this.size, points: [...places]};
    this.redraw();
  }

  penTo(at) {
    if (!this.drawing) return;
    const points = this.drawing.points;
    const [x, y] = this.inside(at);
    const far = Math.hypot(x - points.at(-2), y - points.at(-1));
    if (far < Math.max(0.5, this.size / 12)) return;
    points.push(x, y);
    this.redraw();
  }

  penUp() {
    const stroke = this.drawing;
    this.drawing = null;
    if (stroke) this.on.stroke(stroke);
  }

  inside([x, y]) {
    const {width, height} = this.photo;
    const round = (value, most) => Math.round(10 * Math.min(Math.max(value, 0), most)) / 10;
    return [round(x, width), round(y, height)];
  }

  // Moves the brush by the keyboard, by a part of its size.
  step(dx, dy, far) {
    const by = Math.max(1, this.size / 2) * (far ? 5 : 1);
    const [x, y] = this.cursor ?? [this.x, this.y];
    this.cursor = this.inside([x + dx * by, y + dy * by]);
    this.penTo(this.cursor);
    const [sx, sy] = this.toScreen(this.cursor);
    const edge = 30;
    this.pan(
      Math.max(0, edge - sx) - Math.max(0, sx - this.width + edge),
      Math.max(0, edge - sy) - Math.max(0, sy - this.height + edge));
  }

  // Begins or ends a stroke by the keyboard; says whether it begins.
  press() {
    if (this.drawing) {
      this.penUp();
      return false;
    }
    this.cursor ??= [this.x, this.y];
    this.penDown(this.cursor);
    return true;
  }

  // Drawing -----------------------------------------------------------------------------------

  redraw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  // An image of this address if it is loaded; else it is asked for, and drawn when it comes.
  image(address) {
    let image = this.images.get(address);
    if (image) this.images.delete(address); // and to the end
    else {
      image = new Image();
      image.onload = () => this.redraw();
      image.onerror = () => { image.failed = true; };
      image.src = address;
    }
    this.images.set(address, image);
    while (this.images.size > MOST_TILES) this.images.delete(this.images.keys().next().value);
    return image.complete && image.naturalWidth ? image : null;
  }

  // What stands for the photo after: its preview, its result, or what a first look made of it.
  afterKind() {
    if (this.preview) return 'preview';
    return this.photo.result ? 'after' : this.photo.looked ? 'looked' : 'before';
  }

  draw() {
    const {context, photo, width, height, ratio} = this;
    if (!photo || !width) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = this.scale * ratio < 2;
    context.imageSmoothingQuality = 'high';
    const split = this.holding ? width : this.splitX();
    const kind = this.afterKind();
    this.part(context, split, width, () => this.layer(context, kind));
    this.part(context, 0, split, () => this.layer(context, 'before'));
    // With a brush in hand, marks are over all; else only over what the photo was before.
    const until = this.tool === 'hand' && kind !== 'before' ? split : width;
    if (this.showMarks && !this.holding) this.part(context, 0, until, () => this.drawMarks());
    if (!this.holding && kind !== 'before') this.drawLine(split);
    if (this.tool !== 'hand' && this.cursor) this.drawCursor();
  }

  part(context, from, to, draw) {
    if (to <= from) return;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, this.height);
    context.clip();
    draw();
    context.restore();
  }

  // The photo's rectangle on the screen: left, top, width, height.
  frameOf() {
    const [left, top] = this.toScreen([0, 0]);
    return [left, top, this.photo.width * this.scale, this.photo.height * this.scale];
  }

  layer(context, kind) {
    const {photo} = this;
    if (kind === 'preview') {
      context.drawImage(this.preview, ...this.frameOf());
      return;
    }
    const address = kind === 'damage' ? server.damage(photo) : server.small(photo, kind, 'large');
    const whole = this.image(address);
    if (whole) context.drawImage(whole, ...this.frameOf());
    if (kind === 'looked' || (kind === 'damage' && !photo.result)) return;
    const known = Math.min(1, this.large / Math.max(photo.width, photo.height));
    if (known < 1 && this.scale * this.ratio > known) this.tiles(context, kind);
  }

  tiles(context, kind) {
    const {photo, tile} = this;
    const most = Math.max(0, Math.ceil(Math.log2(Math.max(photo.width, photo.height) / tile)));
    const wanted = Math.floor(Math.log2(1 / (this.scale * this.ratio)) + 0.3);
    const level = Math.min(Math.max(wanted, 0), most);
    const reach = tile * 2 ** level;
    const [left, top] = this.toPhoto([0, 0]);
    const [right, bottom] = this.toPhoto([this.width, this.height]);
    const last = (end, side) => Math.min(Math.floor(end / reach), Math.ceil(side / reach) - 1);
    for (let y = Math.max(0, Math.floor(top / reach)); y <= last(bottom, photo.height); y++) {
      for (let x = Math.max(0, Math.floor(left / reach)); x <= last(right, photo.width); x++) {
        const image = this.image(server.tile(photo, kind, level, x, y));
        if (!image) continue;
        const [sx, sy] = this.toScreen([x * reach, y * reach]);
        const side = this.scale * 2 ** level;
        if (kind === 'damage') { // it lies over a smaller one, which shines through
          context.clearRect(sx, sy, image.naturalWidth * side, image.naturalHeight * side);
        }
        context.drawImage(image, sx, sy, image.naturalWidth * side, image.naturalHeight * side);
      }
    }
  }

  drawMarks() {
    const {context, marks, keeps, width, height, ratio} = this;
    for (const one of [marks, keeps]) {
      one.setTransform(ratio, 0, 0, ratio, 0, 0);
      one.globalCompositeOperation = 'source-over';
      one.clearRect(0, 0, width, height);
      one.imageSmoothingEnabled = this.scale * ratio < 2;
    }
    this.layer(marks, 'damage');
    for (const stroke of [...this.strokes, ...(this.drawing ? [this.drawing] : [])]) {
      if (stroke.kind === 'empty') {
        marks.clearRect(0, 0, width, height);
        keeps.clearRect(0, 0, width, height);
      } else {
        this.path(marks, stroke, stroke.kind === 'mark');
        this.path(keeps, stroke, stroke.kind === 'protect');
      }
    }
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = OPAQUE;
    const [left, top, wide, high] = this.frameOf().map((value) => value * ratio);
    context.beginPath(); // strokes at the edge end with the photo
    context.rect(left, top, wide, high);
    context.clip();
    context.drawImage(keeps.canvas, 0, 0);
    context.drawImage(marks.canvas, 0, 0);
    context.restore();
  }

  path(context, stroke, adds) {
    context.globalCompositeOperation = adds ? 'source-over' : 'destination-out';
    context.strokeStyle = context.fillStyle = COLOURS[stroke.kind] ?? '#000';
    context.lineWidth = stroke.size * this.scale;
    context.lineCap = context.lineJoin = 'round';
    context.beginPath();
    for (let i = 0; i < stroke.points.length; i += 2) {
      const at = this.toScreen([stroke.points[i], stroke.points[i + 1]]);
      if (i) context.lineTo(...at);
      else context.moveTo(...at);
    }
    if (stroke.points.length === 2) {
      context.lineTo(...this.toScreen([stroke.points[0] + 0.01, stroke.points[1]]));
    }
    context.stroke();
    context.globalCompositeOperation = 'source-over';
  }

  drawLine(split) {
    const {context, height} = this;
    const [, top, , high] = this.frameOf();
    const from = Math.max(0, top), to = Math.min(height, top + high);
    const middle = (from + to) / 2;
    context.fillStyle = '#fff';
    context.shadowColor = 'rgb(0 0 0 / 60%)';
    context.shadowBlur = 5;
    context.fillRect(split - 1, from, 2, to - from);
    context.shadowBlur = this.tool === 'hand' ? 5 : 0;
    if (this.tool !== 'hand') return; // nothing to catch, and in the way of the brush
    context.beginPath();
    context.arc(split, middle, 20, 0, 7);
    context.fill();
    context.shadowBlur = 0;
    context.strokeStyle = '#3a2c20';
    context.lineWidth = 2.5;
    context.lineCap = 'round';
    context.beginPath();
    for (const side of [-1, 1]) {
      context.moveTo(split + side * 5, middle - 6);
      context.lineTo(split + side * 11, middle);
      context.lineTo(split + side * 5, middle + 6);
    }
    context.stroke();
  }

  drawCursor() {
    const {context} = this;
    const [x, y] = this.toScreen(this.cursor);
    const radius = Math.max(1, this.size * this.scale / 2);
    for (const [colour, wide] of [['rgb(0 0 0 / 70%)', 3], ['#fff', 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = wide;
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.stroke();
    }
  }
}
