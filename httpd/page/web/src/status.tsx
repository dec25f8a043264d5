// The status page: the cluster and this daemon, live.
import { useEffect, useState } from "preact/hooks";
import { status, type Node, type Status } from "./api";
import { bytes, count, date, number, rate, span } from "./format";
import { Icon } from "./icons";

/** every is how often the page looks again, in ms, while somebody sees it. */
const every = 2000;

function useStatus(): [Status | undefined, string] {
  const [now, set] = useState<Status | undefined>();
  const [wrong, complain] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const look = async () => {
      try {
        if (!document.hidden) set(await status(AbortSignal.any([abort.signal, AbortSignal.timeout(10_000)])));
        complain("");
      } catch (err) {
        if (!abort.signal.aborted) complain((err as Error).message);
      }
      if (!abort.signal.aborted) timer = setTimeout(look, every);
    };
    void look();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, []);
  return [now, wrong];
}

/** Chart draws numbers over the last hour as an area. */
function Chart(p: { name: string; values: number[]; step: number; total: number; now: number }) {
  const top = Math.max(1, ...p.values);
  const w = Math.max(1, p.values.length - 1);
  const points = p.values.map((v, i) => `${((i / w) * 600).toFixed(1)},${(98 - (v / top) * 92).toFixed(1)}`);
  return (
    <figure class="chart">
      <figcaption>
        <span>{p.name}</span>
        <strong>{rate(p.now)}</strong>
        <span class="small">
          {bytes(p.total)} in the last {span(p.values.length * p.step)}, at most {rate(top / p.step)}
        </span>
      </figcaption>
      <svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label={`${p.name} over the last hour`}>
        <polygon points={`0,98 ${points.join(" ")} 600,98`} />
        <polyline points={points.join(" ")} vector-effect="non-scaling-stroke" />
      </svg>
    </figure>
  );
}

function Meter(p: { used: number; all: number; label: string }) {
  const part = p.all > 0 ? p.used / p.all : 0;
  return <meter min={0} max={1} high={0.9} optimum={0} value={part} aria-label={p.label} title={`${Math.round(part * 100)}%`} />;
}

function State({ good, text }: { good: boolean; text: string }) {
  return (
    <span class={good ? "state good" : "state bad"}>
      <Icon name={good ? "check" : "warning"} size={16} /> {text}
    </span>
  );
}

function behind(n: { behind_blocks?: number; behind_bytes?: number }): string {
  return n.behind_blocks ? `${count(n.behind_blocks, "block")}${n.behind_bytes ? `, ${bytes(n.behind_bytes)}` : ""}` : "nothing";
}

function Nodes({ nodes }: { nodes: Node[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Storage daemons">
      <table>
        <thead>
          <tr>
            <th scope="col">Storage daemon</th>
            <th scope="col">State</th>
            <th scope="col">Space</th>
            <th scope="col">Blocks</th>
            <th scope="col">Behind</th>
            <th scope="col">Damaged</th>
          </tr>
        </thead>
        <tbody>
          {nodes.map((n) => (
            <tr key={n.id}>
              <th scope="row">
                {n.addr} <span class="small">{n.id}</span>
              </th>
              <td>
                <State good={n.state === "alive"} text={n.state} />
              </td>
              <td>
                <Meter used={n.used_bytes} all={n.capacity_bytes} label={`Space of ${n.addr}`} /> {bytes(n.used_bytes)} of {bytes(n.capacity_bytes)}
              </td>
              <td>{number(n.blocks)}</td>
              <td>{behind(n)}</td>
              <td>{n.corrupt_blocks ? `${n.corrupt_blocks} (${n.mended_blocks ?? 0} mended)` : "none"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Streams({ streams }: { streams: NonNullable<Status["streams"]> }) {
  if (streams.length === 0) return <p class="small">Nobody watches or downloads anything right now.</p>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Streams">
      <table>
        <thead>
          <tr>
            <th scope="col">File</th>
            <th scope="col">Who</th>
            <th scope="col">Since</th>
            <th scope="col">Sent</th>
            <th scope="col">Rate</th>
          </tr>
        </thead>
        <tbody>
          {streams.map((s, i) => (
            <tr key={`${s.client} ${s.started} ${i}`}>
              <th scope="row">{s.path}</th>
              <td>
                {s.user || "anonymous"} <span class="small">{s.client}</span>
              </td>
              <td>{span((Date.now() - Date.parse(s.started)) / 1000)}</td>
              <td>{bytes(s.sent_bytes)}</td>
              <td>{rate(s.rate)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);

/** lately is the rate of the last whole step; the newest one is not over yet. */
const lately = (values: number[], step: number) => (values.at(-2) ?? values.at(-1) ?? 0) / step;

function Facts({ s }: { s: Status }) {
  const used = s.volume.capacity_bytes - s.volume.free_bytes;
  const groups = s.groups ?? [];
  const lag = sum(groups.map((g) => g.behind_blocks));
  const facts: [string, preact.ComponentChildren][] = [
    ["Files", number(s.volume.files)],
    ["Stored", bytes(s.volume.bytes)],
    [
      "Free",
      <>
        {bytes(s.volume.free_bytes)} <Meter used={used} all={s.volume.capacity_bytes} label="Space in use" />
      </>,
    ],
    ["Streams", s.daemon.transfers],
    ["Connections", s.daemon.connections],
    ["Conversions", s.daemon.transcodes],
  ];
  if (s.groups) facts.push(["Behind", lag === 0 ? "nothing" : count(lag, "block")]);
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function Volumes({ volumes }: { volumes: NonNullable<Status["volumes"]> }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Volumes">
      <table>
        <thead>
          <tr>
            <th scope="col">Volume</th>
            <th scope="col">Owner</th>
            <th scope="col">Files</th>
            <th scope="col">Stored</th>
            <th scope="col">Clients</th>
            <th scope="col">To delete</th>
          </tr>
        </thead>
        <tbody>
          {volumes.map((v) => (
            <tr key={v.id}>
              <th scope="row">{v.name}</th>
              <td>{v.owner || "nobody"}</td>
              <td>{number(v.files)}</td>
              <td>{bytes(v.bytes)}</td>
              <td>{v.sessions}</td>
              <td>{number(v.pending_deletions)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function StatusPage() {
  const [s, wrong] = useStatus();
  useEffect(() => void (document.title = "Status"), []);
  const step = s?.traffic.step_seconds ?? 1;
  return (
    <div class="status">
      <header class="top">
        <nav class="crumbs" aria-label="Library">
          <ol>
            <li>
              <a href="/" aria-label="Library">
                <Icon name="home" />
              </a>
            </li>
            <li>
              <a href="/.tnv/" aria-current="page">
                Status
              </a>
            </li>
          </ol>
        </nav>
      </header>
      <main>
        <div class="bar">
          <div class="title">
            <h1>{s ? s.volume.name : "Status"}</h1>
            <p class="small">{s && `this daemon runs since ${date(Date.parse(s.daemon.started))}`}</p>
          </div>
          {s && <Health s={s} wrong={wrong} />}
        </div>
        {wrong && (
          <p class="banner" role="alert">
            <Icon name="warning" /> {s ? "These figures are old: " : ""}
            {wrong}
          </p>
        )}
        {s && (
          <>
            <Facts s={s} />
            <h2>Traffic</h2>
            <div class="charts">
              <Chart name="Sent" values={s.traffic.sent} step={step} total={sum(s.traffic.sent)} now={lately(s.traffic.sent, step)} />
              <Chart name="Received" values={s.traffic.received} step={step} total={sum(s.traffic.received)} now={lately(s.traffic.received, step)} />
            </div>
            <p class="small">
              {count(sum(s.traffic.requests), "request")} in the last {span(s.traffic.requests.length * step)}; {bytes(s.daemon.sent_bytes)} sent since the start.
            </p>
            {s.streams && (
              <>
                <h2>Streams</h2>
                <Streams streams={s.streams} />
              </>
            )}
            {s.groups?.map((g) => (
              <section key={g.id} aria-label={`Group ${g.name}`}>
                <h2>
                  Group {g.name} <State good={g.state === "whole"} text={g.state} />
                </h2>
                <Nodes nodes={g.nodes} />
              </section>
            ))}
            {s.trackers && (
              <>
                <h2>Trackers</h2>
                <ul class="trackers">
                  {s.trackers.map((t) => (
                    <li key={t.addr}>
                      {t.addr} <State good={t.alive} text={t.alive ? "alive" : "does not answer"} />
                    </li>
                  ))}
                </ul>
              </>
            )}
            {s.volumes && (
              <>
                <h2>Volumes</h2>
                <Volumes volumes={s.volumes} />
              </>
            )}
          </>
        )}
      </main>
    </div>
  );
}

/** Health says in a word how the cluster is. */
function Health({ s, wrong }: { s: Status; wrong: string }) {
  const bad = (s.groups ?? []).filter((g) => g.state !== "whole").length + (s.trackers ?? []).filter((t) => !t.alive).length;
  return <State good={bad === 0 && !wrong} text={wrong ? "not reached" : bad === 0 ? "All is well" : `${count(bad, "part")} not well`} />;
}
