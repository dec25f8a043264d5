package page

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"github.com/tnvfs/tnv/e2e/browser"
)

// npmLimit is how long fetching the pinned packages may take.
const npmLimit = 3 * time.Minute

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, _ := workshop(); dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// workshop is a copy of the sources with the packages that their lock file pins,
// in a temporary directory; empty where there is no npm.
var workshop = sync.OnceValues(func() (dir string, err error) {
	if _, err := exec.LookPath("npm"); err != nil {
		return "", nil
	}
	if dir, err = os.MkdirTemp("", "tnv-page-*"); err != nil {
		return "", err
	}
	for _, name := range []string{"src", "package.json", "package-lock.json", "build.mjs", "tsconfig.json", ".npmrc"} {
		if err := exec.Command("cp", "-R", filepath.Join("web", name), dir).Run(); err != nil {
			return dir, err
		}
	}
	cmd := exec.Command("npm", "ci", "--prefer-offline")
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	timer := time.AfterFunc(npmLimit, func() { cmd.Process.Kill() })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return dir, err
})

// need gives the workshop, or skips the test where npm is not there: the page is
// built without it.
func need(t *testing.T) string {
	t.Helper()
	dir, err := workshop()
	switch {
	case err != nil:
		t.Fatalf("the packages of web/package-lock.json cannot be had: %v", err)
	case dir == "":
		t.Skip("npm is not installed: whether dist is what web gives stays unproven here")
	}
	return dir
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// What is committed in dist is, byte for byte, what the sources and the pinned
// packages give.
func TestBuilt(t *testing.T) {
	shop := need(t)
	out := filepath.Join(t.TempDir(), "dist")
	run(t, shop, "npm", "run", "types")
	run(t, shop, "node", "build.mjs", out)
	fresh, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range fresh {
		names[f.Name()] = true
		want, err := os.ReadFile(filepath.Join(out, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := built.ReadFile("dist/" + f.Name())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("dist/%s is not what the sources give (%v): run make page", f.Name(), err)
		}
	}
	old, err := built.ReadDir("dist")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range old {
		if !names[f.Name()] {
			t.Errorf("dist/%s is left over: run make page", f.Name())
		}
	}
}

// axe-core finds nothing serious, wherever one is on the page, in both colours.
func TestAccessible(t *testing.T) {
	shop := need(t)
	axe, err := os.ReadFile(filepath.Join(shop, "node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	f.file("/films/one.mp4", mp4(t, 5))
	f.file("/films/two.mp4", []byte("x"))
	f.file("/films/pic.png", png)
	f.file("/films/more/three.mp4", []byte("x"))
	b := browser.Start(t, f.URL)
	check := func(where string) {
		t.Helper()
		b.Accessible(string(axe), where)
	}
	for _, dark := range []bool{false, true} {
		b.Dark(dark)
		b.Open("/films/")
		b.Sees("one.mp4")
		check("list")
		b.Press(kb.Home)
		b.Press(" ")
		b.Sees("1 item selected")
		check("selection")
		b.Press("?")
		b.Until("document.querySelector('dialog[open]')")
		check("dialog")
		b.Click("dialog header button")
		b.Click("[aria-label='Actions for one.mp4']")
		check("menu")
		b.Click("[role=menuitem]")
		b.Until("document.querySelector('video')?.readyState > 2")
		check("player")
		b.Open("/films/?view=pic.png")
		b.Until("document.querySelector('.picture img')")
		check("picture")
		b.Open("/films/")
		b.Sees("one.mp4")
		b.Type("#search", "three")
		b.Sees("/films/more/")
		check("search")
		b.Click("[aria-label=Trash]")
		b.Until("document.querySelector('dialog[open]')")
		check("trash")
		b.Open("/films/")
		b.Click("[aria-label='Show pictures']")
		b.Until("document.querySelector('.tile img')")
		check("tiles")
		b.Click("[aria-label='Show pictures']")
		b.Open("/.tnv/")
		b.Sees("Group g1")
		check("status")
	}
}
