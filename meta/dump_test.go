package meta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/kv/pebble"
	"github.com/tnvfs/tnv/kv/pgtest"
	"github.com/tnvfs/tnv/kv/postgres"
	"github.com/tnvfs/tnv/protocol"
)

var houseFiles = flag.Int("house", 2000, "files of the test that moves a volume from engine to engine")

const testCluster = "0123456789abcdef0123456789abcdef"

func openPebble(t testing.TB, dir string) kv.Engine {
	t.Helper()
	e, err := pebble.Open(dir, pebble.Options{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// openPostgres is an empty database on a server of its own.
func openPostgres(t testing.TB) kv.Engine {
	t.Helper()
	s := pgtest.Start(t)
	e, err := postgres.Open(context.Background(), s.NewDatabase(), postgres.Options{Cluster: testCluster, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// openRegistry is the registry of an engine, for as long as fn runs.
func openRegistry(t testing.TB, engine kv.Engine, fn func(*Registry)) {
	t.Helper()
	ctx := context.Background()
	lease, err := takeOver(ctx, engine, ClusterVolume)
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenRegistry(ctx, engine, lease, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fn(r)
}

// enter makes the registry know volume testVol and the harness's group.
func enter(t testing.TB, engine kv.Engine) {
	t.Helper()
	openRegistry(t, engine, func(r *Registry) {
		err := r.mutate(context.Background(), func(tx *Tx) error {
			tx.set(volumeKey("media"), &volume{ID: testVol, Name: "media"})
			tx.set(groupKey(1), &group{ID: 1, Name: "g1"})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// furnish makes a tree with something of everything.
func (h *harness) furnish(files int) {
	h.t.Helper()
	dir := tnv.RootIno
	for i := range files {
		if i%500 == 0 {
			dir = h.mkdir(tnv.RootIno, fmt.Sprintf("d%d", i/500))
		}
		_, err := h.write(h.create(dir, fmt.Sprintf("file-%d", i)), 0, 4096)
		h.must(err)
	}
	big := h.create(dir, "big")
	for i := range 40 {
		_, err := h.write(big, uint64(i)*3<<20, 1<<20)
		h.must(err)
	}
	for i := range 60 { // more extents than are written whole: deltas
		_, err := h.write(big, uint64(i)*8192, 4096)
		h.must(err)
	}
	twin := h.create(dir, "twin")
	_, err := do[protocol.CopyRangeReply](h, protocol.TypeCopyRange, &protocol.CopyRange{From: big, To: twin, Len: 32 << 20})
	h.must(err)
	_, err = do[protocol.AttrReply](h, protocol.TypeLink, &protocol.Link{Ino: big, Parent: tnv.RootIno, Name: "hard"})
	h.must(err)
	_, err = do[protocol.AttrReply](h, protocol.TypeSymlink, &protocol.Symlink{Parent: dir, Name: "sym", Target: "big"})
	h.must(err)
	_, err = do[struct{}](h, protocol.TypeSetXattr, &protocol.SetXattr{Ino: big, Name: "user.a", Value: []byte("b")})
	h.must(err)
	gone := h.create(dir, "gone")
	_, err = h.write(gone, 0, 4096)
	h.must(err)
	_, err = do[protocol.UnlinkReply](h, protocol.TypeUnlink, &protocol.Unlink{Parent: dir, Name: "gone"})
	h.must(err)
}

// house is a sum over all that a volume has, sessions and numbers of groups aside.
func house(t testing.TB, engine kv.Engine, groups map[tnv.GroupID]tnv.GroupID) (sum string, records int) {
	t.Helper()
	h := sha256.New()
	var bad error
	err := engine.Scan(context.Background(), testVol, []byte{0}, nil, 0, func(key, value []byte) bool {
		as, carried, err := carry(key, value, groups)
		if bad = err; !carried || key[0] == keyCounter {
			return err == nil
		}
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(key)))
		h.Write(append(append(n[:], key...), as...))
		records++
		return true
	})
	if err != nil || bad != nil {
		t.Fatal(err, bad)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), records
}

var sameGroup = map[tnv.GroupID]tnv.GroupID{1: 1}

func dumped(t testing.TB, engine kv.Engine) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Dump(context.Background(), engine, testCluster, "media", &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func load(engine kv.Engine, b []byte) error {
	_, err := Load(context.Background(), engine, testCluster, bytes.NewReader(b), quiet())
	return err
}

// peak is by how much the memory in use has grown at most while fn ran.
func peak(fn func()) (high uint64) {
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	defer func() { high -= min(high, before.HeapInuse) }()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			high = max(high, m.HeapInuse)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	fn()
	close(stop)
	<-done
	return high
}

// A volume moves from the embedded engine to another one and back: both trees are
// equal, record by record, what must hold between records does, and the volume goes on.
func TestMovingHouse(t *testing.T) {
	source := openPebble(t, filepath.Join(t.TempDir(), "a"))
	enter(t, source)
	h := start(t, source, Config{CacheBytes: 256 << 20})
	h.furnish(*houseFiles)
	if *houseFiles <= 10000 {
		h.check()
	}
	h.v.Close()
	h.v, h.homes, h.blocks = nil, nil, nil
	want, records := house(t, source, sameGroup)
	file := filepath.Join(t.TempDir(), "dump")
	moved := source
	for i, target := range []kv.Engine{mem.New(mem.Options{}), openPostgres(t), openPebble(t, filepath.Join(t.TempDir(), "b"))} {
		if i == 0 && *houseFiles > 100000 {
			continue // the engine in memory would be what is measured
		}
		f, err := os.Create(file)
		h.must(err)
		began := time.Now()
		var st DumpStats
		high := peak(func() { st, err = Dump(context.Background(), moved, testCluster, "media", f) })
		h.must(err)
		size, _ := f.Seek(0, io.SeekCurrent)
		t.Logf("dump of %d files from %s: %d records, %d bytes, %v, the heap grew by %d MiB at most", st.Files, moved.Name(), st.Records, size, time.Since(began), high>>20)
		_, err = f.Seek(0, io.SeekStart)
		h.must(err)
		began = time.Now()
		high = peak(func() { st, err = Load(context.Background(), target, testCluster, f, quiet()) })
		h.must(err)
		t.Logf("load into %s: %v, the heap grew by %d MiB at most", target.Name(), time.Since(began), high>>20)
		f.Close()
		var as tnv.GroupID
		openRegistry(t, target, func(r *Registry) {
			known, err := r.Known(context.Background())
			if err != nil || len(known) != 1 || known[0].Name != "g1" {
				t.Fatalf("groups: %v, %v", known, err)
			}
			as = known[0].ID
		})
		if got, n := house(t, target, map[tnv.GroupID]tnv.GroupID{as: 1}); got != want || n != records {
			t.Fatalf("%s: %d records with the sum %s, want %d with %s", target.Name(), n, got, records, want)
		}
		moved = target
	}
	h.engine, h.homes = moved, map[tnv.BlockID]tnv.Home{}
	h.cluster.m.Groups[0].ID = 2 // as the new engine numbers it
	h.reopen()
	if *houseFiles <= 10000 {
		h.eventually("the file that was open is freed", func() bool {
			st, err := h.v.Status(context.Background())
			return err == nil && st.Unlinked == 0
		})
		h.check()
	}
}

// What was given out since a dump was made is not given out again, batches and epochs
// go on above those of the dump, and blocks that nothing names are kept (D7).
func TestLoadGoesOnAbove(t *testing.T) {
	source := mem.New(mem.Options{})
	enter(t, source)
	h := start(t, source, Config{})
	h.furnish(10)
	long := h.create(tnv.RootIno, "long")
	for i := range 200 {
		_, err := h.write(long, uint64(i)*tnv.ChunkSize, 4096)
		h.must(err)
	}
	dump := dumped(t, source)
	late := h.create(tnv.RootIno, "late")
	block, err := h.write(late, 0, 4096)
	h.must(err)
	epoch, seq, session := h.v.Epoch(), h.v.newest(), h.session
	h.newSession()
	session = max(session, h.session)

	target := mem.New(mem.Options{})
	h.must(load(target, dump))
	h.engine = target
	h.reopen()
	h.newSession()
	if again := h.create(tnv.RootIno, "late"); again <= late {
		t.Errorf("inode %d was given out, and now %d", late, again)
	}
	if b := h.block(); b <= block {
		t.Errorf("block %d was granted, and now %d", block, b)
	}
	if h.session <= session || h.v.Epoch() <= epoch || h.v.newest() <= seq {
		t.Errorf("session %d, epoch %d, batch %d do not follow %d, %d, %d", h.session, h.v.Epoch(), h.v.newest(), session, epoch, seq)
	}
	st, err := h.v.Collection(context.Background(), 0, thousand)
	if err != nil || len(st.Asks) != 1 {
		t.Errorf("the collection of what was written since the dump: %+v, %v", st, err)
	}
}

// A truncation that was left to the background before the move takes nothing of what
// is written after it: batches are numbered on.
func TestLoadKeepsOrderOfBatches(t *testing.T) {
	source := mem.New(mem.Options{})
	enter(t, source)
	h := start(t, source, Config{})
	f := h.create(tnv.RootIno, "f")
	for i := range 100 {
		_, err := h.write(f, uint64(i)*tnv.ChunkSize, 4096)
		h.must(err)
	}
	h.must(h.v.mutate(context.Background(), func(tx *Tx) error { // as a large truncation begins
		n, err := tx.inode(f)
		if err != nil {
			return err
		}
		is := *n
		is.Size, is.TrimFrom, is.TrimSeq = 0, 0, tx.seq
		tx.set(inodeKey(f), &is)
		tx.set(trimKey(f), mark{})
		return nil
	}))
	dump := dumped(t, source)
	target := mem.New(mem.Options{})
	h.must(load(target, dump))
	h.engine = target
	h.reopen()
	h.newSession()
	b, err := h.write(f, 0, 4096)
	h.must(err)
	got, err := do[protocol.ExtentsReply](h, protocol.TypeExtents, &protocol.Extents{Ino: f, Count: 1})
	if err != nil || len(got.Chunks) != 1 || len(got.Chunks[0]) != 1 || got.Chunks[0][0].Block != b {
		t.Fatalf("what was written after the move reads as %+v, %v", got.Chunks, err)
	}
	h.check()
}

// contents is all that an engine has of two volumes.
func contents(t testing.TB, e kv.Engine) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, vol := range []tnv.VolumeID{ClusterVolume, testVol} {
		err := e.Scan(context.Background(), vol, nil, nil, 0, func(k, v []byte) bool {
			if k[0] != keyCounter {
				m[fmt.Sprintf("%d %q", vol, k)] = string(v)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// Bad dumps are refused, each for its reason, and change nothing.
func TestBadDumps(t *testing.T) {
	source := mem.New(mem.Options{})
	enter(t, source)
	start(t, source, Config{}).furnish(600)
	good := dumped(t, source)
	half := len(good) / 2
	edit := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(good)) }
	reframed := func(info DumpInfo) []byte {
		var b bytes.Buffer
		d, _ := newDumpWriter(&b)
		d.info(info)
		d.end()
		return b.Bytes()
	}
	info := DumpInfo{Format: dumpFormat, Cluster: testCluster, Volume: "media", ID: testVol}
	foreign, newer, low := info, info, info
	foreign.Cluster, newer.Format, low.ID = "ffff", dumpFormat+1, 1
	record := func(key, value []byte) []byte {
		var b bytes.Buffer
		d, _ := newDumpWriter(&b)
		d.info(info)
		d.record(key, value)
		d.end()
		return b.Bytes()
	}
	short := &chunk{extents: []tnv.Extent{{Len: 4096, Block: 5, BlockLen: 4096, Group: 9}}}
	for _, c := range []struct {
		what string
		dump []byte
		kind tnv.Kind
		says string
	}{
		{"nothing", nil, tnv.KindInvalid, "no dump"},
		{"another file", bytes.Repeat([]byte("x"), 100), tnv.KindInvalid, "no dump"},
		{"cut in the middle", good[:half], tnv.KindCorrupt, "not complete"},
		{"cut before the end", good[:len(good)-1], tnv.KindCorrupt, "not complete"},
		{"a flipped bit", edit(func(b []byte) []byte { b[half] ^= 4; return b }), tnv.KindCorrupt, ""},
		{"more behind the end", append(bytes.Clone(good), 0), tnv.KindCorrupt, "follows its end"},
		{"another end", append(bytes.Clone(good[:len(good)-100]), reframed(info)[60:]...), tnv.KindCorrupt, ""},
		{"of another cluster", reframed(foreign), tnv.KindWrongCluster, "storage groups"},
		{"of a newer format", reframed(newer), tnv.KindVersion, "version of tnv"},
		{"of no volume", reframed(low), tnv.KindCorrupt, ""},
		{"a key of no class", record([]byte("zz"), []byte{1}), tnv.KindCorrupt, ""},
		{"a short key", record([]byte{keyInode, 1}, (&inode{}).encode()), tnv.KindCorrupt, ""},
		{"a registry's record", record([]byte(volumeKey("x")), (&volume{}).encode()), tnv.KindCorrupt, ""},
		{"a damaged record", record([]byte(inodeKey(5)), []byte{9}), tnv.KindCorrupt, "inode 5"},
		{"an unknown group", record([]byte(chunkBaseKey(chunkKey(5, 0))), short.encodeBase()), tnv.KindCorrupt, "group 9"},
	} {
		for name, target := range map[string]kv.Engine{"a new engine": mem.New(mem.Options{}), "one with an empty volume": mem.New(mem.Options{})} {
			if name != "a new engine" {
				enter(t, target)
			} else {
				openRegistry(t, target, func(*Registry) {})
			}
			was := contents(t, target)
			err := load(target, c.dump)
			if tnv.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", c.what, err)
			}
			is := contents(t, target)
			for k, v := range is {
				if g := k[:4]; was[k] != v && g != `0 "g` {
					t.Errorf("%s, %s: %s was written", c.what, name, k)
				}
			}
			for k := range was {
				if _, there := is[k]; !there {
					t.Errorf("%s, %s: %s is gone", c.what, name, k)
				}
			}
		}
	}
}

// A load that was killed leaves a volume that nobody opens, and is run again.
func TestLoadInterrupted(t *testing.T) {
	source := mem.New(mem.Options{})
	enter(t, source)
	h := start(t, source, Config{})
	h.furnish(9000)
	want, _ := house(t, source, sameGroup)
	dump := dumped(t, source)
	var target kv.Engine = mem.New(mem.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	loaded := make(chan error, 1)
	go func() {
		_, err := Load(ctx, target, testCluster, reader, quiet())
		loaded <- err
	}()
	if _, err := writer.Write(dump[:len(dump)-200]); err != nil {
		t.Fatal(err)
	}
	h.eventually("something is loaded", func() bool {
		some := false
		err := target.Scan(ctx, testVol, []byte{keyInode}, nil, 1, func(_, _ []byte) bool { some = true; return false })
		return err == nil && some
	})
	killed := target.(*mem.Engine).Kill()
	cancel()
	writer.CloseWithError(io.ErrUnexpectedEOF)
	if err := <-loaded; err == nil {
		t.Fatal("a load on a killed engine has succeeded")
	}
	openRegistry(t, killed, func(r *Registry) {
		_, err := r.EnsureVolume(context.Background(), "media")
		kindIs(t, err, tnv.KindUnavailable)
	})
	h.must(load(killed, dump))
	openRegistry(t, killed, func(r *Registry) {
		known, _ := r.Known(context.Background())
		if got, _ := house(t, killed, map[tnv.GroupID]tnv.GroupID{known[0].ID: 1}); got != want {
			t.Error("what the second load has made is not what was dumped")
		}
		if id, err := r.EnsureVolume(context.Background(), "media"); err != nil || id != testVol {
			t.Errorf("the volume is %d, %v", id, err)
		}
	})
	if err := load(killed, dump); tnv.KindOf(err) != tnv.KindExist {
		t.Errorf("loaded over a volume with content: %v", err)
	}
}

// A dump is of one moment, though the volume is in use: what was acknowledged before
// it is in it, and what came later is whole or not there.
func TestDumpInUse(t *testing.T) {
	source := openPebble(t, filepath.Join(t.TempDir(), "a"))
	enter(t, source)
	h := start(t, source, Config{})
	stop, done := make(chan struct{}), make(chan struct{})
	h.create(tnv.RootIno, "0")
	go func() {
		defer close(done)
		for i := 0; ; i++ { // one name at any moment, which moves all the time
			select {
			case <-stop:
				return
			default:
			}
			_, err := do[protocol.UnlinkReply](h, protocol.TypeRename, &protocol.Rename{Parent: tnv.RootIno, Name: fmt.Sprint(i), NewParent: tnv.RootIno, NewName: fmt.Sprint(i + 1)})
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 20 {
		target := mem.New(mem.Options{})
		if err := load(target, dumped(t, source)); err != nil {
			t.Fatal(err)
		}
		names, prefix := 0, string([]byte{keyDentry})
		err := target.Scan(context.Background(), testVol, []byte(prefix), []byte(prefixEnd(prefix)), 0, func(_, _ []byte) bool { names++; return true })
		if err != nil || names != 1 {
			t.Fatalf("a dump has %d names, %v", names, err)
		}
	}
	close(stop)
	<-done
}

func FuzzDump(f *testing.F) {
	source := mem.New(mem.Options{})
	enter(f, source)
	start(f, source, Config{}).furnish(3)
	good := dumped(f, source)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		err := load(mem.New(mem.Options{}), b)
		if err == nil && !bytes.Equal(b, good) && !bytes.HasPrefix(b, []byte(dumpMagic)) {
			t.Fatal("loaded what is no dump")
		}
	})
}

// What the emptying of a group leaves is no part of a volume that moves house.
func TestCarryOfMoves(t *testing.T) {
	if _, carried, err := carry([]byte(movedKey(7)), (&movedBlock{8, 1}).encode(), sameGroup); carried || err != nil {
		t.Errorf("where a block was copied to: carried %v, %v", carried, err)
	}
	for key, value := range map[string][]byte{drainKey(1): (&Drain{Group: 1}).encode(), retiredKey(1): (mark{}).encode()} {
		if _, carried, err := carry([]byte(key), value, sameGroup); carried || tnv.KindOf(err) != tnv.KindCorrupt {
			t.Errorf("%q of the cluster's own volume: carried %v, %v", key, carried, err)
		}
	}
}
