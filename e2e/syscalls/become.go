package syscalls

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// become changes this thread's identity: its user, and its groups, of which the
// first is its own.
func become(uid int, groups []uint32) error {
	g := uintptr(groups[0])
	calls := [][4]uintptr{
		{unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0},
		{unix.SYS_SETRESGID, g, g, g},
		{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	}
	for _, c := range calls {
		if _, _, e := unix.RawSyscall(c[0], c[1], c[2], c[3]); e != 0 {
			return e
		}
	}
	return nil
}
