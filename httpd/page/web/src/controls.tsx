// The player's controls.
import { useEffect, useRef, useState } from "preact/hooks";
import { clock } from "./format";
import { Icon } from "./icons";
import { above, Menu, type At, type Choice } from "./menu";
import type { Track } from "./playback";
import { pip } from "./playerkeys";
import type { Neighbours } from "./queue";
import { subtitleLabel, type Subtitle } from "./subtitles";

interface Props {
  video: HTMLVideoElement;
  around: Neighbours;
  go: (name: string | undefined) => void;
  toggle: () => void;
  full: () => void;
  subtitles: { all: Subtitle[]; chosen: Subtitle | undefined; choose: (s: Subtitle | undefined) => void };
  audio: () => Track[];
  music: boolean;
  duration?: number; // as the daemon knows it
}

const speeds = [0.5, 0.75, 1, 1.25, 1.5, 2];

/** useClock draws again as the film goes on. */
function useClock(video: HTMLVideoElement): void {
  const [, tick] = useState(0);
  useEffect(() => {
    const draw = () => tick((n) => n + 1);
    const events = ["timeupdate", "durationchange", "progress", "seeking", "seeked", "ratechange", "play", "pause"];
    events.forEach((e) => video.addEventListener(e, draw));
    return () => events.forEach((e) => video.removeEventListener(e, draw));
  }, [video]);
}

/** Seek is the bar: how far the film is, what of it is here, and where to go. */
function Seek({ video, duration }: { video: HTMLVideoElement; duration: number }) {
  const [scrub, set] = useState<number | undefined>();
  const [hover, over] = useState<{ x: number; t: number } | undefined>();
  const last = useRef(0);
  const at = scrub ?? video.currentTime;
  const part = (t: number) => `${duration > 0 ? Math.min(100, (t / duration) * 100) : 0}%`;
  const parts = [];
  for (let i = 0; i < video.buffered.length; i++) parts.push([video.buffered.start(i), video.buffered.end(i)] as const);
  return (
    <div
      class="seek"
      onPointerMove={(e) => {
        const r = e.currentTarget.getBoundingClientRect();
        over({ x: e.clientX - r.left, t: ((e.clientX - r.left) / r.width) * duration });
      }}
      onPointerLeave={() => over(undefined)}
    >
      <span class="rail">
        {parts.map(([from, to]) => (
          <span key={from} class="here" style={{ left: part(from), width: part(to - from) }} />
        ))}
        <span class="past" style={{ width: part(at) }} />
      </span>
      {hover && duration > 0 && (
        <span class="hint" aria-hidden="true" style={{ left: `${hover.x}px` }}>
          {clock(hover.t)}
        </span>
      )}
      <input
        type="range"
        min={0}
        max={duration || 1}
        step="any"
        value={at}
        disabled={duration <= 0}
        aria-label="Seek"
        aria-valuetext={`${clock(at)} of ${clock(duration)}`}
        onKeyDown={(e) => {
          const by = { ArrowLeft: -5, ArrowDown: -5, ArrowRight: 5, ArrowUp: 5, PageUp: 60, PageDown: -60 }[e.key];
          if (by === undefined) return;
          e.preventDefault();
          video.currentTime = Math.max(0, Math.min(duration, video.currentTime + by));
        }}
        onInput={(e) => {
          const t = Number(e.currentTarget.value);
          set(t);
          if (performance.now() - last.current < 200) return;
          last.current = performance.now();
          video.currentTime = t;
        }}
        onChange={(e) => {
          video.currentTime = Number(e.currentTarget.value);
          set(undefined);
        }}
      />
    </div>
  );
}

type Open = { what: "subtitles" | "audio" | "speed"; at: At } | undefined;

export function Controls(p: Props) {
  const { video: v, around, go } = p;
  useClock(v);
  const [menu, open] = useState<Open>();
  const duration = Number.isFinite(v.duration) ? v.duration : v.duration === Infinity && v.seekable.length > 0 ? v.seekable.end(v.seekable.length - 1) : (p.duration ?? 0);
  const audio = p.audio();
  const choices = (what: NonNullable<Open>["what"]): Choice[] => {
    switch (what) {
      case "subtitles":
        return [{ label: "Off", checked: !p.subtitles.chosen, run: () => p.subtitles.choose(undefined) }, ...p.subtitles.all.map((s) => ({ label: subtitleLabel(s), checked: s.url === p.subtitles.chosen?.url, run: () => p.subtitles.choose(s) }))];
      case "audio":
        return audio.map((t) => ({ label: t.label, checked: t.on, run: t.choose }));
      case "speed":
        return speeds.map((s) => ({ label: s === 1 ? "Normal" : `${s}×`, checked: v.playbackRate === s, run: () => void (v.playbackRate = s) }));
    }
  };
  const button = (what: NonNullable<Open>["what"], label: string, icon: Parameters<typeof Icon>[0]["name"]) => (
    <button class="quiet" aria-haspopup="menu" aria-label={label} title={label} onClick={(e) => open({ what, at: above(e.currentTarget) })}>
      <Icon name={icon} />
    </button>
  );
  return (
    <div class="controls" role="group" aria-label="Player controls">
      <Seek video={v} duration={duration} />
      <div class="keys">
        {around.previous !== undefined && (
          <button class="quiet" aria-label="Previous" title={around.previous} onClick={() => go(around.previous)}>
            <Icon name="previous" />
          </button>
        )}
        <button class="quiet big" aria-label={v.paused ? "Play" : "Pause"} onClick={p.toggle}>
          <Icon name={v.paused ? "play" : "pause"} size={26} />
        </button>
        {around.next !== undefined && (
          <button class="quiet" aria-label="Next" title={around.next} onClick={() => go(around.next)}>
            <Icon name="next" />
          </button>
        )}
        <button class="quiet" aria-label={v.muted ? "Sound on" : "Mute"} onClick={() => (v.muted = !v.muted)}>
          <Icon name={v.muted || v.volume === 0 ? "muted" : "volume"} />
        </button>
        <input
          class="volume"
          type="range"
          min={0}
          max={1}
          step={0.05}
          value={v.muted ? 0 : v.volume}
          aria-label="Volume"
          aria-valuetext={`${Math.round((v.muted ? 0 : v.volume) * 100)}%`}
          onInput={(e) => {
            v.muted = false;
            v.volume = Number(e.currentTarget.value);
          }}
        />
        <span class="time">
          {clock(v.currentTime)} <span class="small">/ {clock(duration)}</span>
        </span>
        <span class="gap" />
        {p.subtitles.all.length > 0 && button("subtitles", "Subtitles", "captions")}
        {audio.length > 1 && button("audio", "Audio track", "audio")}
        {button("speed", "Speed", "speed")}
        {!p.music && document.pictureInPictureEnabled && (
          <button class="quiet wide" aria-label="Picture in picture" title="Picture in picture" onClick={() => pip(v)}>
            <Icon name="window" />
          </button>
        )}
        {!p.music && (
          <button class="quiet" aria-label="Full screen" title="Full screen" onClick={p.full}>
            <Icon name="full" />
          </button>
        )}
      </div>
      {menu && <Menu label={menu.what} at={menu.at} choices={choices(menu.what)} onClose={() => open(undefined)} />}
    </div>
  );
}

/** Upnext offers the next film, and begins it by itself. */
export function Upnext(p: { name: string; onGo: () => void; onStop: () => void }) {
  const [left, set] = useState(8);
  useEffect(() => {
    const timer = setTimeout(() => (left <= 1 ? p.onGo() : set(left - 1)), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  return (
    <div class="upnext" role="status">
      <p class="small">Next in {left} s</p>
      <p>{p.name}</p>
      <p class="ways">
        <button onClick={p.onStop}>Stay</button>
        <button class="primary" onClick={p.onGo}>
          Play now
        </button>
      </p>
    </div>
  );
}
