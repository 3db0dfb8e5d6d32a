// NIfTI bytes to voxels in RAS+ order and back: what NiiVue is given has one type, one axis order and one affine.

const TYPES = {
  u1: Uint8Array, i1: Int8Array, u2: Uint16Array, i2: Int16Array, u4: Uint32Array, i4: Int32Array,
  u8: BigUint64Array, i8: BigInt64Array, f4: Float32Array, f8: Float64Array,
};
const HEADER = 352;

export function voxelsOf(bytes, stored, grid) {
  // The server has read type, scaling and geometry; only where the voxels begin is read here.
  const kind = TYPES[stored.type];
  if (!kind) throw new Error(`voxels of type ${stored.type} are not shown`);
  const start = firstVoxel(bytes, stored.big_endian);
  const length = grid.voxels * kind.BYTES_PER_ELEMENT;
  if (!(start >= 348) || bytes.byteLength < start + length) throw new Error("the file is cut off");
  const inPlace = start % kind.BYTES_PER_ELEMENT === 0 && !stored.big_endian;
  const part = inPlace ? bytes : bytes.slice(start, start + length);
  if (stored.big_endian) swap(new Uint8Array(part), kind.BYTES_PER_ELEMENT);
  return toRas(new kind(part, inPlace ? start : 0, grid.voxels), stored, grid);
}

function firstVoxel(bytes, bigEndian) {
  if (bytes.byteLength < HEADER) return NaN;
  const view = new DataView(bytes);
  const isSecond = view.getInt32(0, !bigEndian) === 540;
  return isSecond ? Number(view.getBigInt64(168, !bigEndian)) : view.getFloat32(108, !bigEndian);
}

function swap(bytes, size) {
  for (let start = 0; start < bytes.length; start += size) bytes.subarray(start, start + size).reverse();
}

function toRas(values, { slope, intercept }, grid) {
  const strides = [1, grid.native[0], grid.native[0] * grid.native[1]];
  const [stepX, stepY, stepZ] = [0, 1, 2].map((axis) => {
    const n = grid.orientation.findIndex(([ras]) => ras === axis);
    return strides[n] * grid.orientation[n][1];
  });
  const origin = grid.toNative([0, 0, 0]);
  const first = origin[0] + strides[1] * origin[1] + strides[2] * origin[2];
  const [X, Y, Z] = grid.shape;
  const turned = new Float32Array(X * Y * Z);
  let to = 0;
  for (let z = 0; z < Z; z++) {
    for (let y = 0; y < Y; y++) {
      let from = first + z * stepZ + y * stepY;
      for (let x = 0; x < X; x++, from += stepX) turned[to++] = Number(values[from]) * slope + intercept;
    }
  }
  return turned;
}

export function asNifti(voxels, grid, [low, high]) {
  const bytes = new ArrayBuffer(HEADER + voxels.byteLength);
  const view = new DataView(bytes);
  view.setInt32(0, 348, true);
  [3, ...grid.shape, 1, 1, 1, 1].forEach((size, n) => view.setInt16(40 + 2 * n, size, true));
  view.setInt16(70, 16, true); // float32
  view.setInt16(72, 32, true);
  [1, ...grid.spacing].forEach((size, n) => view.setFloat32(76 + 4 * n, size, true));
  view.setFloat32(108, HEADER, true);
  view.setFloat32(112, 1, true);
  view.setUint8(123, 2); // mm
  view.setFloat32(124, high, true); // what is shown; without it NiiVue counts all voxels to find out
  view.setFloat32(128, low, true);
  view.setInt16(254, 1, true); // sform only
  grid.rasAffine.flat().forEach((value, n) => view.setFloat32(280 + 4 * n, value, true));
  [0x6e, 0x2b, 0x31, 0].forEach((byte, n) => view.setUint8(344 + n, byte));
  new Float32Array(bytes, HEADER).set(voxels);
  return bytes;
}

export function greys(voxels) {
  // From the 1st to the 99.5th percentile of what is not background (the lowest value), of some 200,000 voxels.
  let lowest = Infinity;
  for (let n = 0; n < voxels.length; n++) if (voxels[n] < lowest) lowest = voxels[n];
  const step = Math.max(1, Math.floor(voxels.length / 200003)) | 1;
  const sample = [];
  for (let n = 0; n < voxels.length; n += step) if (voxels[n] > lowest) sample.push(voxels[n]);
  const sorted = Float32Array.from(sample).sort();
  if (sorted.length === 0) return [lowest, lowest + 1];
  const high = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.995))];
  const low = sorted[Math.floor(sorted.length * 0.01)];
  return [low, high > low ? high : low + 1];
}

export function countAbove(voxels, threshold) {
  let count = 0;
  for (let n = 0; n < voxels.length; n++) if (voxels[n] > threshold) count++;
  return count;
}

export function blended(scan, restored, share) {
  if (share <= 0 || !restored) return scan;
  if (share >= 1) return restored;
  const mixed = new Float32Array(scan.length);
  for (let n = 0; n < scan.length; n++) mixed[n] = scan[n] + share * (restored[n] - scan[n]);
  return mixed;
}
