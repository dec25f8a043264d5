// Package coherence judges whether several mounts and an HTTP daemon of one
// cluster tell one truth (DESIGN, P1). Workers, a process per mount, do random
// operations on few names and few bytes, and note when each call began and ended
// on the machine's one clock. The history is then judged by porcupine, which
// looks for an order of all operations that explains every result and does not
// contradict the clock.
//
// What is asked of names and attributes (tree.go) is linearizability of each
// system call that is one step, and of each step of those that are not: stat(2)
// is the look-up of a name and then the inode's attributes, on any file system.
// Names are therefore given relative to open directories, or beneath directories
// that are never moved.
//
// What is asked of data (data.go) is close-to-open: what was written is seen on
// the writer's mount from write(2) on, and by all others from close, fsync or
// msync on, by files that are open already, too. A file that is replaced by
// rename(2) must show one whole content always.
//
// The kernel itself is not linearizable in a few places; each is named where the
// model allows for it.
package coherence
