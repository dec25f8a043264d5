// What a search finds beneath the directory, below what it finds in it.
import { useEffect, useState } from "preact/hooks";
import { search, type Found } from "./api";
import { hrefOfEntry } from "./entries";
import { bytes, count } from "./format";
import { Icon } from "./icons";
import { kindIcon, shown } from "./kinds";
import { hrefOf, navigate, parentOf } from "./route";

export function Beneath({ dir, q }: { dir: string; q: string }) {
  const [result, set] = useState<{ q: string; results: Found[]; complete: boolean } | undefined>();
  const [wrong, complain] = useState("");
  useEffect(() => {
    if (q.trim().length < 2) return set(undefined);
    const abort = new AbortController();
    const timer = setTimeout(() => {
      search(dir, q.trim(), abort.signal).then(
        (r) => {
          complain("");
          set({ q, ...r });
        },
        (err: Error) => !abort.signal.aborted && complain(err.message),
      );
    }, 250);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [dir, q]);
  if (q.trim().length < 2) return null;
  const below = result?.results.filter((f) => parentOf(f.path) !== dir) ?? [];
  return (
    <section class="beneath" aria-label="Found in folders below">
      <h2>
        In folders below{" "}
        <span class="small" aria-live="polite">
          {wrong || (result ? `${count(below.length, "result")}${result.complete ? "" : ", and perhaps more"}` : "searching…")}
        </span>
      </h2>
      <ul>
        {below.map((f) => {
          const parent = parentOf(f.path);
          return (
            <li key={f.path}>
              <span class={`face ${f.kind}`}>
                <Icon name={kindIcon(f)} size={22} />
              </span>
              <span class="words">
                <a
                  href={hrefOfEntry(parent, f)}
                  onClick={(e) => {
                    if (e.ctrlKey || e.metaKey || e.shiftKey) return;
                    if (f.type === "dir") navigate({ dir: `${f.path}/` });
                    else if (shown(f)) navigate({ dir: parent, view: f.name });
                    else return;
                    e.preventDefault();
                  }}
                >
                  {f.name}
                </a>
                <a
                  class="small"
                  href={hrefOf(parent)}
                  onClick={(e) => {
                    if (e.ctrlKey || e.metaKey || e.shiftKey) return;
                    e.preventDefault();
                    navigate({ dir: parent });
                  }}
                >
                  {parent}
                </a>
              </span>
              <span class="size">{f.type === "file" ? bytes(f.size) : ""}</span>
            </li>
          );
        })}
      </ul>
    </section>
  );
}
