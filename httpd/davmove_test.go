package httpd

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// A MOVE or COPY that cannot be does nothing to what is at its destination.
func TestDestinationStays(t *testing.T) {
	f := newFake()
	for _, d := range []string{"/d", "/d/sub", "/e"} {
		f.dir(d)
	}
	for _, p := range []string{"/d/sub/a", "/d/b", "/e/c"} {
		f.file(p, []byte(p))
	}
	f.add("/link", tnv.TypeSymlink.Mode()|0o777, nil)
	f.links = map[string]string{"/link": "/e/c"}
	srv, _ := startWith(t, f, tnv.Root, writers(t))
	for _, m := range []string{"MOVE", "COPY"} {
		for _, c := range []struct {
			from, to string
			want     int
		}{
			{"/none", "/e", 404}, {"/none", "/e/c", 404}, {"/none/", "/d/", 404}, {"/d/none", "/d", 404},
			{"/d/sub", "/d", 403}, {"/d/sub/", "/d/", 403}, {"/d/sub/a", "/d", 403}, {"/d/sub", "/d/", 403}, {"/d/sub/a", "/d/", 403}, {"/d/sub/", "/", 403},
			{"/d", "/d/", 403}, {"/d/", "/d", 403}, {"/d/", "/d", 403}, {"/d", "/d/sub/x", 403}, {"/d/", "/d/sub", 403}, {"/", "/e/", 403}, {"/", "/new/", 403},
		} {
			if resp, _ := send(t, m, srv.URL+c.from, "", "Destination: "+c.to, "Overwrite: T"); resp.StatusCode != c.want {
				t.Errorf("%s %s to %s: %d, want %d", m, c.from, c.to, resp.StatusCode, c.want)
			}
		}
	}
	if resp, _ := send(t, "COPY", srv.URL+"/link", "", "Destination: /e/c"); resp.StatusCode != 403 {
		t.Errorf("COPY onto itself by a link: %d", resp.StatusCode)
	}
	for _, p := range []string{"/d/sub/a", "/d/b", "/e/c"} {
		if !f.there(p) {
			t.Errorf("%s is gone", p)
		}
	}
	if resp, _ := send(t, "MOVE", srv.URL+"/d/sub/", "", "Destination: /e/"); resp.StatusCode != 204 || !f.there("/e/a") || f.there("/e/c") {
		t.Errorf("MOVE over a directory: %d", resp.StatusCode)
	}
}

// refuser fails the renames of a name to another.
type refuser struct {
	*fake
	from, to string
}

func (r *refuser) Move(ctx context.Context, c tnv.Cred, req protocol.Rename) error {
	if req.Name == r.from && req.NewName == r.to {
		return tnv.E("rename", tnv.KindNoSpace, "")
	}
	return r.fake.Move(ctx, c, req)
}

// What a move was to replace is back where it was if the move fails.
func TestReplacedComesBack(t *testing.T) {
	f := newFake()
	f.file("/a", []byte("a"))
	f.dir("/b")
	f.file("/b/c", []byte("c"))
	srv, h := startWith(t, f, tnv.Root, writers(t))
	r := &refuser{f, "a", "b"}
	h.src, h.tree = r, &tree{r, tnv.Root}
	if resp, _ := send(t, "MOVE", srv.URL+"/a", "", "Destination: /b"); resp.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("%d", resp.StatusCode)
	}
	if !f.there("/b/c") || !f.there("/a") {
		t.Error("it did not come back")
	}
}

// COPY does not go round by links.
func TestCopyFollowsNoDirectories(t *testing.T) {
	f := newFake()
	f.dir("/s")
	f.file("/s/a", []byte("a"))
	for _, l := range []string{"/s/loop", "/s/file"} {
		f.add(l, tnv.TypeSymlink.Mode()|0o777, nil)
	}
	f.links = map[string]string{"/s/loop": "/s", "/s/file": "/s/a"}
	srv, _ := startWith(t, f, tnv.Root, writers(t))
	if resp, body := send(t, "COPY", srv.URL+"/s/", "", "Destination: /t/"); resp.StatusCode != 201 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if !f.there("/t/a") || !f.there("/t/file") || f.there("/t/loop") {
		t.Errorf("copied: %v, %v, %v", f.there("/t/a"), f.there("/t/file"), f.there("/t/loop"))
	}
}

// A body that does not say how long it is may not be longer than one that does.
func TestChunkedTooLarge(t *testing.T) {
	f := newFake()
	o := writers(t)
	o.maxUpload = 1000
	srv, _ := startWith(t, f, tnv.Root, o)
	for n, want := range map[int]int{1000: 201, 1001: 413, 3 << 20: 413} {
		req, err := http.NewRequest("PUT", srv.URL+"/x", io.MultiReader(strings.NewReader(strings.Repeat("x", n))))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = -1
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want || f.there("/x") != (want == 201) {
			t.Errorf("%d bytes: %d, want %d", n, resp.StatusCode, want)
		}
		send(t, "DELETE", srv.URL+"/x", "")
	}
}
