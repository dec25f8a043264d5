// Package subs turns the subtitles that lie beside films into WebVTT, which is
// what browsers show: SubRip, SubStation Alpha (text and lines, not looks) and
// MicroDVD. It promises: whatever the bytes are, what comes out is WebVTT, in
// UTF-8, not longer than a few times what went in.
package subs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"

	"github.com/tnvfs/tnv"
)

// MaxSize bounds the size of a file that is turned.
const MaxSize = 4 << 20

// cue is a text that is shown for a while, in milliseconds.
type cue struct {
	from, to int64
	text     string
}

// ToVTT turns a file of subtitles; ext is its name's extension, in lower case.
func ToVTT(ext string, b []byte) ([]byte, error) {
	text := decode(b)
	var cues []cue
	switch ext {
	case "vtt":
		return []byte(text), nil
	case "srt":
		cues = fromSRT(text)
	case "ass", "ssa":
		cues = fromASS(text)
	case "sub":
		cues = fromMicroDVD(text)
	default:
		return nil, tnv.E("subtitles", tnv.KindNotSupported, "%q is no kind that is known", ext)
	}
	if len(cues) == 0 {
		return nil, tnv.E("subtitles", tnv.KindNotSupported, "there is no text in the file")
	}
	slices.SortStableFunc(cues, func(a, b cue) int { return cmp.Compare(a.from, b.from) })
	var out bytes.Buffer
	out.WriteString("WEBVTT\n")
	for _, c := range cues {
		fmt.Fprintf(&out, "\n%s --> %s\n%s\n", stamp(c.from), stamp(c.to), c.text)
	}
	return out.Bytes(), nil
}

// decode finds out the encoding: UTF-16 and UTF-8 by their marks, UTF-8 if it is
// valid, else Windows-1252, as such files mostly are. Lines end in "\n".
func decode(b []byte) string {
	s := ""
	switch {
	case bytes.HasPrefix(b, []byte{0xEF, 0xBB, 0xBF}):
		s = strings.ToValidUTF8(string(b[3:]), "\uFFFD")
	case bytes.HasPrefix(b, []byte{0xFF, 0xFE}):
		s = wide(b[2:], binary.LittleEndian)
	case bytes.HasPrefix(b, []byte{0xFE, 0xFF}):
		s = wide(b[2:], binary.BigEndian)
	case utf8.Valid(b):
		s = string(b)
	default:
		d, _ := charmap.Windows1252.NewDecoder().Bytes(b)
		s = string(d)
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	return strings.ReplaceAll(s, "\x00", "")
}

func wide(b []byte, order binary.ByteOrder) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = order.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

func stamp(ms int64) string {
	return fmt.Sprintf("%02d:%02d:%02d.%03d", ms/3600000, ms/60000%60, ms/1000%60, ms%1000)
}

// moment reads hours:minutes:seconds and a fraction behind "," or ".".
func moment(s string) (int64, bool) {
	parts := strings.Split(strings.TrimSpace(s), ":")
	if len(parts) < 2 || len(parts) > 3 {
		return 0, false
	}
	secs, frac, _ := strings.Cut(strings.Replace(parts[len(parts)-1], ",", ".", 1), ".")
	frac = (frac + "000")[:3]
	var total int64
	for _, p := range append(parts[:len(parts)-1], secs) {
		n, err := strconv.ParseUint(strings.TrimSpace(p), 10, 20)
		if err != nil {
			return 0, false
		}
		total = total*60 + int64(n)
	}
	ms, err := strconv.ParseUint(frac, 10, 20)
	return total*1000 + int64(ms), err == nil
}

// span reads "from --> to", with whatever follows.
func span(line string) (from, to int64, ok bool) {
	a, b, found := strings.Cut(line, "-->")
	if !found {
		return 0, 0, false
	}
	f := strings.Fields(b)
	if len(f) == 0 {
		return 0, 0, false
	}
	from, ok1 := moment(a)
	to, ok2 := moment(f[0])
	return from, to, ok1 && ok2
}

func fromSRT(text string) (cues []cue) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		from, to, ok := span(lines[i])
		if !ok {
			continue
		}
		var body []string
		for i+1 < len(lines) && strings.TrimSpace(lines[i+1]) != "" && !strings.Contains(lines[i+1], "-->") {
			i++
			body = append(body, lines[i])
		}
		if t := markup(strings.Join(body, "\n")); t != "" {
			cues = append(cues, cue{from, to, t})
		}
	}
	return cues
}

// markup keeps <b>, <i> and <u>, which WebVTT knows too, drops other tags and
// {\...} of SubStation, and escapes the rest. No line is left empty: that would end the cue.
func markup(s string) string {
	var out strings.Builder
	for s != "" {
		switch {
		case strings.HasPrefix(s, "{\\"):
			if end := strings.IndexByte(s, '}'); end >= 0 {
				s = s[end+1:]
				continue
			}
		case s[0] == '<':
			end := strings.IndexByte(s, '>')
			if end > 0 && tagLike(s[1:end]) {
				switch tag := strings.ToLower(s[1:end]); tag {
				case "b", "i", "u", "/b", "/i", "/u":
					out.WriteString("<" + tag + ">")
				}
				s = s[end+1:]
				continue
			}
		}
		r, n := utf8.DecodeRuneInString(s)
		switch r {
		case '<':
			out.WriteString("&lt;")
		case '>':
			out.WriteString("&gt;")
		case '&':
			out.WriteString("&amp;")
		default:
			out.WriteString(s[:n])
		}
		s = s[n:]
	}
	lines := strings.Split(out.String(), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" })
	return strings.Join(lines, "\n")
}

func tagLike(s string) bool {
	s = strings.TrimPrefix(s, "/")
	return s != "" && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z') && !strings.ContainsAny(s, "<\n")
}

// fromASS reads the Dialogue lines of the Events; Format says where what is.
func fromASS(text string) (cues []cue) {
	start, end, body := 1, 2, 9
	for line := range strings.SplitSeq(text, "\n") {
		key, rest, found := strings.Cut(line, ":")
		if !found {
			continue
		}
		switch strings.TrimSpace(key) {
		case "Format":
			for i, f := range strings.Split(rest, ",") {
				switch strings.TrimSpace(f) {
				case "Start":
					start = i
				case "End":
					end = i
				case "Text":
					body = i
				}
			}
		case "Dialogue":
			f := strings.SplitN(rest, ",", body+1)
			if len(f) <= max(start, end, body) {
				continue
			}
			from, ok1 := moment(f[start])
			to, ok2 := moment(f[end])
			t := strings.NewReplacer(`\N`, "\n", `\n`, "\n", `\h`, " ").Replace(f[body])
			if t = markup(t); ok1 && ok2 && t != "" {
				cues = append(cues, cue{from, to, t})
			}
		}
	}
	return cues
}

// fromMicroDVD reads {from}{to}text, in frames; a first line {1}{1}25 gives the rate.
func fromMicroDVD(text string) (cues []cue) {
	rate := 23.976
	for line := range strings.SplitSeq(text, "\n") {
		var from, to int64
		rest, ok := strings.CutPrefix(line, "{")
		if !ok {
			continue
		}
		a, rest, ok1 := strings.Cut(rest, "}{")
		b, rest, ok2 := strings.Cut(rest, "}")
		from, err1 := strconv.ParseInt(a, 10, 32)
		to, err2 := strconv.ParseInt(b, 10, 32)
		if !ok1 || !ok2 || err1 != nil || err2 != nil || from < 0 || to < 0 {
			continue
		}
		if r, err := strconv.ParseFloat(strings.TrimSpace(rest), 64); err == nil && from <= 1 && to <= 1 && r >= 5 && r <= 500 {
			rate = r
			continue
		}
		if i := strings.LastIndexByte(rest, '}'); strings.HasPrefix(rest, "{") && i > 0 {
			rest = rest[i+1:]
		}
		if t := markup(strings.ReplaceAll(rest, "|", "\n")); t != "" {
			cues = append(cues, cue{int64(float64(from) * 1000 / rate), int64(float64(to) * 1000 / rate), t})
		}
	}
	return cues
}
