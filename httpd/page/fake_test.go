package page

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is what the page needs of the daemon, over a directory of this machine: as
// docs/openapi.yaml says, as simply as that can be. The whole system's tests show
// the page with the daemon itself.
type fake struct {
	t    *testing.T
	dir  string
	page http.Handler
	URL  string

	mu       sync.Mutex
	more     []entry // further entries of the root, which are no files
	writable bool
	media    map[string]map[string]any // by path
	trash    map[string]string         // where it was, by id
	uploads  map[string]*upload
	watchers map[chan string]bool
	failing  int // status of all that is asked; 0: none
	hls      func(p string) string
}

type entry struct {
	Name     string    `json:"name"`
	Href     string    `json:"href"`
	Type     string    `json:"type"`
	Kind     string    `json:"kind"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Etag     string    `json:"etag"`
	Path     string    `json:"path,omitempty"`
}

type upload struct {
	path string
	size int64
	file *os.File
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, dir: t.TempDir(), page: Handler(), writable: true, media: map[string]map[string]any{}, trash: map[string]string{},
		uploads: map[string]*upload{}, watchers: map[chan string]bool{}}
	srv := httptest.NewServer(f)
	f.URL = srv.URL
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return f
}

// file makes a file of the fake.
func (f *fake) file(p string, data []byte) {
	f.t.Helper()
	local := filepath.Join(f.dir, p)
	if err := os.MkdirAll(filepath.Dir(local), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(local, data, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	failing := f.failing
	f.mu.Unlock()
	name, api := strings.CutPrefix(r.URL.Path, "/.tnv/api/")
	switch {
	case api && failing != 0:
		f.refuse(w, failing, "unavailable", "the cluster does not answer")
	case api && strings.HasPrefix(name, "uploads"):
		f.upload(w, r, strings.Trim(strings.TrimPrefix(name, "uploads"), "/"))
	case api && name == "events":
		f.events(w, r)
	case api:
		f.api(w, r, r.Method+" "+name)
	case strings.HasPrefix(r.URL.Path, "/.tnv"), strings.HasSuffix(r.URL.Path, "/"):
		f.page.ServeHTTP(w, r)
	default:
		if strings.HasSuffix(r.URL.Path, ".m3u8") {
			w.Header().Set("Content-Type", "application/vnd.apple.mpegurl")
		}
		http.ServeFile(w, r, filepath.Join(f.dir, path.Clean(r.URL.Path)))
	}
}

func (f *fake) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func (f *fake) refuse(w http.ResponseWriter, status int, kind, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"kind": kind, "message": text}})
}

func (f *fake) api(w http.ResponseWriter, r *http.Request, what string) {
	var in struct {
		Path, From, To string
		Paths, Trash   []string
	}
	if r.Method == http.MethodPost {
		json.NewDecoder(r.Body).Decode(&in)
	}
	p := r.URL.Query().Get("path")
	switch what {
	case "GET me":
		f.mu.Lock()
		defer f.mu.Unlock()
		f.answer(w, map[string]any{"path": p, "role": "write", "can_write": f.writable, "trash_life_seconds": 3600,
			"features": map[string]bool{"hls": f.hls != nil, "trash": true, "uploads": true}})
	case "GET list":
		f.list(w, p, r.URL.Query())
	case "GET stat":
		if e, err := f.stat(p); err == nil {
			f.answer(w, e)
			return
		}
		f.refuse(w, http.StatusNotFound, "no such file or directory", "")
	case "GET search":
		f.search(w, p, r.URL.Query().Get("q"))
	case "GET media":
		f.answer(w, f.mediaOf(p))
	case "POST media":
		var items []any
		for _, p := range in.Paths {
			items = append(items, f.mediaOf(p))
		}
		f.answer(w, map[string]any{"items": items})
	case "POST hls":
		f.mu.Lock()
		defer f.mu.Unlock()
		f.answer(w, map[string]string{"url": f.hls(in.Path), "mode": "transcode"})
	case "POST mkdir":
		f.outcome(w, in.Path, os.Mkdir(filepath.Join(f.dir, in.Path), 0o755))
	case "POST move":
		if _, err := os.Lstat(filepath.Join(f.dir, in.To)); err == nil {
			f.refuse(w, http.StatusConflict, "file exists", "")
			return
		}
		f.outcome(w, in.To, os.Rename(filepath.Join(f.dir, in.From), filepath.Join(f.dir, in.To)))
		f.changed(in.From)
	case "POST delete":
		f.discard(w, in.Paths)
	case "POST undo":
		f.restore(w, in.Trash)
	case "GET trash":
		items := []map[string]any{}
		f.mu.Lock()
		defer f.mu.Unlock()
		for id, p := range f.trash {
			items = append(items, map[string]any{"id": id, "path": p, "deleted": time.Now(), "type": "file", "size": 1})
		}
		f.answer(w, map[string]any{"life_seconds": 3600, "items": items})
	case "GET status":
		f.answer(w, f.status())
	default:
		f.refuse(w, http.StatusNotFound, "not found", what)
	}
}

func (f *fake) outcome(w http.ResponseWriter, p string, err error) {
	if err != nil {
		f.refuse(w, http.StatusConflict, "error", err.Error())
		return
	}
	f.changed(p)
	e, _ := f.stat(p)
	f.answer(w, e)
}

func kindOf(name string) string {
	switch strings.TrimPrefix(path.Ext(name), ".") {
	case "mp4", "webm", "mkv":
		return "video"
	case "mp3", "ogg", "flac":
		return "audio"
	case "jpg", "png":
		return "image"
	case "m3u8":
		return "playlist"
	case "srt", "vtt":
		return "subtitle"
	}
	return "other"
}

func (f *fake) stat(p string) (entry, error) {
	st, err := os.Stat(filepath.Join(f.dir, p))
	if err != nil {
		return entry{}, err
	}
	e := entry{Name: st.Name(), Type: "file", Kind: kindOf(st.Name()), Size: st.Size(), Modified: st.ModTime(), Path: p, Href: (&url.URL{Path: p}).EscapedPath()}
	e.Etag = fmt.Sprint(st.ModTime().UnixNano())
	if st.IsDir() {
		e.Type, e.Kind, e.Href = "dir", "dir", e.Href+"/"
	}
	return e, nil
}

// entries lists a directory in order.
func (f *fake) entries(dir string, q url.Values) []entry {
	var all []entry
	names, _ := os.ReadDir(filepath.Join(f.dir, dir))
	for _, n := range names {
		if e, err := f.stat(path.Join(dir, n.Name())); err == nil {
			all = append(all, e)
		}
	}
	if dir == "/" {
		all = append(all, f.more...)
	}
	all = slices.DeleteFunc(all, func(e entry) bool {
		kinds := q.Get("kind")
		return strings.HasPrefix(e.Name, ".") || kinds != "" && !slices.Contains(strings.Split(kinds, ","), e.Kind) ||
			!strings.Contains(strings.ToLower(e.Name), strings.ToLower(q.Get("q")))
	})
	slices.SortStableFunc(all, func(a, b entry) int {
		c := strings.Compare(a.Name, b.Name)
		if q.Get("sort") == "size" && a.Size != b.Size {
			c = int(a.Size - b.Size)
		}
		if q.Get("order") == "desc" {
			c = -c
		}
		if a.Type != b.Type && (a.Type == "dir" || b.Type == "dir") {
			c = strings.Compare(a.Type, b.Type) // directories first
		}
		return c
	})
	return all
}

func (f *fake) list(w http.ResponseWriter, dir string, q url.Values) {
	if st, err := os.Stat(filepath.Join(f.dir, dir)); err != nil || !st.IsDir() {
		f.refuse(w, http.StatusNotFound, "no such file or directory", "")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.entries(dir, q)
	offset, _ := strconv.Atoi(q.Get("offset"))
	limit, _ := strconv.Atoi(q.Get("limit"))
	from := min(offset, len(all))
	f.answer(w, map[string]any{"path": dir, "snapshot": "s", "total": len(all), "offset": offset, "can_write": f.writable,
		"entries": append([]entry{}, all[from:min(from+limit, len(all))]...)})
}

func (f *fake) search(w http.ResponseWriter, dir, q string) {
	found := []entry{}
	filepath.WalkDir(filepath.Join(f.dir, dir), func(p string, _ os.DirEntry, err error) error {
		rel := "/" + strings.Trim(strings.TrimPrefix(p, f.dir), "/")
		if err == nil && strings.Contains(strings.ToLower(path.Base(rel)), strings.ToLower(q)) {
			if e, err := f.stat(rel); err == nil {
				found = append(found, e)
			}
		}
		return nil
	})
	f.answer(w, map[string]any{"results": found, "complete": true, "scanned": len(found)})
}

func (f *fake) mediaOf(p string) map[string]any {
	if m := f.media[p]; m != nil {
		return m
	}
	return map[string]any{"path": p, "state": "none"}
}

func (f *fake) discard(w http.ResponseWriter, paths []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	items := []map[string]any{}
	for _, p := range paths {
		id := fmt.Sprintf("t%d", len(f.trash))
		f.trash[id] = p
		os.Rename(filepath.Join(f.dir, p), filepath.Join(f.dir, "."+id))
		items = append(items, map[string]any{"path": p, "trash": id})
	}
	f.answer(w, map[string]any{"items": items})
}

func (f *fake) restore(w http.ResponseWriter, ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	items := []map[string]any{}
	for _, id := range ids {
		os.Rename(filepath.Join(f.dir, "."+id), filepath.Join(f.dir, f.trash[id]))
		items = append(items, map[string]any{"path": f.trash[id], "trash": id})
		delete(f.trash, id)
	}
	f.answer(w, map[string]any{"items": items})
}

// upload is tus as far as the page uses it.
func (f *fake) upload(w http.ResponseWriter, r *http.Request, id string) {
	f.mu.Lock()
	u := f.uploads[id]
	f.mu.Unlock()
	switch {
	case r.Method == http.MethodPost:
		f.begin(w, r)
	case u == nil:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodHead:
		w.Header().Set("Upload-Offset", fmt.Sprint(u.at()))
	case r.Method == http.MethodDelete:
		f.mu.Lock()
		delete(f.uploads, id)
		f.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case r.Header.Get("Upload-Offset") != fmt.Sprint(u.at()):
		f.refuse(w, http.StatusConflict, "conflict", "the offset is another")
	default:
		io.Copy(u.file, r.Body)
		w.Header().Set("Upload-Offset", fmt.Sprint(u.at()))
		if u.at() == u.size {
			u.file.Close()
			os.Rename(u.file.Name(), filepath.Join(f.dir, u.path))
			f.changed(u.path)
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func (u *upload) at() int64 {
	st, err := os.Stat(u.file.Name())
	if err != nil {
		return u.size
	}
	return st.Size()
}

func (f *fake) begin(w http.ResponseWriter, r *http.Request) {
	u := &upload{}
	u.size, _ = strconv.ParseInt(r.Header.Get("Upload-Length"), 10, 64)
	overwrite := false
	for part := range strings.SplitSeq(r.Header.Get("Upload-Metadata"), ",") {
		key, value, _ := strings.Cut(part, " ")
		text, _ := base64.StdEncoding.DecodeString(value)
		if key == "path" {
			u.path = string(text)
		}
		overwrite = overwrite || key == "overwrite"
	}
	if _, err := os.Stat(filepath.Join(f.dir, u.path)); err == nil && !overwrite {
		f.refuse(w, http.StatusConflict, "file exists", "")
		return
	}
	os.MkdirAll(filepath.Dir(filepath.Join(f.dir, u.path)), 0o755)
	f.mu.Lock()
	defer f.mu.Unlock()
	id := fmt.Sprintf("u%d", len(f.uploads))
	u.file, _ = os.Create(filepath.Join(f.dir, "."+id))
	f.uploads[id] = u
	w.Header().Set("Location", "/.tnv/api/uploads/"+id)
	w.WriteHeader(http.StatusCreated)
}

// changed tells whoever listens.
func (f *fake) changed(p string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.watchers {
		select {
		case c <- p:
		default:
		}
	}
}

func (f *fake) events(w http.ResponseWriter, r *http.Request) {
	c := make(chan string, 16)
	f.mu.Lock()
	f.watchers[c] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.watchers, c)
		f.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, ": here\n\n")
	http.NewResponseController(w).Flush()
	for {
		select {
		case p := <-c:
			b, _ := json.Marshal(map[string]any{"op": "change", "path": p})
			fmt.Fprintf(w, "event: change\ndata: %s\n\n", b)
			http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func (f *fake) status() map[string]any {
	sent := make([]int64, 360)
	for i := range sent {
		sent[i] = int64(i%40) * 1_000_000
	}
	node := func(addr string) map[string]any {
		return map[string]any{"id": addr, "addr": addr, "host": "shelf", "state": "alive", "used_bytes": 600 << 30, "capacity_bytes": 1000 << 30, "blocks": 123456}
	}
	return map[string]any{
		"volume":  map[string]any{"name": "media", "files": 1234, "bytes": 600 << 30, "capacity_bytes": 1000 << 30, "free_bytes": 400 << 30},
		"daemon":  map[string]any{"started": time.Now().Add(-time.Hour), "connections": 3, "transfers": 1, "requests": 77, "sent_bytes": 5 << 30, "received_bytes": 1 << 20, "transcodes": 0},
		"traffic": map[string]any{"step_seconds": 10, "sent": sent, "received": sent, "requests": sent},
		"streams": []any{map[string]any{"path": "/films/a.mp4", "user": "", "client": "127.0.0.1", "started": time.Now().Add(-time.Minute), "sent_bytes": 5 << 20, "rate": 1 << 20}},
		"groups": []any{map[string]any{"id": 1, "name": "g1", "state": "degraded", "behind_blocks": 12, "behind_bytes": 4 << 20,
			"nodes": []any{node("127.0.0.1:7501"), node("127.0.0.1:7502")}}},
		"trackers": []any{map[string]any{"addr": "127.0.0.1:7400", "alive": true}},
		"volumes":  []any{map[string]any{"id": 1, "name": "media", "owner": "127.0.0.1:7400", "files": 1234, "bytes": 600 << 30, "sessions": 3}},
	}
}
