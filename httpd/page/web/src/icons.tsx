// The page's icons: strokes of 24 by 24, drawn in the text's colour.
const paths = {
  dir: "M3 7a2 2 0 0 1 2-2h4l2 2h8a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2z",
  film: "M4 5h16v14H4zM8 5v14M16 5v14M4 10h4M4 14h4M16 10h4M16 14h4",
  music: "M9 18V6l10-2v12M9 18a2.500 2.500 0 1 1-5 0 2.500 2.500 0 0 1 5 0M19 16a2.500 2.500 0 1 1-5 0 2.500 2.500 0 0 1 5 0",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 2-2 5 5M15.500 9.500h.01",
  subtitle: "M4 6h16v12H4zM7 14h6M15 14h2M7 11h2M11 11h6",
  text: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  other: "M6 3h8l4 4v14H6zM14 3v4h4",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14M16 16l4.500 4.500",
  close: "M6 6l12 12M18 6 6 18",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  upload: "M12 16V5M7 10l5-5 5 5M4 19h16",
  folderplus: "M3 7a2 2 0 0 1 2-2h4l2 2h8a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2zM12 10v6M9 13h6",
  grid: "M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM14 14h6v6h-6z",
  list: "M4 6h16M4 12h16M4 18h16",
  up: "M12 19V6M6 11l6-6 6 6",
  down: "M12 5v13M6 13l6 6 6-6",
  play: "M8 5l11 7-11 7z",
  pause: "M8 5v14M16 5v14",
  next: "M6 5l9 7-9 7zM18 5v14",
  previous: "M18 5l-9 7 9 7zM6 5v14",
  volume: "M4 10v4h3l5 4V6L7 10zM16 9a4 4 0 0 1 0 6M18.500 6.500a8 8 0 0 1 0 11",
  muted: "M4 10v4h3l5 4V6L7 10zM16 10l4 4M20 10l-4 4",
  full: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  window: "M4 5h16v14H4zM12 12h8v7h-8z",
  captions: "M3 6h18v12H3zM10 10.500a2 2 0 1 0 0 3M17 10.500a2 2 0 1 0 0 3",
  audio: "M4 10v4M8 7v10M12 4v16M16 8v8M20 10v4",
  speed: "M5 18a9 9 0 1 1 14 0M12 14l4-5",
  download: "M12 4v11M7 11l5 5 5-5M4 20h16",
  external: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
  rename: "M4 20l1-5L16 4l4 4L9 19zM14 6l4 4",
  move: "M3 7a2 2 0 0 1 2-2h4l2 2h8a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2zM9 13h6M13 10l3 3-3 3",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
  status: "M4 13h4l2-7 4 13 2-6h4",
  check: "M5 12l5 5L19 7",
  back: "M19 12H6M11 6l-6 6 6 6",
  home: "M4 11l8-7 8 7v9h-5v-6H9v6H4z",
  warning: "M12 4l9 16H3zM12 10v5M12 17.500h.01",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8M5 20c1-4 4-5 7-5s6 1 7 5",
} as const;

export type IconName = keyof typeof paths;

export function Icon({ name, size = 20 }: { name: IconName; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
      <path d={paths[name]} />
    </svg>
  );
}
