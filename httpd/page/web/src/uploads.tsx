// The uploads under way, in a corner of the page; and how files get there: chosen,
// or dropped from elsewhere, whole directories too.
import { useEffect, useState } from "preact/hooks";
import { bytes, count, rate, span } from "./format";
import { Icon } from "./icons";
import { add, clearDone, drop, onUploads, pause, resume, uploads, type Upload } from "./upload";

function useUploads(): readonly Upload[] {
  const [, tick] = useState(0);
  useEffect(() => {
    let frame = 0;
    const off = onUploads(() => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        tick((n) => n + 1);
      });
    });
    return () => {
      off();
      cancelAnimationFrame(frame);
    };
  }, []);
  return uploads();
}

function stateText(u: Upload): string {
  const left = u.rate > 0 ? ` · ${rate(u.rate)} · ${span((u.file.size - u.sent) / u.rate)} left` : "";
  switch (u.state) {
    case "waiting":
      return `${bytes(u.file.size)} · waiting`;
    case "sending":
      return `${bytes(u.sent)} of ${bytes(u.file.size)}${left}`;
    case "paused":
      return `${bytes(u.sent)} of ${bytes(u.file.size)} · paused`;
    case "retrying":
      return `${bytes(u.sent)} of ${bytes(u.file.size)} · trying again: ${u.error}`;
    case "done":
      return `${bytes(u.file.size)} · done`;
    case "failed":
      return u.error;
  }
}

function Row({ u }: { u: Upload }) {
  const name = u.path.split("/").pop() ?? "";
  const part = u.file.size > 0 ? u.sent / u.file.size : u.state === "done" ? 1 : 0;
  return (
    <li class={u.state} data-state={u.state}>
      <span class="words">
        <span class="file" title={u.path}>
          {name}
        </span>
        <span class="small">{stateText(u)}</span>
        <progress max={1} value={part} aria-label={`Upload of ${name}`} />
      </span>
      {u.state === "failed" && u.taken && (
        <button class="text" onClick={() => resume(u, true)}>
          Replace
        </button>
      )}
      {(u.state === "paused" || (u.state === "failed" && !u.taken)) && (
        <button class="quiet" aria-label={`Resume ${name}`} onClick={() => resume(u)}>
          <Icon name="play" size={18} />
        </button>
      )}
      {(u.state === "sending" || u.state === "waiting" || u.state === "retrying") && (
        <button class="quiet" aria-label={`Pause ${name}`} onClick={() => pause(u)}>
          <Icon name="pause" size={18} />
        </button>
      )}
      {u.state === "done" ? (
        <span class="tick">
          <Icon name="check" size={18} />
        </span>
      ) : (
        <button class="quiet" aria-label={`Give up ${name}`} onClick={() => drop(u)}>
          <Icon name="close" size={18} />
        </button>
      )}
    </li>
  );
}

export function Uploads() {
  const all = useUploads();
  const [open, show] = useState(true);
  if (all.length === 0) return null;
  const left = all.filter((u) => u.state !== "done");
  const first = [...left.slice(0, 50), ...all.filter((u) => u.state === "done").slice(-20)];
  return (
    <section class="uploads" aria-label="Uploads">
      <header>
        <h2>{left.length > 0 ? `Uploading ${count(left.length, "file")}` : `${count(all.length, "file")} uploaded`}</h2>
        <button class="quiet" aria-expanded={open} aria-label={open ? "Fold the list" : "Unfold the list"} onClick={() => show(!open)}>
          <Icon name={open ? "down" : "up"} size={18} />
        </button>
        {left.length < all.length && (
          <button class="quiet" aria-label="Clear what is done" onClick={clearDone}>
            <Icon name="close" size={18} />
          </button>
        )}
      </header>
      {open && (
        <ul>
          {first.map((u) => (
            <Row key={u.id} u={u} />
          ))}
        </ul>
      )}
    </section>
  );
}

/** addChosen sends files that were chosen in a field, into a directory. */
export function addChosen(files: FileList, dir: string): void {
  add([...files].map((file) => ({ file, path: dir + (file.webkitRelativePath || file.name) })));
}

/** addDropped sends what was dropped: files, and directories with all in them. */
export async function addDropped(data: DataTransfer, dir: string): Promise<void> {
  const roots = [...data.items].flatMap((i) => i.webkitGetAsEntry() ?? []);
  if (roots.length === 0) return addChosen(data.files, dir);
  for (const root of roots) await walk(root, dir);
}

async function walk(entry: FileSystemEntry, dir: string): Promise<void> {
  if (entry.isFile) {
    const file = await new Promise<File>((ok, bad) => (entry as FileSystemFileEntry).file(ok, bad));
    return add([{ file, path: dir + entry.name }]);
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((ok, bad) => reader.readEntries(ok, bad));
    if (some.length === 0) return;
    for (const e of some) await walk(e, `${dir}${entry.name}/`);
  }
}

/** Drop covers the page while files are dragged over it. */
export function Drop({ dir }: { dir: string }) {
  const [over, set] = useState(false);
  useEffect(() => {
    let depth = 0;
    const files = (e: DragEvent) => e.dataTransfer?.types.includes("Files") ?? false;
    const enter = (e: DragEvent) => files(e) && (depth++, set(true));
    const leave = (e: DragEvent) => files(e) && --depth <= 0 && ((depth = 0), set(false));
    const hover = (e: DragEvent) => files(e) && e.preventDefault();
    const dropped = (e: DragEvent) => {
      if (!files(e) || !e.dataTransfer) return;
      e.preventDefault();
      depth = 0;
      set(false);
      void addDropped(e.dataTransfer, dir);
    };
    addEventListener("dragenter", enter);
    addEventListener("dragleave", leave);
    addEventListener("dragover", hover);
    addEventListener("drop", dropped);
    return () => {
      removeEventListener("dragenter", enter);
      removeEventListener("dragleave", leave);
      removeEventListener("dragover", hover);
      removeEventListener("drop", dropped);
    };
  }, [dir]);
  return over ? (
    <div class="drop" aria-hidden="true">
      <div>
        <Icon name="upload" size={40} />
        <p>Drop files to upload them here</p>
      </div>
    </div>
  ) : null;
}
