package syscalls

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func locks() []Case {
	return []Case{
		{"flock belongs to the open file", func(t *testing.T, dir string) {
			a, b := open(t, dir+"/f", os.O_CREATE|os.O_RDWR), open(t, dir+"/f", os.O_RDWR)
			ok(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
			want(t, "another", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
			ok(t, unix.Flock(int(a.Fd()), unix.LOCK_SH))
			ok(t, unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
			want(t, "for oneself alone", unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
			ok(t, a.Close())
			ok(t, unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		}},
		{"fcntl locks belong to the process", func(t *testing.T, dir string) {
			a, b := open(t, dir+"/f", os.O_CREATE|os.O_RDWR), open(t, dir+"/f", os.O_RDWR)
			lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}
			ok(t, unix.FcntlFlock(a.Fd(), unix.F_SETLK, &lock))
			ok(t, unix.FcntlFlock(b.Fd(), unix.F_SETLK, &lock))
		}},
		{"fcntl locks of open files", func(t *testing.T, dir string) {
			a, b := open(t, dir+"/f", os.O_CREATE|os.O_RDWR), open(t, dir+"/f", os.O_RDWR)
			lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}
			ok(t, unix.FcntlFlock(a.Fd(), unix.F_OFD_SETLK, &lock))
			for _, c := range []struct {
				start, len int64
				free       bool
			}{{0, 10, true}, {20, 0, true}, {19, 1, false}, {0, 11, false}, {0, 0, false}} {
				l := unix.Flock_t{Type: unix.F_RDLCK, Start: c.start, Len: c.len}
				err := unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &l)
				if c.free {
					same(t, "a free range", err, nil)
				} else {
					want(t, "a range that is taken", err, unix.EAGAIN, unix.EACCES)
				}
			}
			got := unix.Flock_t{Type: unix.F_WRLCK}
			ok(t, unix.FcntlFlock(b.Fd(), unix.F_OFD_GETLK, &got))
			same(t, "who holds", got.Type == unix.F_WRLCK && got.Start == 10 && got.Len == 10, true)
		}},
	}
}
