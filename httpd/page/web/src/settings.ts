// What the user chose, kept in this browser.
import { useState } from "preact/hooks";

/** useSetting is a state that outlives the page; a value that is not among `allowed` is forgotten. */
export function useSetting<T extends string>(name: string, initial: T, allowed: readonly T[]): [T, (v: T) => void] {
  const key = `tnv.${name}`;
  const [value, set] = useState<T>(() => {
    const kept = read(key) as T;
    return allowed.includes(kept) ? kept : initial;
  });
  const change = (v: T) => {
    write(key, v);
    set(v);
  };
  return [value, change];
}

export function read(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // a browser that keeps nothing
  }
}

export function write(key: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // It is kept for this page only.
  }
}
