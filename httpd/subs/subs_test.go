package subs

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestToVTT(t *testing.T) {
	for _, c := range []struct{ ext, in, want string }{
		{"srt", "1\r\n00:00:01,500 --> 00:00:02,000\r\n<i>Hi</i> <font color=\"red\">you</font>\r\n & <3\r\n\r\n2\r\n00:01:00,000 --> 01:00:00,001 X1:0\r\nb\r\n",
			"WEBVTT\n\n00:00:01.500 --> 00:00:02.000\n<i>Hi</i> you\n &amp; &lt;3\n\n00:01:00.000 --> 01:00:00.001\nb\n"},
		{"srt", "00:00:05,0 --> 00:00:06,0\nlate\n\n00:00:01,0 --> 00:00:02,0\nna\xefve\n",
			"WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nnaïve\n\n00:00:05.000 --> 00:00:06.000\nlate\n"},
		{"srt", "\xff\xfe0\x000\x00:\x000\x001\x00 \x00-\x00-\x00>\x00 \x000\x000\x00:\x000\x002\x00\n\x00\xe9\x00",
			"WEBVTT\n\n00:00:01.000 --> 00:00:02.000\né\n"},
		{"ass", "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n" +
			"Dialogue: 0,0:00:01.25,0:00:02.50,Default,,0,0,0,,{\\i1}one,\\Ntwo{\\i0}\n",
			"WEBVTT\n\n00:00:01.250 --> 00:00:02.500\none,\ntwo\n"},
		{"sub", "{1}{1}25\n{25}{50}a|b\n", "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\na\nb\n"},
		{"vtt", "WEBVTT\r\n\r\n00:01.000 --> 00:02.000\nx", "WEBVTT\n\n00:01.000 --> 00:02.000\nx"},
	} {
		got, err := ToVTT(c.ext, []byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n%q, want\n%q", c.ext, err, got, c.want)
		}
	}
	for _, bad := range []string{"", "no time here", "\x00\x01"} {
		if got, err := ToVTT("srt", []byte(bad)); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

// FuzzToVTT: whatever the bytes, the output is WebVTT of a bounded length, and no
// text can be taken for a time.
func FuzzToVTT(f *testing.F) {
	for _, ext := range []string{"srt", "ass", "sub"} {
		f.Add(ext, []byte("1\n00:00:01,5 --> 00:00:02,0\nx --> y\n"))
		f.Add(ext, []byte("{1}{2}a|{3}"))
		f.Add(ext, []byte("Dialogue: 0,0:00:01.25,0:00:02.50,D,,0,0,0,,<b{\\"))
	}
	f.Fuzz(func(t *testing.T, ext string, in []byte) {
		out, err := ToVTT(ext, in)
		if err != nil || ext == "vtt" {
			return
		}
		if !strings.HasPrefix(string(out), "WEBVTT\n\n") || !utf8.Valid(out) || len(out) > 100+20*len(in) {
			t.Fatalf("%d bytes became %q", len(in), out)
		}
		for block := range strings.SplitSeq(strings.TrimSuffix(string(out), "\n"), "\n\n") {
			if strings.Count(block, "-->") > 1 {
				t.Fatalf("a text looks like a time: %q", block)
			}
		}
	})
}
