// Where voxels lie.  `geometry` is the server's: shape and affine of the file, and for each of its axes the axis of
// RAS+ and the direction.  Everything drawn is in RAS+ order, so that nothing but this file turns axes.

export class Grid {
  constructor(geometry) {
    this.known = geometry.known;
    this.native = geometry.shape;
    this.affine = geometry.affine;
    this.orientation = geometry.orientation;
    this.shape = [0, 0, 0];
    geometry.orientation.forEach(([axis], n) => { this.shape[axis] = geometry.shape[n]; });
    this.inverse = inverse(geometry.affine);
    this.rasAffine = this.#rasAffine();
  }

  get voxels() {
    return this.shape[0] * this.shape[1] * this.shape[2];
  }

  get voxelMm3() {
    return Math.abs(determinant(this.affine));
  }

  get spacing() {
    return [0, 1, 2].map((axis) => Math.hypot(...[0, 1, 2].map((row) => this.rasAffine[row][axis])));
  }

  mm(ras) {
    return applied(this.rasAffine, ras);
  }

  ras(mm) {
    return this.toRas(applied(this.inverse, mm));
  }

  toNative(ras) {
    return this.orientation.map(([axis, direction], n) => (direction > 0 ? ras[axis] : this.native[n] - 1 - ras[axis]));
  }

  toRas(native) {
    const ras = [0, 0, 0];
    this.orientation.forEach(([axis, direction], n) => {
      ras[axis] = direction > 0 ? native[n] : this.native[n] - 1 - native[n];
    });
    return ras;
  }

  nearest(ras) {
    return ras.map((value, axis) => Math.min(Math.max(Math.round(value), 0), this.shape[axis] - 1));
  }

  index([x, y, z]) {
    return x + this.shape[0] * (y + this.shape[1] * z);
  }

  #rasAffine() {
    const origin = applied(this.affine, this.toNative([0, 0, 0]));
    const columns = [[1, 0, 0], [0, 1, 0], [0, 0, 1]].map((step) => applied(this.affine, this.toNative(step)));
    return [0, 1, 2].map((row) => [...columns.map((end) => end[row] - origin[row]), origin[row]]);
  }
}

function applied(affine, point) {
  return [0, 1, 2].map((row) => affine[row][0] * point[0] + affine[row][1] * point[1] + affine[row][2] * point[2] + affine[row][3]);
}

function determinant([[a, b, c], [d, e, f], [g, h, i]]) {
  return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
}

function inverse(affine) {
  const [[a, b, c, p], [d, e, f, q], [g, h, i, r]] = affine;
  const size = determinant(affine);
  const turned = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / size));
  return turned.map((row) => [...row, -(row[0] * p + row[1] * q + row[2] * r)]);
}
