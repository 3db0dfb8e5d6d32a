// The picture: one NiiVue canvas with the scan (or its restoration, or a blend) and the map over it.

import { colourTable } from "./colours.js";
import { Labels } from "./labels.js";
import { asNifti, blended, countAbove, greys } from "./volumes.js";

const COLOURS = "mendscan-map";
// Colours from 0 to cal_max, nothing below cal_min.  (NiiVue calls this 1 and draws it for 2; a test looks.)
const HIDDEN_BELOW_MINIMUM = 2;
const LAYOUTS = { axial: 0, coronal: 1, sagittal: 2, all: 3, render: 4 };
const OPTIONS = {
  logLevel: "error",
  loadingText: "",
  dragAndDropEnabled: false,
  isOrientationTextVisible: false,
  isForceMouseClickToVoxelCenters: true,
  isNearestInterpolation: true,
  multiplanarLayout: 0, // what fills the canvas best
  multiplanarShowRender: 1, // always
  multiplanarPadPixels: 4,
  crosshairWidthUnit: "mm",
  crosshairWidth: 0.5,
  crosshairColor: [0.42, 0.78, 0.9, 0.75],
  show3Dcrosshair: true,
  backColor: [0, 0, 0, 1],
  clipPlaneHotKey: "",
  cycleClipPlaneHotKey: "",
  viewModeHotKey: "",
};

export class Scene {
  #view = null;
  #labels;
  #layers = { scan: null, map: null };
  #voxels = {};
  #grid = null;
  #state = { threshold: 0.5, opacity: 0.7, blend: 0, radiological: false, smooth: false };
  #waiting = new Set();
  #turn = 0;

  constructor(canvas, labels, onMove) {
    this.canvas = canvas;
    this.#labels = new Labels(labels);
    this.onMove = onMove;
  }

  async start() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      throw new Error("this browser draws no WebGL 2, which the pictures need; tables and figures are shown without it");
    }
    const view = new niivue.Niivue(OPTIONS);
    await view.attachToCanvas(this.canvas);
    view.addColormap(COLOURS, colourTable());
    view.onLocationChange = () => this.#moved();
    const draw = view.drawScene.bind(view);
    view.drawScene = (...given) => {
      const drawn = draw(...given);
      this.#place();
      return drawn;
    };
    this.#view = view;
  }

  get ready() {
    return this.#view !== null;
  }

  get showsScan() {
    return this.#layers.scan !== null;
  }

  has(kind) {
    return kind in this.#voxels;
  }

  clear() {
    this.#turn += 1;
    this.#layers = { scan: null, map: null };
    this.#voxels = {};
    this.#grid = null;
    this.#labels.clear();
    if (!this.#view) return;
    for (const volume of [...this.#view.volumes].reverse()) this.#view.removeVolume(volume);
  }

  async showScan(voxels, grid) {
    this.#fits(grid);
    this.clear();
    const turn = this.#turn;
    const [low, high] = greys(voxels);
    const layer = await niivue.NVImage.new(asNifti(voxels, grid, [low, high]), "scan.nii", "gray", 1, null, low, high);
    if (turn !== this.#turn) return; // another scan has been asked for
    Object.assign(layer, { cal_min: low, cal_max: high });
    this.#grid = grid;
    this.#voxels.scan = voxels;
    this.#layers.scan = layer;
    this.#greys = [low, high];
    this.#view.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.#view.addVolume(layer);
    this.moveTo(grid.shape.map((size) => Math.floor(size / 2)));
  }

  async showMap(voxels) {
    const turn = this.#turn;
    const layer = await niivue.NVImage.new(asNifti(voxels, this.#grid, [0, 1]), "map.nii", COLOURS);
    if (turn !== this.#turn) return;
    const { threshold, opacity } = this.#state;
    Object.assign(layer, { cal_min: threshold, cal_max: 1, colormapType: HIDDEN_BELOW_MINIMUM, opacity });
    this.#voxels.map = voxels;
    this.#layers.map = layer;
    this.#view.addVolume(layer);
    this.#view.setInterpolation(!this.#state.smooth);
    this.#moved();
  }

  takeRestored(voxels) {
    this.#voxels.restored = voxels;
    if (this.#state.blend > 0) this.#redraw("scan");
    this.#moved();
  }

  set threshold(value) {
    this.#state.threshold = value;
    this.#redraw("map");
  }

  set opacity(value) {
    this.#state.opacity = value;
    this.#redraw("map");
  }

  set blend(value) {
    this.#state.blend = value;
    this.#redraw("scan");
  }

  get radiological() {
    return this.#state.radiological;
  }

  set radiological(value) {
    this.#state.radiological = value;
    this.#view?.setRadiologicalConvention(value);
  }

  set smooth(value) {
    this.#state.smooth = value;
    this.#view?.setInterpolation(!value);
  }

  set layout(name) {
    this.#view?.setSliceType(LAYOUTS[name]);
  }

  resetGreys() {
    if (!this.showsScan) return;
    [this.#layers.scan.cal_min, this.#layers.scan.cal_max] = this.#greys;
    this.#redraw("scan");
  }

  volumeAbove(threshold) {
    return this.has("map") ? countAbove(this.#voxels.map, threshold) * this.#grid.voxelMm3 : null;
  }

  moveTo(ras) {
    if (!this.showsScan) return;
    this.#view.scene.crosshairPos = new Float32Array(ras.map((value, axis) => (value + 0.5) / this.#grid.shape[axis]));
    this.#view.drawScene();
    this.#moved();
  }

  moveToMm(mm) {
    if (this.showsScan) this.moveTo(this.#grid.ras(mm));
  }

  moveToSlice(axis, position) {
    this.moveTo(this.#at().map((value, n) => (n === axis ? position : value)));
  }

  step(axis, voxels) {
    if (!this.showsScan) return;
    const next = this.#grid.nearest(this.#at());
    next[axis] += voxels;
    this.moveTo(this.#grid.nearest(next));
  }

  #greys = [0, 1];

  #fits(grid) {
    const most = this.#view.gl.getParameter(this.#view.gl.MAX_3D_TEXTURE_SIZE);
    if (Math.max(...grid.shape) > most) throw new Error(`the scan has more than the ${most} voxels along an axis that this browser can draw`);
  }

  #at() {
    const position = this.#view.scene.crosshairPos;
    return this.#grid.shape.map((size, axis) => position[axis] * size - 0.5);
  }

  #moved() {
    if (!this.showsScan) return;
    const ras = this.#at();
    const nearest = this.#grid.nearest(ras);
    const index = this.#grid.index(nearest);
    const values = Object.fromEntries(Object.entries(this.#voxels).map(([kind, voxels]) => [kind, voxels[index]]));
    this.onMove({ ras, mm: this.#grid.mm(ras), voxel: this.#grid.toNative(nearest), values });
  }

  // Sliders ask more often than a frame is drawn.
  #redraw(name) {
    if (this.#waiting.size === 0) requestAnimationFrame(() => this.#redrawNow());
    this.#waiting.add(name);
  }

  #redrawNow() {
    const wanted = new Set(this.#waiting);
    this.#waiting.clear();
    const { scan, map } = this.#layers;
    if (!scan) return;
    if (wanted.has("scan")) {
      scan.img = blended(this.#voxels.scan, this.#voxels.restored, this.#state.blend);
      this.#view.refreshLayers(scan, 0);
    }
    if (wanted.has("map") && map) {
      Object.assign(map, { cal_min: this.#state.threshold, opacity: this.#state.opacity });
      this.#view.refreshLayers(map, 1);
    }
    this.#view.drawScene();
  }

  // The crosshair is a body of so many mm: on the screen it shall be a pixel thick.
  #fitCrosshair() {
    const tile = this.#view.screenSlices.find(({ axCorSag, sliceFrac }) => axCorSag <= 2 && Number.isFinite(sliceFrac));
    if (!tile) return;
    const mm = (1.05 * window.devicePixelRatio * Math.abs(tile.fovMM[0])) / tile.leftTopWidthHeight[2];
    if (Math.abs(mm / this.#view.opts.crosshairWidth - 1) > 0.15) requestAnimationFrame(() => this.#view.setCrosshairWidth(mm));
  }

  #place() {
    if (!this.showsScan) return;
    this.#fitCrosshair();
    const slices = this.#grid.nearest(this.#at());
    const tiles = this.#view.screenSlices.map(({ axCorSag, sliceFrac, leftTopWidthHeight }) => {
      const plane = axCorSag <= 2 && Number.isFinite(sliceFrac) ? axCorSag : null;
      return { plane, slice: plane === null ? null : slices[2 - plane] + 1, rectangle: [...leftTopWidthHeight] };
    });
    this.#labels.place(tiles, {
      radiological: this.#state.radiological,
      known: this.#grid.known,
      scale: this.canvas.width / this.canvas.clientWidth,
      from: [this.#view.scene.renderAzimuth, this.#view.scene.renderElevation],
    });
  }
}
