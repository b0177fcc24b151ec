// The model in 3-D with its needle paths and vents: orbit, see through, cut. Uses three.js of the system.

import { el } from './core.js';

export const COLOURS = { left: '#0072b2', right: '#b0457f' };
const AXES = [['L', 'left', 1], ['R', 'left', -1], ['A', 'anterior', 1], ['P', 'anterior', -1], ['S', 'superior', 1], ['I', 'superior', -1]];

export const available = () => {
  if (!window.THREE || !THREE.OrbitControls || !THREE.STLLoader) return false;
  const probe = document.createElement('canvas');
  return Boolean(probe.getContext('webgl'));
};

const vector = (v) => new THREE.Vector3(v[0], v[1], v[2]);

export class ModelView {
  constructor(box, bytes, plan) {
    this.box = box; this.plan = plan; this.scene = new THREE.Scene();
    const frame = plan.vertebra_frame;
    this.directions = { left: vector(frame.left), anterior: vector(frame.anterior), superior: vector(frame.superior) };
    this.renderer = new THREE.WebGLRenderer({ antialias: true, alpha: true, preserveDrawingBuffer: true });
    this.renderer.setPixelRatio(Math.min(2, window.devicePixelRatio || 1));
    this.renderer.localClippingEnabled = true;
    this.renderer.domElement.setAttribute('role', 'img');
    this.renderer.domElement.setAttribute('aria-label', 'The model in 3-D; drag to turn it');
    this.clip = new THREE.Plane(new THREE.Vector3(1, 0, 0), 0);
    this.addModel(bytes);
    plan.trajectories.forEach((t) => this.addPath(t));
    (plan.model.vents || []).forEach((v) => this.addVent(v));
    this.addLights();
    this.camera = new THREE.PerspectiveCamera(28, 1, 1, 2000);
    this.scene.add(this.camera);
    this.controls = new THREE.OrbitControls(this.camera, this.renderer.domElement);
    this.controls.target.copy(this.centre);
    this.controls.addEventListener('change', () => this.ask());
    this.labels = AXES.map(([text, axis, sign]) => ({ node: el('span', { class: 'axis', 'aria-hidden': 'true' }, text), at: this.outside(this.directions[axis].clone().multiplyScalar(sign)) }));
    box.replaceChildren(this.renderer.domElement, ...this.labels.map((l) => l.node), el('div', { class: 'legend' },
      el('span', { class: 'key left' }, 'left path'), el('span', { class: 'key right' }, 'right path'), el('span', { class: 'key vent' }, 'vents')));
    new ResizeObserver(() => this.fit()).observe(box);
    this.look('oblique');
    this.fit();
  }

  addModel(bytes) {
    const geometry = new THREE.STLLoader().parse(bytes);
    geometry.computeBoundingSphere();
    this.centre = geometry.boundingSphere.center.clone();
    this.radius = geometry.boundingSphere.radius;
    // The inner faces are drawn flat in another colour: where the clipping plane opens the solid they look like its cut.
    this.skin = new THREE.MeshStandardMaterial({ color: 0xe6d9bf, roughness: 0.75, metalness: 0, transparent: true, side: THREE.FrontSide });
    this.core = new THREE.MeshBasicMaterial({ color: 0xc8772e, transparent: true, side: THREE.BackSide });
    this.scene.add(new THREE.Mesh(geometry, this.core), new THREE.Mesh(geometry, this.skin));
    this.corners = geometry.attributes.position;
    this.triangles = this.corners.count / 3;
  }

  /** The point a little beyond the model in this direction, for its letter. */
  outside(direction) {
    const corner = new THREE.Vector3();
    let most = 0;
    for (let i = 0; i < this.corners.count; i += 3) most = Math.max(most, corner.fromBufferAttribute(this.corners, i).sub(this.centre).dot(direction));
    return this.centre.clone().addScaledVector(direction, most + 6);
  }

  rod(from, to, radius, colour, opacity = 1) {
    const along = to.clone().sub(from);
    const geometry = new THREE.CylinderBufferGeometry(radius, radius, along.length(), 20);
    const rod = new THREE.Mesh(geometry, new THREE.MeshStandardMaterial({ color: colour, emissive: colour, emissiveIntensity: 0.35, roughness: 0.6, transparent: opacity < 1, opacity }));
    rod.position.copy(from).add(to).multiplyScalar(0.5);
    rod.quaternion.setFromUnitVectors(new THREE.Vector3(0, 1, 0), along.normalize());
    this.scene.add(rod);
  }

  addPath(t) {
    const entry = vector(t.entry); const target = vector(t.target); const colour = COLOURS[t.pedicle];
    const out = entry.clone().sub(target).normalize();
    this.rod(target, entry.clone().addScaledVector(out, 32), 1.1, colour);
    const tip = new THREE.Mesh(new THREE.SphereBufferGeometry(1.9, 24, 16), new THREE.MeshStandardMaterial({ color: colour, emissive: colour, emissiveIntensity: 0.35 }));
    tip.position.copy(target);
    this.scene.add(tip);
  }

  addVent(v) {
    const at = vector(v.position); const out = vector(v.direction);
    this.rod(at.clone().addScaledVector(out, -1), at.clone().addScaledVector(out, 9), v.diameter_mm / 2, '#6b7780', 0.75);
  }

  addLights() {
    this.scene.add(new THREE.HemisphereLight(0xffffff, 0x8d99a3, 0.75));
    const key = new THREE.DirectionalLight(0xffffff, 0.55);
    this.light = key;
    key.target.position.copy(this.centre);
    this.scene.add(key, key.target);
  }

  look(name) {
    const { left, anterior, superior } = this.directions; const d = new THREE.Vector3(); let up = superior;
    if (name === 'front') d.copy(anterior);
    else if (name === 'back') d.copy(anterior).negate();
    else if (name === 'left') d.copy(left);
    else if (name === 'right') d.copy(left).negate();
    else if (name === 'top') { d.copy(superior); up = anterior; } else d.copy(anterior).multiplyScalar(-0.75).addScaledVector(left, 0.6).addScaledVector(superior, 0.5);
    this.camera.up.copy(up);
    this.camera.position.copy(this.centre).addScaledVector(d.normalize(), this.radius * 4.1);
    this.controls.target.copy(this.centre);
    this.camera.lookAt(this.centre);
    this.controls.update();
    this.ask();
  }

  setOpacity(value) {
    for (const material of [this.skin, this.core]) { material.opacity = value; material.depthWrite = value > 0.95; }
    this.ask();
  }

  /** `axis` 'none' | 'left' | 'anterior' | 'superior' | 'path-left' | 'path-right'; share 0..1 through the model. */
  cut(axis, share) {
    const planes = axis === 'none' ? [] : [this.clip];
    for (const material of [this.skin, this.core]) { material.clippingPlanes = planes; material.needsUpdate = true; }
    if (axis !== 'none') {
      let normal = this.directions[axis]; let through = this.centre; let reach = this.radius;
      if (axis.startsWith('path-')) {
        const t = this.plan.trajectories.find((x) => `path-${x.pedicle}` === axis);
        const along = vector(t.target).sub(vector(t.entry)).normalize();
        normal = along.clone().cross(this.directions.superior).normalize();
        if (normal.dot(this.directions.left) < 0) normal.negate();
        through = vector(t.target); reach = 12;
      }
      // What lies beyond the plane on the side of `normal` is taken away.
      const point = through.clone().addScaledVector(normal, (share * 2 - 1) * reach);
      this.clip.setFromNormalAndCoplanarPoint(normal.clone().negate(), point);
    }
    this.ask();
  }

  fit() {
    const w = this.box.clientWidth; const h = this.box.clientHeight;
    if (!w || !h) return;
    this.renderer.setSize(w, h);
    this.camera.aspect = w / h;
    this.camera.updateProjectionMatrix();
    this.ask();
  }

  /** Draw at the next frame; nothing is drawn while nothing changes. */
  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.draw(); });
  }

  draw() {
    this.light.position.copy(this.camera.position).addScaledVector(this.directions.superior, this.radius);
    this.renderer.render(this.scene, this.camera);
    const w = this.box.clientWidth; const h = this.box.clientHeight;
    for (const label of this.labels) {
      const p = label.at.clone().project(this.camera);
      const x = Math.min(w - 24, Math.max(2, (p.x + 1) / 2 * w - 11)); const y = Math.min(h - 24, Math.max(2, (1 - p.y) / 2 * h - 11));
      label.node.style.transform = `translate(${x}px, ${y}px)`;
      label.node.style.opacity = p.z < 1 ? '0.85' : '0';
    }
    this.box.dataset.drawn = String(this.triangles);
  }
}
