// What one looks at, above its directory: a film, a piece of music, a picture.
import { useEffect, useState } from "preact/hooks";
import { me as whoAmI, stat, type Found, type Me } from "./api";
import { Icon } from "./icons";
import { shown } from "./kinds";
import { Picture } from "./picture";
import { Player } from "./player";
import { neighbours, type Neighbours } from "./queue";
import { navigate } from "./route";

export interface Looking {
  found: Found;
  around: Neighbours;
  go: (name: string | undefined) => void;
  close: () => void;
}

export function Viewer({ dir, name }: { dir: string; name: string }) {
  const [found, set] = useState<Found | undefined>();
  const [me, setMe] = useState<Me | undefined>();
  const [wrong, complain] = useState("");
  const [around, place] = useState<Neighbours>({ place: 0, total: 0 });
  const close = () => navigate({ dir });
  useEffect(() => {
    const abort = new AbortController();
    const bad = (err: Error) => !abort.signal.aborted && complain(err.message);
    complain("");
    place({ place: 0, total: 0 });
    whoAmI(dir, abort.signal).then(setMe, bad);
    stat(dir + name, abort.signal).then((f) => {
      set(f);
      const kind = shown(f);
      if (kind) neighbours(dir, name, kind, abort.signal).then(place, () => undefined);
      else complain("The page does not show files of this kind.");
    }, bad);
    return () => abort.abort();
  }, [dir, name]);
  useEffect(() => {
    const before = document.title;
    document.title = name;
    return () => void (document.title = before);
  }, [name]);

  const looking = { around, close, go: (to: string | undefined) => to !== undefined && navigate({ dir, view: to }, true) };
  if (wrong)
    return (
      <div class="viewer" role="dialog" aria-modal="true" aria-label={name} onKeyDown={(e) => e.key === "Escape" && close()}>
        <p class="empty" role="alert">
          <Icon name="warning" size={40} />
          {name}: {wrong}
          <button autofocus onClick={close}>
            Back to the folder
          </button>
        </p>
      </div>
    );
  if (!found || !me || found.name !== name) return <div class="viewer" role="dialog" aria-modal="true" aria-label={name} aria-busy="true" />;
  return shown(found) === "image" ? <Picture key={found.path} found={found} {...looking} /> : <Player key={found.path} found={found} canConvert={me.features.hls ?? false} {...looking} />;
}
