package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

func testEmpty(t *testing.T, s *Store) {
	e := s.Engine
	wantSeq(t, e, 1, 0)
	if v := get(t, e, 1, "a"); v != nil {
		t.Errorf("an empty store has %q", v)
	}
	if v, err := e.Get(ctx, 1); err != nil || len(v) != 0 {
		t.Errorf("get of no keys: %q, %v", v, err)
	}
	if k := keys(t, e, 1, nil, nil, 0); k != nil {
		t.Errorf("an empty store has %q", k)
	}
	if l, err := e.Lease(ctx, 7); err != nil || l != (kv.Lease{Vol: 7}) {
		t.Errorf("lease that never was: %+v, %v", l, err)
	}
	must(t, e.Sync(ctx))
	if e.Name() == "" {
		t.Error("no name")
	}
}

func testByteOrder(t *testing.T, s *Store) {
	f := own(t, s.Engine, 1)
	want := []string{"\x00", "\x00\x00", "\x00\xff", "A", "a", "a\x00", "aa", "a\xff", "ä", "\x7f\x80", "\xff", "\xff\x00", "\xff\xff"}
	var w []kv.Write
	for _, k := range want {
		w = append(w, set(k, "v"))
	}
	for i := len(w) - 1; i >= 0; i-- {
		put(t, s.Engine, f, w[i])
	}
	slices.Sort(want)
	if got := keys(t, s.Engine, 1, nil, nil, 0); !slices.Equal(got, want) {
		t.Errorf("order is %q, want %q", got, want)
	}
}

func testScanBounds(t *testing.T, s *Store) {
	f := own(t, s.Engine, 1)
	put(t, s.Engine, f, set("a", ""), set("b", ""), set("b\x00", ""), set("c", ""), set("d", ""))
	for _, c := range []struct {
		from, to string
		limit    int
		want     string
	}{
		{"", "-", 0, "a b b\x00 c d"}, {"b", "-", 0, "b b\x00 c d"}, {"b", "c", 0, "b b\x00"}, {"bb", "d", 0, "c"},
		{"b", "b", 0, ""}, {"c", "a", 0, ""}, {"", "", 0, ""}, {"", "a", 0, ""}, {"e", "-", 0, ""},
		{"", "-", 2, "a b"}, {"b\x00", "-", 1, "b\x00"}, {"", "c", 9, "a b b\x00"},
	} {
		to := []byte(c.to)
		if c.to == "-" {
			to = nil
		}
		if got := strings.Join(keys(t, s.Engine, 1, []byte(c.from), to, c.limit), " "); got != c.want {
			t.Errorf("scan [%q, %q) limit %d gave %q, want %q", c.from, c.to, c.limit, got, c.want)
		}
	}
	n := 0
	must(t, s.Engine.Scan(ctx, 1, nil, nil, 0, func(_, _ []byte) bool { n++; return n < 3 }))
	if n != 3 {
		t.Errorf("scan went on: %d calls after false at the third", n)
	}
}

func testValues(t *testing.T, s *Store) {
	f := own(t, s.Engine, 1)
	big := bytes.Repeat([]byte("0123456789abcdef"), kv.MaxValueLen/16)
	put(t, s.Engine, f, set("empty", ""), set("one", "\x00"), kv.Write{Key: []byte("big"), Value: big})
	got, err := s.Engine.Get(ctx, 1, []byte("big"), []byte("none"), []byte("empty"), []byte("one"), []byte("empty"))
	must(t, err)
	if !bytes.Equal(got[0], big) {
		t.Error("the big value came back changed")
	}
	if got[1] != nil {
		t.Errorf("missing key gave %q", got[1])
	}
	for _, i := range []int{2, 4} {
		if got[i] == nil || len(got[i]) != 0 {
			t.Errorf("empty value came back as %#v", got[i])
		}
	}
	if string(got[3]) != "\x00" {
		t.Errorf("one byte came back as %q", got[3])
	}
	put(t, s.Engine, f, del("empty"), del("big"), del("never there"))
	wantSame(t, "after deletion", dump(t, s.Engine, 1), map[string]string{"one": "\x00"})
	if get(t, s.Engine, 1, "empty") != nil {
		t.Error("deleted key is still there")
	}
}

func testLaterWriteCounts(t *testing.T, s *Store) {
	f := own(t, s.Engine, 1)
	must(t, s.Engine.Apply(ctx, f, []kv.Batch{
		batch(1, set("a", "1"), set("a", "2"), set("b", "1"), del("b"), del("c"), set("c", "1"), set("d", "1")),
		batch(2, set("d", "2"), set("e", "1")),
		batch(3, del("e")),
	}))
	wantSame(t, "volume", dump(t, s.Engine, 1), map[string]string{"a": "2", "c": "1", "d": "2"})
	wantSeq(t, s.Engine, 1, 3)
}

func testLimits(t *testing.T, s *Store) {
	f := own(t, s.Engine, 1)
	longest := strings.Repeat("k", kv.MaxKeyLen)
	put(t, s.Engine, f, set(longest, "v"), set(longest[1:], "w"))
	for _, bad := range []kv.Write{set("", "v"), set(longest+"k", "v"), del(""), del(longest + "k"),
		{Key: []byte("x"), Value: make([]byte, kv.MaxValueLen+1)}} {
		err := s.Engine.Apply(ctx, f, []kv.Batch{batch(2, set("before", "v")), batch(3, bad)})
		if tnv.KindOf(err) != tnv.KindInvalid {
			t.Errorf("key of %d bytes, value of %d: error is %v, want KindInvalid", len(bad.Key), len(bad.Value), err)
		}
	}
	for _, bad := range []string{"", longest + "k"} {
		if _, err := s.Engine.Get(ctx, 1, []byte("a"), []byte(bad)); tnv.KindOf(err) != tnv.KindInvalid {
			t.Errorf("get of a key of %d bytes: error is %v, want KindInvalid", len(bad), err)
		}
	}
	wantSeq(t, s.Engine, 1, 1)
	wantSame(t, "volume", dump(t, s.Engine, 1), map[string]string{longest: "v", longest[1:]: "w"})
	put(t, s.Engine, f, set("after", "v"))
}

func testBuffers(t *testing.T, s *Store) {
	f := own(t, s.Engine, 1)
	k, v := []byte("key"), []byte("value")
	put(t, s.Engine, f, kv.Write{Key: k, Value: v})
	k[0], v[0] = 'X', 'X'
	got := get(t, s.Engine, 1, "key")
	if string(got) != "value" {
		t.Fatalf("the store kept the caller's buffer: %q", got)
	}
	got[0] = 'Y'
	if again := get(t, s.Engine, 1, "key"); string(again) != "value" {
		t.Fatalf("the store gave out its own buffer: %q", again)
	}
}

func testVolumes(t *testing.T, s *Store) {
	vols := []tnv.VolumeID{0, 1, 2, 255, 256, 1 << 24, 1<<32 - 1}
	for i, v := range vols {
		f := own(t, s.Engine, v)
		put(t, s.Engine, f, set("\x00", fmt.Sprint(v)), set("k", fmt.Sprint(v)), set("\xff\xff\xff\xff\xff\xff", fmt.Sprint(v)))
		if i%2 == 0 {
			put(t, s.Engine, f, del("k"))
		}
	}
	for i, v := range vols {
		want := map[string]string{"\x00": fmt.Sprint(v), "k": fmt.Sprint(v), "\xff\xff\xff\xff\xff\xff": fmt.Sprint(v)}
		if i%2 == 0 {
			delete(want, "k")
		}
		wantSame(t, fmt.Sprintf("volume %d", v), dump(t, s.Engine, v), want)
		wantSeq(t, s.Engine, v, tnv.BatchSeq(2-i%2))
	}
}

// testOneMoment writes the same value to many keys in each batch: a scan, or a
// get of several keys, that sees two values saw two moments.
func testOneMoment(t *testing.T, s *Store) {
	const n, rounds = 40, 60
	f := own(t, s.Engine, 1)
	var ks [][]byte
	for i := range n {
		ks = append(ks, fmt.Appendf(nil, "key%03d", i))
	}
	write := func(seq int) error {
		b := batch(tnv.BatchSeq(seq))
		for _, k := range ks {
			b.Writes = append(b.Writes, kv.Write{Key: k, Value: fmt.Append(nil, seq)})
		}
		return s.Engine.Apply(ctx, f, []kv.Batch{b})
	}
	must(t, write(1))
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 2; i <= rounds && err == nil; i++ {
			err = write(i)
		}
		done <- err
	}()
	for finished := false; !finished; {
		select {
		case err := <-done:
			must(t, err)
			finished = true
		default:
		}
		seen := map[string]int{}
		must(t, s.Engine.Scan(ctx, 1, nil, nil, 0, func(_, v []byte) bool { seen[string(v)]++; return true }))
		if len(seen) != 1 {
			t.Fatalf("a scan saw several moments: %v", seen)
		}
		seen = map[string]int{}
		vs, err := s.Engine.Get(ctx, 1, ks...)
		must(t, err)
		for _, v := range vs {
			seen[string(v)]++
		}
		if len(seen) != 1 {
			t.Fatalf("a get saw several moments: %v", seen)
		}
	}
	wantSeq(t, s.Engine, 1, rounds)
}

func testConcurrent(t *testing.T, s *Store) {
	const vols, rounds = 6, 40
	var wg sync.WaitGroup
	for v := range tnv.VolumeID(vols) {
		f := own(t, s.Engine, v)
		wg.Go(func() {
			for i := tnv.BatchSeq(1); i <= rounds; i += 2 {
				two := []kv.Batch{batch(i, set(fmt.Sprint(i), fmt.Sprint(v)), set("last", fmt.Sprint(i))), batch(i+1, set("last", fmt.Sprint(i+1)))}
				if err := s.Engine.Apply(ctx, f, two); err != nil {
					t.Errorf("volume %d, batch %d: %v", v, i, err)
					return
				}
				if got, err := s.Engine.Get(ctx, v, []byte("last")); err != nil || string(got[0]) != fmt.Sprint(i+1) {
					t.Errorf("volume %d: %q, %v after batch %d", v, got, err, i+1)
				}
				if err := s.Engine.Sync(ctx); i%10 == 1 && err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for v := range tnv.VolumeID(vols) {
		wantSeq(t, s.Engine, v, rounds)
		if m := dump(t, s.Engine, v); len(m) != rounds/2+1 || m["1"] != fmt.Sprint(v) {
			t.Errorf("volume %d has %d keys", v, len(m))
		}
	}
}

func testContext(t *testing.T, s *Store) {
	f := own(t, s.Engine, 1)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Engine.Apply(gone, f, []kv.Batch{batch(1, set("a", "b"))}); !errors.Is(err, context.Canceled) {
		t.Errorf("apply under a cancelled context: %v", err)
	}
	if _, err := s.Engine.Get(gone, 1, []byte("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("get under a cancelled context: %v", err)
	}
	wantSeq(t, s.Engine, 1, 0)
}

func testClosed(t *testing.T, s *Store) {
	e := s.Engine
	f := own(t, e, 1)
	l, err := e.Lease(ctx, 1)
	must(t, err)
	must(t, e.Close())
	_, err = e.Get(ctx, 1, []byte("a"))
	wantIs(t, err, kv.ErrClosed)
	wantIs(t, e.Scan(ctx, 1, nil, nil, 0, func(_, _ []byte) bool { return true }), kv.ErrClosed)
	wantIs(t, e.Apply(ctx, f, []kv.Batch{batch(1)}), kv.ErrClosed)
	wantIs(t, e.Sync(ctx), kv.ErrClosed)
	_, err = e.Seq(ctx, 1)
	wantIs(t, err, kv.ErrClosed)
	_, err = e.Renew(ctx, l)
	wantIs(t, err, kv.ErrClosed)
	wantIs(t, e.Close(), kv.ErrClosed)
}
