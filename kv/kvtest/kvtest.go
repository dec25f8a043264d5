// Package kvtest is the conformance suite of package kv: what every engine must
// do, and what must be left of it after its process was killed or its machine
// lost power. A new engine's test is a function that makes a Store.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// Store is an empty store and ways to end the engine that has it open. Each way
// returns the engine of the next process. What a Store leaves nil is not tested.
type Store struct {
	Engine kv.Engine
	// Reopen opens the store after Engine.Close.
	Reopen func(t testing.TB) kv.Engine
	// Kill ends the engine's process at once: what it had not yet written to the
	// operating system is lost, and nothing that it still does counts.
	Kill func(t testing.TB) kv.Engine
	// PowerLoss ends the machine. Of what was not synced any part may survive on
	// the medium, as r decides.
	PowerLoss func(t testing.TB, r *rand.Rand) kv.Engine
}

// Run runs the suite. open makes a store of its own for each test.
func Run(t *testing.T, open func(t testing.TB) *Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *Store)
	}{
		{"Empty", testEmpty}, {"ByteOrder", testByteOrder}, {"ScanBounds", testScanBounds},
		{"Values", testValues}, {"LaterWriteCounts", testLaterWriteCounts}, {"Limits", testLimits},
		{"BuffersAreCopied", testBuffers}, {"VolumesDoNotMix", testVolumes}, {"OneMoment", testOneMoment},
		{"Concurrent", testConcurrent}, {"Context", testContext}, {"Closed", testClosed},
		{"Fence", testFence}, {"FenceRace", testFenceRace}, {"Sequence", testSequence},
		{"Lease", testLease}, {"LeaseCAS", testLeaseCAS}, {"Raise", testRaise}, {"Release", testRelease}, {"Shared", testShared},
		{"Reopen", testReopen}, {"Kill", testKill}, {"PowerLoss", testPowerLoss}, {"SyncedSurvives", testSyncedSurvives},
		{"LeaseSurvives", testLeaseSurvives}, {"Crashes", testCrashes},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Engine.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
					t.Errorf("close: %v", err)
				}
			})
			c.test(t, s)
		})
	}
}

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantIs(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error is %v, want %v", err, target)
	}
}

// own takes a volume over.
func own(t testing.TB, e kv.Engine, vol tnv.VolumeID) kv.Fence {
	t.Helper()
	seen, err := e.Lease(ctx, vol)
	must(t, err)
	l, err := e.Acquire(ctx, seen, "test", time.Second)
	must(t, err)
	return kv.Fence{Vol: vol, Epoch: l.Epoch}
}

func set(key, value string) kv.Write { return kv.Write{Key: []byte(key), Value: []byte(value)} }
func del(key string) kv.Write        { return kv.Write{Key: []byte(key)} }

func batch(seq tnv.BatchSeq, writes ...kv.Write) kv.Batch { return kv.Batch{Seq: seq, Writes: writes} }

// put applies one batch after the last one.
func put(t testing.TB, e kv.Engine, f kv.Fence, writes ...kv.Write) tnv.BatchSeq {
	t.Helper()
	seq, err := e.Seq(ctx, f.Vol)
	must(t, err)
	must(t, e.Apply(ctx, f, []kv.Batch{batch(seq+1, writes...)}))
	return seq + 1
}

func get(t testing.TB, e kv.Engine, vol tnv.VolumeID, key string) []byte {
	t.Helper()
	v, err := e.Get(ctx, vol, []byte(key))
	must(t, err)
	if len(v) != 1 {
		t.Fatalf("get of one key gave %d values", len(v))
	}
	return v[0]
}

func wantSeq(t testing.TB, e kv.Engine, vol tnv.VolumeID, want tnv.BatchSeq) {
	t.Helper()
	got, err := e.Seq(ctx, vol)
	must(t, err)
	if got != want {
		t.Fatalf("volume %d: sequence is %d, want %d", vol, got, want)
	}
}

// dump reads a whole volume, and checks the order of its keys.
func dump(t testing.TB, e kv.Engine, vol tnv.VolumeID) map[string]string {
	t.Helper()
	m := map[string]string{}
	var last []byte
	must(t, e.Scan(ctx, vol, nil, nil, 0, func(k, v []byte) bool {
		if last != nil && bytes.Compare(last, k) >= 0 {
			t.Errorf("volume %d: key %q comes after %q", vol, k, last)
		}
		if v == nil {
			t.Errorf("volume %d: scan gave nil for %q", vol, k)
		}
		last = append([]byte{}, k...)
		m[string(k)] = string(v)
		return true
	}))
	return m
}

func wantSame(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			t.Fatalf("%s: %q is %s, want %s", what, k, brief(g, ok), brief(v, true))
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Fatalf("%s: there is %q, which should not be", what, k)
		}
	}
}

func brief(v string, ok bool) string {
	if !ok {
		return "missing"
	}
	return fmt.Sprintf("%d bytes (%.12q)", len(v), v)
}

// keys scans and gives the keys only.
func keys(t testing.TB, e kv.Engine, vol tnv.VolumeID, from, to []byte, limit int) []string {
	t.Helper()
	var out []string
	must(t, e.Scan(ctx, vol, from, to, limit, func(k, _ []byte) bool {
		out = append(out, string(k))
		return true
	}))
	return out
}
