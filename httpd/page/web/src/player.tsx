// The player: a media element, and what lies over it.
import { useEffect, useRef, useState } from "preact/hooks";
import { media as mediaOf, type Media } from "./api";
import { Controls, Upnext } from "./controls";
import { clock } from "./format";
import { Icon } from "./icons";
import { stem } from "./kinds";
import { Playback } from "./playback";
import { playerKeys } from "./playerkeys";
import { remember, resumeAt } from "./resume";
import { read, write } from "./settings";
import { fetchSubtitle, prefer, preferred, type Subtitle } from "./subtitles";
import type { Looking } from "./viewer";

/** hideAfter is how long the controls stay when nothing moves, in ms. */
const hideAfter = 3000;

/** useMedia asks what the daemon knows of the file, until it knows. */
function useMedia(path: string): Media | undefined {
  const [media, set] = useState<Media | undefined>();
  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const ask = () =>
      void mediaOf(path, abort.signal).then(
        (m) => {
          set(m);
          if (m.state === "pending") timer = setTimeout(ask, 2000);
        },
        () => undefined, // the film plays without
      );
    ask();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [path]);
  return media;
}

/** useSubtitle holds the chosen subtitles and their track in memory. */
function useSubtitle(media: Media | undefined) {
  const all = media?.subtitles ?? [];
  const [chosen, set] = useState<Subtitle | undefined>();
  const [track, setTrack] = useState<string | undefined>();
  const [wrong, fail] = useState("");
  useEffect(() => {
    if (!chosen) set(preferred(all));
  }, [all.length]);
  useEffect(() => {
    if (!chosen) return setTrack(undefined);
    const abort = new AbortController();
    let url: string | undefined;
    fail("");
    fetchSubtitle(chosen, abort.signal).then(
      (u) => (abort.signal.aborted ? URL.revokeObjectURL(u) : setTrack((url = u))),
      (err: Error) => !abort.signal.aborted && fail(`These subtitles cannot be shown: ${err.message}`),
    );
    return () => {
      abort.abort();
      setTrack(undefined);
      const done = url;
      if (done) setTimeout(() => URL.revokeObjectURL(done), 10_000); // the element may be about to load it
    };
  }, [chosen?.url]);
  const choose = (s: Subtitle | undefined) => {
    prefer(s);
    set(s);
  };
  return { all, chosen, choose, track, wrong };
}

/** useIdle tells whether nothing moved for a while; move says that something did. */
function useIdle(): [boolean, () => void] {
  const [idle, set] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const move = () => {
    set(false);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set(true), hideAfter);
  };
  useEffect(() => {
    move();
    return () => clearTimeout(timer.current);
  }, []);
  return [idle, move];
}

export function Player(p: Looking & { canConvert: boolean }) {
  const { found, around, go, close } = p;
  const box = useRef<HTMLDivElement>(null);
  const video = useRef<HTMLVideoElement>(null);
  const playback = useRef<Playback | undefined>(undefined);
  const [, tick] = useState(0);
  const draw = () => tick((n) => n + 1);
  const [wrong, fail] = useState("");
  const [ended, end] = useState(false);
  const [resumed, setResumed] = useState(0);
  const [waiting, wait] = useState(true);
  const [idle, move] = useIdle();
  const media = useMedia(found.path);
  const subtitle = useSubtitle(media);
  const music = found.kind === "audio";

  useEffect(() => {
    const v = video.current!;
    box.current?.focus();
    v.volume = Number(read("tnv.volume") ?? 1);
    v.muted = read("tnv.muted") === "1";
    const at = resumeAt(found.path);
    setResumed(at);
    const pb = new Playback(v, found, p.canConvert, draw, fail);
    playback.current = pb;
    void pb.start(at);
    const keep = () => remember(found.path, v.currentTime, v.duration);
    const timer = setInterval(() => !v.paused && keep(), 5000);
    addEventListener("pagehide", keep);
    return () => {
      keep();
      clearInterval(timer);
      removeEventListener("pagehide", keep);
      pb.close();
    };
  }, []);
  useEffect(() => media && playback.current?.know(media), [media]);
  useEffect(() => {
    if (!("mediaSession" in navigator)) return;
    const artwork = media?.thumb ? [{ src: media.thumb }] : [];
    navigator.mediaSession.metadata = new MediaMetadata({ title: media?.title || stem(found.name), artist: media?.artist ?? "", album: media?.album ?? "", artwork });
    const handle = (what: MediaSessionAction, f: (() => void) | null) => navigator.mediaSession.setActionHandler(what, f);
    handle("nexttrack", around.next ? () => go(around.next) : null);
    handle("previoustrack", around.previous ? () => go(around.previous) : null);
    return () => {
      navigator.mediaSession.metadata = null;
      handle("nexttrack", null);
      handle("previoustrack", null);
    };
  }, [media, around]);
  useEffect(() => {
    if (resumed === 0) return;
    const timer = setTimeout(() => setResumed(0), 8000);
    return () => clearTimeout(timer);
  }, [resumed]);

  const v = video.current;
  const toggle = () => void (v?.paused ? v.play().catch(() => undefined) : v?.pause());
  const full = () => {
    if (document.fullscreenElement) void document.exitFullscreen();
    else if (box.current?.requestFullscreen) void box.current.requestFullscreen().catch(() => undefined);
    else (v as unknown as { webkitEnterFullscreen?: () => void })?.webkitEnterFullscreen?.();
  };
  const finished = () => {
    remember(found.path, video.current!.duration, video.current!.duration);
    if (music && around.next) go(around.next);
    else end(true);
  };
  const hidden = idle && !music && v !== null && !v.paused && !wrong && !ended;
  useEffect(() => {
    for (const track of video.current!.textTracks) track.mode = "showing";
  }, [subtitle.track]);

  return (
    <div
      ref={box}
      class={`viewer player${music ? " music" : ""}${hidden ? " hidden" : ""}`}
      role="dialog"
      aria-modal="true"
      aria-label={found.name}
      tabIndex={-1}
      onPointerMove={move}
      onKeyDown={(e) => {
        move();
        playerKeys(e, { video: video.current!, toggle, full, close, next: () => go(around.next), previous: () => go(around.previous), subtitles: subtitle, audio: playback.current?.audioTracks() ?? [] });
      }}
      onFocusIn={move}
    >
      <video
        ref={video}
        playsinline
        preload="auto"
        poster={music ? undefined : media?.thumb}
        onClick={(e) => {
          if ((e as unknown as PointerEvent).pointerType === "touch") return move();
          toggle();
        }}
        onDblClick={full}
        onPlay={() => {
          end(false);
          draw();
        }}
        onPause={() => {
          remember(found.path, video.current!.currentTime, video.current!.duration);
          draw();
        }}
        onWaiting={() => wait(true)}
        onPlaying={() => wait(false)}
        onCanPlay={() => wait(false)}
        onSeeked={() => wait(false)}
        onLoadedMetadata={() => {
          playback.current?.check();
          draw();
        }}
        onError={() => playback.current?.error()}
        onEnded={finished}
        onVolumeChange={() => {
          write("tnv.volume", String(video.current!.volume));
          write("tnv.muted", video.current!.muted ? "1" : null);
          draw();
        }}
      >
        {subtitle.track && <track key={subtitle.track} default kind="subtitles" src={subtitle.track} srclang={subtitle.chosen?.language || "und"} label={subtitle.chosen?.label} />}
      </video>
      {music && (
        <div class="sleeve">
          {media?.thumb ? <img src={media.thumb} alt="" /> : <Icon name="music" size={96} />}
          <p class="piece">{media?.title || stem(found.name)}</p>
          <p class="small">{[media?.artist, media?.album].filter(Boolean).join(" · ")}</p>
        </div>
      )}
      {!waiting && !wrong && !ended && v?.paused && v.currentTime === 0 && (
        <button class="quiet begin" aria-label="Play from here" onClick={toggle}>
          <Icon name="play" size={44} />
        </button>
      )}
      {waiting && !wrong && <div class="spinner" role="status" aria-label="Loading" />}
      {wrong && (
        <div class="empty" role="alert">
          <Icon name="warning" size={40} />
          <p>{wrong}</p>
          <p class="ways">
            <a class="button primary" href={`${found.href}?m3u`}>
              Open in VLC
            </a>
            <a class="button" href={`${found.href}?download`} download="">
              Download
            </a>
          </p>
        </div>
      )}
      <header class="over">
        <button class="quiet" aria-label="Back to the folder" onClick={close}>
          <Icon name="back" />
        </button>
        <h1>{found.name}</h1>
        <span class="small">{playback.current?.converted ? "converted by the server" : ""}</span>
        <a class="button quiet" href={`${found.href}?m3u`} aria-label="Open in VLC" title="Open in VLC">
          <Icon name="external" />
        </a>
        <a class="button quiet" href={`${found.href}?download`} download="" aria-label="Download" title="Download">
          <Icon name="download" />
        </a>
      </header>
      {resumed > 0 && !wrong && (
        <div class="chip" role="status">
          Resumed at {clock(resumed)}
          <button
            class="text"
            onClick={() => {
              video.current!.currentTime = 0;
              setResumed(0);
            }}
          >
            Start over
          </button>
        </div>
      )}
      {subtitle.wrong && (
        <div class="chip" role="alert">
          {subtitle.wrong}
        </div>
      )}
      {ended && around.next && !wrong && <Upnext name={around.next} onGo={() => go(around.next)} onStop={() => end(false)} />}
      {!wrong && v && <Controls video={v} around={around} go={go} toggle={toggle} full={full} subtitles={subtitle} audio={() => playback.current?.audioTracks() ?? []} music={music} duration={media?.duration} />}
    </div>
  );
}
