// Files of conversations: read to be sent, and shown. A run's events hold their hashes, and the service their bytes.

import { fileOf } from "./service.js";

export const MOST_BYTES = 5_000_000;

/** Returns a file as the service takes it. */
export async function asContent(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} has ${file.size} bytes, more than ${MOST_BYTES}`);
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
  const data = url.slice(url.indexOf(",") + 1).replaceAll("+", "-").replaceAll("/", "_");
  return { kind: "binary", data, media_type: file.type || "application/octet-stream", name: file.name };
}

/** Returns the note that stands for a file where text alone is shown. */
export const noteOf = ({ media_type: type, size, name }) => `[${[type, size ? `${size} bytes` : "", name].filter(Boolean).join(", ")}]`;

/** Returns content as text. */
export const wordsOf = (content) =>
  typeof content === "string" ? content : content.map((item) => (typeof item === "string" ? item : noteOf(item))).join("\n");

const addresses = new Map();

/** Returns the address, within this page, of a file of a run; it is fetched once. */
export function addressOf(runId, { sha256 }) {
  if (!addresses.has(sha256)) {
    addresses.set(sha256, fileOf(runId, sha256).then((blob) => URL.createObjectURL(blob)));
    addresses.get(sha256).catch(() => addresses.delete(sha256));
  }
  return addresses.get(sha256);
}
