package fuse_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
	"github.com/tnvfs/tnv/protocol"
)

// elsewhere does what another mount of the volume would do.
type elsewhere struct {
	t *testing.T
	v *fusetest.Volume
}

func (e elsewhere) attr(name string) tnv.Attr {
	e.t.Helper()
	a, err := e.v.Lookup(context.Background(), tnv.Root, tnv.RootIno, name)
	must(e.t, err)
	return a
}

func (e elsewhere) write(name, data string) {
	e.t.Helper()
	f, _, err := e.v.OpenFile(context.Background(), e.attr(name).Ino, os.O_WRONLY)
	must(e.t, err)
	_, err = f.WriteAt(context.Background(), []byte(data), 0)
	must(e.t, err)
	must(e.t, f.Close())
}

// writeSecretly keeps size and mtime, as rsync and cp -p do.
func (e elsewhere) writeSecretly(name, data string) {
	e.t.Helper()
	was := e.attr(name)
	e.write(name, data)
	_, err := e.v.SetAttr(context.Background(), tnv.Root, protocol.SetAttr{Ino: was.Ino, Mask: protocol.SetMtime, Mtime: was.Mtime})
	must(e.t, err)
}

func wantRead(t *testing.T, f *os.File, want string) {
	t.Helper()
	b := make([]byte, len(want)+10)
	n, err := f.ReadAt(b, 0)
	if string(b[:n]) != want {
		t.Errorf("read %q (%v), want %q", b[:n], err, want)
	}
}

// TestForeignChange: what another mount wrote is what the next read(2) gives,
// by a handle that was open and by a new one, whatever the mtime says.
func TestForeignChange(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	other := elsewhere{t, m.vol}
	p := m.dir + "/f"
	must(t, os.WriteFile(p, []byte("one..."), 0o644))
	f, err := os.Open(p)
	must(t, err)
	defer f.Close()
	wantRead(t, f, "one...")
	change := map[string]func(name, data string){"openly": other.write, "secretly": other.writeSecretly}
	for i := range 100 {
		for how, write := range change {
			data := fmt.Sprintf("%s%04d", how[:2], i)
			write("f", data)
			switch i % 4 {
			case 1: // SETATTR's reply takes the mtime over
				must(t, os.Chmod(p, 0o644))
			case 2: // stat's reply brings the new version first
				_, err := os.Stat(p)
				must(t, err)
			case 3:
				g, err := os.Open(p)
				must(t, err)
				wantRead(t, g, data)
				g.Close()
			}
			wantRead(t, f, data)
		}
	}
}

// TestForeignNamespace: names and attributes are never remembered.
func TestForeignNamespace(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	ctx := context.Background()
	for i := range 10 {
		name := fmt.Sprint("n", i)
		if _, err := os.Stat(m.dir + "/" + name); !os.IsNotExist(err) {
			t.Fatalf("before: %v", err)
		}
		rep, err := m.vol.Create(ctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: name, Mode: unix.S_IFREG | 0o644})
		must(t, err)
		fi, err := os.Stat(m.dir + "/" + name)
		must(t, err)
		if fi.Mode().Perm() != 0o644 {
			t.Errorf("mode %v", fi.Mode())
		}
		_, err = m.vol.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: rep.Attr.Ino, Mask: protocol.SetMode, Mode: 0o600})
		must(t, err)
		if fi, err = os.Stat(m.dir + "/" + name); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("after chmod: %v, %v", fi, err)
		}
		_, err = m.vol.Unlink(ctx, tnv.Root, protocol.Unlink{Parent: tnv.RootIno, Name: name})
		must(t, err)
		if _, err := os.Stat(m.dir + "/" + name); !os.IsNotExist(err) {
			t.Errorf("after unlink: %v", err)
		}
	}
}

// TestKeepCache: pages of an unchanged file outlive close and open.
func TestKeepCache(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	other := elsewhere{t, m.vol}
	p := m.dir + "/f"
	want := bytes.Repeat([]byte("film"), 1<<18)
	must(t, os.WriteFile(p, want, 0o644))
	reads := func() int { return m.vol.Calls("view") + m.vol.Calls("viewversion") }
	get := func() {
		t.Helper()
		got, err := os.ReadFile(p)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Error("other bytes")
		}
	}
	// RELEASE of the writer comes when the kernel finds the time.
	eventually(t, "the writer is released", func() bool { return m.vol.Opens() == 0 })
	get() // fills the pages
	first := reads()
	if first == 0 {
		t.Error("the data was never read: the test does not see reads")
	}
	get()
	get()
	if got := reads(); got != first {
		t.Errorf("%d reads of an unchanged file", got-first)
	}
	copy(want, "FILM")
	other.write("f", "FILM")
	get()
	if got := reads(); got == first {
		t.Error("a changed file was not read again")
	}
}

// TestMappedPages: a fault asks the owner; pages mapped before a change are
// dropped once anything looks at the file.
func TestMappedPages(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	other := elsewhere{t, m.vol}
	p := m.dir + "/f"
	must(t, os.WriteFile(p, []byte("one..."), 0o644))
	b := mapFile(t, p)
	if got := b.read(0, 6); got != "one..." {
		t.Errorf("mapped %q", got)
	}
	if m.vol.Calls("view") == 0 {
		t.Error("a fault did not ask the owner")
	}
	other.writeSecretly("f", "two...")
	_, err := os.Stat(p)
	must(t, err)
	eventually(t, "the mapping shows the new content", func() bool { return b.read(0, 6) == "two..." })
}

// TestNotificationDelaysNobody: while the kernel waits for a READ of one file
// before it drops its pages, other files' are dropped and requests go on.
func TestNotificationDelaysNobody(t *testing.T) {
	vol := fusetest.New()
	var hold atomic.Pointer[chan struct{}]
	held := make(chan struct{}, 100)
	vol.Hook = func(_ context.Context, op string) error {
		if h := hold.Load(); h != nil && op == "view" {
			held <- struct{}{}
			<-*h
		}
		return nil
	}
	m := mountBackend(t, vol, fuse.Options{})
	other := elsewhere{t, vol}
	var maps [2]*mapping
	const far = 3<<20 + 12345
	for i := range maps {
		p := fmt.Sprint(m.dir, "/", i)
		must(t, os.WriteFile(p, bytes.Repeat([]byte("a"), 4<<20), 0o644))
		maps[i] = mapFile(t, p)
		maps[i].read(0, 1)
	}
	before := vol.Calls("view")
	eventually(t, "read-ahead ends", func() bool {
		time.Sleep(50 * time.Millisecond)
		now := vol.Calls("view")
		defer func() { before = now }()
		return now == before
	})
	release := make(chan struct{})
	hold.Store(&release)
	faulted := make(chan string)
	go func() { faulted <- maps[0].read(far, 1) }() // a READ that hangs
	<-held
	other.writeSecretly("0", "b")
	other.writeSecretly("1", "b")
	start := time.Now()
	for i := range maps {
		_, err := os.Stat(fmt.Sprint(m.dir, "/", i))
		must(t, err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("stat took %v", d)
	}
	hold.Store(nil)
	eventually(t, "the other file's pages are dropped", func() bool { return maps[1].read(0, 1) == "b" })
	close(release)
	if b := <-faulted; b != "a" {
		t.Errorf("the fault gave %q", b)
	}
	eventually(t, "the first file's pages are dropped", func() bool { return maps[0].read(0, 1) == "b" })
}
