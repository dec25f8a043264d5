package cluster

import (
	"os"

	"github.com/tnvfs/tnv"
)

// checkData refuses to start daemons whose data is gone: they ran before, and
// would begin anew with nothing, as when a disk is not mounted. A tracker would
// show an empty volume, and grant block ids a second time; it is never begun
// anew. A storage daemon may be, to replace a lost disk: whoever wants that
// makes its directory by hand.
func (c *Cluster) checkData(st *state, running map[string]Record) error {
	for _, d := range st.Daemons {
		role, _, _ := roleOf(d.Name)
		if _, ok := running[d.Name]; ok || d.Addr == "" || role != RoleTracker && role != RoleStore || role == RoleTracker && st.Meta != "" {
			continue
		}
		op, dir := "start "+d.Name, c.data(d.Name)
		entries, err := os.ReadDir(dir)
		switch {
		case err == nil && (role == RoleStore || len(entries) > 0):
		case err != nil && !os.IsNotExist(err):
			return tnv.Wrap(op, err)
		case role == RoleTracker:
			return tnv.E(op, tnv.KindNotExist, "its data is gone from %s, and with it all names and places of files: mount its disk, or make the directory again from the copy in the storage groups with `tnv restore --dir %s`", dir, c.Dir)
		default:
			return tnv.E(op, tnv.KindNotExist, "its data directory %s is gone: mount its disk or restore the directory; if it is lost, `mkdir %s` lets the daemon begin with nothing and be filled from the others of its group", dir, dir)
		}
	}
	return nil
}
