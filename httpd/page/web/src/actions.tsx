// What is done to files: each action says how it went, and deleting can be undone.
import { mkdir, move, remove, undo, type Me, type Outcome } from "./api";
import { count } from "./format";
import { moved } from "./resume";
import { complain, say } from "./toasts";

/** failed reports those of many that did not work, and tells how many did. */
function failed(what: string, items: Outcome[]): number {
  const bad = items.filter((i) => i.error);
  if (bad.length > 0) complain(`${what} failed for ${bad.length === 1 ? bad[0]!.path : count(bad.length, "item")}`, bad[0]!.error!.message || bad[0]!.error!.kind);
  return items.length - bad.length;
}

/** deleteAll puts files into the trash, and offers to take them out again. */
export async function deleteAll(paths: string[], me: Me | undefined, done: () => void): Promise<void> {
  try {
    const items = await remove(paths);
    const ids = items.flatMap((i) => (i.trash ? [i.trash] : []));
    const n = failed("Deleting", items);
    const name = paths.length === 1 ? `“${paths[0]!.split("/").pop()}”` : count(n, "item");
    if (n > 0 && ids.length > 0) say(`${name} deleted`, { label: "Undo", run: () => void undoAll(ids, done) }, Math.min(60_000, (me?.trash_life_seconds || 3600) * 1000));
    else if (n > 0) say(`${name} deleted`);
  } catch (err) {
    complain("Deleting failed", err);
  }
  done();
}

export async function undoAll(ids: string[], done: () => void): Promise<void> {
  try {
    const n = failed("Putting back", await undo(ids));
    if (n > 0) say(`${count(n, "item")} put back`);
  } catch (err) {
    complain("Putting back failed", err);
  }
  done();
}

export async function rename(dir: string, from: string, to: string, done: () => void): Promise<void> {
  try {
    await move(dir + from, dir + to);
    moved(dir + from, dir + to);
  } catch (err) {
    complain(`“${from}” was not renamed`, err);
  }
  done();
}

/** moveAll moves files into another directory; undoing moves them back. */
export async function moveAll(paths: string[], to: string, done: () => void): Promise<void> {
  const gone: [string, string][] = [];
  let first: unknown;
  for (const from of paths) {
    const target = to + from.split("/").pop();
    try {
      await move(from, target);
      moved(from, target);
      gone.push([from, target]);
    } catch (err) {
      first ??= err;
    }
  }
  if (first !== undefined) complain(`${count(paths.length - gone.length, "item")} not moved`, first);
  const back = async () => {
    try {
      for (const [from, target] of gone) {
        await move(target, from);
        moved(target, from);
      }
      say(`${count(gone.length, "item")} moved back`);
    } catch (err) {
      complain("Moving back failed", err);
    }
    done();
  };
  if (gone.length > 0) say(`${count(gone.length, "item")} moved to ${to}`, { label: "Undo", run: () => void back() });
  done();
}

export async function makeDir(path: string, done: () => void): Promise<void> {
  try {
    await mkdir(path);
  } catch (err) {
    complain("The folder was not made", err);
  }
  done();
}
