package httpd

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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

// writers lets anybody write.
func writers(t testing.TB) options {
	p, err := access.New(access.Config{Anonymous: access.Write}, access.NewSigner([]byte("k"), "c", "media"))
	if err != nil {
		t.Fatal(err)
	}
	return options{access: p}
}

// send sends a request with a body and headers "Name: value".
func send(t testing.TB, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// ask is send of JSON to the interface; want is the status.
func ask(t testing.TB, srv, method, name, body string, want int, headers ...string) map[string]any {
	t.Helper()
	resp, text := send(t, method, srv+"/.tnv/api/"+name, body, headers...)
	if resp.StatusCode != want {
		t.Fatalf("%s %s %s: %d %s, want %d", method, name, body, resp.StatusCode, text, want)
	}
	var out map[string]any
	if text != "" {
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatalf("%s: %v: %q", name, err, text)
		}
	}
	return out
}

func names(out map[string]any, list string) (l []string) {
	for _, e := range out[list].([]any) {
		l = append(l, e.(map[string]any)["name"].(string))
	}
	return l
}

func TestList(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.dir("/d/Zoo")
	for i, n := range []string{"film 10.mkv", "film 2.mkv", "Éclair.mp4", "a.srt", ".hidden", "b\xff.txt"} {
		f.file("/d/"+n, noise(10-i))
	}
	srv, _ := start(t, f, tnv.Root)
	for q, want := range map[string]string{
		"":                         "Zoo,a.srt,b\uFFFD.txt,Éclair.mp4,film 2.mkv,film 10.mkv",
		"&order=desc":              "Zoo,film 10.mkv,film 2.mkv,Éclair.mp4,b\uFFFD.txt,a.srt",
		"&sort=size&dirs=mixed":    "Zoo,b\uFFFD.txt,a.srt,Éclair.mp4,film 2.mkv,film 10.mkv",
		"&q=ECLAIR":                "Éclair.mp4",
		"&q=mkv+film&limit=1":      "film 2.mkv",
		"&kind=video&offset=1":     "film 2.mkv,film 10.mkv",
		"&kind=subtitle,dir":       "Zoo,a.srt",
		"&offset=100":              "",
		"&sort=type&kind=subtitle": "a.srt",
	} {
		out := ask(t, srv.URL, "GET", "list?path=/d"+q, "", 200)
		if got := strings.Join(names(out, "entries"), ","); got != want {
			t.Errorf("%s: %s, want %s", q, got, want)
		}
	}
	for _, bad := range []string{"list?path=/d&sort=x", "list?path=/d&limit=-1", "list?path=d", "list?path=/../x", "list?path=/d&offset=x"} {
		ask(t, srv.URL, "GET", bad, "", 400)
	}
	ask(t, srv.URL, "GET", "list?path=/none", "", 404)
	ask(t, srv.URL, "GET", "list?path=/d/a.srt", "", 404)
	ask(t, srv.URL, "GET", "list?path=/.tnv", "", 404)
	e := ask(t, srv.URL, "GET", "stat?path="+url.QueryEscape("/d/film 2.mkv"), "", 200)
	if e["href"] != "/d/film%202.mkv" || e["kind"] != "video" || e["size"] != 9.0 || e["mime"] != "video/x-matroska" {
		t.Errorf("stat: %v", e)
	}
}

// Pages of a snapshot are of one listing, whatever happens meanwhile.
func TestSnapshot(t *testing.T) {
	f := newFake()
	f.dir("/d")
	for i := range 2500 {
		f.file(fmt.Sprintf("/d/%04d", i), nil)
	}
	srv, _ := start(t, f, tnv.Root)
	first := ask(t, srv.URL, "GET", "list?path=/d&limit=1000", "", 200)
	f.file("/d/0000a", nil)
	got := names(first, "entries")
	for _, off := range []int{1000, 2000} {
		out := ask(t, srv.URL, "GET", fmt.Sprintf("list?path=/d&limit=1000&offset=%d&snapshot=%s", off, first["snapshot"]), "", 200)
		if out["snapshot"] != first["snapshot"] {
			t.Fatal("another snapshot")
		}
		got = append(got, names(out, "entries")...)
	}
	for i := range 2500 {
		if got[i] != fmt.Sprintf("%04d", i) {
			t.Fatalf("entry %d is %s", i, got[i])
		}
	}
	if out := ask(t, srv.URL, "GET", "list?path=/d&snapshot=gone", "", 200); out["snapshot"] == "gone" || out["total"] != 2501.0 {
		t.Errorf("a snapshot that is gone: %v of %v", out["snapshot"], out["total"])
	}
}

func TestSearch(t *testing.T) {
	f := newFake()
	for _, d := range []string{"/films", "/films/Amélie (2001)", "/series", "/series/Show", "/.private"} {
		f.dir(d)
	}
	f.file("/films/Amélie (2001)/film.mkv", nil)
	f.file("/series/Show/amelie.txt", nil)
	f.file("/.private/amelie", nil)
	srv, _ := start(t, f, tnv.Root)
	for q, want := range map[string]string{"q=amelie": "Amélie (2001),amelie.txt", "q=amelie+mkv": "film.mkv", "q=amelie&kind=text": "amelie.txt", "q=none": "", "q=amelie&path=/series": "amelie.txt"} {
		out := ask(t, srv.URL, "GET", "search?"+q, "", 200)
		if got := strings.Join(names(out, "results"), ","); got != want || out["complete"] != true {
			t.Errorf("%s: %s, want %s; %v", q, got, want, out["complete"])
		}
	}
	if out := ask(t, srv.URL, "GET", "search?q=e&limit=1", "", 200); out["complete"] != false || len(out["results"].([]any)) != 1 {
		t.Errorf("limited: %v", out)
	}
	ask(t, srv.URL, "GET", "search?q=+", "", 400)
}

func TestChanges(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.file("/d/a", noise(10))
	f.file("/d/b", noise(20))
	srv, h := startWith(t, f, tnv.Root, writers(t))
	ask(t, srv.URL, "POST", "mkdir", `{"path":"/x/y"}`, 404)
	ask(t, srv.URL, "POST", "mkdir", `{"path":"/x/y","parents":true}`, 201)
	ask(t, srv.URL, "POST", "mkdir", `{"path":"/x/y"}`, 409)
	ask(t, srv.URL, "POST", "mkdir", `{"path":"/.tnv/y"}`, 404)
	ask(t, srv.URL, "POST", "mkdir", `{"path":"/x/../y"}`, 400)
	ask(t, srv.URL, "POST", "mkdir", `{`, 400)
	ask(t, srv.URL, "POST", "move", `{"from":"/d/a","to":"/d/b"}`, 409)
	ask(t, srv.URL, "POST", "move", `{"from":"/d","to":"/d/c"}`, 400)
	ask(t, srv.URL, "POST", "move", `{"from":"/d/a","to":"/.tnv/trash/a"}`, 404)
	ask(t, srv.URL, "POST", "move", `{"from":"/d/a","to":"/x/y/c"}`, 200)
	ask(t, srv.URL, "POST", "move", `{"from":"/x/y/c","to":"/d/b","overwrite":true}`, 200)
	if _, body := do(t, "GET", srv.URL+"/d/b"); !bytes.Equal(body, noise(10)) {
		t.Error("what was moved is not there")
	}
	out := ask(t, srv.URL, "POST", "delete", `{"paths":["/d/b","/none","/x"]}`, 200)
	items := out["items"].([]any)
	id := items[0].(map[string]any)["trash"].(string)
	if items[1].(map[string]any)["error"] == nil || items[2].(map[string]any)["error"] != nil {
		t.Errorf("%v", items)
	}
	trash := ask(t, srv.URL, "GET", "trash", "", 200)["items"].([]any)
	if len(trash) != 3 { // with the one that was overwritten
		t.Fatalf("trash: %v", trash)
	}
	if back := ask(t, srv.URL, "POST", "undo", `{"trash":["`+id+`","`+id+`","../../d"]}`, 200)["items"].([]any); back[0].(map[string]any)["error"] != nil || back[1].(map[string]any)["error"] == nil || back[2].(map[string]any)["error"] == nil {
		t.Errorf("undo: %v", back)
	}
	if resp, _ := do(t, "GET", srv.URL+"/d/b"); resp.StatusCode != 200 {
		t.Error("it is not back")
	}
	for _, e := range trash {
		if other := e.(map[string]any)["id"].(string); other != id {
			ask(t, srv.URL, "DELETE", "trash?id="+other, "", 204)
		}
	}
	ask(t, srv.URL, "POST", "delete", `{"paths":["/d"]}`, 200)
	if err := h.sweepTrash(t.Context(), time.Now().Add(DefaultTrashLife-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if l := ask(t, srv.URL, "GET", "trash", "", 200)["items"].([]any); len(l) != 1 {
		t.Errorf("swept too early: %v", l)
	}
	if err := h.sweepTrash(t.Context(), time.Now().Add(DefaultTrashLife+time.Hour)); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.nodes {
		if strings.HasPrefix(p, "/.tnv/trash/") {
			t.Errorf("%s is left", p)
		}
	}
}

// What a full or silent volume refuses leaves nothing behind that would look like a file.
func TestNoSpace(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.file("/d/a", []byte("old"))
	f.full = true
	srv, _ := startWith(t, f, tnv.Root, writers(t))
	if resp, _ := send(t, "PUT", srv.URL+"/d/a", "new"); resp.StatusCode != 507 {
		t.Errorf("PUT without space: %d", resp.StatusCode)
	}
	if _, body := do(t, "GET", srv.URL+"/d/a"); string(body) != "old" {
		t.Errorf("the old file is %q", body)
	}
	if resp, _ := send(t, "PUT", srv.URL+"/d/b", "new"); resp.StatusCode != 507 {
		t.Errorf("PUT without space: %d", resp.StatusCode)
	}
	if resp, _ := do(t, "GET", srv.URL+"/d/b"); resp.StatusCode != 404 {
		t.Errorf("a part has a name: %d", resp.StatusCode)
	}
}

func TestPut(t *testing.T) {
	f := newFake()
	f.dir("/d")
	srv, _ := startWith(t, f, tnv.Root, writers(t))
	a := srv.URL + "/d/a.mkv"
	resp, _ := send(t, "PUT", a, "one")
	tag := resp.Header.Get("ETag")
	if resp.StatusCode != 201 || tag == "" {
		t.Fatalf("a new file: %d %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := do(t, "GET", a); resp.Header.Get("ETag") != tag {
		t.Errorf("PUT said %s, GET says %s", tag, resp.Header.Get("ETag"))
	}
	for _, c := range []struct {
		status int
		header string
	}{
		{412, "If-None-Match: *"}, {412, `If-Match: "x"`}, {412, "If-Match: W/" + tag}, {412, "If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT"},
		{400, "Content-Range: bytes 0-2/3"}, {204, "If-Match: " + tag},
	} {
		if resp, _ := send(t, "PUT", a, "two", c.header); resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.header, resp.StatusCode, c.status)
		}
	}
	for p, want := range map[string]int{"/d": 405, "/d/": 405, "/none/x": 409, "/.tnv/x": 405, "/d/a.mkv/x": 409} {
		if resp, _ := send(t, "PUT", srv.URL+p, "x"); resp.StatusCode != want {
			t.Errorf("PUT %s: %d, want %d", p, resp.StatusCode, want)
		}
	}
	// A body that ends early must not become a file.
	for _, head := range []string{"Content-Length: 100\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"} {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "PUT /d/part HTTP/1.1\r\nHost: x\r\n%s", head)
		time.Sleep(50 * time.Millisecond)
		c.Close()
		time.Sleep(100 * time.Millisecond)
		if resp, _ := do(t, "GET", srv.URL+"/d/part"); resp.StatusCode != 404 {
			t.Errorf("%q made a file", head)
		}
	}
}

func meta(pairs ...string) string {
	var out []string
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, pairs[i]+" "+base64.StdEncoding.EncodeToString([]byte(pairs[i+1])))
	}
	return "Upload-Metadata: " + strings.Join(out, ",")
}

func TestUpload(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.file("/d/taken", []byte("x"))
	srv, h := startWith(t, f, tnv.Root, writers(t))
	up := srv.URL + "/.tnv/api/uploads"
	data := string(noise(3 << 20))
	resp, body := send(t, "POST", up, "", fmt.Sprintf("Upload-Length: %d", len(data)), meta("path", "/d/new/film.mkv", "modified", "2020-01-02T03:04:05Z"))
	if resp.StatusCode != 201 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	at := srv.URL + resp.Header.Get("Location")
	patch := func(off int, part string, want int) *http.Response {
		t.Helper()
		resp, body := send(t, "PATCH", at, part, fmt.Sprintf("Upload-Offset: %d", off), "Content-Type: application/offset+octet-stream")
		if resp.StatusCode != want {
			t.Errorf("PATCH at %d: %d %s, want %d", off, resp.StatusCode, body, want)
		}
		return resp
	}
	patch(5, data, 409)
	patch(0, data[:1<<20], 204)
	patch(0, data[:1<<20], 409)
	// the connection breaks in the middle: what came is kept
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "PATCH %s HTTP/1.1\r\nHost: x\r\nUpload-Offset: %d\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: %d\r\n\r\n%s",
		strings.TrimPrefix(at, srv.URL), 1<<20, 1<<20, data[1<<20:1<<20+1000])
	time.Sleep(100 * time.Millisecond)
	patch(1<<20, "x", 423) // while it is being sent
	if resp, _ := send(t, "HEAD", at, ""); resp.StatusCode != 423 {
		t.Errorf("how far it is is told while bytes come in: %d", resp.StatusCode)
	}
	c.Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, _ := send(t, "HEAD", at, "")
		if resp.Header.Get("Upload-Offset") == fmt.Sprint(1<<20+1000) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("offset %s", resp.Header.Get("Upload-Offset"))
		}
	}
	if resp, _ := do(t, "GET", srv.URL+"/d/new/film.mkv"); resp.StatusCode != 404 {
		t.Error("a part has a name")
	}
	patch(1<<20+1000, data[1<<20+1000:], 204) // as soon as it was told how far it is
	resp, got := do(t, "GET", srv.URL+"/d/new/film.mkv")
	if string(got) != data || resp.Header.Get("Last-Modified") != "Thu, 02 Jan 2020 03:04:05 GMT" {
		t.Errorf("%d bytes, modified %s", len(got), resp.Header.Get("Last-Modified"))
	}
	for _, c := range []struct {
		want    int
		body    string
		headers []string
	}{
		{409, "", []string{"Upload-Length: 1", meta("path", "/d/taken")}},
		{400, "", []string{"Upload-Length: -1", meta("path", "/d/z")}},
		{400, "", []string{"Upload-Length: 1"}},
		{400, "", []string{"Upload-Length: 1", meta("path", "/../x")}},
		{404, "", []string{"Upload-Length: 1", meta("path", "/.tnv/x")}},
		{400, "", []string{"Upload-Length: 1", meta("dir", "/d", "filename", "../x")}},
		{413, "", []string{"Upload-Length: 9223372036854775807", meta("path", "/d/z")}},
		{507, "", []string{"Upload-Length: 600000000000", meta("path", "/d/z")}},
		{412, "", []string{"Tus-Resumable: 0.2", "Upload-Length: 1", meta("path", "/d/z")}},
		{201, "", []string{"Upload-Length: 0", meta("path", "/d/empty")}},
		{201, "y", []string{"Upload-Length: 1", "Content-Type: application/offset+octet-stream", meta("dir", "/d", "filename", "taken", "overwrite", "true")}},
	} {
		if resp, body := send(t, "POST", up, c.body, c.headers...); resp.StatusCode != c.want {
			t.Errorf("%v: %d %s, want %d", c.headers, resp.StatusCode, body, c.want)
		}
	}
	if _, b := do(t, "GET", srv.URL+"/d/taken"); string(b) != "y" {
		t.Errorf("overwritten: %q", b)
	}
	resp, _ = send(t, "POST", up, "", "Upload-Length: 5", meta("path", "/d/never"))
	if err := h.sweepUploads(t.Context(), time.Now().Add(uploadLife+time.Hour)); err != nil {
		t.Fatal(err)
	}
	if resp, _ := send(t, "HEAD", srv.URL+resp.Header.Get("Location"), ""); resp.StatusCode != 404 {
		t.Errorf("an upload that nobody went on with: %d", resp.StatusCode)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.nodes {
		if strings.HasPrefix(p, "/.tnv/uploads/") {
			t.Errorf("%s is left", p)
		}
	}
}

// guarded is a volume with users.
func guarded(t *testing.T) options {
	dir := t.TempDir()
	h, err := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	cfg := access.Config{UsersFile: filepath.Join(dir, "users"), RulesFile: filepath.Join(dir, "rules")}
	users := fmt.Sprintf("reader:%s\nwriter:%s\nkid:%s\nboss:%s\n", h, h, h, h)
	rules := "@ read /\nwriter write /\nkid none /\nkid read /films/kids\nboss admin /\n* read /public\n"
	for f, text := range map[string]string{cfg.UsersFile: users, cfg.RulesFile: rules} {
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := access.New(cfg, access.NewSigner([]byte("k"), "c", "media"))
	if err != nil {
		t.Fatal(err)
	}
	return options{access: p}
}

func TestAccess(t *testing.T) {
	f := newFake()
	for _, d := range []string{"/films", "/films/kids", "/public", "/.secret"} {
		f.dir(d)
	}
	for _, p := range []string{"/films/a", "/films/kids/b", "/public/c", "/.secret/d", "/public/.e"} {
		f.file(p, []byte("x"))
	}
	srv, h := startWith(t, f, tnv.Root, guarded(t))
	auth := func(user string) string {
		if user == "" {
			return "X-Nobody: 1"
		}
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":pw"))
	}
	for _, c := range []struct {
		user, method, path string
		want               int
	}{
		{"", "GET", "/films/a", 401}, {"", "GET", "/public/c", 200}, {"", "GET", "/none", 401}, {"", "GET", "/public/", 200}, {"", "GET", "/", 200},
		{"", "PUT", "/public/c", 401}, {"", "GET", "/public/.e", 401}, {"", "GET", "/.tnv/api/status", 401}, {"", "GET", "/.tnv/healthz", 200},
		{"reader", "GET", "/films/a", 200}, {"reader", "PUT", "/films/a", 403}, {"reader", "DELETE", "/films/a", 403}, {"reader", "GET", "/.secret/d", 404},
		{"kid", "GET", "/films/a", 404}, {"kid", "GET", "/films/kids/b", 200}, {"kid", "GET", "/films/", 200}, {"kid", "MOVE", "/films/kids/b", 403},
		{"writer", "GET", "/.secret/d", 200}, {"writer", "PUT", "/films/new", 201}, {"writer", "PUT", "/.secret/new", 201},
		{"nobody", "GET", "/public/c", 401},
	} {
		if resp, body := send(t, c.method, srv.URL+c.path, "", auth(c.user)); resp.StatusCode != c.want {
			t.Errorf("%q %s %s: %d %s, want %d", c.user, c.method, c.path, resp.StatusCode, body, c.want)
		}
	}
	for user, want := range map[string]string{"": "public", "kid": "films,public", "reader": "films,public", "writer": ".secret,films,public"} {
		if got := strings.Join(names(ask(t, srv.URL, "GET", "list", "", 200, auth(user)), "entries"), ","); !strings.HasPrefix(got, want) {
			t.Errorf("%q sees %s, want %s", user, got, want)
		}
	}
	if st := ask(t, srv.URL, "GET", "status", "", 200, auth("reader")); st["groups"] != nil || st["volume"] == nil {
		t.Errorf("a reader is told of %v", st["groups"])
	}
	if st := ask(t, srv.URL, "GET", "status", "", 200, auth("boss")); st["groups"] == nil || st["trackers"] == nil {
		t.Errorf("an admin is not told: %v", st)
	}
	// a session, and a request of another site with it
	resp, _ := send(t, "POST", srv.URL+"/.tnv/api/login", `{"user":"writer","password":"pw"}`)
	cookie := "Cookie: " + strings.SplitN(resp.Header.Get("Set-Cookie"), ";", 2)[0]
	if got := ask(t, srv.URL, "GET", "me?path=/films", "", 200, cookie); got["user"] != "writer" || got["can_write"] != true {
		t.Errorf("me: %v", got)
	}
	for _, evil := range []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"} {
		if resp, _ := send(t, "DELETE", srv.URL+"/films/a", "", cookie, evil); resp.StatusCode != 403 {
			t.Errorf("with %s: %d", evil, resp.StatusCode)
		}
	}
	ask(t, srv.URL, "POST", "login", `{"user":"writer","password":"no"}`, 401)
	// signed links
	out := ask(t, srv.URL, "POST", "links", `{"path":"/films","seconds":60}`, 200, auth("reader"))
	proof := "?k=" + strings.SplitN(out["url"].(string), "?k=", 2)[1]
	for p, want := range map[string]int{"/films/a" + proof: 200, "/films/" + proof: 200, "/.secret/d" + proof: 401, "/films/a" + proof[:len(proof)-3]: 401} {
		if resp, _ := do(t, "GET", srv.URL+p); resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", p, resp.StatusCode, want)
		}
	}
	resp, _ = do(t, "GET", srv.URL+"/films/"+proof)
	linked := "Cookie: " + strings.SplitN(resp.Header.Get("Set-Cookie"), ";", 2)[0]
	if resp, _ := do(t, "GET", srv.URL+"/films/a", linked); resp.StatusCode != 200 {
		t.Errorf("with the link's cookie: %d", resp.StatusCode)
	}
	if resp, _ := send(t, "PUT", srv.URL+"/films/a"+proof, "x"); resp.StatusCode != 401 {
		t.Errorf("PUT by a link: %d", resp.StatusCode)
	}
	over := SignedPath(h.access.Signer(), "/films/a", "", false, time.Now().Add(-time.Second))
	if resp, _ := do(t, "GET", srv.URL+over); resp.StatusCode != 401 {
		t.Errorf("a link that is over: %d", resp.StatusCode)
	}
	ask(t, srv.URL, "POST", "links", `{"path":"/films"}`, 401)
	// a player's list lets the player in
	_, list := do(t, "GET", srv.URL+"/films/?m3u", auth("kid"))
	lines := strings.Split(strings.TrimSpace(string(list)), "\n")
	if len(lines) != 1 { // no file of it is a film
		t.Errorf("%q", lines)
	}
}

func TestPlaylistsAndSubtitles(t *testing.T) {
	f := newFake()
	f.dir("/s")
	f.dir("/s/2")
	for _, n := range []string{"/s/e10.mkv", "/s/e2.mkv", "/s/x.txt", "/s/2/a.mp4", "/s/.h.mkv"} {
		f.file(n, noise(4))
	}
	f.file("/s/e2.srt", []byte("1\n00:00:01,000 --> 00:00:02,000\nHi\n"))
	srv, _ := start(t, f, tnv.Root)
	_, list := do(t, "GET", srv.URL+"/s/?m3u")
	want := "#EXTM3U\n#EXTINF:-1,e2\n" + srv.URL + "/s/e2.mkv\n#EXTINF:-1,e10\n" + srv.URL + "/s/e10.mkv\n#EXTINF:-1,a\n" + srv.URL + "/s/2/a.mp4\n"
	if string(list) != want {
		t.Errorf("%s\nwant\n%s", list, want)
	}
	resp, vtt := do(t, "GET", srv.URL+"/s/e2.srt?vtt")
	if string(vtt) != "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nHi\n" || resp.Header.Get("Content-Type") != "text/vtt; charset=utf-8" {
		t.Errorf("%q %v", vtt, resp.Header)
	}
	if resp, _ := do(t, "GET", srv.URL+"/s/e2.srt?vtt", "If-None-Match: "+resp.Header.Get("ETag")); resp.StatusCode != 304 {
		t.Errorf("asked again: %d", resp.StatusCode)
	}
	if resp, _ := do(t, "GET", srv.URL+"/s/e2.mkv?vtt"); resp.StatusCode != 415 {
		t.Errorf("of a film: %d", resp.StatusCode)
	}
	if resp, _ := do(t, "GET", srv.URL+"/s/e2.mkv?download"); resp.Header.Get("Content-Disposition") != "attachment; filename*=UTF-8''e2.mkv" {
		t.Errorf("%v", resp.Header)
	}
}

func TestFollow(t *testing.T) {
	f := newFake()
	n := f.file("/rec.ts", []byte("one"))
	srv, h := start(t, f, tnv.Root)
	h.followIdle = time.Second
	resp, err := http.Get(srv.URL + "/rec.ts?follow=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	time.AfterFunc(600*time.Millisecond, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		n.data = append(n.data, "two"...)
		n.attr.Size, n.attr.Data = 6, 9
	})
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != "onetwo" || resp.ContentLength != -1 {
		t.Errorf("%q, %v, length %d", got, err, resp.ContentLength)
	}
	if _, b := do(t, "GET", srv.URL+"/rec.ts?follow=1&from=4"); string(b) != "wo" {
		t.Errorf("from 4: %q", b)
	}
}

func TestEvents(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.dir("/e")
	srv, h := startWith(t, f, tnv.Root, writers(t))
	open := func(headers ...string) *bufio.Scanner {
		req, _ := http.NewRequest("GET", srv.URL+"/.tnv/api/events?path=/d", nil)
		for _, x := range headers {
			k, v, _ := strings.Cut(x, ": ")
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return bufio.NewScanner(resp.Body)
	}
	next := func(s *bufio.Scanner, prefix string) string {
		t.Helper()
		for s.Scan() {
			if v, ok := strings.CutPrefix(s.Text(), prefix); ok {
				return v
			}
		}
		t.Fatalf("the stream ended: %v", s.Err())
		return ""
	}
	s := open()
	first := next(s, "id: ")
	ask(t, srv.URL, "POST", "mkdir", `{"path":"/e/x"}`, 201)
	ask(t, srv.URL, "POST", "mkdir", `{"path":"/d/x"}`, 201)
	send(t, "PUT", srv.URL+"/d/y", "1")
	ask(t, srv.URL, "POST", "move", `{"from":"/d/y","to":"/e/y"}`, 200)
	for _, want := range []string{`{"op":"create","path":"/d/x","dir":true}`, `{"op":"create","path":"/d/y"}`, `{"op":"move","path":"/e/y","from":"/d/y"}`} {
		if got := next(s, "data: "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := next(open("Last-Event-ID: "+first), "data: "); got != `{"op":"create","path":"/d/x","dir":true}` {
		t.Errorf("who comes back gets %s", got)
	}
	if got := next(open("Last-Event-ID: other-7"), "event: "); got != "lost" {
		t.Errorf("of another run: %s", got)
	}
	for range maxFeed + 1 {
		h.tell(change{Op: opChange, Path: "/e/z"})
	}
	if got := next(open("Last-Event-ID: "+first), "event: "); got != "lost" {
		t.Errorf("who comes too late: %s", got)
	}
}

// What others do is told of, what this daemon did only once.
func TestEventsOfOthers(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.dir("/d/sub")
	f.file("/d/sub/a", []byte("1"))
	srv, h := startWith(t, f, tnv.Root, writers(t))
	h.watcher.every = 10 * time.Millisecond
	resp, err := http.Get(srv.URL + "/.tnv/api/events?path=/d")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			if v, ok := strings.CutPrefix(s.Text(), "data: "); ok {
				lines <- v
			}
		}
	}()
	expect := func(want ...string) {
		t.Helper()
		left := map[string]bool{}
		for _, x := range want {
			left[x] = true
		}
		for len(left) > 0 {
			select {
			case got := <-lines:
				if !left[got] {
					t.Errorf("%s is told, want %v", got, left)
				}
				delete(left, got)
			case <-time.After(5 * time.Second):
				t.Fatalf("not told: %v", left)
			}
		}
	}
	time.Sleep(100 * time.Millisecond) // it knows what is there
	f.file("/d/sub/b", nil)
	expect(`{"op":"create","path":"/d/sub/b"}`)
	ask(t, srv.URL, "POST", "mkdir", `{"path":"/d/mine"}`, 201)
	expect(`{"op":"create","path":"/d/mine","dir":true}`)
	f.mu.Lock()
	n := f.nodes["/d/sub/a"]
	n.attr.Data++
	f.mu.Unlock()
	expect(`{"op":"change","path":"/d/sub/a"}`)
	sub, d := f.nodes["/d/sub"].attr.Ino, f.nodes["/d"].attr.Ino
	if err := f.Move(t.Context(), tnv.Root, protocol.Rename{Parent: d, Name: "sub", NewParent: d, NewName: "new"}); err != nil {
		t.Fatal(err)
	}
	expect(`{"op":"remove","path":"/d/sub","dir":true}`, `{"op":"create","path":"/d/new","dir":true}`, `{"op":"create","path":"/d/new/a"}`, `{"op":"create","path":"/d/new/b"}`)
	if err := f.Remove(t.Context(), tnv.Root, sub, "a"); err != nil {
		t.Fatal(err)
	}
	expect(`{"op":"remove","path":"/d/new/a"}`)
	time.Sleep(100 * time.Millisecond)
	select {
	case got := <-lines:
		t.Errorf("%s is told, too", got)
	default:
	}
}

// A client that sends nothing for a while is cut off, but one whose request takes
// long after all has come is not.
func TestPatience(t *testing.T) {
	f := newFake()
	f.dir("/d")
	srv, h := startWith(t, f, tnv.Root, writers(t))
	h.patience = 100 * time.Millisecond
	f.onMove = func() { time.Sleep(400 * time.Millisecond) }
	if resp, body := send(t, "PUT", srv.URL+"/d/a", "x"); resp.StatusCode != 201 {
		t.Errorf("PUT: %d %s", resp.StatusCode, body)
	}
	if resp, body := send(t, "MOVE", srv.URL+"/d/a", "", "Destination: /d/b"); resp.StatusCode != 201 {
		t.Errorf("MOVE: %d %s", resp.StatusCode, body)
	}
	ask(t, srv.URL, "POST", "move", `{"from":"/d/b","to":"/d/c"}`, 200)
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "PUT /d/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("who sends nothing any more is not cut off: %v", err)
	}
	if resp, _ := do(t, "GET", srv.URL+"/d/x"); resp.StatusCode != 404 {
		t.Error("a part has a name")
	}
	refused, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	io.WriteString(refused, "PUT /d/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
	refused.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(refused); err != nil {
		t.Errorf("who was refused and does not go is not cut off: %v", err)
	}
}

// Of two that put a new file at once, both succeed; of two that want to be the first, one.
func TestPutRace(t *testing.T) {
	f := newFake()
	f.dir("/d")
	srv, _ := startWith(t, f, tnv.Root, writers(t))
	for _, c := range []struct {
		header string
		want   int
	}{{"X: 1", 204}, {"If-None-Match: *", 412}} {
		name := "/d/" + c.header[:2]
		once := false
		f.onMove = func() {
			if !once {
				once = true
				f.file(name, []byte("other"))
			}
		}
		if resp, body := send(t, "PUT", srv.URL+name, "mine", c.header); resp.StatusCode != c.want {
			t.Errorf("%s: %d %s, want %d", c.header, resp.StatusCode, body, c.want)
		}
	}
}
