// What a file is to the one who looks at it.
import type { Entry } from "./api";
import type { IconName } from "./icons";

/** extension is what stands behind a name's last dot, in small letters. */
export function extension(name: string): string {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? name.slice(dot + 1).toLowerCase() : "";
}

/** stem is a name without its extension. */
export function stem(name: string): string {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? name.slice(0, dot) : name;
}

/** Shown is what the page itself shows. */
export type Shown = "video" | "audio" | "image";

/** shown tells how the page shows an entry; undefined: the browser alone does. */
export function shown(e: Entry): Shown | undefined {
  if (e.type !== "file") return undefined;
  if (e.kind === "video" || e.kind === "audio" || e.kind === "image") return e.kind;
  return isHls(e.name) ? "video" : undefined;
}

/** isHls tells whether a name is that of an HLS playlist. */
export const isHls = (name: string): boolean => extension(name) === "m3u8";

const names: Record<Entry["kind"], string> = {
  dir: "Folder",
  video: "Film",
  audio: "Music",
  image: "Picture",
  subtitle: "Subtitles",
  playlist: "Playlist",
  text: "Text",
  document: "Document",
  archive: "Archive",
  other: "File",
};
export const kindName = (e: Entry): string => (e.broken ? "Broken link" : names[e.kind] ?? "File");

const icons: Partial<Record<Entry["kind"], IconName>> = {
  dir: "dir",
  video: "film",
  audio: "music",
  image: "picture",
  subtitle: "subtitle",
  text: "text",
  document: "text",
  playlist: "list",
};
export const kindIcon = (e: Entry): IconName => icons[e.kind] ?? "other";
