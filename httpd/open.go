package httpd

import (
	"context"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
)

const (
	// keepOpen is how long a file stays open after its last request: a player
	// asks range by range.
	keepOpen = 5 * time.Second
	// maxOpen bounds the files that are kept open without a request.
	maxOpen = 1024
)

// openFiles keeps files open between requests, so that a small range costs no
// question but that for the path. Requests on one file share it.
type openFiles struct {
	src source

	mu    sync.Mutex
	files map[tnv.Ino]*openFile
	shut  bool
}

type openFile struct {
	file
	ino   tnv.Ino
	users int
	timer *time.Timer // closes it, while there are no users
}

func newOpenFiles(src source) *openFiles {
	return &openFiles{src: src, files: map[tnv.Ino]*openFile{}}
}

// take opens a file, or finds it open. give gives it back.
func (o *openFiles) take(ctx context.Context, ino tnv.Ino) (*openFile, error) {
	if f := o.find(ino); f != nil {
		return f, nil
	}
	opened, err := o.src.Open(ctx, ino)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.files[ino]; f != nil { // another request was faster
		o.useLocked(f)
		opened.Close()
		return f, nil
	}
	f := &openFile{file: opened, ino: ino, users: 1}
	o.files[ino] = f
	return f, nil
}

func (o *openFiles) find(ino tnv.Ino) *openFile {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.files[ino]
	if f != nil {
		o.useLocked(f)
	}
	return f
}

func (o *openFiles) useLocked(f *openFile) {
	f.users++
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
}

func (o *openFiles) give(f *openFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	if o.shut || len(o.files) > maxOpen {
		delete(o.files, f.ino)
		f.Close()
		return
	}
	f.timer = time.AfterFunc(keepOpen, func() { o.expire(f) })
}

// expire closes a file that nobody used for a while.
func (o *openFiles) expire(f *openFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.users == 0 && o.files[f.ino] == f {
		delete(o.files, f.ino)
		f.Close()
	}
}

// close closes what nobody uses now, and from then on each file after its last use.
func (o *openFiles) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shut = true
	for ino, f := range o.files {
		if f.users == 0 {
			f.timer.Stop()
			delete(o.files, ino)
			f.Close()
		}
	}
}
