// The keyboard in the player.
import type { Track } from "./playback";
import type { Subtitle } from "./subtitles";

export interface PlayerActions {
  video: HTMLVideoElement;
  toggle: () => void;
  full: () => void;
  close: () => void;
  next: () => void;
  previous: () => void;
  subtitles: { all: Subtitle[]; chosen: Subtitle | undefined; choose: (s: Subtitle | undefined) => void };
  audio: Track[];
}

/** seek moves by some seconds, within the film. */
export function seek(v: HTMLVideoElement, by: number): void {
  v.currentTime = Math.max(0, Math.min(v.currentTime + by, Number.isFinite(v.duration) ? v.duration : Infinity));
}

const louder = (v: HTMLVideoElement, by: number) => {
  v.muted = false;
  v.volume = Math.max(0, Math.min(1, v.volume + by));
};

/** nextSubtitle goes through all subtitles, and none. */
export function nextSubtitle(s: PlayerActions["subtitles"]): void {
  const i = s.all.findIndex((x) => x.url === s.chosen?.url);
  s.choose(s.all[i + 1]);
}

export function pip(v: HTMLVideoElement): void {
  if (document.pictureInPictureElement) void document.exitPictureInPicture();
  else void v.requestPictureInPicture?.().catch(() => undefined);
}

export function playerKeys(e: KeyboardEvent, a: PlayerActions): void {
  if (e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented) return;
  const at = e.target as HTMLElement;
  const v = a.video;
  const onRange = at.matches("input[type=range]"); // its arrows are its own
  const onButton = at.matches("button, a");
  const act: Record<string, () => void> = {
    k: a.toggle,
    j: () => seek(v, -10),
    l: () => seek(v, 10),
    m: () => (v.muted = !v.muted),
    f: a.full,
    p: () => pip(v),
    c: () => nextSubtitle(a.subtitles),
    a: () => a.audio[(a.audio.findIndex((t) => t.on) + 1) % a.audio.length]?.choose(),
    N: a.next,
    P: a.previous,
    MediaTrackNext: a.next,
    MediaTrackPrevious: a.previous,
    Escape: () => (document.fullscreenElement ? void document.exitFullscreen() : a.close()),
  };
  if (!onRange) {
    Object.assign(act, { ArrowLeft: () => seek(v, -5), ArrowRight: () => seek(v, 5), ArrowUp: () => louder(v, 0.1), ArrowDown: () => louder(v, -0.1), Home: () => (v.currentTime = 0) });
  }
  if (!onButton) act[" "] = a.toggle;
  for (let n = 0; n < 10; n++) act[String(n)] = () => Number.isFinite(v.duration) && (v.currentTime = (v.duration * n) / 10);
  const f = act[e.key];
  if (!f) return;
  e.preventDefault();
  f();
}
