package page

import (
	"bytes"
	"fmt"
	"image"
	pic "image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"github.com/tnvfs/tnv/e2e/browser"
)

// png is a picture of 8 by 8.
var png = func() []byte {
	var b bytes.Buffer
	pic.Encode(&b, image.NewGray(image.Rect(0, 0, 8, 8)))
	return b.Bytes()
}()

// film has ffmpeg make a clip with a picture that moves, of so many seconds.
func film(t *testing.T, name string, seconds int, output ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		t.Fatal("ffmpeg is missing: apt-get install ffmpeg")
	}
	out := filepath.Join(t.TempDir(), name)
	args := []string{"-nostdin", "-y", "-loglevel", "error", "-f", "lavfi", "-i", fmt.Sprintf("testsrc2=size=320x180:rate=10:duration=%d", seconds),
		"-f", "lavfi", "-i", fmt.Sprintf("sine=frequency=440:duration=%d", seconds), "-g", "10"}
	if b, err := exec.Command("ffmpeg", append(append(args, output...), out)...).CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg: %v\n%s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mp4(t *testing.T, seconds int) []byte {
	return film(t, "film.mp4", seconds, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-movflags", "+faststart")
}

// A film plays, seeks, and is resumed where one stopped; the next one follows.
func TestPlayer(t *testing.T) {
	f := newFake(t)
	clip := mp4(t, 80)
	f.file("/films/one.mp4", clip)
	f.file("/films/two.mp4", clip)
	f.file("/films/one.en.vtt", []byte("WEBVTT\n\n00:00:00.000 --> 00:01:20.000\nHello there\n"))
	f.media["/films/one.mp4"] = map[string]any{"path": "/films/one.mp4", "state": "ready", "duration": 80,
		"subtitles": []any{map[string]any{"url": "/films/one.en.vtt", "label": "English", "language": "en"}}}
	b := browser.Start(t, f.URL)
	b.Open("/films/")
	b.Click("[role=row] a[title='one.mp4']")
	b.Until("document.querySelector('video')?.currentTime > 0.5")
	if w := browser.Eval[int](b, "document.querySelector('video').videoWidth"); w != 320 {
		t.Errorf("the picture is %d wide", w)
	}
	b.Press("6") // six tenths
	b.Until("document.querySelector('video').currentTime > 48.3")
	b.Press("k") // a film that stands has its controls
	b.Click("[aria-label=Subtitles]")
	b.Click("[role=menu] [role=menuitemradio]:nth-child(2)")
	b.Until("document.querySelector('video').textTracks[0]?.activeCues?.[0]?.text === 'Hello there'")
	time.Sleep(300 * time.Millisecond) // for the picture's sake
	b.Shot("player")
	b.Press(kb.Escape)
	b.Until("!document.querySelector('video') && location.search === ''")
	b.Until("document.activeElement.closest('[role=row]')") // the focus is back
	b.Click("[role=row] a[title='one.mp4']")
	b.Sees("Resumed at 0:4")
	b.Until("document.querySelector('video').currentTime > 48")
	b.Shot("resumed")
	b.Press("N")
	b.Until("location.search === '?view=two.mp4' && document.querySelector('video')?.currentTime < 20 && document.querySelector('video').readyState >= 2")
}

// Music goes on with the next piece by itself.
func TestMusic(t *testing.T) {
	f := newFake(t)
	piece := film(t, "piece.mp3", 1, "-vn")
	for _, name := range []string{"01 one.mp3", "02 two.mp3", "03 three.mp3"} {
		f.file("/album/"+name, piece)
		f.media["/album/"+name] = map[string]any{"path": "/album/" + name, "state": "ready", "duration": 1, "title": "Piece " + name[:2], "artist": "The Players", "album": "Tests"}
	}
	b := browser.Start(t, f.URL)
	b.Open("/album/")
	b.Click("[role=row] a[title='01 one.mp3']")
	b.Sees("Piece 01")
	b.Sees("The Players · Tests")
	b.Sees("Piece 03")
	b.Shot("music")
	b.Until("document.querySelector('video').ended")
}

// What the browser cannot play, the daemon converts; HLS plays by hls.js.
func TestConverted(t *testing.T) {
	f := newFake(t)
	dir := filepath.Join(f.dir, "hls")
	os.MkdirAll(dir, 0o755)
	args := []string{"-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=10:duration=20", "-f", "lavfi", "-i", "sine=duration=20",
		"-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "50", "-c:a", "aac", "-f", "hls", "-hls_time", "2", "-hls_list_size", "0", filepath.Join(dir, "index.m3u8")}
	if out, err := exec.Command("ffmpeg", args...).CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg: %v\n%s", err, out)
	}
	f.file("/old.mkv", film(t, "old.avi", 1, "-c:v", "mpeg4", "-c:a", "mp2"))
	f.hls = func(string) string { return "/hls/index.m3u8" }
	b := browser.Start(t, f.URL)
	for _, where := range []string{"/?view=old.mkv", "/hls/?view=index.m3u8"} {
		b.Open(where)
		b.Until("document.querySelector('video')?.duration > 19") // of what the browser plays by itself, which is one second long, never
		browser.Eval[bool](b, "(document.querySelector('video').currentTime = 12, true)")
		b.Until("(v => v.currentTime >= 12 && !v.seeking && v.readyState >= 2 && v.videoWidth === 320)(document.querySelector('video'))")
	}
	f.mu.Lock()
	f.hls = nil
	f.mu.Unlock()
	b.Open("/?view=old.mkv")
	b.Sees("This browser cannot play this file.")
	b.Shot("unplayable")
}

// A hundred thousand entries: few are in the document, and each is found.
func TestManyEntries(t *testing.T) {
	f := newFake(t)
	for i := range 100_000 {
		name := fmt.Sprintf("film %06d.mp4", i)
		f.more = append(f.more, entry{Name: name, Href: "/" + name, Type: "file", Kind: "video", Size: int64(i), Modified: time.Now()})
	}
	b := browser.Start(t, f.URL)
	begin := time.Now()
	b.Open("/")
	b.Sees("film 000003.mp4")
	t.Logf("shown after %v", time.Since(begin))
	if n := browser.Eval[int](b, "document.querySelectorAll('[role=row]').length"); n > 80 {
		t.Errorf("%d rows are in the document", n)
	}
	b.Press(kb.End)
	b.Sees("film 099999.mp4")
	b.Until("document.activeElement.getAttribute('aria-rowindex') === '100001'")
	browser.Eval[bool](b, "(scrollTo(0, document.documentElement.scrollHeight / 2), true)")
	b.Sees("film 0500")
	b.Shot("many")
	b.Type("#search", "film 077777")
	b.Until("document.querySelectorAll('.space [role=row]').length === 1")
	b.Sees("film 077777.mp4")
}

// While the cluster does not answer, the page says so, and goes on by itself.
func TestOutage(t *testing.T) {
	f := newFake(t)
	f.file("/a.mp4", []byte("x"))
	f.failing = 503
	b := browser.Start(t, f.URL)
	b.Excuse("503")
	b.Open("/")
	b.Sees("the cluster does not answer")
	f.mu.Lock()
	f.failing = 0
	f.mu.Unlock()
	b.Sees("a.mp4")
}

// The library, by keyboard and mouse: sorting, search, pictures, renaming,
// deleting and undoing, what others change, the trash.
func TestLibrary(t *testing.T) {
	f := newFake(t)
	for i, name := range []string{"alpha.mp4", "beta.mkv", "gamma.mp3", "delta.bin", "season 1/one.mp4"} {
		f.file("/films/"+name, make([]byte, 1000*(i+1)))
	}
	f.file("/films/pic.png", png)
	f.file("/films/pic2.png", png)
	b := browser.Start(t, f.URL)
	b.Open("/films/")
	b.Sees("alpha.mp4")
	b.Shot("library")
	rows := func(want string) {
		t.Helper()
		b.Until("[...document.querySelectorAll('.space [data-index]')].map(r => r.dataset.name).join() === " + browser.Quote(want))
	}
	rows("season 1,alpha.mp4,beta.mkv,delta.bin,gamma.mp3,pic.png,pic2.png")
	b.Click("[role=columnheader].size button")
	rows("season 1,delta.bin,gamma.mp3,beta.mkv,alpha.mp4,pic2.png,pic.png")
	b.Click("[role=columnheader].name button")
	b.Type("#search", "one")
	b.Sees("Nothing here is called")
	b.Sees("/films/season 1/")
	b.Shot("search")
	b.Click(".beneath a.small")
	b.Until("decodeURIComponent(location.pathname) === '/films/season 1/'")
	rows("one.mp4")
	b.Press(kb.Backspace)
	rows("season 1,alpha.mp4,beta.mkv,delta.bin,gamma.mp3,pic.png,pic2.png")
	b.Press(kb.ArrowDown) // to alpha
	b.Press(kb.ArrowDown)
	b.Press(kb.F2)
	b.Until("document.querySelector('dialog input').value === 'beta.mkv'")
	b.Press("omega")
	b.Shot("rename")
	b.Press(kb.Enter)
	rows("season 1,alpha.mp4,delta.bin,gamma.mp3,omega.mkv,pic.png,pic2.png")
	b.Press(kb.Home)
	b.Press(kb.ArrowDown)
	b.Press(" ")
	b.Press(kb.ArrowDown)
	b.Press(" ")
	b.Sees("2 items selected")
	b.Shot("selected")
	b.Press(kb.Delete)
	rows("season 1,gamma.mp3,omega.mkv,pic.png,pic2.png")
	b.Sees("2 items deleted")
	b.Shot("deleted")
	b.Click(".toast button.text")
	rows("season 1,alpha.mp4,delta.bin,gamma.mp3,omega.mkv,pic.png,pic2.png")
	f.file("/films/zeta.mp4", []byte("new"))
	f.changed("/films/zeta.mp4")
	rows("season 1,alpha.mp4,delta.bin,gamma.mp3,omega.mkv,pic.png,pic2.png,zeta.mp4")
	b.Click("[aria-label='Actions for zeta.mp4']")
	b.Shot("menu")
	b.Press(kb.ArrowDown) // Open in VLC
	b.Until("document.activeElement.getAttribute('href') === '/films/zeta.mp4?m3u'")
	b.Press(kb.Escape)
	b.Click("[aria-label='Actions for zeta.mp4']")
	b.Click("[role=menu] button:nth-last-child(2)") // Move
	b.Click(".dirs li button")
	b.Click("dialog .primary:enabled")
	rows("season 1,alpha.mp4,delta.bin,gamma.mp3,omega.mkv,pic.png,pic2.png")
	b.Sees("1 item moved to /films/season 1/")
	b.Click("[aria-label='Show pictures']")
	b.Until("document.querySelector('.tile img')?.naturalWidth > 0")
	b.Shot("tiles")
	b.Click(".tile a[title='pic.png']")
	b.Until("document.querySelector('.picture img')?.naturalWidth === 8")
	b.Sees("1 of 2")
	b.Press(kb.ArrowRight)
	b.Until("location.search === '?view=pic2.png' && document.querySelector('.picture img').src.endsWith('pic2.png')")
	b.Press(kb.Escape)
	b.Until("document.activeElement.dataset.name === 'pic2.png'")
}

// Files are uploaded, whole directories too; one that is interrupted goes on
// where it stopped, and a taken name is not overwritten unasked.
func TestUpload(t *testing.T) {
	f := newFake(t)
	f.file("/taken.bin", []byte("old"))
	b := browser.Start(t, f.URL)
	b.Open("/")
	b.Sees("taken.bin")
	local := filepath.Join(t.TempDir(), "taken.bin")
	if err := os.WriteFile(local, []byte("new bytes"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Excuse("409")
	b.Choose("#upload-files", local)
	b.Sees("there is a file of that name")
	b.Shot("taken")
	b.Click(".uploads button.text") // Replace
	b.Until("document.querySelector('.uploads [data-state=done]')")
	if got, _ := os.ReadFile(filepath.Join(f.dir, "taken.bin")); string(got) != "new bytes" {
		t.Errorf("the file is %q", got)
	}
	drop := `(type => {
		const data = new DataTransfer();
		data.items.add(new File(["dropped"], "dropped.txt"));
		document.body.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
		return true;
	})`
	browser.Eval[bool](b, drop+`("dragenter")`)
	b.Sees("Drop files to upload them here")
	b.Shot("drop")
	browser.Eval[bool](b, drop+`("drop")`)
	b.Until("[...document.querySelectorAll('.space [data-index]')].some(r => r.dataset.name === 'dropped.txt')")
	if got, _ := os.ReadFile(filepath.Join(f.dir, "dropped.txt")); string(got) != "dropped" {
		t.Errorf("the dropped file is %q", got)
	}
}

// On a phone: nothing is wider than the window, and the film plays.
func TestPhone(t *testing.T) {
	f := newFake(t)
	f.file("/films/a film with a name that is longer than a phone is wide, and then some.mp4", mp4(t, 5))
	f.file("/films/b.mp4", []byte("x"))
	b := browser.Start(t, f.URL)
	b.Size(390, 844, true)
	b.Dark(true)
	b.Open("/films/")
	b.Sees("b.mp4")
	b.Shot("phone")
	wide := func() {
		t.Helper()
		if w := browser.Eval[int](b, "document.documentElement.scrollWidth"); w > 390 {
			t.Errorf("the page is %d wide", w)
		}
	}
	wide()
	b.Click("[aria-label='Show pictures']")
	b.Until("document.querySelectorAll('.tile').length === 2")
	b.Shot("phone-tiles")
	wide()
	b.Click(".tile a")
	b.Until("document.querySelector('video')?.currentTime > 0.2")
	b.Shot("phone-player")
	wide()
	b.Open("/.tnv/")
	b.Sees("Group g1")
	b.Shot("phone-status")
	wide()
}

// The status page is live.
func TestStatus(t *testing.T) {
	f := newFake(t)
	b := browser.Start(t, f.URL)
	b.Open("/.tnv/")
	b.Sees("12 blocks")
	b.Sees("/films/a.mp4")
	b.Sees("1 part not well")
	b.Shot("status")
	b.Until("performance.getEntriesByName(location.origin + '/.tnv/api/status').length >= 3")
}
