// What was deleted and can be put back.
import { useEffect, useState } from "preact/hooks";
import { undoAll } from "./actions";
import { purge, trash, type Trash } from "./api";
import { Dialog } from "./dialog";
import { bytes, date, span } from "./format";
import { Icon } from "./icons";
import { complain } from "./toasts";

export function TrashDialog(props: { onChanged: () => void; onClose: () => void }) {
  const [items, set] = useState<{ life_seconds: number; items: Trash[] } | undefined>();
  const [sure, ask] = useState("");
  const load = () => void trash().then(set, (err) => complain("The trash cannot be shown", err));
  useEffect(load, []);
  const gone = (id: string) =>
    void purge(id).then(load, (err) => {
      complain("It was not removed", err);
      load();
    });
  return (
    <Dialog title="Trash" wide onClose={props.onClose}>
      {items && <p class="small">{items.items.length === 0 ? "Nothing was deleted lately." : `What was deleted is kept for ${span(items.life_seconds)}.`}</p>}
      <ul class="trash">
        {items?.items.map((t) => (
          <li key={t.id}>
            <Icon name={t.type === "dir" ? "dir" : "other"} />
            <span class="words">
              <span>{t.path}</span>
              <span class="small">
                {t.type === "file" ? `${bytes(t.size)} · ` : ""}
                {date(Date.parse(t.deleted))}
                {t.by ? ` · ${t.by}` : ""}
              </span>
            </span>
            <button
              onClick={() =>
                void undoAll([t.id], () => {
                  load();
                  props.onChanged();
                })
              }
            >
              Put back
            </button>
            {sure === t.id ? (
              <button class="danger" onClick={() => gone(t.id)}>
                Remove for good
              </button>
            ) : (
              <button class="quiet" aria-label={`Remove ${t.path} for good`} onClick={() => ask(t.id)}>
                <Icon name="trash" />
              </button>
            )}
          </li>
        ))}
      </ul>
    </Dialog>
  );
}
