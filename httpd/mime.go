package httpd

import (
	"path"
	"strings"
)

// contentType tells a file's type by its name. The table is the daemon's own, so
// that an answer does not depend on the machine; the content is never looked at.
func contentType(name string) string {
	ext := strings.ToLower(strings.TrimPrefix(path.Ext(name), "."))
	if t := typeByExt(ext); t != "" {
		return t
	}
	return "application/octet-stream"
}

// typeByExt covers what a media library holds; sources: the IANA registry, and
// for what it lacks what players and browsers expect.
func typeByExt(ext string) string {
	for _, table := range []func(string) string{videoType, streamType, audioType, pictureType, documentType} {
		if t := table(ext); t != "" {
			return t
		}
	}
	return ""
}

func videoType(ext string) string {
	switch ext {
	case "mp4", "mp4v", "mpg4":
		return "video/mp4"
	case "m4v":
		return "video/x-m4v"
	case "mkv":
		return "video/x-matroska"
	case "mk3d":
		return "video/x-matroska-3d"
	case "webm":
		return "video/webm"
	case "mov", "qt":
		return "video/quicktime"
	case "avi":
		return "video/x-msvideo"
	case "ts", "m2ts", "mts", "m2t":
		return "video/mp2t"
	case "mpg", "mpeg", "mpe", "vob", "m2v":
		return "video/mpeg"
	case "wmv":
		return "video/x-ms-wmv"
	case "flv":
		return "video/x-flv"
	case "3gp":
		return "video/3gpp"
	case "3g2":
		return "video/3gpp2"
	case "ogv":
		return "video/ogg"
	case "mxf":
		return "application/mxf"
	}
	return ""
}

// streamType covers streaming and subtitles.
func streamType(ext string) string {
	switch ext {
	case "mpd":
		return "application/dash+xml"
	case "m3u8":
		return "application/vnd.apple.mpegurl"
	case "m3u":
		return "audio/x-mpegurl"
	case "m4s", "cmfv":
		return "video/iso.segment"
	case "pls":
		return "audio/x-scpls"
	case "vtt":
		return "text/vtt; charset=utf-8"
	case "srt":
		return "application/x-subrip"
	case "ass", "ssa":
		return "text/x-ssa"
	case "sub":
		return "text/plain; charset=utf-8"
	case "ttml":
		return "application/ttml+xml"
	}
	return ""
}

func audioType(ext string) string {
	switch ext {
	case "flac":
		return "audio/flac"
	case "opus", "ogg", "oga":
		return "audio/ogg"
	case "m4a", "m4b":
		return "audio/mp4"
	case "mp3":
		return "audio/mpeg"
	case "aac":
		return "audio/aac"
	case "wav":
		return "audio/wav"
	case "aif", "aiff":
		return "audio/aiff"
	case "mka":
		return "audio/x-matroska"
	case "ac3":
		return "audio/ac3"
	case "eac3":
		return "audio/eac3"
	case "mid", "midi":
		return "audio/midi"
	case "weba":
		return "audio/webm"
	}
	return ""
}

func pictureType(ext string) string {
	switch ext {
	case "jpg", "jpeg", "jpe":
		return "image/jpeg"
	case "png":
		return "image/png"
	case "webp":
		return "image/webp"
	case "avif":
		return "image/avif"
	case "gif":
		return "image/gif"
	case "svg":
		return "image/svg+xml"
	case "tif", "tiff":
		return "image/tiff"
	case "bmp":
		return "image/bmp"
	case "heic":
		return "image/heic"
	case "jxl":
		return "image/jxl"
	case "ico":
		return "image/vnd.microsoft.icon"
	}
	return ""
}

func documentType(ext string) string {
	switch ext {
	case "pdf":
		return "application/pdf"
	case "epub":
		return "application/epub+zip"
	case "html", "htm":
		return "text/html; charset=utf-8"
	case "css":
		return "text/css; charset=utf-8"
	case "js", "mjs":
		return "text/javascript; charset=utf-8"
	case "wasm":
		return "application/wasm"
	case "txt", "log", "nfo", "cue", "md":
		return "text/plain; charset=utf-8"
	case "csv":
		return "text/csv; charset=utf-8"
	case "json":
		return "application/json"
	case "xml":
		return "application/xml"
	case "zip":
		return "application/zip"
	case "gz", "tgz":
		return "application/gzip"
	case "tar":
		return "application/x-tar"
	case "7z":
		return "application/x-7z-compressed"
	case "woff2":
		return "font/woff2"
	case "ttf":
		return "font/ttf"
	}
	return ""
}
