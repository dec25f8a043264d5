// Where the page is: a directory of the volume, which is the address's path, and
// what of it is looked at (?view=NAME). Back and forward work as everywhere.
import { useEffect, useState } from "preact/hooks";

export interface Route {
  dir: string; // begins and ends with a slash, decoded
  view: string | null;
}

/** hrefOf writes a path of the volume as an address's path. */
export const hrefOf = (path: string): string => path.split("/").map(encodeURIComponent).join("/");

/** decode reads a path; bytes that are no UTF-8 leave it as it stands. */
function decode(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

export function current(): Route {
  const path = decode(location.pathname);
  return {
    dir: path.endsWith("/") ? path : path.slice(0, path.lastIndexOf("/") + 1),
    view: new URLSearchParams(location.search).get("view"),
  };
}

export const addressOf = (r: Route): string => hrefOf(r.dir) + (r.view === null ? "" : `?view=${encodeURIComponent(r.view)}`);

const moved = new Set<() => void>();
const tell = () => moved.forEach((f) => f());
addEventListener("popstate", tell);

export function navigate(to: Partial<Route>, replace = false): void {
  const address = addressOf({ dir: to.dir ?? current().dir, view: to.view ?? null });
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  tell();
}

export function useRoute(): Route {
  const [route, set] = useState(current);
  useEffect(() => {
    const changed = () => set(current());
    moved.add(changed);
    return () => void moved.delete(changed);
  }, []);
  return route;
}

/** parentOf is the directory that holds a path (with or without a slash at its end). */
export function parentOf(path: string): string {
  const p = path.replace(/\/+$/, "");
  return p.slice(0, p.lastIndexOf("/") + 1) || "/";
}

/** nameOf is the last element of a path. */
export const nameOf = (path: string): string => path.replace(/\/+$/, "").split("/").pop() ?? "";
