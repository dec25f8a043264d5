package stored

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// segments serves Locate with a file per block id, as change says.
func segments(t *testing.T, key protocol.Key, change func(id int, sent *protocol.Descriptors) (describe bool)) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var sent protocol.Descriptors
	srv := &protocol.Server{Endpoint: &protocol.Endpoint{Key: key, Role: protocol.RoleStore}, Log: testLog(t)}
	srv.Block = func(_ context.Context, p *protocol.Peer, f *protocol.Frame) error {
		var req protocol.Locate
		if err := f.Decode(&req); err != nil {
			return err
		}
		id := int(req.Key.ID)
		meta, _ := block(id, 10)
		reply := protocol.LocateReply{Block: meta, Segment: uint64(id)}
		if !change(id, &sent) {
			return p.Wire().WriteReply(f, nil, []any{&reply})
		}
		file, err := os.Create(filepath.Join(dir, strconv.Itoa(id)))
		if err != nil {
			return err
		}
		defer file.Close()
		file.WriteString(strconv.Itoa(id))
		return p.Wire().WriteFrameFrom(f.Type, protocol.FlagReply, f.Stream, []any{&reply}, 1, func(c net.Conn) error {
			return protocol.SendDescriptor(c.(*net.UnixConn), file)
		})
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return path
}

func dialLocal(t *testing.T, key protocol.Key, path string) *protocol.LocalConn {
	t.Helper()
	l, err := protocol.DialLocal(context.Background(), &protocol.Endpoint{Key: key, Role: protocol.RoleClient}, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// More segments than are remembered: both sides forget the same ones.
func TestLocateManySegments(t *testing.T) {
	key := protocol.NewKey()
	sends := 0
	path := segments(t, key, func(id int, sent *protocol.Descriptors) bool {
		if sent.Has(uint64(id)) {
			return false
		}
		sent.Add(uint64(id))
		sends++
		return true
	})
	l := dialLocal(t, key, path)
	const n = protocol.MaxDescriptors + 10
	look := func(id int) {
		t.Helper()
		_, f, err := l.Locate(context.Background(), bkey(id))
		if err != nil {
			t.Fatalf("segment %d: %v", id, err)
		}
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
		if err != nil || string(b) != strconv.Itoa(id) {
			t.Fatalf("segment %d is the file %q: %v", id, b, err)
		}
	}
	for id := 1; id <= n; id++ {
		look(id)
	}
	look(n)
	look(1)      // forgotten, sent again
	look(10 + 2) // the oldest that is still known
	if sends != n+1 {
		t.Errorf("%d descriptors were sent, want %d", sends, n+1)
	}
}

func TestLocateOddAnswers(t *testing.T) {
	key := protocol.NewKey()
	l := dialLocal(t, key, segments(t, key, func(int, *protocol.Descriptors) bool { return false }))
	if _, _, err := l.Locate(context.Background(), bkey(1)); tnv.KindOf(err) != tnv.KindProtocol {
		t.Errorf("no descriptor came: %v", err)
	}
	if _, _, err := l.Locate(context.Background(), bkey(1)); tnv.KindOf(err) != tnv.KindUnavailable {
		t.Errorf("a connection that is over: %v", err)
	}
	release := make(chan struct{})
	defer close(release)
	l = dialLocal(t, key, segments(t, key, func(int, *protocol.Descriptors) bool { <-release; return false }))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, _, err := l.Locate(ctx, bkey(1)); tnv.KindOf(err) != tnv.KindTimeout || time.Since(began) > 3*time.Second {
		t.Errorf("a daemon that does not answer: %v after %v", err, time.Since(began))
	}
	if _, err := protocol.DialLocal(context.Background(), &protocol.Endpoint{Key: key}, filepath.Join(t.TempDir(), "none")); tnv.KindOf(err) != tnv.KindUnavailable {
		t.Errorf("no socket: %v", err)
	}
}
