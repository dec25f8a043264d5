package meta

import (
	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// giveBack deletes blocks that a session has put and will never commit. An id
// that was committed after all, or is not the session's, is left alone.
func giveBack(tx *Tx, c *call, rq *protocol.GiveBack) (*empty, error) {
	if len(rq.Blocks) > protocol.MaxBatch {
		return nil, tnv.E("give back", tnv.KindInvalid, "%d blocks, at most %d", len(rq.Blocks), protocol.MaxBatch)
	}
	for _, b := range rq.Blocks {
		tx.want(grantKey(b.Block))
	}
	if tx.missed() {
		return nil, errMiss
	}
	for _, b := range rq.Blocks {
		g, err := getAs[grant](tx, grantKey(b.Block))
		if err != nil {
			return nil, err
		}
		if g == nil || g.Session != c.head.Session || g.used(b.Block) {
			continue
		}
		if err := tx.useID(c, b.Block); err != nil {
			return nil, err
		}
		tx.freeBlocks([]tnv.Extent{{Block: b.Block, Group: b.Group}})
	}
	return &empty{}, nil
}
