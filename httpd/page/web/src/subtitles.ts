// Subtitles: fetched when they are chosen (the daemon may need a while to take them
// out of a film), and handed to the browser, which draws them.
import { refusal, type Media } from "./api";
import { language } from "./playback";
import { read, write } from "./settings";

export type Subtitle = NonNullable<Media["subtitles"]>[number];

export const subtitleLabel = (s: Subtitle): string => s.label || language(s.language) || "Subtitles";

/** preferred is what was chosen last, as far as this film has it. */
export function preferred(all: Subtitle[]): Subtitle | undefined {
  const kept = read("tnv.subtitles");
  return kept ? all.find((s) => (s.language || s.label) === kept) : undefined;
}
export const prefer = (s: Subtitle | undefined): void => write("tnv.subtitles", s ? s.language || s.label : null);

/** fetchSubtitle gives the address of the track in memory. */
export async function fetchSubtitle(s: Subtitle, signal: AbortSignal): Promise<string> {
  for (let wait = 1000; ; wait = Math.min(wait * 1.5, 10_000)) {
    const r = await fetch(s.url, { signal });
    if (r.status === 200) return URL.createObjectURL(new Blob([await r.text()], { type: "text/vtt" }));
    if (r.status !== 202) throw await refusal(r);
    await new Promise((done) => setTimeout(done, wait));
    signal.throwIfAborted();
  }
}
