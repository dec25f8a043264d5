// Package clock tells the time by which leases are counted (K11): it goes on
// while the machine sleeps, and nobody can set it.
package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Boot is the time since this machine was started, sleep included:
// CLOCK_BOOTTIME of clock_gettime(2).
func Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every Linux since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}
