// Inferno: 0 is black, 1 is pale yellow, whatever the threshold: a colour always means the same value of the map.

const STOPS = [
  [0, 0, 4], [11, 7, 36], [33, 12, 74], [61, 9, 101], [87, 16, 110], [113, 25, 110], [138, 34, 106], [163, 44, 97],
  [188, 55, 84], [210, 70, 68], [228, 90, 49], [241, 115, 29], [249, 142, 9], [252, 172, 17], [249, 203, 53],
  [242, 234, 105], [252, 255, 164],
];

export function colourTable() {
  const at = STOPS.map((_, n) => Math.round((n * 255) / (STOPS.length - 1)));
  const channel = (n) => STOPS.map((stop) => stop[n]);
  // Only 0 itself is transparent; what is below the threshold is hidden by the threshold.
  return { R: channel(0), G: channel(1), B: channel(2), A: STOPS.map((_, n) => (n === 0 ? 0 : 255)), I: at };
}

export function asGradient() {
  return `linear-gradient(to right, ${STOPS.map((stop) => `rgb(${stop.join(" ")})`).join(", ")})`;
}
