package fuse

import (
	"os"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
)

// TestKnown walks through the schedules that known.go names.
func TestKnown(t *testing.T) {
	k := known{inodes: map[tnv.Ino]*knownInode{}}
	give := func(named bool) (finish func() time.Duration) {
		n, recalls := k.reply(5, named)
		return func() time.Duration {
			if n == nil {
				return 0
			}
			return k.timeout(n, recalls, time.Minute)
		}
	}
	believed := func() bool {
		live, given := k.believed(5)
		if again, _ := k.believed(5); again != live {
			t.Error("who comes before the kernel was told need not tell it")
		}
		k.unbelieved(5, given)
		return live
	}
	if give(false)() != 0 {
		t.Error("a LOOKUP of an inode that the kernel does not have gets a timeout")
	}
	k.entered(5)
	if give(false)() != 0 {
		t.Error("a LOOKUP gets a timeout, and the kernel has not proven that it has the inode")
	}
	if believed() {
		t.Error("the kernel is told to forget what it never heard")
	}
	late := give(true)
	if believed() {
		t.Error("a reply that is not on its way yet is called back by a notification")
	}
	if late() != 0 {
		t.Error("a lease was recalled, and the reply gets a timeout all the same")
	}
	if give(true)() != time.Minute || give(false)() != time.Minute {
		t.Error("what is leased gets no timeout")
	}
	if !believed() || believed() {
		t.Error("the kernel is to be told once")
	}
	give(true)()
	k.entered(5)
	k.forgot(5, 1)
	if give(false)() != 0 {
		t.Error("the kernel may be learning the inode anew, and a LOOKUP gets a timeout")
	}
	_, early := k.believed(5)
	if give(true)() != time.Minute {
		t.Error("what is leased anew gets no timeout")
	}
	k.unbelieved(5, early)
	all := k.all()
	if given, there := all[5]; len(all) != 1 || !there {
		t.Errorf("all that is believed: %v", all)
	} else if k.unbelieved(5, given); len(k.all()) != 0 {
		t.Error("the kernel is told again of what it was told")
	}
	k.forgot(5, 1)
	if k.len() != 0 {
		t.Error("not forgotten")
	}
}

func TestEntries(t *testing.T) {
	e := entries{dirs: map[tnv.Ino]*knownNames{}}
	if n, _ := e.reply(7); n != nil {
		t.Error("a kernel without epochs is told to believe names")
	}
	e.dev = null(t)
	n, recalls := e.reply(7)
	if until := e.recalled(7); until != 0 {
		t.Error("nothing was believed")
	}
	if e.timeout(7, n, recalls, time.Minute) != 0 {
		t.Error("the names were recalled, and the reply gets a timeout all the same")
	}
	n, recalls = e.reply(7)
	if e.timeout(7, n, recalls, time.Minute) != time.Minute {
		t.Error("what is leased gets no timeout")
	}
	if !e.moved(7, 8) || e.moved(7, 7) || e.moved(10, 7) {
		t.Error("what names are believed in is told wrongly when they are moved")
	}
	for _, dir := range []tnv.Ino{7, 8} {
		if e.recalled(dir) == 0 || e.recalled(dir) == 0 {
			t.Errorf("directory %d: what is believed is to be forgotten, by whoever asks", dir)
		}
	}
	n, recalls = e.reply(9)
	e.tidyLocked()
	if e.timeout(9, n, recalls, time.Minute) != 0 {
		t.Error("a directory was forgotten, and the reply gets a timeout that nobody knows of")
	}
}

func TestAnyBelow(t *testing.T) {
	const table = `21 1 253:0 / / rw - ext4 /dev/root rw
40 21 0:41 / /mnt/media rw,nosuid - fuse.tnv tnv:media rw
41 21 0:42 / /mnt/other rw - fuse.tnv tnv:media rw
50 41 253:0 /x /mnt/other/d rw - ext4 /dev/root rw
`
	if anyBelow(table, "0:41") || !anyBelow(table, "0:42") || anyBelow(table, "0:4") {
		t.Error("mounts below are told wrongly")
	}
}

// null is a device that takes any notification.
func null(t *testing.T) *os.File {
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
