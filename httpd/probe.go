package httpd

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/tnvfs/tnv"
)

// probe is what ffprobe found out of one version of a file.
type probe struct {
	Format   string        `json:"format"`
	Duration float64       `json:"duration"`
	BitRate  int64         `json:"bit_rate,omitempty"`
	Title    string        `json:"title,omitempty"`
	Artist   string        `json:"artist,omitempty"`
	Album    string        `json:"album,omitempty"`
	Streams  []probeStream `json:"streams"`
	Mime     string        `json:"mime,omitempty"`
	Thumb    bool          `json:"has_thumb,omitempty"`
	Failed   bool          `json:"failed,omitempty"`
}

// probeStream is a stream within a file.
type probeStream struct {
	Index    int    `json:"index"`
	Type     string `json:"type"`
	Codec    string `json:"codec"`
	Profile  string `json:"profile,omitempty"`
	Width    int    `json:"width,omitempty"`
	Height   int    `json:"height,omitempty"`
	Channels int    `json:"channels,omitempty"`
	Language string `json:"language,omitempty"`
	Title    string `json:"title,omitempty"`
	Default  bool   `json:"default,omitempty"`
	Text     bool   `json:"text,omitempty"`
	Picture  bool   `json:"picture,omitempty"` // a cover, no film
	Level    int    `json:"-"`
}

const maxProbeStreams = 64

// parseProbe reads what ffprobe writes as JSON.
func parseProbe(b []byte, name string) (*probe, error) {
	var in struct {
		Format struct {
			Name     string            `json:"format_name"`
			Duration string            `json:"duration"`
			BitRate  string            `json:"bit_rate"`
			Tags     map[string]string `json:"tags"`
		} `json:"format"`
		Streams []struct {
			Index       int               `json:"index"`
			Type        string            `json:"codec_type"`
			Codec       string            `json:"codec_name"`
			Profile     string            `json:"profile"`
			Width       int               `json:"width"`
			Height      int               `json:"height"`
			Channels    int               `json:"channels"`
			Level       int               `json:"level"`
			Tags        map[string]string `json:"tags"`
			Disposition map[string]int    `json:"disposition"`
		} `json:"streams"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, tnv.E("ffprobe", tnv.KindProtocol, "%v", err)
	}
	if in.Format.Name == "" {
		return nil, tnv.E("ffprobe", tnv.KindNotSupported, "it does not know the file")
	}
	tag := func(tags map[string]string, key string) string {
		for k, v := range tags {
			if strings.EqualFold(k, key) {
				return clip(v)
			}
		}
		return ""
	}
	p := &probe{Format: in.Format.Name, Title: tag(in.Format.Tags, "title"), Artist: tag(in.Format.Tags, "artist"), Album: tag(in.Format.Tags, "album"), Streams: []probeStream{}}
	p.Duration, _ = strconv.ParseFloat(in.Format.Duration, 64)
	p.BitRate, _ = strconv.ParseInt(in.Format.BitRate, 10, 64)
	for _, s := range in.Streams[:min(len(in.Streams), maxProbeStreams)] {
		if s.Type != "video" && s.Type != "audio" && s.Type != "subtitle" {
			continue
		}
		x := probeStream{Index: s.Index, Type: s.Type, Codec: s.Codec, Profile: s.Profile, Width: s.Width, Height: s.Height, Channels: s.Channels, Level: s.Level,
			Language: tag(s.Tags, "language"), Title: tag(s.Tags, "title"), Default: s.Disposition["default"] == 1, Picture: s.Disposition["attached_pic"] == 1}
		switch s.Codec {
		case "subrip", "ass", "ssa", "mov_text", "webvtt", "text":
			x.Text = s.Type == "subtitle"
		}
		p.Streams = append(p.Streams, x)
	}
	p.Mime = mimeWithCodecs(name, p.Streams)
	return p, nil
}

func clip(s string) string {
	if len(s) > 500 {
		s = s[:500]
	}
	return valid(s)
}

// first finds the first stream of a type that is no cover.
func (p *probe) first(kind string) *probeStream {
	for i := range p.Streams {
		if s := &p.Streams[i]; s.Type == kind && !s.Picture {
			return s
		}
	}
	return nil
}

// mimeWithCodecs is the type that a browser can judge (RFC 6381).
func mimeWithCodecs(name string, streams []probeStream) string {
	t, _, _ := strings.Cut(contentType(name), ";")
	if t == "video/x-m4v" || t == "video/quicktime" {
		t = "video/mp4" // as browsers know it
	}
	var codecs []string
	seen := map[string]bool{}
	for i := range streams {
		s := &streams[i]
		if s.Picture || s.Type == "subtitle" || seen[s.Type] {
			continue
		}
		seen[s.Type] = true
		c := codecName(s)
		if c == "" {
			c = s.Codec
		}
		codecs = append(codecs, c)
	}
	if len(codecs) == 0 {
		return t
	}
	return fmt.Sprintf("%s; codecs=%q", t, strings.Join(codecs, ", "))
}

// codecName is a codec's name in RFC 6381 and the registrations of its containers.
func codecName(s *probeStream) string {
	switch s.Codec {
	case "h264":
		profile := map[string]string{"Constrained Baseline": "42e0", "Baseline": "4200", "Main": "4d40", "High": "6400", "High 10": "6e00", "High 4:2:2": "7a00"}[s.Profile]
		if profile == "" {
			profile = "6400"
		}
		return fmt.Sprintf("avc1.%s%02x", profile, max(s.Level, 10))
	case "hevc":
		if s.Profile == "Main 10" {
			return fmt.Sprintf("hvc1.2.4.L%d.B0", max(s.Level, 30))
		}
		return fmt.Sprintf("hvc1.1.6.L%d.B0", max(s.Level, 30))
	case "av1":
		return "av01.0.08M.08"
	case "vp9":
		return "vp09.00.40.08"
	case "vp8", "vorbis", "opus", "flac":
		return s.Codec
	case "aac":
		if s.Profile == "HE-AAC" {
			return "mp4a.40.5"
		}
		return "mp4a.40.2"
	case "mp3":
		return "mp3"
	case "ac3":
		return "ac-3"
	case "eac3":
		return "ec-3"
	}
	return ""
}
