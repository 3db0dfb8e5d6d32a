// Asking the server: scans are numbers here, never names.

async function answered(address, signal) {
  let response;
  try {
    response = await fetch(address, { signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the viewer does not answer; is mendscan view still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error ?? `the viewer answered ${response.status}`);
}

export async function askResults() {
  return (await answered("/api/results")).json();
}

export async function askCase(number, signal) {
  return (await answered(`/api/cases/${number}`, signal)).json();
}

export async function askVolume(number, kind, signal) {
  const stored = await (await answered(`/api/cases/${number}/${kind}`, signal)).arrayBuffer();
  const head = new Uint8Array(stored, 0, Math.min(2, stored.byteLength));
  if (head[0] !== 0x1f || head[1] !== 0x8b) return stored;
  const unpacked = new Blob([stored]).stream().pipeThrough(new DecompressionStream("gzip"));
  try {
    return await new Response(unpacked).arrayBuffer(); // compares the checksum, too
  } catch {
    throw new Error("the compressed data are damaged or cut off");
  }
}
