// What a media element plays: the file itself where the browser can, else what the
// daemon makes of it (HLS); and HLS where the browser lacks it, by hls.js.
import type Hls from "hls.js";
import { hls as convert, Refusal, type Found, type Media, type Stream } from "./api";
import { isHls } from "./kinds";

declare const HLS_WORKER: string; // the worker's file, from the build

export interface Track {
  label: string;
  on: boolean;
  choose: () => void;
}

const nativeHls = "application/vnd.apple.mpegurl";

/** names of codecs as ffprobe and as browsers write them. */
const codecs: Record<string, string> = {
  aac: 'audio/mp4; codecs="mp4a.40.2"',
  mp3: "audio/mpeg",
  opus: 'audio/webm; codecs="opus"',
  vorbis: 'audio/webm; codecs="vorbis"',
  flac: "audio/flac",
  ac3: 'audio/mp4; codecs="ac-3"',
  eac3: 'audio/mp4; codecs="ec-3"',
  dts: 'audio/mp4; codecs="dtsc"',
  truehd: 'audio/mp4; codecs="mlpa"',
  alac: 'audio/mp4; codecs="alac"',
};

/** audible tells whether the browser decodes a stream; one of which nothing is known, it does. */
function audible(element: HTMLMediaElement, s: Stream): boolean {
  const type = codecs[s.codec ?? ""];
  return type === undefined || element.canPlayType(type) !== "";
}

/**
 * Playback drives one media element through one file. It goes over to the daemon's
 * conversion once, when the browser fails on the file, shows no picture of a film,
 * or cannot decode its sound; or when another audio track is asked for that only
 * the conversion can give.
 */
export class Playback {
  converted = false;
  mode: "" | "remux" | "transcode" = "";
  private hls: Hls | undefined;
  private media: Media | undefined;
  private audio: number | undefined; // stream index that the conversion plays
  private closed = false;
  private converting = false;

  constructor(
    private element: HTMLVideoElement,
    private found: Found,
    private canConvert: boolean,
    private changed: () => void,
    private failed: (why: string) => void,
  ) {}

  async start(at: number): Promise<void> {
    if (isHls(this.found.name)) await this.playHls(this.found.href, at);
    else {
      this.element.src = this.found.href + (at > 0 ? `#t=${at}` : "");
      void this.play();
    }
  }

  /** know takes in what the daemon knows of the file. */
  know(media: Media): void {
    this.media = media;
    this.check();
    this.changed();
  }

  /** check looks whether what plays is what should: after the element's metadata, or the daemon's, came. */
  check(): void {
    if (this.converted || isHls(this.found.name) || this.element.readyState < HTMLMediaElement.HAVE_METADATA) return;
    const of = (type: Stream["type"]) => this.media?.streams?.filter((s) => s.type === type) ?? [];
    const blind = this.found.kind === "video" && this.element.videoWidth === 0 && of("video").length > 0;
    const sounds = of("audio");
    const deaf = sounds.length > 0 && !audible(this.element, sounds.find((s) => s.default) ?? sounds[0]!);
    if (blind || deaf) void this.convert();
  }

  /** error is told when the element cannot go on. */
  error(): void {
    const e = this.element.error;
    if (this.hls || this.converting || e?.code === MediaError.MEDIA_ERR_ABORTED) return;
    if (e?.code === MediaError.MEDIA_ERR_NETWORK && this.element.currentTime > 0) {
      const at = this.element.currentTime;
      setTimeout(() => !this.closed && this.again(at), 2000);
      return;
    }
    if (this.converted || isHls(this.found.name)) this.failed("This cannot be played.");
    else void this.convert();
  }

  /** again loads the file anew, at a place: the connection had broken. */
  private again(at: number): void {
    this.element.src = `${this.found.href}#t=${at}`;
    void this.play();
  }

  async convert(audio?: number): Promise<void> {
    if (!this.canConvert) return this.failed("This browser cannot play this file.");
    this.converting = true;
    const at = this.element.currentTime || startIn(this.element.src);
    try {
      const made = await convert(this.found.path, audio);
      if (this.closed) return;
      this.converted = true;
      this.audio = audio;
      this.mode = made.mode === "remux" ? "remux" : "transcode";
      await this.playHls(made.url, at);
    } catch (err) {
      const busy = err instanceof Refusal && err.status === 429;
      if (!this.closed) this.failed(busy ? "The server converts as many films as it may. Try again later." : "This browser cannot play this file, and the server cannot convert it.");
    } finally {
      this.converting = false;
    }
    this.changed();
  }

  /** audioTracks are those among which one can choose. */
  audioTracks(): Track[] {
    const hls = this.hls;
    if (hls && hls.audioTracks.length > 1)
      return hls.audioTracks.map((t, i) => ({ label: t.name || t.lang || `Track ${i + 1}`, on: i === hls.audioTrack, choose: () => void (hls.audioTrack = i) }));
    const sounds = this.media?.streams?.filter((s) => s.type === "audio") ?? [];
    if (sounds.length < 2) return [];
    const playing = this.audio ?? (sounds.find((s) => s.default) ?? sounds[0]!).index;
    return sounds.map((s, i) => ({ label: streamLabel(s, i), on: s.index === playing, choose: () => void this.convert(s.index) }));
  }

  /** close lets go of the element and all that was fetched for it. */
  close(): void {
    this.closed = true;
    this.hls?.destroy();
    this.element.removeAttribute("src");
    this.element.load();
  }

  private async playHls(url: string, at: number): Promise<void> {
    const { default: Player } = await import("hls.js");
    if (this.closed) return;
    this.hls?.destroy();
    this.hls = undefined;
    if (!Player.isSupported()) {
      if (this.element.canPlayType(nativeHls) === "") return this.failed("This browser cannot play HLS.");
      this.element.src = url + (at > 0 ? `#t=${at}` : "");
      return void this.play();
    }
    this.element.removeAttribute("src");
    const hls = new Player({ workerPath: `/.tnv/page/${HLS_WORKER}`, startPosition: at > 0 ? at : -1, maxBufferLength: 30, backBufferLength: 60, enableWebVTT: true });
    this.hls = hls;
    hls.on(Player.Events.ERROR, (_, data) => {
      if (!data.fatal) return;
      if (data.type === Player.ErrorTypes.MEDIA_ERROR) hls.recoverMediaError();
      else this.failed("The stream ended: the server does not go on with it.");
    });
    for (const e of [Player.Events.AUDIO_TRACKS_UPDATED, Player.Events.AUDIO_TRACK_SWITCHED, Player.Events.SUBTITLE_TRACKS_UPDATED]) hls.on(e, this.changed);
    hls.on(Player.Events.MANIFEST_PARSED, () => void this.play());
    hls.loadSource(url);
    hls.attachMedia(this.element);
  }

  private play(): Promise<void> {
    return this.element.play().catch(() => this.changed()); // the user must press a key first
  }
}

/** startIn reads the place that an address asks for. */
const startIn = (src: string): number => Number(/#t=([\d.]+)$/.exec(src)?.[1] ?? 0);

const languages = typeof Intl.DisplayNames === "function" ? new Intl.DisplayNames(undefined, { type: "language" }) : undefined;

/** language writes a code as a name: eng, en → English. */
export function language(code: string | undefined): string {
  if (!code || code === "und") return "";
  try {
    return languages?.of(code) ?? code;
  } catch {
    return code;
  }
}

function streamLabel(s: Stream, i: number): string {
  const words = [s.title || language(s.language) || `Track ${i + 1}`];
  if (s.title && s.language) words.push(language(s.language));
  if (s.channels && s.channels > 2) words.push(`${s.channels} channels`);
  return words.join(" · ");
}
