package client

import (
	"bytes"
	"testing"
)

// A view is a list of pieces in the order of the file: a hole behind data must
// not come before it.
func TestViewOfHoles(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	h := create(t, c, "holes")
	want := make([]byte, 300_000)
	for _, off := range []int{0, 100_000, 250_000} {
		copy(want[off:], randomBytes(uint64(off), 20_000))
		_, err := h.WriteAt(ctx, want[off:off+20_000], int64(off))
		must(t, err)
	}
	_, err := h.WriteAt(ctx, []byte{1}, int64(len(want)-1))
	must(t, err)
	want[len(want)-1] = 1
	must(t, h.Flush(ctx))
	must(t, h.Close())
	h2, _, err := f.connect(f.config()).OpenPath(ctx, "/holes")
	must(t, err)
	var got []byte
	for len(got) < len(want) {
		parts, release, err := h2.View(ctx, int64(len(got)), len(want))
		must(t, err)
		for _, b := range parts {
			got = append(got, b...)
		}
		release()
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the view differs from what was written")
	}
	must(t, h2.Close())
}
