package httpd

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// ruled has the users alice and boss, with the password pw, and rules.
func ruled(t *testing.T, rules string) options {
	t.Helper()
	dir := t.TempDir()
	h, err := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	cfg := access.Config{UsersFile: filepath.Join(dir, "users"), RulesFile: filepath.Join(dir, "rules")}
	for name, text := range map[string]string{cfg.UsersFile: fmt.Sprintf("alice:%s\nboss:%s\n", h, h), cfg.RulesFile: rules} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := access.New(cfg, access.NewSigner([]byte("k"), "c", "media"))
	if err != nil {
		t.Fatal(err)
	}
	return options{access: p}
}

func as(user string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":pw"))
}

// there tells whether something is at a path of the fake volume.
func (f *fake) there(p string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[p] != nil
}

// What lies beneath a stricter rule does not go with what is above it.
func TestStricterBeneath(t *testing.T) {
	f := newFake()
	for _, d := range []string{"/d", "/d/secret", "/free", "/over"} {
		f.dir(d)
	}
	f.file("/d/secret/a", []byte("a"))
	f.file("/free/b", []byte("b"))
	srv, _ := startWith(t, f, tnv.Root, ruled(t, "alice write /\nboss write /\nalice read /d/secret\n"))
	ask(t, srv.URL, "POST", "move", `{"from":"/d","to":"/e"}`, 403, as("alice"))
	ask(t, srv.URL, "POST", "move", `{"from":"/free","to":"/d","overwrite":true}`, 403, as("alice"))
	out := ask(t, srv.URL, "POST", "delete", `{"paths":["/d"]}`, 200, as("alice"))
	if out["items"].([]any)[0].(map[string]any)["error"] == nil {
		t.Error("deleted with what she may not change")
	}
	for _, c := range [][]string{{"DELETE", "/d/"}, {"MOVE", "/d/", "Destination: /e/"}, {"MOVE", "/free/", "Destination: /d/"}, {"COPY", "/free/", "Destination: /d/"}} {
		resp, _ := send(t, c[0], srv.URL+c[1], "", append(c[2:], as("alice"))...)
		if resp.StatusCode != 403 {
			t.Errorf("%v: %d", c, resp.StatusCode)
		}
	}
	for _, p := range []string{"/d/secret/a", "/free/b"} {
		if !f.there(p) {
			t.Errorf("%s is gone", p)
		}
	}
	id := ask(t, srv.URL, "POST", "delete", `{"paths":["/d"]}`, 200, as("boss"))["items"].([]any)[0].(map[string]any)["trash"].(string)
	ask(t, srv.URL, "DELETE", "trash?id="+id, "", 404, as("alice"))
	ask(t, srv.URL, "DELETE", "trash?id="+id, "", 204, as("boss"))
	ask(t, srv.URL, "POST", "move", `{"from":"/free","to":"/e"}`, 200, as("alice"))
}

// An upload that may replace a file does not replace a directory, nor does a move what it lies in.
func TestDirectoryIsNotReplaced(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.file("/d/a", []byte("a"))
	srv, _ := startWith(t, f, tnv.Root, writers(t))
	resp, body := send(t, "POST", srv.URL+"/.tnv/api/uploads", "x", "Upload-Length: 1", meta("path", "/d", "overwrite", "true"))
	if resp.StatusCode != 409 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	ask(t, srv.URL, "POST", "move", `{"from":"/d/a","to":"/d","overwrite":true}`, 400)
	if !f.there("/d/a") {
		t.Error("the directory was taken away")
	}
}

// A rename into the trash that was done, though its answer got lost, loses nothing.
func TestDiscardWithoutAnswer(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.file("/d/a", []byte("a"))
	srv, h := startWith(t, f, tnv.Root, writers(t))
	lost := &lostAnswers{fake: f}
	h.src, h.tree = lost, &tree{lost, tnv.Root}
	ask(t, srv.URL, "POST", "delete", `{"paths":["/d"]}`, 200)
	items := ask(t, srv.URL, "GET", "trash", "", 200)["items"].([]any)
	if len(items) != 1 {
		t.Fatalf("the trash has %v", items)
	}
	ask(t, srv.URL, "POST", "undo", `{"trash":["`+items[0].(map[string]any)["id"].(string)+`"]}`, 200)
	if !f.there("/d/a") {
		t.Error("what was in it is lost")
	}
}

// lostAnswers does the first rename and tells that it was not done in time.
type lostAnswers struct {
	*fake
	done bool
}

func (l *lostAnswers) Move(ctx context.Context, c tnv.Cred, req protocol.Rename) error {
	if err := l.fake.Move(ctx, c, req); err != nil || l.done {
		return err
	}
	l.done = true
	return tnv.E("rename", tnv.KindTimeout, "")
}

// A path that JSON writes six times as long has a record that can be read; one that
// cannot be does not hide the others.
func TestLongRecord(t *testing.T) {
	f := newFake()
	p := ""
	for len(p)+256 < maxPath {
		p += "/" + strings.Repeat("&", 255)
		f.dir(p)
	}
	f.file("/a", nil)
	srv, _ := startWith(t, f, tnv.Root, writers(t))
	ask(t, srv.URL, "POST", "delete", `{"paths":["`+p+`","/a"]}`, 200)
	items := ask(t, srv.URL, "GET", "trash", "", 200)["items"].([]any)
	if len(items) != 2 {
		t.Fatalf("%d are listed", len(items))
	}
	id := newID(time.Now())
	f.dir(trashDir + "/" + id)
	f.file(trashDir+"/"+id+"/"+recordName, make([]byte, maxRecord+1))
	if l := ask(t, srv.URL, "GET", "trash", "", 200)["items"].([]any); len(l) != 2 {
		t.Errorf("%d are listed", len(l))
	}
}

// A link that leads to the root does not lead on into the daemon's own directory.
func TestOwnByLink(t *testing.T) {
	f := newFake()
	f.file("/a", nil)
	f.dir("/.tnv")
	f.file("/b", nil)
	srv, h := startWith(t, f, tnv.Root, writers(t))
	for _, limit := range []uint32{1, 2, 100} {
		var got []string
		for req := (protocol.ReadDir{Ino: tnv.RootIno, Limit: limit, Attrs: true}); ; {
			rep, err := h.tree.page(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for i, e := range rep.Entries {
				req.Cookie = e.Cookie
				got = append(got, e.Name)
				if rep.Attrs[i].Ino != e.Ino {
					t.Error("attributes of another")
				}
			}
			if rep.End || len(rep.Entries) == 0 {
				break
			}
		}
		if strings.Join(got, ",") != "a,b" {
			t.Errorf("pages of %d: %v", limit, got)
		}
	}
	f.links = map[string]string{"/link": "/"}
	out := ask(t, srv.URL, "POST", "delete", `{"paths":["/link/.tnv"]}`, 200)
	if out["items"].([]any)[0].(map[string]any)["error"] == nil || !f.there("/.tnv") {
		t.Error("it was deleted")
	}
	ask(t, srv.URL, "POST", "move", `{"from":"/link/.tnv","to":"/x"}`, 404)
	ask(t, srv.URL, "POST", "move", `{"from":"/a","to":"/link/.tnv"}`, 404)
}
