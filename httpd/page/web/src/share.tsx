// A link for somebody who has no name here.
import { useState } from "preact/hooks";
import { share } from "./api";
import { Dialog } from "./dialog";
import { fullDate } from "./format";

const lives = [
  ["2 hours", 7200],
  ["1 day", 86400],
  ["1 week", 604800],
  ["1 month", 2592000],
] as const;

export function Share(props: { path: string; name: string; onClose: () => void }) {
  const [seconds, set] = useState(86400);
  const [link, got] = useState<{ url: string; expires: string } | undefined>();
  const [said, say] = useState("");
  const make = () =>
    void share(props.path, seconds).then(
      (l) => {
        const url = new URL(l.url, location.href).href;
        got({ url, expires: l.expires });
        navigator.clipboard?.writeText(url).then(
          () => say("Copied."),
          () => say(""),
        );
      },
      (err: Error) => say(err.message),
    );
  return (
    <Dialog title={`Share “${props.name}”`} onClose={props.onClose}>
      <p>Whoever has the link may see and download this, and nothing else, without signing in.</p>
      <label>
        It works for
        <select value={seconds} onChange={(e) => set(Number(e.currentTarget.value))}>
          {lives.map(([label, s]) => (
            <option key={s} value={s}>
              {label}
            </option>
          ))}
        </select>
      </label>
      {link && (
        <label>
          Link
          <input readOnly value={link.url} onFocus={(e) => e.currentTarget.select()} />
        </label>
      )}
      <p class="small" role="status">
        {said} {link && `It ends on ${fullDate(Date.parse(link.expires))}.`}
      </p>
      <footer>
        <button onClick={props.onClose}>Close</button>
        <button class="primary" onClick={make}>
          {link ? "Make another" : "Make a link"}
        </button>
      </footer>
    </Dialog>
  );
}
